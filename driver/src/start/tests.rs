//! Who starts when, without QEMU: turns that are asked for, and what a machine that can't start says.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use futures::FutureExt as _;
use futures::future::BoxFuture;
use process::RunDir;
use tokio::sync::Semaphore;

use super::*;
use crate::qemu::{Accel, Qemu, Version};
use crate::spec::{Boot, DiskBus, DiskSpec, LabSpec, MachineSpec};
use crate::{Event, Kind, LabOptions, Supervisor};

const LIMIT: Duration = Duration::from_secs(30);

/// Gives a turn for each permit, and keeps what it is told.
struct Host {
    permits: Semaphore,
    told: Mutex<Vec<String>>,
}

impl Supervisor for Host {
    fn event(&self, event: Event) {
        let machine = event.machine.unwrap_or_default();
        self.told.lock().expect("no panic").push(format!("{machine}: {}", event.text));
    }

    fn remaining(&self) -> Duration {
        LIMIT
    }

    fn boot_turn(&self, vcpus: u32) -> BoxFuture<'_, BootTurn> {
        async move {
            self.told.lock().expect("no panic").push(format!("{vcpus} vCPUs ask for a turn"));
            self.permits.acquire().await.expect("never closed").forget();
            Box::new(()) as BootTurn
        }
        .boxed()
    }
}

impl Host {
    fn with(permits: usize) -> Arc<Self> {
        Arc::new(Self { permits: Semaphore::new(permits), told: Mutex::default() })
    }

    fn told(&self) -> Vec<String> {
        self.told.lock().expect("no panic").clone()
    }
}

/// Machines by name, vCPUs and what they start after, whose QEMU does not exist: their start fails once it is their turn.
async fn lab(
    name: &str,
    host: &Arc<Host>,
    machines: &[(&str, u32, &[After])],
) -> (Result<Lab, Error>, tempfile::TempDir) {
    let folder = tempfile::tempdir().expect("a folder");
    let image = folder.path().join("disk.raw");
    fs_err::write(&image, vec![0; 1 << 20]).expect("a disk");
    let machines = machines.iter().map(|&(name, vcpus, after)| MachineSpec {
        vcpus,
        boot: Boot::Direct { kernel: "/nonexistent/kernel".into(), initrd: None, cmdline: String::new() },
        disk: Some(DiskSpec { image: image.clone(), bus: DiskBus::VirtioBlk, grow_to: None }),
        nics: Vec::new(),
        after: after.to_vec(),
        ..crate::spec::tests::machine(name)
    });
    let options = LabOptions {
        qemu: Qemu { program: "/nonexistent/qemu".into(), version: Version { major: 7, minor: 2, micro: 0 } },
        accel: Accel::Kvm,
        run: RunDir::create(&format!("start-{name}-{}", std::process::id())).expect("a run directory"),
        artifacts: folder.path().join("artifacts"),
        supervisor: host.clone(),
        seed: 1,
        checkpoints: false,
        captures: crate::capture::Captures::Off,
    };
    let spec = LabSpec { name: "lab".into(), machines: machines.collect() };
    (Lab::create(spec, options).await, folder)
}

#[tokio::test(flavor = "multi_thread")]
async fn machines_ask_for_their_turn_one_after_the_other_in_their_order() {
    let host = Host::with(0);
    let (lab, _folder) = lab("order", &host, &[("a", 2, &[]), ("b", 1, &[]), ("c", 1, &[])]).await;
    let lab = lab.expect("a lab");
    let mut start = Box::pin(lab.start());
    assert!(futures::poll!(&mut start).is_pending());
    let waiting = ["a", "b", "c"].map(|name| format!("{name}: waits for its turn to boot"));
    assert_eq!(host.told(), [&["2 vCPUs ask for a turn".to_owned()], &waiting[..]].concat());
    host.permits.add_permits(1);
    // Its turn came: it fails for want of QEMU, and nobody else was asked to start before it.
    let error = start.await.expect_err("no QEMU");
    assert!(matches!(error, Error::QemuMissing { .. }), "{error}");
    lab.teardown().await.expect("torn down");
}

#[tokio::test(flavor = "multi_thread")]
async fn who_starts_after_something_waits_for_it_and_says_so() {
    let host = Host::with(0);
    let after = [After::from("server-1"), After::port("server-1", 6443)];
    let (lab, _folder) = lab("after", &host, &[("server-1", 1, &[]), ("agent-1", 1, &after)]).await;
    let lab = lab.expect("a lab");
    let mut start = Box::pin(lab.start());
    assert!(futures::poll!(&mut start).is_pending());
    let told = host.told();
    assert_eq!(told[0], "agent-1: waits for server-1 to be ready, port 6443 of server-1");
    assert_eq!(told[1], "1 vCPUs ask for a turn", "only server-1 asks");
    let off = lab["agent-1"].console().expect_err("it is off").to_string();
    let expected = "agent-1: the console needs a running machine, and it is off, and waits for server-1 to be ready, \
                    port 6443 of server-1";
    assert_eq!(off, expected);
    // Nor do verbs that need the guest take server-1 for a machine that is off.
    let mut waits = Box::pin(lab["agent-1"].wait_ready().into_future());
    tokio::task::yield_now().await;
    assert!(futures::poll!(&mut waits).is_pending() && futures::poll!(&mut start).is_pending());
    host.permits.add_permits(1);
    assert!(matches!(start.await, Err(Error::QemuMissing { .. })));
    let died = tokio::time::timeout(LIMIT, lab.died()).await.expect("it can't start any more");
    assert!(matches!(waits.await, Err(Error::Died(_))));
    let text = died.to_string();
    let begin =
        "agent-1: it was to start after server-1 to be ready, port 6443 of server-1, and did not: server-1: ";
    assert!(text.starts_with(begin), "{text}");
    assert_eq!(died.cause.kind(), Kind::Infra);
    lab.teardown().await.expect("torn down");
}

#[tokio::test(flavor = "multi_thread")]
async fn nothing_starts_in_a_lab_that_is_over() {
    let host = Host::with(2);
    let (lab, _folder) = lab("over", &host, &[("a", 1, &[])]).await;
    let lab = lab.expect("a lab");
    lab.teardown().await.expect("torn down");
    lab.start().await.expect("left alone: with QEMU asked for, it would be missing");
}

#[tokio::test(flavor = "multi_thread")]
async fn circles_and_strangers_are_refused() {
    let host = Host::with(2);
    let refusal = async |name, machines: &[(&str, u32, &[After])]| {
        lab(name, &host, machines).await.0.err().expect("refused").to_string()
    };
    assert_eq!(
        refusal("stranger", &[("a", 1, &["b".into()])]).await,
        "a: it is to start after b, and there is no such machine"
    );
    assert_eq!(
        refusal("circle", &[("c", 1, &[]), ("a", 1, &["b".into()]), ("b", 1, &["a".into(), "c".into()])])
            .await,
        "a: these start after one another, so none would: a, b"
    );
    assert_eq!(
        refusal("self", &[("a", 1, &["a".into()])]).await,
        "a: these start after one another, so none would: a"
    );
}
