//! Which captured frames one is interested in.

use std::net::IpAddr;
use std::time::Duration;

use crate::mac::Mac;
use crate::ring::{CapturedFrame, Direction};
use crate::summary::Summary;
use crate::vlan::VlanId;

/// Chooses captured frames. Everything that is set must hold; an empty filter takes all.
///
/// Times are since the switch started: [`crate::Switch::now`].
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct FrameFilter {
    pub(crate) ports: Vec<String>,
    direction: Option<Direction>,
    vlan: Option<VlanId>,
    tagged: Option<Option<u16>>,
    ethertype: Option<u16>,
    src: Option<Mac>,
    dst: Option<Mac>,
    ip: Option<IpAddr>,
    pub(crate) since: Option<Duration>,
    until: Option<Duration>,
}

impl FrameFilter {
    /// Takes every frame.
    pub fn new() -> FrameFilter {
        FrameFilter::default()
    }

    /// Only frames of this port, by its name. Called more than once: of any of these ports.
    pub fn port(mut self, name: impl Into<String>) -> FrameFilter {
        self.ports.push(name.into());
        self
    }

    /// Only frames that came in, or only frames that went out.
    pub fn direction(mut self, direction: Direction) -> FrameFilter {
        self.direction = Some(direction);
        self
    }

    /// Only frames that the switch took for this VLAN, tagged or not on this port's wire.
    pub fn vlan(mut self, vlan: VlanId) -> FrameFilter {
        self.vlan = Some(vlan);
        self
    }

    /// Only frames whose outermost tag on the wire (802.1Q or 802.1ad) has this VLAN id; 0 is a priority tag.
    pub fn tagged(mut self, vid: u16) -> FrameFilter {
        self.tagged = Some(Some(vid));
        self
    }

    /// Only frames without any tag on the wire.
    pub fn untagged(mut self) -> FrameFilter {
        self.tagged = Some(None);
        self
    }

    /// Only frames with this EtherType after their tags.
    pub fn ethertype(mut self, ethertype: u16) -> FrameFilter {
        self.ethertype = Some(ethertype);
        self
    }

    /// Only frames from this address.
    pub fn src(mut self, mac: Mac) -> FrameFilter {
        self.src = Some(mac);
        self
    }

    /// Only frames to this address.
    pub fn dst(mut self, mac: Mac) -> FrameFilter {
        self.dst = Some(mac);
        self
    }

    /// Only ARP and IP that comes from, goes to or asks for this address.
    pub fn ip(mut self, ip: impl Into<IpAddr>) -> FrameFilter {
        self.ip = Some(ip.into());
        self
    }

    /// Only frames from this time on.
    pub fn since(mut self, time: Duration) -> FrameFilter {
        self.since = Some(time);
        self
    }

    /// Only frames before this time.
    pub fn until(mut self, time: Duration) -> FrameFilter {
        self.until = Some(time);
        self
    }

    /// Whether a frame is one of those.
    pub fn matches(&self, frame: &CapturedFrame) -> bool {
        let cheap = (self.ports.is_empty() || self.ports.iter().any(|name| **name == *frame.port_name))
            && self.direction.is_none_or(|direction| direction == frame.direction)
            && self.vlan.is_none_or(|vlan| frame.vlan == Some(vlan))
            && self.since.is_none_or(|since| frame.at >= since)
            && self.until.is_none_or(|until| frame.at < until);
        cheap
            && (!self.looks_inside() || frame.summary().is_some_and(|summary| self.matches_inside(&summary)))
    }

    fn looks_inside(&self) -> bool {
        self.tagged.is_some()
            || self.ethertype.is_some()
            || self.src.is_some()
            || self.dst.is_some()
            || self.ip.is_some()
    }

    fn matches_inside(&self, summary: &Summary) -> bool {
        self.tagged.is_none_or(|vid| summary.tags.first().map(|tag| tag.tci.vid()) == vid)
            && self.ethertype.is_none_or(|ethertype| ethertype == summary.ethertype)
            && self.src.is_none_or(|mac| mac == summary.src)
            && self.dst.is_none_or(|mac| mac == summary.dst)
            && self.ip.is_none_or(|ip| summary.mentions(ip))
    }
}
