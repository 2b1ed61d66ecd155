//! What is gathered from a machine after a failure: in parallel, best effort, each with its own limit.

use std::path::Path;
use std::time::Duration;

use serde_json::json;

use super::Machine;
use super::instance::Qemu;
use crate::guest::Exec;

/// What one question may take: a guest that is wedged must not hold up the others.
const LIMIT: Duration = Duration::from_secs(15);

/// Questions to the guest: the file that takes the answer, and the command.
const QUESTIONS: &[(&str, &str)] = &[
    ("failed-units.txt", "systemctl --failed --no-pager --full; systemctl list-jobs --no-pager"),
    ("addresses.txt", "ip -d addr; ip -s link"),
    ("routes.txt", "ip route show table all; ip -6 route; ip neigh"),
    (
        "bonds-and-vlans.txt",
        "head -n 200 /proc/net/bonding/* /proc/net/vlan/* 2>/dev/null; networkctl --no-pager status -a",
    ),
    ("processes.txt", "ps -ef --forest || ps; free -m; df -h"),
    ("dmesg.txt", "dmesg"),
];

impl Machine {
    /// Writes `qmp-status.json`, `registers.txt`, a screenshot, the whole `journal.export` and the other answers of the
    /// guest into the machine's artefacts. What can't be had is left out, with a line in `diag/missing.txt`.
    pub async fn diagnose(&self) {
        if let Some(rig) = &self.inner.board {
            rig.note_failure();
        }
        let folder = self.artifacts().join("diag");
        if let Err(error) = fs_err::create_dir_all(&folder) {
            tracing::warn!(%error, "no diagnosis can be kept");
            return;
        }
        let (from_qemu, from_guest) = tokio::join!(self.ask_qemu(&folder), self.ask_guest(&folder));
        let missing: Vec<String> = from_qemu.into_iter().chain(from_guest).collect();
        if !missing.is_empty() {
            let _ = fs_err::write(folder.join("missing.txt"), missing.join("\n") + "\n");
        }
    }

    async fn ask_qemu(&self, folder: &Path) -> Vec<String> {
        let Some(instance) = self.instance() else { return vec!["QEMU: the machine is off".to_owned()] };
        let Some(qemu) = instance.qemu() else { return self.ask_board(folder).await };
        let mut missing = Vec::new();
        match qemu.qmp.execute_raw_within("query-status", json!({}), LIMIT).await {
            Ok(status) => keep(&folder.join("qmp-status.json"), status.to_string().as_bytes(), &mut missing),
            Err(error) => missing.push(format!("qmp-status.json: {error}")),
        }
        match qemu.registers(LIMIT).await {
            Ok(text) => keep(&folder.join("registers.txt"), text.as_bytes(), &mut missing),
            Err(error) => missing.push(format!("registers.txt: {error}")),
        }
        if let Err(error) = self.screenshot("failure").await {
            missing.push(format!("screenshot-failure.png: {error}"));
        }
        missing
    }

    async fn ask_guest(&self, folder: &Path) -> Vec<String> {
        let guest = self.instance().and_then(|i| i.guest.borrow().clone());
        let Some(guest) = guest else { return vec!["the guest: no agent answers".to_owned()] };
        if self.inner.death.borrow().as_ref().is_some_and(|died| died.cause.is_panic()) {
            return vec!["the guest: its kernel panicked, so that nobody answers".to_owned()];
        }
        let mut missing = Vec::new();
        // Tasks go to the console log, which is captured anyway.
        if let Err(error) = guest.sysrq('w', LIMIT).await {
            missing.push(format!("blocked tasks on the console: {error}"));
        }
        let journal = "journalctl --boot --output=export --no-pager";
        let questions = QUESTIONS.iter().map(|&(file, command)| (folder.join(file), command));
        // The file that is written while the machine runs may lack what came before a restore.
        let journal = std::iter::once((folder.join("journal.export"), journal));
        let answers = questions.chain(journal).map(|(path, command)| {
            let guest = guest.clone();
            async move { (path, guest.run(Exec::shell(command), LIMIT).await) }
        });
        for (path, answer) in futures::future::join_all(answers).await {
            match answer {
                Ok(output) => keep(&path, &[output.stdout, output.stderr].concat(), &mut missing),
                Err(error) => missing.push(format!("{}: {error}", path.display())),
            }
        }
        missing
    }
}

impl Qemu {
    /// The registers of all virtual CPUs, as text.
    pub(super) async fn registers(&self, limit: Duration) -> Result<String, qmp::Error> {
        let ask = json!({ "command-line": "info registers -a" });
        let text = self.qmp.execute_raw_within("human-monitor-command", ask, limit).await?;
        Ok(text.as_str().unwrap_or_default().replace("\r\n", "\n"))
    }
}

fn keep(path: &Path, content: &[u8], missing: &mut Vec<String>) {
    if let Err(error) = fs_err::write(path, content) {
        missing.push(error.to_string());
    }
}
