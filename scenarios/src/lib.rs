//! The scenarios, and their domain words.
