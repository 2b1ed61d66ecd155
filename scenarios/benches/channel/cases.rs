//! What is measured. Ours and the peer's turns alternate, so that what else the machine does hits both.

use std::time::{Duration, Instant};

use bench_table::{Better, Table, median};
use driver::guest::{CopyOptions, Exec, Guest};
use scenarios::prelude::*;

use crate::clock::Clock;
use crate::guest_agent::GuestAgent;
use crate::shell::Shell;
use crate::ssh::Ssh;

/// Commands of each.
const COMMANDS: usize = 30;
/// Copies of each.
const COPIES: usize = 3;
/// Waits of each.
const WAITS: usize = 11;
/// What ours and ssh copy.
const COPY: usize = 100_000_000;
/// What goes into the guest through the shell, scaled to a rate.
const INTO_BY_SHELL: usize = 256 * 1024;
/// What comes out through the shell, scaled to a rate.
const OUT_BY_SHELL: usize = 8_000_000;
/// What a command writes while nobody reads.
const STALLED: usize = 10_000_000;
const STALL: Duration = secs(3);
/// The pause between two looks of nixosTest.
const ITS_PAUSE: Duration = secs(1);
const LIMIT: Duration = secs(300);

const SHELL: &str = "nixosTest's shell on hvc0";

#[expect(
    clippy::disallowed_methods,
    reason = "a stall, and the peer's pause between two looks, are what is measured"
)]
pub(crate) async fn pause(time: Duration) {
    tokio::time::sleep(time).await;
}

/// The guest, and files on the host.
pub(crate) struct Room {
    pub(crate) guest: Guest,
    files: tempfile::TempDir,
}

impl Room {
    pub(crate) fn new(guest: Guest) -> Result<Self> {
        let files = tempfile::tempdir()?;
        // Nothing that compresses.
        let mut random = fastrand::Rng::with_seed(7);
        let content: Vec<u8> = std::iter::repeat_with(|| random.u8(..)).take(COPY).collect();
        fs_err::write(files.path().join("from"), content)?;
        Ok(Self { guest, files })
    }

    async fn run(&self, exec: Exec) -> Result<driver::guest::Output> {
        let output = self.guest.run(exec, LIMIT).await?;
        ensure!(output.status.success(), "{}: {}", output.status, String::from_utf8_lossy(&output.stderr));
        Ok(output)
    }

    /// Milliseconds in all, and those of the guest from spawn to exit.
    async fn run_true(&self) -> Result<(f64, f64)> {
        let start = Instant::now();
        let output = self.run(Exec::argv(["true"])).await?;
        Ok((millis(start), output.elapsed.as_secs_f64() * 1e3))
    }

    /// MB/s into the guest and out of it.
    async fn copy_both_ways(&self) -> Result<(f64, f64)> {
        let (from, back) = (self.files.path().join("from"), self.files.path().join("back"));
        let start = Instant::now();
        let sent = self.guest.copy_to(&from, "/tmp/ours", CopyOptions::default(), LIMIT).await?;
        let into = rate(COPY, start);
        let start = Instant::now();
        let got = self.guest.copy_from("/tmp/ours", &back, LIMIT).await?;
        let out = rate(COPY, start);
        ensure!(sent.digest == got.digest, "what came back is not what was sent");
        self.run(Exec::argv(["rm", "/tmp/ours"])).await?;
        Ok((into, out))
    }
}

fn millis(since: Instant) -> f64 {
    since.elapsed().as_secs_f64() * 1e3
}

/// MB/s.
fn rate(bytes: usize, since: Instant) -> f64 {
    bytes as f64 / 1e6 / since.elapsed().as_secs_f64()
}

/// How much later than `event` it is now, in ms.
fn after(event: Instant) -> f64 {
    let now = Instant::now();
    match now.checked_duration_since(event) {
        Some(later) => later.as_secs_f64() * 1e3,
        None => -event.duration_since(now).as_secs_f64() * 1e3,
    }
}

/// `true`, in all and without the time that the guest needs to start and end it.
pub(crate) async fn exec(
    room: &Room,
    shell: &mut Shell,
    ssh: &Ssh,
    agent: &mut GuestAgent,
    table: &mut Table,
) -> Result {
    let [mut ours, mut spawns, mut scripts, mut by_shell, mut by_ssh, mut by_agent] =
        [const { Vec::new() }; 6];
    // The first of each finds nothing in any cache.
    for run in 0..=COMMANDS {
        let (total, spawn) = room.run_true().await?;
        let start = Instant::now();
        room.run(Exec::shell("true")).await?;
        let script = millis(start);
        let start = Instant::now();
        ensure!(shell.run("true").await? == (0, Vec::new()), "`true` failed on hvc0");
        let other = millis(start);
        let start = Instant::now();
        ssh.run("true").await?;
        let secure = millis(start);
        let start = Instant::now();
        ensure!(agent.run("/bin/true").await? == 0, "`true` failed in QEMU's guest agent");
        let json = millis(start);
        if run > 0 {
            ours.push(total);
            spawns.push(spawn);
            scripts.push(script);
            by_shell.push(other);
            by_ssh.push(secure);
            by_agent.push(json);
        }
    }
    let spawn = median(&mut spawns);
    println!("the guest's own spawn of `true`, median: {spawn:.2} ms");
    let ssh_name = "ssh over the switch, connection kept";
    table.add("exec true, total", "ms", Better::Less, &mut ours, SHELL, &mut by_shell);
    table.add("exec true by a shell script, total", "ms", Better::Less, &mut scripts, SHELL, &mut by_shell);
    table.add("exec true, total", "ms", Better::Less, &mut ours, ssh_name, &mut by_ssh);
    table.add("exec true, total", "ms", Better::Less, &mut ours, "QEMU's guest agent", &mut by_agent);
    let without = |all: &[f64]| all.iter().map(|total| total - spawn).collect::<Vec<_>>();
    let case = "exec true, without the guest's own spawn";
    let mut rest = without(&ours);
    table.add(case, "ms", Better::Less, &mut rest, SHELL, &mut without(&by_shell));
    table.add(case, "ms", Better::Less, &mut rest, ssh_name, &mut without(&by_ssh));
    table.add(case, "ms", Better::Less, &mut rest, "QEMU's guest agent", &mut without(&by_agent));
    Ok(())
}

/// What comes to be in the guest.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    /// A file appears.
    File,
    /// A unit that is activating becomes active.
    Unit,
}

/// It comes to be at any time between two looks of nixosTest; how much later than the guest both see it.
pub(crate) async fn comes_to_be(
    kind: Kind,
    room: &Room,
    shell: &mut Shell,
    clock: &mut Clock,
    table: &mut Table,
) -> Result {
    let (mut ours, mut theirs) = (Vec::new(), Vec::new());
    clock.compare().await?;
    for run in 0..WAITS {
        let coming = Coming::begin(kind, room, &format!("bench-{run}")).await?;
        let (seen, made) = futures::join!(coming.seen_by_us(room), appear(clock, &coming, run));
        ours.push(between(coming.happened(room, clock, made?).await?, seen?));
        let coming = Coming::begin(kind, room, &format!("bench-peer-{run}")).await?;
        let (seen, made) = futures::join!(coming.seen_by_peer(shell), appear(clock, &coming, run));
        theirs.push(between(coming.happened(room, clock, made?).await?, seen?));
    }
    let case = match kind {
        Kind::File => "a file appears, after the guest's own view",
        Kind::Unit => "a unit gets active, after the guest's own view",
    };
    table.add(case, "ms", Better::Less, &mut ours, SHELL, &mut theirs);
    Ok(())
}

/// Something that is about to come.
enum Coming {
    File { path: String },
    Unit { unit: String, pipe: String },
}

impl Coming {
    async fn begin(kind: Kind, room: &Room, name: &str) -> Result<Self> {
        match kind {
            Kind::File => Ok(Self::File { path: format!("/run/{name}") }),
            Kind::Unit => {
                let unit = format!("{name}.service");
                let pipe = begin(room, &unit).await?;
                Ok(Self::Unit { unit, pipe })
            }
        }
    }

    async fn seen_by_us(&self, room: &Room) -> Result<Instant> {
        match self {
            Self::File { path } => room.guest.wait_for_file(path, LIMIT).await?,
            Self::Unit { unit, .. } => room.guest.wait_for_unit(unit, LIMIT).await?,
        }
        Ok(Instant::now())
    }

    /// As nixosTest looks: for a file and for a unit.
    async fn seen_by_peer(&self, shell: &mut Shell) -> Result<Instant> {
        loop {
            let seen = match self {
                Self::File { path } => shell.run(&format!("test -e {path}")).await?.0 == 0,
                Self::Unit { unit, .. } => {
                    let (_, properties) = shell.run(&format!("systemctl --no-pager show {unit}")).await?;
                    String::from_utf8_lossy(&properties).lines().any(|line| line == "ActiveState=active")
                }
            };
            if seen {
                return Ok(Instant::now());
            }
            pause(ITS_PAUSE).await;
        }
    }

    /// What a shell of the guest does so that it comes.
    fn line(&self) -> String {
        match self {
            Self::File { path } => format!(": > {path}"),
            Self::Unit { pipe, .. } => format!("echo > {pipe}"),
        }
    }

    /// When it came to be in the guest's own view; `told` is when the shell had done its line.
    async fn happened(&self, room: &Room, clock: &Clock, told: Instant) -> Result<Instant> {
        match self {
            Self::File { .. } => Ok(told),
            Self::Unit { unit, .. } => active_since(room, clock, unit).await,
        }
    }
}

/// Has it come after 300 to 1300 ms, evenly spread over the runs.
async fn appear(clock: &mut Clock, coming: &Coming, run: usize) -> Result<Instant> {
    let share = u32::try_from(run)?;
    pause(Duration::from_millis(300) + secs(1) * share / u32::try_from(WAITS)?).await;
    clock.done(&coming.line()).await
}

fn between(from: Instant, to: Instant) -> f64 {
    after(from) - after(to)
}

/// Starts a unit that is activating until something is written to the pipe.
async fn begin(room: &Room, unit: &str) -> Result<String> {
    let pipe = format!("/run/{unit}.pipe");
    room.run(Exec::argv(["mkfifo", &pipe])).await?;
    let properties = ["--property=Type=oneshot", "--property=RemainAfterExit=yes"];
    let start = ["systemd-run", "--quiet", "--no-block", properties[0], properties[1], "--unit", unit];
    let work = ["sh", "-c", "read line < \"$0\"", &pipe];
    room.run(Exec::argv(start.into_iter().chain(work))).await?;
    room.guest.wait_for_unit_state(unit, "activating", LIMIT).await?;
    Ok(pipe)
}

/// When systemd itself says that it became active, as a time of the host.
async fn active_since(room: &Room, clock: &Clock, unit: &str) -> Result<Instant> {
    let object = format!("/org/freedesktop/systemd1/unit/{}", unit.replace('-', "_2d").replace('.', "_2e"));
    let ask = ["busctl", "get-property", "org.freedesktop.systemd1", &object];
    let what = ["org.freedesktop.systemd1.Unit", "ActiveEnterTimestamp"];
    let output = room.run(Exec::argv(ask.into_iter().chain(what))).await?;
    let text = String::from_utf8(output.stdout)?;
    let micros: f64 = text.trim().strip_prefix("t ").context("no time")?.parse()?;
    ensure!(micros > 0.0, "{unit} has never been active");
    Ok(clock.host_time(micros / 1e6))
}

/// 100 MB both ways, digests compared.
pub(crate) async fn copies(room: &Room, shell: &mut Shell, ssh: &Ssh, table: &mut Table) -> Result {
    let [mut into, mut out, mut into_shell, mut out_shell, mut into_ssh, mut out_ssh] =
        [const { Vec::new() }; 6];
    let (from, back) = (room.files.path().join("from"), room.files.path().join("back"));
    let content = fs_err::read(&from)?;
    for _ in 0..COPIES {
        let (ours_in, ours_out) = room.copy_both_ways().await?;
        into.push(ours_in);
        out.push(ours_out);
        let start = Instant::now();
        shell.write_file("/tmp/shell", &content[..INTO_BY_SHELL]).await?;
        into_shell.push(rate(INTO_BY_SHELL, start));
        room.guest.write_file("/tmp/shell", &content[..OUT_BY_SHELL], 0o600, LIMIT).await?;
        let start = Instant::now();
        let (_, got) = shell.run("cat /tmp/shell").await?;
        if got == content[..OUT_BY_SHELL] {
            out_shell.push(rate(OUT_BY_SHELL, start));
        } else {
            // It got less than it asked for, and no error: only what arrived counts.
            println!("{SHELL}: {} of {OUT_BY_SHELL} bytes came out, with no error", got.len());
            out_shell.push(rate(got.len(), start));
        }
        let start = Instant::now();
        ssh.copy_to(&from, "/tmp/ssh").await?;
        into_ssh.push(rate(COPY, start));
        let start = Instant::now();
        ssh.copy_from("/tmp/ssh", &back).await?;
        out_ssh.push(rate(COPY, start));
        ensure!(fs_err::read(&back)? == content, "what came back over ssh is not what was sent");
        room.run(Exec::argv(["rm", "/tmp/shell", "/tmp/ssh"])).await?;
    }
    let (in_case, out_case) = ("100 MB into the guest", "100 MB out of the guest");
    table.add(in_case, "MB/s", Better::More, &mut into, SHELL, &mut into_shell);
    table.add(out_case, "MB/s", Better::More, &mut out, SHELL, &mut out_shell);
    table.add(in_case, "MB/s", Better::More, &mut into, "ssh over the switch", &mut into_ssh);
    table.add(out_case, "MB/s", Better::More, &mut out, "ssh over the switch", &mut out_ssh);
    Ok(())
}

/// How much of 10 MB arrives if nobody reads for 3 s.
pub(crate) async fn stalled(room: &Room, shell: &mut Shell, table: &mut Table) -> Result {
    let (mut ours, mut theirs) = (Vec::new(), Vec::new());
    let size = STALLED.to_string();
    for _ in 0..COPIES {
        let mut running = room.guest.exec(Exec::argv(["head", "-c", &size, "/dev/zero"])).await?;
        let mut stdout = running.take_stdout().context("stdout can't be taken")?;
        pause(STALL).await;
        let mut bytes = 0;
        while let Some(piece) = stdout.next().await? {
            bytes += piece.len();
        }
        ours.push(bytes as f64 / STALLED as f64 * 100.0);
        let bytes = shell.bytes_after_a_stall(&format!("head -c {size} /dev/zero"), STALL).await?;
        theirs.push(bytes.min(STALLED) as f64 / STALLED as f64 * 100.0);
    }
    table.add(
        "10 MB, reader stalls 3 s, bytes that arrive",
        "%",
        Better::More,
        &mut ours,
        SHELL,
        &mut theirs,
    );
    Ok(())
}

/// One way to the agent by itself.
#[derive(Default)]
pub(crate) struct Alone {
    exec: Vec<f64>,
    into: Vec<f64>,
    out: Vec<f64>,
}

pub(crate) async fn alone(room: &Room) -> Result<Alone> {
    let mut alone = Alone::default();
    for run in 0..=COMMANDS {
        let (total, _) = room.run_true().await?;
        if run > 0 {
            alone.exec.push(total);
        }
    }
    for _ in 0..COPIES {
        let (into, out) = room.copy_both_ways().await?;
        alone.into.push(into);
        alone.out.push(out);
    }
    Ok(alone)
}

/// The virtserialport, which is the default, beside vhost-user-vsock, each in a guest of its own.
pub(crate) fn choice(ours: &mut Alone, vsock: &mut Alone, table: &mut Table) {
    let name = "vhost-user-vsock";
    let choice = "virtserialport";
    table.add(
        &format!("{choice}: exec true, total"),
        "ms",
        Better::Less,
        &mut ours.exec,
        name,
        &mut vsock.exec,
    );
    table.add(&format!("{choice}: 100 MB into"), "MB/s", Better::More, &mut ours.into, name, &mut vsock.into);
    table.add(&format!("{choice}: 100 MB out"), "MB/s", Better::More, &mut ours.out, name, &mut vsock.out);
}
