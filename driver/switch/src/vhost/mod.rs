//! The back end's half of vhost-user, for one network card with one pair of rings.
//!
//! QEMU shares the guest's memory with this process, and frames go between the guest's rings and the switch without
//! QEMU (<https://www.qemu.org/docs/master/interop/vhost-user.html>). [`message`] knows the protocol's bytes,
//! [`session`] keeps what one connection has agreed on, [`ring`] reads and writes a virtqueue, [`buffers`] finds what is in
//! it. Rings' state and memory are the crates' `virtio-queue` and `vm-memory`. The protocol's server of the crate `vhost` is not used: it takes its socket
//! blocking, and refuses SET_VRING_ENABLE before SET_FEATURES, which is the order that QEMU has for network cards.
//!
//! Neither a guest nor a peer is trusted: what they write can end their own port, and nothing else.

mod buffers;
mod memory;
mod message;
mod ring;
mod session;

pub(crate) use ring::Received;
pub(crate) use session::{End, Session};
