//! A QMP client: typed commands, and a reader that no unknown event can end.
