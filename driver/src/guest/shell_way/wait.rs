//! Conditions, looked at again and again over a shell.

use std::time::{Duration, Instant};

use agent_proto::message::Condition;

use super::ShellWay;
use crate::guest::{Exec, GuestError, Output};
use crate::poll::Backoff;

/// What one look may take, as far as the wait's own limit lets it.
const LOOK_LIMIT: Duration = Duration::from_secs(60);
/// A look at the very end still gets this long.
const SHORTEST_LOOK: Duration = Duration::from_secs(5);
/// How much of an output is evidence.
const EVIDENCE: usize = 64 << 10;

/// How a look's exit code is read.
const MET: i32 = 0;
const IMPOSSIBLE: i32 = 9;

/// The unit `$1` is `$2`. A unit that failed, or that nothing will start, never gets there.
const UNIT: &str = r#"state=$(systemctl show -p ActiveState --value -- "$1"); job=$(systemctl show -p Job --value -- "$1")
echo "$1 is $state"
[ "$state" != "$2" ] || exit 0
[ "$2" = active ] || exit 1
case $state in
failed) ;;
inactive) [ -z "$job" ] && systemctl is-system-running | grep -qE '^(running|degraded)' || exit 1 ;;
*) exit 1 ;;
esac
systemctl status --no-pager --lines=20 -- "$1" || :
exit 9"#;
/// The port `$2` of `$1` takes a connection: by bash, which all distributions have, or by busybox's or another's nc.
const PORT: &str = r#"if command -v bash >/dev/null; then bash -c 'exec 3<>"/dev/tcp/$1/$2"' bash "$1" "$2" 2>&1
else nc -w 1 "$1" "$2" </dev/null 2>&1; fi"#;
/// There is something at `$1`.
const PATH: &str = r#"[ -e "$1" ] || [ -L "$1" ] || { echo "$1 does not exist"; exit 1; }
echo "$1 exists""#;
/// Somebody listens on the unix socket `$1`: its line in the kernel's list has the flag `__SO_ACCEPTCON`.
const SOCKET: &str = r#"[ -e "$1" ] || { echo "$1: No such file or directory"; exit 1; }
while read -r _ _ _ flags _ _ _ path; do [ "$flags $path" != "00010000 $1" ] || exit 0; done </proc/net/unix
echo "nobody listens on $1"
exit 1"#;

impl ShellWay {
    /// Gives the evidence that it came to be.
    pub(in crate::guest) async fn wait(
        &self,
        condition: String,
        request: Condition,
        limit: Duration,
    ) -> Result<String, GuestError> {
        let (exec, wanted) = look(request);
        let begun = Instant::now();
        let mut backoff = Backoff::new(limit);
        let mut attempts = 0;
        let mut evidence;
        loop {
            attempts += 1;
            let left = backoff.left().clamp(SHORTEST_LOOK, LOOK_LIMIT.max(SHORTEST_LOOK));
            match self.run(exec.clone(), left).await {
                Ok(output) => {
                    evidence = told(&output);
                    let status = output.status;
                    if wanted.is_none() && status == agent_proto::message::Status::Code(IMPOSSIBLE) {
                        let machine = self.machine.clone();
                        return Err(GuestError::Impossible {
                            machine,
                            condition,
                            elapsed: begun.elapsed(),
                            evidence,
                        });
                    }
                    let met = status == agent_proto::message::Status::Code(MET);
                    if met == wanted.unwrap_or(true) {
                        return Ok(evidence);
                    }
                }
                // A look that hangs is one that was not met.
                Err(GuestError::CommandTimeout { output, .. }) => {
                    evidence = format!("killed at the end\n{output}")
                }
                Err(error) => return Err(error),
            }
            if !backoff.pause().await {
                let (machine, elapsed) = (self.machine.clone(), begun.elapsed());
                return Err(GuestError::WaitTimeout { machine, condition, elapsed, attempts, evidence });
            }
        }
    }
}

/// The command that looks, and whether it is to succeed; `None` where its exit codes are [`MET`] and [`IMPOSSIBLE`].
fn look(condition: Condition) -> (Exec, Option<bool>) {
    let script = |script: &str, words: &[&str]| Exec::argv([&["sh", "-c", script, "sh"], words].concat());
    match condition {
        Condition::Unit { unit, state } => (script(UNIT, &[&unit, &state]), None),
        Condition::Path { path, exists } => (script(PATH, &[&path]), Some(exists)),
        Condition::Port { host, port, open } => (script(PORT, &[&host, &port.to_string()]), Some(open)),
        Condition::UnixSocket { path } => (script(SOCKET, &[&path]), Some(true)),
        Condition::Command { spec, succeeds } => (Exec::from_spec(spec), Some(succeeds)),
    }
}

/// Status and output, as the agent tells them of an attempt.
fn told(output: &Output) -> String {
    let mut text = format!("{}\n", output.status);
    for stream in [&output.stdout, &output.stderr] {
        text.push_str(&String::from_utf8_lossy(&stream[stream.len().saturating_sub(EVIDENCE)..]));
    }
    text.truncate(text.trim_end().len());
    text
}
