//! Recipes: what an image is made of.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use serde::Deserialize;
use sha2::{Digest as _, Sha256};
use toml::Spanned;

use crate::error::{At, ConfigError, Error};
use crate::image::{DiskBus, Login, WayIn};
use crate::toml_file::TomlFile;

/// The recipes that come with us: name, file name for messages, text.
pub(crate) const BUILTIN: [(&str, &str, &str); 4] = [
    ("server", "images/recipes/server.toml", include_str!("../recipes/server.toml")),
    ("plain", "images/recipes/plain.toml", include_str!("../recipes/plain.toml")),
    ("peers", "images/recipes/peers.toml", include_str!("../recipes/peers.toml")),
    ("stranger", "images/recipes/stranger.toml", include_str!("../recipes/stranger.toml")),
];

/// What an image is made of, read from TOML and checked.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Recipe {
    /// The image's name.
    pub name: String,
    /// One line for people.
    pub about: String,
    /// Packages, or another image.
    pub source: Source,
    /// Sizes and the bus.
    pub disk: DiskOptions,
    /// Words of the kernel's command line besides `root=` and `rw`; a derived image has its base's.
    pub cmdline: Vec<String>,
    /// What finds the root; a derived image has its base's.
    pub initrd: Initrd,
    /// Units to enable, disable and mask.
    pub services: Services,
    /// Files to write into the root.
    pub files: Vec<FileSpec>,
    /// Who can log in on the console; in a derived image `None` means as in the base.
    pub login: Option<Login>,
    /// How commands get in; in a derived image `None` means as in the base.
    pub way_in: Option<WayIn>,
    /// What is installed, by names that tests ask for. A derived image has the base's too.
    pub provides: BTreeSet<String>,
    /// The text it was read from: the key of the cache covers it.
    pub text: String,
}

/// Where a root comes from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Source {
    /// A distribution's packages.
    Packages(Packages),
    /// The root of another image, changed by `file` entries only.
    Base(String),
}

/// A distribution's packages. There is no mirror in it: see [`crate::Store::image`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Packages {
    /// `debian`.
    pub distribution: String,
    /// `trixie`.
    pub suite: String,
    /// `amd64`.
    pub architecture: String,
    /// Besides those that every system has.
    pub packages: Vec<String>,
}

/// How the disk is laid out.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct DiskOptions {
    /// Size of the EFI system partition in MiB.
    pub esp_mib: u32,
    /// Space left in the root in MiB.
    pub free_mib: u32,
    /// The bus that the image expects.
    pub bus: DiskBus,
}

/// What finds the root and switches to it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Initrd {
    /// Busybox, a script and the drivers of the disk buses, made by the builder.
    #[default]
    Small,
    /// The one that the kernel's package had made in the root's `/boot`, by initramfs-tools or dracut.
    Distribution,
}

/// What is done with units.
#[derive(Debug, Clone, PartialEq, Eq, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Services {
    /// Started at boot.
    pub enable: Vec<String>,
    /// Not started at boot.
    pub disable: Vec<String>,
    /// Not to be started at all.
    pub mask: Vec<String>,
}

/// A file to write, owned by root.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FileSpec {
    /// Absolute path in the root.
    pub path: String,
    /// Permission bits.
    pub mode: u32,
    /// Content.
    pub content: FileContent,
}

/// What a file has in it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum FileContent {
    /// This text.
    Text(String),
    /// What a file of the host has, of these bytes and no others: a program that no package has.
    File {
        /// The file.
        path: PathBuf,
        /// The SHA-256 of its bytes, in hexadecimal.
        sha256: String,
    },
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Raw {
    name: Spanned<String>,
    #[serde(default)]
    about: String,
    base: Option<Spanned<String>>,
    distribution: Option<Spanned<String>>,
    suite: Option<Spanned<String>>,
    architecture: Option<Spanned<String>>,
    #[serde(default)]
    packages: Vec<Spanned<String>>,
    #[serde(default)]
    provides: BTreeSet<String>,
    way_in: Option<WayIn>,
    login: Option<Login>,
    #[serde(default)]
    disk: RawDisk,
    #[serde(default)]
    boot: RawBoot,
    services: Option<Spanned<Services>>,
    #[serde(default)]
    file: Vec<RawFile>,
}

#[derive(Deserialize, Default)]
#[serde(deny_unknown_fields, default)]
struct RawDisk {
    esp_mib: Option<Spanned<u32>>,
    free_mib: Option<Spanned<u32>>,
    bus: DiskBus,
}

#[derive(Deserialize, Default)]
#[serde(deny_unknown_fields, default)]
struct RawBoot {
    cmdline: Vec<Spanned<String>>,
    initrd: Option<Spanned<Initrd>>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct RawFile {
    path: Spanned<String>,
    mode: Option<Spanned<String>>,
    content: Option<String>,
    source: Option<Spanned<PathBuf>>,
    sha256: Option<Spanned<String>>,
}

impl FileSpec {
    /// The bytes, those of a file of the host only if they are the ones that the recipe means.
    ///
    /// # Errors
    /// [`Error::File`] when it can't be read, [`Error::Digest`] when it is another file.
    pub(crate) fn bytes(&self) -> Result<Vec<u8>, Error> {
        match &self.content {
            FileContent::Text(text) => Ok(text.clone().into_bytes()),
            FileContent::File { path, sha256 } => {
                let bytes = std::fs::read(path).at("read", path)?;
                let found =
                    Sha256::digest(&bytes).iter().map(|byte| format!("{byte:02x}")).collect::<String>();
                if found == *sha256 {
                    return Ok(bytes);
                }
                Err(Error::Digest { path: path.clone(), wanted: sha256.clone(), found })
            }
        }
    }
}

impl Recipe {
    /// The recipe of this name that comes with us.
    pub fn builtin(name: &str) -> Option<Recipe> {
        let (_, file, text) = BUILTIN.iter().find(|(known, _, _)| *known == name)?;
        Some(Recipe::parse(text, Path::new(file)).expect("the recipes that come with us are tested"))
    }

    /// Reads a recipe from a file.
    ///
    /// # Errors
    /// [`Error::File`] when it can't be read, [`Error::Config`] when it is wrong.
    pub fn load(path: &Path) -> Result<Recipe, Error> {
        let text = std::fs::read_to_string(path).at("read", path)?;
        Ok(Recipe::parse(&text, path)?)
    }

    /// Reads a recipe; `file` is named in errors.
    ///
    /// # Errors
    /// A [`ConfigError`] with the line and key of the first thing that is wrong.
    pub fn parse(text: &str, file: &Path) -> Result<Recipe, ConfigError> {
        let toml = TomlFile { path: file, text };
        let raw: Raw = toml.parse()?;
        if !is_name(raw.name.get_ref()) {
            return Err(toml.wrong(
                "name",
                &raw.name,
                format!(
                    "{:?} can't be a name: use lower-case letters, digits and `-`, starting with a letter",
                    raw.name.get_ref()
                ),
            ));
        }
        for word in &raw.boot.cmdline {
            let text = word.get_ref();
            if text.is_empty() || text.contains(char::is_whitespace) {
                return Err(toml.wrong("boot.cmdline", word, format!("{text:?} is not one word")));
            }
            if text.starts_with("root=") {
                return Err(toml.wrong(
                    "boot.cmdline",
                    word,
                    "root= is set by the builder, to the root partition",
                ));
            }
        }
        let files = raw.file.iter().map(|file| file_spec(&toml, file)).collect::<Result<Vec<_>, _>>()?;
        let source = source(&toml, &raw)?;
        let mib = |key, value: &Option<Spanned<u32>>, default, least, most| match value {
            None => Ok(default),
            Some(value) if (least..=most).contains(value.get_ref()) => Ok(*value.get_ref()),
            Some(value) => {
                Err(toml.wrong(key, value, format!("{} MiB is outside {least} to {most}", value.get_ref())))
            }
        };
        let disk = DiskOptions {
            esp_mib: mib("disk.esp_mib", &raw.disk.esp_mib, 96, 36, 2048)?,
            free_mib: mib("disk.free_mib", &raw.disk.free_mib, 512, 0, 1 << 20)?,
            bus: raw.disk.bus,
        };
        Ok(Recipe {
            name: raw.name.into_inner(),
            about: raw.about,
            source,
            disk,
            initrd: raw.boot.initrd.map(Spanned::into_inner).unwrap_or_default(),
            cmdline: raw.boot.cmdline.into_iter().map(Spanned::into_inner).collect(),
            services: raw.services.map(Spanned::into_inner).unwrap_or_default(),
            files,
            login: raw.login,
            way_in: raw.way_in,
            provides: raw.provides,
            text: text.to_owned(),
        })
    }
}

fn source(toml: &TomlFile<'_>, raw: &Raw) -> Result<Source, ConfigError> {
    if let Some(base) = &raw.base {
        if !is_name(base.get_ref()) || base.get_ref() == raw.name.get_ref() {
            return Err(toml.wrong(
                "base",
                base,
                format!("{:?} is not another image's name", base.get_ref()),
            ));
        }
        let derived = "a derived image takes its base's root, so only `file` may change it";
        for (key, value) in
            [("distribution", &raw.distribution), ("suite", &raw.suite), ("architecture", &raw.architecture)]
        {
            if let Some(value) = value {
                return Err(toml.wrong(key, value, derived));
            }
        }
        if let Some(package) = raw.packages.first() {
            return Err(toml.wrong("packages", package, derived));
        }
        if let Some(services) = &raw.services {
            return Err(toml.wrong("services", services, derived));
        }
        if let Some(word) = raw.boot.cmdline.first() {
            return Err(toml.wrong("boot.cmdline", word, "a derived image has its base's loader"));
        }
        if let Some(initrd) = &raw.boot.initrd {
            return Err(toml.wrong("boot.initrd", initrd, "a derived image has its base's initrd"));
        }
        for (key, value) in [("disk.esp_mib", &raw.disk.esp_mib), ("disk.free_mib", &raw.disk.free_mib)] {
            if let Some(value) = value {
                return Err(toml.wrong(key, value, "a derived image has its base's sizes"));
            }
        }
        return Ok(Source::Base(base.get_ref().clone()));
    }
    let distribution = raw
        .distribution
        .as_ref()
        .ok_or_else(|| toml.missing("distribution", "is missing: expected \"debian\", or `base`"))?;
    if distribution.get_ref() != "debian" {
        return Err(toml.wrong(
            "distribution",
            distribution,
            format!("{:?} is not known: expected \"debian\"", distribution.get_ref()),
        ));
    }
    let suite = raw
        .suite
        .as_ref()
        .ok_or_else(|| toml.missing("suite", "is missing: expected a suite such as \"trixie\""))?;
    let word = |text: &str| {
        !text.is_empty()
            && text
                .bytes()
                .all(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit() || b"+-.".contains(&byte))
            && text.as_bytes()[0].is_ascii_alphanumeric()
    };
    if !word(suite.get_ref()) {
        return Err(toml.wrong(
            "suite",
            suite,
            format!(
                "{:?} is no suite's name; a mirror does not belong here: set RACKLESS_MIRROR",
                suite.get_ref()
            ),
        ));
    }
    let architecture = match &raw.architecture {
        None => "amd64".to_owned(),
        Some(architecture) if architecture.get_ref() == "amd64" => "amd64".to_owned(),
        Some(architecture) => {
            return Err(toml.wrong(
                "architecture",
                architecture,
                format!("{:?} can't be built: expected \"amd64\"", architecture.get_ref()),
            ));
        }
    };
    for package in &raw.packages {
        if !word(package.get_ref()) {
            return Err(toml.wrong(
                "packages",
                package,
                format!("{:?} is no package's name", package.get_ref()),
            ));
        }
    }
    Ok(Source::Packages(Packages {
        distribution: distribution.get_ref().clone(),
        suite: suite.get_ref().clone(),
        architecture,
        packages: raw.packages.iter().map(|package| package.get_ref().clone()).collect(),
    }))
}

fn file_spec(toml: &TomlFile<'_>, raw: &RawFile) -> Result<FileSpec, ConfigError> {
    let path = raw.path.get_ref();
    let plain = path.starts_with('/')
        && path.len() > 1
        && path[1..].split('/').all(|part| !part.is_empty() && part != "." && part != "..")
        && path.bytes().all(|byte| byte.is_ascii_graphic() && byte != b'"' && byte != b'\'');
    if !plain {
        return Err(toml.wrong(
            "file.path",
            &raw.path,
            format!("{path:?} is not an absolute path without spaces and quotes"),
        ));
    }
    let mode = match &raw.mode {
        None => 0o644,
        Some(text) => {
            u32::from_str_radix(text.get_ref(), 8).ok().filter(|mode| *mode <= 0o7777).ok_or_else(|| {
                toml.wrong(
                    "file.mode",
                    text,
                    format!("{:?} is no mode: expected octal such as \"0644\"", text.get_ref()),
                )
            })?
        }
    };
    Ok(FileSpec { path: path.clone(), mode, content: content(toml, raw)? })
}

fn content(toml: &TomlFile<'_>, raw: &RawFile) -> Result<FileContent, ConfigError> {
    match (&raw.content, &raw.source, &raw.sha256) {
        (Some(text), None, None) => Ok(FileContent::Text(text.clone())),
        (None, Some(source), Some(sha256)) => {
            let digest = sha256.get_ref();
            let hexadecimal = |byte: u8| byte.is_ascii_digit() || (b'a'..=b'f').contains(&byte);
            if digest.len() != 64 || !digest.bytes().all(hexadecimal) {
                let wrong = format!("{digest:?} is no SHA-256: expected what `sha256sum` prints, 64 digits");
                return Err(toml.wrong("file.sha256", sha256, wrong));
            }
            // Relative to the recipe, as the paths beside an image are to its TOML.
            let directory = toml.path.parent().unwrap_or(Path::new("."));
            Ok(FileContent::File { path: directory.join(source.get_ref()), sha256: digest.clone() })
        }
        (None, Some(source), None) => Err(toml.wrong("file.source", source, "is given without file.sha256")),
        (_, _, Some(sha256)) => {
            Err(toml.wrong("file.sha256", sha256, "is about file.source, which is not given"))
        }
        (Some(_), Some(source), None) => Err(toml.wrong("file.source", source, "stands beside file.content")),
        (None, None, None) => {
            Err(toml.wrong("file", &raw.path, "has nothing in it: expected content, or source and sha256"))
        }
    }
}

/// Whether a text can name an image.
pub(crate) fn is_name(text: &str) -> bool {
    text.len() <= 40
        && text.as_bytes().first().is_some_and(u8::is_ascii_lowercase)
        && text.bytes().all(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-')
}
