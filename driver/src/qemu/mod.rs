//! QEMU: where it is, what it can do, and its command line.

mod accel;
mod command_line;
mod firmware;
mod nics;
mod opts;
mod script;
mod version;

pub use accel::{Accel, Choice, choose as choose_accel};
pub(crate) use command_line::{AGENT_PORT_ID, quote};
pub use command_line::{CommandLine, Memory, Plugs, Wiring, command_line, recipe};
pub use firmware::Firmware;
pub(crate) use nics::{SPARE_PORTS, netdev_id, nic_device, nic_id};
pub use opts::Opts;
pub(crate) use script::{ScriptWiring, netdev as script_netdev, problem as script_problem};
pub(crate) use script::{arguments as script_arguments, environment as script_environment};
pub use version::{MINIMUM, Qemu, Version};
