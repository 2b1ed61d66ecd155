//! From the root's tar to an ext4 file system, with owners, modes and extended attributes right, without privileges.

use std::path::Path;
use std::time::Duration;

use nix::unistd::Uid;
use process::Command;

use crate::error::{At, Error};
use crate::progress::Reporter;
use crate::tools::{Job, MKE2FS, TAR, UNSHARE};

const LIMIT: Duration = Duration::from_secs(15 * 60);

/// Where in which file the file system goes, and what it is called.
pub(crate) struct Target<'a> {
    pub(crate) disk: &'a Path,
    pub(crate) offset: u64,
    pub(crate) bytes: u64,
    pub(crate) label: &'a str,
    pub(crate) uuid: &'a str,
}

/// How the tar gets into the file system.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Way {
    /// mke2fs reads the tar: e2fsprogs 1.47.1 or later, built with libarchive.
    Tar,
    /// We are root: unpack, and mke2fs reads the directory.
    Root,
    /// The same in a user namespace, where we are root and the subordinate ids are the other owners.
    Namespace,
}

/// Which way this host has, found by trying: versions don't tell whether libarchive was built in.
pub(crate) fn way(scratch: &Path) -> Result<Way, Error> {
    let (tar, image) = (scratch.join("probe.tar"), scratch.join("probe.ext4"));
    // Two blocks of zeros: an archive without members.
    std::fs::write(&tar, [0; 10_240]).at("write", &tar)?;
    let probe = MKE2FS.command()?.args(["-q", "-F", "-t", "ext4", "-d"]).arg(&tar).arg(&image).arg("4M");
    let reads_tar =
        process::run_blocking(probe, Duration::from_secs(20)).is_ok_and(|output| output.success());
    for file in [&tar, &image] {
        let _ = std::fs::remove_file(file);
    }
    Ok(match (reads_tar, Uid::effective().is_root()) {
        (true, _) => Way::Tar,
        (false, true) => Way::Root,
        (false, false) => Way::Namespace,
    })
}

/// Makes the file system from `tar`. `scratch` is a directory of this user for the unpacked root.
pub(crate) fn make(
    way: Way,
    tar: &Path,
    scratch: &Path,
    target: &Target<'_>,
    log: &Path,
    report: &Reporter,
) -> Result<(), Error> {
    let mke2fs = MKE2FS.find()?;
    let root = scratch.join("root");
    // Device nodes can't be made in a namespace, and the kernel makes them at boot. $1 tar, $2 the root's directory, $3 tar the program; the rest is mke2fs.
    const UNPACK: &str = r#"
set -eu
archive=$1 root=$2 tar=$3
shift 3
mkdir "$root"
"$tar" -x --numeric-owner --same-owner --preserve-permissions --xattrs --xattrs-include='*' --exclude='./dev/*' -C "$root" -f "$archive"
"$@"
rm -rf "$root"
"#;
    let command = match way {
        Way::Tar => Command::new(&mke2fs),
        Way::Root => Command::new("/bin/sh")
            .args(["-c", UNPACK, "sh"])
            .arg(tar)
            .arg(&root)
            .arg(TAR.find()?)
            .arg(&mke2fs),
        Way::Namespace => Command::new(UNSHARE.find()?)
            .args(["--user", "--map-root-user", "--map-auto", "--", "/bin/sh", "-c", UNPACK, "sh"])
            .arg(tar)
            .arg(&root)
            .arg(TAR.find()?)
            .arg(&mke2fs),
    };
    let source = if way == Way::Tar { tar } else { &root };
    let command = command
        .env("LC_ALL", "C.UTF-8")
        .env("E2FSPROGS_FAKE_TIME", super::EPOCH.to_string())
        .args(["-q", "-F", "-t", "ext4", "-b", "4096", "-m", "0", "-L", target.label, "-U", target.uuid])
        .arg("-E")
        .arg(format!(
            "offset={},root_owner=0:0,hash_seed={},lazy_itable_init=0,lazy_journal_init=0",
            target.offset, target.uuid
        ))
        .arg("-d")
        .arg(source)
        .arg(target.disk)
        .arg((target.bytes / 4096).to_string());
    let job =
        Job { image: report.image(), operation: "making the root file system", log: Some(log), limit: LIMIT };
    job.run(command, |_| {})
}

/// Removes a directory of ours, also where the subordinate ids own what is in it.
pub(crate) fn remove(directory: &Path) -> Result<(), Error> {
    match std::fs::remove_dir_all(directory) {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(()),
        Err(error) if error.kind() == std::io::ErrorKind::PermissionDenied && !Uid::effective().is_root() => {
            let command = UNSHARE
                .command()?
                .args(["--user", "--map-root-user", "--map-auto", "--", "rm", "-rf", "--"])
                .arg(directory);
            let job =
                Job { image: "cache", operation: "removing a build's remains", log: None, limit: LIMIT };
            job.run(command, |_| {})
        }
        other => other.at("remove", directory),
    }
}
