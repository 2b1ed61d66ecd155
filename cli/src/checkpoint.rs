//! `rackless checkpoint`: what is in the cache of checkpoints.

use std::io::Write as _;
use std::time::{Duration, SystemTime};

use anyhow::{Context as _, Result, anyhow};
use clap::Subcommand;
use driver::checkpoint::{Checkpoint, CheckpointError, Listed, Store};
use serde_json::{Value, json};

use crate::outcome::BadInput;

/// Lists, checks and removes checkpoints of labs.
#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// List the checkpoints, the one that was used last first.
    List {
        /// Print JSON.
        #[arg(long)]
        json: bool,
    },
    /// Show a checkpoint, and compute the digests of its files again.
    Info {
        /// Its key, or as much of it as no other begins with.
        key: String,
        /// Print JSON.
        #[arg(long)]
        json: bool,
    },
    /// Remove checkpoints. The next test that wants one makes it again.
    Rm {
        /// Their keys, or as much of each as no other begins with.
        #[arg(required_unless_present = "all")]
        keys: Vec<String>,
        /// Remove all.
        #[arg(long, conflicts_with = "keys")]
        all: bool,
    },
}

/// Runs one of them.
pub(crate) fn run(command: Command) -> Result<()> {
    let store = Store::open(Store::default_root()).map_err(|error| match error {
        error @ CheckpointError::Limit { .. } => BadInput::new(error).into(),
        error => anyhow::Error::from(error),
    })?;
    let all = store.list()?;
    match command {
        Command::List { json: true } => {
            print(&serde_json::to_string_pretty(&all.iter().map(to_json).collect::<Vec<_>>())?)
        }
        Command::List { json: false } => list(&all),
        Command::Info { key, json } => info(one(&all, &key)?, json),
        Command::Rm { all: true, .. } => all.iter().try_for_each(|listed| remove(&store, listed)),
        Command::Rm { keys, .. } => {
            let chosen = keys.iter().map(|key| one(&all, key)).collect::<Result<Vec<_>>>()?;
            chosen.into_iter().try_for_each(|listed| remove(&store, listed))
        }
    }
}

/// The one checkpoint whose key begins so.
fn one<'a>(all: &'a [Listed], key: &str) -> Result<&'a Listed> {
    let mut found = all.iter().filter(|listed| listed.key.starts_with(key));
    match (found.next(), found.next()) {
        (Some(listed), None) => Ok(listed),
        (None, _) => Err(BadInput::new(anyhow!(
            "no checkpoint's key begins with {key:?}: see `rackless checkpoint list`"
        ))
        .into()),
        _ => Err(BadInput::new(anyhow!("the keys of several checkpoints begin with {key:?}")).into()),
    }
}

fn list(all: &[Listed]) -> Result<()> {
    if all.is_empty() {
        return print("no checkpoints");
    }
    print(&format!("{:12} {:>9} {:>9}  {:16} {:12} MACHINES", "KEY", "SIZE", "USED", "LAB", "STATE"))?;
    for listed in all {
        let size = size(listed.bytes);
        let (lab, about, machines) = match &listed.manifest {
            Some(manifest) => (manifest.lab.as_str(), manifest.about.as_str(), names(listed)),
            None => ("?", "?", "it can't be read".to_owned()),
        };
        let key = listed.key.get(..12).unwrap_or(&listed.key);
        print(&format!("{key:12} {size:>9} {:>9}  {lab:16} {about:12} {machines}", age(listed.used)))?;
    }
    Ok(())
}

fn names(listed: &Listed) -> String {
    let machines = listed.manifest.iter().flat_map(|manifest| &manifest.machines);
    machines.map(|machine| machine.name.as_str()).collect::<Vec<_>>().join(", ")
}

fn info(listed: &Listed, json: bool) -> Result<()> {
    // The damage is what is asked for: shown with the rest, and the exit code.
    let damage = Checkpoint::open(&listed.directory).and_then(|checkpoint| checkpoint.verify());
    let damage = match damage {
        Ok(()) => None,
        Err(error @ (CheckpointError::Damaged { .. } | CheckpointError::Foreign { .. })) => Some(error),
        Err(error) => return Err(error.into()),
    };
    if json {
        let mut value = to_json(listed);
        value["damage"] = damage.as_ref().map(|damage| damage.to_string()).into();
        print(&serde_json::to_string_pretty(&value)?)?;
    } else {
        print(&format!("{}\n  in {}", listed.key, listed.directory.display()))?;
        if let Some(manifest) = &listed.manifest {
            let saved = SystemTime::UNIX_EPOCH + Duration::from_secs(manifest.saved_at);
            print(&format!(
                "  {} of the lab {}, saved {} ago, used {} ago",
                manifest.about,
                manifest.lab,
                age(saved),
                age(listed.used)
            ))?;
            print(&format!("  {} on disk", size(listed.bytes)))?;
            for (file, bytes) in manifest.machines.iter().flat_map(|machine| machine.lengths()) {
                print(&format!("  {:>8}  {file}", size(bytes)))?;
            }
        }
        if damage.is_none() {
            print("  every file has its digest")?;
        }
    }
    damage.map_or(Ok(()), |damage| Err(damage.into()))
}

fn remove(store: &Store, listed: &Listed) -> Result<()> {
    match store.remove(&listed.key)? {
        true => print(&format!("removed {}", listed.directory.display())),
        false => Err(anyhow!("{} is in use by a process that makes or removes it", listed.key)),
    }
}

fn to_json(listed: &Listed) -> Value {
    let used = listed.used.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default().as_secs();
    let manifest = listed.manifest.as_ref();
    let machines = manifest.map(|manifest| manifest.machines.iter().map(|m| &m.name).collect::<Vec<_>>());
    json!({
        "key": listed.key,
        "directory": listed.directory,
        "bytes": listed.bytes,
        "used_at": used,
        "saved_at": manifest.map(|manifest| manifest.saved_at),
        "lab": manifest.map(|manifest| &manifest.lab),
        "about": manifest.map(|manifest| &manifest.about),
        "machines": machines,
    })
}

/// Bytes in the unit that says most.
fn size(bytes: u64) -> String {
    if bytes < 10 << 20 { format!("{} KiB", bytes.div_ceil(1 << 10)) } else { format!("{} MiB", bytes >> 20) }
}

/// How long ago, roughly: `5 min`.
fn age(then: SystemTime) -> String {
    match SystemTime::now().duration_since(then).unwrap_or_default().as_secs() {
        seconds @ 0..120 => format!("{seconds} s"),
        seconds @ 120..7200 => format!("{} min", seconds / 60),
        seconds @ 7200..172_800 => format!("{} h", seconds / 3600),
        seconds => format!("{} days", seconds / 86_400),
    }
}

fn print(line: &str) -> Result<()> {
    writeln!(std::io::stdout(), "{line}").context("writing to stdout")
}
