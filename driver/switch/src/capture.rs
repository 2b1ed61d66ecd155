//! Capture to a pcapng file while frames cross, on a thread of its own: a slow or full disk must not stop forwarding.

use std::fs::File;
use std::io::{self, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError, mpsc};
use std::thread;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::filter::FrameFilter;
use crate::pcapng::Encoder;
use crate::ring::CapturedFrame;

/// How much may wait for the disk, in bytes; what comes on top is lost to this capture, and counted.
const BACKLOG: u64 = 32 << 20;

/// What a frame in the backlog costs besides its bytes, roughly.
const OVERHEAD: u64 = 128;

/// Names a running capture. Never used twice.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct CaptureId(pub(crate) u64);

/// How far a capture to a file has come.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct CaptureReport {
    /// The file.
    pub path: PathBuf,
    /// Frames in the file.
    pub frames: u64,
    /// The length of the file in bytes.
    pub bytes: u64,
    /// Frames that should be in the file and are not, because the disk was too slow, or after `error`.
    pub lost: u64,
    /// Why nothing more can be written, if so. The file is whole up to there.
    pub error: Option<String>,
}

#[derive(Default)]
struct Progress {
    backlog: AtomicU64,
    frames: AtomicU64,
    bytes: AtomicU64,
    lost: AtomicU64,
    error: Mutex<Option<String>>,
}

struct Batch {
    frames: Vec<CapturedFrame>,
    cost: u64,
    lost_before: u64,
}

/// The switch's end of a capture.
pub(crate) struct Capture {
    path: PathBuf,
    filter: FrameFilter,
    pending: Vec<CapturedFrame>,
    pending_cost: u64,
    lost_before: u64,
    writer: mpsc::Sender<Batch>,
    progress: Arc<Progress>,
    finished: mpsc::Receiver<()>,
}

/// A file that can be cut back to its last whole block.
pub(crate) trait CaptureFile: Write + Send + 'static {
    /// Cuts the file to `length` bytes.
    fn cut(&mut self, length: u64) -> io::Result<()>;
}

impl CaptureFile for File {
    fn cut(&mut self, length: u64) -> io::Result<()> {
        self.set_len(length)?;
        self.seek(SeekFrom::Start(length)).map(drop)
    }
}

impl Capture {
    /// Writes the section's header and starts the writer. `on_error` is called once, by the writer, when it gives up.
    pub(crate) fn start(
        path: &Path,
        mut file: impl CaptureFile,
        filter: FrameFilter,
        mut encoder: Encoder,
        on_error: impl FnOnce(String) + Send + 'static,
    ) -> io::Result<Capture> {
        let progress = Arc::new(Progress::default());
        file.write_all(&encoder.buffer)?;
        progress.bytes.store(encoder.buffer.len() as u64, Ordering::Relaxed);
        encoder.buffer.clear();
        let (writer, batches) = mpsc::channel();
        let (alive, finished) = mpsc::channel();
        let mut disk = Disk { file, encoder, progress: Arc::clone(&progress), on_error: Some(on_error) };
        thread::Builder::new().name("capture".into()).spawn(move || {
            let _alive: mpsc::Sender<()> = alive;
            for batch in batches {
                disk.write(&batch);
            }
        })?;
        Ok(Capture {
            path: path.to_owned(),
            filter,
            pending: Vec::new(),
            pending_cost: 0,
            lost_before: 0,
            writer,
            progress,
            finished,
        })
    }

    /// Takes a frame if the filter does. [`Capture::submit`] hands it on.
    pub(crate) fn offer(&mut self, frame: &CapturedFrame) {
        if !self.filter.matches(frame) {
            return;
        }
        let cost = frame.bytes.len() as u64 + OVERHEAD;
        if self.progress.backlog.load(Ordering::Relaxed) + self.pending_cost + cost > BACKLOG {
            self.progress.lost.fetch_add(1, Ordering::Relaxed);
            self.lost_before += 1;
        } else {
            self.pending.push(frame.clone());
            self.pending_cost += cost;
        }
    }

    /// Hands what was taken to the writer.
    pub(crate) fn submit(&mut self) {
        if self.pending.is_empty() {
            return;
        }
        let frames = std::mem::take(&mut self.pending);
        let count = frames.len() as u64;
        let cost = std::mem::take(&mut self.pending_cost);
        self.progress.backlog.fetch_add(cost, Ordering::Relaxed);
        let batch = Batch { frames, cost, lost_before: std::mem::take(&mut self.lost_before) };
        if self.writer.send(batch).is_err() {
            self.progress.lost.fetch_add(count, Ordering::Relaxed);
        }
    }

    pub(crate) fn report(&self) -> CaptureReport {
        report(&self.path, &self.progress)
    }

    /// Ends the capture and waits until all is written; `None` if the disk takes longer than `limit`.
    pub(crate) fn finish(mut self, limit: Duration) -> Option<CaptureReport> {
        self.submit();
        let Capture { path, writer, progress, finished, .. } = self;
        drop(writer);
        match finished.recv_timeout(limit) {
            Err(mpsc::RecvTimeoutError::Timeout) => None,
            _ => Some(report(&path, &progress)),
        }
    }
}

fn report(path: &Path, progress: &Progress) -> CaptureReport {
    CaptureReport {
        path: path.to_owned(),
        frames: progress.frames.load(Ordering::Relaxed),
        bytes: progress.bytes.load(Ordering::Relaxed),
        lost: progress.lost.load(Ordering::Relaxed),
        error: progress.error.lock().unwrap_or_else(PoisonError::into_inner).clone(),
    }
}

/// The writer's end.
struct Disk<F, E> {
    file: F,
    encoder: Encoder,
    progress: Arc<Progress>,
    on_error: Option<E>,
}

impl<F: CaptureFile, E: FnOnce(String)> Disk<F, E> {
    fn write(&mut self, batch: &Batch) {
        let count = batch.frames.len() as u64;
        if self.on_error.is_some() {
            let note = (batch.lost_before > 0).then(|| {
                format!("{} frames before this one are missing: the disk was too slow", batch.lost_before)
            });
            let mut note = note.as_deref();
            for frame in &batch.frames {
                self.encoder.frame(frame, note.take());
            }
            let good = self.progress.bytes.load(Ordering::Relaxed);
            match self.file.write_all(&self.encoder.buffer) {
                Ok(()) => {
                    self.progress.bytes.fetch_add(self.encoder.buffer.len() as u64, Ordering::Relaxed);
                    self.progress.frames.fetch_add(count, Ordering::Relaxed);
                }
                Err(error) => self.give_up(good, count, &error),
            }
            self.encoder.buffer.clear();
        } else {
            self.progress.lost.fetch_add(count, Ordering::Relaxed);
        }
        self.progress.backlog.fetch_sub(batch.cost, Ordering::Relaxed);
    }

    /// Half a block at the end would make the whole file unreadable for some tools.
    fn give_up(&mut self, good: u64, lost: u64, error: &io::Error) {
        let message = match self.file.cut(good) {
            Ok(()) => error.to_string(),
            Err(cut) => format!("{error}; the half-written end could not be cut off: {cut}"),
        };
        self.progress.lost.fetch_add(lost, Ordering::Relaxed);
        *self.progress.error.lock().unwrap_or_else(PoisonError::into_inner) = Some(message.clone());
        if let Some(on_error) = self.on_error.take() {
            on_error(message);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::AtomicBool;
    use std::time::SystemTime;

    use super::*;
    use crate::forwarder::PortId;
    use crate::frame::Frame;
    use crate::ring::Direction;

    const LIMIT: Duration = Duration::from_secs(10);

    /// A disk with room for so many bytes, which takes what fits and then fails, as a real one does.
    struct SmallDisk {
        content: Arc<Mutex<Vec<u8>>>,
        room: usize,
    }

    impl Write for SmallDisk {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            let mut content = self.content.lock().unwrap();
            let fits = bytes.len().min(self.room - content.len());
            if fits == 0 {
                return Err(io::ErrorKind::StorageFull.into());
            }
            content.extend_from_slice(&bytes[..fits]);
            Ok(fits)
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    impl CaptureFile for SmallDisk {
        fn cut(&mut self, length: u64) -> io::Result<()> {
            self.content.lock().unwrap().truncate(length as usize);
            Ok(())
        }
    }

    fn frame() -> CapturedFrame {
        CapturedFrame {
            number: 0,
            at: Duration::from_millis(5),
            port: PortId(0),
            port_name: "p".into(),
            direction: Direction::In,
            vlan: None,
            dropped: None,
            bytes: Frame::new(&[7; 1000]),
        }
    }

    fn blocks(bytes: Vec<u8>) -> usize {
        let mut reader = pcap_file::pcapng::PcapNgReader::new(io::Cursor::new(bytes)).unwrap();
        let mut blocks = 0;
        while let Some(block) = reader.next_block() {
            block.unwrap();
            blocks += 1;
        }
        blocks
    }

    #[test]
    fn a_full_disk_is_reported_and_leaves_a_whole_file() {
        let content = Arc::new(Mutex::new(Vec::new()));
        let told = Arc::new(AtomicBool::new(false));
        let disk = SmallDisk { content: Arc::clone(&content), room: 3500 };
        let encoder = Encoder::new(SystemTime::UNIX_EPOCH, "sw", "");
        let mut capture = Capture::start(Path::new("x"), disk, FrameFilter::new(), encoder, {
            let told = Arc::clone(&told);
            move |_| told.store(true, Ordering::Relaxed)
        })
        .unwrap();
        for _ in 0..10 {
            capture.offer(&frame());
            capture.submit();
        }
        let report = capture.finish(LIMIT).unwrap();
        assert_eq!((report.frames, report.lost), (3, 7), "{report:?}");
        assert!(report.error.is_some() && told.load(Ordering::Relaxed));
        let content = content.lock().unwrap().clone();
        assert_eq!(content.len() as u64, report.bytes);
        assert_eq!(blocks(content), 1 + 3, "one interface, three frames, nothing half");
    }

    /// A disk that does not answer until it is told to.
    struct StuckDisk(mpsc::Receiver<()>, bool);

    impl Write for StuckDisk {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            if self.1 {
                let _: Result<(), mpsc::RecvError> = self.0.recv();
            }
            self.1 = true;
            Ok(bytes.len())
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    impl CaptureFile for StuckDisk {
        fn cut(&mut self, _: u64) -> io::Result<()> {
            Ok(())
        }
    }

    #[test]
    fn a_disk_that_hangs_costs_frames_and_not_memory() {
        let (release, stuck) = mpsc::channel();
        let encoder = Encoder::new(SystemTime::UNIX_EPOCH, "sw", "");
        let disk = StuckDisk(stuck, false);
        let mut capture = Capture::start(Path::new("x"), disk, FrameFilter::new(), encoder, |_| {}).unwrap();
        let fits = BACKLOG / (1000 + OVERHEAD);
        for _ in 0..fits + 100 {
            capture.offer(&frame());
            capture.submit();
        }
        assert_eq!(capture.report().lost, 100);
        drop(release);
        let report = capture.finish(LIMIT).unwrap();
        assert_eq!((report.frames, report.lost), (fits, 100));
    }
}
