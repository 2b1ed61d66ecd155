//! The network card that smoltcp sees: two queues of frames.

use std::collections::VecDeque;

use smoltcp::phy::{Device, DeviceCapabilities, Medium, RxToken, TxToken};
use smoltcp::time::Instant;

/// The length of an Ethernet header in bytes.
const HEADER: usize = 14;

/// Frames on their way into and out of the stack.
pub(crate) struct Queues {
    pub(crate) incoming: VecDeque<Vec<u8>>,
    outgoing: Outgoing,
    /// The longest IP packet in bytes.
    mtu: usize,
}

impl Queues {
    pub(crate) fn new(mtu: u16) -> Queues {
        Queues { incoming: VecDeque::new(), outgoing: Outgoing::default(), mtu: mtu.into() }
    }

    /// How many bytes are to be sent.
    pub(crate) fn outgoing_bytes(&self) -> usize {
        self.outgoing.bytes
    }

    /// Moves what is to be sent behind what is there already.
    pub(crate) fn take_outgoing(&mut self, into: &mut Vec<Vec<u8>>) {
        into.append(&mut self.outgoing.frames);
        self.outgoing.bytes = 0;
    }
}

#[derive(Default)]
struct Outgoing {
    frames: Vec<Vec<u8>>,
    bytes: usize,
}

impl Device for Queues {
    type RxToken<'a> = Received;
    type TxToken<'a> = Sender<'a>;

    fn receive(&mut self, _: Instant) -> Option<(Received, Sender<'_>)> {
        let frame = self.incoming.pop_front()?;
        Some((Received(frame), Sender(&mut self.outgoing)))
    }

    fn transmit(&mut self, _: Instant) -> Option<Sender<'_>> {
        Some(Sender(&mut self.outgoing))
    }

    fn capabilities(&self) -> DeviceCapabilities {
        let mut capabilities = DeviceCapabilities::default();
        capabilities.medium = Medium::Ethernet;
        capabilities.max_transmission_unit = HEADER + self.mtu;
        capabilities
    }
}

pub(crate) struct Received(Vec<u8>);

impl RxToken for Received {
    fn consume<R, F: FnOnce(&[u8]) -> R>(self, f: F) -> R {
        f(&self.0)
    }
}

pub(crate) struct Sender<'a>(&'a mut Outgoing);

impl TxToken for Sender<'_> {
    fn consume<R, F: FnOnce(&mut [u8]) -> R>(self, length: usize, f: F) -> R {
        let mut frame = vec![0; length];
        let result = f(&mut frame);
        self.0.bytes += frame.len();
        self.0.frames.push(frame);
        result
    }
}
