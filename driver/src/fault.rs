//! Faults of the network, as guards: they heal when told to, or when the lab is torn down.

use std::sync::Arc;

use serde_json::json;

use crate::Error;
use crate::lab::Context;
use crate::machine::Machine;
use crate::supervisor::Event;

/// A fault that lasts until it is healed.
///
/// Dropping it leaves the fault in place until the lab ends: a fault that heals by accident, because a
/// variable went out of scope, makes a test pass that should not.
#[must_use = "a fault lasts until `heal` is called: keep it"]
pub struct Fault {
    what: What,
}

enum What {
    Carrier { machine: Machine, nics: Vec<String> },
    Partition { lab: Arc<Context>, id: switch::PartitionId, text: String },
}

impl Fault {
    /// Pulls the cables of some NICs of one machine.
    pub(crate) async fn carrier(machine: &Machine, nics: Vec<String>) -> Result<Self, Error> {
        for nic in &nics {
            machine.set_carrier(nic, false).await?;
        }
        Ok(Self { what: What::Carrier { machine: machine.clone(), nics } })
    }

    /// Keeps two sets of ports from each other.
    pub(crate) fn partition(
        lab: &Arc<Context>,
        left: Vec<switch::PortId>,
        right: Vec<switch::PortId>,
        text: String,
    ) -> Result<Self, Error> {
        let id = lab.switch.partition(switch::PartitionSpec::between(left, right))?;
        tell(lab, format!("partition: {text}"));
        Ok(Self { what: What::Partition { lab: lab.clone(), id, text } })
    }

    /// Ends the fault.
    ///
    /// # Errors
    /// [`Error::Qmp`] or [`Error::Switch`] when QEMU or the switch can't be told.
    pub async fn heal(self) -> Result<(), Error> {
        match self.what {
            What::Carrier { machine, nics } => {
                for nic in &nics {
                    machine.set_carrier(nic, true).await?;
                }
            }
            What::Partition { lab, id, text } => {
                lab.switch.heal(id)?;
                tell(&lab, format!("healed: {text}"));
            }
        }
        Ok(())
    }
}

fn tell(lab: &Context, text: String) {
    lab.supervisor.event(Event { kind: "fault", machine: None, text, data: json!({}) });
}

impl Machine {
    /// Pulls the cable of one NIC: the guest sees no carrier, and nothing passes.
    ///
    /// # Errors
    /// As [`Machine::set_carrier`].
    pub async fn cut(&self, nic: &str) -> Result<Fault, Error> {
        Fault::carrier(self, vec![nic.to_owned()]).await
    }

    /// Pulls the cables of all NICs.
    ///
    /// # Errors
    /// As [`Machine::set_carrier`].
    pub async fn cut_all(&self) -> Result<Fault, Error> {
        Fault::carrier(self, self.nics()).await
    }
}
