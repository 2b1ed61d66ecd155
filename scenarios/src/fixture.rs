//! Labs in a state that takes long to reach: reached once, saved, and restored for every other test.

use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};

use driver::checkpoint::{Entry, Store};
use driver::spec::{Boot, MachineSpec};
use driver::{Error, Lab};
use harness::Testbed;

use crate::rack::{Launched, Plan, Rack};

impl Rack {
    /// A lab in the state that `form` brings it to, which `fixture` names. If a checkpoint of these very machines in that
    /// state exists, it is restored; else the machines boot, `form` does its work, and a checkpoint is left for others.
    /// Change the name when `form` changes: what it does is all that the key can't see.
    ///
    /// # Errors
    /// As [`Rack::launch`], and those of `form`. A checkpoint that can't be made or restored is no error but a note.
    pub async fn launch_as(
        self,
        t: &Testbed,
        fixture: &str,
        form: impl AsyncFnOnce(&Lab) -> anyhow::Result<()>,
    ) -> anyhow::Result<Lab> {
        let plan = self.checkpoints().plan(t).await?;
        Ok(launch(t, &plan, fixture, form).await?.lab)
    }
}

/// [`Rack::launch_as`], from a plan.
pub(crate) async fn launch(
    t: &Testbed,
    plan: &Plan,
    fixture: &str,
    form: impl AsyncFnOnce(&Lab) -> anyhow::Result<()>,
) -> anyhow::Result<Launched> {
    let store = Store::open(Store::default_root())?;
    let key = key(plan, fixture)?;
    if let Some(launched) = restore(t, plan, &store, &key).await? {
        return Ok(launched);
    }
    let entry = make(t, &store, &key, fixture).await?;
    // Another process may have made it while this one waited.
    if let Some(launched) = restore(t, plan, &store, &key).await? {
        return Ok(launched);
    }
    let launched = plan.lab(t).await?;
    launched.lab.start().await?;
    form(&launched.lab).await?;
    keep(t, &launched.lab, entry, fixture).await?;
    Ok(launched)
}

/// Copies of a lab as it is now, all going on beside it.
pub(crate) async fn fork(
    t: &Testbed,
    plan: &Plan,
    lab: &Lab,
    names: &[String],
) -> anyhow::Result<Vec<Launched>> {
    // The lab's own scratch: the copies' disks stand on it as long as the test runs.
    let directory = lab.artifacts().join("scratch").join(names.join("+"));
    let checkpoint = lab.checkpoint(&directory, "fork").await?;
    let copies = names.iter().map(|name| plan.restored(t, &checkpoint, Some(name)));
    futures::future::try_join_all(copies).await
}

/// Restores the checkpoint of a key, if there is one. One that is no good is removed.
async fn restore(t: &Testbed, plan: &Plan, store: &Store, key: &str) -> anyhow::Result<Option<Launched>> {
    let found = {
        let (store, key) = (store.clone(), key.to_owned());
        tokio::task::spawn_blocking(move || store.get(&key)).await?
    };
    let resumed = match found {
        Ok(None) => return Ok(None),
        Ok(Some(checkpoint)) => plan.restored(t, &checkpoint, None).await,
        Err(bad) => Err(bad.into()),
    };
    match resumed {
        Ok(launched) => Ok(Some(launched)),
        Err(bad) => {
            t.note(&format!("a checkpoint can't be used and is made anew: {bad:#}"));
            store.remove(key)?;
            Ok(None)
        }
    }
}

/// Takes the right to make a checkpoint; the deadline stands still while others are at it.
async fn make(t: &Testbed, store: &Store, key: &str, fixture: &str) -> anyhow::Result<Entry> {
    let still = t.deadline().stand_still();
    let (told, hears) = tokio::sync::oneshot::channel();
    let (store, key) = (store.clone(), key.to_owned());
    let made = tokio::task::spawn_blocking(move || {
        store.make(&key, |pid| {
            let _ = told.send(pid);
        })
    });
    if let Ok(pid) = hears.await {
        let who = pid.map_or_else(|| "another process".to_owned(), |pid| format!("process {pid}"));
        t.note(&format!("waits for the checkpoint \"{fixture}\", which {who} is making"));
    }
    let entry = made.await?;
    drop(still);
    Ok(entry?)
}

/// Saves the lab for others. Where it can't be saved, each test does the work itself.
async fn keep(t: &Testbed, lab: &Lab, entry: Entry, fixture: &str) -> anyhow::Result<()> {
    let directory = entry.directory()?;
    match lab.checkpoint(&directory, fixture).await {
        Ok(_) => drop(tokio::task::spawn_blocking(move || entry.put()).await??),
        Err(Error::Checkpoint(why)) => {
            t.note(&format!("no checkpoint \"{fixture}\", so that every test forms its own: {why}"));
        }
        Err(error) => return Err(error.into()),
    }
    Ok(())
}

/// What tells one state of one lab from all others: whatever its memory and disks could depend on.
fn key(plan: &Plan, fixture: &str) -> anyhow::Result<String> {
    let mut hasher = blake3::Hasher::new_derive_key("rackless checkpoints 2026 fixtures");
    let mut add = |what: &str, value: &str| {
        for part in [what, value] {
            hasher.update(&(part.len() as u64).to_le_bytes()).update(part.as_bytes());
        }
    };
    let (qemu, accel) = (&plan.qemu, plan.accel);
    add("driver", env!("CARGO_PKG_VERSION"));
    add("fixture", fixture);
    add("qemu", &format!("{} {}", qemu.program.display(), qemu.version));
    add("accelerator", &format!("{accel} {}", accel.cpu()));
    // A guest under KVM has seen what the host's processor can do.
    add("host", &processor());
    for machine in &plan.spec.machines {
        add("machine", &format!("{machine:?}"));
        for path in files(machine) {
            add("file", &file(&path)?);
        }
    }
    Ok(hasher.finalize().to_hex()[..32].to_owned())
}

/// The files that a machine is made from.
fn files(machine: &MachineSpec) -> impl Iterator<Item = PathBuf> {
    let (kernel, initrd) = match &machine.boot {
        Boot::Firmware => (None, None),
        Boot::Direct { kernel, initrd, .. } => (Some(kernel.clone()), initrd.clone()),
    };
    let agent = machine.agent.as_ref().and_then(|agent| agent.disk.clone());
    [Some(machine.disk.image.clone()), kernel, initrd, agent].into_iter().flatten()
}

/// A file, told apart from what it was before it changed. The cache's own names have digests; those of others are not
/// read anew for each test.
fn file(path: &Path) -> anyhow::Result<String> {
    let path = fs_err::canonicalize(path)?;
    let meta = fs_err::metadata(&path)?;
    Ok(format!("{} {} {} {}.{}", path.display(), meta.len(), meta.ino(), meta.mtime(), meta.mtime_nsec()))
}

/// The host's processor in the kernel's words.
fn processor() -> String {
    let text = std::fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let about = |line: &&str| ["model name", "flags", "microcode"].iter().any(|key| line.starts_with(key));
    let first = text.split("\n\n").next().unwrap_or_default();
    first.lines().filter(about).collect()
}
