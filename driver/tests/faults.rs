//! Faults as values, on a lab whose machines are off: what the switch does is checked with frames. No QEMU runs.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use driver::qemu::{Accel, Qemu, Version};
use driver::spec::{Boot, DiskBus, DiskSpec, LabSpec, MachineSpec, NicBackend, NicSpec, Tuning};
use driver::{Error, Event, Lab, LabOptions, Supervisor};
use process::RunDir;
use switch::{Channel, Impairment, PortMode, VlanId};

const LIMIT: Duration = Duration::from_secs(30);
const SEED: u64 = 42;

/// Keeps what it is told of faults.
#[derive(Default)]
struct Notes(Mutex<Vec<Event>>);

impl Supervisor for Notes {
    fn event(&self, event: Event) {
        if event.kind == "fault" {
            self.0.lock().expect("no panic").push(event);
        }
    }

    fn remaining(&self) -> Duration {
        LIMIT
    }
}

impl Notes {
    /// What was told since the last time.
    fn take(&self) -> Vec<Event> {
        std::mem::take(&mut self.0.lock().expect("no panic"))
    }

    fn texts(&self) -> Vec<String> {
        self.take().into_iter().map(|event| event.text).collect()
    }
}

struct Bench {
    lab: Lab,
    notes: Arc<Notes>,
    /// This process in place of the machines' NICs, by the ports' names.
    nics: BTreeMap<String, Channel>,
    _folder: tempfile::TempDir,
}

impl Bench {
    async fn new() -> Bench {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        let run = format!("faults-{}-{}", std::process::id(), COUNT.fetch_add(1, Ordering::Relaxed));
        let folder = tempfile::tempdir().expect("a folder");
        let image = folder.path().join("disk.raw");
        std::fs::write(&image, vec![0; 1 << 20]).expect("a disk");
        let notes = Arc::new(Notes::default());
        let options = LabOptions {
            qemu: Qemu {
                program: "/nonexistent/qemu".into(),
                version: Version { major: 7, minor: 2, micro: 0 },
            },
            accel: Accel::Tcg,
            run: RunDir::create(&run).expect("a run directory"),
            artifacts: folder.path().join("artifacts"),
            supervisor: notes.clone(),
            seed: SEED,
            checkpoints: false,
            captures: driver::Captures::Ring,
        };
        let machines = ["server-1", "server-2"].map(|name| machine(name, &image)).into();
        let lab = Lab::create(LabSpec { name: "lab".into(), machines }, options).await.expect("a lab");
        // Only the tests' own frames are to be seen.
        lab.switch().set_lldp(None).expect("LLDP off");
        let mut nics = BTreeMap::new();
        for port in lab.switch().ports().expect("ports") {
            nics.insert(port.name, lab.switch().attach_channel(port.id).expect("a channel"));
        }
        Bench { lab, notes, nics, _folder: folder }
    }

    fn channel(&mut self, nic: &str) -> &mut Channel {
        self.nics.get_mut(nic).expect("a NIC of that name")
    }

    /// Whether a frame gets from one NIC to another.
    fn passes(&mut self, from: &str, to: &str) -> bool {
        self.channel(from).send(b"\xff\xff\xff\xff\xff\xff\x52\x54\0\0\0\x01\x88\xb5hello").expect("sent");
        // After this call the frame has left, if it does.
        self.lab.switch().ports().expect("ports");
        self.channel(to).recv(Duration::from_millis(1)).expect("received").is_some()
    }
}

fn machine(name: &str, image: &Path) -> MachineSpec {
    let nic = |index: u16| NicSpec {
        name: format!("eth{index}"),
        mac: format!("52:54:00:00:01:{index:02x}"),
        port: PortMode::Access { vlan: VlanId::new(10 * index).expect("a valid VLAN id") },
        backend: NicBackend::default(),
    };
    MachineSpec {
        name: name.to_owned(),
        memory_mib: 64,
        vcpus: 1,
        boot: Boot::Direct { kernel: "/nonexistent/kernel".into(), initrd: None, cmdline: String::new() },
        tuning: Tuning::default(),
        disk: Some(DiskSpec { image: image.to_owned(), bus: DiskBus::VirtioBlk, grow_to: None }),
        data_disks: Vec::new(),
        nics: vec![nic(1), nic(2)],
        bundles: Vec::new(),
        agent: None,
        shell: None,
        credentials: Vec::new(),
        hostname: None,
        files: Vec::new(),
        addresses: BTreeMap::new(),
        after: Vec::new(),
    }
}

const ONE: &str = "server-1/eth1";
const TWO: &str = "server-2/eth1";

#[tokio::test(flavor = "multi_thread")]
async fn an_impairment_of_a_nic_is_one_way_told_and_healed() {
    let mut bench = Bench::new().await;
    let fault = bench.lab["server-2"].impair("eth1", Impairment::new().loss(1.0)).expect("impaired");
    assert!(!bench.passes(ONE, TWO) && bench.passes(TWO, ONE));
    let told = bench.notes.take();
    assert_eq!(told.len(), 1);
    assert_eq!(told[0].text, "impairment of server-2/eth1: loss 100 %");
    assert_eq!(told[0].machine.as_deref(), Some("server-2"));
    assert_eq!((&told[0].data["active"], &told[0].data["seed"]), (&true.into(), &SEED.into()));
    assert_eq!(bench.lab.switch().state().expect("a state").seed, SEED);
    fault.heal().await.expect("healed");
    assert!(bench.passes(ONE, TWO));
    assert_eq!(bench.notes.texts(), ["healed: impairment of server-2/eth1: loss 100 %"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_impairment_that_was_replaced_leaves_its_successor_alone() {
    let mut bench = Bench::new().await;
    let first = bench.lab["server-2"].impair("eth1", Impairment::new().loss(0.5)).expect("impaired");
    let second = bench.lab["server-2"].impair("eth1", Impairment::new().loss(1.0)).expect("impaired");
    bench.notes.take();
    first.heal().await.expect("nothing to heal");
    assert_eq!(bench.notes.texts(), [""; 0]);
    assert!(!bench.passes(ONE, TWO));
    second.heal().await.expect("healed");
    assert!(bench.passes(ONE, TWO));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_pair_is_impaired_one_way() {
    let mut bench = Bench::new().await;
    let lossy = Impairment::new().loss(1.0);
    let fault = bench.lab.impair_pair("server-1", "server-2/eth1", lossy.clone()).expect("impaired");
    assert!(!bench.passes(ONE, TWO) && bench.passes(TWO, ONE));
    assert!(bench.passes("server-1/eth2", "server-2/eth2"));
    let expected =
        ["eth1", "eth2"].map(|nic| format!("impairment of server-1/{nic} -> server-2/eth1: loss 100 %"));
    assert_eq!(bench.notes.texts(), expected);
    fault.heal().await.expect("healed");
    assert!(bench.passes(ONE, TWO));

    let refused =
        bench.lab.impair_pair("server-1", "server-1/eth1", lossy).err().expect("refused").to_string();
    assert!(refused.contains("no frame leaves by the port that it came in by"), "{refused}");
    let unknown = bench.lab.impair_pair("server-1", "server-3", Impairment::new().loss(0.1));
    assert!(matches!(unknown, Err(Error::NoSuchMachine { .. })));
    let unknown = bench.lab["server-1"].impair("eth9", Impairment::new().loss(0.1));
    assert!(matches!(unknown, Err(Error::Spec { .. })));
}

#[tokio::test(flavor = "multi_thread")]
async fn partitions_are_both_ways_one_way_or_of_some_vlans() {
    let mut bench = Bench::new().await;
    let both = bench.lab.partition(&["server-1"], &["server-2"]).expect("a partition");
    assert!(!bench.passes(ONE, TWO) && !bench.passes(TWO, ONE));
    both.heal().await.expect("healed");
    let one_way = bench.lab.partition_one_way(&["server-1"], &["server-2/eth1"]).expect("a partition");
    assert!(!bench.passes(ONE, TWO) && bench.passes(TWO, ONE));
    one_way.heal().await.expect("healed");
    let vlan = VlanId::new(20).expect("a valid VLAN id");
    let some = bench.lab.partition_vlans(&["server-1"], &["server-2"], vlan).expect("a partition");
    assert!(bench.passes(ONE, TWO) && !bench.passes("server-1/eth2", "server-2/eth2"));
    some.heal().await.expect("healed");
    assert!(bench.passes("server-1/eth2", "server-2/eth2"));
    let all = "server-1/eth1, server-1/eth2 | server-2/eth1, server-2/eth2";
    assert_eq!(
        bench.notes.texts(),
        [
            format!("partition: {all}"),
            format!("healed: partition: {all}"),
            "partition: server-1/eth1, server-1/eth2 -> server-2/eth1".to_owned(),
            "healed: partition: server-1/eth1, server-1/eth2 -> server-2/eth1".to_owned(),
            format!("partition: {all} (VLAN 20)"),
            format!("healed: partition: {all} (VLAN 20)"),
        ]
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_port_that_is_shut_carries_nothing() {
    let mut bench = Bench::new().await;
    let fault = bench.lab["server-2"].shut("eth1").expect("shut");
    assert!(!bench.passes(ONE, TWO) && !bench.passes(TWO, ONE));
    fault.heal().await.expect("healed");
    assert!(bench.passes(ONE, TWO));
    let expected = ["down", "up"].map(|word| format!("switch port of eth1 {word}, carrier as it was"));
    assert_eq!(bench.notes.texts(), expected);
}

#[tokio::test(flavor = "multi_thread")]
async fn heal_all_heals_faults_of_every_kind_with_and_without_guards() {
    let mut bench = Bench::new().await;
    let lab = bench.lab.clone();
    let all_off = Impairment::new().loss(1.0);
    let guards = [
        lab["server-1"].cut("eth2").await.expect("cut"),
        lab["server-2"].shut("eth2").expect("shut"),
        lab.partition(&["server-1"], &["server-2"]).expect("a partition"),
        lab["server-1"].impair("eth1", all_off.clone()).expect("impaired"),
        lab.impair_pair("server-1/eth1", "server-2/eth1", all_off.clone()).expect("impaired"),
    ];
    lab["server-2"].set_carrier("eth1", false).await.expect("carrier down");
    let port = lab["server-2"].port("eth1").expect("a port");
    lab.switch().impair(switch::ImpairTarget::Port(port), all_off).expect("impaired");
    assert_eq!(bench.notes.take().len(), 6);
    assert!(!bench.passes(ONE, TWO));

    lab.heal_all().await.expect("healed");
    let told = bench.notes.texts();
    assert_eq!(told.iter().filter(|text| text.starts_with("healed: partition")).count(), 1, "{told:?}");
    assert_eq!(told.iter().filter(|text| text.starts_with("healed: impairment")).count(), 3, "{told:?}");
    assert_eq!(told.iter().filter(|text| text.ends_with(" up")).count(), 3, "{told:?}");
    for (from, to) in [(ONE, TWO), (TWO, ONE), ("server-1/eth2", "server-2/eth2")] {
        assert!(bench.passes(from, to), "{from} to {to}");
    }
    let state = lab.switch().state().expect("a state");
    assert!(state.impairments.is_empty() && state.partitions.is_empty());

    // Guards of what is over already have nothing to do.
    for guard in guards {
        guard.heal().await.expect("nothing to heal");
    }
    assert!(bench.passes(ONE, TWO));
    lab.teardown().await.expect("torn down");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_service_does_wrong_is_told_of_its_machine_and_ends_with_all_other_faults() {
    let bench = Bench::new().await;
    let sw = bench.lab.switch();
    let port = sw.ports().expect("ports")[0].id;
    let deaf = Arc::new(AtomicU32::new(1));
    let ending = deaf.clone();
    let mac = "52:54:00:00:01:02".parse().expect("a MAC address");
    let end = move || ending.store(0, Ordering::Relaxed);
    let id = sw.service_fault(port, "DHCP of lan", "ignores it", Some(mac), end);
    let told = bench.notes.take();
    assert_eq!(told.len(), 1);
    assert_eq!((told[0].kind, told[0].text.as_str()), ("fault", "DHCP of lan ignores it"));
    // Both machines of this lab have that address; the later one is as good.
    assert_eq!(told[0].machine.as_deref(), Some("server-2"));
    assert_eq!(told[0].data["active"], true);
    sw.service_mishap(port, "DHCP of lan", "ended a lease", None);
    assert_eq!(bench.notes.texts(), ["DHCP of lan ended a lease"]);

    bench.lab.heal_all().await.expect("healed");
    assert_eq!(deaf.load(Ordering::Relaxed), 0);
    assert_eq!(bench.notes.texts(), ["healed: DHCP of lan ignores it"]);
    assert!(sw.heal_service_fault(id).is_err());
    bench.lab.heal_all().await.expect("nothing is left to heal");
    assert!(bench.notes.texts().is_empty());
}
