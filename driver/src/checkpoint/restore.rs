//! Restoring a lab.

use super::{Checkpoint, CheckpointError};
use crate::machine::Machine;
use crate::spec::LabSpec;
use crate::{Error, Lab, LabOptions};

impl Lab {
    /// Makes a lab of `spec` as it was in a checkpoint, without letting it go on: [`Lab::resume`] does. `spec` and
    /// `options` must be those of the lab that was saved, which whoever keeps checkpoints sees to by a key.
    ///
    /// # Errors
    /// [`Error::Checkpoint`] when the checkpoint is of other machines; else as [`Lab::create`].
    pub async fn restored(spec: LabSpec, options: LabOptions, from: &Checkpoint) -> Result<Self, Error> {
        let saved: Vec<String> =
            from.manifest().machines.iter().map(|machine| machine.name.clone()).collect();
        let wanted: Vec<String> = spec.machines.iter().map(|machine| machine.name.clone()).collect();
        if saved != wanted {
            let directory = from.directory().to_owned();
            return Err(CheckpointError::OtherMachines { directory, saved, wanted }.into());
        }
        Self::make(spec, options, Some(from)).await
    }

    /// Loads every machine's state and lets all of them go on at once. When it returns, the guests run, their clocks are
    /// right, and their agents have answered; but for those that were paused, where [`Machine::resume`] does so.
    ///
    /// # Errors
    /// [`Error::Checkpoint`] when QEMU can't load a state, [`Error::Start`], [`Error::Qmp`], or [`Error::Guest`] when an
    /// agent does not answer.
    pub async fn resume(&self, from: &Checkpoint) -> Result<(), Error> {
        let loads = self.machines().iter().filter_map(|machine| {
            let incoming = from.incoming(machine.name())?;
            Some(machine.load(incoming))
        });
        futures::future::try_join_all(loads).await?;
        self.learn(&from.manifest().fdb)?;
        futures::future::try_join_all(self.machines().iter().map(Machine::go_on)).await?;
        let going = self.machines().iter().filter(|machine| !machine.is_paused());
        futures::future::try_join_all(going.map(Machine::greet_again)).await?;
        self.event("restored", from.directory());
        Ok(())
    }
}
