//! Captures that a test holds: what crossed during a step, on the wire of a port.

use std::time::Duration;

use etherparse::PacketBuilder;
use futures::StreamExt;
use pretty_assertions::assert_eq;
use switch::*;
use tempfile::TempDir;

const LIMIT: Duration = Duration::from_secs(30);

/// For what must not come: the switch has acted on all that was sent when it is asked.
const NOTHING: Duration = Duration::from_millis(20);

/// An access port and a trunk of VLAN 200, and what is at their ends.
struct Rack {
    sw: Switch,
    server: Channel,
    agent: Channel,
    _dir: TempDir,
}

impl Rack {
    fn new() -> Rack {
        let dir = tempfile::tempdir().unwrap();
        let sw = Switch::start(SwitchOptions::new("rack", dir.path())).unwrap();
        let vlan = VlanId::new(200).unwrap();
        let trunk = PortMode::Trunk { allowed: vlan.into(), native: None };
        let server = sw.add_port(PortConfig::new("server-1/eth1", PortMode::Access { vlan })).unwrap();
        let agent = sw.add_port(PortConfig::new("agent-1/eth1", trunk)).unwrap();
        let (server, agent) = (sw.attach_channel(server).unwrap(), sw.attach_channel(agent).unwrap());
        Rack { sw, server, agent, _dir: dir }
    }

    fn capture(&self) -> FrameCapture {
        self.sw.capture(FrameFilter::new()).unwrap()
    }
}

/// UDP from server-1 to everybody.
fn udp(to: u16, length: usize) -> Vec<u8> {
    let ethernet = PacketBuilder::ethernet2([0x52, 0x54, 0, 0, 0, 1], [0xff; 6]);
    let mut frame = Vec::new();
    ethernet
        .ipv4([10, 0, 0, 1], [10, 0, 0, 255], 64)
        .udp(4000, to)
        .write(&mut frame, &vec![7; length])
        .unwrap();
    frame
}

fn to_port(frame: &CapturedFrame, port: u16) -> bool {
    frame.summary().is_some_and(|it| it.udp().is_some_and(|udp| udp.dst_port == port))
}

fn is_tagged_200(frame: &CapturedFrame) -> bool {
    frame.summary().is_some_and(|it| it.vids() == [200])
}

#[test]
fn a_step_is_judged_by_what_was_on_each_wire() {
    let mut rack = Rack::new();
    rack.server.send(&udp(1, 10)).unwrap();
    let left = FrameFilter::new().port("agent-1/eth1").direction(Direction::Out);
    let capture = rack.sw.capture(left).unwrap();
    let everywhere = rack.capture();
    rack.server.send(&udp(2, 10)).unwrap();
    let crossed = capture.finish().unwrap();
    rack.server.send(&udp(3, 10)).unwrap();

    assert_eq!(crossed.frames().unwrap().len(), 1, "neither the one before nor the one after");
    let frame = crossed.assert_some("the frame of the step", |frame| to_port(frame, 2)).unwrap();
    assert!(is_tagged_200(frame), "as it left by the trunk: {frame}");
    assert_eq!(frame.payload(), [7; 10]);

    let everywhere = everywhere.finish().unwrap();
    let ways: Vec<_> = everywhere
        .frames()
        .unwrap()
        .iter()
        .filter(|frame| to_port(frame, 2))
        .map(|frame| (&*frame.port_name, frame.direction, is_tagged_200(frame)))
        .collect();
    assert_eq!(
        ways,
        [("server-1/eth1", Direction::In, false), ("agent-1/eth1", Direction::Out, true)],
        "each with the tags of its wire"
    );
}

#[test]
fn what_should_not_have_crossed_is_shown_line_by_line() {
    let mut rack = Rack::new();
    let mut capture = rack.capture();
    for port in 1..=8 {
        rack.server.send(&udp(port, 10)).unwrap();
    }
    let crossed = capture.so_far().unwrap();
    assert_eq!(crossed.count(is_tagged_200).unwrap(), 8);
    crossed.assert_none("no frame to port 9", |frame| to_port(frame, 9)).unwrap();
    let what = "no frame with tag 200 leaves by agent-1/eth1";
    for _ in 0..2 {
        let crossed = capture.so_far().unwrap();
        let error = crossed.assert_none(what, is_tagged_200).expect_err("looking takes nothing away");
        assert!(matches!(error, Error::CrossedAfterAll { count: 8, frames: 16, .. }), "{error:?}");
        let text = error.to_string();
        assert!(
            text.starts_with(&format!("switch rack: {what}, but 8 of 16 frames captured from ")),
            "{text}"
        );
        let lines: Vec<&str> = text.lines().collect();
        assert_eq!(lines.len(), 1 + 5 + 1, "{text}");
        let first = "agent-1/eth1 out (VLAN 200) 52:54:00:00:00:01 > ff:ff:ff:ff:ff:ff, tag 200, \
                     UDP 10.0.0.1:4000 > 10.0.0.255:1, 56 bytes";
        assert!(lines[1].ends_with(first), "{text}");
        assert_eq!(lines[6], "  and 3 more");
    }
    let error = crossed.assert_some("a frame to port 9", |frame| to_port(frame, 9)).unwrap_err().to_string();
    assert!(error.starts_with("switch rack: a frame to port 9 did not cross from "), "{error}");
    assert!(error.contains(", 16 frames were captured\n") && error.ends_with("\n  and 11 more"), "{error}");
}

#[test]
fn what_a_capture_had_no_room_for_is_an_error_and_counted() {
    let mut rack = Rack::new();
    let mut capture = rack.capture().hold_bytes(5000);
    for _ in 0..20 {
        rack.server.send(&udp(1, 1000)).unwrap();
    }
    let crossed = capture.so_far().unwrap();
    let counters = capture.counters().unwrap();
    assert_eq!(counters, CaptureCounters { frames: 40, bytes: 20 * (1042 + 1046), lost: 36 });
    for error in [
        crossed.frames().unwrap_err(),
        crossed.count(|_| true).unwrap_err(),
        crossed.assert_none("no frame to port 9", |frame| to_port(frame, 9)).unwrap_err(),
        crossed.assert_some("a frame to port 9", |frame| to_port(frame, 9)).map(drop).unwrap_err(),
    ] {
        assert!(matches!(error, Error::CaptureLost { lost: 36, limit: 5000, .. }), "{error:?}");
        assert!(error.to_string().contains("36 frames are missing"), "{error}");
    }
    assert!(crossed.assert_none("none to 1", |frame| to_port(frame, 1)).is_err(), "what there is counts");
    assert!(crossed.assert_some("one to 1", |frame| to_port(frame, 1)).is_ok(), "what there is counts");
}

#[test]
fn a_predicate_frees_the_room_of_what_it_does_not_take() {
    let mut rack = Rack::new();
    let mut capture = rack.capture().hold_bytes(5000).matching(|frame| to_port(frame, 1));
    for _ in 0..20 {
        rack.server.send(&udp(2, 1000)).unwrap();
        assert!(capture.so_far().unwrap().frames().unwrap().is_empty());
    }
    rack.server.send(&udp(1, 1000)).unwrap();
    assert_eq!(capture.finish().unwrap().frames().unwrap().len(), 2);
}

#[test]
fn a_capture_of_a_port_that_never_was_is_a_mistake() {
    let rack = Rack::new();
    let error = rack.sw.capture(FrameFilter::new().port("agent-7/eth1")).unwrap_err();
    assert!(matches!(error, Error::UnknownPort { .. }), "{error:?}");
}

#[test]
fn what_crossed_is_still_there_when_the_switch_has_stopped() {
    let mut rack = Rack::new();
    let capture = rack.capture();
    rack.server.send(&udp(1, 10)).unwrap();
    rack.sw.ports().unwrap();
    rack.sw.stop().unwrap();
    assert_eq!(capture.finish().unwrap().frames().unwrap().len(), 2);
}

#[tokio::test]
async fn waiting_finds_what_was_and_what_comes_and_takes_nothing_away() {
    let mut rack = Rack::new();
    let mut capture = rack.capture();
    rack.server.send(&udp(1, 10)).unwrap();
    rack.server.send(&udp(2, 10)).unwrap();
    for port in [2, 1, 2] {
        let frame = capture.wait_for("a datagram", LIMIT, |frame| to_port(frame, port)).await.unwrap();
        assert!(to_port(&frame, port));
    }
    let sender = async {
        rack.agent.send(&tagged(&udp(3, 10))).unwrap();
    };
    let (found, ()) = tokio::join!(capture.wait_for("the third", LIMIT, |frame| to_port(frame, 3)), sender);
    found.unwrap();
    let mut looked = 0;
    let error = capture
        .wait_for("a datagram to port 4", NOTHING, |_| {
            looked += 1;
            false
        })
        .await
        .unwrap_err();
    assert_eq!(looked, 6, "every frame once");
    assert!(matches!(error, Error::NeverCrossed { frames: 6, .. }), "{error:?}");
    assert!(error.to_string().contains("switch rack: a datagram to port 4 did not cross"), "{error}");
}

#[tokio::test]
async fn a_stream_gives_frames_as_they_cross_and_says_where_some_are_missing() {
    let mut rack = Rack::new();
    let arrived = FrameFilter::new().port("server-1/eth1");
    let mut capture = rack.sw.capture(arrived).unwrap().hold_bytes(3000);
    rack.server.send(&udp(1, 1000)).unwrap();
    assert_eq!(capture.so_far().unwrap().frames().unwrap().len(), 1);
    let mut stream = capture.into_stream();
    for _ in 0..4 {
        rack.server.send(&udp(1, 1000)).unwrap();
    }
    rack.sw.ports().unwrap();
    for _ in 0..2 {
        assert!(to_port(&stream.next().await.unwrap().unwrap(), 1), "one from before, one after");
    }
    let lost = |next: Option<Result<CapturedFrame>>| match next {
        Some(Err(Error::CaptureLost { lost, .. })) => lost,
        other => panic!("{other:?}"),
    };
    assert_eq!(lost(stream.next().await), 3, "told at the end of the queue");
    rack.server.send(&udp(2, 2000)).unwrap();
    rack.server.send(&udp(3, 2000)).unwrap();
    rack.sw.ports().unwrap();
    assert!(to_port(&stream.next().await.unwrap().unwrap(), 2));
    rack.server.send(&udp(4, 2000)).unwrap();
    rack.sw.ports().unwrap();
    assert_eq!(lost(stream.next().await), 1, "told before the frame that came after");
    assert!(to_port(&stream.next().await.unwrap().unwrap(), 4));
    rack.sw.stop().unwrap();
    assert!(stream.next().await.is_none(), "the switch has stopped");
}

#[test]
fn what_crossed_can_be_kept_as_a_file() {
    let mut rack = Rack::new();
    let capture = rack.capture();
    rack.server.send(&udp(1, 10)).unwrap();
    let path = rack._dir.path().join("step.pcapng");
    capture.finish().unwrap().write_pcapng(&path).unwrap();
    let mut reader = pcap_file::pcapng::PcapNgReader::new(std::fs::File::open(path).unwrap()).unwrap();
    let mut packets = 0;
    while let Some(block) = reader.next_block() {
        packets += usize::from(matches!(block.unwrap(), pcap_file::pcapng::Block::EnhancedPacket(_)));
    }
    assert_eq!(packets, 2);
}

fn tagged(frame: &[u8]) -> Vec<u8> {
    [&frame[..12], b"\x81\x00\x00\xc8", &frame[12..]].concat()
}
