//! Directories both ways, as tar streams: modes, symlinks and times are kept.

use crate::failure::{Answer, Doing, failure};
use crate::files::{give, make_directories, wrong_digest};
use crate::streams::{BlockingIn, BlockingOut, Inbox, Outbox};
use crate::users::Database;
use agent_proto::message::{FailureKind, Reply, TreeSpec};
use agent_proto::window::SendWindow;
use std::io::{self, Write};
use std::path::Path;
use std::sync::Arc;
use tar::{Archive, Builder, EntryType};
use tokio::runtime::Handle;

/// Unpacks the host's tar stream.
pub(crate) fn receive(spec: &TreeSpec, inbox: Inbox) -> Answer {
    let target = Path::new(&spec.path);
    if !target.is_absolute() {
        return Err(failure(FailureKind::Invalid, format!("`{}` is no absolute path", spec.path)));
    }
    let owner = match &spec.owner {
        Some(owner) => Some(Database::read()?.owner(owner)?),
        None => None,
    };
    make_directories(target)?;
    let mut archive = Archive::new(BlockingIn::new(inbox));
    archive.set_preserve_permissions(true);
    archive.set_preserve_ownerships(false);
    unpack(&mut archive, target, owner).doing(format_args!("unpack into {}", spec.path))?;
    if !archive.into_inner().verify().doing(format_args!("unpack into {}", spec.path))? {
        return Err(wrong_digest(&spec.path));
    }
    Ok(Reply::Done)
}

fn unpack(
    archive: &mut Archive<BlockingIn>,
    target: &Path,
    owner: Option<(Option<u32>, Option<u32>)>,
) -> io::Result<()> {
    let mut directories = Vec::new();
    for entry in archive.entries()? {
        let mut entry = entry?;
        let path = target.join(entry.path()?);
        if entry.header().entry_type() == EntryType::Directory {
            // Made now with room to write, given its own mode when everything is in it.
            std::fs::create_dir_all(&path)?;
            directories.push((path, entry));
            continue;
        }
        if !entry.unpack_in(target)? {
            return Err(io::Error::other(format!("`{}` leads out of the directory", path.display())));
        }
        if let Some(owner) = owner {
            give(&path, owner)?;
        }
    }
    // The deepest first: a parent may get a mode that shuts us out.
    directories.sort_by(|(one, _), (other, _)| other.cmp(one));
    for (path, mut entry) in directories {
        if path != target {
            entry.unpack_in(target)?;
        }
        if let Some(owner) = owner {
            give(&path, owner)?;
        }
    }
    Ok(())
}

/// Sends a directory.
pub(crate) fn send(path: &str, outbox: Outbox, window: Arc<SendWindow>, runtime: Handle) -> Answer {
    if !Path::new(path).is_dir() {
        return Err(failure(FailureKind::NotFound, format!("no directory `{path}`")));
    }
    let mut builder = Builder::new(BlockingOut::new(outbox, window, runtime));
    builder.follow_symlinks(false);
    let mut out = (|| {
        builder.append_dir_all(".", path)?;
        builder.into_inner()
    })()
    .doing(format_args!("send {path}"))?;
    out.flush().doing(format_args!("send {path}"))?;
    let (bytes, digest) = out.finish().doing(format_args!("send {path}"))?;
    Ok(Reply::Sent { bytes, digest })
}
