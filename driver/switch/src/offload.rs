//! Work that a guest leaves to its network card: checksums and the cutting of TCP into segments.
//!
//! A frame of a vhost-user port comes with a `virtio_net_hdr` (virtio 1.3, 5.1.6) that says what is still to be done.
//! Between two ports whose guests agreed on it, it is handed on untouched, 64 KiB at a time. A frame for any other
//! port is finished here, so that nobody else ever sees one whose checksum is not true.

use crate::frame::{ADDRESSES, Frame, TAG, TPID_8021AD, TPID_8021Q};

/// The header of a virtio network card with its `num_buffers`, in bytes.
pub(crate) const HEADER: usize = 12;

/// The least that a segment may carry, in bytes: Linux never goes below 48 (`TCP_MIN_SND_MSS`), and without a bound one
/// frame of a guest could become 64 thousand.
const LEAST_SEGMENT: u16 = 48;

const NEEDS_CSUM: u8 = 1;
const GSO_NONE: u8 = 0;
const GSO_TCPV4: u8 = 1;
const GSO_TCPV6: u8 = 4;
const TCP: u8 = 6;
const TCP_FIN: u8 = 0x01;
const TCP_PSH: u8 = 0x08;
const TCP_CWR: u8 = 0x80;
const ETHERTYPE_IPV4: u16 = 0x0800;
const ETHERTYPE_IPV6: u16 = 0x86dd;

/// The header of the header offloads is not sane: what it asks for cannot be done with this frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct BadOffload;

/// A checksum that is still to be computed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Checksum {
    /// From where on, to the frame's end.
    start: u16,
    /// Where it goes, from `start` on. The sum of the pseudo header is there already.
    offset: u16,
}

/// A TCP frame that is still to be cut.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Segmentation {
    v6: bool,
    /// How much of the stream goes into each segment, in bytes.
    size: u16,
}

/// What is still to be done to a frame.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Offload {
    checksum: Option<Checksum>,
    segmentation: Option<Segmentation>,
}

/// What a port's guest takes unfinished.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Accepted {
    pub(crate) checksum: bool,
    pub(crate) tcp4: bool,
    pub(crate) tcp6: bool,
}

/// Where the parts of a TCP frame begin.
struct Layout {
    ip: usize,
    tcp: usize,
    payload: usize,
}

impl Offload {
    /// Nothing is left to do.
    pub(crate) const NONE: Offload = Offload { checksum: None, segmentation: None };

    /// Reads the header that a guest wrote before `frame`, and checks that it can be acted upon.
    pub(crate) fn parse(header: &[u8], frame: &[u8]) -> Result<Offload, BadOffload> {
        let byte = |at: usize| header.get(at).copied().ok_or(BadOffload);
        let word = |at: usize| Ok(u16::from_le_bytes([byte(at)?, byte(at + 1)?]));
        let (flags, kind, size) = (byte(0)?, byte(1)?, word(4)?);
        let checksum = match flags & NEEDS_CSUM {
            0 => None,
            _ => Some(Checksum { start: word(6)?, offset: word(8)? }),
        };
        if let Some(Checksum { start, offset }) = checksum
            && usize::from(start) + usize::from(offset) + 2 > frame.len()
        {
            return Err(BadOffload);
        }
        let segmentation = match kind {
            GSO_NONE => None,
            GSO_TCPV4 | GSO_TCPV6 => Some(Segmentation { v6: kind == GSO_TCPV6, size }),
            _ => return Err(BadOffload),
        };
        let offload = Offload { checksum, segmentation };
        if segmentation.is_some_and(|s| s.size < LEAST_SEGMENT || offload.layout(frame).is_none()) {
            return Err(BadOffload);
        }
        Ok(offload)
    }

    /// The header for a guest that takes the frame as it is, in one buffer.
    pub(crate) fn header(self, frame: &[u8]) -> [u8; HEADER] {
        let mut header = [0; HEADER];
        if let Some(Checksum { start, offset }) = self.checksum {
            header[0] = NEEDS_CSUM;
            header[6..8].copy_from_slice(&start.to_le_bytes());
            header[8..10].copy_from_slice(&offset.to_le_bytes());
        }
        if let Some(Segmentation { v6, size }) = self.segmentation {
            header[1] = if v6 { GSO_TCPV6 } else { GSO_TCPV4 };
            let headers = self.layout(frame).map_or(0, |layout| layout.payload as u16);
            header[2..4].copy_from_slice(&headers.to_le_bytes());
            header[4..6].copy_from_slice(&size.to_le_bytes());
        }
        header[10] = 1;
        header
    }

    /// The same when the frame has `after` bytes instead of `before`, because a tag came or went in front.
    pub(crate) fn moved(self, before: usize, after: usize) -> Offload {
        let checksum = self.checksum.map(|checksum| Checksum {
            start: (usize::from(checksum.start) + after).saturating_sub(before) as u16,
            ..checksum
        });
        Offload { checksum, ..self }
    }

    /// Whether a guest that agreed to this takes the frame as it is.
    pub(crate) fn is_accepted(self, accepted: Accepted) -> bool {
        let checksum = self.checksum.is_none() || accepted.checksum;
        checksum && self.segmentation.is_none_or(|s| if s.v6 { accepted.tcp6 } else { accepted.tcp4 })
    }

    /// Does what is left to do. More than one frame comes of it only where TCP had to be cut.
    pub(crate) fn finish(self, frame: &Frame) -> Vec<Frame> {
        match (self.checksum, self.segmentation) {
            (None, None) => vec![frame.clone()],
            (_, Some(segmentation)) => match self.layout(frame) {
                Some(layout) => segments(frame, &layout, segmentation),
                None => Vec::new(),
            },
            (Some(checksum), None) => {
                let mut bytes = frame.to_vec();
                let start = usize::from(checksum.start);
                let sum = fold(sum(0, bytes.get(start..).unwrap_or_default()));
                put_sum(&mut bytes, start + usize::from(checksum.offset), sum);
                vec![Frame::new(&bytes)]
            }
        }
    }

    /// Finds IP and TCP in a frame that is to be cut; `None` if it is not what the header says.
    fn layout(self, frame: &[u8]) -> Option<Layout> {
        let (checksum, segmentation) = (self.checksum?, self.segmentation?);
        let word = |at: usize| Some(u16::from_be_bytes([*frame.get(at)?, *frame.get(at + 1)?]));
        let mut at = ADDRESSES;
        while matches!(word(at)?, TPID_8021Q | TPID_8021AD) {
            at += TAG;
        }
        let (ethertype, ip, tcp) = (word(at)?, at + 2, usize::from(checksum.start));
        let is_ip = if segmentation.v6 {
            ethertype == ETHERTYPE_IPV6 && frame.get(ip)? >> 4 == 6 && tcp >= ip + 40
        } else {
            let header = 4 * usize::from(frame.get(ip)? & 0x0f);
            let is_tcp = *frame.get(ip + 9)? == TCP && header >= 20;
            ethertype == ETHERTYPE_IPV4 && frame.get(ip)? >> 4 == 4 && is_tcp && tcp == ip + header
        };
        let header = 4 * usize::from(frame.get(tcp + 12)? >> 4);
        let payload = tcp + header;
        let fits = header >= 20 && payload <= frame.len() && checksum.offset == 16;
        (is_ip && fits).then_some(Layout { ip, tcp, payload })
    }
}

/// Cuts a TCP frame as the guest's own stack would have.
fn segments(frame: &[u8], layout: &Layout, segmentation: Segmentation) -> Vec<Frame> {
    let Layout { ip, tcp, payload } = *layout;
    let (headers, stream) = frame.split_at(payload);
    let size = usize::from(segmentation.size);
    let count = stream.len().div_ceil(size).max(1);
    let first_id = u16::from_be_bytes([headers[ip + 4], headers[ip + 5]]);
    let first_sequence =
        u32::from_be_bytes([headers[tcp + 4], headers[tcp + 5], headers[tcp + 6], headers[tcp + 7]]);
    let segment = |index: usize| {
        let part = &stream[(index * size).min(stream.len())..((index + 1) * size).min(stream.len())];
        let mut bytes = Vec::with_capacity(payload + part.len());
        bytes.extend_from_slice(headers);
        bytes.extend_from_slice(part);
        let sequence = first_sequence.wrapping_add((index * size) as u32);
        bytes[tcp + 4..tcp + 8].copy_from_slice(&sequence.to_be_bytes());
        if index > 0 {
            bytes[tcp + 13] &= !TCP_CWR;
        }
        if index + 1 < count {
            bytes[tcp + 13] &= !(TCP_FIN | TCP_PSH);
        }
        let length = (bytes.len() - tcp) as u32;
        let addresses = if segmentation.v6 {
            let after_header = (bytes.len() - ip - 40) as u16;
            bytes[ip + 4..ip + 6].copy_from_slice(&after_header.to_be_bytes());
            ip + 8..ip + 40
        } else {
            let total = (bytes.len() - ip) as u16;
            bytes[ip + 2..ip + 4].copy_from_slice(&total.to_be_bytes());
            bytes[ip + 4..ip + 6].copy_from_slice(&first_id.wrapping_add(index as u16).to_be_bytes());
            bytes[ip + 10..ip + 12].fill(0);
            let header_sum = !fold(sum(0, &bytes[ip..tcp]));
            bytes[ip + 10..ip + 12].copy_from_slice(&header_sum.to_be_bytes());
            ip + 12..ip + 20
        };
        bytes[tcp + 16..tcp + 18].fill(0);
        let pseudo = sum(u64::from(TCP) + u64::from(length), &bytes[addresses]);
        // In TCP a checksum of 0 stands for nothing else.
        let checksum = !fold(sum(pseudo, &bytes[tcp..]));
        bytes[tcp + 16..tcp + 18].copy_from_slice(&checksum.to_be_bytes());
        Frame::new(&bytes)
    };
    (0..count).map(segment).collect()
}

/// The Internet checksum (RFC 1071), before it is folded.
pub(crate) fn sum(start: u64, bytes: &[u8]) -> u64 {
    let (words, rest) = bytes.as_chunks::<2>();
    let words = words.iter().map(|word| u64::from(u16::from_be_bytes(*word))).sum::<u64>();
    start + words + rest.first().map_or(0, |last| u64::from(*last) << 8)
}

/// Folds a sum to the 16 bits whose complement is the checksum.
pub(crate) fn fold(mut sum: u64) -> u16 {
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    sum as u16
}

/// Writes the complement of a sum; never 0, which stands for "no checksum" in UDP.
fn put_sum(bytes: &mut [u8], at: usize, sum: u16) {
    let value = if sum == 0xffff { 0xffff } else { !sum };
    if let Some(place) = bytes.get_mut(at..at + 2) {
        place.copy_from_slice(&value.to_be_bytes());
    }
}

#[cfg(test)]
mod tests {
    use etherparse::{PacketBuilder, SlicedPacket, TransportSlice};
    use proptest::prelude::*;

    use super::*;
    use crate::frame::{Form, Header};
    use crate::vlan::VlanId;

    /// A frame as a guest's stack hands it to a card with offloads: only the pseudo header is summed.
    fn unfinished(v6: bool, payload: &[u8]) -> (Vec<u8>, Vec<u8>) {
        let ethernet = PacketBuilder::ethernet2([2, 0, 0, 0, 0, 1], [2, 0, 0, 0, 0, 2]);
        let ip = if v6 {
            ethernet.ipv6([1; 16], [2; 16], 64)
        } else {
            ethernet.ipv4([10, 0, 0, 1], [10, 0, 0, 2], 64)
        };
        let mut bytes = Vec::new();
        ip.tcp(4000, 5201, 0xffff_ff00, 1000).psh().fin().write(&mut bytes, payload).unwrap();
        let tcp = if v6 { 54 } else { 34 };
        let addresses = if v6 { 22..54 } else { 26..34 };
        let length = (bytes.len() - tcp) as u64;
        let pseudo = fold(sum(6 + length, &bytes[addresses]));
        bytes[tcp + 16..tcp + 18].copy_from_slice(&pseudo.to_be_bytes());
        let mut header = [0; HEADER];
        header[0] = NEEDS_CSUM;
        header[6..8].copy_from_slice(&(tcp as u16).to_le_bytes());
        header[8..10].copy_from_slice(&16u16.to_le_bytes());
        (header.to_vec(), bytes)
    }

    fn cut(header: &mut [u8], v6: bool, size: u16) {
        header[1] = if v6 { GSO_TCPV6 } else { GSO_TCPV4 };
        header[4..6].copy_from_slice(&size.to_le_bytes());
    }

    /// The stream's bytes of a segment, once another implementation has found its lengths and checksums true.
    fn checked(frame: &[u8]) -> (u32, Vec<u8>, bool) {
        let sliced = SlicedPacket::from_ethernet(frame).unwrap();
        let Some(TransportSlice::Tcp(tcp)) = &sliced.transport else { panic!("no TCP in {frame:x?}") };
        let expected = match sliced.net.as_ref().unwrap() {
            etherparse::NetSlice::Ipv4(ip) => {
                let header = ip.header().to_header();
                assert_eq!(header.header_checksum, header.calc_header_checksum());
                let (source, destination) = (ip.header().source(), ip.header().destination());
                tcp.calc_checksum_ipv4(source, destination).unwrap()
            }
            etherparse::NetSlice::Ipv6(ip) => {
                tcp.calc_checksum_ipv6(ip.header().source(), ip.header().destination()).unwrap()
            }
            other => panic!("{other:?}"),
        };
        assert_eq!(tcp.checksum(), expected);
        (tcp.sequence_number(), tcp.payload().to_vec(), tcp.fin() && tcp.psh())
    }

    proptest! {
        #[test]
        fn what_is_cut_is_the_same_stream_with_true_checksums(
            v6 in any::<bool>(), tagged in any::<bool>(), size in 48u16..2000,
            payload in proptest::collection::vec(any::<u8>(), 1..9000)
        ) {
            let (mut header, bytes) = unfinished(v6, &payload);
            cut(&mut header, v6, size);
            let mut frame = Frame::new(&bytes);
            let mut offload = Offload::parse(&header, &frame).unwrap();
            if tagged {
                let parsed = Header::parse(&frame).unwrap();
                let with_tag = frame.in_form(Form::Tagged, &parsed, VlanId::new(7).unwrap());
                offload = offload.moved(frame.len(), with_tag.len());
                frame = with_tag;
            }
            let frames = offload.finish(&frame);
            prop_assert_eq!(frames.len(), payload.len().div_ceil(usize::from(size)));
            let mut stream = Vec::new();
            for (index, frame) in frames.iter().enumerate() {
                let (sequence, part, last) = checked(frame);
                prop_assert_eq!(sequence, 0xffff_ff00u32.wrapping_add(stream.len() as u32));
                prop_assert_eq!(last, index + 1 == frames.len());
                stream.extend(part);
            }
            prop_assert_eq!(stream, payload);
        }

        #[test]
        fn no_header_makes_it_panic_or_grow(
            header in proptest::collection::vec(any::<u8>(), 0..14), kind in 0u8..6,
            garbage in proptest::collection::vec(any::<u8>(), 14..200), real in any::<bool>(), v6 in any::<bool>(),
            damage in any::<(usize, u8)>()
        ) {
            let mut header = header;
            if header.len() > 1 {
                header[1] = kind;
            }
            let mut bytes = if real { unfinished(v6, &[7; 3000]).1 } else { garbage };
            let at = damage.0 % bytes.len();
            bytes[at] = damage.1;
            let frame = Frame::new(&bytes);
            if let Ok(offload) = Offload::parse(&header, &frame) {
                let frames = offload.finish(&frame);
                prop_assert!(!frames.is_empty() && frames.len() <= bytes.len() / 48 + 1);
                offload.header(&frame);
            }
        }
    }

    #[test]
    fn a_checksum_is_finished_and_one_that_would_be_zero_is_not() {
        for v6 in [false, true] {
            let (header, bytes) = unfinished(v6, b"hello");
            let frame = Frame::new(&bytes);
            let offload = Offload::parse(&header, &frame).unwrap();
            let frames = offload.finish(&frame);
            assert_eq!(frames.len(), 1);
            assert_eq!(checked(&frames[0]).1, b"hello");
            assert_eq!(offload.header(&frame)[..10], header[..10], "handed on as it came");
        }
        let mut bytes = [0; 4];
        put_sum(&mut bytes, 1, 0xffff);
        assert_eq!(bytes, [0, 0xff, 0xff, 0]);
    }

    #[test]
    fn the_checksum_of_a_segment_may_be_zero() {
        let (mut header, bytes) = unfinished(false, &[0; 50]);
        cut(&mut header, false, 48);
        let sums = (0..=u16::MAX).filter(|word| {
            let mut bytes = bytes.clone();
            bytes[54..56].copy_from_slice(&word.to_be_bytes());
            let frame = Frame::new(&bytes);
            let first = &Offload::parse(&header, &frame).unwrap().finish(&frame)[0];
            checked(first);
            first[50..52] == [0, 0]
        });
        assert_eq!(sums.count(), 1, "whatever else is summed, one word makes it 0");
    }

    #[test]
    fn headers_that_ask_for_what_cannot_be_done_are_refused() {
        let (good, bytes) = unfinished(false, &[1; 3000]);
        let told = |change: &dyn Fn(&mut Vec<u8>)| {
            let mut header = good.clone();
            cut(&mut header, false, 1448);
            change(&mut header);
            Offload::parse(&header, &bytes)
        };
        assert!(told(&|_| ()).is_ok());
        assert_eq!(told(&|h| h[0] = 0), Err(BadOffload), "cutting without a checksum");
        assert_eq!(told(&|h| h[1] = 3), Err(BadOffload), "UDP, which was not offered");
        assert_eq!(told(&|h| h[1] = GSO_TCPV6), Err(BadOffload), "the wrong protocol");
        assert_eq!(told(&|h| cut(h, false, 47)), Err(BadOffload), "segments that are too small");
        assert_eq!(told(&|h| h[6] = 35), Err(BadOffload), "a checksum that does not start at TCP");
        assert_eq!(told(&|h| h[7] = 0xff), Err(BadOffload), "a checksum behind the frame's end");
        assert_eq!(told(&|h| h.truncate(9)), Err(BadOffload));
    }

    #[test]
    fn a_frame_goes_as_it_is_only_to_who_agreed_to_it() {
        let (mut header, bytes) = unfinished(false, &[1; 3000]);
        let summed = Offload::parse(&header, &bytes).unwrap();
        cut(&mut header, false, 1448);
        let cut = Offload::parse(&header, &bytes).unwrap();
        let nothing = Accepted::default();
        let checksum = Accepted { checksum: true, ..nothing };
        let other = Accepted { tcp6: true, ..checksum };
        let all = Accepted { tcp4: true, ..other };
        assert!(Offload::NONE.is_accepted(nothing));
        assert_eq!([nothing, checksum, other, all].map(|a| summed.is_accepted(a)), [false, true, true, true]);
        assert_eq!([nothing, checksum, other, all].map(|a| cut.is_accepted(a)), [false, false, false, true]);
    }
}
