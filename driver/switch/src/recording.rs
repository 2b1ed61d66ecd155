//! The ring's frames as they were at one moment, to be written as pcapng.

use std::collections::BTreeSet;
use std::fs::File;
use std::io::{self, Write};
use std::path::Path;
use std::sync::Arc;
use std::time::SystemTime;

use crate::error::Error;
use crate::forwarder::PortId;
use crate::pcapng::{self, Encoder};
use crate::ring::CapturedFrame;
use crate::state::RingState;

/// The latest frames that crossed, oldest first, as the ring held them at one moment; from
/// [`Switch::recording`](crate::Switch::recording). It can be written by any thread, after the switch's end too.
///
/// Its pcapng is about as long as the ring may be at most: where copies of flooded frames, which the ring holds once,
/// would make it longer, the oldest are left out.
#[derive(Clone, Debug)]
pub struct Recording {
    pub(crate) switch: Arc<str>,
    pub(crate) epoch: SystemTime,
    /// The ports that are there, each an interface of the file with or without frames.
    pub(crate) ports: Vec<(PortId, Arc<str>)>,
    pub(crate) unseen: Vec<String>,
    pub(crate) frames: Vec<CapturedFrame>,
    pub(crate) missing: u64,
}

impl Recording {
    /// Takes the newest frames whose blocks fit into the ring's limit together.
    pub(crate) fn new(
        switch: Arc<str>,
        epoch: SystemTime,
        ports: Vec<(PortId, Arc<str>)>,
        unseen: Vec<String>,
        mut frames: Vec<CapturedFrame>,
        ring: RingState,
    ) -> Recording {
        let mut room = ring.limit;
        let fits = |frame: &&CapturedFrame| {
            let bytes = pcapng::packet_bytes(frame) as u64;
            room.checked_sub(bytes).map(|left| room = left).is_some()
        };
        let kept = frames.iter().rev().take_while(fits).count();
        let left_out = frames.len() - kept;
        frames.drain(..left_out);
        Recording { switch, epoch, ports, unseen, frames, missing: ring.evicted + left_out as u64 }
    }

    /// The frames.
    pub fn frames(&self) -> &[CapturedFrame] {
        &self.frames
    }

    /// How many frames are older than these: all that the ring had to let go, wanted or not, and those wanted that
    /// would have made the file too long.
    pub fn missing(&self) -> u64 {
        self.missing
    }

    /// The vhost-user ports, by name: nobody sees their frames, and so none is here.
    pub fn unseen_ports(&self) -> &[String] {
        &self.unseen
    }

    /// The names of all ports that are there or have frames here.
    pub fn ports(&self) -> BTreeSet<&str> {
        let with_frames = self.frames.iter().map(|frame| &*frame.port_name);
        self.ports.iter().map(|(_, name)| &**name).chain(with_frames).collect()
    }

    /// The same of one port, by its name.
    pub fn of_port(&self, name: &str) -> Recording {
        Recording {
            switch: Arc::clone(&self.switch),
            epoch: self.epoch,
            ports: self.ports.iter().filter(|(_, port)| **port == *name).cloned().collect(),
            unseen: Vec::new(),
            frames: self.frames.iter().filter(|frame| *frame.port_name == *name).cloned().collect(),
            missing: self.missing,
        }
    }

    /// Writes pcapng. What is missing is said in the comment of its section.
    ///
    /// # Errors
    /// The writer's.
    pub fn write_to(&self, out: &mut impl Write) -> io::Result<()> {
        let mut encoder = Encoder::new(self.epoch, &self.switch, &self.comment());
        for (id, name) in &self.ports {
            encoder.interface(*id, name);
        }
        pcapng::write(out, &mut encoder, &self.frames)
    }

    /// Writes a pcapng file.
    ///
    /// # Errors
    /// [`Error::Write`].
    pub fn write_pcapng(&self, path: &Path) -> Result<(), Error> {
        let write = || self.write_to(&mut File::create(path)?);
        write().map_err(|source| Error::Write {
            switch: self.switch.to_string(),
            path: path.to_owned(),
            source,
        })
    }

    fn comment(&self) -> String {
        let mut parts = Vec::new();
        if self.missing > 0 {
            parts.push(format!("the latest frames; {} older ones are missing", self.missing));
        }
        if !self.unseen.is_empty() {
            parts.push(format!("no frames of vhost-user ports: {}", self.unseen.join(", ")));
        }
        parts.join("; ")
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::counters::DropReason;
    use crate::frame::Frame;
    use crate::ring::Direction;

    fn frame(number: u64, port: u32, bytes: &Frame, dropped: Option<DropReason>) -> CapturedFrame {
        CapturedFrame {
            number,
            at: Duration::from_millis(number),
            port: PortId(port),
            port_name: format!("p{port}").into(),
            direction: Direction::In,
            vlan: None,
            dropped,
            bytes: bytes.clone(),
        }
    }

    fn recording(frames: Vec<CapturedFrame>, limit: u64, evicted: u64) -> Recording {
        let ring = RingState { frames: 0, bytes: 0, limit, evicted, evicted_until: None };
        let ports = vec![(PortId(0), "p0".into()), (PortId(1), "p1".into())];
        Recording::new("sw".into(), SystemTime::UNIX_EPOCH, ports, vec!["fast".into()], frames, ring)
    }

    #[test]
    fn what_a_frame_takes_in_a_file_is_known_before() {
        for length in [0, 1, 2, 3, 4, 1514] {
            for dropped in [None, Some(DropReason::TaggedOnAccess), Some(DropReason::Malformed)] {
                let frame = frame(0, 0, &Frame::new(&vec![7; length]), dropped);
                let mut encoder = Encoder::new(SystemTime::UNIX_EPOCH, "sw", "");
                encoder.interface(frame.port, &frame.port_name);
                let before = encoder.buffer.len();
                encoder.frame(&frame, None);
                assert_eq!(
                    encoder.buffer.len() - before,
                    pcapng::packet_bytes(&frame),
                    "{length} {dropped:?}"
                );
            }
        }
    }

    #[test]
    fn a_flood_to_many_ports_makes_no_long_file_and_the_newest_stay() {
        let bytes = Frame::new(&[0; 9000]);
        let all: Vec<_> = (0..320).map(|number| frame(number, number as u32 % 32, &bytes, None)).collect();
        let limit = 10 * pcapng::packet_bytes(&all[0]) as u64;
        let recording = recording(all, limit, 5);
        let numbers: Vec<u64> = recording.frames().iter().map(|frame| frame.number).collect();
        assert_eq!(numbers, (310..320).collect::<Vec<_>>());
        assert_eq!(recording.missing(), 5 + 310);
        let mut file = Vec::new();
        recording.write_to(&mut file).unwrap();
        assert!((file.len() as u64) < limit + 2000, "{} bytes of {limit}", file.len());
    }

    #[test]
    fn each_port_is_an_interface_and_what_is_missing_is_said() {
        let recording = recording(vec![frame(0, 1, &Frame::new(&[0; 60]), None)], 1 << 20, 3);
        assert_eq!(recording.ports().into_iter().collect::<Vec<_>>(), ["p0", "p1"]);
        let written = |recording: &Recording| {
            let mut file = Vec::new();
            recording.write_to(&mut file).unwrap();
            let mut reader = pcap_file::pcapng::PcapNgReader::new(io::Cursor::new(file.clone())).unwrap();
            let mut blocks = 0;
            while let Some(block) = reader.next_block() {
                block.unwrap();
                blocks += 1;
            }
            (blocks, String::from_utf8_lossy(&file).into_owned())
        };
        let (blocks, text) = written(&recording);
        assert_eq!(blocks, 2 + 1, "two interfaces, a frame");
        let said = "the latest frames; 3 older ones are missing; no frames of vhost-user ports: fast";
        assert!(text.contains(said), "{text:?}");
        assert_eq!(written(&recording.of_port("p1")).0, 1 + 1);
        assert_eq!(written(&recording.of_port("p0")).0, 1, "an interface without frames");
    }
}
