//! Whether an image provides what a scenario needs, known before anything is built or booted.

use std::collections::BTreeSet;
use std::path::PathBuf;

use images::{Recipe, Sidecar, Store};

/// Why the image `name` of this run can't serve a scenario that needs `what`; `None` if its recipe, its import or the
/// TOML beside the user's own disk lists that under `provides`. For [`harness::Suite::ignored`].
#[must_use]
pub fn lacks(name: &str, what: &str) -> Option<String> {
    match provided(name) {
        Ok(provided) if provided.contains(what) => None,
        Ok(_) => Some(format!("the image {name} does not provide {what}: docs/images.md tells how one does")),
        Err(error) => Some(format!("whether the image {name} provides {what} can't be told: {error}")),
    }
}

fn provided(name: &str) -> Result<BTreeSet<String>, images::Error> {
    if let Some(own) = own(name, std::env::args()) {
        return Ok(Sidecar::beside(&own)?.provides);
    }
    // An import of that name is there before the recipe; nothing is built for this.
    let cached = Store::open(Store::default_root())?.cached(name)?;
    Ok(cached.map_or_else(
        || Recipe::builtin(name).map(|recipe| recipe.provides).unwrap_or_default(),
        |image| image.provides,
    ))
}

/// The user's own disk: from `--image NAME=PATH`, the last of them, else from the environment.
fn own(name: &str, arguments: impl Iterator<Item = String>) -> Option<PathBuf> {
    let (mut found, mut value_follows) = (None, false);
    for argument in arguments {
        let value = if value_follows { Some(argument.as_str()) } else { argument.strip_prefix("--image=") };
        if let Some((image, path)) = value.and_then(|value| value.split_once('='))
            && image == name
        {
            found = Some(PathBuf::from(path));
        }
        value_follows = argument == "--image";
    }
    let variable = format!("RACKLESS_IMAGE_{}", name.to_uppercase().replace('-', "_"));
    found.or_else(|| std::env::var_os(variable).filter(|value| !value.is_empty()).map(PathBuf::from))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_disk_of_the_users_own_counts() {
        let own = |line: &str| own("some-name", line.split(' ').map(str::to_owned));
        assert_eq!(own("test --image some-name=a.wic --image=some-name=b=c.wic"), Some("b=c.wic".into()));
        assert_eq!(own("test --image other=a.wic some-name=b.wic"), None);
    }

    #[test]
    fn what_a_disk_provides_stands_beside_it() {
        let directory = tempfile::tempdir().expect("a directory");
        let disk = directory.path().join("own.wic");
        std::fs::write(disk.with_extension("toml"), "provides = [\"k3s\"]").expect("written");
        assert!(Sidecar::beside(&disk).expect("read").provides.contains("k3s"));
    }
}
