//! `network.yaml`: the mask and the router of the one network.

use std::net::Ipv4Addr;

use ipnet::Ipv4Net;
use serde::Deserialize;
use serde_saphyr::Spanned;

use crate::error::Kind;
use crate::report::Report;

const GATEWAY: &str = "the router's address, like 192.168.100.1";
const NETMASK: &str = "the network's mask, like 24";

/// The keys that are for us; there may be others.
#[derive(Deserialize)]
struct Raw {
    netmask: Option<Spanned<String>>,
    gateway: Option<Spanned<String>>,
}

/// The network, as far as it can be read.
#[derive(Default)]
pub(crate) struct Network {
    pub(crate) subnet: Option<Ipv4Net>,
    /// With its line.
    pub(crate) gateway: Option<(Ipv4Addr, usize)>,
    /// The line of the mask.
    pub(crate) netmask_line: usize,
}

pub(crate) fn read(bytes: &[u8], report: &mut Report) -> Network {
    let Ok(text) = str::from_utf8(bytes) else {
        report.add(1, "", Kind::NotUtf8);
        return Network::default();
    };
    // A file without a word is read as an empty map.
    let raw = if text.trim().is_empty() { "{}" } else { text };
    let raw: Raw = match serde_saphyr::from_str(raw) {
        Ok(raw) => raw,
        Err(error) => {
            let error = error.without_snippet();
            let line = error.location().map_or(1, |at| usize::try_from(at.line()).unwrap_or(1).max(1));
            // One line of it: a reader of YAML shows the place, which our line has already.
            let message = error.to_string().lines().next().unwrap_or_default().to_owned();
            report.add(line, "", Kind::Yaml { message });
            return Network::default();
        }
    };
    let value = |key: &str, found: Option<Spanned<String>>, expected, report: &mut Report| {
        let Some(found) = found else {
            report.add(1, key, Kind::Missing { expected });
            return None;
        };
        let line = usize::try_from(found.referenced.line()).unwrap_or(1).max(1);
        let text = found.value.trim().to_lowercase();
        if text.is_empty() {
            report.add(line, key, Kind::Empty { expected });
            return None;
        }
        Some((text, line))
    };
    let netmask = value("netmask", raw.netmask, NETMASK, report);
    let gateway = value("gateway", raw.gateway, GATEWAY, report);

    let netmask_line = netmask.as_ref().map_or(1, |(_, line)| *line);
    let prefix = netmask.and_then(|(text, line)| {
        let prefix = prefix(&text);
        if prefix.is_none() {
            report.add(line, "netmask", Kind::BadNetmask { found: text });
        }
        prefix
    });
    let gateway = gateway.and_then(|(text, line)| {
        let address = text.parse().ok();
        if address.is_none() {
            report.add(line, "gateway", Kind::BadAddress { found: text });
        }
        Some((address?, line))
    });
    let subnet = gateway
        .zip(prefix)
        .and_then(|((address, _), prefix)| Ipv4Net::new(address, prefix).ok().map(|subnet| subnet.trunc()));
    Network { subnet, gateway, netmask_line }
}

/// `24`, `/24` or `255.255.255.0`.
fn prefix(text: &str) -> Option<u8> {
    let prefix = match text.parse::<Ipv4Addr>() {
        Ok(mask) => ipnet::ipv4_mask_to_prefix(mask).ok()?,
        Err(_) => text.strip_prefix('/').unwrap_or(text).parse().ok()?,
    };
    (1..=30).contains(&prefix).then_some(prefix)
}

#[cfg(test)]
mod tests {
    use super::prefix;

    #[test]
    fn masks_are_read_in_three_ways() {
        for (text, expected) in [
            ("24", Some(24)),
            ("/24", Some(24)),
            ("255.255.255.0", Some(24)),
            ("255.255.254.0", Some(23)),
            ("255.0.255.0", None),
            ("0", None),
            ("31", None),
            ("-1", None),
            ("2 4", None),
        ] {
            assert_eq!(prefix(text), expected, "{text}");
        }
    }
}
