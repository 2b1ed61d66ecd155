//! A switch that VDE's clients connect to: one that is scripted here, and Debian's `vde_plug`, `dpipe` and QEMU.

use std::io::{ErrorKind, Read, Write};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::{UnixDatagram, UnixStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::mpsc;
use std::thread;
use std::time::{Duration, Instant};

use pretty_assertions::assert_eq;
use switch::*;
use tempfile::TempDir;
use tokio::sync::broadcast::error::TryRecvError;

const LIMIT: Duration = Duration::from_secs(30);

/// For a frame that must not come: a call to the switch came before, which acts after all that was sent.
const NOTHING: Duration = Duration::from_millis(1);

fn vlan(vid: u16) -> VlanId {
    VlanId::new(vid).unwrap()
}

fn access(vid: u16) -> PortMode {
    PortMode::Access { vlan: vlan(vid) }
}

/// A switch with a VDE uplink `lan` on VLAN 7.
struct Lab {
    sw: Switch,
    uplink: UplinkId,
    dir: TempDir,
}

impl Lab {
    fn new() -> Lab {
        Lab::with(|_| {})
    }

    fn with(change: impl FnOnce(&mut VdeConfig)) -> Lab {
        let dir = tempfile::tempdir().unwrap();
        let sw = Switch::start(SwitchOptions::new("sw", dir.path())).unwrap();
        let mut config = UplinkConfig::vde("lan", access(7));
        if let UplinkKind::Vde(vde) = &mut config.kind {
            change(vde);
        }
        let uplink = sw.add_uplink(config).unwrap();
        Lab { sw, uplink, dir }
    }

    fn state(&self) -> UplinkState {
        self.sw.uplink(self.uplink).unwrap()
    }

    fn vde(&self) -> PathBuf {
        self.state().dir().unwrap().clone()
    }

    fn port(&self, name: &str) -> PortState {
        self.sw.ports().unwrap().into_iter().find(|port| port.name == name).unwrap()
    }

    fn numbers(&self) -> Vec<u8> {
        self.state().clients.iter().map(|client| client.number).collect()
    }

    fn refused(&self, why: VdeRefusal) -> u64 {
        self.state().refused.get(&why).copied().unwrap_or_default()
    }

    fn until(&self, what: &str, mut condition: impl FnMut() -> bool) {
        let end = Instant::now() + LIMIT;
        while !condition() {
            assert!(Instant::now() < end, "not within {LIMIT:?}: {what}; {:#?}", self.sw.state());
            thread::yield_now();
        }
    }

    fn client(&self, name: &str, kind: u32) -> Client {
        Client::connect(&self.vde(), &self.dir.path().join(name), kind).expect("a place")
    }

    fn channel(&self, name: &str, mode: PortMode) -> Channel {
        let port = self.sw.add_port(PortConfig::new(name, mode)).unwrap();
        self.sw.attach_channel(port).unwrap()
    }
}

/// What libvdeplug is to a program.
struct Client {
    control: UnixStream,
    data: UnixDatagram,
}

impl Client {
    /// Connects as libvdeplug does; `None` if it is turned away.
    fn connect(dir: &Path, own: &Path, kind: u32) -> Option<Client> {
        let data = UnixDatagram::bind(own).unwrap();
        data.set_read_timeout(Some(LIMIT)).unwrap();
        let mut control = UnixStream::connect(dir.join("ctl")).unwrap();
        control.set_read_timeout(Some(LIMIT)).unwrap();
        control.write_all(&request(kind, own, "scripted: user=nobody")).unwrap();
        let mut answer = [0; 110];
        control.read_exact(&mut answer).ok()?;
        let end = answer.iter().skip(2).position(|byte| *byte == 0).unwrap();
        data.connect(std::ffi::OsStr::from_bytes(&answer[2..2 + end])).unwrap();
        Some(Client { control, data })
    }

    fn send(&self, frame: &[u8]) {
        assert_eq!(self.data.send(frame).expect("the switch always reads"), frame.len());
    }

    fn recv(&self, limit: Duration) -> Option<Vec<u8>> {
        self.data.set_read_timeout(Some(limit)).unwrap();
        let mut buffer = vec![0; 2 * MAX_FRAME];
        match self.data.recv(&mut buffer) {
            Ok(bytes) => Some(buffer[..bytes].to_vec()),
            Err(error) if error.kind() == ErrorKind::WouldBlock => None,
            Err(error) => panic!("{error}"),
        }
    }
}

fn request(kind: u32, own: &Path, description: &str) -> Vec<u8> {
    let mut bytes = [0xfeed_face_u32, 3, kind].map(u32::to_ne_bytes).concat();
    bytes.extend(1_u16.to_ne_bytes());
    bytes.extend(own.as_os_str().as_bytes());
    bytes.resize(122, 0);
    bytes.extend(description.as_bytes());
    bytes
}

fn frame(dst: u8, src: u8, length: usize) -> Vec<u8> {
    let mac = |n: u8| if n == 0xff { [0xff; 6] } else { [0x52, 0x54, 0, 0, 0, n] };
    let mut bytes = [mac(dst), mac(src)].concat();
    bytes.extend_from_slice(b"\x88\xb5");
    bytes.resize(length.max(MIN_FRAME), src);
    bytes
}

fn accounted(sw: &Switch) {
    for port in sw.ports().unwrap() {
        let PortCounters { rx, tx, .. } = &port.counters;
        assert_eq!(rx.frames, rx.forwarded + rx.consumed + rx.dropped_total(), "{port:#?}");
        assert_eq!(tx.offered, tx.sent + tx.dropped_total() + port.queue.frames, "{port:#?}");
    }
}

#[test]
fn each_connection_is_a_port_until_it_ends() {
    let lab = Lab::new();
    assert_eq!(std::fs::metadata(lab.vde()).unwrap().permissions().mode() & 0o777, 0o700);
    let mut other = lab.channel("other", access(7));
    let mut apart = lab.channel("apart", access(8));
    let (a, b) = (lab.client("a", 0), lab.client("b", 0));
    assert_eq!(lab.numbers(), [1, 2]);
    let client = &lab.state().clients[0];
    assert_eq!(client.description, "scripted: user=nobody");
    assert_eq!(client.pid, Some(std::process::id() as i32));
    let state = lab.port("lan/1");
    assert_eq!((state.id, state.mode, state.connected, state.socket), (client.port, access(7), true, None));

    for length in [14, 60, 1514, 9014, MAX_FRAME] {
        let sent = frame(0xff, 1, length);
        a.send(&sent);
        assert_eq!(b.recv(LIMIT).unwrap(), sent);
        assert_eq!(other.recv(LIMIT).unwrap().unwrap().to_vec(), sent);
    }
    b.send(&frame(1, 2, 100));
    assert_eq!(a.recv(LIMIT).unwrap(), frame(1, 2, 100));
    assert_eq!(other.recv(NOTHING).unwrap(), None, "the address was learnt");
    assert_eq!(apart.recv(NOTHING).unwrap(), None, "another VLAN");

    let (id, data) = (lab.port("lan/1").id, lab.vde().join("001.data"));
    assert!(data.exists());
    // More than are read at once, and no call that would read them all.
    (0..300).for_each(|_| a.send(&frame(0xff, 1, 77)));
    drop(a);
    for n in 0..300 {
        let got = b.recv(LIMIT).unwrap_or_else(|| panic!("what it sent before it left is forwarded: {n}"));
        assert_eq!(got.len(), 77);
    }
    lab.until("its port is gone", || lab.numbers() == [2]);
    assert!(!data.exists());
    accounted(&lab.sw);

    let _again = lab.client("again", 0);
    assert_eq!(lab.port("lan/1").id, id, "the place keeps its id");
    assert_eq!(lab.port("lan/1").counters.connections, 1);
}

#[test]
fn ports_are_asked_for_by_number_and_have_modes_of_their_own() {
    let trunk = PortMode::Trunk { allowed: "7-8".parse().unwrap(), native: None };
    let lab = Lab::with(|vde| {
        vde.numbered.insert(1, trunk.clone());
        vde.numbered.insert(255, access(8));
    });
    let (any, first, last) =
        (lab.client("any", 0), lab.client("first", 1 << 8), lab.client("last", 255 << 8));
    assert_eq!(lab.numbers(), [1, 2, 255], "1 is for those who ask for it");
    assert_eq!([lab.port("lan/1").mode, lab.port("lan/2").mode], [trunk, access(7)]);
    first.send(&[&frame(0xff, 1, 14)[..12], b"\x81\x00\x00\x08\x88\xb5tagged"].concat());
    assert_eq!(last.recv(LIMIT).unwrap(), [&frame(0xff, 1, 14)[..], b"tagged"].concat());
    assert_eq!(any.recv(NOTHING), None);
    for (kind, why) in
        [(1 << 8, VdeRefusal::NumberTaken), (256 << 8, VdeRefusal::BadNumber), (1, VdeRefusal::BadType)]
    {
        assert!(Client::connect(&lab.vde(), &lab.dir.path().join(format!("no-{kind}")), kind).is_none());
        assert_eq!(lab.refused(why), 1, "{why}");
    }
    let error = lab.sw.remove_port(lab.port("lan/1").id).unwrap_err();
    assert_eq!(
        error.to_string(),
        "switch sw: remove a port: port lan/1 is an uplink's; see to the uplink instead"
    );
    assert!(matches!(lab.sw.attach_channel(lab.port("lan/1").id), Err(Error::OfUplink { .. })));
    assert!(matches!(lab.sw.socket_path(lab.port("lan/1").id), Err(Error::OfUplink { .. })));
}

#[test]
fn a_client_that_talks_nonsense_or_nothing_harms_nobody() {
    let lab = Lab::new();
    let mut events = lab.sw.events();
    let (a, b) = (lab.client("a", 0), lab.client("b", 0));
    let ctl = || UnixStream::connect(lab.vde().join("ctl")).unwrap();
    let ends = |mut control: UnixStream| {
        control.set_read_timeout(Some(LIMIT)).unwrap();
        matches!(control.read(&mut [0; 200]), Ok(0)) || {
            // A request that was not read whole.
            matches!(control.read(&mut [0; 200]), Err(error) if error.kind() == ErrorKind::ConnectionReset)
        }
    };

    let mut nonsense = ctl();
    nonsense.write_all(b"GET / HTTP/1.1\r\n").unwrap();
    assert!(ends(nonsense));
    assert_eq!(lab.refused(VdeRefusal::BadMagic), 1);
    let mut nobody = ctl();
    nobody.write_all(&request(0, Path::new("/nobody/is/here"), "")).unwrap();
    assert!(ends(nobody));
    assert_eq!(lab.refused(VdeRefusal::Unreachable), 1);
    // The socket of another client's port: the kernel keeps it for that client.
    let mut thief = ctl();
    thief.write_all(&request(0, &lab.vde().join("001.data"), "")).unwrap();
    assert!(ends(thief));
    assert_eq!(lab.refused(VdeRefusal::Unreachable), 2);
    drop(ctl());
    lab.until("it left", || lab.refused(VdeRefusal::Unfinished) == 1);

    // The 33rd that says nothing takes the place of the first.
    let silent: Vec<UnixStream> = (0..40).map(|_| ctl()).collect();
    lab.until("the first were turned away", || lab.refused(VdeRefusal::Unfinished) == 9);
    let late = lab.client("late", 0);
    assert_eq!(lab.refused(VdeRefusal::Unfinished), 10);
    drop(silent);

    // Noise on the control connection, and datagrams that are no frames.
    let mut noisy = &late.control;
    noisy.write_all(&[0xff; 100_000]).unwrap();
    a.send(b"");
    a.send(b"short");
    a.send(&frame(0xff, 1, MAX_FRAME + 1));
    a.send(&frame(0xff, 1, 60));
    assert_eq!(b.recv(LIMIT).unwrap().len(), 60);
    let rx = lab.port("lan/1").counters.rx;
    assert_eq!(rx.dropped[&DropReason::Malformed], 2);
    assert_eq!(rx.dropped[&DropReason::TooLong], 1);
    accounted(&lab.sw);
    let mut told = 0;
    loop {
        match events.try_recv() {
            Ok(Event { kind: EventKind::VdeRefused { .. }, .. }) => told += 1,
            Ok(_) => {}
            Err(TryRecvError::Empty) => break,
            Err(error) => panic!("{error}"),
        }
    }
    assert!(told >= 4, "{told}");
}

#[test]
fn a_client_that_never_reads_loses_frames_and_holds_up_nobody() {
    let lab = Lab::new();
    let (a, b, stuck) = (lab.client("a", 0), lab.client("b", 0), lab.client("stuck", 0));
    for n in 0..4000_u32 {
        a.send(&frame(0xff, 1, 1514));
        assert!(b.recv(LIMIT).is_some(), "frame {n}");
    }
    let state = lab.port("lan/3");
    assert!(state.counters.tx.dropped[&DropReason::QueueFull] > 1000, "{state:#?}");
    assert!(state.queue.bytes <= 2 << 20, "{state:#?}");
    accounted(&lab.sw);
    // What waits comes once it reads.
    let mut read = 0;
    while stuck.recv(Duration::from_millis(100)).is_some() {
        read += 1;
    }
    assert_eq!(read, lab.port("lan/3").counters.tx.sent);
    assert!(lab.port("lan/3").queue.frames == 0 && read > 500, "{read}");
}

#[test]
fn places_run_out_and_come_back_without_ids_growing() {
    let lab = Lab::new();
    let highest = || lab.sw.ports().unwrap().into_iter().map(|port| port.id).max();
    let clients: Vec<Client> = (0..255).map(|n| lab.client(&format!("c{n}"), 0)).collect();
    let before = highest();
    assert!(Client::connect(&lab.vde(), &lab.dir.path().join("full"), 0).is_none());
    assert_eq!(lab.refused(VdeRefusal::Full), 1);
    drop(clients);
    lab.until("all have left", || lab.numbers().is_empty());
    let _again: Vec<Client> = (0..255).map(|n| lab.client(&format!("d{n}"), 0)).collect();
    assert_eq!(highest(), before);
}

#[test]
fn the_uplink_goes_with_all_that_it_made() {
    let lab = Lab::new();
    let (vde, mut client) = (lab.vde(), lab.client("a", 0));
    let again = lab.sw.add_uplink(UplinkConfig::vde("lan", access(7))).unwrap_err().to_string();
    assert!(again.contains("another switch serves this directory"), "{again}");
    let named_so = lab.sw.add_port(PortConfig::new("lan/1", access(7))).unwrap_err().to_string();
    assert_eq!(named_so, "switch sw: there is a port lan/1 already");
    lab.sw.remove_uplink(lab.uplink).unwrap();
    assert_eq!(client.control.read(&mut [0]).unwrap(), 0);
    assert!(!vde.exists());
    assert_eq!((lab.sw.ports().unwrap(), lab.sw.uplinks().unwrap()), (vec![], vec![]));
    let gone = lab.sw.remove_uplink(lab.uplink).unwrap_err().to_string();
    assert_eq!(gone, "switch sw: remove an uplink: there is no uplink 0; there are: ");
    // A directory that a killed switch left behind is served again.
    std::fs::create_dir(&vde).unwrap();
    drop(std::os::unix::net::UnixListener::bind(vde.join("ctl")).unwrap());
    let again = lab.sw.add_uplink(UplinkConfig::vde("lan", access(7))).unwrap();
    let state = lab.sw.state().unwrap();
    assert_eq!(state.uplinks[0].id, again);
    let json = serde_json::to_string(&state).unwrap();
    assert_eq!(serde_json::from_str::<SwitchState>(&json).unwrap(), state);
    lab.sw.stop().unwrap();
    assert!(!vde.join("ctl").exists());
}

/// A program that ends with the test.
struct Program(Child);

impl Drop for Program {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

#[expect(
    clippy::disallowed_methods,
    reason = "the switch's crates start no programs, so `process` is not theirs"
)]
fn spawn(program: &str, arguments: &[&str]) -> Program {
    let mut command = Command::new(program);
    command.args(arguments).stdin(Stdio::piped()).stdout(Stdio::piped());
    Program(command.spawn().unwrap_or_else(|error| panic!("{program}: {error}")))
}

/// Frames on the standard streams of a `vde_plug`: each after its length, 16 bits, big-endian.
struct Plug {
    program: Program,
    frames: mpsc::Receiver<Vec<u8>>,
}

impl Plug {
    fn into(switch: &str) -> Plug {
        let mut program = spawn("vde_plug", &[switch]);
        let mut from = program.0.stdout.take().unwrap();
        let (frames, received) = mpsc::channel();
        thread::spawn(move || {
            let mut length = [0; 2];
            while from.read_exact(&mut length).is_ok() {
                let mut frame = vec![0; usize::from(u16::from_be_bytes(length))];
                if from.read_exact(&mut frame).is_err() || frames.send(frame).is_err() {
                    return;
                }
            }
        });
        Plug { program, frames: received }
    }

    fn send(&mut self, frame: &[u8]) {
        let wire = [&(frame.len() as u16).to_be_bytes()[..], frame].concat();
        self.program.0.stdin.as_mut().unwrap().write_all(&wire).unwrap();
    }
}

#[test]
#[ignore = "needs vde_plug and dpipe: Debian's vde2"]
fn vde_plug_is_a_port() {
    let lab = Lab::with(|vde| {
        vde.numbered.insert(9, access(8));
    });
    let dir = lab.vde().display().to_string();
    let mut a = Plug::into(&dir);
    lab.until("the first is plugged in", || lab.numbers() == [1]);
    let b = Plug::into(&dir);
    lab.until("the second is plugged in", || lab.numbers() == [1, 2]);
    let ninth = Plug::into(&format!("{dir}[9]"));
    lab.until("the third has the port that it asks for", || lab.numbers() == [1, 2, 9]);
    assert!(lab.state().clients[0].description.starts_with("vdeplug: user="), "{:?}", lab.state());
    for length in [60, 1514] {
        let sent = frame(0xff, 1, length);
        a.send(&sent);
        assert_eq!(b.frames.recv_timeout(LIMIT).unwrap(), sent);
    }
    let mut eighth = lab.channel("eighth", access(8));
    eighth.send(&frame(0xff, 2, 60)).unwrap();
    assert_eq!(ninth.frames.recv_timeout(LIMIT).unwrap(), frame(0xff, 2, 60));
    drop(a);
    lab.until("its port is gone", || lab.numbers() == [2, 9]);
    accounted(&lab.sw);
}

#[test]
#[ignore = "needs vde_plug and dpipe: Debian's vde2"]
fn dpipe_is_a_cable_between_two_switches() {
    let (left, right) = (Lab::new(), Lab::new());
    let (dirs, mut l, mut r) = (
        [&left, &right].map(|lab| lab.vde().display().to_string()),
        left.channel("l", access(7)),
        right.channel("r", access(7)),
    );
    let cable = spawn("dpipe", &["vde_plug", &dirs[0], "=", "vde_plug", &dirs[1]]);
    for lab in [&left, &right] {
        lab.until("the cable is plugged in", || lab.numbers() == [1]);
    }
    l.send(&frame(0xff, 1, 1000)).unwrap();
    assert_eq!(r.recv(LIMIT).unwrap().unwrap().to_vec(), frame(0xff, 1, 1000));
    r.send(&frame(1, 2, 1514)).unwrap();
    assert_eq!(l.recv(LIMIT).unwrap().unwrap().to_vec(), frame(1, 2, 1514));
    // Its two ends are in no process group of its own; they end with the switches' connections.
    for lab in [&left, &right] {
        lab.sw.remove_uplink(lab.uplink).unwrap();
    }
    drop(cable);
}

#[test]
#[ignore = "needs QEMU with -netdev vde: Debian's qemu-system-x86"]
fn an_unmodified_qemu_is_a_port() {
    let lab = Lab::new();
    let nic = format!("vde,id=lan,sock={}", lab.vde().display());
    let vm = spawn(
        "qemu-system-x86_64",
        &["-M", "none", "-S", "-display", "none", "-monitor", "none", "-serial", "none", "-netdev", &nic],
    );
    lab.until("QEMU is plugged in", || lab.numbers() == [1]);
    assert_eq!(lab.state().clients[0].pid, Some(vm.0.id() as i32));
    assert!(lab.port("lan/1").connected);
    drop(vm);
    lab.until("its port is gone", || lab.numbers().is_empty());
}
