//! What cargo says of the workspace's crates.

use std::path::Path;

use anyhow::{Context as _, Result, ensure};
use serde::Deserialize;

use crate::command::Command;

/// The package that holds the tests which boot machines.
pub(crate) const SCENARIOS: &str = "scenarios";

/// `cargo metadata --no-deps`, as far as it is used here.
#[derive(Debug, Deserialize)]
pub(crate) struct Metadata {
    pub(crate) packages: Vec<Package>,
}

/// A crate of the workspace.
#[derive(Debug, Deserialize)]
pub(crate) struct Package {
    pub(crate) name: String,
    #[serde(default)]
    pub(crate) dependencies: Vec<Dependency>,
    #[serde(default)]
    targets: Vec<Target>,
}

/// What a crate names in its manifest.
#[derive(Debug, Deserialize)]
pub(crate) struct Dependency {
    pub(crate) name: String,
    /// `dev`, `build`, or nothing.
    pub(crate) kind: Option<String>,
    /// Only the workspace's own have one.
    pub(crate) path: Option<String>,
}

#[derive(Debug, Deserialize)]
struct Target {
    name: String,
    kind: Vec<String>,
}

impl Metadata {
    /// Asks cargo.
    pub(crate) fn read(root: &Path) -> Result<Self> {
        let metadata =
            Command::cargo(root).args(["metadata", "--format-version=1", "--no-deps"]).capture()?;
        ensure!(metadata.status.success(), "`cargo metadata` failed:\n{}", metadata.both());
        Self::parse(&metadata.stdout)
    }

    /// Reads what cargo printed.
    pub(crate) fn parse(text: &str) -> Result<Self> {
        serde_json::from_str(text).context("reading what `cargo metadata` printed")
    }

    /// Arguments that make a runner run the files of `tests/` of the scenarios alone, or of all other crates.
    ///
    /// By name, with the whole workspace selected: cargo gives dependencies the features that the selected crates ask
    /// for, so that with `--package` it would compile most of them again.
    ///
    /// # Errors
    /// A name on both sides would run on both.
    pub(crate) fn test_files(&self, scenarios: bool) -> Result<Vec<String>> {
        let of = |machines: bool| {
            let packages =
                self.packages.iter().filter(move |package| (package.name == SCENARIOS) == machines);
            packages
                .flat_map(|package| &package.targets)
                .filter(|target| target.kind.iter().any(|kind| kind == "test"))
        };
        if let Some(clash) = of(true).find(|target| of(false).any(|other| other.name == target.name)) {
            anyhow::bail!(
                "scenarios/tests and the tests of another crate both have `{}`: rename one, or it runs twice",
                clash.name
            );
        }
        let mut names: Vec<&str> = of(scenarios).map(|target| target.name.as_str()).collect();
        names.sort_unstable();
        names.dedup();
        let flags = names.into_iter().flat_map(|name| ["--test", name]);
        Ok(["--workspace"].into_iter().chain(flags).map(str::to_owned).collect())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn workspace(other: &str) -> Metadata {
        let target = |name: &str, kind: &str| serde_json::json!({"name": name, "kind": [kind]});
        let packages = serde_json::json!([
            {"name": "scenarios", "targets": [target("boot", "test"), target("rack", "bench"), target("scenarios", "lib")]},
            {"name": "switch", "targets": [target("vde", "test"), target(other, "test")]},
            {"name": "driver", "targets": [target("vde", "test")]},
        ]);
        Metadata::parse(&serde_json::json!({ "packages": packages }).to_string()).unwrap()
    }

    #[test]
    fn each_side_has_its_own_test_files() {
        let workspace = workspace("load");
        assert_eq!(workspace.test_files(true).unwrap().join(" "), "--workspace --test boot");
        assert_eq!(workspace.test_files(false).unwrap().join(" "), "--workspace --test load --test vde");
    }

    #[test]
    fn a_name_on_both_sides_is_refused() {
        let error = workspace("boot").test_files(false).unwrap_err().to_string();
        assert!(error.contains("`boot`: rename one"), "{error}");
    }

    #[test]
    fn this_workspace_has_both() {
        let metadata = Metadata::read(&crate::workspace::root().unwrap()).unwrap();
        for scenarios in [true, false] {
            assert!(metadata.test_files(scenarios).unwrap().len() > 10);
        }
    }
}
