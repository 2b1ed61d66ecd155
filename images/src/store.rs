//! The cache of images, shared by processes and users' runs.
//!
//! ```text
//! <cache>/entries/<name>-<key>/   an image: manifest.json, disk.wic, vmlinuz, initrd.img, build.log
//! <cache>/imports/<name>/         an image of the user's own, put there by `rackless image import`
//! <cache>/agents/<digest>.ext4    a disk with an agent
//! <cache>/foreign/<key>/          kernel and initrd taken from a disk that is named by path
//! <cache>/copies/<key>/           a disk with an agent written into it
//! <cache>/tmp/<entry>/            a build that goes on; its remains, if nobody holds the lock
//! <cache>/locks/<entry>           held by who builds, imports or removes the entry
//! ```
//!
//! An entry is built under `tmp` and renamed, so that a kill leaves no half entry.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use cache::EntryLock;
use nix::unistd::Uid;

use crate::build::{self, Site, filesystem};
use crate::error::{At, Error};
use crate::foreign;
use crate::image::{Image, Origin};
use crate::manifest::Manifest;
use crate::progress::{Listener, Phase, Progress, Reporter};
use crate::recipe::{BUILTIN, Recipe, Source, is_name};

/// The cache, and what names images besides it.
#[derive(Clone)]
pub struct Store {
    root: PathBuf,
    overrides: BTreeMap<String, PathBuf>,
    recipes: BTreeMap<String, Recipe>,
    mirror: Option<String>,
    listener: Option<Listener>,
}

/// An image that could be used, for `rackless image list`.
#[derive(Debug, Clone)]
pub struct Listed {
    /// Its name.
    pub name: String,
    /// One line for people.
    pub about: String,
    /// Where it comes from.
    pub origin: Origin,
    /// The entry's directory, or the disk that an override names; `None` when it is yet to be built.
    pub path: Option<PathBuf>,
    /// What it is, when it is in the cache.
    pub manifest: Option<Manifest>,
}

impl Store {
    /// Where the cache is: `RACKLESS_CACHE`, else `$XDG_CACHE_HOME/rackless`, else `~/.cache/rackless`; images are in
    /// its folder `images`.
    pub fn default_root() -> PathBuf {
        cache::root().join("images")
    }

    /// Opens the cache at `root`, makes it if it is not there, and removes what killed builds left.
    ///
    /// # Errors
    /// [`Error::File`] or [`Error::DiskFull`] when its directories can't be made.
    pub fn open(root: impl Into<PathBuf>) -> Result<Store, Error> {
        let root = root.into();
        for directory in ["entries", "imports", "agents", "foreign", "copies", "tmp", "locks"] {
            let directory = root.join(directory);
            std::fs::create_dir_all(&directory).at("make", &directory)?;
        }
        let mirror = std::env::var("RACKLESS_MIRROR").ok().filter(|mirror| !mirror.is_empty());
        let store =
            Store { root, overrides: BTreeMap::new(), recipes: BTreeMap::new(), mirror, listener: None };
        store.sweep()?;
        Ok(store)
    }

    /// Tells `listener` what builds do.
    #[must_use]
    pub fn on_progress(mut self, listener: impl Fn(&Progress) + Send + Sync + 'static) -> Store {
        self.listener = Some(std::sync::Arc::new(listener));
        self
    }

    /// Uses the disk at `path` for the image `name`: `--image server=PATH`. It goes before everything else.
    #[must_use]
    pub fn with_override(mut self, name: impl Into<String>, path: impl Into<PathBuf>) -> Store {
        self.overrides.insert(name.into(), path.into());
        self
    }

    /// Adds a recipe, or replaces the one of the same name that comes with us.
    #[must_use]
    pub fn with_recipe(mut self, recipe: Recipe) -> Store {
        self.recipes.insert(recipe.name.clone(), recipe);
        self
    }

    pub(crate) fn listener(&self) -> Option<Listener> {
        self.listener.clone()
    }

    /// The cache's directory.
    pub fn root(&self) -> &Path {
        &self.root
    }

    /// The image of this name: the disk that [`Store::with_override`] or `RACKLESS_IMAGE_<NAME>` names, else an
    /// import, else the cached result of the recipe, else its new build. A build takes a minute or more and blocks.
    ///
    /// Packages come from the builder's default mirror for the suite, or from `RACKLESS_MIRROR`.
    ///
    /// # Errors
    /// [`Error::UnknownImage`]; those of a build; [`Error::Corrupt`] when a cached entry lost a file.
    pub fn image(&self, name: &str) -> Result<Image, Error> {
        self.image_or_build(name, true)?.ok_or_else(|| self.unknown(name))
    }

    /// [`Store::image`], but `None` instead of a build.
    ///
    /// # Errors
    /// Those of [`Store::image`], without a build's.
    pub fn cached(&self, name: &str) -> Result<Option<Image>, Error> {
        self.image_or_build(name, false)
    }

    fn image_or_build(&self, name: &str, build: bool) -> Result<Option<Image>, Error> {
        if !is_name(name) {
            return Err(Error::BadName { name: name.into() });
        }
        if let Some((path, set_by)) = self.override_of(name) {
            return foreign::image(self, name, &path, set_by).map(Some);
        }
        let import = self.import_dir(name);
        if import.is_dir() {
            let manifest = Manifest::load(name, &import)?;
            manifest.check(&import, false)?;
            return Ok(Some(image(&manifest, &import, Origin::Import)));
        }
        let recipe = self.recipe(name).ok_or_else(|| self.unknown(name))?;
        let entry = self.entry(&recipe)?;
        let manifest = match self.load(&recipe, &entry)? {
            Some(manifest) => manifest,
            None if build => self.build(&recipe, false)?,
            None => return Ok(None),
        };
        Ok(Some(image(&manifest, &entry, Origin::Recipe)))
    }

    /// Builds the image of a recipe; with `anew` also where there is an entry.
    ///
    /// # Errors
    /// [`Error::MissingTool`], [`Error::NoSubordinateIds`], [`Error::Tool`], [`Error::DiskFull`], [`Error::Unbootable`].
    pub fn build(&self, recipe: &Recipe, anew: bool) -> Result<Manifest, Error> {
        let entry = self.entry(recipe)?;
        let report = Reporter::new(&recipe.name, self.listener.clone());
        let held = self.lock(&entry, &report)?;
        if !anew && let Some(manifest) = self.load(recipe, &entry)? {
            return Ok(manifest);
        }
        let base = match &recipe.source {
            Source::Packages(_) => None,
            Source::Base(base) => {
                let base = self.recipe(base).ok_or_else(|| self.unknown(base))?;
                let at = self.entry(&base)?;
                Some(match self.load(&base, &at)? {
                    Some(manifest) => (manifest, at),
                    None => (self.build(&base, false)?, at),
                })
            }
        };
        let work = self.work_dir(&entry);
        filesystem::remove(&work)?;
        std::fs::create_dir_all(&work).at("make", &work)?;
        // What mmdebstrap started is not ours to await once we are killed: the next start finds it by this directory.
        let run = process::RunDir::create(&format!("image-{}-{}", recipe.name, std::process::id()))?;
        let scratch = Scratch::make(&self.root, entry_name(&entry))?;
        let site = Site {
            entry: &work,
            scratch: scratch.path(),
            key: &self.key(recipe)?,
            mirror: self.mirror.as_deref(),
        };
        let built = match (&recipe.source, &base) {
            (Source::Packages(packages), _) => build::from_packages(recipe, packages, &site, &report),
            (Source::Base(_), Some((manifest, at))) => {
                build::from_base(recipe, (manifest, at), &site, &report)
            }
            (Source::Base(name), None) => Err(self.unknown(name)),
        };
        let manifest = match built {
            Ok(manifest) => manifest,
            Err(error) => return Err(self.keep_log(error, &work, &entry)),
        };
        self.put(&work, &entry)?;
        drop((run, held));
        report.phase(Phase::Done);
        Ok(manifest)
    }

    /// Moves a finished entry in place; the caller holds its lock.
    pub(crate) fn put(&self, work: &Path, entry: &Path) -> Result<(), Error> {
        filesystem::remove(entry)?;
        std::fs::rename(work, entry).at("rename", work)
    }

    /// A failed build's log survives its directory.
    fn keep_log(&self, error: Error, work: &Path, entry: &Path) -> Error {
        let kept = self.root.join("tmp").join(format!("{}.log", entry_name(entry)));
        let moved = std::fs::rename(work.join(build::LOG), &kept).is_ok();
        let _ = filesystem::remove(work);
        match error {
            Error::Tool { image, operation, elapsed, problem, log: Some(_) } if moved => {
                Error::Tool { image, operation, elapsed, problem, log: Some(kept) }
            }
            other => other,
        }
    }

    /// Checks the digests of an image's files.
    ///
    /// # Errors
    /// [`Error::Corrupt`] with what is wrong; [`Error::UnknownImage`] when it is not in the cache.
    pub fn verify(&self, name: &str) -> Result<Manifest, Error> {
        let entry = self.cached_entry(name)?;
        let manifest = Manifest::load(name, &entry)?;
        manifest.check(&entry, true)?;
        Ok(manifest)
    }

    /// Removes an image from the cache, the entries of older recipes of its name included. Returns what was removed.
    ///
    /// # Errors
    /// [`Error::File`] when something can't be removed.
    pub fn remove(&self, name: &str) -> Result<Vec<PathBuf>, Error> {
        if !is_name(name) {
            return Err(Error::BadName { name: name.into() });
        }
        let report = Reporter::new(name, self.listener.clone());
        let mut removed = Vec::new();
        let import = self.import_dir(name);
        let entries = self.entries_of(name)?;
        for directory in entries.into_iter().chain(import.is_dir().then_some(import)) {
            let _held = self.lock(&directory, &report)?;
            filesystem::remove(&directory)?;
            removed.push(directory);
        }
        Ok(removed)
    }

    /// Every image that could be used by name.
    ///
    /// # Errors
    /// [`Error::File`] when the cache can't be read.
    pub fn list(&self) -> Result<Vec<Listed>, Error> {
        let mut listed = Vec::new();
        for name in self.known()? {
            let recipe = self.recipe(&name);
            let about = recipe.as_ref().map(|recipe| recipe.about.clone()).unwrap_or_default();
            let import = self.import_dir(&name);
            if let Some((path, set_by)) = self.override_of(&name) {
                let (origin, path) = (Origin::Override(set_by), Some(path));
                listed.push(Listed { name, about, origin, path, manifest: None });
            } else if import.is_dir() {
                let manifest = Manifest::load(&name, &import).ok();
                listed.push(Listed { name, about, origin: Origin::Import, path: Some(import), manifest });
            } else if let Some(recipe) = recipe {
                let entry = self.entry(&recipe)?;
                let manifest = Manifest::load(&name, &entry).ok();
                let path = manifest.is_some().then_some(entry);
                listed.push(Listed { name, about, origin: Origin::Recipe, path, manifest });
            }
        }
        Ok(listed)
    }

    /// The recipe of this name, added or built in.
    pub fn recipe(&self, name: &str) -> Option<Recipe> {
        self.recipes.get(name).cloned().or_else(|| Recipe::builtin(name))
    }

    /// Names that [`Store::image`] knows.
    fn known(&self) -> Result<Vec<String>, Error> {
        let imports = self.root.join("imports");
        let mut names: Vec<String> = BUILTIN.iter().map(|(name, _, _)| (*name).to_owned()).collect();
        names.extend(self.recipes.keys().cloned());
        names.extend(self.overrides.keys().cloned());
        for entry in std::fs::read_dir(&imports).at("read", &imports)? {
            names.extend(entry.at("read", &imports)?.file_name().into_string().ok());
        }
        names.sort();
        names.dedup();
        Ok(names)
    }

    pub(crate) fn unknown(&self, name: &str) -> Error {
        let known = self.known().unwrap_or_default();
        Error::UnknownImage { name: name.into(), known, env: variable(name) }
    }

    fn override_of(&self, name: &str) -> Option<(PathBuf, String)> {
        if let Some(path) = self.overrides.get(name) {
            return Some((path.clone(), format!("--image {name}=…")));
        }
        let variable = variable(name);
        let path = std::env::var_os(&variable).filter(|value| !value.is_empty())?;
        Some((path.into(), variable))
    }

    /// The key of a recipe: what it says and who builds it, not where the packages come from.
    fn key(&self, recipe: &Recipe) -> Result<String, Error> {
        let mut hasher = blake3::Hasher::new();
        hasher.update(build::BUILDER.as_bytes()).update(&[0]).update(recipe.text.as_bytes());
        if let Source::Base(base) = &recipe.source {
            let base = self.recipe(base).ok_or_else(|| self.unknown(base))?;
            // A base of a base is not supported; this keeps a circle of recipes from recursing.
            if matches!(base.source, Source::Base(_)) {
                return Err(self.unknown(&base.name));
            }
            hasher.update(&[0]).update(self.key(&base)?.as_bytes());
        }
        Ok(hasher.finalize().to_hex().to_string())
    }

    /// The directory of a recipe's image, whether it is there or not.
    ///
    /// # Errors
    /// [`Error::UnknownImage`] when the recipe's base is not known.
    pub fn entry(&self, recipe: &Recipe) -> Result<PathBuf, Error> {
        let key = self.key(recipe)?;
        Ok(self.root.join("entries").join(format!("{}-{}", recipe.name, &key[..16])))
    }

    pub(crate) fn import_dir(&self, name: &str) -> PathBuf {
        self.root.join("imports").join(name)
    }

    pub(crate) fn work_dir(&self, entry: &Path) -> PathBuf {
        self.root.join("tmp").join(entry_name(entry))
    }

    /// The directory of the image that [`Store::image`] would take from the cache.
    fn cached_entry(&self, name: &str) -> Result<PathBuf, Error> {
        if !is_name(name) {
            return Err(Error::BadName { name: name.into() });
        }
        let import = self.import_dir(name);
        if import.is_dir() {
            return Ok(import);
        }
        let recipe = self.recipe(name).ok_or_else(|| self.unknown(name))?;
        let entry = self.entry(&recipe)?;
        if entry.is_dir() { Ok(entry) } else { Err(self.unknown(name)) }
    }

    /// Entries of recipes of this name, of any key.
    fn entries_of(&self, name: &str) -> Result<Vec<PathBuf>, Error> {
        let entries = self.root.join("entries");
        let mut found = Vec::new();
        for entry in std::fs::read_dir(&entries).at("read", &entries)? {
            let path = entry.at("read", &entries)?.path();
            if entry_name(&path).rsplit_once('-').is_some_and(|(of, _)| of == name) {
                found.push(path);
            }
        }
        Ok(found)
    }

    fn load(&self, recipe: &Recipe, entry: &Path) -> Result<Option<Manifest>, Error> {
        if !entry.is_dir() {
            return Ok(None);
        }
        let manifest = Manifest::load(&recipe.name, entry)?;
        manifest.check(entry, false)?;
        Ok(Some(manifest))
    }

    pub(crate) fn lock(&self, entry: &Path, report: &Reporter) -> Result<EntryLock, Error> {
        let path = self.root.join("locks").join(entry_name(entry));
        Ok(EntryLock::take(&path, |pid| {
            let who = pid.map_or_else(|| "another process".to_owned(), |pid| format!("process {pid}"));
            report.detail(Phase::Waiting, format!("{who} is at it"));
        })?)
    }

    /// Removes the remains of builds whose lock nobody holds. What can't be removed yet, since a killed build's
    /// programs still write there, is left for the next time.
    fn sweep(&self) -> Result<(), Error> {
        let tmp = self.root.join("tmp");
        let mut remains: Vec<(String, PathBuf)> = Vec::new();
        for found in std::fs::read_dir(&tmp).at("read", &tmp)? {
            let path = found.at("read", &tmp)?.path();
            if path.is_dir() {
                remains.push((entry_name(&path).to_owned(), path));
            }
        }
        remains.extend(Scratch::all_of(&self.root));
        let mut reaped = false;
        for (entry, path) in remains {
            let lock = self.root.join("locks").join(entry);
            if let Some(_held) = EntryLock::try_take(&lock)? {
                if !std::mem::replace(&mut reaped, true) {
                    let _ = process::reap_stale();
                }
                let _ = filesystem::remove(&path);
            }
        }
        Ok(())
    }
}

/// An image of an entry.
pub(crate) fn image(manifest: &Manifest, entry: &Path, origin: Origin) -> Image {
    let file = |role: &str| manifest.files.get(role).map(|file| entry.join(&file.file));
    Image {
        name: manifest.name.clone(),
        disk: file("disk").unwrap_or_else(|| entry.join(build::DISK)),
        kernel: file("kernel"),
        initrd: file("initrd"),
        cmdline: manifest.cmdline.clone(),
        bus: manifest.bus,
        firmware: manifest.firmware,
        way_in: manifest.way_in,
        login: manifest.login.clone(),
        provides: manifest.provides.clone(),
        digest: manifest.digest.clone(),
        systemd: manifest.systemd,
        os: manifest.os.clone(),
        origin,
    }
}

/// `RACKLESS_IMAGE_SERVER` for `server`.
fn variable(name: &str) -> String {
    format!("RACKLESS_IMAGE_{}", name.to_ascii_uppercase().replace('-', "_"))
}

fn entry_name(entry: &Path) -> &str {
    entry.file_name().and_then(|name| name.to_str()).unwrap_or("entry")
}

/// A directory under TMPDIR for mmdebstrap: its user is one of the subordinate ids, which can't enter a home.
struct Scratch(PathBuf);

impl Scratch {
    fn parent() -> PathBuf {
        std::env::temp_dir().join(format!("rackless-images-{}", Uid::effective()))
    }

    /// The middle of its name: two caches may share a TMPDIR.
    fn mark(root: &Path) -> String {
        blake3::hash(root.as_os_str().as_encoded_bytes()).to_hex()[..8].to_owned()
    }

    fn make(root: &Path, entry: &str) -> Result<Scratch, Error> {
        use std::os::unix::fs::{DirBuilderExt, MetadataExt, PermissionsExt};
        let parent = Scratch::parent();
        match std::fs::DirBuilder::new().mode(0o755).create(&parent) {
            Err(error) if error.kind() == std::io::ErrorKind::AlreadyExists => {}
            other => other.at("make", &parent)?,
        }
        // Others may write to /tmp: what lies there under our name must be ours.
        let meta = parent.symlink_metadata().at("read", &parent)?;
        if !meta.is_dir() || meta.uid() != Uid::effective().as_raw() {
            let source = std::io::Error::other("it belongs to another user: remove it, or set TMPDIR");
            return Err(Error::File { operation: "use", path: parent, source });
        }
        let path = tempfile::Builder::new()
            .prefix(&format!("{entry}.{}.", Scratch::mark(root)))
            .tempdir_in(&parent)
            .at("make a directory in", &parent)?
            .keep();
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o1777)).at("open up", &path)?;
        Ok(Scratch(path))
    }

    /// Those of a cache, with the entry that each was made for.
    fn all_of(root: &Path) -> Vec<(String, PathBuf)> {
        let mark = format!(".{}.", Scratch::mark(root));
        let Ok(found) = std::fs::read_dir(Scratch::parent()) else { return Vec::new() };
        let split = |path: PathBuf| {
            let (entry, _) = entry_name(&path).split_once(&mark)?;
            Some((entry.to_owned(), path))
        };
        found.flatten().filter_map(|found| split(found.path())).collect()
    }

    fn path(&self) -> &Path {
        &self.0
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        // What can't be removed now is removed by the next sweep.
        let _ = filesystem::remove(&self.0);
    }
}
