//! The credentials of a machine, for SMBIOS strings of type 11.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;

use super::{AGENT_UNIT, Injection, check_hostname, networkd_kind, udev_stem, unit};
use crate::error::Error;

/// Most bytes of all credentials as SMBIOS strings. From 64 KiB on every string is lost without a word: measured
/// with QEMU 10 and Linux 6.12; the rest is room for strings of others.
pub const CREDENTIALS_MAX: usize = 56 << 10;

/// The credentials that put `injection` into a guest with systemd 254 or later: name and content.
///
/// # Errors
/// [`Error::BadCredential`] for a name that the guest would not take, [`Error::CredentialsTooBig`] above
/// [`CREDENTIALS_MAX`].
pub fn credentials(injection: &Injection) -> Result<Vec<(String, Vec<u8>)>, Error> {
    let mut list: Vec<(String, Vec<u8>)> = Vec::new();
    let mut early = Vec::new();
    if injection.agent {
        list.push((
            format!("systemd.extra-unit.{AGENT_UNIT}"),
            unit::from_disk(&injection.agent_args).into(),
        ));
        early.push(AGENT_UNIT);
    }
    if let Some(name) = &injection.hostname {
        check_hostname(name)?;
        list.push(("system.hostname".into(), name.clone().into()));
    }
    for (name, content) in &injection.networkd {
        let (kind, stem) = networkd_kind(name)?;
        list.push((format!("network.{kind}.{stem}"), content.clone().into()));
    }
    for (name, content) in &injection.udev {
        list.push((format!("udev.rules.{}", udev_stem(name)?), content.clone().into()));
    }
    if !injection.udev.is_empty() {
        early.push("systemd-udev-load-credentials.service");
    }
    if !injection.networkd.is_empty() {
        // The generator turns the credentials into files under /run; an image that does not use networkd has
        // neither unit enabled.
        early.push("systemd-network-generator.service");
        early.push("systemd-networkd.service");
    }
    if !early.is_empty() {
        let wants = format!("[Unit]\nWants={}\n", early.join(" "));
        list.push(("systemd.unit-dropin.sysinit.target~rackless".into(), wants.into()));
    }
    let bytes = smbios_values(&list).iter().map(|value| value.len() + 1).sum();
    if bytes > CREDENTIALS_MAX {
        let mut largest: Vec<(String, usize)> =
            list.into_iter().map(|(name, content)| (name, content.len())).collect();
        largest.sort_by_key(|(_, bytes)| std::cmp::Reverse(*bytes));
        largest.truncate(3);
        return Err(Error::CredentialsTooBig { bytes, limit: CREDENTIALS_MAX, largest });
    }
    Ok(list)
}

/// The credentials as SMBIOS strings: QEMU's `-smbios type=11,value=…`. The text has no comma.
pub fn smbios_values(credentials: &[(String, Vec<u8>)]) -> Vec<String> {
    credentials
        .iter()
        .map(|(name, content)| format!("io.systemd.credential.binary:{name}={}", STANDARD.encode(content)))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names(injection: &Injection) -> Vec<String> {
        credentials(injection).unwrap().into_iter().map(|(name, _)| name).collect()
    }

    #[test]
    fn nothing_to_say_is_nothing() {
        assert_eq!(credentials(&Injection::default()).unwrap(), []);
    }

    #[test]
    fn each_part_has_its_credential() {
        let injection = Injection {
            agent: true,
            hostname: Some("server-1".into()),
            networkd: vec![
                ("20-cluster.network".into(), "[Match]\n".into()),
                ("bond0.netdev".into(), "x".into()),
            ],
            udev: vec![("05-names.rules".into(), "y".into())],
            ..Injection::default()
        };
        assert_eq!(
            names(&injection),
            [
                "systemd.extra-unit.rackless-agent.service",
                "system.hostname",
                "network.network.20-cluster",
                "network.netdev.bond0",
                "udev.rules.05-names",
                "systemd.unit-dropin.sysinit.target~rackless",
            ]
        );
        let list = credentials(&injection).unwrap();
        let wants = String::from_utf8(list[5].1.clone()).unwrap();
        assert!(
            wants.contains(
                "rackless-agent.service systemd-udev-load-credentials.service systemd-network-generator.service systemd-networkd.service"
            )
        );
        assert!(smbios_values(&list).iter().all(|value| !value.contains(',')));
    }

    #[test]
    fn too_much_is_an_error_and_names_the_largest() {
        let networkd = |bytes| Injection {
            networkd: vec![("10-a.network".into(), "x".repeat(bytes)), ("11-b.network".into(), "y".into())],
            ..Injection::default()
        };
        assert!(credentials(&networkd(41_000)).is_ok());
        let text = credentials(&networkd(50_000)).unwrap_err().to_string();
        assert!(text.contains("57344") && text.contains("network.network.10-a (50000)"), "{text}");
    }

    #[test]
    fn names_that_the_guest_would_not_take_are_refused() {
        for name in ["10-a.conf", ".network", "../x.network", "a b.network", "-.link/.link"] {
            let injection =
                Injection { networkd: vec![(name.into(), String::new())], ..Injection::default() };
            assert!(matches!(credentials(&injection), Err(Error::BadCredential { .. })), "{name}");
        }
        for name in ["05-a.conf", ".rules", "../x.rules"] {
            let injection = Injection { udev: vec![(name.into(), String::new())], ..Injection::default() };
            assert!(matches!(credentials(&injection), Err(Error::BadCredential { .. })), "{name}");
        }
        for name in ["", "a_b", "-a", "a..b", &"a".repeat(65)] {
            let injection = Injection { hostname: Some(name.into()), ..Injection::default() };
            assert!(matches!(credentials(&injection), Err(Error::BadCredential { .. })), "{name}");
        }
    }
}
