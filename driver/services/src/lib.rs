//! In-process hosts on the ports of a [`switch::Switch`]: DHCP, DNS, files over HTTP, TCP, ARP and ping for a VLAN,
//! without root and without a machine.
//!
//! A [`Host`] is one host with one IPv4 address on one access port. It answers ARP and ICMP echo, and serves what it is
//! told to: [`Host::serve_dhcp`], [`Host::serve_dns`], [`Host::serve_files`], [`Host::serve_ra`]. [`Host::forward_to`] and
//! [`Host::forward_from`] pass TCP connections on between the test's process and machines; below them are streams of
//! tokio, [`Host::tcp_listen`] and [`Host::tcp_connect`]. It runs on an OS thread of its own that ends with it, and what
//! serves TCP on one more. The stack below everything but DHCP is smoltcp; DHCP is read from and written into whole
//! frames, since it speaks to clients that have no address yet.
//!
//! What has the rules is pure and known apart from sockets and threads: [`DhcpEngine`] takes a message and a time and
//! gives a reply, [`Zone`] takes a query and gives an answer.
//!
//! ```
//! use services::{DhcpScope, Host, HostOptions, HttpFiles, Reservation, Zone};
//! use switch::{Mac, Switch, SwitchOptions, VlanId};
//!
//! # fn main() -> Result<(), Box<dyn std::error::Error>> {
//! let dir = tempfile::tempdir()?;
//! let sw = Switch::start(SwitchOptions::new("rack", dir.path()))?;
//! let host = Host::start(&sw, HostOptions::new("services", VlanId::new(1)?, "192.168.1.254/24".parse()?))?;
//! let dhcp = host.serve_dhcp(DhcpScope {
//!     reservations: vec![Reservation {
//!         mac: Mac([0x52, 0x54, 0, 1, 1, 1]),
//!         address: "192.168.1.1".parse()?,
//!         hostname: Some("server-1".into()),
//!     }],
//!     dns: vec![host.address()],
//!     search: vec!["lab".into()],
//!     ..DhcpScope::default()
//! })?;
//! let mut zone = Zone::new("lab")?;
//! zone.host("server-1", "192.168.1.1".parse()?)?;
//! host.serve_dns(zone)?;
//! assert!(dhcp.leases()?.is_empty());
//!
//! // What a machine downloads, and a port of 127.0.0.1 that leads to its SSH server.
//! let files = host.serve_files(80, HttpFiles::Directory(dir.path().to_owned()))?;
//! assert_eq!(files.url("/bundle.raucb"), "http://192.168.1.254:80/bundle.raucb");
//! let ssh = host.forward_to("192.168.1.1:22".parse()?)?;
//! assert!(ssh.address().ip().is_loopback());
//! host.stop()?;
//! # Ok(())
//! # }
//! ```

mod device;
mod dhcp;
mod dns;
mod error;
mod forward;
mod host;
mod http;
mod ra;
mod shared;
mod stack;
mod tcp;
mod worker;

pub use dhcp::{
    Clients, DhcpCounters, DhcpEngine, DhcpFault, DhcpReply, DhcpScope, DhcpServer, FaultGuard, Lease,
    LeaseState, MAX_RANGE, Reservation,
};
pub use dns::{DnsServer, RecordData, Zone};
pub use error::Error;
pub use forward::{Forward, ForwardCounters};
pub use host::{Host, HostOptions};
pub use http::{HttpFiles, HttpRequest, HttpServer};
pub use ra::{MAX_PREFIXES, RaCounters, RaEngine, RaScope, RouterAdvertiser};
pub use tcp::{TcpListener, TcpStream};

/// The result of a call to a host or one of its services.
pub type Result<T, E = Error> = std::result::Result<T, E>;
