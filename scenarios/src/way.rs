//! What the machines of a scenario are: its text is the same for all of them.

use crate::Rack;

/// How machines are started, and how commands get into them.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Way {
    /// Started by the driver, with our agent.
    #[default]
    Agent,
    /// Started by the driver, with nothing but the root shell on `/dev/hvc0` that images made for nixosTest have.
    Backdoor,
    /// The same shell, on machines that an unmodified start script starts, as NixOS makes one for each VM, with their NICs on
    /// `-netdev vde`.
    StartScript,
}

impl Way {
    /// Those that do without our agent, with their words in names of tests.
    #[must_use]
    pub fn without_agent() -> [(&'static str, Self); 2] {
        [("backdoor", Self::Backdoor), ("start_script", Self::StartScript)]
    }

    /// Whether NICs can be plugged in and out: a start script decides on them.
    #[must_use]
    pub fn plugs_nics(self) -> bool {
        self != Self::StartScript
    }
}

impl Rack {
    /// Has the machines started, and commands get in, this way.
    pub fn way(self, way: Way) -> Self {
        match way {
            Way::Agent => self,
            Way::Backdoor => self.own_backdoor(),
            Way::StartScript => self.own_backdoor().behind_scripts("exec"),
        }
    }
}
