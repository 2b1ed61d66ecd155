//! `/etc/hosts`.

use std::fmt::Write as _;

use crate::model::{CLUSTER, Profile};

/// `/etc/hosts`, the same for every machine.
///
/// `server-1` is the machine's cluster address and `server-1-storage` the one in the network storage. A machine's own
/// name stands for that address too, not for 127.0.1.1 as Debian has it: what a member of a cluster binds to and
/// advertises by name must be what the others reach.
pub fn hosts(profile: &Profile) -> String {
    let mut text = format!("# Rendered from the network profile {}.\n127.0.0.1 localhost\n", profile.name());
    text.push_str("::1 localhost ip6-localhost ip6-loopback\n");
    for machine in profile.machines() {
        let name = &machine.name;
        for attachment in &machine.attachments {
            let network = &attachment.network;
            let short = if network == CLUSTER { format!(" {name}") } else { String::new() };
            writeln!(text, "{}{short} {name}-{network}", attachment.address).expect("a String takes all");
        }
    }
    text
}
