//! Which link of a bundle a frame leaves by.

use serde::{Deserialize, Serialize};

use crate::forwarder::PortId;
use crate::frame::{TPID_8021AD, TPID_8021Q};

/// What a bundle tells conversations apart by. All frames of a conversation leave by the same link, so that they keep
/// their order (IEEE 802.1AX, 6.2.4).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum HashPolicy {
    /// Source and destination MAC address.
    #[serde(rename = "layer2")]
    Layer2,
    /// IP addresses, and the ports of TCP and UDP in packets that are not fragments; MAC addresses for what is not IP.
    #[default]
    #[serde(rename = "layer3+4")]
    Layer34,
}

const ADDRESSES: usize = 12;
const ETHERTYPE_IPV4: u16 = 0x0800;
const ETHERTYPE_IPV6: u16 = 0x86dd;
const TCP: u8 = 6;
const UDP: u8 = 17;
/// Tags beneath this many are not looked through.
const MOST_TAGS: usize = 4;

/// The member that the frame leaves by: the one with the highest score for this conversation (rendezvous hashing). So
/// a conversation moves only if its own link goes, or if a link that comes takes it over, never because of others.
pub(crate) fn pick(policy: HashPolicy, frame: &[u8], members: &[PortId]) -> Option<PortId> {
    if let [] | [_] = members {
        return members.first().copied();
    }
    let conversation = conversation(policy, frame);
    let score = |member: &PortId| mix(conversation ^ mix(u64::from(member.0) + 1));
    members.iter().copied().max_by_key(score)
}

fn conversation(policy: HashPolicy, frame: &[u8]) -> u64 {
    let addresses = &frame[..ADDRESSES.min(frame.len())];
    match policy {
        HashPolicy::Layer2 => fold(0, addresses),
        HashPolicy::Layer34 => ip(frame).unwrap_or_else(|| fold(0, addresses)),
    }
}

/// `None` for what is not a whole IP header.
fn ip(frame: &[u8]) -> Option<u64> {
    let ethertype = |at: usize| Some(u16::from_be_bytes(*frame.get(at..)?.first_chunk()?));
    let mut at = ADDRESSES;
    let mut tags = 0;
    while matches!(ethertype(at)?, TPID_8021Q | TPID_8021AD) && tags < MOST_TAGS {
        at += 4;
        tags += 1;
    }
    let packet = frame.get(at + 2..)?;
    let (addresses, protocol, payload) = match ethertype(at)? {
        ETHERTYPE_IPV4 => {
            let header = packet.first_chunk::<20>()?;
            let fragment = u16::from_be_bytes([header[6], header[7]]) & 0x3fff != 0;
            let payload = packet.get(usize::from(header[0] & 0x0f) * 4..).filter(|_| !fragment);
            (&header[12..], header[9], payload)
        }
        ETHERTYPE_IPV6 => {
            let header = packet.first_chunk::<40>()?;
            // A fragment has an extension header, so its next header is no transport.
            (&packet[8..40], header[6], packet.get(40..))
        }
        _ => return None,
    };
    let hash = fold(0, addresses);
    let ports =
        payload.filter(|_| matches!(protocol, TCP | UDP)).and_then(|payload| payload.first_chunk::<4>());
    Some(ports.map_or(hash, |ports| fold(hash, ports)))
}

/// Bytes into a hash that stays the same on every machine.
pub(crate) fn fold(hash: u64, bytes: &[u8]) -> u64 {
    bytes.chunks(8).fold(hash, |hash, chunk| {
        let mut word = [0; 8];
        word[..chunk.len()].copy_from_slice(chunk);
        mix(hash ^ u64::from_be_bytes(word))
    })
}

/// Changes half of the bits if one changes: the finaliser of SplitMix64.
fn mix(word: u64) -> u64 {
    let word = word.wrapping_add(0x9e37_79b9_7f4a_7c15);
    let word = (word ^ (word >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let word = (word ^ (word >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    word ^ (word >> 31)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn members(count: u32) -> Vec<PortId> {
        (0..count).map(PortId).collect()
    }

    fn tcp(src_port: u16, tags: &[u8]) -> Vec<u8> {
        let mut frame = b"\x52\x54\x00\x00\x00\x02\x52\x54\x00\x00\x00\x01".to_vec();
        frame.extend_from_slice(tags);
        frame.extend_from_slice(b"\x08\x00\x45\x00\x00\x28\x00\x00\x00\x00\x40\x06\x00\x00");
        frame.extend_from_slice(b"\x0a\x00\x00\x01\x0a\x00\x00\x02");
        frame.extend_from_slice(&src_port.to_be_bytes());
        frame.extend_from_slice(&[0x19, 0x90]);
        frame
    }

    fn shares(policy: HashPolicy, frames: impl Iterator<Item = Vec<u8>>, count: u32) -> Vec<usize> {
        let mut shares = vec![0; count as usize];
        for frame in frames {
            shares[pick(policy, &frame, &members(count)).unwrap().0 as usize] += 1;
        }
        shares
    }

    #[test]
    fn connections_are_spread_by_layer_4_and_not_by_layer_2() {
        let connections = || (0..8000).map(|port| tcp(port, b""));
        for share in shares(HashPolicy::Layer34, connections(), 8) {
            assert!((800..1200).contains(&share), "{share} of 8000 by one of eight links");
        }
        let layer_2 = shares(HashPolicy::Layer2, connections(), 8);
        assert_eq!(layer_2.iter().filter(|share| **share > 0).count(), 1);
        let stations = (0..=255).map(|n| {
            let mut frame = tcp(1, b"");
            frame[11] = n;
            frame
        });
        assert!(shares(HashPolicy::Layer2, stations, 2).iter().all(|share| *share > 80));
    }

    #[test]
    fn tags_are_looked_through_and_fragments_go_by_their_addresses() {
        let spread = |frames: Vec<Vec<u8>>| shares(HashPolicy::Layer34, frames.into_iter(), 2);
        let plain = spread((0..100).map(|port| tcp(port, b"")).collect());
        let tagged = spread((0..100).map(|port| tcp(port, b"\x88\xa8\x00\x05\x81\x00\x00\x01")).collect());
        assert_eq!(plain, tagged);
        for flags in [0x2000u16, 0x0001] {
            let fragment = |port| {
                let mut frame = tcp(port, b"");
                frame[20..22].copy_from_slice(&flags.to_be_bytes());
                frame
            };
            assert!(spread((0..100).map(fragment).collect()).contains(&0), "all by one link");
        }
    }

    #[test]
    fn ipv6_has_ports_too() {
        let frames = (0..100u16).map(|port| {
            let mut frame = tcp(0, b"")[..12].to_vec();
            frame.extend_from_slice(b"\x86\xdd\x60\x00\x00\x00\x00\x04\x11\x40");
            frame.extend_from_slice(&[0xfd; 32]);
            frame.extend_from_slice(&port.to_be_bytes());
            frame.extend_from_slice(&[0, 53]);
            frame
        });
        assert!(shares(HashPolicy::Layer34, frames, 2).iter().all(|share| *share > 20));
    }

    proptest! {
        #[test]
        fn a_conversation_moves_only_if_its_own_link_goes(
            bytes in proptest::collection::vec(any::<u8>(), 14..80),
            kind in 0usize..3,
            layer_2 in any::<bool>(),
            count in 2u32..8,
            gone in 0u32..8,
        ) {
            let mut bytes = bytes;
            if let Some(ethertype) = [[0x08, 0x00], [0x86, 0xdd]].get(kind) {
                bytes[12..14].copy_from_slice(ethertype);
            }
            let policy = if layer_2 { HashPolicy::Layer2 } else { HashPolicy::Layer34 };
            let all = members(count);
            let before = pick(policy, &bytes, &all).unwrap();
            prop_assert_eq!(pick(policy, &bytes, &all), Some(before));
            let left: Vec<PortId> = all.iter().copied().filter(|member| member.0 != gone).collect();
            let after = pick(policy, &bytes, &left).unwrap();
            prop_assert!(left.contains(&after));
            if before.0 != gone {
                prop_assert_eq!(after, before);
            }
        }
    }
}
