//! What errors say, word for word.

use super::*;
use crate::death::Cause;

#[test]
fn evidence_is_the_end_of_the_output() {
    assert_eq!(last_lines(b"a\nb\nc\n", 2), ["b", "c"]);
    assert!(last_lines(b"", 2).is_empty());
    assert_eq!(quoted("stderr", &["x".into()]), "\n  stderr| x");
}

fn lines(text: &str) -> Vec<String> {
    text.lines().map(str::to_owned).collect()
}

fn artifacts() -> PathBuf {
    "/artefacts/server-1".into()
}

fn failed() -> Error {
    Error::CommandFailed {
        machine: "server-1".into(),
        command: "k3s kubectl get nodes".into(),
        status: "exit code 1".into(),
        elapsed: Duration::from_millis(2345),
        stdout: lines("NAME   STATUS"),
        stderr: lines("E0101 memcache.go\nThe connection was refused"),
        artifacts: artifacts(),
    }
}

fn condition() -> Error {
    Error::Condition {
        machine: "server-1".into(),
        operation: "`systemctl is-active k3s` succeeds".into(),
        elapsed: Duration::from_millis(90_040),
        attempts: 183,
        last: lines("activating\nexit code 3"),
        artifacts: artifacts(),
    }
}

fn boot() -> Error {
    Error::Boot {
        machine: "server-1".into(),
        wanted: Stage::Ready,
        reached: Stage::Kernel,
        elapsed: Duration::from_secs(120),
        evidence: lines("[    1.4] Run /init as init process\n[    9.9] waiting for root"),
        artifacts: artifacts(),
    }
}

fn died(cause: Cause) -> Error {
    Error::Died(Box::new(Died {
        machine: "server-1".into(),
        cause,
        stage: Stage::Init,
        after: Duration::from_millis(12_340),
        console: lines("Welcome to Debian\n[   12.2] Kernel panic - not syncing"),
        artifacts: artifacts(),
    }))
}

fn too_old() -> Error {
    Error::QemuTooOld {
        program: "/usr/bin/qemu-system-x86_64".into(),
        version: Version { major: 6, minor: 2, micro: 1 },
    }
}

fn lingering() -> Error {
    Error::Lingering {
        lab: "ha".into(),
        what: vec!["QEMU of server-1 (pid Some(4711))".into(), "the switch: its thread hangs".into()],
    }
}

#[test]
fn a_failed_command_shows_both_outputs() {
    insta::assert_snapshot!(failed(), @r"
    server-1: `k3s kubectl get nodes` ended with exit code 1 after 2.3 s
      stdout| NAME   STATUS
      stderr| E0101 memcache.go
      stderr| The connection was refused
      artefacts: /artefacts/server-1
    ");
}

#[test]
fn a_command_that_should_have_failed_says_so() {
    let error = Error::CommandSucceeded {
        machine: "server-1".into(),
        command: "curl http://server-2".into(),
        elapsed: Duration::from_millis(40),
        stdout: Vec::new(),
        artifacts: artifacts(),
    };
    insta::assert_snapshot!(error, @r"
    server-1: `curl http://server-2` succeeded after 0.0 s and should have failed
      artefacts: /artefacts/server-1
    ");
}

#[test]
fn a_condition_that_did_not_come_true_shows_the_last_attempt() {
    insta::assert_snapshot!(condition(), @r"
    server-1: `systemctl is-active k3s` succeeds was not so after 90.0 s and 183 attempts
      last attempt| activating
      last attempt| exit code 3
      artefacts: /artefacts/server-1
    ");
}

#[test]
fn a_boot_that_stopped_names_both_stages_and_the_last_lines() {
    insta::assert_snapshot!(boot(), @r"
    server-1: did not reach the stage Ready within 120.0 s; it stopped at Kernel
      console| [    1.4] Run /init as init process
      console| [    9.9] waiting for root
      artefacts: /artefacts/server-1
    ");
}

#[test]
fn a_death_names_its_cause_and_the_console() {
    insta::assert_snapshot!(died(Cause::GuestPanicked), @r"
    server-1: died 12.3 s after power-on, at the stage Init: the guest's kernel panicked
      console| Welcome to Debian
      console| [   12.2] Kernel panic - not syncing
      artefacts: /artefacts/server-1
    ");
    let ended = Cause::QemuExited { status: "signal 9".into(), said: lines("qemu: aborted") };
    insta::assert_snapshot!(died(ended), @r"
    server-1: died 12.3 s after power-on, at the stage Init: QEMU ended on its own (signal 9)
      qemu| qemu: aborted
      console| Welcome to Debian
      console| [   12.2] Kernel panic - not syncing
      artefacts: /artefacts/server-1
    ");
}

#[test]
fn what_the_host_lacks_is_said_with_the_remedy() {
    insta::assert_snapshot!(too_old(), @"QEMU is too old: `/usr/bin/qemu-system-x86_64` is version 6.2.1, and 7.2.0 is the oldest with `-netdev stream`; name a newer one in RACKLESS_QEMU");
    let missing = Error::QemuMissing { program: "qemu-system-x86_64".into() };
    insta::assert_snapshot!(missing, @"QEMU is missing: `qemu-system-x86_64` is neither a file nor on the PATH; `cargo xtask setup` installs it, or name one in RACKLESS_QEMU");
    let firmware = Error::FirmwareMissing { looked_at: vec!["/a.fd".into(), "/b.fd".into()] };
    insta::assert_snapshot!(firmware, @"UEFI firmware (OVMF) is missing: `cargo xtask setup` installs it, or name its two files in RACKLESS_FIRMWARE_CODE and RACKLESS_FIRMWARE_VARS; looked at /a.fd, /b.fd");
}

#[test]
fn a_full_disk_is_said_with_the_remedy() {
    let overlay = |said: &str| Error::Overlay {
        machine: "server-1".into(),
        path: "/lab/server-1.qcow2".into(),
        said: said.into(),
    };
    insta::assert_snapshot!(overlay("qemu-img: No space left on device"), @"server-1: no overlay at /lab/server-1.qcow2: qemu-img: No space left on device; free some space, or set RACKLESS_ARTIFACTS to a larger disk");
    insta::assert_snapshot!(overlay("qemu-img: no"), @"server-1: no overlay at /lab/server-1.qcow2: qemu-img: no");
}

#[test]
fn what_lingers_is_listed() {
    insta::assert_snapshot!(lingering(), @"after the teardown of ha there is still: QEMU of server-1 (pid Some(4711)); the switch: its thread hangs");
}

#[test]
fn an_unknown_machine_is_answered_with_those_there_are() {
    let known = vec!["server-1".into(), "agent-1".into()];
    let error = Error::NoSuchMachine { name: "server-9".into(), known };
    insta::assert_snapshot!(error, @r#"no machine "server-9" in this lab: it has server-1, agent-1"#);
}

#[test]
fn a_journal_that_is_silent_shows_its_last_entries() {
    let error = Error::Journal {
        machine: "server-1".into(),
        pattern: "ready to serve".into(),
        elapsed: Duration::from_secs(60),
        entries: 2,
        left_out: 0,
        last: vec!["systemd: Starting etcd.service".into(), "etcd: no such file".into()],
        file: "/artefacts/server-1/journal.export".into(),
    };
    assert_eq!(error.kind(), Kind::Timeout);
    insta::assert_snapshot!(error, @r"
    server-1: no entry of its journal said `ready to serve` within 60.0 s; 2 came, besides 0 too long to keep
      last entries| systemd: Starting etcd.service
      last entries| etcd: no such file
      journal: /artefacts/server-1/journal.export
    ");
}

#[test]
fn the_kind_tells_whose_fault_it_is() {
    let console = |source| Error::Console { source, artifacts: artifacts() };
    let late = ConsoleError::Timeout {
        machine: "server-1".into(),
        pattern: "login:".into(),
        elapsed: Duration::from_secs(9),
        age: Duration::from_secs(19),
        stage: Stage::Init,
        tail: Vec::new(),
    };
    let closed = ConsoleError::Send { machine: "server-1".into(), reason: "it is closed", tail: Vec::new() };
    let guest = |source| Error::Guest { source: Box::new(source), artifacts: artifacts() };
    let silent = GuestError::Silent {
        machine: "server-1".into(),
        operation: "exec".into(),
        elapsed: Duration::from_secs(30),
    };
    let version = GuestError::Version { machine: "server-1".into(), ours: 2, theirs: 1 };
    let ended = Cause::QemuExited { status: "exit code 1".into(), said: Vec::new() };
    let off = Cause::UnexpectedShutdown { reason: "guest-shutdown".into() };
    let reset = Cause::UnexpectedReset { reason: "guest-reset".into() };
    for (error, kind) in [
        (failed(), Kind::Product),
        (Error::NoSuchMachine { name: "x".into(), known: Vec::new() }, Kind::Product),
        (condition(), Kind::Timeout),
        (boot(), Kind::Timeout),
        (console(late), Kind::Timeout),
        (console(closed), Kind::Infra),
        (guest(silent), Kind::Timeout),
        (guest(version), Kind::Infra),
        (died(Cause::GuestPanicked), Kind::GuestCrash),
        (died(off), Kind::GuestCrash),
        (died(reset), Kind::GuestCrash),
        (died(ended), Kind::Infra),
        (died(Cause::AgentLost), Kind::Infra),
        (too_old(), Kind::Infra),
        (lingering(), Kind::Infra),
    ] {
        assert_eq!(error.kind(), kind, "{error}");
    }
}
