//! What a scenario may need of its machines, and not every machine can do.

use std::fmt;

use crate::Settings;

/// Something that not every machine can do. [`Suite::requires`](crate::Suite::requires) says which of them a test needs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Ability {
    /// Saving its memory, and going on from there.
    Checkpoint,
    /// A picture of its screen.
    Screenshot,
    /// Network cards and disks that are put in and pulled out.
    HotPlug,
    /// Cables that are pulled and plugged in, so that the guest sees no carrier.
    Carrier,
    /// A place on the test's networks: its frames cross the test's switch.
    Network,
    /// A process of this host that it runs in, for a test that looks at it or kills it.
    Process,
    /// A way of booting, a disk or a channel of the test's choice.
    Image,
    /// The test's own program in the guest, with all that it can do.
    Agent,
}

impl fmt::Display for Ability {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Checkpoint => "checkpoints",
            Self::Screenshot => "screenshots",
            Self::HotPlug => "hot-plug",
            Self::Carrier => "carrier faults",
            Self::Network => "a place on the test's networks",
            Self::Process => "a process of this host",
            Self::Image => "an image of the test's choice",
            Self::Agent => "an agent in the guest",
        })
    }
}

/// Who knows what the machines of a run lack: answers why an ability can't be had, or nothing.
pub type Lacking = fn(&Settings, Ability) -> Option<String>;
