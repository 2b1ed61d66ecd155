//! The same for a systemd that takes no units as credentials: files written into a copy of the disk.

use std::fs::File;
use std::path::Path;
use std::sync::Arc;

use super::{AGENT_FILE, AGENT_UNIT, Injection, check_hostname, networkd_kind, udev_stem, unit};
use crate::disk::ext4::Root;
use crate::disk::{guid, table};
use crate::error::{At, Error};
use crate::ext4_edit::Edit;
use cache::sparse;

const DIRECTORY: &str = "/usr/local/lib/rackless";

/// Writes a sparse copy of `disk` to `copy`, with `injection` in its root: the agent from `agent` and its unit, the
/// hostname, networkd's files, udev's rules. Works with any systemd and any way to boot; takes the copy's time and space.
///
/// # Errors
/// [`Error::Filesystem`] when the disk has no ext4 root that can be written; those of reading the disk; a missing
/// debugfs; a full disk. The copy is removed then.
pub fn by_debugfs(disk: &Path, copy: &Path, agent: &Path, injection: &Injection) -> Result<(), Error> {
    let edit = edit(agent, injection)?;
    let table = table::read(&mut File::open(disk).at("open", disk)?, disk)?;
    let file = Arc::new(File::open(disk).at("open", disk)?);
    let is_root = |partition: &&crate::Partition| {
        Root::open(file.clone(), partition)
            .is_ok_and(|root| root.exists("/usr/lib/systemd/systemd") || root.exists("/lib/systemd/systemd"))
    };
    let mut by_kind = table.partitions.iter().filter(|partition| partition.kind == guid::ROOT_X86_64);
    let root = by_kind.find(is_root).or_else(|| table.partitions.iter().find(is_root));
    let root = root.ok_or_else(|| Error::Filesystem {
        path: disk.to_owned(),
        filesystem: "the partitions".into(),
        problem: "none is an ext4 root with systemd, so that no agent can be written into it; set way_in = \"shell\" or \"console\" in the TOML beside the image".into(),
    })?;
    let written = sparse::copy(disk, copy)
        .map_err(Error::from)
        .and_then(|()| edit.apply("copy", copy, root.start, root.bytes));
    written.inspect_err(|_| {
        let _ = std::fs::remove_file(copy);
    })
}

fn edit(agent: &Path, injection: &Injection) -> Result<Edit, Error> {
    let mut edit = Edit::default();
    if injection.agent {
        let program = format!("{DIRECTORY}/{AGENT_FILE}");
        edit.file(&program, 0o755, std::fs::read(agent).at("read", agent)?);
        let unit = unit::from_image(&program, &injection.agent_args);
        edit.file(&format!("/etc/systemd/system/{AGENT_UNIT}"), 0o644, unit);
        let link = format!("/etc/systemd/system/sysinit.target.wants/{AGENT_UNIT}");
        edit.link(&link, &format!("../{AGENT_UNIT}"));
    }
    if let Some(name) = &injection.hostname {
        check_hostname(name)?;
        edit.file("/etc/hostname", 0o644, format!("{name}\n"));
    }
    for (name, content) in &injection.networkd {
        networkd_kind(name)?;
        edit.file(&format!("/etc/systemd/network/{name}"), 0o644, content.as_bytes());
    }
    for (name, content) in &injection.udev {
        udev_stem(name)?;
        edit.file(&format!("/etc/udev/rules.d/{name}"), 0o644, content.as_bytes());
    }
    if !injection.networkd.is_empty() {
        let link = "/etc/systemd/system/multi-user.target.wants/systemd-networkd.service";
        edit.link(link, "/lib/systemd/system/systemd-networkd.service");
    }
    Ok(edit)
}
