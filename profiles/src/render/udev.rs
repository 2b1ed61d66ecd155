//! udev's rules (udev(7)), for the one thing that systemd.link(5) cannot do: wait for a name.

use std::fmt::Write as _;

use crate::error::Error;
use crate::model::Profile;

const FILE: &str = "05-rackless-names.rules";

/// How often a tenth of a second a NIC waits for its name: udev finds the NICs of a busy machine seconds apart.
const TENTHS: u32 = 100;

/// The files for `/etc/udev/rules.d` of a machine, as names and contents; none where no name can be in use.
///
/// Names like `eth1` are the kernel's too: where the first of two NICs shall be `eth1`, the kernel calls it `eth0` and
/// the second `eth1`, and udev, which renames both at once, fails on the first and leaves it as it is. So the first
/// waits until its name is free. NICs whose names go round in a circle (`eth0` and `eth1` the other way about) keep the
/// kernel's names.
///
/// # Errors
/// [`Error::UnknownMachine`].
pub fn udev(profile: &Profile, machine: &str) -> Result<Vec<(String, String)>, Error> {
    let machine = profile.machine(machine)?;
    let of_the_kernel = |name: &str| {
        name.strip_prefix("eth")
            .is_some_and(|digits| !digits.is_empty() && digits.bytes().all(|byte| byte.is_ascii_digit()))
    };
    let mut rules = String::new();
    for nic in machine.nics.iter().filter(|nic| machine.nics.len() > 1 && of_the_kernel(&nic.name)) {
        let name = &nic.name;
        // Bonds and VLANs share a NIC's address; only what has a driver is a NIC.
        let _ = writeln!(
            rules,
            r#"ACTION=="add", SUBSYSTEM=="net", DRIVERS=="?*", ATTR{{type}}=="1", ATTR{{address}}=="{}", KERNEL!="{name}", PROGRAM=="/bin/sh -c 'i=0; while [ -e /sys/class/net/{name} ] && [ $$i -lt {TENTHS} ]; do sleep 0.1; i=$$((i+1)); done'""#,
            nic.mac
        );
    }
    if rules.is_empty() {
        return Ok(Vec::new());
    }
    let head = format!(
        "# Rendered from the network profile {} for {}: a NIC waits until its name is free.\n",
        profile.name, machine.name
    );
    Ok(vec![(FILE.to_owned(), head + &rules)])
}
