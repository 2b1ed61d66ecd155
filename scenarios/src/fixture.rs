//! Labs in a state that takes long to reach: reached once, saved, and restored for every other test.

use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use anyhow::ensure;
use driver::checkpoint::{Checkpoint, CheckpointError, Entry, Store};
use driver::qemu::{Firmware, recipe};
use driver::spec::{Boot, MachineSpec};
use driver::{Error, Lab};
use harness::Testbed;

use crate::launched::Launched;
use crate::plan::Plan;
use crate::rack::Rack;

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
        form: impl AsyncFnOnce(&Launched) -> anyhow::Result<()>,
    ) -> anyhow::Result<Launched> {
        let plan = Arc::new(self.checkpoints().plan(t).await?);
        launch(t, &plan, fixture, form).await
    }
}

/// [`Rack::launch_as`], from a plan.
pub(crate) async fn launch(
    t: &Testbed,
    plan: &Arc<Plan>,
    fixture: &str,
    form: impl AsyncFnOnce(&Launched) -> anyhow::Result<()>,
) -> anyhow::Result<Launched> {
    let unfit = plan.spec.check_fit().err();
    if let Some(why) = &unfit {
        tell_unsaved(t, fixture, why);
    }
    if unfit.is_some() || !t.settings().checkpoints {
        return cold(t, plan, form).await;
    }
    let store = match Store::open(Store::default_root()) {
        // A cache that can't be written: a full disk, a home that is read-only.
        Err(why @ CheckpointError::File(_)) => {
            tell_unsaved(t, fixture, &why);
            return cold(t, plan, form).await;
        }
        opened => opened?,
    };
    let key = key(plan, fixture)?;
    if let Some(launched) = restore(t, plan, &store, &key).await? {
        return Ok(launched);
    }
    let entry = make(t, &store, &key, fixture).await?;
    // Another process may have made it while this one waited.
    if let Some(launched) = restore(t, plan, &store, &key).await? {
        return Ok(launched);
    }
    let launched = cold(t, plan, form).await?;
    if let Err(why) = keep(&launched, entry, fixture).await? {
        tell_unsaved(t, fixture, &why);
    }
    Ok(launched)
}

/// The checkpoint itself, made if there is none; the lab that it was made from is gone then.
pub(crate) async fn ready(
    t: &Testbed,
    plan: &Arc<Plan>,
    fixture: &str,
    form: impl AsyncFnOnce(&Launched) -> anyhow::Result<()>,
) -> anyhow::Result<Checkpoint> {
    ensure!(
        t.settings().checkpoints,
        "the checkpoint {fixture:?} is wanted itself, and RACKLESS_CHECKPOINTS is off"
    );
    plan.spec.check_fit()?;
    let store = Store::open(Store::default_root())?;
    let key = key(plan, fixture)?;
    if let Some(checkpoint) = find(t, &store, &key).await? {
        return Ok(checkpoint);
    }
    let entry = make(t, &store, &key, fixture).await?;
    if let Some(checkpoint) = find(t, &store, &key).await? {
        return Ok(checkpoint);
    }
    let launched = cold(t, plan, form).await?;
    let checkpoint = keep(&launched, entry, fixture).await??;
    launched.end(t).await?;
    Ok(checkpoint)
}

/// The lab booted, and brought to the state.
async fn cold(
    t: &Testbed,
    plan: &Arc<Plan>,
    form: impl AsyncFnOnce(&Launched) -> anyhow::Result<()>,
) -> anyhow::Result<Launched> {
    let launched = plan.lab(t).await?;
    launched.start().await?;
    form(&launched).await?;
    Ok(launched)
}

/// Copies of a lab as it is now, all going on beside it.
pub(crate) async fn fork(
    t: &Testbed,
    plan: &Arc<Plan>,
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
async fn restore(
    t: &Testbed,
    plan: &Arc<Plan>,
    store: &Store,
    key: &str,
) -> anyhow::Result<Option<Launched>> {
    let Some(checkpoint) = find(t, store, key).await? else { return Ok(None) };
    match plan.restored(t, &checkpoint, None).await {
        Ok(launched) => Ok(Some(launched)),
        Err(bad) => discard(t, store, key, &bad),
    }
}

/// The checkpoint of a key, whole.
async fn find(t: &Testbed, store: &Store, key: &str) -> anyhow::Result<Option<Checkpoint>> {
    let found = {
        let (store, key) = (store.clone(), key.to_owned());
        tokio::task::spawn_blocking(move || store.get(&key)).await?
    };
    found.or_else(|bad| discard(t, store, key, &bad.into()))
}

fn discard<T>(t: &Testbed, store: &Store, key: &str, bad: &anyhow::Error) -> anyhow::Result<Option<T>> {
    t.note(&format!("a checkpoint can't be used and is made anew: {bad:#}"));
    store.remove(key)?;
    Ok(None)
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

/// Saves the lab for others; the inner error is why it can't be saved.
async fn keep(lab: &Lab, entry: Entry, fixture: &str) -> anyhow::Result<Result<Checkpoint, CheckpointError>> {
    let saved = async {
        let directory = entry.directory()?;
        lab.checkpoint(&directory, fixture).await
    };
    match saved.await {
        // What can't be put there for want of room or rights is not saved.
        Ok(_) => Ok(tokio::task::spawn_blocking(move || entry.put()).await?),
        Err(Error::Checkpoint(why)) => Ok(Err(why)),
        Err(error) => Err(error.into()),
    }
}

fn tell_unsaved(t: &Testbed, fixture: &str, why: &CheckpointError) {
    t.note(&format!("no checkpoint \"{fixture}\", so that every test forms its own: {why}"));
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
    add("accelerator", &format!("{accel} {}", accel.cpu(true)));
    // A guest under KVM has seen what the host's processor can do.
    add("host", &processor());
    for machine in &plan.spec.machines {
        add("machine", &format!("{machine:?}"));
        let recipe = recipe(qemu, accel, machine, plan.memory())?;
        add("command line", &recipe.to_shell());
        for path in files(machine)? {
            add("file", &file(&path)?);
        }
    }
    Ok(hasher.finalize().to_hex()[..32].to_owned())
}

/// The files that a machine is made from.
fn files(machine: &MachineSpec) -> anyhow::Result<impl Iterator<Item = PathBuf>> {
    let (boots, then) = match &machine.boot {
        Boot::Firmware => {
            let Firmware { code, vars } = Firmware::find()?;
            (code, Some(vars))
        }
        Boot::Direct { kernel, initrd, .. } => (kernel.clone(), initrd.clone()),
        Boot::Script(script) => (script.program.clone(), None),
        Boot::Board(board) => (board.file.clone(), None),
    };
    let agent = machine.agent.as_ref().and_then(|agent| agent.disk()).map(Path::to_owned);
    let disk = machine.disk.as_ref().map(|disk| disk.image.clone());
    let data = machine.data_disks.iter().filter_map(|disk| disk.image.clone());
    Ok([disk, Some(boots), then, agent].into_iter().flatten().chain(data))
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
