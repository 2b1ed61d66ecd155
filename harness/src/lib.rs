//! Suites, deadlines, signals, artefacts, reports, budget. Knows nothing of virtual machines.
