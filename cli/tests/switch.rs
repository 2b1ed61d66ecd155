//! `rackless switch` as a user meets it, of a lab without machines. No QEMU runs.

mod lab;

use std::sync::atomic::{AtomicU32, Ordering};

use lab::{LIMIT, Running, fails, rackless, succeeds, vlan};
use pretty_assertions::assert_eq;
use process::RunDir;
use services::{Clients, DhcpScope, Host, HostOptions};
use switch::lldp::{ChassisId, PortIdentity};
use switch::{
    BundleConfig, ImpairTarget, Impairment, LacpMode, LldpConfig, Lldpdu, Mac, PartitionSpec, PortMode,
    UplinkConfig, UplinkKind, VdeConfig,
};

/// The lines of a text as words, so that widths of columns don't matter.
fn words(text: &str) -> Vec<String> {
    text.lines().map(|line| line.split_whitespace().collect::<Vec<_>>().join(" ")).collect()
}

#[test]
fn what_the_switch_does_is_shown_and_the_same_is_in_the_json() {
    let running = Running::start();
    let sw = running.switch();
    let (a, mut from) = running.port("server-1/eth1");
    let (b, mut to) = running.port("agent-1/eth1");
    let (c, _joined) = running.port("agent-2/eth1");
    let bundle = BundleConfig::new("agent-2/bond0", PortMode::Access { vlan: vlan() }, [c]);
    sw.add_bundle(bundle.lacp(LacpMode::Static)).unwrap();
    sw.set_admin(c, false).unwrap();
    let host =
        Host::start(sw, HostOptions::new("dhcp/lan", vlan(), "192.168.1.254/24".parse().unwrap())).unwrap();
    host.serve_dhcp(DhcpScope::default()).unwrap();

    let mut frame = vec![0xff; 64];
    frame[6..14].copy_from_slice(&[0x52, 0x54, 0, 0, 0, 1, 0x88, 0xb5]);
    from.send(&frame).unwrap();
    to.recv(LIMIT).unwrap().unwrap();
    frame[12..16].copy_from_slice(&[0x81, 0, 0, 5]);
    from.send(&frame).unwrap();
    sw.partition(PartitionSpec::between([a], [b]).one_way().on_vlans(vlan())).unwrap();
    sw.impair(ImpairTarget::Pair { from: a, to: b }, Impairment::new().loss(0.5)).unwrap();

    let shown = succeeds(&["switch", "--run", &running.run]);
    let lines = words(&shown);
    for expected in [
        "PORT LINK MODE RX BYTES TX BYTES DROPPED WAITING",
        "server-1/eth1 up access 100 2 128 0 0 1 0",
        "dropped in: 1, a tagged frame on an access port",
        "agent-1/eth1 up access 100 0 0 1 64 0 0",
        "agent-2/eth1 down in agent-2/bond0 0 0 0 0 0 0",
        "BUNDLE agent-2/bond0: access 100, static, by layer 3+4; 0 of 1 carry frames",
        "agent-2/eth1 no - - - - -",
        "VLAN ADDRESS LEARNT ON SEEN",
        "100 52:54:00:00:00:01 server-1/eth1 0 s ago",
        "PARTITION 0: nothing goes from server-1/eth1 to agent-1/eth1 in VLAN 100",
        "IMPAIRMENT 0 from server-1/eth1 to agent-1/eth1: loss 50 %",
        "LEASES of dhcp/lan: 0",
    ] {
        assert!(lines.iter().any(|line| line == expected), "no {expected:?} in:\n{shown}");
    }
    let heading = format!("rack run {} up 0 s seed 7", running.run);
    assert_eq!(lines[0], heading);

    let json: serde_json::Value =
        serde_json::from_str(&succeeds(&["switch", "--json", "--run", &running.run])).unwrap();
    assert_eq!(json["lab"], "rack");
    assert_eq!(json["switch"]["ports"][0]["name"], "server-1/eth1");
    assert_eq!(json["switch"]["ports"][0]["counters"]["rx"]["dropped"]["tagged_on_access"], 1);
    assert_eq!(json["switch"]["bundles"][0]["members"][0]["active"], false);
    assert_eq!(json["switch"]["fdb"][0]["mac"], "52:54:00:00:00:01");
    assert_eq!(json["switch"]["services"][0]["state"]["leases"], serde_json::json!([]));

    let svg = succeeds(&["switch", "--svg", "-", "--run", &running.run]);
    for expected in [
        ">rack</text>",
        ">server-1/eth1</text>",
        ">dhcp/lan</text>",
        ">access 100</text>",
        ">VLAN 100</text>",
        ">1 address learnt</text>",
        "2 faults in force",
        "✕ down",
    ] {
        assert!(svg.contains(expected), "no {expected:?} in:\n{svg}");
    }
    host.stop().unwrap();
    running.end();
}

#[test]
fn what_leads_beyond_the_lab_who_was_heard_and_what_services_do_wrong_is_shown() {
    let running = Running::start();
    let sw = running.switch();
    let (_, mut guest) = running.port("server-1/eth1");
    let dir = running.artifacts.path().join("vde");
    let vde = VdeConfig { dir: Some(dir.clone()), ..VdeConfig::default() };
    let mode = PortMode::Access { vlan: vlan() };
    sw.add_uplink(UplinkConfig { name: "spine".into(), mode, kind: UplinkKind::Vde(vde) }).unwrap();
    sw.set_lldp(Some(LldpConfig::new())).unwrap();
    // What a guest says must not steer the terminal.
    let (chassis, port) = (ChassisId::Local("\x1b[2Jguest".into()), PortIdentity::Interface("eth1".into()));
    let says = Lldpdu { system_name: Some("server-1.lan".into()), ..Lldpdu::new(chassis, port, 120) };
    guest.send(&says.to_frame(Mac([0x52, 0x54, 0, 0, 0, 1]))).unwrap();
    let address = "192.168.1.254/24".parse().unwrap();
    let host = Host::start(sw, HostOptions::new("dhcp/lan", vlan(), address)).unwrap();
    let silent = host.serve_dhcp(DhcpScope::default()).unwrap().ignore(Clients::All).unwrap();

    let shown = succeeds(&["switch", "--run", &running.run]);
    let lines = words(&shown);
    let uplink = format!("UPLINK spine: vde {}", dir.display());
    for expected in [
        uplink.as_str(),
        "PORT NEIGHBOUR ITS PORT SYSTEM HEARD",
        "server-1/eth1 \u{fffd}[2Jguest eth1 server-1.lan 0 s ago",
        "FAULT 0: DHCP of dhcp/lan ignores all clients, for 0 s",
    ] {
        assert!(lines.iter().any(|line| line == expected), "no {expected:?} in:\n{shown}");
    }
    silent.heal();
    assert!(!succeeds(&["switch", "--run", &running.run]).contains("FAULT"));
    host.stop().unwrap();
    running.end();
}

#[test]
fn a_lab_that_is_not_there_is_told() {
    let (code, told) = fails(&["switch", "--run", "nowhere"]);
    assert_eq!(code, Some(2));
    assert!(told.starts_with(r#"rackless: no run "nowhere"; "#), "{told}");

    let name = format!("switch-{}-bare", std::process::id());
    let bare = RunDir::create(&name).unwrap();
    let (code, told) = fails(&["switch", "--run", &name]);
    assert_eq!(code, Some(1));
    assert!(told.starts_with(&format!("rackless: the run {name} has no lab now: ")), "{told}");
    drop(bare);

    let (first, second) = (Running::start(), Running::start());
    let (code, told) = fails(&["switch"]);
    assert_eq!(code, Some(2));
    assert!(told.starts_with("rackless: several labs are running: choose with --run; there are "), "{told}");
    assert!(told.contains(&first.run) && told.contains(&second.run), "{told}");
    first.end();
    second.end();
}

#[test]
fn watching_ends_with_the_lab() {
    let running = Running::start();
    let name = running.run.clone();
    let watching =
        std::thread::spawn(move || rackless(&["switch", "--json", "--watch", "0.1", "--run", &name]));
    // As soon as it has been asked twice, it watches.
    let sw = running.switch().clone();
    let (port, _peer) = running.port("server-1/eth1");
    let asked = std::sync::Arc::new(AtomicU32::new(0));
    let counted = asked.clone();
    sw.describe_service(port, "asked", move || Some(counted.fetch_add(1, Ordering::Relaxed).into()));
    let end = std::time::Instant::now() + LIMIT;
    while asked.load(Ordering::Relaxed) < 2 {
        assert!(std::time::Instant::now() < end, "nobody asks");
        std::thread::yield_now();
    }
    running.end();
    let output = watching.join().unwrap();
    assert!(output.status.success(), "{output:?}");
    let stdout = String::from_utf8(output.stdout).unwrap();
    assert!(stdout.lines().count() >= 2, "{stdout}");
    for line in stdout.lines() {
        serde_json::from_str::<serde_json::Value>(line).unwrap();
    }
    assert_eq!(String::from_utf8(output.stderr).unwrap(), "rackless: the lab rack has ended\n");
}
