//! Network cards on the command line: root ports, back ends, devices.

use super::command_line::{CommandLine, Plugs, Wiring, socket};
use super::{Accel, Opts, Qemu};
use crate::spec::{MachineSpec, NicBackend, NicSpec};

/// Root ports beyond those of the machine's own NICs, for cards that a test plugs in.
pub(crate) const SPARE_PORTS: usize = 2;
/// The PCI slot of the first NIC's root port; later ones follow.
const FIRST_NIC_SLOT: usize = 0x10;

/// Adds root ports, NICs and their back ends.
pub(super) fn add(line: &mut CommandLine, qemu: &Qemu, spec: &MachineSpec, wiring: &Wiring) {
    for index in 0..spec.nics.len() + SPARE_PORTS {
        let port = Opts::new("pcie-root-port").set("id", port_id(index)).set("chassis", index + 1);
        let port = port.set("bus", "pcie.0").set("addr", format!("{:#x}", FIRST_NIC_SLOT + index));
        line.push("-device", port);
    }
    for (index, (nic, slot)) in wiring.nics.iter().enumerate() {
        let netdev = match &wiring.plugs {
            Plugs::Driver { nics, .. } if nic.backend == NicBackend::VhostUser => {
                let chardev = format!("char-{}", nic.name);
                line.push("-chardev", socket(&chardev, &nics[index]));
                Opts::new("vhost-user").set("id", netdev_id(&nic.name)).set("chardev", chardev)
            }
            Plugs::Driver { nics, .. } => Opts::new("stream")
                .set("id", netdev_id(&nic.name))
                .set("server", "off")
                .set("addr.type", "unix")
                .path("addr.path", &nics[index]),
            Plugs::ByHand => Opts::new("hubport").set("id", netdev_id(&nic.name)).set("hubid", index),
        };
        line.push("-netdev", netdev);
        let device = nic_device(nic, *slot).into_iter();
        let mut device = device.fold(Opts::new("virtio-net-pci"), |opts, (key, value)| opts.set(key, value));
        if nic.backend == NicBackend::VhostUser
            && wiring.accel == Accel::Tcg
            && crashes_on_masked_vectors(qemu)
        {
            device = device.set("vectors", 0);
        }
        line.push("-device", device);
    }
}

/// Whether this QEMU ends by SIGSEGV when a guest on TCG masks an MSI-X vector of a vhost-user NIC, which Linux does
/// when it brings the NIC up: it releases an interrupt of KVM that it never had. QEMU 7.2.22 does so, 10.0 does not;
/// what lies between was not tried. Without vectors the NIC has the old shared interrupt, which is slower.
fn crashes_on_masked_vectors(qemu: &Qemu) -> bool {
    qemu.version.major < 10
}

/// The properties of a NIC, for the command line and for QMP's `device_add` alike.
pub(crate) fn nic_device(nic: &NicSpec, port: usize) -> Vec<(&'static str, String)> {
    let mut properties = vec![
        ("id", nic_id(&nic.name)),
        ("netdev", netdev_id(&nic.name)),
        ("mac", nic.mac.clone()),
        ("bus", port_id(port)),
        // Without speed and duplex the bonding driver sends no LACPDU.
        ("speed", "10000".into()),
        ("duplex", "full".into()),
        // QEMU forgets the guest's VLAN filter when it loads a saved state (seen with 7.2: the table is cleared with
        // the features, after it was read), and every tagged frame is lost. Without one, the guest filters itself.
        ("ctrl_vlan", "off".into()),
        // No option ROM: no machine boots from the network, and the firmware need not try.
        ("romfile", String::new()),
    ];
    if nic.backend == NicBackend::VhostUser {
        // A guest that changes its mind about offloads would tell QEMU, and QEMU would tell nobody.
        properties.push(("ctrl_guest_offloads", "off".into()));
    }
    properties
}

/// The id of a NIC device: QMP's `set_link` and `device_del` take it.
pub(crate) fn nic_id(name: &str) -> String {
    format!("nic-{name}")
}

/// The id of a NIC's back end.
pub(crate) fn netdev_id(name: &str) -> String {
    format!("net-{name}")
}

fn port_id(index: usize) -> String {
    format!("rp{index}")
}
