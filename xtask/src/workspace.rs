//! Where things are.

use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result, ensure};

use crate::command::Command;

/// The root of the checkout: cargo says where this crate is.
pub(crate) fn root() -> Result<PathBuf> {
    let xtask = std::env::var_os("CARGO_MANIFEST_DIR")
        .map_or_else(|| PathBuf::from(env!("CARGO_MANIFEST_DIR")), PathBuf::from);
    xtask.parent().map(Path::to_owned).context("xtask lies in the root of the checkout")
}

/// Cargo's target directory.
pub(crate) fn target_dir(root: &Path) -> PathBuf {
    match std::env::var_os("CARGO_TARGET_DIR") {
        Some(dir) => root.join(dir),
        None => root.join("target"),
    }
}

/// Images, tools and the agent, shared by every checkout of a user.
pub(crate) fn cache_dir() -> Result<PathBuf> {
    let set = |name: &str| std::env::var_os(name).filter(|value| !value.is_empty()).map(PathBuf::from);
    set("RACKLESS_CACHE")
        .or_else(|| set("XDG_CACHE_HOME").map(|dir| dir.join("rackless")))
        .or_else(|| set("HOME").map(|home| home.join(".cache/rackless")))
        .context("no cache directory: set RACKLESS_CACHE, XDG_CACHE_HOME or HOME")
}

/// The files that git tracks, relative to the root, those that are deleted but not yet committed left out.
pub(crate) fn tracked_files(root: &Path) -> Result<Vec<PathBuf>> {
    let listed = Command::new("git").args(["ls-files", "-z"]).cwd(root).capture()?;
    ensure!(listed.status.success(), "`git ls-files` needs a git checkout: {}", listed.both());
    let files = listed.stdout.split('\0').filter(|name| !name.is_empty()).map(PathBuf::from);
    Ok(files.filter(|file| root.join(file).is_file()).collect())
}

/// Finds a program in `PATH` or where the system's own are.
pub(crate) fn program(name: &str) -> Option<PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let system = ["/usr/sbin", "/sbin", "/usr/local/sbin"].map(PathBuf::from);
    std::env::split_paths(&path).chain(system).map(|dir| dir.join(name)).find(|path| executable(path))
}

fn executable(path: &Path) -> bool {
    use std::os::unix::fs::PermissionsExt as _;
    path.metadata().is_ok_and(|meta| meta.is_file() && meta.permissions().mode() & 0o111 != 0)
}
