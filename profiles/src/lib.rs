//! Network profiles: pure data, and what is rendered from it.
//!
//! A profile is a TOML file that says which machines there are, what NICs they have, and which networks they meet on.
//! Both sides of every cable are rendered from it, the guests' configuration and the switch's ports, so that a
//! mismatch in a test is one that somebody asked for ([`Profile::with_vlan_id`]).
//!
//! ```
//! let profile = profiles::vlans();
//! assert_eq!(profile.address("server-2", "storage")?.to_string(), "192.168.100.2");
//! for (file, text) in profiles::render::networkd(&profile, "server-2")? {
//!     println!("{file}: {} bytes", text.len());
//! }
//! # Ok::<(), profiles::Error>(())
//! ```

mod builtin;
mod error;
mod load;
mod mac;
mod model;
pub mod render;

pub use builtin::{bonding_vlans, builtin, dhcp_simple, names, simple, source, vlans, vlans_broken};
pub use error::{Error, Kind, Problem};
pub use load::is_name;
pub use mac::{BadMac, MacAddr};
pub use model::{
    Attachment, Bond, BondMode, CLUSTER, Dhcp, Kubernetes, LacpRate, Machine, Network, Nic, Profile, Role,
};
