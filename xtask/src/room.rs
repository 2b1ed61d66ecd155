//! Whether the disk has room for what the tests write: a full one shows as a linker's or a guest's riddle.

use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result, ensure};

use crate::command::Command;
use crate::workspace;

const GIB: u64 = 1 << 30;

/// Cargo's folder after `cargo xtask test`, where nothing was built before.
const BUILT: u64 = 9 * GIB;
/// The images, their builds' scratch and the checkpoints, where there are none yet.
const CACHED: u64 = 5 * GIB;
/// What a run adds where both are there: artefacts, overlays, what a change makes cargo build again.
const RUN: u64 = 2 * GIB;

/// A place that is written to, with what is free on its disk.
#[derive(Debug)]
struct Place {
    dir: PathBuf,
    device: String,
    free: u64,
    needed: u64,
}

/// Looks at the disks below cargo's folder and the cache.
///
/// # Errors
/// One of them has less room than a run of the tests takes.
pub(crate) fn check(root: &Path) -> Result<String> {
    // This program itself lies in cargo's folder, so its being there says nothing; the documentation does.
    let target = place(workspace::target_dir(root), "doc", BUILT)?;
    let cache = place(workspace::cache_dir()?, "images", CACHED)?;
    enough(&[target, cache])
}

/// `dir` needs as much as `cold` until it has `filled` in it.
fn place(dir: PathBuf, filled: &str, cold: u64) -> Result<Place> {
    let needed = if dir.join(filled).is_dir() { RUN } else { cold };
    // What is not there yet will be on the disk of the folder above it.
    let there = dir.ancestors().find(|dir| dir.is_dir()).unwrap_or_else(|| Path::new("/"));
    let df = Command::new("df").args(["-Pk"]).arg(there).env("LC_ALL", "C").capture()?;
    let (device, free) =
        parse(&df.stdout).with_context(|| format!("`df -Pk {}` said: {}", there.display(), df.both()))?;
    Ok(Place { dir, device, free, needed })
}

/// The device and the free bytes of the one file system that `df -Pk` was asked for.
fn parse(df: &str) -> Option<(String, u64)> {
    let fields: Vec<&str> = df.lines().nth(1)?.split_ascii_whitespace().collect();
    let kib: u64 = fields.get(3)?.parse().ok()?;
    Some((fields.first()?.to_string(), kib.saturating_mul(1024)))
}

fn enough(places: &[Place]) -> Result<String> {
    for place in places {
        let needed: u64 =
            places.iter().filter(|other| other.device == place.device).map(|other| other.needed).sum();
        ensure!(
            place.free >= needed,
            "the disk of {} has {} free, and the tests take about {}: make room, or set CARGO_TARGET_DIR and \
             RACKLESS_CACHE to folders of another disk",
            place.dir.display(),
            shown(place.free),
            shown(needed)
        );
    }
    Ok(places.first().map_or_else(String::new, |place| format!("{} free on the disk", shown(place.free))))
}

fn shown(bytes: u64) -> String {
    format!("{:.1} GiB", bytes as f64 / GIB as f64)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn on(device: &str, free: u64, needed: u64) -> Place {
        Place { dir: "/there".into(), device: device.to_owned(), free: free * GIB, needed: needed * GIB }
    }

    #[test]
    fn df_is_read() {
        let df = "Filesystem     1024-blocks     Used Available Capacity Mounted on\n\
                  /dev/vda         264106532 12151776  83886080      13% /\n";
        assert_eq!(parse(df), Some(("/dev/vda".to_owned(), 80 * GIB)));
        assert_eq!(parse("df: /nowhere: No such file or directory\n"), None);
    }

    #[test]
    fn what_shares_a_disk_is_added_up() {
        assert!(enough(&[on("a", 10, 9), on("b", 10, 5)]).is_ok());
        let error = enough(&[on("a", 10, 9), on("a", 10, 5)]).unwrap_err().to_string();
        assert!(error.contains("/there has 10.0 GiB free, and the tests take about 14.0 GiB"), "{error}");
    }

    #[test]
    fn this_disk_is_looked_at() {
        let place = place(std::env::temp_dir().join("not/there/yet"), "doc", 1).unwrap();
        assert!(place.free > 0 && place.needed == 1, "{place:?}");
    }
}
