//! Uplinks of a lab's switch, as guards: they go when they are dropped.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;

use serde_json::json;
use switch::{UplinkConfig, UplinkId, UplinkKind, UplinkState};

use crate::Error;
use crate::lab::{Context, Lab};
use crate::supervisor::Event;

/// A way from a lab's switch to a network beyond its machines, as long as this is kept, and no longer than the lab.
#[must_use = "the uplink goes when this is dropped: keep it"]
pub struct Uplink {
    lab: Arc<Context>,
    id: UplinkId,
    name: String,
    kind: UplinkKind,
    is_there: bool,
}

impl Lab {
    /// Joins the lab's switch to a network beyond its machines: other VMs and programs that speak VDE, another switch
    /// over VXLAN, a tap or a NIC of this host. Taps and NICs are those of the calling thread's network namespace.
    ///
    /// # Errors
    /// [`Error::Switch`] with what the system said, and what to do about it.
    pub fn uplink(&self, config: UplinkConfig) -> Result<Uplink, Error> {
        let (lab, name, mode) = (self.context().clone(), config.name.clone(), config.mode.to_string());
        let id = lab.switch.add_uplink(config)?;
        let kind = lab.switch.uplink(id)?.kind;
        let uplink = Uplink { lab, id, name, kind, is_there: true };
        uplink.tell(format!("uplink {}: {}, {mode}", uplink.name, uplink.kind), true);
        Ok(uplink)
    }
}

impl Uplink {
    /// Its name.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Its state as it is now: its port, or the clients of a VDE switch.
    ///
    /// # Errors
    /// [`Error::Switch`] when the lab is over.
    pub fn state(&self) -> Result<UplinkState, Error> {
        Ok(self.lab.switch.uplink(self.id)?)
    }

    /// The directory of a VDE switch, which `vde_plug` takes, and QEMU as `-netdev vde,sock=`.
    #[must_use]
    pub fn vde_dir(&self) -> Option<PathBuf> {
        match &self.kind {
            UplinkKind::Vde(config) => config.dir.clone(),
            _ => None,
        }
    }

    /// This end of a VXLAN tunnel, with the port that the system chose if it was asked for any.
    #[must_use]
    pub fn local_address(&self) -> Option<SocketAddr> {
        match &self.kind {
            UplinkKind::Vxlan { local, .. } => Some(*local),
            _ => None,
        }
    }

    /// The name of a tap or NIC.
    #[must_use]
    pub fn interface(&self) -> Option<&str> {
        match &self.kind {
            UplinkKind::Tap { interface } | UplinkKind::Nic { interface } => Some(interface),
            UplinkKind::Vde(_) | UplinkKind::Vxlan { .. } => None,
        }
    }

    /// Removes it, which dropping it does too.
    ///
    /// # Errors
    /// [`Error::Switch`] when the lab is over.
    pub fn remove(mut self) -> Result<(), Error> {
        self.end()
    }

    fn end(&mut self) -> Result<(), Error> {
        if std::mem::take(&mut self.is_there) {
            self.lab.switch.remove_uplink(self.id)?;
            self.tell(format!("uplink {} removed", self.name), false);
        }
        Ok(())
    }

    fn tell(&self, text: String, begins: bool) {
        let data = json!({ "uplink": self.name, "id": self.id, "kind": self.kind, "active": begins });
        self.lab.supervisor.event(Event { kind: "uplink", machine: None, text, data });
    }
}

impl Drop for Uplink {
    fn drop(&mut self) {
        if let Err(error) = self.end() {
            tracing::debug!(%error, uplink = self.name, "the uplink went with its switch");
        }
    }
}
