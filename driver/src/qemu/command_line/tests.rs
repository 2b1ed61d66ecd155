//! The command line, word for word, and what changes it.

use std::time::Duration;

use super::*;
use crate::qemu::{SPARE_PORTS, Version};
use crate::spec::tests::machine;
use crate::spec::{AgentSource, AgentSpec, DataDisk, DiskSpec, Tuning};

fn with_agent(channel: Channel) -> MachineSpec {
    let agent = AgentSpec { source: AgentSource::Disk("/images/agent.raw".into()), channel };
    MachineSpec { agent: Some(agent), ..machine("server-1") }
}

fn wiring(plugs: Plugs) -> Wiring {
    let firmware = Firmware { code: "/firmware/code.fd".into(), vars: "/firmware/vars.fd".into() };
    Wiring {
        accel: Accel::Tcg,
        firmware: Some((firmware, "/lab/server-1.vars".into())),
        overlay: Some("/lab/server-1.qcow2".into()),
        data: Vec::new(),
        nics: machine("server-1").nics.into_iter().zip(0..).collect(),
        memory: Memory::Own,
        incoming: false,
        plugs,
    }
}

fn plugged() -> Plugs {
    Plugs::Driver {
        qmp: "/run/server-1.qmp".into(),
        qmp_people: "/run/server-1.monitor".into(),
        serial: "/run/server-1.serial".into(),
        agent: Some("/run/server-1.agent".into()),
        journal: Some("/run/server-1.journal".into()),
        shell: Some("/run/server-1.shell".into()),
        cid: Some(1042),
        nics: vec!["/run/port-0".into(), "/run/port-1".into()],
    }
}

fn shell(spec: &MachineSpec, wiring: &Wiring) -> String {
    let qemu = Qemu { program: "/bin/qemu".into(), version: Version { major: 7, minor: 2, micro: 0 } };
    command_line(&qemu, spec, wiring).to_shell()
}

/// What one variation changes: the lines that go, then those that come.
fn change(from: &str, to: &str) -> String {
    let lines = |text: &str| -> Vec<String> {
        text.lines().map(|l| l.trim().trim_end_matches(" \\").to_owned()).collect()
    };
    let (from, to) = (lines(from), lines(to));
    let gone = from.iter().filter(|l| !to.contains(l)).map(|l| format!("- {l}\n"));
    let come = to.iter().filter(|l| !from.contains(l)).map(|l| format!("+ {l}\n"));
    gone.chain(come).collect()
}

#[test]
fn firmware_boot() {
    insta::assert_snapshot!(shell(&with_agent(Channel::Virtserial), &wiring(plugged())));
}

#[test]
fn direct_boot_on_kvm_without_agent() {
    let boot = Boot::Direct {
        kernel: "/images/vmlinuz".into(),
        initrd: Some("/images/initrd,1".into()),
        cmdline: "root=/dev/vda1 console=ttyS0 dyndbg=\"file a.c +p\"".into(),
    };
    let spec = MachineSpec { boot, ..machine("server-1") };
    let wiring = Wiring { accel: Accel::Kvm, firmware: None, ..wiring(plugged()) };
    insta::assert_snapshot!(shell(&spec, &wiring));
}

#[test]
fn a_direct_boot_under_tcg_counts_no_ticks_and_an_old_one_has_no_randomised_addresses() {
    let boot = Boot::Direct { kernel: "/k".into(), initrd: None, cmdline: "quiet".into() };
    let spec = MachineSpec { boot, ..machine("server-1") };
    let append = |accel, major| {
        let qemu = Qemu { program: "/bin/qemu".into(), version: Version { major, minor: 2, micro: 0 } };
        let line = command_line(&qemu, &spec, &Wiring { accel, ..wiring(plugged()) });
        line.args[line.args.iter().position(|a| a == "-append").unwrap() + 1].clone()
    };
    assert_eq!(append(Accel::Tcg, 7), "quiet no_timer_check norandmaps");
    assert_eq!(append(Accel::Tcg, 10), "quiet no_timer_check");
    assert_eq!(append(Accel::Kvm, 7), "quiet");
}

#[test]
fn tuning_can_be_turned_off_and_changes_nothing_else() {
    let boot = Boot::Direct { kernel: "/k".into(), initrd: None, cmdline: "quiet".into() };
    let spec = MachineSpec { boot, ..machine("server-1") };
    let off = MachineSpec { tuning: Tuning::OFF, ..spec.clone() };
    let on = |accel| Wiring { accel, ..wiring(plugged()) };
    let changed = change(&shell(&spec, &on(Accel::Tcg)), &shell(&off, &on(Accel::Tcg)));
    let cpu = Accel::Tcg.cpu(true);
    let (old, new) = ("quiet no_timer_check norandmaps", "quiet no_timer_check");
    assert_eq!(changed, format!("- -cpu {cpu}\n- -append '{old}'\n+ -cpu max\n+ -append '{new}'\n"));
    assert_eq!(change(&shell(&spec, &on(Accel::Kvm)), &shell(&off, &on(Accel::Kvm))), "");
    let (spec, off) = (machine("server-1"), MachineSpec { tuning: Tuning::OFF, ..machine("server-1") });
    let changed = change(&shell(&spec, &on(Accel::Tcg)), &shell(&off, &on(Accel::Tcg)));
    let old = format!("- -accel tcg,thread=multi,tb-size=64\n- -cpu {cpu}\n");
    assert_eq!(changed, format!("{old}+ -accel tcg,thread=multi\n+ -cpu max\n"), "by firmware");
    assert_eq!(change(&shell(&spec, &on(Accel::Kvm)), &shell(&off, &on(Accel::Kvm))), "", "by firmware");
}

#[test]
fn direct_boot_without_initrd_has_no_such_option() {
    let direct = |initrd| MachineSpec {
        boot: Boot::Direct { kernel: "/images/vmlinux".into(), initrd, cmdline: "quiet".into() },
        ..machine("server-1")
    };
    let from = shell(&direct(Some("/images/initrd".into())), &wiring(plugged()));
    let to = shell(&direct(None), &wiring(plugged()));
    assert_eq!(change(&from, &to), "- -initrd /images/initrd\n");
}

#[test]
fn by_hand() {
    insta::assert_snapshot!(shell(&with_agent(Channel::Virtserial), &wiring(Plugs::ByHand)));
}

#[test]
fn a_bus_changes_nothing_but_the_disk() {
    let on = |bus| {
        let disk = machine("server-1").disk.map(|disk| DiskSpec { bus, ..disk });
        shell(&MachineSpec { disk, ..machine("server-1") }, &wiring(plugged()))
    };
    let changes = [DiskBus::VirtioScsi, DiskBus::Sata, DiskBus::Nvme]
        .map(|bus| format!("{bus}\n{}", change(&on(DiskBus::VirtioBlk), &on(bus))));
    insta::assert_snapshot!(changes.join("\n"));
}

#[test]
fn a_channel_changes_nothing_but_the_way_to_the_agent() {
    let without = shell(&machine("server-1"), &wiring(plugged()));
    let by_hand = shell(&machine("server-1"), &wiring(Plugs::ByHand));
    let changes = [Channel::Virtserial, Channel::Vsock, Channel::VhostUserVsock].map(|channel| {
        let spec = with_agent(channel);
        let driven = change(&without, &shell(&spec, &wiring(plugged())));
        let alone = change(&by_hand, &shell(&spec, &wiring(Plugs::ByHand)));
        format!("{channel}\n{driven}{channel}, by hand\n{alone}")
    });
    insta::assert_snapshot!(changes.join("\n"));
}

#[test]
fn memory_changes_nothing_but_where_it_lies() {
    let spec = with_agent(Channel::Virtserial);
    let own = shell(&spec, &wiring(plugged()));
    for memory in [Memory::Memfd, Memory::CopyOf("/cache/k, 1/server-1.ram".into())] {
        let restored = matches!(memory, Memory::CopyOf(_));
        let wiring = Wiring { memory, incoming: restored, ..wiring(plugged()) };
        insta::assert_snapshot!(change(&own, &shell(&spec, &wiring)));
    }
}

#[test]
fn data_disks_have_places_and_serials_of_their_own() {
    let disk = |name: &str| DataDisk { name: name.into(), bytes: 1 << 20, image: None };
    let spec = MachineSpec { data_disks: vec![disk("data"), disk("log")], ..machine("server-1") };
    let data = vec!["/lab/server-1.data.qcow2".into(), "/lab/server-1.log.qcow2".into()];
    let plain = shell(&machine("server-1"), &wiring(plugged()));
    insta::assert_snapshot!(change(&plain, &shell(&spec, &Wiring { data, ..wiring(plugged()) })));
}

#[test]
fn a_nic_is_where_it_was_plugged() {
    let spec = machine("server-1");
    let plain = shell(&spec, &wiring(plugged()));
    let Plugs::Driver { nics, qmp, qmp_people, serial, agent, journal, shell: backdoor, cid } = plugged()
    else {
        panic!("driven")
    };
    let nics = nics[1..].to_vec();
    let plugs = Plugs::Driver { nics, qmp, qmp_people, serial, agent, journal, shell: backdoor, cid };
    let wiring = Wiring { nics: vec![(spec.nics[1].clone(), 3)], ..wiring(plugs) };
    insta::assert_snapshot!(change(&plain, &shell(&spec, &wiring)));
}

#[test]
fn a_recipe_is_the_whole_command_line_without_what_is_a_single_runs() {
    let boot = Boot::Direct { kernel: "/k".into(), initrd: None, cmdline: "quiet".into() };
    let spec = MachineSpec { boot, ..with_agent(Channel::Virtserial) };
    let qemu = Qemu { program: "/bin/qemu".into(), version: Version { major: 7, minor: 2, micro: 0 } };
    let text = recipe(&qemu, Accel::Tcg, &spec, Memory::Memfd).expect("no firmware is needed").to_shell();
    let driven = shell(&spec, &Wiring { memory: Memory::Memfd, firmware: None, ..wiring(plugged()) });
    let (words, all) = (text.split_whitespace().count(), driven.split_whitespace().count());
    assert_eq!(words - 2, all, "\"monitor of people\" is three words:\n{}", change(&driven, &text));
    assert!(text.contains("vmgenid") && text.contains("ctrl_vlan=off"), "{text}");
    assert!(!text.contains("/lab/") && !text.contains("/run/"), "{text}");
}

#[test]
fn a_fast_nic_shares_the_memory_and_changes_nothing_else() {
    let mut spec = machine("server-1");
    let plain = shell(&spec, &wiring(plugged()));
    spec.nics[1].backend = NicBackend::VhostUser;
    let wiring = Wiring { nics: spec.nics.iter().cloned().zip(0..).collect(), ..wiring(plugged()) };
    insta::assert_snapshot!(change(&plain, &shell(&spec, &wiring)));
}

#[test]
fn an_agent_inside_the_image_needs_no_disk() {
    let inside = AgentSpec { source: AgentSource::Image, channel: Channel::Virtserial };
    let spec = MachineSpec { agent: Some(inside), ..machine("server-1") };
    let text = shell(&spec, &wiring(plugged()));
    assert!(!text.contains("agentdisk") && text.contains("name=rackless.agent"), "{text}");
}

#[test]
fn credentials_are_binary_and_commas_in_paths_are_doubled() {
    let spec = MachineSpec {
        credentials: vec![("ssh.key".into(), vec![0, 0xff, b',']), ("empty".into(), Vec::new())],
        ..machine("server-1")
    };
    let plain = shell(&machine("server-1"), &wiring(plugged()));
    let odd = Wiring { overlay: Some("/lab/a,b c.qcow2".into()), ..wiring(plugged()) };
    insta::assert_snapshot!(change(&plain, &shell(&spec, &odd)));
}

#[test]
fn every_pci_address_is_taken_once() {
    for channel in [Channel::Virtserial, Channel::Vsock, Channel::VhostUserVsock] {
        let text = shell(&with_agent(channel), &wiring(plugged()));
        let words = text.split([',', ' ', '\n']);
        let mut taken: Vec<&str> = words.filter(|w| w.starts_with("addr=")).collect();
        let count = taken.len();
        taken.sort_unstable();
        taken.dedup();
        // VGA, random numbers, panic, disk, agent disk, channel, two NICs and the spare ports.
        assert_eq!((taken.len(), count), (8 + SPARE_PORTS, 8 + SPARE_PORTS), "{text}");
    }
}

#[test]
fn a_shell_reads_back_every_word() {
    let words = [
        "",
        " ",
        "a b",
        "it's",
        "''",
        "\"$HOME\"",
        "`id`",
        "*",
        "~",
        "#",
        "a\nb",
        "\\",
        "-x",
        "a;b",
        "{a,b}",
        "/plain/path,x=1:2+3@4%5",
    ];
    let mut args = vec!["%s\\0".to_owned()];
    args.extend(words.map(str::to_owned));
    let text = CommandLine { program: "printf".into(), args }.to_shell();
    let command = process::Command::new("/bin/sh").args(["-c", &text]);
    let output = process::run_blocking(command, Duration::from_secs(20)).expect("a shell runs");
    let read = String::from_utf8(output.stdout).expect("UTF-8");
    assert_eq!(read.split_terminator('\0').collect::<Vec<_>>(), words, "{text}");
}

#[test]
fn a_backdoor_has_a_virtio_console_and_no_port_of_an_agent() {
    let spec = MachineSpec { shell: Some(ShellSpec::Backdoor), ..machine("server-1") };
    let text = shell(&spec, &wiring(plugged()));
    for part in ["id=shell0,path=/run/server-1.shell", "virtconsole,bus=vser0.0,chardev=shell0"] {
        assert!(text.contains(part), "{part}: {text}");
    }
    assert!(!text.contains("rackless.agent"), "{text}");
    assert!(shell(&spec, &wiring(Plugs::ByHand)).contains("null,id=shell0"));
    // The agent is the better way in where there is one.
    let both = MachineSpec { shell: Some(ShellSpec::Backdoor), ..with_agent(Channel::Virtserial) };
    assert!(!shell(&both, &wiring(plugged())).contains("virtconsole"));
}

#[test]
fn an_agent_that_comes_over_the_backdoor_has_its_port_beside_it() {
    let over_shell = |channel| {
        let agent = AgentSpec { source: AgentSource::OverShell("/agent".into()), channel };
        let spec =
            MachineSpec { shell: Some(ShellSpec::Backdoor), agent: Some(agent), ..machine("server-1") };
        shell(&spec, &wiring(plugged()))
    };
    let text = over_shell(Channel::Virtserial);
    for part in ["virtconsole,bus=vser0.0,chardev=shell0", "name=rackless.agent", "name=rackless.journal"] {
        assert!(text.contains(part), "{part}: {text}");
    }
    assert!(text.matches("virtio-serial-pci").count() == 1 && !text.contains("agentdisk"), "{text}");
    // The place of the vsock device is that of the controller otherwise.
    let text = over_shell(Channel::Vsock);
    assert!(text.contains("virtio-serial-pci,id=vser0,bus=pcie.0,addr=0x6"), "{text}");
    assert!(text.contains("vhost-vsock-pci,id=vsock0,bus=pcie.0,addr=0x7"), "{text}");
}
