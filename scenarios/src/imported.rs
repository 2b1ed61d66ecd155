//! Labs that others describe: a test of NixOS, in the configuration that it writes for its driver.

use std::path::Path;
use std::sync::Arc;

use driver::spec::LabSpec;
use harness::Testbed;
use nixos_test::NixosTest;

use crate::assets::Assets;
use crate::launched::Launched;
use crate::plan::Plan;

/// A lab that others describe, about to be launched.
#[must_use = "does nothing until it is launched"]
pub struct Imported {
    spec: LabSpec,
}

impl Imported {
    /// The VMs of a nixosTest and their VLANs, from the JSON that it writes for its driver: each is started by its own
    /// script, and commands go over the backdoor that each of them has. `docs/nixos.md` has the rest.
    ///
    /// # Errors
    /// [`nixos_test::Error`], with all that is wrong in the configuration and the scripts.
    pub fn nixos_test(config: &Path) -> Result<Self, nixos_test::Error> {
        Ok(Self { spec: NixosTest::load(config)?.lab("nixos-test") })
    }

    /// Changes the lab before it is made: a variable of a script's environment, a guest's way in.
    pub fn edit(mut self, edit: impl FnOnce(&mut LabSpec)) -> Self {
        edit(&mut self.spec);
        self
    }

    /// Makes the lab, hands it to the harness, and powers every machine on.
    ///
    /// # Errors
    /// When the host has not the memory, or a machine does not start.
    pub async fn launch(self, t: &Testbed) -> anyhow::Result<Launched> {
        let assets = Assets::get(t).await?;
        let plan = Arc::new(Plan::of(t, &assets, self.spec, 0, None).await?);
        let lab = plan.lab(t).await?;
        lab.start().await?;
        Ok(lab)
    }
}
