//! The backdoor of images made for nixosTest, brought into one that has none.

use driver::spec::{Boot, MachineSpec};

use crate::Rack;

/// A root shell on the first virtio console, its stderr on the serial one.
const UNIT: &str = "[Unit]\nDescription=Root shell for tests\nRequires=dev-hvc0.device\nAfter=dev-hvc0.device\n\
     [Service]\nEnvironment=HOME=/root USER=root TERM=dumb\nWorkingDirectory=/tmp\n\
     ExecStart=/bin/bash --norc -c 'exec </dev/hvc0 >/dev/hvc0 2>/dev/ttyS0; stty raw -echo; \
     echo \"Spawning backdoor root shell...\"; exec /bin/bash --norc /dev/hvc0'\nKillSignal=SIGHUP\n";

impl Rack {
    /// As [`Rack::backdoor`], for an image that does not start one: its unit comes by systemd's credentials. Such a machine
    /// boots directly, since a login on the same console is masked on the kernel's command line.
    pub fn own_backdoor(self) -> Self {
        self.backdoor().edit(|lab| lab.machines.iter_mut().for_each(bring_in))
    }
}

fn bring_in(machine: &mut MachineSpec) {
    let unit = |name: &str, text: &str| (format!("systemd.{name}"), text.as_bytes().to_owned());
    machine.credentials.push(unit("extra-unit.backdoor.service", UNIT));
    let wanted = "[Unit]\nWants=backdoor.service\n";
    machine.credentials.push(unit("unit-dropin.multi-user.target~backdoor", wanted));
    // Two that read one line get half of it each.
    if let Boot::Direct { cmdline, .. } = &mut machine.boot {
        cmdline.push_str(" systemd.mask=serial-getty@hvc0.service");
    }
}
