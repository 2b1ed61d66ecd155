//! Recipes and builders of disk images, their cache, and what can be read from a disk without mounting it.
//!
//! [`Store::image`] is the way in: it gives an [`Image`] by name, from an override, the cache, or a new build. A build
//! is unprivileged: packages by mmdebstrap in a user namespace, ext4 by mke2fs, and the EFI system partition, the
//! initrd and the partition table by this crate. [`info::inspect`] reads any disk, [`injection`] gets the agent and a
//! machine's own configuration into a guest without changing its image.
//!
//! Everything here blocks. Nothing here knows of QEMU.

mod agent_disk;
mod build;
mod copies;
mod disk;
mod error;
mod ext4_edit;
#[cfg(test)]
mod fixture;
mod foreign;
mod image;
mod import;
pub mod info;
pub mod injection;
mod manifest;
mod progress;
mod recipe;
mod sidecar;
mod store;
#[cfg(test)]
mod tests;
mod toml_file;
mod tools;
mod window;

pub use disk::table::{Partition, Table, TableKind};
pub use error::{ConfigError, Error};
pub use image::{DiskBus, Image, Login, Origin, WayIn};
pub use manifest::{FileEntry, Manifest};
pub use progress::{Phase, Progress};
pub use recipe::{DiskOptions, FileContent, FileSpec, Packages, Recipe, Services, Source};
pub use sidecar::Sidecar;
pub use store::{Listed, Store};
