//! A lab without machines: its control socket, and what is left after its teardown. No QEMU runs.

use std::io::{BufRead as _, BufReader, Write as _};
use std::net::Shutdown;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use driver::control::{Answer, Request, connect};
use driver::qemu::{Accel, Qemu, Version};
use driver::spec::LabSpec;
use driver::{Captures, Error, Kind, Lab, LabOptions, Unsupervised, poll_until};
use process::RunDir;
use switch::{Channel, FrameFilter, ImpairTarget, Impairment, PartitionSpec, PortConfig, PortMode, VlanId};

const LIMIT: Duration = Duration::from_secs(30);
/// The longest request in bytes.
const MAX_LINE: usize = 64 * 1024;

async fn empty_lab(artifacts: &Path) -> Lab {
    lab_with(artifacts, Captures::Ring).await
}

async fn lab_with(artifacts: &Path, captures: Captures) -> Lab {
    static COUNT: AtomicU32 = AtomicU32::new(0);
    let run = format!("control-{}-{}", std::process::id(), COUNT.fetch_add(1, Ordering::Relaxed));
    let options = LabOptions {
        qemu: Qemu { program: "/nonexistent/qemu".into(), version: Version { major: 7, minor: 2, micro: 0 } },
        accel: Accel::Tcg,
        run: RunDir::create(&run).expect("a run directory"),
        artifacts: artifacts.to_owned(),
        supervisor: Unsupervised::until(LIMIT),
        seed: 0,
        checkpoints: false,
        captures,
    };
    let spec = LabSpec { name: "empty".into(), machines: Vec::new() };
    Lab::create(spec, options).await.expect("a lab")
}

/// A frame to all of a VLAN.
const HELLO: &[u8] = b"\xff\xff\xff\xff\xff\xff\x52\x54\x00\x00\x00\x01\x88\xb5hello";

fn access() -> PortMode {
    PortMode::Access { vlan: VlanId::new(1).expect("a VLAN id") }
}

/// Two ports of one VLAN, `a/eth1` and `b/eth1`.
fn ports(lab: &Lab) -> [Channel; 2] {
    ["a/eth1", "b/eth1"].map(|name| {
        let id = lab.switch().add_port(PortConfig::new(name, access())).expect("a port");
        lab.switch().attach_channel(id).expect("a channel")
    })
}

/// Asks as a command-line tool does: blocking, from a thread of its own.
async fn ask(run: PathBuf, request: Request) -> Answer {
    let asked = tokio::task::spawn_blocking(move || connect(&run, &request).map(|c| c.answer));
    asked.await.expect("no panic").expect("an answer")
}

/// Sends raw bytes and gives the line that comes back.
async fn send(run: PathBuf, bytes: Vec<u8>) -> Answer {
    let sent = tokio::task::spawn_blocking(move || {
        let mut stream = UnixStream::connect(run.join("control"))?;
        stream.write_all(&bytes)?;
        stream.set_read_timeout(Some(LIMIT))?;
        // A line that is too long is answered while the client could still go on.
        if bytes.len() < MAX_LINE {
            stream.shutdown(Shutdown::Write)?;
        }
        let mut line = String::new();
        BufReader::new(stream).read_line(&mut line)?;
        Ok::<_, std::io::Error>(line)
    });
    let line = sent.await.expect("no panic").expect("a line");
    serde_json::from_str(&line).unwrap_or_else(|e| panic!("{line:?} is no answer: {e}"))
}

fn message(answer: Answer) -> String {
    match answer {
        Answer::Error { message } => message,
        other => panic!("expected an error, got {other:?}"),
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_step_is_judged_by_what_crossed_and_a_port_has_a_file_of_its_own() {
    let artifacts = tempfile::tempdir().expect("a folder");
    let lab = empty_lab(artifacts.path()).await;
    let ports = ports(&lab);
    let error = lab.capture(FrameFilter::new().port("c/eth1")).expect_err("no such port");
    assert!(matches!(&error, Error::Switch { .. }) && error.to_string().contains("c/eth1"), "{error}");
    assert!(lab.capture_port("c/eth1").is_err());
    let file = lab.capture_port("b/eth1").expect("a file");
    let capture = lab.capture(FrameFilter::new().port("b/eth1")).expect("a capture");
    let [mut a, _b] = ports;
    a.send(HELLO).expect("sent");
    let crossed = capture.finish().expect("what crossed");
    assert_eq!(crossed.count(|frame| frame.bytes.ends_with(b"hello")).expect("a count"), 1);
    let wrong = crossed.assert_none("nothing reaches b", |_| true).expect_err("it does");
    assert_eq!(Error::from(wrong).kind(), Kind::Product);
    lab.teardown().await.expect("nothing lingers");
    assert_eq!(file, artifacts.path().join("net/b.eth1.pcapng"));
    let written = std::fs::read(&file).expect("the file is kept");
    assert!(written.windows(5).any(|bytes| bytes == b"hello"), "the frame is in it");
    assert!(!artifacts.path().join("net/c.eth1.pcapng").exists());
}

#[tokio::test(flavor = "multi_thread")]
async fn the_latest_frames_are_left_after_a_failure_and_all_of_them_when_asked() {
    let says_hello = |file: &Path| {
        let bytes = std::fs::read(file).ok()?;
        Some(bytes.windows(5).any(|bytes| bytes == b"hello"))
    };
    // What there is after the teardown: of the switch, of the port that sends, of the one that gets it, of a quiet one.
    let left = async |captures, fails: bool| {
        let artifacts = tempfile::tempdir().expect("a folder");
        let lab = lab_with(artifacts.path(), captures).await;
        let [mut a, _b] = ports(&lab);
        lab.switch().add_port(PortConfig::new("c/eth1", access())).expect("a port");
        a.send(HELLO).expect("sent");
        if fails {
            lab.diagnose().await;
        }
        lab.teardown().await.expect("a clean end");
        ["empty", "a.eth1", "b.eth1", "c.eth1"]
            .map(|file| says_hello(&artifacts.path().join(format!("net/{file}.pcapng"))))
    };
    let (there, quiet) = (Some(true), Some(false));
    assert_eq!(left(Captures::Ring, true).await, [there, there, there, quiet]);
    assert_eq!(left(Captures::Ring, false).await, [None; 4]);
    assert_eq!(left(Captures::Whole, false).await, [there, None, None, None]);
    assert_eq!(left(Captures::Whole, true).await, [there, None, None, None]);
    assert_eq!(left(Captures::Off, true).await, [None; 4]);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_test_captured_itself_is_not_replaced_by_what_the_ring_has() {
    let artifacts = tempfile::tempdir().expect("a folder");
    let lab = empty_lab(artifacts.path()).await;
    let [mut a, _b] = ports(&lab);
    a.send(HELLO).expect("sent");
    lab.switch().recent_frames(&FrameFilter::new()).expect("what crossed");
    // After that: the file that the test wants does not have it, and the ring does.
    let file = lab.capture_port("b/eth1").expect("a file");
    lab.diagnose().await;
    lab.teardown().await.expect("a clean end");
    let written = std::fs::read(&file).expect("the file is kept");
    assert!(!written.windows(5).any(|bytes| bytes == b"hello"), "the ring's frames are in the test's file");
    assert!(artifacts.path().join("net/a.eth1.pcapng").exists());
}

#[tokio::test(flavor = "multi_thread")]
async fn the_control_socket_answers_and_nothing_is_left_after_the_teardown() {
    let artifacts = tempfile::tempdir().expect("a folder");
    let lab = empty_lab(artifacts.path()).await;
    let run = lab.run_dir().to_owned();
    assert_eq!((lab.name(), lab.accel(), lab.machines().len()), ("empty", Accel::Tcg, 0));
    lab.start().await.expect("nothing to start");
    lab.wait_ready().await.expect("nothing to wait for");
    assert!(matches!(lab.machine("server-1"), Err(Error::NoSuchMachine { .. })));
    assert!(matches!(lab.partition(&["server-1"], &[]), Err(Error::NoSuchMachine { .. })));

    assert_eq!(ask(run.clone(), Request::Machines).await, Answer::Machines { machines: Vec::new() });
    let unknown = Request::Console { machine: "server-1".into() };
    assert!(message(ask(run.clone(), unknown).await).starts_with(r#"no machine "server-1" in this lab"#));
    let unknown = Request::Shell { machine: "server-1".into(), argv: Vec::new(), columns: 80, rows: 24 };
    assert!(message(ask(run.clone(), unknown).await).starts_with(r#"no machine "server-1" in this lab"#));

    lab.teardown().await.expect("a clean end");
    assert!(!artifacts.path().join("scratch").exists(), "the scratch folder is left");
    assert!(artifacts.path().join("net/ports.json").exists(), "the ports' state is kept");
    assert!(
        !artifacts.path().join("net/empty.pcapng").exists(),
        "nothing failed, and nobody wanted the frames"
    );
    let refused = connect(&run, &Request::Machines).expect_err("nobody serves a lab that was torn down");
    drop(lab);
    // A served connection holds the lab until its task has ended.
    let gone = poll_until(LIMIT, async || (!run.exists()).then_some(())).await;
    assert!(gone.is_some(), "{} is left; a client is told: {refused}", run.display());
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_no_request_gets_an_error_and_the_next_client_is_served() {
    let artifacts = tempfile::tempdir().expect("a folder");
    let lab = empty_lab(artifacts.path()).await;
    let run = lab.run_dir().to_owned();
    let endless = vec![b'x'; MAX_LINE];
    for bytes in [&b"GET / HTTP/1.1\r\n"[..], b"{}\n", br#"{"request":"reboot"}"#, b"\n", b"", &endless] {
        let told = message(send(run.clone(), bytes.to_owned()).await);
        assert!(told.starts_with("not a request: "), "{told}");
    }
    assert_eq!(ask(run, Request::Machines).await, Answer::Machines { machines: Vec::new() });
    lab.teardown().await.expect("a clean end");
}

#[tokio::test(flavor = "multi_thread")]
async fn the_switch_is_told_with_all_that_it_has_learnt() {
    let artifacts = tempfile::tempdir().expect("a folder");
    let lab = empty_lab(artifacts.path()).await;
    let run = lab.run_dir().to_owned();
    let sw = lab.switch();
    let port = |name: &str| {
        let vlan = VlanId::new(100).expect("a VLAN id");
        sw.add_port(PortConfig::new(name, PortMode::Access { vlan })).expect("a port")
    };
    let (a, b) = (port("a/eth1"), port("b/eth1"));
    let (mut from, _to) =
        (sw.attach_channel(a).expect("a channel"), sw.attach_channel(b).expect("a channel"));
    // Enough for an answer that is longer than any request may be.
    for n in 0..1000_u16 {
        let [high, low] = n.to_be_bytes();
        let mut frame = [0xff; 64];
        frame[6..12].copy_from_slice(&[0x52, 0x54, 0, 1, high, low]);
        from.send(&frame).expect("a frame");
    }
    sw.partition(PartitionSpec::between([a], [b]).one_way()).expect("a partition");
    sw.impair(ImpairTarget::Port(b), Impairment::new().delay(Duration::from_millis(5)))
        .expect("an impairment");
    sw.describe_service(a, "dhcp", || Some(serde_json::json!({ "leases": [] })));

    let Answer::Switch { network } = ask(run.clone(), Request::Switch).await else {
        panic!("not the answer to what was asked");
    };
    let expected = sw.state().expect("the state");
    assert!(serde_json::to_vec(&expected).expect("JSON").len() > MAX_LINE, "the answer is short");
    assert_eq!((network.lab.as_str(), network.machines.len()), ("empty", 0));
    assert_eq!(network.switch.ports, expected.ports);
    assert_eq!(network.switch.ports[0].counters.rx.frames, 1000);
    assert_eq!(network.switch.fdb.len(), 1000);
    assert_eq!(network.switch.partitions, expected.partitions);
    assert_eq!(network.switch.impairments, expected.impairments);
    assert_eq!(network.switch.services, expected.services);

    sw.stop().expect("a clean end");
    let told = message(ask(run, Request::Switch).await);
    assert!(told.contains("stopped"), "{told}");
    lab.teardown().await.expect("a clean end");
}
