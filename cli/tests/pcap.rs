//! `rackless pcap` as a user meets it, of a lab without machines. No QEMU runs.

mod lab;

use std::fs::File;
use std::io::Read;
use std::os::unix::net::UnixListener;

use lab::{LIMIT, Running, fails, rackless, succeeds, vlan};
use pcap_file::pcapng::blocks::interface_description::InterfaceDescriptionOption;
use pcap_file::pcapng::{Block, PcapNgReader};
use pretty_assertions::assert_eq;
use process::RunDir;
use switch::{PortConfig, PortMode};

/// The port and the last bytes of each frame.
fn read(pcapng: impl Read) -> Vec<(String, String)> {
    let mut reader = PcapNgReader::new(pcapng).unwrap();
    let (mut ports, mut frames) = (Vec::new(), Vec::new());
    while let Some(block) = reader.next_block() {
        match block.unwrap() {
            Block::InterfaceDescription(interface) => {
                ports.extend(interface.options.iter().find_map(|option| match option {
                    InterfaceDescriptionOption::IfName(name) => Some(name.to_string()),
                    _ => None,
                }));
            }
            Block::EnhancedPacket(packet) => {
                let port = ports[packet.interface_id as usize].clone();
                frames.push((port, String::from_utf8_lossy(&packet.data[14..]).into_owned()));
            }
            other => panic!("{other:?}"),
        }
    }
    frames
}

#[test]
fn the_latest_frames_are_written_and_those_of_a_port_or_a_vlan_alone() {
    let running = Running::start();
    let (_, mut from) = running.port("server-1/eth1");
    let (_, mut to) = running.port("agent-1/eth1");
    let fast = PortConfig::new("agent-2/eth1", PortMode::Access { vlan: vlan() }).fast(true);
    running.switch().add_port(fast).unwrap();
    from.send(b"\xff\xff\xff\xff\xff\xff\x52\x54\x00\x00\x00\x01\x88\xb5hello").unwrap();
    to.recv(LIMIT).unwrap().unwrap();
    let frame = |port: &str| (port.to_owned(), "hello".to_owned());
    let both = [frame("server-1/eth1"), frame("agent-1/eth1")];

    let output = rackless(&["pcap", "--run", &running.run]);
    let told = String::from_utf8(output.stderr).unwrap();
    assert!(output.status.success(), "{told}");
    assert_eq!(told, "rackless: the latest 2 frames; none of vhost-user ports: agent-2/eth1\n");
    assert_eq!(read(&output.stdout[..]), both);

    let file = running.artifacts.path().join("frames.pcapng");
    let written = |filter: &[&str]| {
        let args = [&["pcap", "--run", &running.run, "-o", file.to_str().unwrap()], filter].concat();
        assert_eq!(succeeds(&args), "");
        read(File::open(&file).unwrap())
    };
    assert_eq!(written(&["--vlan", "100"]), both);
    assert_eq!(written(&["--vlan", "101"]), []);
    assert_eq!(written(&["--port", "agent-1/eth1"]), both[1..]);
    assert_eq!(written(&["--port", "agent-1/eth1", "--port", "server-1/eth1"]), both);

    let refused = |filter: &[&str]| fails(&[&["pcap", "--run", &running.run], filter].concat());
    let (code, told) = refused(&["--port", "agent-9/eth1"]);
    assert_eq!(code, Some(1));
    assert!(told.contains("agent-9/eth1") && told.contains("server-1/eth1"), "{told}");
    let (code, told) = refused(&["--port", "agent-2/eth1"]);
    assert_eq!(code, Some(1));
    assert!(told.contains("port agent-2/eth1 is a vhost-user port"), "{told}");
    assert_eq!(refused(&["--vlan", "4095"]).0, Some(2));
    running.end();
}

/// A lab that ends in the middle must not look like a short capture.
#[test]
fn frames_that_are_cut_off_are_no_file() {
    let name = format!("pcap-{}-cut", std::process::id());
    let run = RunDir::create(&name).unwrap();
    let listener = UnixListener::bind(run.socket("control").unwrap()).unwrap();
    let lab = std::thread::spawn(move || {
        let (mut stream, _) = listener.accept().unwrap();
        let answer = br#"{"answer":"frames","frames":9,"missing":0,"unseen":[],"bytes":900}"#;
        std::io::Write::write_all(&mut stream, &[answer, &b"\n"[..], &[0; 100]].concat()).unwrap();
        let mut asked = [0; 4096];
        let count = stream.read(&mut asked).unwrap();
        String::from_utf8(asked[..count].to_vec()).unwrap()
    });
    let (code, told) = fails(&["pcap", "--run", &name]);
    assert_eq!((code, told), (Some(1), format!("rackless: {name}: the lab ended after 100 of 900 bytes\n")));
    assert_eq!(lab.join().unwrap(), "{\"request\":\"frames\",\"ports\":[],\"vlan\":null}\n");
}
