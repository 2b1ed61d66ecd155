//! A board behind a serial line: what its file says ([`Board`]), the line ([`mod@line`]), its power ([`Power`]), the lock
//! that keeps two runs from it ([`Lock`]), and the dialogue with its boot loader ([`dialogue`]).
//!
//! The driver makes a machine of it. What is here knows neither machines nor consoles.

pub mod dialogue;
pub mod line;
pub mod rfc2217;

mod config;
mod error;
mod keys;
mod lock;
mod power;
mod wait;

pub use config::{
    Board, BootDialogue, Cable, Command, Line, OnFailure, Pattern, PowerSpec, Prompts, Send, Step, Tags,
    Uplink,
};
pub use error::{Class, Error, Problem};
pub use keys::Key;
pub use lock::{Holder, Lock};
pub use power::{Power, State};
