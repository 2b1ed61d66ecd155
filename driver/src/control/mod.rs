//! The way into a running lab from another process: what `rackless shell`, `console`, `ps`,
//! `switch` and `pcap` talk to.
//!
//! A unix socket `control` in the run's directory. The client sends one line of JSON, a [`Request`]; the server
//! answers one line, an [`Answer`]; after that the connection carries raw bytes both ways, until either side closes.
//! Only what a shell prints comes as [`Piece`]s, so that the client learns how the command ended.
//! The socket lies in a directory that only the owner can enter.

mod client;
mod network;
mod piece;
mod server;

use serde::{Deserialize, Serialize};
use switch::VlanId;

pub use client::{Connection, connect};
pub use network::{LabNetwork, MachineNetwork, NicState};
pub use piece::Piece;
pub(crate) use server::Server;

/// The longest request in bytes.
pub(crate) const MAX_REQUEST: u64 = 64 * 1024;

/// The longest answer in bytes: a switch that has learnt all the addresses it can is about 2 MiB.
pub(crate) const MAX_ANSWER: u64 = 16 * 1024 * 1024;

/// What a client asks for.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", tag = "request")]
pub enum Request {
    /// The machines and their state. No bytes follow the answer.
    Machines,
    /// The switch: its ports, bundles, learnt addresses, faults. No bytes follow the answer.
    Switch,
    /// The latest frames that the switch holds, as pcapng: [`Answer::Frames`] says how many bytes of it follow.
    Frames {
        /// Of these ports only; of all when empty.
        #[serde(default)]
        ports: Vec<String>,
        /// Of this VLAN only, tagged or not on the wire.
        #[serde(default)]
        vlan: Option<VlanId>,
    },
    /// A shell, or one command, on a terminal in the guest. [`Piece`]s come back.
    Shell {
        /// The machine.
        machine: String,
        /// The program and its arguments; empty for a login shell.
        argv: Vec<String>,
        /// Width of the client's terminal in characters.
        columns: u16,
        /// Height of the client's terminal in lines.
        rows: u16,
    },
    /// The serial console: what it shows from now on, and what is typed.
    Console {
        /// The machine.
        machine: String,
    },
}

/// What a client gets first.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", tag = "answer")]
pub enum Answer {
    /// The request is served; raw bytes follow.
    Ok,
    /// The machines of the lab.
    Machines {
        /// One for each.
        machines: Vec<MachineState>,
    },
    /// The switch of the lab.
    Switch {
        /// It, and what is plugged into it.
        network: Box<LabNetwork>,
    },
    /// The latest frames; so many bytes of pcapng follow.
    Frames {
        /// How many frames.
        frames: usize,
        /// How many older ones are missing, wanted or not.
        missing: u64,
        /// The vhost-user ports among those asked for: nobody sees their frames.
        unseen: Vec<String>,
        /// How long the pcapng is, in bytes.
        bytes: u64,
    },
    /// It can't be served.
    Error {
        /// Why.
        message: String,
    },
}

/// One machine of a running lab.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct MachineState {
    /// Its name.
    pub name: String,
    /// `off`, or the last stage of boot.
    pub state: String,
    /// The process id of QEMU.
    pub pid: Option<u32>,
    /// The folder of its artefacts.
    pub artifacts: std::path::PathBuf,
    /// The monitor that QEMU listens on for people.
    pub monitor: std::path::PathBuf,
}

#[cfg(test)]
mod tests {
    use std::fmt::Debug;

    use serde::de::DeserializeOwned;

    use super::*;

    /// The lines on the wire: `rackless` of one version may talk to a lab of another.
    fn pinned<T: Serialize + DeserializeOwned + PartialEq + Debug>(value: &T, json: &str) {
        assert_eq!(serde_json::to_string(value).expect("JSON"), json);
        assert_eq!(&serde_json::from_str::<T>(json).expect("the value"), value);
    }

    #[test]
    fn requests_on_the_wire() {
        pinned(&Request::Machines, r#"{"request":"machines"}"#);
        pinned(&Request::Switch, r#"{"request":"switch"}"#);
        pinned(
            &Request::Frames {
                ports: vec!["a/eth1".into()],
                vlan: Some(VlanId::new(100).expect("a VLAN id")),
            },
            r#"{"request":"frames","ports":["a/eth1"],"vlan":100}"#,
        );
        pinned(
            &Request::Console { machine: "server-1".into() },
            r#"{"request":"console","machine":"server-1"}"#,
        );
        let shell = Request::Shell {
            machine: "server-1".into(),
            argv: vec!["ip".into(), "a".into()],
            columns: 80,
            rows: 24,
        };
        pinned(
            &shell,
            r#"{"request":"shell","machine":"server-1","argv":["ip","a"],"columns":80,"rows":24}"#,
        );
    }

    #[test]
    fn answers_on_the_wire() {
        pinned(&Answer::Ok, r#"{"answer":"ok"}"#);
        pinned(&Answer::Error { message: "a\nb".into() }, r#"{"answer":"error","message":"a\nb"}"#);
        pinned(
            &Answer::Frames { frames: 3, missing: 7, unseen: vec!["b/eth1".into()], bytes: 900 },
            r#"{"answer":"frames","frames":3,"missing":7,"unseen":["b/eth1"],"bytes":900}"#,
        );
        let on = MachineState {
            name: "server-1".into(),
            state: "Kernel".into(),
            pid: Some(42),
            artifacts: "/a/server-1".into(),
            monitor: "/r/server-1.monitor".into(),
        };
        let off = MachineState { state: "off".into(), pid: None, ..on.clone() };
        pinned(
            &Answer::Machines { machines: vec![on, off] },
            concat!(
                r#"{"answer":"machines","machines":["#,
                r#"{"name":"server-1","state":"Kernel","pid":42,"artifacts":"/a/server-1","monitor":"/r/server-1.monitor"},"#,
                r#"{"name":"server-1","state":"off","pid":null,"artifacts":"/a/server-1","monitor":"/r/server-1.monitor"}]}"#
            ),
        );
    }
}
