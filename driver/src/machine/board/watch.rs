//! What can end a board: its power, its line, a reset. A QEMU tells of these; a board has to be looked at.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use board::State;
use shell::escape::Stripper;

use crate::Cause;
use crate::console::{Stage, StageDetector};
use crate::machine::Machine;
use crate::machine::instance::{Body, Instance};

/// The longest line that is looked at.
const LINE_MAX: usize = 4 << 10;

impl Machine {
    /// Starts the tasks that watch a board.
    pub(in crate::machine) fn watch_board(&self, instance: &Arc<Instance>) {
        self.spawn_until_over(instance, |machine, instance| async move {
            machine.watch_line(&instance).await;
        });
        self.spawn_until_over(instance, |machine, instance| async move {
            machine.watch_power(&instance).await;
        });
    }

    /// Reads the line for the start of another boot, until it is closed.
    async fn watch_line(&self, instance: &Arc<Instance>) {
        let (Some(rig), Body::Board(powered)) = (&self.inner.board, &instance.body) else { return };
        // A boot loader that waits shows nothing but what the dialogue waits for.
        let first =
            rig.board.boot.steps.iter().find_map(|step| step.expect.as_ref()).map(board::Pattern::compile);
        let mut heard = instance.console.listen();
        let mut lines = Lines::default();
        while let Some(bytes) = heard.recv().await {
            let begins = lines.boot_begins(&bytes);
            // Before the login such lines are the boot that is awaited. What a command prints comes encoded.
            if instance.console.stage() < Stage::Agent {
                continue;
            }
            let awaited = || {
                instance.is_expected_to_reset()
                    && first
                        .as_ref()
                        .is_some_and(|first| first.is_match(&instance.console.text(powered.boot())))
            };
            match begins {
                Some(line) => self.was_reset(instance, format!("the console says {line:?}")),
                None if awaited() => self.was_reset(instance, "the boot loader waits".to_owned()),
                None => {}
            }
        }
        self.die(instance, Cause::LineLost);
    }

    /// Looks at the power now and then.
    async fn watch_power(&self, instance: &Instance) {
        let (Some(rig), Body::Board(board)) = (&self.inner.board, &instance.body) else { return };
        if rig.board.power.state.is_none() {
            return;
        }
        let mut told = false;
        loop {
            look_again_after(rig.board.power.watch).await;
            match rig.power.state().await {
                Ok(Some(State::Off)) if !instance.is_expected_to_end() => {
                    board.on.store(false, Ordering::SeqCst);
                    self.die(instance, Cause::PowerLost);
                    return;
                }
                Ok(_) => {}
                // Who can't be asked does not say that it is off.
                Err(error) if !told => {
                    told = true;
                    self.event("note", error.to_string(), serde_json::Value::Null);
                }
                Err(_) => {}
            }
        }
    }
}

async fn look_again_after(pause: Duration) {
    #[expect(
        clippy::disallowed_methods,
        reason = "power that is cut tells nobody: it is looked at as often as its file says"
    )]
    tokio::time::sleep(pause).await;
}

/// Lines of a console, looked at as they end.
#[derive(Default)]
struct Lines {
    stripper: Stripper,
    unended: Vec<u8>,
}

impl Lines {
    /// The first line that only a boot loader or a starting kernel writes.
    fn boot_begins(&mut self, bytes: &[u8]) -> Option<String> {
        let mut text = Vec::new();
        self.stripper.push(bytes, &mut text);
        let mut found = None;
        for byte in text {
            if byte != b'\n' && self.unended.len() < LINE_MAX {
                self.unended.push(byte);
                continue;
            }
            let line = String::from_utf8_lossy(&std::mem::take(&mut self.unended)).trim().to_owned();
            let stage = StageDetector::of_line(&line);
            if found.is_none() && matches!(stage, Some(Stage::Bootloader | Stage::Kernel)) {
                found = Some(line);
            }
        }
        found
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_start_of_a_boot_is_one() {
        let mut lines = Lines::default();
        assert_eq!(lines.boot_begins(b"[ 1234.567890] eth1: link is up\r\n[  OK  ] Started x\r\nU-Bo"), None);
        assert_eq!(lines.boot_begins(b"ot 2024.01"), None, "the line is not at its end");
        assert_eq!(lines.boot_begins(b" (x)\r\nmore\r\n").as_deref(), Some("U-Boot 2024.01 (x)"));
        let kernel = "[    0.000000] Linux version 6.12.43 (x)";
        assert_eq!(lines.boot_begins(format!("\x1b[0m{kernel}\r\n").as_bytes()).as_deref(), Some(kernel));
        assert_eq!(lines.boot_begins(&[b'x'; 10 * LINE_MAX]), None, "memory is bounded");
        assert!(lines.unended.len() <= LINE_MAX);
    }
}
