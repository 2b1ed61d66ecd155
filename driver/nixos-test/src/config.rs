//! The JSON file: nixpkgs, `nixos/lib/testing/driver-configuration.nix`.

use std::collections::BTreeMap;
use std::path::PathBuf;

use driver::spec::is_hostname;
use serde::Deserialize;

use crate::error::Problem;

#[derive(Deserialize)]
struct Raw {
    vms: BTreeMap<String, RawNode>,
    #[serde(default)]
    containers: BTreeMap<String, RawNode>,
    vlans: Vec<u64>,
    global_timeout: Option<u64>,
    test_script: Option<PathBuf>,
}

#[derive(Deserialize)]
struct RawNode {
    name: String,
    start_script: PathBuf,
}

/// What it says, as far as it can be read.
#[derive(Default)]
pub(crate) struct Config {
    pub(crate) vms: Vec<(String, PathBuf)>,
    pub(crate) vlans: Vec<u16>,
    pub(crate) global_timeout: Option<u64>,
    pub(crate) test_script: Option<PathBuf>,
}

pub(crate) fn read(text: &[u8], problems: &mut Vec<Problem>) -> Config {
    let raw: Raw = match serde_json::from_slice(text) {
        Ok(raw) => raw,
        Err(error) => {
            // The place is told apart from the words.
            let message = error.to_string();
            let message = message.split(" at line ").next().unwrap_or_default().to_owned();
            problems.push(Problem::Json { line: error.line(), column: error.column(), message });
            return Config::default();
        }
    };
    if raw.vms.is_empty() {
        problems.push(Problem::NoVm);
    }
    problems.extend(raw.containers.into_values().map(|node| Problem::Container { name: node.name }));
    let mut vms = BTreeMap::new();
    for node in raw.vms.into_values() {
        if !is_hostname(&node.name) || vms.contains_key(&node.name) {
            problems.push(Problem::Name { name: node.name });
            continue;
        }
        vms.insert(node.name, node.start_script);
    }
    let mut vlans = Vec::new();
    for vlan in raw.vlans {
        match u16::try_from(vlan).ok().filter(|vlan| (1..=4094).contains(vlan)) {
            Some(vlan) => vlans.push(vlan),
            None => problems.push(Problem::Vlan { vlan }),
        }
    }
    vlans.sort_unstable();
    vlans.dedup();
    let (global_timeout, test_script) = (raw.global_timeout, raw.test_script);
    Config { vms: vms.into_iter().collect(), vlans, global_timeout, test_script }
}
