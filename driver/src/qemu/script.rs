//! What a start script is given: arguments and environment, by the contract of NixOS's `run-<name>-vm` (nixpkgs,
//! `nixos/modules/virtualisation/qemu-vm.nix`, and its test driver, which uses them). Pure, like the command line.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use super::command_line::{AGENT_PORT_ID, CommandLine, Plugs, credentials, socket};
use super::{Accel, Opts};
use crate::spec::{Channel, MachineSpec, ShellSpec, StartScript};

/// Variables that are the driver's to set.
const OURS: [&str; 4] = ["TMPDIR", "SHARED_DIR", "USE_TMPDIR", "NIX_DISK_IMAGE"];
/// What the variable of a VLAN's VDE switch begins with; its number follows.
const VDE: &str = "QEMU_VDE_SOCKET_";

/// Speed in Mbit/s and duplex of every virtio NIC: a bond's driver sends no LACPDU without.
const NIC_GLOBALS: &str = "-global virtio-net-device.speed=10000 -global virtio-net-device.duplex=full";

/// Where a start script runs and what it is wired to.
#[derive(Debug, Clone)]
pub(crate) struct ScriptWiring<'a> {
    /// The accelerator.
    pub(crate) accel: Accel,
    /// The directory that it runs in.
    pub(crate) state: &'a Path,
    /// The directory that all machines of the lab share.
    pub(crate) shared: &'a Path,
    /// The overlay of the system disk, if the driver has one.
    pub(crate) overlay: Option<&'a Path>,
    /// The directory of each VLAN's VDE switch.
    pub(crate) vde: &'a BTreeMap<u16, PathBuf>,
    /// Where QEMU finds the other ends.
    pub(crate) plugs: &'a Plugs,
}

/// The script and what is appended to its arguments. Names and ids are such as no script has.
pub(crate) fn arguments(spec: &MachineSpec, script: &StartScript, wiring: &ScriptWiring<'_>) -> CommandLine {
    let mut line = CommandLine { program: script.program.clone(), args: Vec::new() };
    if wiring.accel == Accel::Tcg {
        // Options of a machine are merged, and the last word counts: a script asks for `kvm:tcg`.
        line.push("-machine", Opts::keyed("accel", "tcg"));
    }
    line.push("-display", "none");
    line.push("-device", Opts::new("virtio-rng-pci").set("id", "rackless-rng"));
    line.push("-device", Opts::new("pvpanic-pci").set("id", "rackless-pvpanic"));
    line.push("-action", Opts::keyed("panic", "pause").set("watchdog", "pause"));
    match wiring.plugs {
        Plugs::Driver { qmp, qmp_people, serial, .. } => {
            line.push("-chardev", socket("rackless-qmp", qmp));
            line.push("-mon", Opts::keyed("chardev", "rackless-qmp").set("mode", "control"));
            let people = socket("rackless-people", qmp_people).set("server", "on").set("wait", "off");
            line.push("-chardev", people);
            line.push("-mon", Opts::keyed("chardev", "rackless-people").set("mode", "control"));
            line.push("-chardev", socket("rackless-serial", serial));
            line.push("-serial", "chardev:rackless-serial");
        }
        Plugs::ByHand => line.push("-serial", "mon:stdio"),
    }
    agent(&mut line, spec, wiring.plugs);
    backdoor(&mut line, spec, wiring.plugs);
    credentials(&mut line, spec);
    line
}

/// As on the driver's own machines, at whatever place on the bus is free.
fn agent(line: &mut CommandLine, spec: &MachineSpec, plugs: &Plugs) {
    let Some(agent) = &spec.agent else { return };
    if let Some(disk) = agent.disk() {
        let drive = Opts::keyed("if", "none").set("id", "rackless-agent").set("format", "raw");
        line.push("-drive", drive.set("readonly", "on").path("file", disk));
        let device = Opts::new("virtio-blk-pci").set("drive", "rackless-agent");
        line.push("-device", device.set("serial", "rackless-agent"));
    }
    match (agent.channel, plugs) {
        (Channel::Virtserial, plugs) => {
            line.push("-device", Opts::new("virtio-serial-pci").set("id", "rackless-ports"));
            let (agent, journal) = match plugs {
                Plugs::Driver { agent, journal, .. } => (agent.as_deref(), journal.as_deref()),
                Plugs::ByHand => (None, None),
            };
            for (nr, id, chardev, name, path) in [
                (1, AGENT_PORT_ID, "rackless-channel", agent_proto::PORT_NAME, agent),
                (2, "rackless-journalport", "rackless-journal", agent_proto::JOURNAL_PORT_NAME, journal),
            ] {
                line.push("-chardev", other_end(chardev, path));
                let port = Opts::new("virtserialport").set("bus", "rackless-ports.0").set("nr", nr);
                line.push("-device", port.set("chardev", chardev).set("id", id).set("name", name));
            }
        }
        (Channel::Vsock, Plugs::Driver { cid: Some(cid), .. }) => {
            line.push("-device", Opts::new("vhost-vsock-pci").set("guest-cid", cid));
        }
        // It needs guest memory that is shared, which is the script's affair: refused before a start.
        _ => {}
    }
}

/// The first virtio console, as nixosTest's own driver gives it.
fn backdoor(line: &mut CommandLine, spec: &MachineSpec, plugs: &Plugs) {
    if spec.first_shell() != Some(&ShellSpec::Backdoor) {
        return;
    }
    let path = match plugs {
        Plugs::Driver { shell, .. } => shell.as_deref(),
        Plugs::ByHand => None,
    };
    if spec.agent.as_ref().is_none_or(|agent| agent.channel != Channel::Virtserial) {
        line.push("-device", Opts::new("virtio-serial-pci").set("id", "rackless-ports"));
    }
    line.push("-chardev", other_end("rackless-shell", path));
    line.push(
        "-device",
        Opts::new("virtconsole").set("bus", "rackless-ports.0").set("chardev", "rackless-shell"),
    );
}

/// The driver's socket, or nobody.
fn other_end(id: &str, path: Option<&Path>) -> Opts {
    path.map_or_else(|| Opts::new("null").set("id", id), |path| socket(id, path))
}

/// The environment of the script.
pub(crate) fn environment(
    spec: &MachineSpec,
    script: &StartScript,
    wiring: &ScriptWiring<'_>,
) -> BTreeMap<String, String> {
    let text = |path: &Path| path.display().to_string();
    let mut env = BTreeMap::from([
        ("TMPDIR".to_owned(), text(wiring.state)),
        ("SHARED_DIR".to_owned(), text(wiring.shared)),
        ("USE_TMPDIR".to_owned(), "1".to_owned()),
        ("NIX_EFI_VARS".to_owned(), text(&wiring.state.join(format!("{}-efi-vars.fd", spec.name)))),
        ("NIX_SWTPM_DIR".to_owned(), text(&wiring.state.join(format!("{}-swtpm", spec.name)))),
    ]);
    env.extend(script.env.clone());
    if let Some(overlay) = wiring.overlay {
        env.insert("NIX_DISK_IMAGE".to_owned(), text(overlay));
    }
    for (vlan, dir) in wiring.vde {
        env.insert(format!("{VDE}{vlan}"), text(dir));
    }
    let own = env.remove("QEMU_OPTS").unwrap_or_default();
    env.insert("QEMU_OPTS".to_owned(), format!("{own} {NIC_GLOBALS}").trim_start().to_owned());
    env
}

/// The name that the script has given to the back end of a NIC.
pub(crate) fn netdev(index: usize) -> String {
    format!("vlan{}", index + 1)
}

/// Why a machine can't be had by this script.
pub(crate) fn problem(spec: &MachineSpec, script: &StartScript) -> Option<String> {
    if script.vlans.len() != spec.nics.len() {
        let (vlans, nics) = (script.vlans.len(), spec.nics.len());
        return Some(format!("its start script has NICs in {vlans} VLANs, and the machine has {nics} NICs"));
    }
    if let Some(name) = script.env.keys().find(|name| OURS.contains(&name.as_str()) || name.starts_with(VDE))
    {
        return Some(format!("{name} is the driver's to set in the environment of its start script"));
    }
    if let Some(disk) = spec.data_disks.first() {
        return Some(format!(
            "the data disk {} is none of its start script's, which decides on disks",
            disk.name
        ));
    }
    if let Some(nic) = spec.nics.iter().find(|nic| nic.backend != crate::spec::NicBackend::Stream) {
        return Some(format!("the NIC {} of a start script is on VDE and can't be a fast one", nic.name));
    }
    if spec.agent.as_ref().is_some_and(|agent| agent.channel == Channel::VhostUserVsock) {
        let why = "vhost-user-vsock needs memory that is shared, which a start script decides on";
        return Some(format!("{why}: take the channel virtserialport"));
    }
    let mut ports = BTreeMap::new();
    for (vlan, nic) in script.vlans.iter().zip(&spec.nics) {
        if ports.insert(vlan, &nic.port).is_some_and(|other| *other != nic.port) {
            return Some(format!("its NICs in VLAN {vlan} of the start script have different ports"));
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::spec::tests::machine;
    use crate::spec::{AgentSource, AgentSpec, Boot, DataDisk, NicBackend};

    fn spec(vlans: &[u16]) -> (MachineSpec, StartScript) {
        let env = BTreeMap::from([
            ("QEMU_OPTS".to_owned(), "-m 1024".to_owned()),
            ("QEMU_KERNEL_PARAMS".to_owned(), "quiet".to_owned()),
        ]);
        let script = StartScript { program: "/nix/store/x/bin/run-a-vm".into(), vlans: vlans.into(), env };
        let agent =
            AgentSpec { source: AgentSource::Disk("/images/agent.raw".into()), channel: Channel::Virtserial };
        let credentials = vec![("fstab.extra".to_owned(), b"x".to_vec())];
        let boot = Boot::Script(script.clone());
        (MachineSpec { boot, agent: Some(agent), credentials, ..machine("a") }, script)
    }

    fn plugs() -> Plugs {
        Plugs::Driver {
            qmp: "/run/a.qmp".into(),
            qmp_people: "/run/a.monitor".into(),
            serial: "/run/a.serial".into(),
            agent: Some("/run/a.agent".into()),
            journal: Some("/run/a.journal".into()),
            shell: Some("/run/a.shell".into()),
            cid: None,
            nics: Vec::new(),
        }
    }

    #[test]
    fn a_script_gets_our_ends_and_the_contracts_environment() {
        let (spec, script) = spec(&[1, 7]);
        let (plugs, vde) = (plugs(), BTreeMap::from([(1, "/run/v1".into()), (7, "/run/v7".into())]));
        let wiring = ScriptWiring {
            accel: Accel::Tcg,
            state: Path::new("/lab/a.state"),
            shared: Path::new("/lab/shared"),
            overlay: Some(Path::new("/lab/a.qcow2")),
            vde: &vde,
            plugs: &plugs,
        };
        let mut text = arguments(&spec, &script, &wiring).to_shell();
        for (name, value) in environment(&spec, &script, &wiring) {
            text += &format!("{name}={value}\n");
        }
        insta::assert_snapshot!(text);
        let without_agent = MachineSpec { agent: None, shell: Some(ShellSpec::Backdoor), ..spec.clone() };
        let backdoor = arguments(&without_agent, &script, &wiring).to_shell();
        let console = "-chardev socket,id=rackless-shell,path=/run/a.shell \\\n  \
                       -device virtconsole,bus=rackless-ports.0,chardev=rackless-shell";
        assert!(backdoor.contains(console) && !backdoor.contains("virtserialport"), "{backdoor}");
        let on_kvm = arguments(&spec, &script, &ScriptWiring { accel: Accel::Kvm, ..wiring }).to_shell();
        assert!(!on_kvm.contains("accel"), "{on_kvm}");
    }

    #[test]
    fn what_a_script_can_not_have_is_refused() {
        let told = |edit: &dyn Fn(&mut MachineSpec, &mut StartScript)| {
            let (mut spec, mut script) = spec(&[1, 2]);
            edit(&mut spec, &mut script);
            problem(&spec, &script)
        };
        assert_eq!(told(&|_, _| {}), None);
        let refused = |edit: &dyn Fn(&mut MachineSpec, &mut StartScript)| told(edit).expect("a refusal");
        assert!(refused(&|_, script| script.vlans = vec![1]).contains("NICs in 1 VLANs"));
        assert!(refused(&|_, script| script.vlans = vec![1, 1]).contains("VLAN 1 of the start script"));
        assert!(refused(&|spec, _| spec.nics[1].backend = NicBackend::VhostUser).contains("eth1"));
        let data = DataDisk { name: "etcd".to_owned(), bytes: 512, image: None };
        assert!(refused(&|spec, _| spec.data_disks = vec![data.clone()]).contains("etcd"));
        for name in ["TMPDIR", "QEMU_VDE_SOCKET_3"] {
            let env = BTreeMap::from([(name.to_owned(), String::new())]);
            assert!(refused(&|_, script| script.env = env.clone()).starts_with(name));
        }
        let vsock = AgentSpec { source: AgentSource::Image, channel: Channel::VhostUserVsock };
        assert!(refused(&|spec, _| spec.agent = Some(vsock.clone())).contains("virtserialport"));
    }
}
