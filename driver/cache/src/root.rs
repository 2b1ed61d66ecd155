//! Where caches are.

use std::path::PathBuf;

use nix::unistd::Uid;

/// `RACKLESS_CACHE`, else `$XDG_CACHE_HOME/rackless`, else `~/.cache/rackless`, else a directory of the user's own
/// among the temporary files.
#[must_use]
pub fn root() -> PathBuf {
    let set = |name| std::env::var_os(name).filter(|value| !value.is_empty()).map(PathBuf::from);
    set("RACKLESS_CACHE")
        .or_else(|| set("XDG_CACHE_HOME").map(|cache| cache.join("rackless")))
        .or_else(|| set("HOME").map(|home| home.join(".cache/rackless")))
        .unwrap_or_else(|| std::env::temp_dir().join(format!("rackless-cache-{}", Uid::effective())))
}
