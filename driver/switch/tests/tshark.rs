//! Captures, read back by tshark. Not part of the gate: it needs Debian's `tshark`.
//! `cargo test -p switch --test tshark -- --ignored`

use std::path::Path;
use std::process::Command;
use std::time::Duration;

use etherparse::{IcmpEchoHeader, Icmpv4Type, Icmpv6Type, PacketBuilder};
use pretty_assertions::assert_eq;
use switch::*;

const LIMIT: Duration = Duration::from_secs(30);
const A: [u8; 6] = [0x52, 0x54, 0, 0, 0, 1];

/// What tshark says of each frame: these fields, each with all of its values.
fn tshark(file: &Path, fields: &[&str]) -> Vec<Vec<String>> {
    let mut command = Command::new("tshark");
    command.args(["-n", "-T", "fields", "-E", "separator=|", "-r"]).arg(file);
    fields.iter().for_each(|field| {
        command.args(["-e", field]);
    });
    #[expect(clippy::disallowed_methods, reason = "it reads a file and ends; nothing of it can be left over")]
    let output =
        command.output().expect("tshark runs; on Debian: apt-get install --no-install-recommends tshark");
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{}: {errors}", output.status);
    let lines = String::from_utf8(output.stdout).unwrap();
    lines.lines().map(|line| line.split('|').map(str::to_owned).collect()).collect()
}

fn frame(build: impl FnOnce(&mut Vec<u8>)) -> Vec<u8> {
    let mut bytes = Vec::new();
    build(&mut bytes);
    bytes
}

#[test]
#[ignore = "needs tshark"]
fn tshark_sees_the_ports_tags_and_protocols_that_we_see() {
    let dir = tempfile::tempdir().unwrap();
    let sw = Switch::start(SwitchOptions::new("rack", dir.path())).unwrap();
    let vlan = VlanId::new(200).unwrap();
    let trunk = PortMode::Trunk { allowed: "100,200".parse().unwrap(), native: None };
    let server = sw.add_port(PortConfig::new("server-1/eth1", PortMode::Access { vlan })).unwrap();
    let agent = sw.add_port(PortConfig::new("agent-1/eth1", trunk)).unwrap();
    let (whole, of_port, dump) = (dir.path().join("all"), dir.path().join("port"), dir.path().join("ring"));
    sw.capture_to(&whole, &FrameFilter::new()).unwrap();
    sw.capture_to(&of_port, &FrameFilter::new().port("agent-1/eth1")).unwrap();
    let capture = sw.capture(FrameFilter::new()).unwrap();
    let (mut server, mut agent) = (sw.attach_channel(server).unwrap(), sw.attach_channel(agent).unwrap());

    let ethernet = || PacketBuilder::ethernet2(A, [0xff; 6]);
    let v4 = || ethernet().ipv4([10, 0, 0, 1], [10, 0, 0, 2], 64);
    let v6 = || ethernet().ipv6([0xfd; 16], [0xfe; 16], 64);
    let echo = IcmpEchoHeader { id: 1, seq: 1 };
    let arp = b"\x00\x01\x08\x00\x06\x04\x00\x01\x52\x54\x00\x00\x00\x01\x0a\x00\x00\x01\0\0\0\0\0\0\x0a\x00\x00\x02";
    for bytes in [
        frame(|out| v4().tcp(40000, 2379, 1, 1000).syn().write(out, b"").unwrap()),
        frame(|out| v4().udp(4000, 5000).write(out, b"hello").unwrap()),
        frame(|out| v4().icmpv4(Icmpv4Type::EchoRequest(echo)).write(out, b"x").unwrap()),
        frame(|out| v6().icmpv6(Icmpv6Type::EchoReply(echo)).write(out, b"x").unwrap()),
        frame(|out| v6().tcp(40000, 6443, 1, 1000).write(out, b"x").unwrap()),
        [&[0xff; 6], &A[..], b"\x08\x06", arp].concat(),
    ] {
        server.send(&bytes).unwrap();
        agent.recv(LIMIT).unwrap().unwrap();
    }
    // Three tags, the outermost a VLAN of the trunk, which nobody else is in.
    let nested =
        [&[0xff; 6], &A[..], b"\x81\x00\x00\x64\x88\xa8\x00\x0b\x81\x00\x00\x0c\x08\x06", arp].concat();
    agent.send(&nested).unwrap();

    let crossed = capture.finish().unwrap();
    crossed.write_pcapng(&dir.path().join("step")).unwrap();
    sw.recording(&FrameFilter::new()).unwrap().write_pcapng(&dump).unwrap();
    sw.stop().unwrap();
    let ours: Vec<Vec<String>> = crossed.frames().unwrap().iter().map(ours).collect();
    assert_eq!(ours.len(), 13);
    let fields =
        ["frame.interface_name", "vlan.id", "ieee8021ad.id", "frame.protocols", "tcp.dstport", "udp.dstport"];
    let theirs = |file: &Path| -> Vec<Vec<String>> {
        let lines = tshark(file, &fields);
        let line = |line: Vec<String>| {
            let [port, vlans, service, protocols, tcp, udp] = line.try_into().unwrap();
            // Of each stack only the name that says most; what is above TCP and UDP is a guess by port.
            let known = ["arp", "tcp", "udp", "icmpv6", "icmp"];
            let protocol = known.iter().find(|name| protocols.split(':').any(|other| other == **name));
            vec![port, vlans, service, protocol.copied().unwrap_or_default().to_owned(), tcp + &udp]
        };
        lines.into_iter().map(line).collect()
    };
    for file in [&whole, &dump, &dir.path().join("step")] {
        assert_eq!(theirs(file), ours, "{}", file.display());
    }
    let ours: Vec<_> = ours.into_iter().filter(|line| line[0] == "agent-1/eth1").collect();
    assert_eq!(theirs(&of_port), ours);
}

#[test]
#[ignore = "needs tshark"]
fn tshark_reads_what_the_switch_says_by_lldp() {
    let dir = tempfile::tempdir().unwrap();
    let sw = Switch::start(SwitchOptions::new("rack", dir.path())).unwrap();
    let native = Some(VlanId::new(1).unwrap());
    let trunk = PortMode::Trunk { allowed: "100,200".parse().unwrap(), native };
    let port = sw.add_port(PortConfig::new("agent-1/eth1", trunk)).unwrap();
    let mut agent = sw.attach_channel(port).unwrap();
    let capture = sw.capture(FrameFilter::new()).unwrap();
    sw.set_lldp(Some(LldpConfig::new())).unwrap();
    agent.recv(LIMIT).unwrap().unwrap();
    let file = dir.path().join("lldp");
    capture.finish().unwrap().write_pcapng(&file).unwrap();
    let fields = [
        "frame.protocols",
        "eth.dst",
        "lldp.port.id",
        "lldp.port.desc",
        "lldp.tlv.system.name",
        "lldp.time_to_live",
        "lldp.tlv.enable_system_cap.bridge",
        "lldp.ieee.802_1.port_vlan.id",
        "lldp.ieee.802_1.vlan.id",
        "lldp.ieee.802_1.vlan.name",
        "_ws.malformed",
        "_ws.expert.message",
    ];
    let [line] = &tshark(&file, &fields)[..] else { panic!("one LLDPDU") };
    let [protocols, rest @ ..] = &line[..] else { panic!("{line:?}") };
    assert!(protocols.ends_with(":lldp"), "{protocols}");
    let expected = [
        "01:80:c2:00:00:0e",
        "agent-1/eth1",
        "agent-1/eth1",
        "rack",
        "121",
        "1",
        "1",
        "1,100,200",
        "VLAN0001,VLAN0100,VLAN0200",
        "",
        "",
    ];
    assert_eq!(rest, expected);
}

/// The same of our own reading.
fn ours(frame: &CapturedFrame) -> Vec<String> {
    let summary = frame.summary().unwrap();
    let tags = |tpid: u16| -> String {
        let ids = summary.tags.iter().filter(|tag| tag.tpid == tpid).map(|tag| tag.tci.vid().to_string());
        ids.collect::<Vec<_>>().join(",")
    };
    let protocol = match &summary.net {
        Some(NetSummary::Arp(_)) => "arp",
        Some(NetSummary::Ip(ip)) => match ip.transport {
            Some(Transport::Tcp(_)) => "tcp",
            Some(Transport::Udp(_)) => "udp",
            Some(Transport::Icmp(_)) if ip.src.is_ipv6() => "icmpv6",
            Some(Transport::Icmp(_)) => "icmp",
            _ => "",
        },
        _ => "",
    };
    let to = summary.net.as_ref().and_then(NetSummary::ports).map(|(_, to)| to.to_string());
    vec![frame.port_name.to_string(), tags(0x8100), tags(0x88a8), protocol.to_owned(), to.unwrap_or_default()]
}
