//! Files both ways.

use crate::failure::{Answer, Doing, failure};
use crate::streams::{BlockingIn, BlockingOut, Inbox, Outbox};
use crate::users::Database;
use agent_proto::frame::MAX_BULK;
use agent_proto::message::{Failure, FailureKind, FileMeta, FileSpec, Reply, SmallFile, ToHost};
use agent_proto::window::SendWindow;
use std::fs::{self, DirBuilder, File, OpenOptions, Permissions};
use std::io::{self, Read, Write};
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt, PermissionsExt, chown};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use tokio::runtime::Handle;

/// A file that appears under its name when it is complete, or never.
struct Draft {
    file: File,
    target: PathBuf,
    /// Removed on drop; `None` when the target itself is written.
    temporary: Option<PathBuf>,
    mode: Option<u32>,
    owner: (Option<u32>, Option<u32>),
}

impl Draft {
    fn new(spec: &FileSpec) -> Result<Self, Failure> {
        let path = Path::new(&spec.path);
        if !path.is_absolute() {
            return Err(failure(FailureKind::Invalid, format!("`{}` is no absolute path", spec.path)));
        }
        let mut owner = match &spec.owner {
            Some(owner) => Database::read()?.owner(owner)?,
            None => (None, None),
        };
        // Through a symlink, the file behind it is replaced.
        let target = fs::canonicalize(path).unwrap_or_else(|_| path.to_owned());
        let Some(directory) = target.parent() else {
            return Err(failure(FailureKind::Invalid, format!("`{}` is a directory", spec.path)));
        };
        if spec.parents {
            make_directories(directory)?;
        }
        let old = fs::metadata(&target).ok();
        if old.as_ref().is_some_and(fs::Metadata::is_dir) {
            return Err(failure(FailureKind::Invalid, format!("`{}` is a directory", spec.path)));
        }
        let regular = old.as_ref().is_none_or(fs::Metadata::is_file);
        let name = target.file_name().unwrap_or_default().to_string_lossy();
        let temporary = directory.join(format!(".{name:.100}.rackless-{:016x}", fastrand::u64(..)));
        let create = || OpenOptions::new().write(true).create_new(true).mode(0o600).open(&temporary);
        let draft = if regular { create().ok() } else { None };
        if let Some(file) = draft {
            if let Some(old) = &old {
                owner = (owner.0.or(Some(old.uid())), owner.1.or(Some(old.gid())));
            }
            let mode = spec.mode.or_else(|| old.map(|old| old.mode() & 0o7777)).or(Some(0o644));
            return Ok(Self { file, target, temporary: Some(temporary), mode, owner });
        }
        // Devices, /proc, /sys, a mounted file, a directory that takes no new files: write the thing itself.
        let mut options = OpenOptions::new();
        let file = options.write(true).truncate(regular && old.is_some()).create(old.is_none()).mode(0o644);
        let file = file.open(&target).doing(format_args!("write {}", spec.path))?;
        Ok(Self { file, target, temporary: None, mode: spec.mode, owner })
    }

    fn finish(mut self) -> io::Result<()> {
        if self.owner != (None, None) {
            // A replaced file's owner is kept where that is allowed; one that was asked for must be.
            std::os::unix::fs::fchown(&self.file, self.owner.0, self.owner.1)?;
        }
        if let Some(mode) = self.mode {
            self.file.set_permissions(Permissions::from_mode(mode))?;
        }
        if let Some(temporary) = &self.temporary {
            fs::rename(temporary, &self.target)?;
            self.temporary = None;
        }
        Ok(())
    }
}

impl Drop for Draft {
    fn drop(&mut self) {
        if let Some(temporary) = &self.temporary {
            let _ = fs::remove_file(temporary);
        }
    }
}

pub(crate) fn make_directories(path: &Path) -> Result<(), Failure> {
    let mut builder = DirBuilder::new();
    builder.recursive(true).mode(0o755).create(path).doing(format_args!("make {}", path.display()))
}

/// Writes a file from the host's data.
pub(crate) fn receive(spec: &FileSpec, inbox: Inbox) -> Answer {
    let mut draft = Draft::new(spec)?;
    let mut input = BlockingIn::new(inbox);
    loop {
        let chunk = input.chunk().doing(format_args!("receive {}", spec.path))?;
        if chunk.is_empty() {
            break;
        }
        draft.file.write_all(&chunk).doing(format_args!("write {}", spec.path))?;
    }
    if !input.verify().doing(format_args!("receive {}", spec.path))? {
        return Err(wrong_digest(&spec.path));
    }
    draft.finish().doing(format_args!("write {}", spec.path))?;
    Ok(Reply::Done)
}

pub(crate) fn wrong_digest(path: &str) -> Failure {
    failure(FailureKind::Digest, format!("{path}: what arrived has another digest than what was sent"))
}

/// Writes small files in order.
pub(crate) fn write_all(batch: &[SmallFile]) -> Answer {
    for small in batch {
        let path = &small.file.path;
        let mut draft = Draft::new(&small.file)?;
        draft.file.write_all(&small.content).doing(format_args!("write {path}"))?;
        draft.finish().doing(format_args!("write {path}"))?;
    }
    Ok(Reply::Done)
}

/// Sends a file.
pub(crate) fn send(path: &str, outbox: Outbox, window: Arc<SendWindow>, runtime: Handle) -> Answer {
    let mut file = File::open(path).doing(format_args!("read {path}"))?;
    let meta = file.metadata().doing(format_args!("read {path}"))?;
    let directory = meta.is_dir();
    let meta = FileMeta {
        mode: meta.mode() & 0o7777,
        uid: meta.uid(),
        gid: meta.gid(),
        size: meta.size(),
        directory,
    };
    outbox.blocking_message(ToHost::Meta { id: outbox.id, meta }).doing(format_args!("send {path}"))?;
    let mut out = BlockingOut::new(outbox, window, runtime);
    let mut buffer = vec![0; if directory { 0 } else { 4 * MAX_BULK }];
    loop {
        let count = if directory { 0 } else { file.read(&mut buffer).doing(format_args!("read {path}"))? };
        if count == 0 {
            break;
        }
        out.write_all(&buffer[..count]).doing(format_args!("send {path}"))?;
    }
    let (bytes, digest) = out.finish().doing(format_args!("send {path}"))?;
    Ok(Reply::Sent { bytes, digest })
}

/// Gives a path, not what it links to, to somebody.
pub(crate) fn give(path: &Path, owner: (Option<u32>, Option<u32>)) -> io::Result<()> {
    match fs::symlink_metadata(path)?.is_symlink() {
        true => std::os::unix::fs::lchown(path, owner.0, owner.1),
        false => chown(path, owner.0, owner.1),
    }
}
