//! `rackless image`: build, look into, import, check and remove disk images.

use std::io::Write as _;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use clap::Subcommand;
use images::{Error, Origin, Recipe, Sidecar, Store, info};
use serde::Serialize;

use crate::outcome::BadInput;

/// Builds, looks into, imports, checks and removes disk images.
#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// List the images that can be used by name.
    List {
        /// Print JSON.
        #[arg(long)]
        json: bool,
    },
    /// Build an image by its recipe, unless it is cached; print where it is.
    Build {
        /// The image's name, or a recipe's file (`*.toml`).
        #[arg(default_value = "server")]
        recipe: String,
        /// Build it even if it is cached.
        #[arg(long)]
        force: bool,
        /// Print JSON.
        #[arg(long)]
        json: bool,
    },
    /// Show what is in a disk image: any raw disk, or an image by its name.
    Info {
        /// A disk's file, or an image's name.
        disk: PathBuf,
        /// Print JSON.
        #[arg(long)]
        json: bool,
    },
    /// Compute the digests of a cached image's files again.
    Verify {
        /// The image's name; all that are cached if not given.
        name: Option<String>,
    },
    /// Copy a disk of your own into the cache, under a name that tests use.
    Import {
        /// The raw disk (`.wic`).
        path: PathBuf,
        /// The image's name; the file's stem if not given.
        #[arg(long)]
        name: Option<String>,
        /// What can't be read from the disk: bus, way in, login. Found beside the disk if not given.
        #[arg(long)]
        toml: Option<PathBuf>,
    },
    /// Print the path of an image's disk; build it if need be.
    Path {
        /// The image's name.
        name: String,
    },
    /// Remove an image from the cache.
    Rm {
        /// The image's name.
        name: String,
    },
}

/// Runs one of them.
pub(crate) fn run(command: Command) -> Result<()> {
    match command {
        Command::List { json } => list(json),
        Command::Build { recipe, force, json } => build(&recipe, force, json),
        Command::Info { disk, json } => show(&disk, json),
        Command::Verify { name } => verify(name),
        Command::Import { path, name, toml } => import(&path, name, toml.as_deref()),
        Command::Path { name } => {
            let image = store()?.image(&name).map_err(judged)?;
            print(&image.disk.display().to_string())
        }
        Command::Rm { name } => {
            let removed = store()?.remove(&name).map_err(judged)?;
            if removed.is_empty() {
                return Err(BadInput::new(anyhow::anyhow!("no image {name:?} is cached")).into());
            }
            removed.iter().try_for_each(|path| print(&format!("removed {}", path.display())))
        }
    }
}

/// The default cache; its progress goes to stderr.
fn store() -> Result<Store> {
    let store = Store::open(Store::default_root()).map_err(judged)?;
    Ok(store.on_progress(|progress| eprintln!("{progress}")))
}

/// Errors that are the fault of what the user gave exit with 2.
fn judged(error: Error) -> anyhow::Error {
    let bad_input = matches!(
        error,
        Error::Config(_)
            | Error::UnknownImage { .. }
            | Error::BadName { .. }
            | Error::NotADisk { .. }
            | Error::Truncated { .. }
            | Error::Table { .. }
            | Error::OverrideMissing { .. }
    );
    if bad_input { BadInput::new(error).into() } else { error.into() }
}

fn print(line: &str) -> Result<()> {
    writeln!(std::io::stdout(), "{line}").context("writing to stdout")
}

fn print_json(value: &impl Serialize) -> Result<()> {
    print(&serde_json::to_string_pretty(value)?)
}

/// One image as `list --json` shows it.
#[derive(Serialize)]
struct Row {
    name: String,
    about: String,
    origin: &'static str,
    path: Option<PathBuf>,
    manifest: Option<images::Manifest>,
}

fn list(json: bool) -> Result<()> {
    let listed = store()?.list().map_err(judged)?;
    if json {
        let rows: Vec<Row> = listed
            .into_iter()
            .map(|one| Row {
                name: one.name,
                about: one.about,
                origin: origin(&one.origin),
                path: one.path,
                manifest: one.manifest,
            })
            .collect();
        return print_json(&rows);
    }
    for one in listed {
        let state = match (&one.origin, &one.path) {
            (Origin::Override(set_by), Some(path)) => format!("{} ({set_by})", path.display()),
            (Origin::Import, Some(path)) => format!("imported, {}", path.display()),
            (_, Some(path)) => format!("cached, {}", path.display()),
            (_, None) => "not built yet".into(),
        };
        let about = one.manifest.as_ref().and_then(|manifest| manifest.os.clone()).unwrap_or(one.about);
        print(&format!("{:<12} {about}\n{:<12} {state}", one.name, ""))?;
    }
    Ok(())
}

fn origin(origin: &Origin) -> &'static str {
    match origin {
        Origin::Recipe => "recipe",
        Origin::Import => "import",
        Origin::Override(_) => "override",
    }
}

fn build(recipe: &str, force: bool, json: bool) -> Result<()> {
    let mut store = store()?;
    let recipe = if Path::new(recipe).extension().is_some_and(|extension| extension == "toml") {
        let recipe = Recipe::load(Path::new(recipe)).map_err(judged)?;
        store = store.with_recipe(recipe.clone());
        recipe
    } else {
        store.recipe(recipe).ok_or_else(|| {
            let known = store
                .list()
                .unwrap_or_default()
                .into_iter()
                .map(|one| one.name)
                .collect::<Vec<_>>()
                .join(", ");
            BadInput::new(anyhow::anyhow!(
                "there is no recipe {recipe:?}; known are {known}, or give a file that ends in .toml"
            ))
        })?
    };
    let manifest = store.build(&recipe, force).map_err(judged)?;
    if json {
        return print_json(&manifest);
    }
    let image = store.entry(&recipe).map_err(judged)?;
    print(&image.display().to_string())
}

fn show(disk: &Path, json: bool) -> Result<()> {
    let by_name = !disk.exists() && disk.components().count() == 1 && disk.extension().is_none();
    let path = match disk.to_str().filter(|_| by_name) {
        Some(name) => {
            let image = store()?.cached(name).map_err(judged)?;
            let image = image
                .with_context(|| format!("image {name} is not built yet: `rackless image build {name}`"))?;
            image.disk
        }
        None => disk.to_owned(),
    };
    let info = info::inspect(&path).map_err(|error| match error {
        Error::File { .. } => BadInput::new(error).into(),
        other => judged(other),
    })?;
    if json { print_json(&info) } else { print(info.to_string().trim_end()) }
}

fn verify(name: Option<String>) -> Result<()> {
    let store = store()?;
    let names = match name {
        Some(name) => vec![name],
        None => store
            .list()
            .map_err(judged)?
            .into_iter()
            .filter(|one| one.path.is_some() && !matches!(one.origin, Origin::Override(_)))
            .map(|one| one.name)
            .collect(),
    };
    for name in names {
        let manifest = store.verify(&name).map_err(judged)?;
        print(&format!("{name}: {} files as recorded, digest {}", manifest.files.len(), manifest.digest))?;
    }
    Ok(())
}

fn import(path: &Path, name: Option<String>, toml: Option<&Path>) -> Result<()> {
    let stem = path.file_stem().and_then(|stem| stem.to_str()).unwrap_or_default().to_ascii_lowercase();
    let name = name.unwrap_or_else(|| stem.replace(['_', '.'], "-"));
    let sidecar = toml.map_or_else(|| Sidecar::beside(path), Sidecar::load).map_err(judged)?;
    let manifest = store()?.import(&name, path, &sidecar).map_err(|error| match error {
        Error::File { .. } => BadInput::new(error).into(),
        other => judged(other),
    })?;
    let direct = if manifest.files.contains_key("kernel") { ", direct" } else { "" };
    let boot = if manifest.firmware { "firmware" } else { "no firmware" };
    print(&format!(
        "{name}: {}, bus {}, boots by {boot}{direct}",
        manifest.os.as_deref().unwrap_or("unknown system"),
        manifest.bus
    ))
}
