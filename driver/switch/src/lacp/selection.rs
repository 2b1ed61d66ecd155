//! The Selection logic (IEEE 802.1AX, 6.4.14) for an aggregator whose ports are given: which of them form the bundle.

use std::collections::BTreeMap;

use super::pdu::{LacpBit, PortInfo};
use super::port::{Port, ReceiveState, Selected};
use crate::mac::Mac;

/// The most links that one bundle uses.
const MOST_LINKS: usize = 8;

/// Who is at the other end, as far as ports must have it in common: system priority, system, key.
type Lag = (u16, Mac, u16);

fn lag(partner: &PortInfo) -> Lag {
    (partner.system_priority, partner.system, partner.key)
}

/// Says of each port whether it is chosen. A port that was chosen stays so before others, so that nothing is rearranged
/// without need.
pub(super) fn select(ports: &mut BTreeMap<u16, Port>, fallback: bool) {
    let mut fits = Vec::new();
    let mut alone = Vec::new();
    for (number, port) in ports.iter_mut() {
        let was = port.selected;
        let chosen = was == Selected::Selected;
        let same_system = lag(&port.partner) == lag(&port.actor);
        port.selected = match port.receive {
            ReceiveState::PortDisabled => Selected::Down,
            ReceiveState::LacpDisabled => Selected::Selected,
            _ if port.actor.state.has(LacpBit::Defaulted) => Selected::Silent,
            _ if !port.partner.state.has(LacpBit::Aggregation) => Selected::Individual,
            _ if same_system => Selected::Loopback,
            _ => Selected::OtherPartner,
        };
        match port.selected {
            Selected::OtherPartner => fits.push((lag(&port.partner), !chosen, *number)),
            Selected::Individual => alone.push((!chosen, *number)),
            Selected::Silent if fallback && port.receive == ReceiveState::Defaulted => {
                alone.push((!chosen, *number));
            }
            _ => {}
        }
    }
    // The partner of the ports that are in the bundle, else the one with the most links, else that of the first port.
    let links = |lag: Lag| fits.iter().filter(|(other, ..)| *other == lag).count();
    let partner = fits
        .iter()
        .min_by_key(|(lag, new, number)| (*new, usize::MAX - links(*lag), *number))
        .map(|(lag, ..)| *lag);
    fits.sort_by_key(|(_, new, number)| (*new, *number));
    let ours = fits.iter().filter(|(lag, ..)| Some(*lag) == partner);
    for (place, (_, _, number)) in ours.enumerate() {
        if let Some(port) = ports.get_mut(number) {
            port.selected = if place < MOST_LINKS { Selected::Selected } else { Selected::Standby };
        }
    }
    // An individual link is a bundle of one, when there is no other.
    let single = alone.iter().min().filter(|_| fallback && partner.is_none());
    if let Some(port) = single.and_then(|(_, number)| ports.get_mut(number)) {
        port.selected = Selected::Selected;
    }
}
