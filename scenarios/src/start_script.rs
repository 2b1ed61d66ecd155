//! Start scripts that keep the contract of NixOS' `run-<name>-vm`, in words of our own: a stand-in, since no script that NixOS
//! made can be had without Nix. The driver runs them as it would any, unchanged.

use std::fmt::Write as _;
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;

use anyhow::{Context as _, bail};
use driver::spec::{Boot, MachineSpec, StartScript};

use crate::Rack;

impl Rack {
    /// Has each machine started by a script of its own, `run-<name>-vm` among the artefacts, as NixOS makes one for each VM:
    /// disk, directories, user network, NICs on `-netdev vde` and options come from its environment, and what stands
    /// behind its own arguments is the driver's. `run` is how the script comes to its QEMU: `exec`, or a line of programs
    /// that it starts before. Such machines boot directly.
    pub fn behind_scripts(self, run: &'static str) -> Self {
        self.edit_with(move |lab, t| {
            for machine in &mut lab.machines {
                let program = t.artifacts().join(format!("run-{}-vm", machine.name));
                let vlans: Vec<u16> = (1..).take(machine.nics.len()).collect();
                write(&program, &script(machine, &vlans, run, Disk::Given)?)?;
                machine.boot = Boot::Script(StartScript { program, vlans, env: [].into() });
            }
            Ok(())
        })
    }
}

/// Where a script's disk comes from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Disk {
    /// From `NIX_DISK_IMAGE`.
    Given,
    /// The script makes an overlay of the machine's image in its directory, and hands the machine's credentials to its
    /// guest, as a VM of nixosTest has its own system.
    Own,
}

/// The text of a script that boots `machine`, whose NIC `n` is in the VLAN `vlans[n]`.
///
/// # Errors
/// When the machine does not boot directly, or has no disk.
pub fn script(machine: &MachineSpec, vlans: &[u16], run: &str, disk: Disk) -> anyhow::Result<String> {
    let Boot::Direct { kernel, initrd, cmdline } = &machine.boot else {
        bail!("{}: a start script needs a kernel to boot", machine.name)
    };
    let initrd = initrd.as_ref().with_context(|| format!("{}: no initial RAM disk", machine.name))?;
    let image = machine.disk.as_ref().with_context(|| format!("{}: no disk", machine.name))?.image.display();
    let name = &machine.name;
    let mut own = String::new();
    if disk == Disk::Own {
        own = format!("test -e \"$disk\" || qemu-img create -q -f qcow2 -F raw -b '{image}' \"$disk\"\n");
    }
    let mut text = format!(
        r#"#!/bin/sh
set -e
disk=$(readlink -f "${{NIX_DISK_IMAGE:-./{name}.qcow2}}")
if test -z "$TMPDIR" || test -z "$USE_TMPDIR"; then TMPDIR=$(mktemp -d); fi
{own}mkdir -p "$TMPDIR/xchg"
cd "$TMPDIR"
test -d "$SHARED_DIR"
: > "$NIX_EFI_VARS"
{run} qemu-system-x86_64 \
    -machine accel=kvm:tcg -cpu max -name {name} -m {memory} -smp {vcpus} \
    -device virtio-rng-pci \
    -netdev user,id=user.0,"$QEMU_NET_OPTS" -device virtio-net-pci,netdev=user.0 \
    -virtfs local,path="$TMPDIR/xchg",security_model=none,mount_tag=xchg \
    -virtfs local,path="$SHARED_DIR",security_model=none,mount_tag=shared \
    -drive file="$disk",id=drive1,if=none,werror=report -device virtio-blk-pci,bootindex=1,drive=drive1 \
"#,
        memory = machine.memory_mib,
        vcpus = machine.vcpus,
    );
    for (index, (nic, vlan)) in (1..).zip(machine.nics.iter().zip(vlans)) {
        let _ = writeln!(
            text,
            "    -device virtio-net-pci,netdev=vlan{index},mac={} \\\n    \
             -netdev vde,id=vlan{index},sock=\"$QEMU_VDE_SOCKET_{vlan}\" \\",
            nic.mac
        );
    }
    if disk == Disk::Own {
        use base64::Engine as _;
        for (name, content) in &machine.credentials {
            let content = base64::engine::general_purpose::STANDARD.encode(content);
            let value = format!("io.systemd.credential.binary:{name}={content}");
            let _ = writeln!(text, "    -smbios 'type=11,value={}' \\", value.replace(',', ",,"));
        }
    }
    let _ = writeln!(
        text,
        "    -kernel {} -initrd {} -append \"{cmdline} $QEMU_KERNEL_PARAMS\" \\\n    $QEMU_OPTS \"$@\"",
        kernel.display(),
        initrd.display(),
    );
    Ok(text)
}

/// Writes a script, which nobody may change from then on.
///
/// # Errors
/// When the file can't be written.
pub fn write(path: &Path, text: &str) -> anyhow::Result<()> {
    // A test that launches twice writes it anew.
    let _ = fs_err::remove_file(path);
    fs_err::write(path, text)?;
    fs_err::set_permissions(path, std::fs::Permissions::from_mode(0o555))?;
    Ok(())
}
