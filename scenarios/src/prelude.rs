//! What a test needs, in one line.

pub use std::process::ExitCode;

pub use anyhow::{Context as _, bail, ensure};
pub use driver::spec::DiskBus;
pub use driver::{After, Fault, Lab, Machine};
pub use harness::{Ability, Testbed};
pub use regex::Regex;
pub use switch::{Direction, Distribution, FrameFilter, Impairment, VlanSet};

pub use crate::{
    BondStatus, BootMode, Cluster, Dhcp, Etcd, FormedCluster, Imported, K3s, Launched, Rack, Way, describe,
    has_address, has_name_and_address, kept_apart, no_failed_unit, replicates_over_vlans, secs, suite,
    tcp_arrives_whole, wait_bundle,
};

/// What a test returns.
pub type Result<T = ()> = anyhow::Result<T>;
