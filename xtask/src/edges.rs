//! The walls: which crate must not know which. Checked on what `cargo metadata` says.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::path::Path;

use anyhow::{Result, bail, ensure};

use crate::metadata::{Metadata, Package};

/// The driver and what lives inside `driver/`.
const DRIVER: [&str; 12] = [
    "driver",
    "agent",
    "agent-proto",
    "board",
    "cache",
    "nixos-test",
    "process",
    "qmp",
    "services",
    "shell",
    "switch",
    "topology",
];

/// One wall.
struct Wall {
    from: Who,
    to: Who,
    why: &'static str,
}

enum Who {
    /// These crates.
    Of(&'static [&'static str]),
    /// Every crate of the workspace.
    Any,
}

const WALLS: [Wall; 6] = [
    Wall { from: Who::Of(&["harness"]), to: Who::Of(&DRIVER), why: "the harness knows nothing of VMs" },
    Wall {
        from: Who::Of(&DRIVER),
        to: Who::Of(&["images"]),
        why: "the driver is handed disks, it makes none",
    },
    Wall {
        from: Who::Of(&DRIVER),
        to: Who::Of(&["profiles"]),
        why: "the driver is handed addresses and ports, it reads no profile",
    },
    Wall { from: Who::Of(&["profiles"]), to: Who::Any, why: "profiles are pure data" },
    Wall { from: Who::Any, to: Who::Of(&["scenarios"]), why: "nothing is built on the tests" },
    Wall { from: Who::Of(&["agent"]), to: Who::Of(&["driver"]), why: "the agent is the guest's side alone" },
];

impl Who {
    fn holds(&self, name: &str) -> bool {
        match self {
            Self::Of(names) => names.contains(&name),
            Self::Any => true,
        }
    }

    fn names(&self) -> &[&'static str] {
        match self {
            Self::Of(names) => names,
            Self::Any => &[],
        }
    }
}

/// Checks the workspace at `root`; says how many crates and edges were looked at.
///
/// # Errors
/// Lists every edge that goes through a wall.
pub(crate) fn check(root: &Path) -> Result<String> {
    judge(&Metadata::read(root)?)
}

fn judge(metadata: &Metadata) -> Result<String> {
    let crates: BTreeSet<&str> = metadata.packages.iter().map(|package| package.name.as_str()).collect();
    let gone: Vec<&str> = WALLS
        .iter()
        .flat_map(|wall| wall.from.names().iter().chain(wall.to.names()))
        .copied()
        .filter(|name| !crates.contains(name))
        .collect();
    ensure!(
        gone.is_empty(),
        "a wall names crates that are not in the workspace, so it guards nothing: {}. Rename them in \
         xtask/src/edges.rs",
        gone.join(", ")
    );

    let mut found = Vec::new();
    for package in &metadata.packages {
        let reached = reach(metadata, package);
        for wall in WALLS.iter().filter(|wall| wall.from.holds(&package.name)) {
            for (to, way) in reached.iter().filter(|(to, _)| wall.to.holds(to) && **to != package.name) {
                found.push(format!(
                    "{} must not know {to} ({}): {}",
                    package.name,
                    wall.why,
                    way.join(" -> ")
                ));
            }
        }
    }
    if !found.is_empty() {
        found.dedup();
        bail!("forbidden edges between crates (ARCHITECTURE.md, \"Walls\"):\n  {}", found.join("\n  "));
    }
    let edges: usize =
        metadata.packages.iter().map(|p| p.dependencies.iter().filter(|d| d.path.is_some()).count()).sum();
    Ok(format!("{} crates, {edges} edges between them, {} walls", crates.len(), WALLS.len()))
}

/// The workspace's crates that `package` reaches, each with the shortest way. Its own dev-dependencies count,
/// those of its dependencies don't: they are not built for it.
fn reach<'a>(metadata: &'a Metadata, package: &'a Package) -> BTreeMap<&'a str, Vec<&'a str>> {
    let mut reached: BTreeMap<&str, Vec<&str>> = BTreeMap::new();
    let mut queue = VecDeque::from([(package, vec![package.name.as_str()])]);
    while let Some((at, way)) = queue.pop_front() {
        for dependency in at.dependencies.iter().filter(|dependency| dependency.path.is_some()) {
            let own = at.name == package.name;
            if (!own && dependency.kind.as_deref() == Some("dev"))
                || reached.contains_key(dependency.name.as_str())
            {
                continue;
            }
            let mut way = way.clone();
            way.push(&dependency.name);
            reached.insert(&dependency.name, way.clone());
            if let Some(next) = metadata.packages.iter().find(|next| next.name == dependency.name) {
                queue.push_back((next, way));
            }
        }
    }
    reached
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Today's rooms, with `extra` edges as `("from", "to", kind)`.
    fn workspace(extra: &[(&str, &str, Option<&str>)]) -> Metadata {
        let sound = [
            ("driver", "cache"),
            ("driver", "process"),
            ("driver", "switch"),
            ("driver", "qmp"),
            ("driver", "agent-proto"),
            ("agent", "agent-proto"),
            ("services", "switch"),
            ("images", "cache"),
            ("images", "process"),
            ("scenarios", "driver"),
            ("scenarios", "harness"),
            ("scenarios", "images"),
            ("scenarios", "profiles"),
            ("cli", "images"),
            ("cli", "topology"),
        ];
        let packages: Vec<_> = DRIVER
            .iter()
            .chain(&["cli", "harness", "images", "profiles", "scenarios", "xtask"])
            .map(|name| {
                let own = sound.iter().map(|(from, to)| (*from, *to, None)).chain(extra.iter().copied());
                let mut dependencies: Vec<_> = own
                    .filter(|(from, ..)| from == name)
                    .map(|(_, to, kind)| serde_json::json!({"name": to, "kind": kind, "path": format!("/x/{to}")}))
                    .collect();
                // A crate from a registry may be called like one of ours.
                dependencies.push(serde_json::json!({"name": "scenarios", "kind": null}));
                serde_json::json!({"name": name, "dependencies": dependencies})
            })
            .collect();
        Metadata::parse(&serde_json::json!({ "packages": packages }).to_string()).unwrap()
    }

    fn caught(from: &str, to: &str, kind: Option<&str>) -> String {
        judge(&workspace(&[(from, to, kind)]))
            .expect_err(&format!("{from} -> {to} must be caught"))
            .to_string()
    }

    #[test]
    fn the_rooms_as_designed_pass() {
        assert_eq!(judge(&workspace(&[])).unwrap(), "18 crates, 15 edges between them, 6 walls");
    }

    #[test]
    fn each_wall_is_caught() {
        for (from, to) in [
            ("harness", "driver"),
            ("harness", "switch"),
            ("driver", "images"),
            ("switch", "images"),
            ("services", "profiles"),
            ("driver", "profiles"),
            ("profiles", "process"),
            ("cli", "scenarios"),
            ("xtask", "scenarios"),
            ("agent", "driver"),
        ] {
            let message = caught(from, to, None);
            assert!(message.contains(&format!("{from} -> {to}")), "{message}");
        }
    }

    #[test]
    fn a_dev_dependency_is_an_edge_too() {
        assert!(caught("harness", "driver", Some("dev")).contains("harness -> driver"));
    }

    #[test]
    fn a_way_through_another_crate_is_caught() {
        let message = caught("harness", "images", None);
        assert!(message.contains("harness must not know process"), "{message}");
        assert!(message.contains("harness -> images -> process"), "{message}");
    }

    #[test]
    fn dev_dependencies_of_a_dependency_do_not_count() {
        let edges = [("cli", "harness", None), ("process", "harness", Some("dev"))];
        judge(&workspace(&edges)).unwrap();
    }

    #[test]
    fn a_renamed_crate_does_not_open_a_wall() {
        let mut renamed = workspace(&[]);
        renamed.packages.retain(|package| package.name != "harness");
        assert!(judge(&renamed).unwrap_err().to_string().contains("guards nothing: harness"));
    }
}
