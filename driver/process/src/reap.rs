//! Clears what killed owners left behind.
//!
//! A child dies with its owner by itself; what the child had started, and the sockets, do not. A process counts as
//! left behind if it is a recorded child, is in the process group of one, or carries the dead owner's mark in its
//! environment. A number alone never does: see [`Identity`].

use std::collections::HashSet;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use rustix::process::Signal;

use crate::error::Error;
use crate::identity::{Identity, OWNER_VARIABLE, Stat, gone, owner_mark};
use crate::rundir::{self, Owner};

/// How long SIGKILL may take.
const KILL_LIMIT: Duration = Duration::from_secs(5);

/// A stale run that was cleared.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Reaped {
    /// The run's name.
    pub run: String,
    /// The directory that was removed, or that stays because of survivors.
    pub path: PathBuf,
    /// The processes that were killed, with their commands.
    pub killed: Vec<(Identity, String)>,
    /// The processes that could not be killed (not permitted, or stuck in the kernel).
    pub survivors: Vec<(Identity, String)>,
}

/// Kills and removes what owners of this user left behind that ended without cleaning up. Call it at each start.
///
/// # Errors
/// [`Error::File`] if a directory can't be read or removed.
pub fn reap_stale() -> Result<Vec<Reaped>, Error> {
    let mut reaped = Vec::new();
    for base in rundir::existing_bases() {
        reaped.extend(reap_in(&base)?);
    }
    Ok(reaped)
}

/// The processes that children of this process started and that still run, and such children themselves, with
/// their commands. Empty after a clean teardown.
///
/// # Errors
/// [`Error::File`] if /proc can't be read.
pub fn lingering() -> Result<Vec<(Identity, String)>, Error> {
    let proc_error = |source| Error::File { operation: "read", path: "/proc".into(), source };
    let mark = mark_variable(owner_mark().map_err(proc_error)?);
    let me = std::process::id();
    let mut found = Vec::new();
    for (pid, stat) in processes()? {
        if pid != me && !stat.is_dead() && carries(pid, &mark) {
            found.push((Identity { pid, start: stat.start }, command_of(pid)));
        }
    }
    Ok(found)
}

fn reap_in(base: &Path) -> Result<Vec<Reaped>, Error> {
    let mut reaped = Vec::new();
    for (run, path) in rundir::run_dirs(base)? {
        // While the claim is held no other process reaps this run.
        let Some(_claim) = rundir::claim(base, &path)? else { continue };
        let (killed, survivors) = kill_left_behind(&path)?;
        if survivors.is_empty() {
            for owned in rundir::owned(&path) {
                remove_owned(&owned);
            }
            match fs_err::remove_dir_all(&path) {
                Err(source) if source.kind() != std::io::ErrorKind::NotFound => {
                    return Err(Error::File { operation: "remove", path, source });
                }
                _ => {}
            }
        }
        reaped.push(Reaped { run, path, killed, survivors });
    }
    Ok(reaped)
}

/// What the run owned elsewhere goes as well; a disk that is gone or read-only must not stop the next start.
fn remove_owned(path: &Path) {
    let removed = match path.is_dir() {
        true => fs_err::remove_dir_all(path),
        false => fs_err::remove_file(path),
    };
    if let Err(error) = removed
        && error.kind() != std::io::ErrorKind::NotFound
    {
        tracing::warn!("left behind by a killed run: {error}");
    }
}

type Processes = Vec<(Identity, String)>;

fn kill_left_behind(run: &Path) -> Result<(Processes, Processes), Error> {
    let owner = Owner::read(run);
    // After a reboot the pids mean nothing.
    if owner.as_ref().is_some_and(|owner| rundir::boot_id().is_ok_and(|now| now != owner.boot)) {
        return Ok((Vec::new(), Vec::new()));
    }
    // An owner that lives but let go of this run may have other runs, whose children carry the same mark.
    let mark =
        owner.filter(|owner| !owner.identity.is_alive()).map(|owner| mark_variable(&owner.identity.mark()));
    let recorded: Vec<Identity> = rundir::records(run)?.into_iter().map(|record| record.identity).collect();
    let until = Instant::now() + KILL_LIMIT;
    let mut killed = Vec::new();
    loop {
        // Again until nothing is found: a process may have forked while it was being looked for.
        let victims = left_behind(&recorded, mark.as_deref())?;
        if victims.is_empty() {
            return Ok((killed, Vec::new()));
        }
        if Instant::now() >= until {
            killed.retain(|process| !victims.contains(process));
            return Ok((killed, victims));
        }
        let mut permitted = false;
        for (victim, command) in &victims {
            match victim.signal(Signal::KILL) {
                Ok(_) => permitted = true,
                Err(error) => tracing::warn!("could not kill pid {} ({command}): {error}", victim.pid),
            }
        }
        if !permitted {
            return Ok((killed, victims));
        }
        for victim in victims {
            let _ = victim.0.wait_gone(until.saturating_duration_since(Instant::now()));
            if !killed.contains(&victim) {
                killed.push(victim);
            }
        }
    }
}

fn left_behind(recorded: &[Identity], mark: Option<&[u8]>) -> Result<Processes, Error> {
    let processes = processes()?;
    let spared = ourselves_and_ancestors();
    let is_recorded = |pid: u32, stat: &Stat| recorded.contains(&Identity { pid, start: stat.start });
    // The group of a recorded leader, if that leader still holds its number.
    let groups: HashSet<u32> =
        processes.iter().filter(|(pid, stat)| is_recorded(*pid, stat)).map(|(pid, _)| *pid).collect();
    let mut victims = Vec::new();
    for (pid, stat) in &processes {
        let ours = is_recorded(*pid, stat)
            || groups.contains(&stat.group)
            || mark.is_some_and(|mark| carries(*pid, mark));
        if ours && !stat.is_dead() && !spared.contains(pid) {
            victims.push((Identity { pid: *pid, start: stat.start }, command_of(*pid)));
        }
    }
    Ok(victims)
}

/// A reaper may itself have been started, at some remove, by the dead owner.
fn ourselves_and_ancestors() -> HashSet<u32> {
    let mut spared = HashSet::new();
    let mut pid = std::process::id();
    while pid != 0 && spared.insert(pid) {
        pid = Stat::read(pid).ok().flatten().map_or(0, |stat| stat.parent);
    }
    spared
}

fn processes() -> Result<Vec<(u32, Stat)>, Error> {
    let error = |source| Error::File { operation: "list", path: "/proc".into(), source };
    let mut processes = Vec::new();
    for entry in fs_err::read_dir("/proc").map_err(error)? {
        let name = entry.map_err(error)?.file_name();
        let Some(pid) = name.to_str().and_then(|name| name.parse().ok()) else { continue };
        // What ended meanwhile, or is hidden from us, is not ours.
        if let Ok(Some(stat)) = Stat::read(pid) {
            processes.push((pid, stat));
        }
    }
    Ok(processes)
}

fn mark_variable(mark: &str) -> Vec<u8> {
    format!("{OWNER_VARIABLE}={mark}").into_bytes()
}

/// Whether the environment that the process was started with holds this variable. Those of other users can't be
/// read, and are not ours.
fn carries(pid: u32, variable: &[u8]) -> bool {
    match std::fs::read(format!("/proc/{pid}/environ")) {
        Ok(environ) => environ.split(|&byte| byte == 0).any(|entry| entry == variable),
        Err(error) => {
            if !gone(&error) && error.kind() != std::io::ErrorKind::PermissionDenied {
                tracing::debug!("/proc/{pid}/environ: {error}");
            }
            false
        }
    }
}

fn command_of(pid: u32) -> String {
    let cmdline = fs_err::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
    let words: Vec<_> = cmdline.split(|&byte| byte == 0).map(String::from_utf8_lossy).collect();
    crate::command::shorten(words.join(" ").trim_end(), 160)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::rundir::RunDir;
    use crate::{Command, Stdio, spawn};

    #[test]
    fn a_reused_pid_is_not_killed() {
        let base = tempfile::tempdir().unwrap();
        let run = base.path().join("old");
        std::fs::create_dir_all(run.join("pids")).unwrap();
        let bystander = spawn(Command::new("sleep").arg("1000").stdout(Stdio::Null)).unwrap();
        let now = bystander.identity();
        let record =
            |start| format!(r#"{{"identity":{{"pid":{},"start":{start}}},"command":"sleep"}}"#, now.pid);

        std::fs::write(run.join("pids/server-1"), record(now.start - 1)).unwrap();
        let reaped = reap_in(base.path()).unwrap();
        assert_eq!(reaped.len(), 1);
        assert_eq!(reaped[0].killed, []);
        assert!(now.is_alive(), "the pid was handed out again since: it must be left alone");
        assert!(!run.exists());

        std::fs::create_dir_all(run.join("pids")).unwrap();
        std::fs::write(run.join("pids/server-1"), record(now.start)).unwrap();
        let reaped = reap_in(base.path()).unwrap();
        assert_eq!(reaped[0].killed.iter().map(|(id, _)| *id).collect::<Vec<_>>(), [now]);
        assert!(bystander.wait_blocking(KILL_LIMIT).is_some());
    }

    #[test]
    fn a_run_whose_owner_lives_is_left_alone() {
        let base = tempfile::tempdir().unwrap();
        let run = RunDir::create_in(base.path(), "mine").unwrap();
        let child = spawn(Command::new("sleep").arg("1000")).unwrap();
        run.record("child", &child).unwrap();
        assert_eq!(reap_in(base.path()).unwrap(), []);
        assert!(child.identity().is_alive());
        assert!(lingering().unwrap().iter().any(|(id, _)| *id == child.identity()));
    }

    #[test]
    fn after_a_reboot_only_the_directory_goes() {
        let base = tempfile::tempdir().unwrap();
        let run = base.path().join("old");
        std::fs::create_dir_all(run.join("pids")).unwrap();
        let bystander = spawn(Command::new("sleep").arg("1000")).unwrap();
        let id = bystander.identity();
        let identity = format!(r#"{{"pid":{},"start":{}}}"#, id.pid, id.start);
        std::fs::write(run.join("owner.json"), format!(r#"{{"identity":{identity},"boot":"another"}}"#))
            .unwrap();
        std::fs::write(run.join("pids/x"), format!(r#"{{"identity":{identity},"command":"sleep"}}"#))
            .unwrap();
        assert_eq!(reap_in(base.path()).unwrap()[0].killed, []);
        assert!(id.is_alive());
        assert!(!run.exists());
    }

    #[test]
    fn what_a_killed_run_owned_elsewhere_goes_with_it() {
        let base = tempfile::tempdir().unwrap();
        let elsewhere = tempfile::tempdir().unwrap();
        let overlays = elsewhere.path().join("overlays");
        std::fs::create_dir(&overlays).unwrap();
        std::fs::write(overlays.join("server-1.qcow2"), "x").unwrap();
        let run = RunDir::create_in(base.path(), "killed").unwrap();
        run.own(&overlays).unwrap();
        run.own(&elsewhere.path().join("never-made")).unwrap();
        // A copy without a lock is what a killed owner leaves.
        let left = base.path().join("left");
        std::fs::create_dir_all(left.join("owned")).unwrap();
        for n in ["0", "1"] {
            std::fs::copy(run.path().join("owned").join(n), left.join("owned").join(n)).unwrap();
        }
        drop(run);
        assert!(overlays.exists(), "the owner itself clears up in its own order");
        assert_eq!(reap_in(base.path()).unwrap().len(), 1);
        assert!(!overlays.exists() && elsewhere.path().exists());
    }

    #[test]
    fn files_cut_by_a_kill_do_not_stop_the_reaper() {
        let base = tempfile::tempdir().unwrap();
        let run = base.path().join("cut");
        std::fs::create_dir_all(run.join("pids")).unwrap();
        std::fs::write(run.join("owner.json"), "{\"ident").unwrap();
        std::fs::write(run.join("pids/x"), "").unwrap();
        std::fs::create_dir(base.path().join("empty")).unwrap();
        assert_eq!(reap_in(base.path()).unwrap().len(), 2);
        assert_eq!(rundir::run_dirs(base.path()).unwrap(), []);
    }
}
