//! Tests of the crate's parts together, on small disks and without building an image.

mod broken_disks;
mod cache;
mod killed;
mod owners;
mod reading;
mod recipes;
