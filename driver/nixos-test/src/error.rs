//! Why a configuration could not be had.

use std::path::PathBuf;

/// The error of this crate.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The configuration or a start script could not be read.
    #[error("{}: cannot read this part of the test", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// What the system said.
        source: std::io::Error,
    },
    /// Something is wrong with the configuration or its scripts; all of it is named at once, one problem a line.
    #[error("{}", lines(.file, .problems))]
    Invalid {
        /// The configuration.
        file: String,
        /// What is wrong.
        problems: Vec<Problem>,
    },
}

/// One thing that is wrong.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum Problem {
    /// The text is no JSON, or no configuration.
    #[error("line {line}, column {column}: {message}")]
    Json {
        /// Counted from 1.
        line: usize,
        /// Counted from 1.
        column: usize,
        /// What the reader said.
        message: String,
    },
    /// There is no VM.
    #[error("vms: none; expected at least one")]
    NoVm,
    /// A container, which has no QEMU.
    #[error("containers: {name} is a container; expected VMs only, since Rackless starts no systemd-nspawn")]
    Container {
        /// Its name.
        name: String,
    },
    /// A name that can be no hostname.
    #[error(
        "vms: {name:?} can't be a hostname: expected up to 63 letters, digits and hyphens, no hyphen at an end"
    )]
    Name {
        /// The name.
        name: String,
    },
    /// A number that 802.1Q has not.
    #[error("vlans: {vlan} is no VLAN; expected 1 to 4094")]
    Vlan {
        /// The number.
        vlan: u64,
    },
    /// A start script whose NICs can't be told.
    #[error("{vm}: its start script: {what}")]
    Script {
        /// The VM.
        vm: String,
        /// What is wrong with it.
        what: String,
    },
    /// A NIC in a VLAN that the configuration has not.
    #[error("{vm}: its start script has a NIC in VLAN {vlan}; the test has {known:?}")]
    UnknownVlan {
        /// The VM.
        vm: String,
        /// The VLAN.
        vlan: u16,
        /// Those that there are.
        known: Vec<u16>,
    },
}

fn lines(file: &str, problems: &[Problem]) -> String {
    problems.iter().map(|problem| format!("{file}: {problem}")).collect::<Vec<_>>().join("\n")
}
