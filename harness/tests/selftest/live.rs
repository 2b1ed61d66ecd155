//! The display on a real terminal, and the quiet one.

use std::fs::File;
use std::io::Read;
use std::os::fd::OwnedFd;
use std::process::Stdio;

use nix::pty::openpty;

use crate::process::{Place, Test};

pub(crate) const TESTS: &[Test] = &[("live_lines_on_a_terminal", live_lines_on_a_terminal), ("quiet", quiet)];

fn live_lines_on_a_terminal() {
    let place = Place::new();
    let terminal = openpty(None, None).expect("a terminal");
    let side = || Stdio::from(terminal.slave.try_clone().expect("duplicates"));
    let mut command = place.command(&["--exact", "passes", "--test-threads=1"], &[("TERM", "xterm")]);
    command.stdout(side()).stderr(side());
    let running = place.start_command(command);
    drop(terminal.slave);
    let text = everything(terminal.master);
    assert_eq!(running.wait().code(), 0, "{text}");
    assert!(text.contains("\x1b[J"), "lines are redrawn: {text:?}");
    assert!(text.contains("passes server-1     0 s  Kernel"), "{text:?}");
    let verdict = text.lines().find(|line| line.contains("test passes ... "));
    assert!(verdict.is_some_and(|line| line.contains("ok")), "libtest's line is whole: {text:?}");
    assert!(text.contains("test result:"), "{text:?}");
}

/// Reads a terminal until its other side is closed, which Linux reports as an error.
fn everything(master: OwnedFd) -> String {
    let (mut master, mut bytes, mut chunk) = (File::from(master), Vec::new(), [0; 4096]);
    while let Ok(count @ 1..) = master.read(&mut chunk) {
        bytes.extend_from_slice(&chunk[..count]);
    }
    String::from_utf8_lossy(&bytes).into_owned()
}

fn quiet() {
    let place = Place::new();
    let ended = place.run(&["passes"], &[("RACKLESS_QUIET", "1")]);
    assert_eq!((ended.code(), &*ended.stderr), (0, ""));
    let ended = place.run(&["--exact", "fails", "--quiet"], &[]);
    assert!(ended.stderr.contains("FAILED fixture::fails") && !ended.stderr.contains("healthy …"));
}
