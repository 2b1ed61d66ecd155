//! From a shell to the agent: the binary is carried in, looked at, started and greeted.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::io::AsyncWriteExt as _;

use super::ShellWay;
use crate::guest::{Exec, GuestError, GuestOptions, Inner, Output, Transport};

/// Directories for the binary, the first that takes programs: `/run` is noexec on Debian.
const PLACES: [&str; 4] = ["/run", "/dev/shm", "/var/tmp", "/tmp"];
/// As small as it gets in about a second: a shell's line takes some 40 KiB a second, and 0.95 MiB then 25 s (measured).
const COMPRESSION: i32 = 19;
/// How long the agent may take from its start to its greeting, before what is left of the caller's limit.
const GREETING_LIMIT: Duration = Duration::from_secs(60);
/// How long a port may take for the binary, which takes it a second, until the shell's line has to do.
const PORT_LIMIT: Duration = Duration::from_secs(20);
/// How much of what the agent said is evidence.
const SAID: usize = 600;

/// What the guest is: a fact a line. `$1` is the device that is waited for, the others are places.
const PROBE: &str = r#"want=$1; shift
echo "machine $(uname -m)"
for d; do
[ -d "$d" ] && f=$(mktemp "$d/rackless-try.XXXXXX" 2>/dev/null) || { echo "refused $d (it can't be written)"; continue; }
printf '#!/bin/sh\n' >"$f"; chmod 700 "$f"
if "$f" 2>/dev/null; then rm -f "$f"; echo "place $d"; break; fi
rm -f "$f"; echo "refused $d (it is noexec)"
done
command -v zstd >/dev/null 2>&1 && echo "zstd yes"
modprobe -q virtio_console 2>/dev/null; modprobe -q vmw_vsock_virtio_transport 2>/dev/null
devices() {
for p in /sys/class/virtio-ports/*; do
n=; read -r n 2>/dev/null <"$p/name" || [ -n "$n" ] || continue
[ -w "/dev/${p##*/}" ] && echo "device $n" || echo "closed $n"
done
[ ! -e /dev/vsock ] || echo "device vsock"
}
n=0
until devices | grep -qxF "device $want" || [ $n -ge 20 ]; do n=$((n + 1)); sleep 0.1; done
devices
:"#;

/// Takes `$2` bytes from the port called `$1` into the file `$3`.
const TAKE: &str = r#"for p in /sys/class/virtio-ports/*; do
read -r n 2>/dev/null <"$p/name" || continue
[ "$n" != "$1" ] || exec head -c "$2" <"/dev/${p##*/}" >"$3"
done; exit 1"#;

/// Unpacks `$1` beside it if it is packed, and says whether it is the file of the SHA-256 `$2` and runs.
const UNPACK: &str = r#"f=$1; [ ! -e "$f.zst" ] || { zstd -q -d -f "$f.zst" -o "$f"; rm -f "$f.zst"; }
chmod 700 "$f"; set -- "$2" $(sha256sum <"$f"); [ "$1" = "$2" ] || { echo "it arrived with the SHA-256 $2" >&2; exit 1; }
exec "$f" --version"#;

/// Starts `$1` with the arguments behind it: as a unit where there is systemd, so that it ends with nothing but the boot.
const START: &str = r#"f=$1; u=rackless-agent-carried.service
if [ -d /run/systemd/system ] && [ "$(id -u)" = 0 ] && command -v systemd-run >/dev/null; then
systemctl stop $u 2>/dev/null || :
systemd-run --quiet --collect --unit=$u --property=DefaultDependencies=no --property=Restart=always \
--property=RestartSec=500ms --property=OOMScoreAdjust=-900 --property=TasksMax=infinity \
--property=LimitNOFILE=65536 -- "$@"
else
[ ! -e "$f.pid" ] || kill "$(cat "$f.pid")" 2>/dev/null || :
setsid "$@" </dev/null >"$f.log" 2>&1 &
echo $! >"$f.pid"
fi"#;

/// What the agent at `$1` said.
const SAYS: &str = r#"cat "$1.log" 2>/dev/null || journalctl --boot --no-pager --output=cat --lines=5 --unit=rackless-agent-carried.service"#;

/// The agent that a shell is to hand over to.
#[derive(Clone)]
pub struct HandOver {
    /// Its binary, on this host.
    pub binary: PathBuf,
    /// How it is reached in the guest.
    pub reach: Reach,
    /// How it is reached from here.
    pub transport: Arc<dyn Transport>,
    /// Directories of the guest that the binary may go into, the first that takes programs.
    pub places: Vec<String>,
}

impl HandOver {
    /// To this binary, in `/run` or else another directory that takes programs.
    #[must_use]
    pub fn new(binary: impl Into<PathBuf>, reach: Reach, transport: Arc<dyn Transport>) -> Self {
        let places = PLACES.iter().map(|&place| place.to_owned()).collect();
        Self { binary: binary.into(), reach, transport, places }
    }
}

/// Where the agent listens in the guest.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Reach {
    /// On the virtserialports of [`agent_proto::PORT_NAME`] and [`agent_proto::JOURNAL_PORT_NAME`].
    Ports,
    /// On AF_VSOCK, port [`agent_proto::VSOCK_PORT`].
    Vsock,
    /// On a unix socket: for a guest that is this host.
    Unix(PathBuf),
}

impl Reach {
    fn arguments(&self) -> Vec<String> {
        let pair = |flag: &str, value: String| [flag.to_owned(), value];
        match self {
            Self::Ports => [agent_proto::PORT_NAME, agent_proto::JOURNAL_PORT_NAME]
                .iter()
                .flat_map(|name| pair("--port", (*name).to_owned()))
                .collect(),
            Self::Vsock => pair("--vsock", agent_proto::VSOCK_PORT.to_string()).to_vec(),
            Self::Unix(path) => pair("--unix", path.display().to_string()).to_vec(),
        }
    }

    /// The device that the guest must have.
    fn device(&self) -> Option<&'static str> {
        match self {
            Self::Ports => Some(agent_proto::PORT_NAME),
            Self::Vsock => Some("vsock"),
            Self::Unix(_) => None,
        }
    }
}

/// What was carried.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Carried {
    /// How many bytes were carried; 0 if the guest had the binary already.
    pub bytes: u64,
    /// Whether they crossed the shell's line, in pieces; else the port that the agent has then.
    pub over_line: bool,
    /// From the first question to the agent's greeting.
    pub elapsed: Duration,
}

/// Why a guest can't take the agent over from its shell.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum NoHandOver {
    /// It is for other processors.
    #[error("it is built for {agent}, and the guest is {guest}")]
    Architecture {
        /// What the binary is for, as `uname -m` calls it.
        agent: &'static str,
        /// What the guest is.
        guest: String,
    },
    /// There is no way to it.
    #[error("the guest has no {device} that the shell's user may open; it has {}", list(there))]
    NoDevice {
        /// The device.
        device: &'static str,
        /// What there is.
        there: Vec<String>,
    },
    /// Nowhere can a program be put.
    #[error("no directory takes a program: {}", list(refused))]
    NoPlace {
        /// What was tried, and what was wrong with each.
        refused: Vec<String>,
    },
    /// The guest's system can't run it.
    #[error("it does not run there: {status}: {said}")]
    DoesNotRun {
        /// How it ended.
        status: String,
        /// What it said.
        said: String,
    },
    /// It was started, and does not answer.
    #[error("it was started and does not answer ({last}); it said {said:?}")]
    NoAnswer {
        /// What the last attempt met.
        last: String,
        /// What it said in the guest.
        said: String,
    },
}

fn list(of: &[String]) -> String {
    if of.is_empty() { "none".to_owned() } else { of.join(", ") }
}

/// What the guest is.
#[derive(Debug, Default, PartialEq, Eq)]
struct Probe {
    machine: String,
    place: Option<String>,
    refused: Vec<String>,
    zstd: bool,
    devices: Vec<String>,
    closed: Vec<String>,
}

impl Probe {
    fn parse(text: &str) -> Self {
        let mut probe = Self::default();
        for (key, value) in text.lines().filter_map(|line| line.split_once(' ')) {
            let value = value.trim().to_owned();
            match key {
                "machine" => probe.machine = value,
                "place" => probe.place = Some(value),
                "refused" => probe.refused.push(value),
                "zstd" => probe.zstd = true,
                "device" => probe.devices.push(value),
                "closed" => probe.closed.push(format!("{value} (closed to the user)")),
                _ => {}
            }
        }
        probe
    }

    /// Where the binary goes, if it can be of any use.
    fn fits(self, reach: &Reach, binary: &[u8]) -> Result<(String, bool), NoHandOver> {
        if let Some(agent) = architecture(binary).filter(|agent| *agent != self.machine) {
            return Err(NoHandOver::Architecture { agent, guest: self.machine });
        }
        if let Some(device) = reach.device().filter(|wanted| !self.devices.iter().any(|it| it == wanted)) {
            return Err(NoHandOver::NoDevice { device, there: [self.devices, self.closed].concat() });
        }
        match self.place {
            Some(place) => Ok((place, self.zstd)),
            None => Err(NoHandOver::NoPlace { refused: self.refused }),
        }
    }
}

/// What an ELF file is for, as `uname -m` has it: `e_machine` (elf(5)). `None` for what the guest must tell itself.
fn architecture(binary: &[u8]) -> Option<&'static str> {
    let machine = u16::from_le_bytes([*binary.get(18)?, *binary.get(19)?]);
    match machine {
        _ if !binary.starts_with(b"\x7fELF") => None,
        62 => Some("x86_64"),
        183 => Some("aarch64"),
        243 => Some("riscv64"),
        _ => None,
    }
}

/// What is left of a limit.
struct Left {
    begun: Instant,
    limit: Duration,
}

impl Left {
    fn now(&self) -> Duration {
        self.limit.saturating_sub(self.begun.elapsed())
    }
}

impl ShellWay {
    /// Has the agent take over.
    pub(in crate::guest) async fn hand_over(
        &self,
        to: &HandOver,
        limit: Duration,
    ) -> Result<Carried, GuestError> {
        let left = Left { begun: Instant::now(), limit };
        let no = |reason| GuestError::NoHandOver {
            machine: self.machine.clone(),
            reason,
            elapsed: left.begun.elapsed(),
        };
        let path = to.binary.clone();
        let read = move || std::fs::read(path);
        let binary: Vec<u8> = self.blocking("carry the agent in", &to.binary, read).await?;

        let places = to.places.iter().map(String::as_str);
        let words = ["sh", "-c", PROBE, "sh", to.reach.device().unwrap_or("-")];
        let probed =
            self.checked("look at the guest", Exec::argv(words.into_iter().chain(places)), left.now());
        let probe = Probe::parse(&String::from_utf8_lossy(&probed.await?));
        let (place, zstd) = probe.fits(&to.reach, &binary).map_err(no)?;

        let digest = shell::frame::sha256(&binary);
        let path = format!("{place}/rackless-agent-{}", &digest[..12]);
        let (mut bytes, mut over_line) = (0, false);
        let mut version = self.version(&path, &digest, left.now()).await?;
        if !version.status.success() && to.reach == Reach::Ports {
            bytes = binary.len();
            if self.through_port(to, &binary, &path, left.now()).await? {
                version = self.version(&path, &digest, left.now()).await?;
            }
        }
        if !version.status.success() {
            over_line = true;
            let plain = binary.clone();
            let pack = move || if zstd { zstd::bulk::compress(&plain, COMPRESSION) } else { Ok(plain) };
            let content: Vec<u8> = self.blocking("pack the agent", &to.binary, pack).await?;
            bytes = content.len();
            let name = if zstd { format!("{path}.zst") } else { path.clone() };
            self.write_file(&name, &content, 0o700, None, left.now()).await?;
            version = self.version(&path, &digest, left.now()).await?;
        }
        let speaks = String::from_utf8_lossy(&version.stdout).trim() == agent_proto::version_line();
        if !version.status.success() || !speaks {
            return Err(no(NoHandOver::DoesNotRun {
                status: version.status.to_string(),
                said: said(&version),
            }));
        }

        let words = ["sh", "-euc", START, "sh", &path].map(str::to_owned);
        let start = Exec::argv(words.into_iter().chain(to.reach.arguments()));
        self.checked("start the agent", start, left.now()).await?;
        let options = GuestOptions { machine: self.machine.clone(), limit: left.now().min(GREETING_LIMIT) };
        match Inner::connect(to.transport.clone(), options).await {
            Ok(agent) => self.set_agent(Some(Arc::new(agent))),
            Err(GuestError::NoAnswer { last, .. }) => {
                let asked = self.run(Exec::argv(["sh", "-c", SAYS, "sh", &path]), GREETING_LIMIT).await;
                let said = asked.map_or_else(|error| error.to_string(), |output| said(&output));
                return Err(no(NoHandOver::NoAnswer { last, said }));
            }
            Err(error) => return Err(error),
        }
        Ok(Carried { bytes: bytes as u64, over_line, elapsed: left.begun.elapsed() })
    }

    /// Puts bytes into a file through the port that will be the agent's, which takes as many as the guest reads; `false`
    /// if that does not work here.
    async fn through_port(
        &self,
        to: &HandOver,
        content: &[u8],
        name: &str,
        limit: Duration,
    ) -> Result<bool, GuestError> {
        let length = content.len().to_string();
        let take = Exec::argv(["sh", "-euc", TAKE, "sh", agent_proto::PORT_NAME, &length, name]);
        let Ok(mut port) = to.transport.connect().await else { return Ok(false) };
        let sending = async {
            // What the guest does not take shows in the file that it has.
            let _ = port.write_all(content).await;
            let _ = port.flush().await;
            std::future::pending::<()>().await;
        };
        tokio::select! {
            taken = self.run(take, limit.min(PORT_LIMIT)) => match taken {
                Ok(output) => Ok(output.status.success()),
                Err(GuestError::CommandTimeout { .. } | GuestError::Refused { .. }) => Ok(false),
                Err(error) => Err(error),
            },
            () = sending => Ok(false),
        }
    }

    /// What the binary in the guest says of itself, if it is there whole.
    async fn version(&self, path: &str, digest: &str, limit: Duration) -> Result<Output, GuestError> {
        self.run(Exec::argv(["sh", "-euc", UNPACK, "sh", path, digest]), limit).await
    }
}

/// The end of what a command said.
fn said(output: &Output) -> String {
    let text = [&output.stdout[..], &output.stderr[..]].concat();
    String::from_utf8_lossy(&text[text.len().saturating_sub(SAID)..]).trim().to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    const FACTS: &str = "machine x86_64\nrefused /run (it is noexec)\nplace /dev/shm\nzstd yes\nclosed org.spice.0\n\
                         device rackless.agent\ndevice vsock\n";

    /// The beginning of an ELF file for this machine.
    fn elf(machine: u16) -> Vec<u8> {
        let mut bytes = b"\x7fELF\x02\x01\x01".to_vec();
        bytes.resize(18, 0);
        bytes.extend(machine.to_le_bytes());
        bytes
    }

    #[test]
    fn a_guest_that_fits_is_told_by_its_facts() {
        let placed = Probe::parse(FACTS).fits(&Reach::Ports, &elf(62));
        assert_eq!(placed, Ok(("/dev/shm".to_owned(), true)));
        let script =
            Probe::parse("machine riscv64\nplace /tmp\n").fits(&Reach::Unix("/x".into()), b"#!/bin/sh\n");
        assert_eq!(script, Ok(("/tmp".to_owned(), false)));
    }

    #[test]
    fn a_guest_that_does_not_fit_says_what_it_lacks() {
        let told = |facts: &str, reach| Probe::parse(facts).fits(&reach, &elf(62)).unwrap_err().to_string();
        let arm = FACTS.replace("x86_64", "aarch64");
        assert_eq!(told(&arm, Reach::Ports), "it is built for x86_64, and the guest is aarch64");
        let without = FACTS.replace("device rackless.agent\n", "closed rackless.agent\n");
        assert_eq!(
            told(&without, Reach::Ports),
            "the guest has no rackless.agent that the shell's user may open; it has vsock, org.spice.0 (closed to the \
             user), rackless.agent (closed to the user)"
        );
        let noexec = FACTS.replace("place /dev/shm", "refused /dev/shm (it can't be written)");
        assert_eq!(
            told(&noexec, Reach::Vsock),
            "no directory takes a program: /run (it is noexec), /dev/shm (it can't be written)"
        );
    }

    #[test]
    fn binaries_are_told_apart() {
        let told = [elf(62), elf(183), elf(243), elf(9), b"#!/bin/sh\nexit 0\n# long\n".to_vec(), Vec::new()];
        let told = told.iter().map(|binary| architecture(binary)).collect::<Vec<_>>();
        assert_eq!(told, [Some("x86_64"), Some("aarch64"), Some("riscv64"), None, None, None]);
    }
}
