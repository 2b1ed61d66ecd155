//! Processes that are killed: QEMU, and the test itself.

use std::time::Instant;

use harness::Class;
use process::{Child, Signal, Stdio};
use scenarios::prelude::*;
use tokio::io::{AsyncBufReadExt as _, BufReader};

use crate::run::{Ended, Fixture, is_alive, no_overlay};

pub(crate) async fn qemu_is_killed(t: &mut Testbed) -> Result {
    let begun = Instant::now();
    let ended = Fixture::of(t, "loses_qemu")?.run().await?;
    ended.failed(Class::Infra, &["server-1", "QEMU ended on its own", "signal: 9"])?;
    // Long before the boot's own deadline: the death ended the test.
    ensure!(begun.elapsed() < secs(60), "the death was noticed after {:?}", begun.elapsed());
    artefacts_are_complete(&ended)?;
    no_overlay(&ended.folder)
}

pub(crate) async fn interrupted(t: &mut Testbed) -> Result {
    let running = Running::start(t).await?;
    running.child.signal_group(Signal::INT)?;
    let status = tokio::time::timeout(secs(90), running.child.wait()).await?;
    ensure!(status.code() == Some(130), "exit status {status}");
    ensure!(!is_alive(running.qemu), "QEMU {} outlived the test", running.qemu);
    let text = fs_err::read(running.folder.join("result.json"))?;
    let result: harness::TestResult = serde_json::from_slice(&text)?;
    let class = result.failure.context("an interrupted test has failed")?.class;
    ensure!(class == Class::Cancelled, "class {class}");
    no_overlay(&running.folder)
}

pub(crate) async fn killed(t: &mut Testbed) -> Result {
    let running = Running::start(t).await?;
    let test = running.child.pid().to_string();
    // The process alone, as the kernel's OOM killer does it: its group is not told.
    process::run(process::Command::new("kill").args(["-KILL", &test]), secs(10)).await?.checked()?;
    let gone = driver::poll_until(secs(20), async || (!is_alive(running.qemu)).then_some(())).await;
    ensure!(gone.is_some(), "QEMU {} outlived the killed test by 20 s", running.qemu);
    // What a kill leaves on disk goes with the next start.
    let left =
        process::runs()?.into_iter().filter(|r| r.owner.is_some_and(|o| o.pid.to_string() == test)).count();
    let next = Fixture::of(t, "loses_qemu")?.run().await?;
    let after =
        process::runs()?.into_iter().filter(|r| r.owner.is_some_and(|o| o.pid.to_string() == test)).count();
    ensure!(left == 1 && after == 0, "{left} run directories after the kill, {after} after the next start");
    no_overlay(&running.folder)?;
    next.failed(Class::Infra, &["QEMU ended on its own"])
}

struct Running {
    child: Child,
    qemu: u32,
    folder: std::path::PathBuf,
}

impl Running {
    /// Starts the fixture and waits until its QEMU runs.
    async fn start(t: &Testbed) -> anyhow::Result<Self> {
        let fixture = Fixture::of(t, "stays")?;
        let folder = fixture.folder();
        let child = process::spawn(fixture.command.stdout(Stdio::Piped).stderr(Stdio::Null))?;
        let stdout = child.take_stdout().context("stdout is piped")?;
        let stdout = tokio::process::ChildStdout::from_std(stdout)?;
        let mut lines = BufReader::new(stdout).lines();
        let qemu = async {
            while let Some(line) = lines.next_line().await? {
                if let Some(pid) = line.strip_prefix("qemu-pid ") {
                    return anyhow::Ok(pid.parse::<u32>()?);
                }
            }
            bail!("the fixture ended before its machine ran")
        };
        let qemu = tokio::time::timeout(secs(300), qemu).await??;
        ensure!(is_alive(qemu), "QEMU {qemu} is not there");
        // Nobody reads on: a fixture that prints must not be stopped by a full pipe.
        tokio::spawn(async move { while let Ok(Some(_)) = lines.next_line().await {} });
        Ok(Self { child, qemu, folder })
    }
}

fn artefacts_are_complete(ended: &Ended) -> Result {
    let machine = ended.folder.join("server-1");
    let files =
        ["console.log", "console.raw", "qmp.jsonl", "qemu.log", "cmdline.sh"].map(|file| machine.join(file));
    let net = ["net/simple.pcapng", "net/ports.json"].map(|file| ended.folder.join(file));
    let own = ["started", "result.json", "events.jsonl", "harness.log"].map(|file| ended.folder.join(file));
    for path in files.iter().chain(&net).chain(&own) {
        ensure!(path.is_file(), "{} is missing", path.display());
    }
    Ok(())
}
