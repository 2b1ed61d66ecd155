//! Captures, read back by somebody else's parser.

use std::fs::File;
use std::path::Path;
use std::time::{Duration, SystemTime};

use pcap_file::pcapng::blocks::enhanced_packet::EnhancedPacketOption;
use pcap_file::pcapng::blocks::interface_description::InterfaceDescriptionOption;
use pcap_file::pcapng::{Block, PcapNgReader};
use pretty_assertions::assert_eq;
use switch::*;

#[derive(Debug, PartialEq)]
struct Packet {
    port: String,
    flags: u32,
    comment: Option<String>,
    data: Vec<u8>,
}

fn read(path: &Path) -> (Vec<Packet>, Vec<Duration>) {
    let mut reader = PcapNgReader::new(File::open(path).unwrap()).unwrap();
    let (mut ports, mut packets, mut times) = (Vec::new(), Vec::new(), Vec::new());
    while let Some(block) = reader.next_block() {
        match block.unwrap() {
            Block::InterfaceDescription(interface) => {
                assert_eq!(u32::from(interface.linktype), 1, "Ethernet");
                assert!(interface.options.contains(&InterfaceDescriptionOption::IfTsResol(9)), "nanoseconds");
                ports.extend(interface.options.iter().find_map(|option| match option {
                    InterfaceDescriptionOption::IfName(name) => Some(name.to_string()),
                    _ => None,
                }));
            }
            Block::EnhancedPacket(packet) => {
                assert_eq!(packet.original_len as usize, packet.data.len());
                let flags = packet.options.iter().find_map(|option| match option {
                    EnhancedPacketOption::Flags(flags) => Some(*flags),
                    _ => None,
                });
                let comment = packet.options.iter().find_map(|option| match option {
                    EnhancedPacketOption::Comment(comment) => Some(comment.to_string()),
                    _ => None,
                });
                times.push(packet.timestamp);
                packets.push(Packet {
                    port: ports[packet.interface_id as usize].clone(),
                    flags: flags.unwrap(),
                    comment,
                    data: packet.data.to_vec(),
                });
            }
            other => panic!("{other:?}"),
        }
    }
    (packets, times)
}

#[test]
fn what_crossed_is_in_the_file_and_in_the_dump() {
    let dir = tempfile::tempdir().unwrap();
    let sw = Switch::start(SwitchOptions::new("sw", dir.path())).unwrap();
    let vlan = VlanId::new(100).unwrap();
    let a = sw.add_port(PortConfig::new("server-1/eth1", PortMode::Access { vlan })).unwrap();
    let b =
        sw.add_port(PortConfig::new("b", PortMode::Trunk { allowed: vlan.into(), native: None })).unwrap();
    let before = SystemTime::now();
    let (all, only_b, dump) = (dir.path().join("all"), dir.path().join("b"), dir.path().join("dump"));
    let capture = sw.capture_to(&all, &FrameFilter::new()).unwrap();
    sw.capture_to(&only_b, &FrameFilter::new().port("b")).unwrap();
    let (mut ca, mut cb) = (sw.attach_channel(a).unwrap(), sw.attach_channel(b).unwrap());

    let mut expected = Vec::new();
    for length in [14, 15, 16, 17, 1514, 9014, 65_549] {
        let mut frame = b"\xff\xff\xff\xff\xff\xff\x52\x54\x00\x00\x00\x01\x88\xb5".to_vec();
        frame.resize(length, 0xaa);
        ca.send(&frame).unwrap();
        let tagged = cb.recv(Duration::from_secs(30)).unwrap().unwrap();
        expected.push(Packet { port: "server-1/eth1".into(), flags: 1, comment: None, data: frame });
        expected.push(Packet { port: "b".into(), flags: 2, comment: None, data: tagged.to_vec() });
    }
    let untagged = expected[0].data.clone();
    cb.send(&untagged).unwrap();
    let comment = Some("dropped: an untagged frame on a trunk without native VLAN".into());
    expected.push(Packet { port: "b".into(), flags: 1, comment, data: untagged });

    let recording = sw.recording(&FrameFilter::new()).unwrap();
    assert_eq!((recording.frames().len(), recording.missing()), (expected.len(), 0));
    recording.write_pcapng(&dump).unwrap();
    let port = dir.path().join("port");
    sw.recording(&FrameFilter::new().port("b")).unwrap().write_pcapng(&port).unwrap();
    assert!(sw.recording(&FrameFilter::new().port("c")).is_err(), "there never was such a port");
    let report = sw.stop_capture(capture).unwrap();
    assert_eq!((report.frames as usize, report.lost, report.error), (expected.len(), 0, None));
    assert_eq!(report.bytes, std::fs::metadata(&all).unwrap().len());
    let reports = sw.stop().unwrap();
    assert_eq!(reports.len(), 1, "the other capture was ended by the stop");

    let (packets, times) = read(&all);
    assert_eq!(packets, expected);
    assert!(times.is_sorted());
    let first = SystemTime::UNIX_EPOCH + times[0];
    assert!(first + Duration::from_millis(1) >= before && first <= SystemTime::now());
    assert_eq!(read(&dump).0, expected);
    expected.retain(|packet| packet.port == "b");
    assert_eq!(read(&only_b).0, expected);
    assert_eq!(read(&port).0, expected);
}

#[test]
fn a_capture_that_cannot_begin_says_so_and_one_that_ended_cannot_end_again() {
    let dir = tempfile::tempdir().unwrap();
    let sw = Switch::start(SwitchOptions::new("sw", dir.path())).unwrap();
    let error = sw.capture_to(&dir.path().join("no/such/dir"), &FrameFilter::new()).unwrap_err();
    assert!(matches!(error, Error::Write { .. }) && error.to_string().contains("no/such/dir"), "{error}");
    let error = sw.capture_to(Path::new("/dev/full"), &FrameFilter::new()).unwrap_err();
    assert!(error.to_string().contains("space"), "{error}");
    let id = sw.capture_to(&dir.path().join("x"), &FrameFilter::new()).unwrap();
    sw.stop_capture(id).unwrap();
    assert!(matches!(sw.stop_capture(id), Err(Error::UnknownCapture { .. })));
}
