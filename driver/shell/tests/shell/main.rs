//! The channel over ptys of this host: bash, dash and busybox are the guests.

mod bad_lines;
mod line;
mod promises;
mod readiness;
