//! Network profiles: pure data, and what is rendered from it.
