//! How a session begins and how an agent says that one is over.
//!
//! The layout of these messages (postcard, in a frame of kind [`crate::frame::Kind::Hello`]) must never change:
//! fields and variants are only ever added at the end.

use serde::{Deserialize, Serialize};

/// What is known of an agent and of the boot in which it runs.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Identity {
    /// The protocol version that the agent speaks ([`crate::VERSION`]).
    pub version: u32,
    /// Random, drawn when the agent process starts: another instance is another process.
    pub instance: u64,
    /// `/proc/sys/kernel/random/boot_id`, empty where it can't be read.
    pub boot_id: String,
    /// The agent's process id.
    pub pid: u32,
}

/// The messages around a session.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Hello {
    /// Host to agent: open a session. A repeated nonce asks for the answer again and changes nothing.
    Open {
        /// The protocol version that the host speaks.
        version: u32,
        /// The session's nonce, random, never 0.
        nonce: u64,
    },
    /// Agent to host: the session is open, and the one before it is over with its commands killed.
    Accepted {
        /// The nonce of [`Hello::Open`].
        nonce: u64,
        /// Who answers.
        agent: Identity,
    },
    /// Agent to host, unasked: an agent is here.
    Announce {
        /// Who speaks.
        agent: Identity,
        /// The session that the agent dropped, and why.
        dropped: Option<(u64, String)>,
    },
}

impl Hello {
    /// The payload of a hello frame.
    #[must_use]
    pub fn to_bytes(&self) -> Vec<u8> {
        postcard::to_stdvec(self).expect("a plain structure always serialises")
    }

    /// Reads the payload of a hello frame; `None` for one that no known version would send.
    #[must_use]
    pub fn from_bytes(bytes: &[u8]) -> Option<Self> {
        postcard::from_bytes(bytes).ok()
    }
}
