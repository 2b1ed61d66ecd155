//! The scenarios, and their domain words. This crate joins what must not know each other: the harness that runs a
//! test, the driver that runs machines, the images they start from, and the profiles that say how they are wired.

mod agent;
mod assets;
mod backdoor;
mod board;
mod bonding;
mod checks;
mod cluster;
mod dhcp;
mod etcd;
mod fixture;
mod imported;
mod isolation;
mod k3s;
mod launched;
mod plan;
mod provides;
mod rack;
pub mod start_script;
mod subject;
mod suite;
mod way;

pub mod prelude;

pub use assets::Assets;
pub use bonding::{BondStatus, MemberStatus, wait_bundle};
pub use checks::{
    has_address, has_name_and_address, no_failed_unit, replicates_over_vlans, tcp_arrives_whole,
};
pub use cluster::{Cluster, ClusterBuilder, FormedCluster, secs};
pub use dhcp::Dhcp;
pub use etcd::Etcd;
pub use imported::Imported;
pub use isolation::{describe, kept_apart};
pub use k3s::{Contract, Files, Health, Join, K3s, Kind, Node};
pub use launched::Launched;
pub use provides::lacks;
pub use rack::{BootMode, Rack};
pub use suite::suite;
pub use way::Way;

// The examples in these files compile, or the doc tests fail.
#[cfg(doctest)]
#[doc = include_str!("../../docs/writing-tests.md")]
struct WritingTests;

#[cfg(doctest)]
#[doc = include_str!("../../docs/checkpoints.md")]
struct Checkpoints;

#[cfg(doctest)]
#[doc = include_str!("../../README.md")]
struct Readme;
