//! QEMU's guest agent: JSON over a virtserialport of its own, a command in two requests or more.

use std::time::Duration;

use driver::guest::Exec;
use scenarios::prelude::*;
use serde_json::{Value, json};
use tokio::io::{AsyncBufReadExt as _, AsyncWriteExt as _, BufReader};
use tokio::net::UnixStream;

const LIMIT: Duration = secs(60);

pub(crate) struct GuestAgent(BufReader<UnixStream>);

impl GuestAgent {
    pub(crate) async fn open(lab: &Lab) -> Result<Self> {
        let machine = &lab["server-1"];
        let path = lab.run_dir().join("qga");
        let monitor = machine.monitor()?;
        let address = json!({ "type": "unix", "data": { "path": path } });
        let backend = json!({ "type": "socket", "data": { "addr": address, "server": true, "wait": false } });
        monitor.execute_raw("chardev-add", json!({ "id": "qga", "backend": backend })).await?;
        let port = json!({
            "driver": "virtserialport", "bus": "vser0.0", "chardev": "qga", "id": "qgaport",
            "name": "org.qemu.guest_agent.0",
        });
        monitor.execute_raw("device_add", port).await?;
        let mut agent = Self(BufReader::new(UnixStream::connect(&path).await?));
        let guest = machine.guest().await?;
        guest.wait_for_file("/dev/virtio-ports/org.qemu.guest_agent.0", LIMIT).await?;
        guest.run(Exec::argv(["systemctl", "start", "qemu-guest-agent.service"]), LIMIT).await?;
        agent.ask("guest-ping", json!({})).await?;
        Ok(agent)
    }

    /// Runs a program and waits for its end.
    pub(crate) async fn run(&mut self, program: &str) -> Result<i64> {
        let started = self.ask("guest-exec", json!({ "path": program, "capture-output": true })).await?;
        loop {
            let status = self.ask("guest-exec-status", json!({ "pid": started["pid"] })).await?;
            if status["exited"] == true {
                return status["exitcode"].as_i64().context("no exit code");
            }
        }
    }

    async fn ask(&mut self, command: &str, arguments: Value) -> Result<Value> {
        let request = json!({ "execute": command, "arguments": arguments });
        self.0.write_all(format!("{request}\n").as_bytes()).await?;
        let mut line = String::new();
        let read = tokio::time::timeout(LIMIT, self.0.read_line(&mut line)).await;
        read.with_context(|| format!("QEMU's guest agent does not answer {command}"))??;
        let mut answer: Value = serde_json::from_str(&line)?;
        ensure!(answer.get("return").is_some(), "{command}: {answer}");
        Ok(answer["return"].take())
    }
}
