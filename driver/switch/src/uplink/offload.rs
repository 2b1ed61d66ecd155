//! What a kernel leaves undone in a frame that did not come from a wire (`struct virtio_net_hdr`, which packet(7)
//! sockets put before each frame with `PACKET_VNET_HDR`).
//!
//! A frame that another process of this host sent over a veth has no checksum yet, and one that was merged from many is
//! longer than a wire takes.

use crate::counters::DropReason;
use crate::offload::{fold, sum};

/// The length of the header in bytes.
pub(crate) const OFFLOAD_HEADER: usize = 10;

/// `VIRTIO_NET_HDR_F_NEEDS_CSUM`.
const NEEDS_CHECKSUM: u8 = 1;

/// What there is to do with a frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Offload {
    /// Nothing.
    Done,
    /// The Internet checksum from `start` on is to be written `offset` behind it.
    Checksum { start: usize, offset: usize },
    /// It is many frames in one.
    Merged,
}

impl Offload {
    /// Reads the header.
    pub(crate) fn parse(header: [u8; OFFLOAD_HEADER]) -> Offload {
        let u16_at = |at: usize| usize::from(u16::from_ne_bytes([header[at], header[at + 1]]));
        match header {
            [_, segments, ..] if segments != 0 => Offload::Merged,
            [flags, ..] if flags & NEEDS_CHECKSUM != 0 => {
                Offload::Checksum { start: u16_at(6), offset: u16_at(8) }
            }
            _ => Offload::Done,
        }
    }

    /// Does it.
    ///
    /// # Errors
    /// [`DropReason::Merged`], or [`DropReason::Malformed`] if the checksum would be outside the frame.
    pub(crate) fn finish(self, frame: &mut [u8]) -> Result<(), DropReason> {
        let (start, offset) = match self {
            Offload::Done => return Ok(()),
            Offload::Merged => return Err(DropReason::Merged),
            Offload::Checksum { start, offset } => (start, offset),
        };
        let summed = frame.get_mut(start..).ok_or(DropReason::Malformed)?;
        // The field holds the sum of the pseudo-header already.
        let checksum = match !fold(sum(0, summed)) {
            // For UDP, 0 means "none".
            0 => u16::MAX,
            checksum => checksum,
        };
        let field = summed.get_mut(offset..offset + 2).ok_or(DropReason::Malformed)?;
        field.copy_from_slice(&checksum.to_be_bytes());
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use etherparse::PacketBuilder;

    use super::*;

    fn header(flags: u8, segments: u8, start: u16, offset: u16) -> [u8; OFFLOAD_HEADER] {
        let ([a, b], [c, d]) = (start.to_ne_bytes(), offset.to_ne_bytes());
        [flags, segments, 0, 0, 0, 0, a, b, c, d]
    }

    #[test]
    fn a_checksum_that_was_left_to_the_nic_is_made() {
        for payload in [&b"even"[..], b"odd"] {
            let builder = PacketBuilder::ethernet2([2; 6], [4; 6])
                .ipv4([10, 0, 0, 1], [10, 0, 0, 2], 64)
                .udp(1000, 2000);
            let mut whole = Vec::new();
            builder.write(&mut whole, payload).unwrap();
            let mut left = whole.clone();
            let pseudo = !fold(sum(0, &[&whole[26..34], &[0, 17][..], &whole[38..40]].concat()));
            left[40..42].copy_from_slice(&(!pseudo).to_be_bytes());
            Offload::parse(header(1, 0, 34, 6)).finish(&mut left).unwrap();
            assert_eq!(left, whole);
        }
    }

    #[test]
    fn what_can_not_be_a_frame_of_a_wire_is_none() {
        let mut frame = [0; 20];
        assert_eq!(Offload::parse(header(0, 0, 9, 9)).finish(&mut frame), Ok(()));
        assert_eq!(Offload::parse(header(1, 1, 0, 0)).finish(&mut frame), Err(DropReason::Merged));
        for (start, offset) in [(21, 0), (0, 19), (10, 10), (u16::MAX, u16::MAX)] {
            assert_eq!(
                Offload::parse(header(1, 0, start, offset)).finish(&mut frame),
                Err(DropReason::Malformed)
            );
        }
    }
}
