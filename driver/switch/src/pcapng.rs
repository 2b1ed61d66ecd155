//! Writes pcapng (draft-ietf-opsawg-pcapng): one section, an interface per port, a packet per frame.

use std::collections::HashMap;
use std::io::{self, Write};
use std::time::{Duration, SystemTime};

use crate::counters::DropReason;
use crate::forwarder::PortId;
use crate::ring::{CapturedFrame, Direction};

const SECTION_HEADER: u32 = 0x0a0d_0d0a;
const INTERFACE_DESCRIPTION: u32 = 1;
const ENHANCED_PACKET: u32 = 6;

const LINKTYPE_ETHERNET: u16 = 1;

const OPT_END: u16 = 0;
const OPT_COMMENT: u16 = 1;
const SHB_USERAPPL: u16 = 4;
const IF_NAME: u16 = 2;
const IF_TSRESOL: u16 = 9;
const EPB_FLAGS: u16 = 2;

/// A block's type and its two lengths, in bytes.
const BLOCK_FRAME: usize = 12;
/// Interface, time and two lengths of an enhanced packet, in bytes.
const PACKET_FIELDS: usize = 20;
/// Code and length of an option, in bytes; the option that ends a list is nothing else.
const OPTION_HEADER: usize = 4;

/// How many frames are encoded before they are written.
const AT_ONCE: usize = 1024;

/// Writes what the encoder has, and these frames after it.
pub(crate) fn write(out: &mut impl Write, encoder: &mut Encoder, frames: &[CapturedFrame]) -> io::Result<()> {
    for frames in frames.chunks(AT_ONCE) {
        frames.iter().for_each(|frame| encoder.frame(frame, None));
        out.write_all(&encoder.buffer)?;
        encoder.buffer.clear();
    }
    out.write_all(&encoder.buffer)?;
    encoder.buffer.clear();
    Ok(())
}

/// How long a frame's block is.
pub(crate) fn packet_bytes(frame: &CapturedFrame) -> usize {
    let padded = |length: usize| length.next_multiple_of(4);
    let dropped = frame.dropped.map_or(0, |reason| OPTION_HEADER + padded(dropped(reason).len()));
    BLOCK_FRAME + PACKET_FIELDS + padded(frame.bytes.len()) + (OPTION_HEADER + 4) + dropped + OPTION_HEADER
}

fn dropped(reason: DropReason) -> String {
    format!("dropped: {reason}")
}

/// Turns frames into pcapng blocks. [`Encoder::buffer`] holds whole blocks only.
pub(crate) struct Encoder {
    /// What is to be written next; whoever writes it empties it.
    pub(crate) buffer: Vec<u8>,
    interfaces: HashMap<PortId, u32>,
    epoch: SystemTime,
}

impl Encoder {
    /// Begins a section. `epoch` is the wall clock's time when the switch started.
    pub(crate) fn new(epoch: SystemTime, switch: &str, comment: &str) -> Encoder {
        let mut encoder = Encoder { buffer: Vec::new(), interfaces: HashMap::new(), epoch };
        encoder.block(SECTION_HEADER, |body| {
            body.extend_from_slice(&0x1a2b_3c4d_u32.to_le_bytes());
            body.extend_from_slice(&1u16.to_le_bytes());
            body.extend_from_slice(&0u16.to_le_bytes());
            body.extend_from_slice(&(-1i64).to_le_bytes());
            option(body, SHB_USERAPPL, format!("Rackless switch {switch}").as_bytes());
            if !comment.is_empty() {
                option(body, OPT_COMMENT, comment.as_bytes());
            }
            option(body, OPT_END, &[]);
        });
        encoder
    }

    /// Adds a frame, and its port's interface if it is the first of it.
    pub(crate) fn frame(&mut self, frame: &CapturedFrame, note: Option<&str>) {
        let interface = self.interface(frame.port, &frame.port_name);
        let since_epoch =
            self.epoch.duration_since(SystemTime::UNIX_EPOCH).unwrap_or(Duration::ZERO) + frame.at;
        let nanoseconds = since_epoch.as_nanos() as u64;
        self.block(ENHANCED_PACKET, |body| {
            let length = (frame.bytes.len() as u32).to_le_bytes();
            body.extend_from_slice(&interface.to_le_bytes());
            body.extend_from_slice(&((nanoseconds >> 32) as u32).to_le_bytes());
            body.extend_from_slice(&(nanoseconds as u32).to_le_bytes());
            body.extend_from_slice(&length);
            body.extend_from_slice(&length);
            body.extend_from_slice(&frame.bytes);
            pad(body);
            let flags: u32 = match frame.direction {
                Direction::In => 1,
                Direction::Out => 2,
            };
            option(body, EPB_FLAGS, &flags.to_le_bytes());
            if let Some(reason) = frame.dropped {
                option(body, OPT_COMMENT, dropped(reason).as_bytes());
            }
            if let Some(note) = note {
                option(body, OPT_COMMENT, note.as_bytes());
            }
            option(body, OPT_END, &[]);
        });
    }

    /// The number of a port's interface, which is added if there is none yet.
    pub(crate) fn interface(&mut self, port: PortId, name: &str) -> u32 {
        if let Some(interface) = self.interfaces.get(&port) {
            return *interface;
        }
        let interface = self.interfaces.len() as u32;
        self.interfaces.insert(port, interface);
        self.block(INTERFACE_DESCRIPTION, |body| {
            body.extend_from_slice(&LINKTYPE_ETHERNET.to_le_bytes());
            body.extend_from_slice(&0u16.to_le_bytes());
            body.extend_from_slice(&0u32.to_le_bytes());
            option(body, IF_NAME, name.as_bytes());
            option(body, IF_TSRESOL, &[9]);
            option(body, OPT_END, &[]);
        });
        interface
    }

    /// A block is its type, its length, its body, and its length again.
    fn block(&mut self, kind: u32, body: impl FnOnce(&mut Vec<u8>)) {
        let start = self.buffer.len();
        self.buffer.extend_from_slice(&kind.to_le_bytes());
        self.buffer.extend_from_slice(&[0; 4]);
        body(&mut self.buffer);
        let length = ((self.buffer.len() - start + 4) as u32).to_le_bytes();
        self.buffer[start + 4..start + 8].copy_from_slice(&length);
        self.buffer.extend_from_slice(&length);
    }
}

/// Options are padded like everything else; a block starts at a multiple of four, so the buffer's length will do.
fn pad(body: &mut Vec<u8>) {
    body.resize(body.len().next_multiple_of(4), 0);
}

fn option(body: &mut Vec<u8>, code: u16, value: &[u8]) {
    let value = &value[..value.len().min(usize::from(u16::MAX))];
    body.extend_from_slice(&code.to_le_bytes());
    body.extend_from_slice(&(value.len() as u16).to_le_bytes());
    body.extend_from_slice(value);
    pad(body);
}
