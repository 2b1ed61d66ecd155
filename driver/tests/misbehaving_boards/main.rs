//! Boards that do what they should, and boards that don't: what a test is told, with which class, and when. The boards are
//! played (`fake`); no QEMU runs.

mod fake;

use std::path::Path;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use driver::board::{Board, Holder, Line, Lock};
use driver::qemu::{Accel, Qemu, Version};
use driver::spec::{Boot, LabSpec, MachineSpec, NicBackend, NicSpec, ShellSpec, Tuning};
use driver::{Error, Event, Kind, Lab, LabOptions, Machine, Supervisor};
use fake::{Fake, Mood};
use process::RunDir;
use shell::tty::{Mode, Tty};
use switch::{PortMode, VlanId};
use tokio::net::TcpListener;

/// The deadline of a whole test. Nothing here may come near it.
const LIMIT: Duration = Duration::from_secs(120);

/// A supervisor that keeps what it is told, and has so much time.
struct Notes {
    told: Mutex<Vec<String>>,
    until: Instant,
}

impl Supervisor for Notes {
    fn event(&self, event: Event) {
        self.told.lock().expect("no panic").push(format!("{}: {}", event.kind, event.text));
    }

    fn remaining(&self) -> Duration {
        self.until.saturating_duration_since(Instant::now())
    }
}

impl Notes {
    fn has(&self, text: &str) -> bool {
        self.told.lock().expect("no panic").iter().any(|told| told.contains(text))
    }
}

/// A lab with one machine, which is a board.
struct Place {
    lab: Lab,
    notes: Arc<Notes>,
    fake: Fake,
    folder: tempfile::TempDir,
}

impl Place {
    async fn new(more: &str) -> Self {
        Self::within(more, LIMIT).await
    }

    async fn within(more: &str, limit: Duration) -> Self {
        let folder = tempfile::tempdir().expect("a folder");
        let fake = Fake::new(folder.path());
        let board = fake.board(more);
        Self::of(board, fake, folder, limit).await
    }

    async fn of(board: Board, fake: Fake, folder: tempfile::TempDir, limit: Duration) -> Self {
        let notes = Arc::new(Notes { told: Mutex::default(), until: Instant::now() + limit });
        let lab = lab(&board, folder.path(), &notes).await.expect("a lab");
        Self { lab, notes, fake, folder }
    }

    fn machine(&self) -> &Machine {
        &self.lab["server-2"]
    }

    /// On, and as far as its login.
    async fn ready(&self) {
        self.lab.start().await.expect("on");
        self.machine().wait_ready().await.expect("ready");
    }

    /// What a command comes to while the board does as `trouble` says, and how long after that.
    async fn during(&self, trouble: impl FnOnce(&Fake)) -> (Error, Duration) {
        let started = self.folder.path().join("started");
        let command = format!("touch {}; sleep 60; echo done", started.display());
        let fails = async { self.machine().succeed(command).within(Duration::from_secs(20)).await };
        let troubles = async {
            let there = driver::poll_until(LIMIT, async || started.exists().then_some(())).await;
            there.expect("the command runs");
            trouble(&self.fake);
            Instant::now()
        };
        let ((failed, ended), begun) = tokio::join!(async { (fails.await, Instant::now()) }, troubles);
        (failed.expect_err("the board is in no state to succeed"), ended.saturating_duration_since(begun))
    }

    fn console_log(&self) -> String {
        fs_err::read_to_string(self.machine().artifacts().join("console.log")).expect("a log")
    }

    /// Ends the lab; what was done with the board's power from first to last.
    async fn end(self) -> String {
        self.lab.teardown().await.expect("torn down");
        self.fake.turned()
    }
}

async fn lab(board: &Board, folder: &Path, notes: &Arc<Notes>) -> Result<Lab, Error> {
    static COUNT: std::sync::atomic::AtomicU32 = std::sync::atomic::AtomicU32::new(0);
    let count = COUNT.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
    let options = LabOptions {
        qemu: Qemu { program: "/nonexistent/qemu".into(), version: Version { major: 7, minor: 2, micro: 0 } },
        accel: Accel::Kvm,
        run: RunDir::create(&format!("board-{}-{count}", std::process::id())).expect("a run directory"),
        artifacts: folder.join(format!("artifacts/suite/test-{count}")),
        supervisor: notes.clone(),
        seed: 0,
        checkpoints: false,
        captures: driver::Captures::Off,
    };
    let machine = MachineSpec {
        name: "server-2".into(),
        memory_mib: 512,
        vcpus: 1,
        boot: Boot::Board(Box::new(board.clone())),
        tuning: Tuning::default(),
        disk: None,
        data_disks: Vec::new(),
        nics: vec![NicSpec {
            name: "eth1".into(),
            mac: "52:54:00:00:00:01".into(),
            port: PortMode::Access { vlan: VlanId::new(10).expect("a VLAN id") },
            backend: NicBackend::default(),
        }],
        bundles: Vec::new(),
        agent: None,
        shell: Some(ShellSpec::Serial(board.login.clone())),
        credentials: Vec::new(),
        hostname: None,
        files: Vec::new(),
        addresses: Default::default(),
        after: Vec::new(),
    };
    Lab::create(LabSpec { name: "lab".into(), machines: vec![machine] }, options).await
}

/// All of these are in the text.
fn says(text: &str, parts: &[&str]) {
    for part in parts {
        assert!(text.contains(part), "no {part:?} in: {text}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_good_board_has_the_verbs_of_any_machine() {
    let place = Place::new("").await;
    let machine = place.machine();
    place.ready().await;
    assert!(machine.is_running());
    assert_eq!(machine.succeed("echo $((6 * 7))").await.expect("it runs"), "42\n");
    let there = place.folder.path().join("there");
    let (sent, there) = (place.folder.path().join("sent"), there.display().to_string());
    fs_err::write(&sent, "some text").expect("written");
    machine.copy_to(&sent, &there).await.expect("copied");
    assert_eq!(machine.succeed(format!("cat {there}")).await.expect("read"), "some text");
    says(&place.console_log(), &["U-Boot 2024.01 (fake)", "Hit any key", "Linux version", "fake login:"]);
    machine.crash().await.expect("off");
    assert!(!machine.is_running());
    machine.start().await.expect("on again");
    machine.wait_ready().await.expect("ready again");
    machine.succeed("true").await.expect("it runs again");
    assert_eq!(place.console_log().matches("U-Boot").count(), 2, "one log over all power cycles");
    assert_eq!(place.end().await, "on off on off", "turned off at the end");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_board_cannot_do_is_said_so_by_type() {
    let place = Place::new("").await;
    let machine = place.machine();
    place.ready().await;
    let nic = machine.spec().nics[0].clone();
    for (refused, wanted) in [
        (machine.screenshot("x").await.map(drop), "server-2: a screenshot is unsupported: fake is a board"),
        (machine.monitor().map(drop), "the monitor is unsupported"),
        (machine.plug(nic).await, "plugging a NIC is unsupported"),
        (machine.unplug("eth1").await, "unplugging a NIC is unsupported"),
        (machine.cut("eth1").await.map(drop), "setting the carrier of a NIC is unsupported"),
        (
            machine.shut("eth1").map(drop),
            "the network of eth1 is unsupported: fake.toml has no [uplink.eth1]",
        ),
        (machine.pause().await, "is unsupported"),
    ] {
        let error = refused.expect_err(wanted);
        assert!(matches!(error, Error::Unsupported { .. }), "{error}");
        says(&error.to_string(), &[wanted]);
    }
    let saved =
        place.lab.checkpoint(&place.folder.path().join("c"), "x").await.map(drop).expect_err("no checkpoint");
    says(&saved.to_string(), &["server-2", "it is a board, whose memory nobody can save"]);
    assert_eq!(machine.qemu_pid(), None);
    place.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_board_that_goes_silent_is_told_in_time_with_the_last_words() {
    let place = Place::new("").await;
    place.ready().await;
    let (error, took) = place.during(|fake| fake.be(Mood::Silent)).await;
    assert!(took < Duration::from_secs(60), "{took:?}: {error}");
    assert_eq!(error.kind(), Kind::Timeout, "{error}");
    says(&error.to_string(), &["server-2", "artefacts: "]);
    assert!(place.machine().is_running(), "a board that says nothing may have power all the same");
    place.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_board_that_answers_garbage_is_not_believed() {
    let place = Place::new("").await;
    place.ready().await;
    place.fake.be(Mood::Garbage);
    let begun = Instant::now();
    let error =
        place.machine().succeed("echo true").within(Duration::from_secs(20)).await.expect_err("garbage");
    assert!(begun.elapsed() < Duration::from_secs(60), "{error}");
    says(&error.to_string(), &["server-2", "?~{", "artefacts: "]);
    says(&place.console_log(), &["?~{"]);
    place.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_board_that_reboots_in_the_middle_of_a_command_ends_it_at_once() {
    let place = Place::new("").await;
    place.ready().await;
    let (error, took) = place.during(|fake| fake.be(Mood::Reboots)).await;
    assert!(took < Duration::from_secs(15), "{took:?}: {error}");
    assert_eq!(error.kind(), Kind::GuestCrash, "{error}");
    let wanted = [
        "server-2: died",
        "the guest reset itself (the console says \"U-Boot 2024.01 (fake)\")",
        "artefacts: ",
    ];
    says(&error.to_string(), &wanted);
    place.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_board_that_somebody_else_turns_off_ends_the_test_at_once() {
    let place = Place::new("").await;
    place.ready().await;
    let (error, took) = place.during(Fake::cut_power).await;
    assert!(took < Duration::from_secs(15), "{took:?}: {error}");
    assert_eq!(error.kind(), Kind::Infra, "{error}");
    says(
        &error.to_string(),
        &["server-2: died", "its power is off, and nobody here turned it off", "console| "],
    );
    assert!(!place.machine().is_running());
    place.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_board_that_another_run_has_is_waited_for_and_its_holder_named() {
    let place = Place::within("", Duration::from_secs(7)).await;
    let me = Holder { user: "ada".into(), ..Holder::me("cluster/forms") };
    let lock = Lock::take(&place.fake.board(""), &me, Duration::ZERO, |_| {}).await.expect("free");
    let begun = Instant::now();
    let error = place.lab.start().await.expect_err("it is locked");
    assert!(begun.elapsed() < Duration::from_secs(7), "before the test's own deadline");
    assert_eq!(error.kind(), Kind::Infra, "{error}");
    says(
        &error.to_string(),
        &["server-2: fake is in use: ada has it for cluster/forms (pid ", "artefacts: "],
    );
    assert!(place.notes.has("power: waits for fake: ada has it for cluster/forms"), "who waits is told");
    assert_eq!(place.fake.turned(), "", "nobody touches a board that is another's");
    drop(lock);
    assert_eq!(place.end().await, "", "nor at the end");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_boot_loader_that_says_nothing_is_told_with_the_step() {
    let place = Place::new("[[boot.dialogue]]\nexpect = \"Hit any key\"\nwithin = \"300ms\"\n").await;
    place.fake.mute();
    place.lab.start().await.expect("on");
    let begun = Instant::now();
    let error = place.machine().wait_ready().await.expect_err("no boot");
    assert!(begun.elapsed() < Duration::from_secs(15), "{error}");
    assert_eq!(error.kind(), Kind::Timeout, "{error}");
    let wanted =
        "it did not boot: fake: step 1 of its boot dialogue waited for \"Hit any key\", which did not come";
    says(&error.to_string(), &["server-2: died", wanted]);
    place.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn after_a_failure_the_board_decides_what_its_power_does() {
    for (policy, turned) in [("leave", "on"), ("off", "on off"), ("cycle", "on off on")] {
        let place = Place::new(&format!("on_failure = {policy:?}")).await;
        place.ready().await;
        place.lab.diagnose().await;
        let power = place.machine().artifacts().join("diag/power.txt");
        assert_eq!(fs_err::read_to_string(power).expect("kept"), "fake: its power is on\n");
        assert!(!place.notes.has("at the end"));
        let notes = place.notes.clone();
        assert_eq!(place.end().await, turned, "{policy}");
        assert!(notes.has(&format!("power: at the end: {policy}")));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_board_whose_power_cannot_be_turned_off_is_told_at_the_end() {
    let place = Place::new("within = \"1s\"").await;
    place.ready().await;
    let power = place.folder.path().join("power");
    // A directory in its place can't be removed by the board's command.
    fs_err::remove_file(&power).expect("there");
    fs_err::create_dir(&power).expect("made");
    let error = place.lab.teardown().await.expect_err("it is still on");
    says(&error.to_string(), &["server-2, a board whose power could not be turned off"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_serial_server_that_ends_takes_the_line_with_it() {
    let folder = tempfile::tempdir().expect("a folder");
    let fake = Fake::new(folder.path());
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let address = listener.local_addr().expect("its address").to_string();
    let mut terminal = Tty::open(fake.line(), &Mode::new(115_200)).expect("the line");
    let server = tokio::spawn(async move {
        let (mut stream, _) = listener.accept().await.expect("a connection");
        let _ = tokio::io::copy_bidirectional(&mut stream, &mut terminal).await;
    });
    let board = Board { line: Line::Tcp(address), ..fake.board("") };
    let place = Place::of(board, fake, folder, LIMIT).await;
    place.ready().await;
    assert_eq!(place.machine().succeed("echo here").await.expect("it runs"), "here\n");
    let (error, took) = place.during(|_| server.abort()).await;
    assert!(took < Duration::from_secs(15), "{took:?}: {error}");
    assert_eq!(error.kind(), Kind::Infra, "{error}");
    says(&error.to_string(), &["server-2: died", "its serial line was closed at the other end"]);
    place.end().await;
}

#[tokio::test]
async fn a_board_that_does_not_fit_the_lab_is_told_before_anything_starts() {
    let folder = tempfile::tempdir().expect("a folder");
    let notes = Arc::new(Notes { told: Mutex::default(), until: Instant::now() + LIMIT });
    let fake = Fake::new(folder.path());
    let board = fake.board(&format!("[uplink.eth7]\nvde = \"{}/vde\"\n", folder.path().display()));
    let error = lab(&board, folder.path(), &notes).await.map(drop).expect_err("no such NIC");
    says(
        &error.to_string(),
        &["server-2: fake.toml has a cable for eth7, and this machine has the NICs eth1"],
    );
}
