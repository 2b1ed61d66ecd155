//! What the capture must show of VLANs that are apart.

use anyhow::{Context as _, ensure};
use switch::{CapturedFrame, Direction, FrameFilter, VlanId};

use crate::cluster::Cluster;

/// The EtherTypes of LACP (IEEE 802.3 Annex 57A) and LLDP (802.1AB): the switch speaks them itself, untagged, on any port.
const ITS_OWN: [u16; 2] = [0x8809, 0x88cc];

/// Asserts on the capture that two networks, each a VLAN of the trunks, were both used and kept apart: every frame
/// that left a port had one of the two tags, and no frame with one tag carries an address of the other's network.
///
/// # Errors
/// Names the frames that crossed; or the network that nothing was sent on, since then nothing was tested.
pub fn kept_apart(c: &Cluster, networks: [&str; 2]) -> anyhow::Result<()> {
    let switch = c.lab().switch();
    for (network, other) in [(networks[0], networks[1]), (networks[1], networks[0])] {
        let vlan = c.profile().switch_vlan(network)?;
        let tagged = FrameFilter::new().direction(Direction::Out).tagged(vlan);
        ensure!(
            !switch.frames(&tagged)?.is_empty(),
            "no frame tagged {vlan} left the switch: nothing was tested"
        );
        for machine in c.lab().machines() {
            let foreign = switch.frames(&tagged.clone().ip(c.ip(machine.name(), other)?))?;
            ensure!(
                foreign.is_empty(),
                "an address of {other} on the VLAN of {network}: {}",
                describe(&foreign)
            );
        }
        // Inside the switch, too, no frame changed its VLAN on the way.
        let id = VlanId::new(vlan).context("a VLAN id")?;
        for frame in switch.frames(&FrameFilter::new().direction(Direction::Out).vlan(id))? {
            let tag = frame.summary().and_then(|s| s.tags.first().map(|t| t.tci.vid()));
            ensure!(tag == Some(vlan), "a frame of VLAN {vlan} left {} with the tag {tag:?}", frame.port);
        }
    }
    let mut untagged = switch.frames(&FrameFilter::new().direction(Direction::Out).untagged())?;
    untagged.retain(|frame| frame.summary().is_none_or(|s| !ITS_OWN.contains(&s.ethertype)));
    ensure!(untagged.is_empty(), "untagged frames left a trunk: {}", describe(&untagged));
    Ok(())
}

/// How many frames, and the first of them, for an error's text.
pub fn describe(frames: &[CapturedFrame]) -> String {
    let first = frames.iter().take(3).map(|f| f.to_string());
    format!("{} frames, such as {}", frames.len(), first.collect::<Vec<_>>().join("; "))
}
