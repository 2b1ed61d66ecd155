//! Calls about bundles.

use super::Switch;
use crate::bundle::{BundleConfig, BundleState};
use crate::error::Error;
use crate::forwarder::PortId;
use crate::io::Worker;

impl Switch {
    /// Makes ports one logical port, the switch's end of a guest's bond; its id is good wherever a port's is, for
    /// partitions, [`Switch::set_mode`] and [`Switch::set_admin`]. A member carries no frames until LACP has made it
    /// part of the bundle, which takes 2 s and more from the partner's first LACPDU; with [`crate::LacpMode::Static`],
    /// as soon as it has a link.
    ///
    /// # Errors
    /// [`Error::DuplicatePort`], [`Error::EmptyBundle`], [`Error::UnknownPort`], [`Error::InBundle`].
    pub fn add_bundle(&self, config: BundleConfig) -> Result<PortId, Error> {
        self.call("add a bundle", move |worker| worker.add_bundle(config))?
    }

    /// Makes one more port a member of a bundle, such as that of a NIC which was plugged in again. A member leaves by
    /// [`Switch::remove_port`].
    ///
    /// # Errors
    /// [`Error::UnknownPort`], [`Error::UnknownBundle`], [`Error::InBundle`].
    pub fn add_member(&self, bundle: PortId, port: PortId) -> Result<(), Error> {
        self.call("add a member to a bundle", move |worker| worker.add_member(bundle, port))?
    }

    /// Ends a bundle: its members are ports of their own again, with the modes that they had.
    ///
    /// # Errors
    /// [`Error::UnknownBundle`].
    pub fn remove_bundle(&self, bundle: PortId) -> Result<(), Error> {
        self.call("remove a bundle", move |worker| worker.remove_bundle(bundle))?
    }

    /// The bundles, and what LACP says of each member and of its partner.
    ///
    /// # Errors
    /// Only those of every call: see [`Switch::ports`].
    pub fn bundles(&self) -> Result<Vec<BundleState>, Error> {
        self.call("list the bundles", Worker::bundles)
    }
}
