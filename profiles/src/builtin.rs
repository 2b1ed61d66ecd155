//! The profiles that come with Rackless.

use crate::error::Error;
use crate::model::Profile;

const BUILTIN: [(&str, &str); 5] = [
    ("simple", include_str!("../data/simple.toml")),
    ("vlans", include_str!("../data/vlans.toml")),
    ("bonding-vlans", include_str!("../data/bonding-vlans.toml")),
    ("dhcp-simple", include_str!("../data/dhcp-simple.toml")),
    ("vlans-broken", include_str!("../data/vlans-broken.toml")),
];

/// The names of the built-in profiles.
pub fn names() -> impl Iterator<Item = &'static str> {
    BUILTIN.iter().map(|(name, _)| *name)
}

/// The TOML text of a built-in profile, to begin one's own from.
///
/// # Errors
/// [`Error::UnknownProfile`].
pub fn source(name: &str) -> Result<&'static str, Error> {
    let found = BUILTIN.iter().find(|(known, _)| *known == name);
    found.map(|(_, text)| *text).ok_or_else(|| Error::UnknownProfile {
        name: name.to_owned(),
        known: names().map(str::to_owned).collect(),
    })
}

/// A built-in profile.
///
/// # Errors
/// [`Error::UnknownProfile`].
pub fn builtin(name: &str) -> Result<Profile, Error> {
    Profile::parse(source(name)?, name)
}

/// One untagged network on one NIC.
pub fn simple() -> Profile {
    valid("simple")
}

/// The networks cluster and storage as VLANs 200 and 100 on one trunk.
pub fn vlans() -> Profile {
    valid("vlans")
}

/// The same VLANs on an 802.3ad bond of two NICs.
pub fn bonding_vlans() -> Profile {
    valid("bonding-vlans")
}

/// One untagged network; addresses come by DHCP reservation.
pub fn dhcp_simple() -> Profile {
    valid("dhcp-simple")
}

/// Like [`vlans`], but each machine tags with other VLAN ids.
pub fn vlans_broken() -> Profile {
    valid("vlans-broken")
}

fn valid(name: &str) -> Profile {
    builtin(name)
        .unwrap_or_else(|error| panic!("a built-in profile is wrong, which the tests exclude:\n{error}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_builtin_loads_under_its_own_name() {
        for name in names() {
            assert_eq!(builtin(name).unwrap_or_else(|e| panic!("{e}")).name(), name);
        }
        let direct = [simple(), vlans(), bonding_vlans(), dhcp_simple(), vlans_broken()];
        assert_eq!(direct.each_ref().map(Profile::name).to_vec(), names().collect::<Vec<_>>());
    }
}
