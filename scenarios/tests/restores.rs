//! Many labs out of one checkpoint: at once, and one after the other with faults in between; what each costs, and that
//! nothing is left of any.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use scenarios::prelude::*;

/// Labs that are restored at once.
const LABS: u32 = 4;
/// What a machine of a further lab may have in memory that no other shares, in KiB: 220 MiB.
const UNSHARED_KIB: u64 = 220 << 10;
/// Restores in a row, unless `RACKLESS_RESTORES` says otherwise.
const RESTORES: u32 = 5;
/// What may pass until the last task of a lab that was torn down is gone.
const END: Duration = Duration::from_secs(20);

fn main() -> ExitCode {
    suite("restores")
        .test("four_labs_at_once", four_labs_at_once)
        .requires(Ability::Checkpoint)
        .test("again_and_again", again_and_again)
        .requires(Ability::Checkpoint)
        .deadline(Duration::from_secs(1800))
        .run()
}

async fn four_labs_at_once(t: &mut Testbed) -> Result {
    let cluster = Cluster::on(profiles::vlans()).servers(3).copies(LABS - 1);
    let formed =
        t.step("a formed cluster is in a checkpoint", async || cluster.formed_often(t).await).await?;
    let begun = Instant::now();
    let labs = t
        .step("it is restored four times at once, until all twelve have run a command", async || {
            let restored = (1..=LABS).map(async |number| {
                let c = formed.restore(t, &format!("lab-{number}")).await?;
                let greeted = begun.elapsed();
                futures::future::try_join_all(c.servers().map(|m| m.succeed("true").into_future())).await?;
                anyhow::Ok((c, greeted))
            });
            futures::future::try_join_all(restored).await
        })
        .await?;
    let took = begun.elapsed().as_secs_f64();
    let greeted = labs.iter().map(|(_, greeted)| greeted.as_secs_f64()).fold(0.0, f64::max);
    let mut most = 0;
    for (c, _) in &labs {
        for machine in c.servers() {
            let pid = machine.qemu_pid().context("a restored machine is off")?;
            most = most.max(unshared_kib(pid)?);
        }
    }
    t.note(&format!(
        "twelve machines: loaded and greeted after {greeted:.1} s, a command of each has run after {took:.1} s; at \
         most {} MiB are a machine's own",
        most >> 10
    ));
    ensure!(most < UNSHARED_KIB, "a machine has {} MiB that it shares with no other", most >> 10);
    t.step("each takes a write of its own, and has what was written before", async || {
        for (number, (c, _)) in labs.iter().enumerate() {
            goes_on(c, &number.to_string()).await?;
        }
        for (number, (c, _)) in labs.iter().enumerate() {
            let value = Etcd::of(c, "cluster").wait_get("server-2", "rackless/round").await?;
            ensure!(value == number.to_string(), "lab {number} has what lab {value} has written");
        }
        Ok(())
    })
    .await
}

async fn again_and_again(t: &mut Testbed) -> Result {
    let cluster = Cluster::on(profiles::vlans()).servers(3);
    let formed =
        t.step("a formed cluster is in a checkpoint", async || cluster.formed_often(t).await).await?;
    let rounds = match std::env::var("RACKLESS_RESTORES") {
        Ok(text) => text.parse().with_context(|| format!("RACKLESS_RESTORES is {text:?}"))?,
        Err(_) => RESTORES,
    };
    let saved = names(formed.checkpoint().directory())?;
    // The first round opens what stays open.
    let mut usual = usize::MAX;
    for round in 1..=rounds {
        let trouble = Trouble::draw(t.seed(), round);
        let c = t
            .step(format!("restore {round} of {rounds}: it goes on; then {trouble:?}"), async || {
                let c = formed.restore(t, &format!("restore-{round}")).await?;
                goes_on(&c, &round.to_string()).await?;
                trouble.happens(&c).await?;
                Ok(c)
            })
            .await?;
        let traces = Traces::of(&c);
        c.end(t).await?;
        let gone = driver::poll_until(END, async || traces.left(usual).is_none().then_some(())).await;
        if gone.is_none() {
            bail!("{END:?} after the end of lab {round} there is {}", traces.left(usual).unwrap_or_default());
        }
        usual = usual.min(open_files());
        let now = names(formed.checkpoint().directory())?;
        ensure!(now == saved, "the checkpoint has other files: {now:?}, not {saved:?}");
    }
    Ok(formed.checkpoint().verify()?)
}

/// That a restored cluster has what was written before it was saved, and takes a write.
async fn goes_on(c: &Cluster, value: &str) -> Result {
    let etcd = Etcd::of(c, "cluster");
    etcd.wait_put("server-1", "rackless/round", value).await?;
    for name in ["server-2", "server-3"] {
        let before = etcd.wait_get(name, FormedCluster::KEY).await?;
        ensure!(before.starts_with("formed"), "{name} has {before:?} for what was written before");
        let now = etcd.wait_get(name, "rackless/round").await?;
        ensure!(now == value, "{name} has {now:?}, and {value:?} was written");
    }
    Ok(())
}

/// What happens to a lab before it ends.
#[derive(Debug)]
struct Trouble {
    kind: Kind,
    victim: &'static str,
}

#[derive(Debug, Clone, Copy)]
enum Kind {
    Cut,
    Impair,
    Crash,
    Partition,
    Pause,
}

impl Trouble {
    fn draw(seed: u64, round: u32) -> Self {
        const KINDS: [Kind; 5] = [Kind::Cut, Kind::Impair, Kind::Crash, Kind::Partition, Kind::Pause];
        const VICTIMS: [&str; 3] = ["server-1", "server-2", "server-3"];
        let bytes = [&seed.to_le_bytes()[..], &round.to_le_bytes()].concat();
        let [kind, victim, ..] = *blake3::hash(&bytes).as_bytes();
        let pick = |byte: u8, of: usize| usize::from(byte) % of;
        Self { kind: KINDS[pick(kind, KINDS.len())], victim: VICTIMS[pick(victim, VICTIMS.len())] }
    }

    async fn happens(&self, c: &Cluster) -> Result {
        let machine = &c[self.victim];
        // A guard that is dropped leaves its fault in place.
        match self.kind {
            Kind::Cut => drop(machine.cut("eth1").await?),
            Kind::Impair => drop(machine.impair("eth1", Impairment::new().loss(0.3))?),
            Kind::Crash => machine.crash().await?,
            Kind::Partition => {
                let others: Vec<&str> =
                    c.servers().map(Machine::name).filter(|name| *name != self.victim).collect();
                drop(c.lab().partition(&[self.victim], &others)?);
            }
            Kind::Pause => machine.pause().await?,
        }
        Ok(())
    }
}

/// What a lab leaves if its end is none: processes, the run's directory with its sockets, disks.
struct Traces(Vec<PathBuf>);

impl Traces {
    fn of(c: &Cluster) -> Self {
        let processes = c.servers().filter_map(Machine::qemu_pid).map(|pid| format!("/proc/{pid}").into());
        Self(processes.chain([c.lab().run_dir().to_owned(), c.lab().artifacts().join("scratch")]).collect())
    }

    /// What is still there; this process may have `usual` files open, locks and memory among them.
    fn left(&self, usual: usize) -> Option<String> {
        let left: Vec<&PathBuf> = self.0.iter().filter(|path| path.exists()).collect();
        let open = open_files();
        (!left.is_empty() || open > usual)
            .then(|| format!("{left:?}; {open} files are open, of usually {usual}"))
    }
}

fn open_files() -> usize {
    names(Path::new("/proc/self/fd")).map_or(usize::MAX, |open| open.len())
}

/// What a process has in memory that no other has (proc_pid_smaps(5)), in KiB.
fn unshared_kib(pid: u32) -> Result<u64> {
    let text = std::fs::read_to_string(format!("/proc/{pid}/smaps_rollup"))?;
    let lines = text.lines().filter_map(|line| line.strip_prefix("Private_")?.split_once(':'));
    let mut sum = 0;
    for (_, rest) in lines {
        sum += rest.trim().trim_end_matches(" kB").trim().parse::<u64>()?;
    }
    Ok(sum)
}

/// The names in a directory.
fn names(directory: &Path) -> Result<BTreeSet<std::ffi::OsString>> {
    let mut names = BTreeSet::new();
    for entry in std::fs::read_dir(directory)? {
        names.insert(entry?.file_name());
    }
    Ok(names)
}
