//! Child processes under the rules of the driver: one spawning thread, process groups, death signals, run directories and their reaper.
