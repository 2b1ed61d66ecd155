//! Uplinks of a lab as guards. No QEMU runs, and no privileges are needed.

use std::net::{Ipv4Addr, SocketAddr};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use driver::qemu::{Accel, Qemu, Version};
use driver::spec::LabSpec;
use driver::{Event, Lab, LabOptions, Supervisor};
use process::RunDir;
use switch::{PortConfig, PortMode, UplinkConfig, UplinkKind, VlanId, Vni};

const LIMIT: Duration = Duration::from_secs(30);

/// Keeps what it is told of uplinks.
#[derive(Default)]
struct Notes(Mutex<Vec<String>>);

impl Supervisor for Notes {
    fn event(&self, event: Event) {
        if event.kind == "uplink" {
            self.0.lock().expect("no panic").push(event.text);
        }
    }

    fn remaining(&self) -> Duration {
        LIMIT
    }
}

async fn lab(name: &str) -> (Lab, Arc<Notes>, tempfile::TempDir) {
    let folder = tempfile::tempdir().expect("a folder");
    let notes = Arc::new(Notes::default());
    let version = Version { major: 7, minor: 2, micro: 0 };
    let options = LabOptions {
        qemu: Qemu { program: "/nonexistent/qemu".into(), version },
        accel: Accel::Tcg,
        run: RunDir::create(&format!("{name}-{}", std::process::id())).expect("a run directory"),
        artifacts: folder.path().join("artifacts"),
        supervisor: notes.clone(),
        seed: 0,
        checkpoints: false,
        captures: driver::Captures::Ring,
    };
    let spec = LabSpec { name: name.into(), machines: Vec::new() };
    let lab = Lab::create(spec, options).await.expect("a lab");
    // Only the tests' own frames are to be seen.
    lab.switch().set_lldp(None).expect("LLDP off");
    (lab, notes, folder)
}

fn access() -> PortMode {
    PortMode::Access { vlan: VlanId::new(7).expect("a VLAN id") }
}

#[tokio::test]
async fn an_uplink_is_there_as_long_as_its_guard() {
    let (lab, notes, folder) = lab("uplink").await;
    let lan = lab.uplink(UplinkConfig::vde("lan", access())).expect("a VDE switch");
    let dir = lan.vde_dir().expect("a directory");
    assert!(dir.starts_with(lab.run_dir()) && dir.join("ctl").exists(), "{}", dir.display());
    assert_eq!((lan.name(), lan.interface(), lan.local_address()), ("lan", None, None));
    assert_eq!(lan.state().expect("a state").clients, []);
    let twice = lab.uplink(UplinkConfig::vde("lan", access())).map(drop).expect_err("a refusal").to_string();
    assert!(twice.contains("another switch serves this directory"), "{twice}");
    lan.remove().expect("removed");
    assert!(!dir.exists());
    drop(lab.uplink(UplinkConfig::vde("lan", access())).expect("a VDE switch again"));
    assert!(!dir.exists() && lab.switch().uplinks().expect("uplinks").is_empty());

    // A guard that outlives its lab has nothing left to remove.
    let late = lab.uplink(UplinkConfig::vde("late", access())).expect("a VDE switch");
    lab.diagnose().await;
    let kept = std::fs::read_to_string(folder.path().join("artifacts/net/ports.json")).expect("ports.json");
    assert!(kept.contains("late.vde"), "{kept}");
    lab.teardown().await.expect("torn down");
    drop(late);
    let told = std::mem::take(&mut *notes.0.lock().expect("no panic"));
    let (added, removed) = (format!("uplink lan: vde {}, access 7", dir.display()), "uplink lan removed");
    assert_eq!(told[..4], [&added, removed, &added, removed]);
    assert_eq!(told.len(), 5);
}

#[tokio::test]
async fn two_labs_are_joined() {
    let (one, _, _one) = lab("one").await;
    let (two, _, _two) = lab("two").await;
    let [_, _, high, low] = std::process::id().to_be_bytes();
    let address = |host| SocketAddr::new(Ipv4Addr::new(127, 1 + (high & 0x7f), low, host).into(), 4789);
    let join = |lab: &Lab, local, peer| {
        let vni = Vni::new(42).expect("a VNI");
        lab.uplink(UplinkConfig::vxlan("spine", access(), local, peer, vni)).expect("a tunnel")
    };
    let spines = [join(&one, address(101), address(102)), join(&two, address(102), address(101))];
    assert_eq!(spines[0].local_address(), Some(address(101)));
    assert!(matches!(spines[0].state().expect("a state").kind, UplinkKind::Vxlan { .. }));
    let mut ends = [&one, &two].map(|lab| {
        let port = lab.switch().add_port(PortConfig::new("station", access())).expect("a port");
        lab.switch().attach_channel(port).expect("a channel")
    });
    let frame = b"\xff\xff\xff\xff\xff\xff\x52\x54\0\0\0\x01\x88\xb5hello";
    ends[0].send(frame).expect("sent");
    assert_eq!(ends[1].recv(LIMIT).expect("received").as_deref(), Some(&frame[..]));
    // A cut between the two labs is a partition of an uplink, by its name.
    let cut = one.partition(&["spine"], &["station"]).expect("a partition");
    ends[0].send(frame).expect("sent");
    cut.heal().await.expect("healed");
    ends[0].send(&[&frame[..], b" again"].concat()).expect("sent");
    let next = ends[1].recv(LIMIT).expect("received").expect("a frame");
    assert!(next.ends_with(b" again"), "{next:?}");
    let nobody = one.partition(&["spin"], &["station"]).map(drop).expect_err("a refusal").to_string();
    assert!(nobody.contains("spin"), "{nobody}");
    for lab in [one, two] {
        lab.teardown().await.expect("torn down");
    }
}
