//! Recipes and builders of disk images, their cache, and what can be read from a disk without mounting it.
