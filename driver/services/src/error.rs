//! What can go wrong when a host or a service is asked for something.

use std::io;
use std::net::{Ipv4Addr, SocketAddr};
use std::time::Duration;

use ipnet::{Ipv4Net, Ipv6Net};

use crate::dhcp::MAX_RANGE;

/// What can go wrong when a host or a service is asked for something. What clients send never causes one: it is answered,
/// or counted and dropped.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The switch gave no port, or took it away.
    #[error("host {host}: {operation}: {source}")]
    Switch {
        /// The host.
        host: String,
        /// What was asked for.
        operation: &'static str,
        /// Why.
        source: switch::Error,
    },

    /// The system would not start the host's thread or give it a socket.
    #[error("host {host}: cannot start: {source}")]
    Start {
        /// The host.
        host: String,
        /// Why.
        source: io::Error,
    },

    /// An address that no host can have.
    #[error("host {host}: {address} cannot be a host's address in its subnet {}; expected one between the network's own and its broadcast address, and a prefix of 30 bits at most", address.trunc())]
    Address {
        /// The host.
        host: String,
        /// What was given.
        address: Ipv4Net,
    },

    /// The host no longer runs, so that its services answer nobody.
    #[error("host {host}: {operation}: the host does not run: {evidence}")]
    NotRunning {
        /// The host.
        host: String,
        /// What was asked for.
        operation: &'static str,
        /// How it ended.
        evidence: String,
    },

    /// The system refused what a service needs: a socket of its own, a thread.
    #[error("host {host}: {operation}: {source}")]
    System {
        /// The host.
        host: String,
        /// What was asked for.
        operation: &'static str,
        /// Why.
        source: io::Error,
    },

    /// A TCP port that is in use.
    #[error("host {host}: TCP port {port} is taken by {by}")]
    PortTaken {
        /// The host.
        host: String,
        /// The port.
        port: u16,
        /// Who has it.
        by: &'static str,
    },

    /// A file or directory that cannot be served.
    #[error("host {host}: cannot serve {}: {source}", path.display())]
    NoFile {
        /// The host.
        host: String,
        /// What was to be served.
        path: std::path::PathBuf,
        /// Why not.
        source: io::Error,
    },

    /// Not the path of a URL.
    #[error(
        "host {host}: \"{path}\" is not the path of a URL; expected one that begins with a slash, such as /bundle.raucb"
    )]
    UrlPath {
        /// The host.
        host: String,
        /// What was given.
        path: String,
    },

    /// A prefix from which machines cannot make addresses.
    #[error(
        "{prefix} cannot be advertised; expected a prefix of 64 bits without host bits, neither link-local nor multicast, such as fd00:7::/64"
    )]
    Prefix {
        /// What was given.
        prefix: Ipv6Net,
    },

    /// A value that a router advertisement cannot have.
    #[error("a router advertisement with {value} {what}; expected {low} to {high}")]
    Advertised {
        /// Of what.
        what: &'static str,
        /// What was given.
        value: u64,
        /// The least that there may be.
        low: u64,
        /// The most.
        high: u64,
    },

    /// An address that the host cannot send to.
    #[error("host {host}: cannot connect to {peer}: {evidence}")]
    Unreachable {
        /// The host.
        host: String,
        /// What was to be connected to.
        peer: SocketAddr,
        /// Why not.
        evidence: String,
    },

    /// A peer that reset the connection instead of taking it.
    #[error(
        "host {host}: {peer} refused the connection after {elapsed:.1?}: nobody listens there, or a firewall rejects it"
    )]
    Refused {
        /// The host.
        host: String,
        /// What was to be connected to.
        peer: SocketAddr,
        /// How long it took.
        elapsed: Duration,
    },

    /// A peer that did not answer.
    #[error(
        "host {host}: {peer} has not answered for {elapsed:.1?}: it is down, or its network keeps it apart; the switch's capture has the requests"
    )]
    NoAnswer {
        /// The host.
        host: String,
        /// What was to be connected to.
        peer: SocketAddr,
        /// How long it took.
        elapsed: Duration,
    },

    /// An address of a DHCP scope that its clients could not use.
    #[error("DHCP of {server}: {what}: {address} is not an address for a client in {}", server.trunc())]
    OutsideSubnet {
        /// The server's address and prefix.
        server: Ipv4Net,
        /// What has the address.
        what: String,
        /// The address.
        address: Ipv4Addr,
    },

    /// Two that want one address, or one client with two.
    #[error("DHCP of {server}: {first} and {second} both have {what}")]
    Twice {
        /// The server's address and prefix.
        server: Ipv4Net,
        /// What there are two of.
        what: String,
        /// Who has it.
        first: String,
        /// Who has it too.
        second: String,
    },

    /// A range that is empty or has too many addresses.
    #[error("DHCP of {server}: the range {first} to {last} has {count} addresses; expected 1 to {MAX_RANGE}")]
    Range {
        /// The server's address and prefix.
        server: Ipv4Net,
        /// Its first address.
        first: Ipv4Addr,
        /// Its last address.
        last: Ipv4Addr,
        /// How many there are.
        count: u64,
    },

    /// A lease time that the protocol cannot say: whole seconds in 32 bits, all ones being "for ever".
    #[error("DHCP of {server}: a lease of {seconds} s; expected 1 to 4294967294")]
    LeaseTime {
        /// The server's address and prefix.
        server: Ipv4Net,
        /// What was given, in seconds.
        seconds: u64,
    },

    /// An MTU that IPv4 cannot have (RFC 2132, 5.1).
    #[error("DHCP of {server}: an MTU of {mtu} bytes; expected 68 to 65535")]
    Mtu {
        /// The server's address and prefix.
        server: Ipv4Net,
        /// What was given, in bytes.
        mtu: u16,
    },

    /// More options than fit into a datagram of 1500 bytes.
    #[error(
        "DHCP of {server}: the options make a message of {length} bytes, and 1472 fit; give fewer routes or search domains"
    )]
    TooLong {
        /// The server's address and prefix.
        server: Ipv4Net,
        /// The message's length in bytes.
        length: usize,
    },

    /// Not a name of the DNS.
    #[error("\"{name}\" is not a name of the DNS: {evidence}")]
    Name {
        /// What was given.
        name: String,
        /// What is wrong with it.
        evidence: String,
    },

    /// A text that does not fit into a TXT record.
    #[error("the text of {name} has {length} bytes; a TXT record's has 255 at most")]
    Text {
        /// The record's name.
        name: String,
        /// The text's length in bytes.
        length: usize,
    },

    /// A DHCP client that the server has no lease of.
    #[error("DHCP of {server}: {mac} has no lease; there are: {known}")]
    NoLease {
        /// The server's address and prefix.
        server: Ipv4Net,
        /// The client.
        mac: switch::Mac,
        /// The clients that have one.
        known: String,
    },
}
