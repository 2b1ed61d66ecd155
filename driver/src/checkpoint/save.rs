//! Saving a running lab.

use std::path::{Path, PathBuf};

use cache::{At as _, sparse};
use serde_json::json;

use super::manifest::{SavedFile, SavedNic};
use super::{Checkpoint, CheckpointError, SavedMachine};
use crate::machine::{Machine, Parts};
use crate::supervisor::Event;
use crate::{Error, Lab};

impl Lab {
    /// Saves the lab as it is now into `directory`, which must be empty, and lets it go on. `about` is for lists. All machines stand still
    /// meanwhile, and continue together: they see a jump of the clock and nothing else. Those that a test had paused stay
    /// so, here and in the copies.
    ///
    /// Commands that are under way end in the copy, since its agents are greeted anew; here they go on. What is plugged
    /// in, faults and captures are the lab's and not the guests': a restored lab has none of this one's faults.
    ///
    /// # Errors
    /// [`Error::Checkpoint`] when QEMU is too old, or when a machine is off, was not ready, or has a device that QEMU can't save; the lab goes
    /// on, and what was written stays in the directory. [`Error::Qmp`] and files that can't be written likewise.
    pub async fn checkpoint(&self, directory: &Path, about: &str) -> Result<Checkpoint, Error> {
        self.machines().iter().try_for_each(Machine::check_fit)?;
        fs_err::create_dir_all(directory).map_err(Error::file("making", directory))?;
        // QEMU's shell has a working directory of its own.
        let directory = &fs_err::canonicalize(directory).map_err(Error::file("finding", directory))?;
        let saved = async {
            futures::future::try_join_all(self.machines().iter().map(Machine::stand_still)).await?;
            let fdb = self.learnt()?;
            // Each to its end, also when another one fails: a QEMU that is in the middle of saving can't be saved again.
            let machines = self.machines().iter().map(|machine| save(machine, directory));
            let machines = futures::future::join_all(machines).await;
            Ok((machines.into_iter().collect::<Result<Vec<_>, Error>>()?, fdb))
        };
        let saved: Result<_, Error> = saved.await;
        // Whatever came of it, nobody stays where the test did not put it.
        let gone_on = futures::future::join_all(self.machines().iter().map(Machine::go_on)).await;
        let (machines, fdb) = saved?;
        gone_on.into_iter().collect::<Result<(), _>>()?;
        let (name, about, to) = (self.name().to_owned(), about.to_owned(), directory.clone());
        let digests = machines.into_iter().map(|files| {
            let to = to.clone();
            blocking(move || files.digest(&to))
        });
        let machines = futures::future::try_join_all(digests).await?;
        let checkpoint = blocking(move || Checkpoint::write(&to, (&name, &about), machines, fdb));
        let checkpoint = checkpoint.await?;
        self.event("saved", directory);
        Ok(checkpoint)
    }

    pub(super) fn event(&self, what: &str, directory: &Path) {
        let data = json!({ "directory": directory });
        let event =
            Event { kind: "checkpoint", machine: None, text: format!("{} {what}", self.name()), data };
        self.context().supervisor.event(event);
    }
}

/// The names of a machine's files.
struct Files {
    machine: String,
    named_memory: bool,
    ram: bool,
    vars: bool,
    data: usize,
    nics: Vec<SavedNic>,
    paused: bool,
}

impl Files {
    fn name(&self, suffix: &str) -> String {
        format!("{}.{suffix}", self.machine)
    }

    fn digest(self, directory: &Path) -> Result<SavedMachine, CheckpointError> {
        let file = |suffix: &str| SavedFile::of(directory, self.name(suffix));
        Ok(SavedMachine {
            state: file("state")?,
            ram: self.ram.then(|| file("ram")).transpose()?,
            disk: file("qcow2")?,
            data: (0..self.data).map(|index| file(&data_suffix(index))).collect::<Result<_, _>>()?,
            vars: self.vars.then(|| file("vars.fd")).transpose()?,
            named_memory: self.named_memory,
            nics: self.nics,
            paused: self.paused,
            name: self.machine,
        })
    }
}

/// Saves one paused machine.
async fn save(machine: &Machine, directory: &Path) -> Result<Files, Error> {
    let file = |suffix: &str| directory.join(format!("{}.{suffix}", machine.name()));
    let Parts { ram, disk, data, vars, named_memory, nics, paused } = machine.save(&file("state")).await?;
    let files = Files {
        machine: machine.name().to_owned(),
        named_memory,
        ram: ram.is_some(),
        vars: vars.is_some(),
        data: data.len(),
        nics,
        paused,
    };
    let data = data.into_iter().enumerate().map(|(index, from)| (from, file(&data_suffix(index))));
    let copies: Vec<(PathBuf, PathBuf)> = [(ram, "ram"), (Some(disk), "qcow2"), (vars, "vars.fd")]
        .into_iter()
        .filter_map(|(from, suffix)| Some((from?, file(suffix))))
        .chain(data)
        .collect();
    blocking(move || {
        for (from, to) in copies {
            sparse::copy(&from, &to)?;
            // Memory can have secrets.
            let own = std::os::unix::fs::PermissionsExt::from_mode(0o600);
            std::fs::set_permissions(&to, own).at("protect", &to)?;
        }
        Ok(())
    })
    .await?;
    Ok(files)
}

fn data_suffix(index: usize) -> String {
    format!("data-{index}.qcow2")
}

/// Runs what reads and writes large files off the runtime's threads.
async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, CheckpointError> + Send + 'static,
) -> Result<T, Error> {
    match tokio::task::spawn_blocking(work).await {
        Ok(done) => Ok(done?),
        Err(panic) => std::panic::resume_unwind(panic.into_panic()),
    }
}
