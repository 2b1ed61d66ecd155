//! Any sequence of what peers and tests can do to a running switch: it does not panic, every frame is accounted for
//! after each step, nothing grows beyond its limit, it takes what peers write, and two ports that were spared still
//! exchange frames at the end.

use std::io::{ErrorKind, Read, Write};
use std::os::unix::net::UnixStream;
use std::time::{Duration, Instant};

use proptest::collection::vec;
use proptest::prelude::*;
use switch::lacp::{LacpState, Lacpdu, Pdu, PortInfo};
use switch::*;
use tokio::sync::broadcast::{self, error::TryRecvError};

const LIMIT: Duration = Duration::from_secs(30);
/// Ports that anything may happen to. Two more are only cut off or impaired now and then.
const VICTIMS: usize = 5;
const GOOD: [usize; 2] = [VICTIMS, VICTIMS + 1];
const PORTS: usize = VICTIMS + 2;
const QUEUE: usize = 64 << 10;
const DELAYED: usize = 64 << 10;
const RING: usize = 256 << 10;
/// How far a limit may be passed: the first frame is always taken.
const ONE_FRAME: u64 = MAX_FRAME as u64 + 128;

/// What is done. Numbers are taken modulo what there is.
#[derive(Clone, Debug)]
enum Step {
    Connect(usize),
    Disconnect(usize),
    Read(usize),
    Frames { from: usize, to: usize, tag: Option<u16>, length: usize, count: usize },
    Lacpdu { from: usize, state: u8, answers: bool },
    Bytes(usize, Vec<u8>),
    PartOfAFrame(usize, usize),
    Length(usize, u32),
    Admin(usize, bool),
    Mode(usize, PortMode),
    Bundle { members: Vec<usize>, lacp: LacpMode, mode: PortMode },
    Join(usize),
    Unbundle(usize),
    Impair { from: Option<usize>, to: usize, impairment: Impairment },
    Clear(usize),
    Partition { from: Vec<usize>, to: Vec<usize>, one_way: bool },
    Heal(usize),
    Remove(usize),
    Add(usize, PortMode),
}

fn any_mode() -> impl Strategy<Value = PortMode> {
    let vlan = |vid| VlanId::new(vid).unwrap();
    prop_oneof![
        3 => Just(PortMode::Access { vlan: vlan(1) }),
        1 => Just(PortMode::Access { vlan: vlan(2) }),
        2 => Just(PortMode::Trunk { allowed: "1-2".parse().unwrap(), native: None }),
        1 => Just(PortMode::Trunk { allowed: "2".parse().unwrap(), native: Some(vlan(1)) }),
    ]
}

fn any_impairment() -> impl Strategy<Value = Impairment> {
    let new = Impairment::new;
    let ms = Duration::from_millis;
    prop_oneof![
        Just(new().delay(ms(2)).jitter(ms(1), Distribution::Uniform)),
        Just(new().delay(Duration::from_secs(3600))),
        Just(new().loss(0.5).duplicate(0.5).corrupt(0.5)),
        Just(new().rate(100_000).queue(10_000)),
        Just(new().rate(1)),
        Just(new().delay(ms(1)).reorder(0.5).duplicate(1.0)),
        Just(new().hold_back(0.5, ms(3)).loss_bursts(0.3, 3.0)),
    ]
}

fn any_step() -> impl Strategy<Value = Step> {
    let victim = 0..VICTIMS;
    let some = || vec(0..PORTS, 1..4);
    let tag = prop_oneof![3 => Just(None), 1 => any::<u16>().prop_map(Some), 2 => (0u16..4).prop_map(Some)];
    let length = prop_oneof![4 => 14usize..200, 2 => 1000usize..1600, 1 => 60_000..=MAX_FRAME];
    let lacp = prop_oneof![Just(LacpMode::Active), Just(LacpMode::Passive), Just(LacpMode::Static)];
    prop_oneof![
        8 => (0..VICTIMS).prop_map(Step::Connect),
        2 => victim.clone().prop_map(Step::Disconnect),
        2 => (0..PORTS).prop_map(Step::Read),
        12 => (0..PORTS, 0..PORTS + 1, tag, length, 1usize..60)
            .prop_map(|(from, to, tag, length, count)| Step::Frames { from, to, tag, length, count }),
        4 => (0..VICTIMS, any::<u8>(), any::<bool>())
            .prop_map(|(from, state, answers)| Step::Lacpdu { from, state, answers }),
        2 => (0..VICTIMS, vec(any::<u8>(), 0..300)).prop_map(|(port, bytes)| Step::Bytes(port, bytes)),
        2 => (0..VICTIMS, 1usize..1000).prop_map(|(port, bytes)| Step::PartOfAFrame(port, bytes)),
        2 => (0..VICTIMS, prop_oneof![0u32..20, MAX_FRAME as u32 - 2..MAX_FRAME as u32 + 3, any::<u32>()])
            .prop_map(|(port, length)| Step::Length(port, length)),
        3 => (0..VICTIMS + 2, any::<bool>()).prop_map(|(port, up)| Step::Admin(port, up)),
        3 => (0..VICTIMS + 2, any_mode()).prop_map(|(port, mode)| Step::Mode(port, mode)),
        3 => (vec(0..VICTIMS, 1..4), lacp, any_mode())
            .prop_map(|(members, lacp, mode)| Step::Bundle { members, lacp, mode }),
        1 => victim.clone().prop_map(Step::Join),
        1 => (0usize..4).prop_map(Step::Unbundle),
        3 => (proptest::option::of(0..PORTS), 0..PORTS, any_impairment())
            .prop_map(|(from, to, impairment)| Step::Impair { from, to, impairment }),
        1 => (0usize..4).prop_map(Step::Clear),
        2 => (some(), some(), any::<bool>())
            .prop_map(|(from, to, one_way)| Step::Partition { from, to, one_way }),
        1 => (0usize..4).prop_map(Step::Heal),
        1 => victim.clone().prop_map(Step::Remove),
        3 => (victim, any_mode()).prop_map(|(port, mode)| Step::Add(port, mode)),
    ]
}

fn mac(port: usize) -> [u8; 6] {
    if port < PORTS { [0x52, 0x54, 0, 0, 0, port as u8] } else { [0xff; 6] }
}

fn frame(to: usize, from: usize, tag: Option<u16>, length: usize) -> Vec<u8> {
    let mut bytes = [mac(to), mac(from)].concat();
    if let Some(tag) = tag {
        bytes.extend([[0x81, 0], tag.to_be_bytes()].concat());
    }
    bytes.extend_from_slice(b"\x88\xb5");
    bytes.resize(length.max(bytes.len()).min(MAX_FRAME), 7);
    bytes
}

fn wire(frame: &[u8]) -> Vec<u8> {
    [&(frame.len() as u32).to_be_bytes()[..], frame].concat()
}

struct Chaos {
    sw: Switch,
    events: broadcast::Receiver<Event>,
    ids: [Option<PortId>; PORTS],
    peers: [Option<UnixStream>; PORTS],
    bundles: Vec<PortId>,
    impairments: Vec<ImpairmentId>,
    partitions: Vec<PartitionId>,
    /// Ports that there ever were: no name comes twice.
    added: usize,
    _dir: tempfile::TempDir,
}

impl Chaos {
    fn new() -> Chaos {
        let dir = tempfile::tempdir().unwrap();
        let sw = Switch::start(SwitchOptions {
            queue_bytes: QUEUE,
            delay_bytes: DELAYED,
            ring_bytes: RING,
            ..SwitchOptions::new("sw", dir.path())
        })
        .unwrap();
        let events = sw.events();
        let mut chaos = Chaos {
            sw,
            events,
            ids: [None; PORTS],
            peers: Default::default(),
            bundles: Vec::new(),
            impairments: Vec::new(),
            partitions: Vec::new(),
            added: 0,
            _dir: dir,
        };
        for port in 0..PORTS {
            chaos.add(port, PortMode::Access { vlan: VlanId::new(1).unwrap() });
            chaos.connect(port);
        }
        chaos
    }

    fn add(&mut self, port: usize, mode: PortMode) {
        if self.ids[port].is_none() {
            self.added += 1;
            let config = PortConfig::new(format!("{port}-{}", self.added), mode);
            self.ids[port] = Some(self.sw.add_port(config).unwrap());
        }
    }

    fn connect(&mut self, port: usize) {
        let Some(id) = self.ids[port] else { return };
        let socket = UnixStream::connect(self.sw.socket_path(id).unwrap()).unwrap();
        socket.set_write_timeout(Some(LIMIT)).unwrap();
        socket.set_read_timeout(Some(LIMIT)).unwrap();
        self.peers[port] = Some(socket);
    }

    /// The switch takes all of it at once, or has closed.
    fn write(&mut self, port: usize, bytes: &[u8]) {
        let Some(peer) = &mut self.peers[port] else { return };
        match peer.write_all(bytes) {
            Ok(()) => {}
            Err(error) if matches!(error.kind(), ErrorKind::BrokenPipe | ErrorKind::ConnectionReset) => {
                assert!(port < VICTIMS, "a good port was closed: {error}");
                self.peers[port] = None;
            }
            Err(error) => panic!("the switch does not drain port {port}: {error}"),
        }
    }

    /// A port, or one of the bundles for numbers above.
    fn logical(&self, number: usize) -> Option<PortId> {
        match number.checked_sub(VICTIMS) {
            None => self.ids[number],
            Some(bundle) => self.bundles.get(bundle).copied(),
        }
    }

    fn ports(&self, numbers: &[usize]) -> Vec<PortId> {
        numbers.iter().filter_map(|number| self.ids[*number]).collect()
    }

    /// Does it. What makes no sense, such as a member's mode, is an error of the call and nothing else.
    fn take(&mut self, step: Step) {
        match step {
            Step::Connect(port) => self.connect(port),
            Step::Disconnect(port) => self.peers[port] = None,
            Step::Read(port) => {
                if let Some(peer) = &mut self.peers[port] {
                    peer.set_nonblocking(true).unwrap();
                    let _ = peer.read(&mut [0; 100_000]);
                    peer.set_nonblocking(false).unwrap();
                }
            }
            Step::Frames { from, to, tag, length, count } => {
                let bytes = wire(&frame(to, from, tag, length)).repeat(count);
                self.write(from, &bytes);
            }
            Step::Lacpdu { from, state, answers } => {
                let info = |system, port| PortInfo {
                    system_priority: 0xffff,
                    system,
                    key: 9,
                    port_priority: 255,
                    port,
                    state: LacpState(state),
                };
                let bundles = if answers { self.sw.bundles().unwrap() } else { Vec::new() };
                let partner = bundles
                    .iter()
                    .flat_map(|bundle| &bundle.members)
                    .find(|member| Some(member.id) == self.ids[from])
                    .map_or(info(Mac([2; 6]), 1), |member| member.lacp.actor);
                let actor = info(Mac(mac(from)), from as u16 + 1);
                let pdu = Pdu::Lacp(Lacpdu { actor, partner, collector_max_delay: 0 });
                self.write(from, &wire(&pdu.to_frame(Mac(mac(from)))));
            }
            Step::Bytes(port, bytes) => self.write(port, &bytes),
            Step::PartOfAFrame(port, bytes) => {
                let whole = wire(&frame(PORTS, port, None, 1001));
                self.write(port, &whole[..bytes]);
            }
            Step::Length(port, length) => self.write(port, &length.to_be_bytes()),
            Step::Admin(port, up) => drop(self.logical(port).map(|id| self.sw.set_admin(id, up))),
            Step::Mode(port, mode) => drop(self.logical(port).map(|id| self.sw.set_mode(id, mode))),
            Step::Bundle { members, lacp, mode } => {
                self.added += 1;
                let config = BundleConfig::new(format!("bond-{}", self.added), mode, self.ports(&members));
                self.bundles.extend(self.sw.add_bundle(config.lacp(lacp)));
            }
            Step::Join(port) => {
                if let (Some(bundle), Some(id)) = (self.bundles.first(), self.ids[port]) {
                    let _ = self.sw.add_member(*bundle, id);
                }
            }
            Step::Unbundle(number) if number < self.bundles.len() => {
                self.sw.remove_bundle(self.bundles.remove(number)).unwrap();
            }
            Step::Impair { from, to, impairment } => {
                let from = from.and_then(|from| self.ids[from]);
                let Some(to) = self.ids[to] else { return };
                let target = from.map_or(ImpairTarget::Port(to), |from| ImpairTarget::Pair { from, to });
                self.impairments.extend(self.sw.impair(target, impairment));
            }
            Step::Clear(number) if number < self.impairments.len() => {
                let _ = self.sw.clear_impairment(self.impairments.remove(number));
            }
            Step::Partition { from, to, one_way } => {
                let spec = PartitionSpec::between(self.ports(&from), self.ports(&to));
                let spec = if one_way { spec.one_way() } else { spec };
                self.partitions.extend(self.sw.partition(spec));
            }
            Step::Heal(number) if number < self.partitions.len() => {
                self.sw.heal(self.partitions.remove(number)).unwrap();
            }
            Step::Unbundle(_) | Step::Clear(_) | Step::Heal(_) => {}
            Step::Remove(port) => {
                if let Some(id) = self.ids[port].take() {
                    self.sw.remove_port(id).unwrap();
                    self.peers[port] = None;
                }
            }
            Step::Add(port, mode) => self.add(port, mode),
        }
    }

    fn check(&mut self) {
        let state = self.sw.state().unwrap();
        for port in &state.ports {
            account(&port.counters, port.queue.frames + port.delayed.frames);
            assert!(port.queue.bytes <= QUEUE as u64 + ONE_FRAME, "{port:#?}");
            assert!(port.delayed.bytes <= DELAYED as u64 + ONE_FRAME, "{port:#?}");
        }
        assert!(state.ring.bytes <= RING as u64, "{:#?}", state.ring);
        loop {
            match self.events.try_recv() {
                Ok(Event { kind: EventKind::PortRemoved { counters, .. }, .. }) => account(&counters, 0),
                Ok(_) => {}
                Err(TryRecvError::Empty) => break,
                Err(error) => panic!("one step, and so many events: {error}"),
            }
        }
    }

    /// The good ports have their old connections; what filled their queues meanwhile is read first.
    fn good_ports_talk(&mut self) {
        self.partitions.drain(..).for_each(|id| self.sw.heal(id).unwrap());
        self.sw.clear_all_impairments().unwrap();
        for (from, to) in [(GOOD[0], GOOD[1]), (GOOD[1], GOOD[0])] {
            let ids = [from, to].map(|port| self.ids[port].unwrap());
            self.read_until(to, |sw| {
                sw.ports().unwrap().iter().all(|port| port.id != ids[1] || port.queue.frames == 0)
            });
            let greeting = frame(to, from, None, 77);
            let sent = |sw: &Switch| {
                let ports = sw.ports().unwrap();
                ports.iter().find(|port| port.id == ids[1]).unwrap().counters.tx.sent
            };
            let before = sent(&self.sw);
            self.write(from, &wire(&greeting));
            self.read_until(to, |sw| sent(sw) > before);
            let filter = FrameFilter::new().direction(Direction::Out).dst(Mac(mac(to))).src(Mac(mac(from)));
            let crossed = self.sw.recent_frames(&filter).unwrap();
            assert!(crossed.iter().any(|frame| frame.port == ids[1] && frame.bytes[..] == greeting));
        }
    }

    fn read_until(&mut self, port: usize, done: impl Fn(&Switch) -> bool) {
        let end = Instant::now() + LIMIT;
        while !done(&self.sw) {
            assert!(Instant::now() < end, "not within {LIMIT:?}: {:#?}", self.sw.ports());
            self.take(Step::Read(port));
        }
    }
}

/// Every frame is somewhere.
fn account(PortCounters { rx, tx, .. }: &PortCounters, waiting: u64) {
    assert_eq!(rx.frames, rx.forwarded + rx.consumed + rx.dropped_total(), "{rx:#?}");
    assert_eq!(tx.offered + tx.duplicated, tx.sent + tx.dropped_total() + waiting, "{tx:#?}");
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 48, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn no_sequence_of_events_stops_the_switch(steps in vec(any_step(), 1..80)) {
        let mut chaos = Chaos::new();
        for step in steps {
            chaos.take(step);
            chaos.check();
        }
        chaos.good_ports_talk();
        chaos.check();
        chaos.sw.stop().unwrap();
    }
}
