//! The shell of nixosTest: root's bash on a raw virtio console, to which a line with the command is written and from
//! which stdout is read as a line of base64; a second line asks for the status. No length, no digest, no way back when
//! bytes are lost. The console is plugged in while the guest runs, and the shell started by systemd, as its unit does.

use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use driver::guest::Exec;
use scenarios::prelude::*;
use serde_json::json;
use tokio::io::{AsyncBufReadExt as _, AsyncWriteExt as _, BufReader};
use tokio::net::UnixStream;

/// What an answer may take.
const LIMIT: Duration = secs(120);
/// A console that was silent so long has lost the rest.
const SILENCE: Duration = secs(10);
/// What it says when it is there.
const READY: &str = "the shell is there";

pub(crate) struct Shell {
    stream: BufReader<UnixStream>,
    /// Numbers the marks by which it is found again.
    marks: u32,
}

impl Shell {
    pub(crate) async fn open(lab: &Lab) -> Result<Self> {
        let machine = &lab["server-1"];
        let path = lab.run_dir().join("hvc0");
        let monitor = machine.monitor()?;
        let address = json!({ "type": "unix", "data": { "path": path } });
        let backend = json!({ "type": "socket", "data": { "addr": address, "server": true, "wait": false } });
        monitor.execute_raw("chardev-add", json!({ "id": "shell", "backend": backend })).await?;
        let console =
            json!({ "driver": "virtconsole", "bus": "vser0.0", "chardev": "shell", "id": "shellport" });
        monitor.execute_raw("device_add", console).await?;
        let stream = BufReader::new(UnixStream::connect(&path).await?);
        let guest = machine.guest().await?;
        guest.wait_for_file("/dev/hvc0", LIMIT).await?;
        let script = format!(
            "exec < /dev/hvc0 > /dev/hvc0 2> /dev/ttyS0; stty -F /dev/hvc0 raw -echo; echo '{READY}'; \
             cd /tmp; PS1= exec bash --norc /dev/hvc0"
        );
        let unit = ["systemd-run", "--quiet", "--unit=backdoor", "bash", "-c", &script];
        let started = guest.run(Exec::argv(unit), LIMIT).await?;
        ensure!(started.status.success(), "{}", String::from_utf8_lossy(&started.stderr));
        let mut shell = Self { stream, marks: 0 };
        loop {
            let line = shell.line(LIMIT).await?;
            if line.trim_ascii_end().ends_with(READY.as_bytes()) {
                return Ok(shell);
            }
        }
    }

    /// Status and stdout, as nixosTest's `execute` has them.
    pub(crate) async fn run(&mut self, command: &str) -> Result<(i32, Vec<u8>)> {
        self.send(command).await?;
        let line = self.line(LIMIT).await?;
        let stdout = STANDARD.decode(line.trim_ascii_end())?;
        self.stream.write_all(b"echo ${PIPESTATUS[0]}\n").await?;
        let status = String::from_utf8(self.line(LIMIT).await?)?;
        Ok((status.trim_end().parse().with_context(|| format!("no status: {status:?}"))?, stdout))
    }

    async fn send(&mut self, command: &str) -> Result {
        let quoted = format!("set -euo pipefail; {command}").replace('\'', r"'\''");
        let line = format!("timeout 900 bash -c '{quoted}' | (base64 -w 0; echo)\n");
        self.stream.write_all(line.as_bytes()).await?;
        Ok(())
    }

    async fn line(&mut self, limit: Duration) -> Result<Vec<u8>> {
        let mut line = Vec::new();
        match tokio::time::timeout(limit, self.stream.read_until(b'\n', &mut line)).await {
            Ok(read) => read?,
            Err(_) => bail!("the shell on hvc0 said nothing more after {} bytes of a line", line.len()),
        };
        Ok(line)
    }

    /// How many bytes of a command's output arrive if nobody reads for some time.
    pub(crate) async fn bytes_after_a_stall(&mut self, command: &str, stall: Duration) -> Result<usize> {
        self.send(command).await?;
        crate::cases::pause(stall).await;
        let mut line = Vec::new();
        // The end of the line may be among what was lost.
        while line.last() != Some(&b'\n') {
            match tokio::time::timeout(SILENCE, self.stream.fill_buf()).await {
                Ok(read) => {
                    let read = read?;
                    let used = read.iter().position(|byte| *byte == b'\n').map_or(read.len(), |end| end + 1);
                    line.extend_from_slice(&read[..used]);
                    self.stream.consume(used);
                }
                Err(_) => break,
            }
        }
        self.marks += 1;
        let mark = format!("mark {}", self.marks);
        self.stream.write_all(format!("echo; echo '{mark}'\n").as_bytes()).await?;
        while self.line(LIMIT).await?.trim_ascii_end() != mark.as_bytes() {}
        Ok(line.trim_ascii_end().len() / 4 * 3)
    }

    /// A host's bytes to a file, in as many commands as it takes: an argument has at most 128 KiB (execve(2)).
    pub(crate) async fn write_file(&mut self, path: &str, content: &[u8]) -> Result {
        for chunk in content.chunks(48 * 1024) {
            let text = STANDARD.encode(chunk);
            let (status, _) = self.run(&format!("echo -n {text} | base64 -d >> {path}")).await?;
            ensure!(status == 0, "writing {path} through the shell: status {status}");
        }
        Ok(())
    }
}
