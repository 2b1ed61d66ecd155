//! What the switch had learnt, so that a restored lab's first frames go the way that they went before.

use std::collections::BTreeMap;
use std::time::Duration;

use serde::{Deserialize, Serialize};
use switch::{FdbEntry, Mac, PortId, Switch, VlanId};

use crate::{Error, Lab};

/// A learnt address, by the name of its port or bundle: ids are a switch's own.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Learnt {
    vlan: VlanId,
    mac: Mac,
    port: String,
}

impl Lab {
    /// What its switch has learnt.
    pub(super) fn learnt(&self) -> Result<Vec<Learnt>, Error> {
        let names: BTreeMap<PortId, String> = places(self.switch())?.map(|(name, id)| (id, name)).collect();
        let known =
            |FdbEntry { vlan, mac, port, .. }| Some(Learnt { vlan, mac, port: names.get(&port)?.clone() });
        Ok(self.switch().fdb()?.into_iter().filter_map(known).collect())
    }

    /// Makes its switch know the same. A port that this lab has not is passed over.
    pub(super) fn learn(&self, learnt: &[Learnt]) -> Result<(), Error> {
        let ids: BTreeMap<String, PortId> = places(self.switch())?.collect();
        let entry = |learnt: &Learnt| {
            let port = *ids.get(&learnt.port)?;
            Some(FdbEntry { vlan: learnt.vlan, mac: learnt.mac, port, age: Duration::ZERO })
        };
        Ok(self.switch().learn(learnt.iter().filter_map(entry).collect())?)
    }
}

/// The ports and bundles of a switch.
fn places(switch: &Switch) -> Result<impl Iterator<Item = (String, PortId)>, Error> {
    let ports = switch.ports()?.into_iter().map(|port| (port.name, port.id));
    let bundles = switch.bundles()?.into_iter().map(|bundle| (bundle.name, bundle.id));
    Ok(ports.chain(bundles))
}
