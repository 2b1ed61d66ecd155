//! A lab's making: what it is made from, its share of the host, and the hosts on its switch.

use std::path::Path;
use std::sync::Arc;

use anyhow::Context as _;
use driver::checkpoint::Checkpoint;
use driver::qemu::{Accel, Memory, Qemu};
use driver::spec::LabSpec;
use driver::{Captures, Lab, LabOptions};
use harness::{Capture, Testbed};
use profiles::Profile;
use switch::{LldpConfig, VlanId};

use crate::assets::Assets;
use crate::dhcp::LabServices;
use crate::launched::Launched;
use crate::subject::{LabSubject, TestSupervisor};

/// All that a lab is made from.
pub(crate) struct Plan {
    pub(crate) spec: LabSpec,
    pub(crate) qemu: Qemu,
    pub(crate) accel: Accel,
    /// `None` for machines that others describe.
    pub(crate) profile: Option<Profile>,
    pub(crate) checkpoints: bool,
    pub(crate) captures: Captures,
    /// How many copies of the lab the host has room for besides itself.
    pub(crate) copies: u32,
}

impl Plan {
    /// Takes the share of the host of a lab and so many copies, and chooses how its guests are run: `kernel` is one of
    /// theirs, to try the accelerator with.
    ///
    /// # Errors
    /// When the host has no room for it, or `RACKLESS_ACCEL` asks for what can't be had.
    pub(crate) async fn of(
        t: &Testbed,
        assets: &Assets,
        spec: LabSpec,
        copies: u32,
        kernel: Option<&Path>,
    ) -> anyhow::Result<Self> {
        let labs = 1 + copies;
        // A crowded host may let the test wait here: the deadline stands still.
        t.budget(u64::from(labs) * u64::from(spec.memory_mib()), labs * spec.vcpus()).await?;
        let accel = assets.accel(t, kernel).await?;
        t.deadline().scale(f64::from(accel.time_factor()));
        Ok(Self {
            qemu: assets.qemu.clone(),
            accel,
            profile: None,
            checkpoints: false,
            captures: captures(t.settings().capture, Captures::default()),
            copies,
            spec,
        })
    }

    /// Where the guests' memory lies.
    pub(crate) fn memory(&self) -> Memory {
        if self.checkpoints { Memory::Memfd } else { Memory::Own }
    }

    /// Makes the lab and the hosts on its switch, hands them to the harness, and starts nothing.
    pub(crate) async fn lab(self: &Arc<Self>, t: &Testbed) -> anyhow::Result<Launched> {
        let lab = Lab::create(self.spec.clone(), self.options(t, None)?).await?;
        self.attach(t, lab)
    }

    /// The lab as a checkpoint has it, going on. As a copy it has the artefacts of its own, in a folder of that name.
    ///
    /// # Errors
    /// Those of restoring; nothing is left of the lab then.
    pub(crate) async fn restored(
        self: &Arc<Self>,
        t: &Testbed,
        from: &Checkpoint,
        copy: Option<&str>,
    ) -> anyhow::Result<Launched> {
        let lab = Lab::restored(self.spec.clone(), self.options(t, copy)?, from).await?;
        let launched = self.attach(t, lab)?;
        if let Err(error) = launched.resume(from).await {
            launched.end(t).await?;
            return Err(error.into());
        }
        Ok(launched)
    }

    /// Starts the hosts on the lab's switch, and hands all of it to the harness.
    fn attach(self: &Arc<Self>, t: &Testbed, lab: Lab) -> anyhow::Result<Launched> {
        let LabServices { hosts, dhcp } = match &self.profile {
            Some(profile) => {
                name_vlans(profile, &lab)?;
                LabServices::start(profile, lab.switch())?
            }
            None => LabServices::default(),
        };
        let subject = t.attach(Arc::new(LabSubject::watched(lab.clone(), hosts)));
        Ok(Launched::new(lab, dhcp, self.clone(), subject))
    }

    pub(crate) fn options(&self, t: &Testbed, copy: Option<&str>) -> anyhow::Result<LabOptions> {
        let machines = self.spec.machines.iter().map(|machine| machine.name.clone());
        Ok(LabOptions {
            qemu: self.qemu.clone(),
            accel: self.accel,
            run: process::RunDir::create(&crate::assets::run_name())?,
            artifacts: copy.map_or_else(|| t.artifacts().to_owned(), |copy| t.artifacts().join(copy)),
            supervisor: Arc::new(TestSupervisor::new(t, machines, copy)?),
            seed: t.seed(),
            checkpoints: self.checkpoints,
            captures: self.captures,
        })
    }
}

/// The switch tells by LLDP what the VLANs of its ports are called: as the profile's networks.
fn name_vlans(profile: &Profile, lab: &Lab) -> anyhow::Result<()> {
    let name = |network: &profiles::Network| {
        let vlan = profile.switch_vlan(&network.name)?;
        Ok((VlanId::new(vlan).with_context(|| format!("{vlan} is no VLAN id"))?, network.name.clone()))
    };
    let vlan_names = profile.networks().iter().map(name).collect::<anyhow::Result<_>>()?;
    Ok(lab.switch().set_lldp(Some(LldpConfig { vlan_names, ..LldpConfig::new() }))?)
}

/// What the command line asks for goes before what the test asks for.
pub(crate) fn captures(asked: Option<Capture>, of_test: Captures) -> Captures {
    match asked {
        Some(Capture::Off) => Captures::Off,
        Some(Capture::Ring) => Captures::Ring,
        Some(Capture::Whole) => Captures::Whole,
        None => of_test,
    }
}
