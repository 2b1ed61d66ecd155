//! What a start script says of its QEMU, in the words of nixpkgs' `qemu-vm.nix`.

use std::collections::BTreeMap;
use std::sync::LazyLock;

use regex::bytes::{Captures, Regex};

/// The back end of a NIC: its number, and the number of its VLAN.
static NETDEV: LazyLock<Regex> =
    LazyLock::new(|| pattern(r#"-netdev vde,id=vlan([0-9]{1,4}),sock="?\$\{?QEMU_VDE_SOCKET_([0-9]{1,9})"#));
/// The device before it: the number of its back end, and its MAC address.
static DEVICE: LazyLock<Regex> =
    LazyLock::new(|| pattern(r"netdev=vlan([0-9]{1,4}),mac=([0-9A-Fa-f:]{17})(?:[^0-9A-Fa-f:]|$)"));
static MEMORY: LazyLock<Regex> = LazyLock::new(|| pattern(r"\s-m ([0-9]{2,6})(?:\s|$)"));
static PROCESSORS: LazyLock<Regex> = LazyLock::new(|| pattern(r"\s-smp ([0-9]{1,3})(?:\s|$)"));

/// Written above, and compiled by each test.
fn pattern(text: &str) -> Regex {
    Regex::new(text).expect("a pattern")
}

/// What could be read.
pub(crate) struct Script {
    /// The number of the VLAN and the MAC address of each NIC, in the order of their numbers, which must be 1, 2 and so on.
    pub(crate) nics: Vec<Result<(u16, String), String>>,
    pub(crate) memory_mib: Option<u32>,
    pub(crate) vcpus: Option<u32>,
}

pub(crate) fn read(text: &[u8]) -> Script {
    let macs: BTreeMap<u32, String> = DEVICE
        .captures_iter(text)
        .filter_map(|found| Some((number(&found, 1)?, String::from_utf8_lossy(&found[2]).to_lowercase())))
        .collect();
    let back_ends: BTreeMap<u32, u32> = NETDEV
        .captures_iter(text)
        .filter_map(|found| Some((number(&found, 1)?, number(&found, 2)?)))
        .collect();
    let nics = (1..).zip(back_ends).map(|(expected, (index, vlan))| {
        if index != expected {
            return Err(format!("its NICs are not counted from 1: vlan{index} stands for vlan{expected}"));
        }
        let mac =
            macs.get(&index).ok_or_else(|| format!("no device has netdev=vlan{index} and a MAC address"))?;
        let vlan = u16::try_from(vlan).map_err(|_| format!("{vlan} is no VLAN"))?;
        Ok((vlan, mac.clone()))
    });
    let first = |pattern: &Regex| pattern.captures(text).and_then(|found| number(&found, 1));
    Script { nics: nics.collect(), memory_mib: first(&MEMORY), vcpus: first(&PROCESSORS).filter(|n| *n > 0) }
}

fn number(found: &Captures<'_>, group: usize) -> Option<u32> {
    str::from_utf8(found.get(group)?.as_bytes()).ok()?.parse().ok()
}
