//! Bundles of links as a caller sees them: how one is to be, and how it is.

use serde::{Deserialize, Serialize};

use crate::balance::HashPolicy;
use crate::forwarder::PortId;
use crate::lacp::{LacpMode, LacpTimeout, PortStatus};
use crate::mac::Mac;
use crate::vlan::PortMode;

/// How a bundle (link aggregation group, port channel) is to be.
///
/// Two switches of a rack that act as one (MLAG) are one bundle of one [`crate::Switch`] here: the guest sees one
/// system and one key on both of its cables, which is all that it can see. Two `Switch`es that are to look like one
/// to a guest are given the same [`LacpIdentity`]; they share no addresses, so a link between them must carry what one
/// has for the other.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct BundleConfig {
    /// Its name, unique among ports and bundles: by custom the machine's and its bond's, `server-1/bond0`.
    pub name: String,
    /// Its VLANs. Those of its members have no effect while they are in it.
    pub mode: PortMode,
    /// The ports whose links it is made of. LACP uses eight of them at most.
    pub members: Vec<PortId>,
    /// Whether and how it speaks LACP. [`LacpMode::Active`] unless said otherwise.
    pub lacp: LacpMode,
    /// What it asks of its partner. [`LacpTimeout::Short`] unless said otherwise: a guest that hangs is noticed after
    /// 3 s rather than 90 s.
    pub timeout: LacpTimeout,
    /// What it tells conversations apart by. [`HashPolicy::Layer34`] unless said otherwise.
    pub hash: HashPolicy,
    /// Whether one link carries frames while no partner speaks LACP on any, so that a machine can boot from the network
    /// before it has a bond. Not unless said otherwise.
    pub fallback: bool,
    /// Who it says that it is; unless said otherwise, an address made from the switch's name and a key made from the
    /// bundle's id.
    pub identity: Option<LacpIdentity>,
}

impl BundleConfig {
    /// A bundle that speaks LACP, active, short timeout.
    pub fn new(
        name: impl Into<String>,
        mode: PortMode,
        members: impl IntoIterator<Item = PortId>,
    ) -> BundleConfig {
        BundleConfig {
            name: name.into(),
            mode,
            members: members.into_iter().collect(),
            lacp: LacpMode::Active,
            timeout: LacpTimeout::Short,
            hash: HashPolicy::Layer34,
            fallback: false,
            identity: None,
        }
    }

    /// The same bundle with another mode of LACP.
    pub fn lacp(self, lacp: LacpMode) -> BundleConfig {
        BundleConfig { lacp, ..self }
    }
}

/// Who a bundle says that it is in its LACPDUs.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct LacpIdentity {
    /// The system's address, also the source of the LACPDUs.
    pub system: Mac,
    /// The key of its ports.
    pub key: u16,
    /// The number of its first port; the others count on from there. Two switches with one identity use ranges apart.
    pub first_port: u16,
}

/// One member of a bundle.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct MemberState {
    /// The port.
    pub id: PortId,
    /// Its name.
    pub name: String,
    /// What LACP has to say of it. In a static bundle, `active` and the rest of it is idle.
    #[serde(flatten)]
    pub lacp: PortStatus,
}

/// One bundle.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct BundleState {
    /// Its id: that of a port, in learnt addresses, partitions, and calls that change a port.
    pub id: PortId,
    /// Its name.
    pub name: String,
    /// Its VLANs.
    pub mode: PortMode,
    /// Whether it is administratively up.
    pub admin: bool,
    /// Whether and how it speaks LACP.
    pub lacp: LacpMode,
    /// What it asks of its partner.
    pub timeout: LacpTimeout,
    /// What it tells conversations apart by.
    pub hash: HashPolicy,
    /// Its members, in the order in which they were given.
    pub members: Vec<MemberState>,
}

impl BundleState {
    /// The members that carry frames.
    pub fn active(&self) -> impl Iterator<Item = &MemberState> {
        self.members.iter().filter(|member| member.lacp.active)
    }
}
