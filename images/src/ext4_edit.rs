//! Writing into an ext4 file system without mounting it: `debugfs -w`, the result checked by reading it back.

use std::fmt::Write as _;
use std::fs::File;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use crate::disk::ext4::Root;
use crate::error::{At, Error};
use crate::tools::{DEBUGFS, Job};

/// Changes to a file system, applied together. Paths are absolute, without spaces and quotes.
#[derive(Debug, Default)]
pub(crate) struct Edit {
    files: Vec<(String, u32, Vec<u8>)>,
    links: Vec<(String, String)>,
}

impl Edit {
    /// A file owned by root, with these permission bits; what was there is replaced.
    pub(crate) fn file(&mut self, path: &str, mode: u32, content: impl Into<Vec<u8>>) -> &mut Edit {
        self.files.push((path.to_owned(), mode, content.into()));
        self
    }

    /// A symbolic link at `path` to `target`; what was there is replaced.
    pub(crate) fn link(&mut self, path: &str, target: &str) -> &mut Edit {
        self.links.push((path.to_owned(), target.to_owned()));
        self
    }

    /// Applies the changes to the file system of `bytes` bytes at `offset` of `disk`, which must not be in use.
    pub(crate) fn apply(&self, image: &str, disk: &Path, offset: u64, bytes: u64) -> Result<(), Error> {
        let failed = |problem: String| Error::Filesystem {
            path: disk.to_owned(),
            filesystem: "the root file system".into(),
            problem,
        };
        let open = || -> Result<Root, Error> {
            Root::at(Arc::new(File::open(disk).at("open", disk)?), offset, bytes).map_err(failed)
        };
        let before = open()?;
        let scratch = tempfile::tempdir().at("make a directory in", &std::env::temp_dir())?;
        let mut script = String::new();
        let mut made: Vec<String> = Vec::new();
        for path in self.files.iter().map(|(path, ..)| path).chain(self.links.iter().map(|(path, _)| path)) {
            let ancestors: Vec<&Path> = Path::new(path).ancestors().skip(1).collect();
            for parent in ancestors.iter().rev().filter_map(|parent| parent.to_str()) {
                if parent != "/" && !before.exists(parent) && !made.iter().any(|known| known == parent) {
                    let _ = writeln!(script, "mkdir {parent}\nsif {parent} mode 040755");
                    made.push(parent.to_owned());
                }
            }
            if before.ownership(path).is_some() {
                let _ = writeln!(script, "rm {path}");
            }
        }
        for (index, (path, mode, content)) in self.files.iter().enumerate() {
            let source = scratch.path().join(index.to_string());
            std::fs::write(&source, content).at("write", &source)?;
            // `write` takes a name in the current directory only.
            let (directory, name) = path.rsplit_once('/').unwrap_or(("", path));
            let directory = if directory.is_empty() { "/" } else { directory };
            let _ = writeln!(script, "cd {directory}\nwrite \"{}\" {name}\ncd /", source.display());
            let _ = writeln!(script, "sif {path} mode 0{:o}", 0o100_000 | mode);
            let _ = writeln!(script, "sif {path} uid 0\nsif {path} gid 0");
        }
        for (path, target) in &self.links {
            let _ = writeln!(script, "symlink {path} {target}");
        }
        let commands = scratch.path().join("commands");
        std::fs::write(&commands, &script).at("write", &commands)?;
        drop(before);

        let mut place = disk.as_os_str().to_owned();
        place.push(format!("?offset={offset}"));
        let command = DEBUGFS.command()?.arg("-w").arg("-f").arg(&commands).arg(place);
        let mut said = Vec::new();
        let job = Job {
            image,
            operation: "changing the root file system",
            log: None,
            limit: Duration::from_secs(120),
        };
        job.run(command, |line| {
            if !line.starts_with("debugfs") && !line.starts_with("Allocated inode") {
                said.push(line.to_owned());
            }
        })?;

        // debugfs ends with success whatever became of its commands.
        let after = open()?;
        for (path, mode, content) in &self.files {
            if after.read(path).is_ok_and(|read| read == *content)
                && after.ownership(path) == Some((0, 0, *mode))
            {
                continue;
            }
            return Err(failed(format!("{path} could not be written: {}", said.join("; "))));
        }
        for (path, _) in &self.links {
            if after.ownership(path).is_none() {
                return Err(failed(format!("the link {path} could not be made: {}", said.join("; "))));
            }
        }
        Ok(())
    }
}

/// Makes an ext4 file system with nothing in it, in a file of its own, for [`Edit::apply`].
pub(crate) fn make_empty(image: &str, path: &Path, mib: u64, label: &str, uuid: &str) -> Result<(), Error> {
    use crate::tools::MKE2FS;
    let command = MKE2FS
        .command()?
        .env("E2FSPROGS_FAKE_TIME", crate::build::EPOCH.to_string())
        .args([
            "-q",
            "-F",
            "-t",
            "ext4",
            "-m",
            "0",
            "-O",
            "^has_journal",
            "-N",
            "64",
            "-L",
            label,
            "-U",
            uuid,
        ])
        .args(["-E", &format!("hash_seed={uuid},root_owner=0:0")])
        .arg(path)
        .arg(format!("{mib}M"));
    Job { image, operation: "making a file system", log: None, limit: Duration::from_secs(120) }
        .run(command, |_| {})
}
