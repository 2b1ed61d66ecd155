//! What is rendered from a profile: the guests' files and flags, and the switch's side of the same cables.

mod dhcp;
mod hosts;
mod k3s;
mod networkd;
mod switch;
mod udev;

pub use dhcp::{DhcpScope, Reservation, dhcp_scopes};
pub use hosts::hosts;
pub use k3s::k3s_flags;
pub use networkd::networkd;
pub use switch::{Bundle, PortMode, SwitchPlan, SwitchPort, switch_ports};
pub use udev::udev;
