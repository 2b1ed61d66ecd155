//! Everything that can be wrong with a profile or a question to it.

use std::fmt;
use std::net::IpAddr;
use std::path::PathBuf;

use ipnet::IpNet;

use crate::mac::MacAddr;

/// Why a profile could not be had or could not answer.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The file could not be read.
    #[error("{}: cannot read the network profile", path.display())]
    Read {
        /// The file as it was named.
        path: PathBuf,
        /// What the system said.
        source: std::io::Error,
    },
    /// No built-in profile has that name.
    #[error("no network profile is named {name:?}{}; there are: {}", did_you_mean(.name, .known), .known.join(", "))]
    UnknownProfile {
        /// The name asked for.
        name: String,
        /// The names there are.
        known: Vec<String>,
    },
    /// The profile has no such machine.
    #[error(
        "profile {profile} has no machine {machine:?}{}; it has: {}", did_you_mean(.machine, .known), .known.join(", ")
    )]
    UnknownMachine {
        /// The profile's name.
        profile: String,
        /// The name asked for.
        machine: String,
        /// The machines there are.
        known: Vec<String>,
    },
    /// The profile has no such network.
    #[error(
        "profile {profile} has no network {network:?}{}; it has: {}", did_you_mean(.network, .known), .known.join(", ")
    )]
    UnknownNetwork {
        /// The profile's name.
        profile: String,
        /// The name asked for.
        network: String,
        /// The networks there are.
        known: Vec<String>,
    },
    /// [`Profile::with_vlan_id`](crate::Profile::with_vlan_id) was given what the profile's file could not say either.
    #[error("profile {profile}: cannot tag network {network} of {machine} with VLAN id {id}: {reason}")]
    CannotTag {
        /// The profile's name.
        profile: String,
        /// The machine to change.
        machine: String,
        /// The network to change.
        network: String,
        /// The id asked for.
        id: u16,
        /// Why not.
        reason: Box<Kind>,
    },
    /// The profile's text is not valid; all that is wrong with it is named at once, one problem a line.
    #[error("{}", lines(.file, .problems))]
    Invalid {
        /// The file, or a built-in profile's name.
        file: String,
        /// What is wrong, in the order of the file.
        problems: Vec<Problem>,
    },
}

/// One thing that is wrong with a profile's text.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Problem {
    /// The line, counted from 1.
    pub line: usize,
    /// The key as a dotted path (`machines.server-1.role`); empty where the text is no TOML.
    pub key: String,
    /// What is wrong, and what was expected.
    pub kind: Kind,
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.key.is_empty() { self.kind.fmt(f) } else { write!(f, "{}: {}", self.key, self.kind) }
    }
}

/// What is wrong, and what was expected instead.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Kind {
    /// The text is not TOML.
    #[error("not valid TOML: {message}")]
    Syntax {
        /// What the parser said.
        message: String,
    },
    /// A key that means nothing here.
    #[error("unknown key{}; expected one of: {}", did_you_mean(.key, .known), .known.join(", "))]
    UnknownKey {
        /// The last part of the key.
        key: String,
        /// The keys that may stand here.
        known: &'static [&'static str],
    },
    /// Something that every profile has is not there.
    #[error("missing; expected {expected}")]
    Missing {
        /// What should be there.
        expected: &'static str,
    },
    /// A value of the wrong TOML type.
    #[error("found {found}; expected {expected}")]
    WrongType {
        /// The TOML type found.
        found: &'static str,
        /// What should be there.
        expected: &'static str,
    },
    /// A word that is not among the known ones.
    #[error("{found:?} is not known{}; expected one of: {}", did_you_mean(.found, .known), .known.join(", "))]
    UnknownWord {
        /// The word found.
        found: String,
        /// The words that may stand here.
        known: &'static [&'static str],
    },
    /// A number outside its range.
    #[error("{found} is out of range; expected {min} to {max}")]
    OutOfRange {
        /// The number as it was written.
        found: String,
        /// The smallest allowed.
        min: i64,
        /// The largest allowed.
        max: i64,
    },
    /// A name that cannot be part of a host name.
    #[error(
        "{found:?} is not a usable name; expected lower-case letters, digits and single hyphens, beginning with a \
         letter, at most 31 bytes"
    )]
    BadName {
        /// The name found.
        found: String,
    },
    /// Two machines and networks would give one host name.
    #[error("the host name {name:?} also stands for {other}; expected names that stay apart")]
    DuplicateHostName {
        /// The name both would have.
        name: String,
        /// What else has it.
        other: String,
    },
    /// A name that Linux or systemd would refuse for an interface.
    #[error(
        "{found:?} is not a usable interface name; expected letters, digits, '_' and '-', beginning with a letter, and \
         none of lo, all, default"
    )]
    BadInterfaceName {
        /// The name found.
        found: String,
    },
    /// An interface name longer than the kernel's limit (IFNAMSIZ - 1).
    #[error("the interface name {name:?} has {} bytes; expected at most 15", name.len())]
    InterfaceNameTooLong {
        /// The name; for a VLAN it is made of the parent's name and the VLAN id.
        name: String,
    },
    /// Two interfaces of one name, or one interface used twice.
    #[error("{name} is already used by {other} (line {line}); expected each interface once")]
    DuplicateInterface {
        /// The interface.
        name: String,
        /// The key that has it.
        other: String,
        /// That key's line.
        line: usize,
    },
    /// An interface that is neither a NIC nor a bond of the profile.
    #[error("no NIC or bond is named {found:?}{}; expected one of: {}", did_you_mean(.found, .known), .known.join(", "))]
    UnknownInterface {
        /// The name found.
        found: String,
        /// The interfaces there are.
        known: Vec<String>,
    },
    /// A network on a NIC that a bond has taken.
    #[error("{nic} is a member of {bond}; expected the bond itself or a NIC that is in none")]
    BondMember {
        /// The NIC.
        nic: String,
        /// The bond that has it.
        bond: String,
    },
    /// An interface that nothing uses.
    #[error("{name} carries no network and is in no bond; expected a use for it")]
    UnusedInterface {
        /// The interface.
        name: String,
    },
    /// A bond of fewer than two NICs.
    #[error("a bond with {members} member{}; expected at least two", if *.members == 1 { "" } else { "s" })]
    BondTooSmall {
        /// How many it has.
        members: usize,
    },
    /// A key that has no meaning together with another.
    #[error("{reason}")]
    NotHere {
        /// Why, and what to do.
        reason: String,
    },
    /// Text that is not a subnet.
    #[error("{found:?} is not a subnet; expected an address and a prefix length like 192.168.200.0/24")]
    BadCidr {
        /// The text found.
        found: String,
    },
    /// A subnet whose address has bits below the prefix.
    #[error("{found} has host bits set; expected {expected}")]
    HostBits {
        /// The subnet found.
        found: IpNet,
        /// The subnet without them.
        expected: IpNet,
    },
    /// Two subnets share addresses.
    #[error("{subnet} overlaps {other} of {key} (line {line}); expected subnets that are apart")]
    OverlappingSubnets {
        /// This subnet.
        subnet: IpNet,
        /// The other one.
        other: IpNet,
        /// The key of the other one.
        key: String,
        /// That key's line.
        line: usize,
    },
    /// Text that is not an address.
    #[error("{found:?} is not an IP address; expected one like 192.168.200.1, without a prefix length")]
    BadAddress {
        /// The text found.
        found: String,
    },
    /// An address that its network does not have.
    #[error("{address} is outside the subnet of {network}; expected an address in {subnet}")]
    AddressOutsideSubnet {
        /// The address.
        address: IpAddr,
        /// The network's name.
        network: String,
        /// Its subnet.
        subnet: IpNet,
    },
    /// The network's own or its broadcast address.
    #[error("{address} is the {what} address of {subnet}; expected one that a host may have")]
    AddressReserved {
        /// The address.
        address: IpAddr,
        /// `network` or `broadcast`.
        what: &'static str,
        /// The subnet.
        subnet: IpNet,
    },
    /// Two hosts with one address.
    #[error("{address} is already taken by {other} (line {line}); expected an address of its own")]
    DuplicateAddress {
        /// The address.
        address: IpAddr,
        /// The key that has it.
        other: String,
        /// That key's line.
        line: usize,
    },
    /// A machine without an address in one of the networks.
    #[error("no address in network {network}; expected one in each network of the profile")]
    MissingAddress {
        /// The network's name.
        network: String,
    },
    /// A network that the profile does not have.
    #[error("no network is named {found:?}{}; expected one of: {}", did_you_mean(.found, .known), .known.join(", "))]
    UnknownNetwork {
        /// The name found.
        found: String,
        /// The networks there are.
        known: Vec<String>,
    },
    /// A machine that the profile does not have.
    #[error("no machine is named {found:?}{}; expected one of: {}", did_you_mean(.found, .known), .known.join(", "))]
    UnknownMachine {
        /// The name found.
        found: String,
        /// The machines there are.
        known: Vec<String>,
    },
    /// Text that is not a MAC address.
    #[error("{found:?} is not a MAC address; expected six bytes like 52:54:00:12:34:56")]
    BadMac {
        /// The text found.
        found: String,
    },
    /// A group address or all zeros.
    #[error("{mac} is no machine's own address; expected a unicast one, with an even first byte")]
    MacNotUnicast {
        /// The address.
        mac: MacAddr,
    },
    /// Two NICs with one MAC address.
    #[error("{mac} is already the MAC of {other}; expected one of its own (set it under macs)")]
    DuplicateMac {
        /// The address.
        mac: MacAddr,
        /// The machine and NIC that have it.
        other: String,
    },
    /// Not an id that 802.1Q can carry for a VLAN.
    #[error("VLAN id {found} is out of range; expected 1 to 4094")]
    VlanIdOutOfRange {
        /// The id as it was written.
        found: String,
    },
    /// Two networks with one VLAN id.
    #[error("VLAN id {id} is already the one of network {other}; expected an id of its own")]
    DuplicateVlanId {
        /// The id.
        id: u16,
        /// The network that has it.
        other: String,
    },
    /// An id for a network that is not tagged.
    #[error("network {network} is untagged; expected a network that has a VLAN id")]
    Untagged {
        /// The network's name.
        network: String,
    },
    /// An untagged network whose interface must carry larger frames for another one.
    #[error(
        "{network} on the same interface has MTU {larger}; expected at least that for the untagged network"
    )]
    UntaggedMtu {
        /// The network with the larger MTU.
        network: String,
        /// Its MTU in bytes.
        larger: u16,
    },
    /// The API endpoint's machine runs no API server.
    #[error("{machine} is an agent; expected a server")]
    NotAServer {
        /// The machine's name.
        machine: String,
    },
}

fn lines(file: &str, problems: &[Problem]) -> String {
    problems.iter().map(|p| format!("{file}:{}: {p}", p.line)).collect::<Vec<_>>().join("\n")
}

/// ` (did you mean "vlans"?)` when one of the known names is near, else nothing.
fn did_you_mean<S: AsRef<str>>(found: &str, known: &[S]) -> String {
    let allowed = (found.chars().count() / 3).clamp(1, 3);
    known
        .iter()
        .map(|name| (strsim::damerau_levenshtein(found, name.as_ref()), name.as_ref()))
        .filter(|&(distance, _)| distance <= allowed)
        .min()
        .map_or_else(String::new, |(_, name)| format!(" (did you mean {name:?}?)"))
}

#[cfg(test)]
mod tests {
    use super::did_you_mean;

    #[test]
    fn the_nearest_name_is_suggested_and_a_far_one_is_not() {
        let known = ["simple", "vlans", "vlans-broken"];
        assert_eq!(did_you_mean("vlan", &known), " (did you mean \"vlans\"?)");
        assert_eq!(did_you_mean("smiple", &known), " (did you mean \"simple\"?)");
        assert_eq!(did_you_mean("kubernetes", &known), "");
        assert_eq!(did_you_mean("", &known), "");
    }
}
