//! Calls about LLDP.

use super::Switch;
use crate::error::Error;
use crate::lldp::LldpConfig;

impl Switch {
    /// Speaks LLDP (IEEE 802.1AB) on every port that has a link, members of bundles included, from now on: at once, when a
    /// link comes up, when a port's VLANs change, and every so often; each LLDPDU out of its own port and no other. What
    /// peers say is taken, and is in [`crate::PortState::neighbours`]. With `None`, as the switch starts, what was said
    /// is taken back, and LLDPDUs are dropped as all that is reserved for the link
    /// ([`crate::DropReason::ReservedMulticast`]).
    ///
    /// # Errors
    /// Only those of every call: see [`Switch::ports`].
    pub fn set_lldp(&self, config: Option<LldpConfig>) -> Result<(), Error> {
        self.call("set LLDP", move |worker| worker.set_lldp(config))
    }
}
