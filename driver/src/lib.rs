//! Machines, labs, consoles, guests: what drives QEMU. Knows nothing of Kubernetes.

pub mod console;
pub mod guest;
