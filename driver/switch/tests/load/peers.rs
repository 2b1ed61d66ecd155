//! Who is at the ports: crowds that flood, one who talks garbage, stations that talk to each other.

use std::io::{ErrorKind, Read, Write};
use std::os::fd::AsFd;
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::mpsc::Sender;
use std::time::{Duration, Instant};

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use switch::{Frame, MAX_FRAME, MIN_FRAME, StreamDecoder};

use super::{LIMIT, PROMPT};

const EVERYBODY: u8 = 0xff;
/// What a flooder sends again and again, in bytes: what QEMU's guests send, small and full.
const LENGTHS: [usize; 4] = [60, 60, 60, 1514];

/// What a peer did, by its own account.
#[derive(Debug, Default)]
pub(super) struct Account {
    /// The name of its port.
    pub(super) name: String,
    pub(super) broadcasts: u64,
    pub(super) unicasts: u64,
    /// Whom the unicasts went to.
    pub(super) peer: Option<String>,
    /// Whole frames that it read, if it counts them.
    pub(super) read: Option<u64>,
    pub(super) exchanges: u64,
    pub(super) bad_lengths: u64,
    pub(super) half_frames: u64,
}

fn frame(dst: u8, src: u8, number: u32, length: usize) -> Vec<u8> {
    let mac = |n: u8| if n == EVERYBODY { [0xff; 6] } else { [0x52, 0x54, 0, 0, 0, n] };
    let mut bytes = [&mac(dst)[..], &mac(src), b"\x88\xb5", &number.to_be_bytes()].concat();
    bytes.resize(length.max(MIN_FRAME), src);
    bytes
}

fn wire(frame: &[u8]) -> Vec<u8> {
    [&(frame.len() as u32).to_be_bytes()[..], frame].concat()
}

/// Reads once. False at the end of the stream.
fn read_once(mut socket: &UnixStream, decoder: &mut StreamDecoder) -> std::io::Result<bool> {
    match socket.read(decoder.space()) {
        Ok(bytes) => {
            decoder.filled(bytes);
            Ok(bytes > 0)
        }
        Err(error) if error.kind() == ErrorKind::ConnectionReset => Ok(false),
        Err(error) if error.kind() == ErrorKind::Interrupted => Ok(true),
        Err(error) => Err(error),
    }
}

/// Sends a burst of broadcasts again and again, as fast as its socket takes them.
pub(super) struct Flooder {
    socket: UnixStream,
    decoder: StreamDecoder,
    burst: Vec<u8>,
    frames: u64,
    /// How much of the burst is written.
    at: usize,
    ended: bool,
    account: Account,
}

impl Flooder {
    pub(super) fn new(name: String, mac: u8, socket: UnixStream) -> Flooder {
        socket.set_nonblocking(true).unwrap();
        let burst = LENGTHS.map(|length| wire(&frame(EVERYBODY, mac, 0, length))).concat().repeat(8);
        Flooder {
            socket,
            decoder: StreamDecoder::new(),
            burst,
            frames: 8 * LENGTHS.len() as u64,
            at: 0,
            ended: false,
            account: Account { name, read: Some(0), ..Account::default() },
        }
    }

    fn write(&mut self) {
        match (&self.socket).write(&self.burst[self.at..]) {
            Ok(bytes) => self.at += bytes,
            Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::Interrupted) => {}
            Err(error) => panic!("{}: {error}", self.account.name),
        }
        if self.at == self.burst.len() {
            self.at = 0;
            self.account.broadcasts += self.frames;
        }
    }

    fn read(&mut self) {
        self.ended = !read_once(&self.socket, &mut self.decoder).unwrap();
        while self.decoder.next_frame().expect("the switch sends whole frames").is_some() {
            *self.account.read.get_or_insert_default() += 1;
        }
        assert!(!self.ended || self.decoder.pending() == 0, "{}: half a frame", self.account.name);
    }
}

/// Floods until told, says so when each has sent its last frame whole, and reads until the switch closes.
pub(super) fn flood(mut crowd: Vec<Flooder>, flooding: &AtomicBool, quiet: &Sender<()>) -> Vec<Account> {
    let mut told = false;
    while !crowd.iter().all(|flooder| flooder.ended) {
        let flooding = flooding.load(Ordering::Relaxed);
        if !flooding && !told && crowd.iter().all(|flooder| flooder.at == 0) {
            quiet.send(()).unwrap();
            told = true;
        }
        let mut ready: Vec<PollFlags> = Vec::with_capacity(crowd.len());
        {
            let interest = |flooder: &Flooder| match (flooder.ended, flooding || flooder.at > 0) {
                (true, _) => PollFlags::empty(),
                (false, true) => PollFlags::POLLIN | PollFlags::POLLOUT,
                (false, false) => PollFlags::POLLIN,
            };
            let mut polled: Vec<PollFd<'_>> =
                crowd.iter().map(|flooder| PollFd::new(flooder.socket.as_fd(), interest(flooder))).collect();
            let limit = PollTimeout::try_from(LIMIT).unwrap();
            assert!(poll(&mut polled, limit).unwrap() > 0, "nothing to read nor to write for {LIMIT:?}");
            ready.extend(polled.iter().map(|fd| fd.revents().unwrap_or(PollFlags::empty())));
        }
        for (flooder, ready) in crowd.iter_mut().zip(ready) {
            if ready.contains(PollFlags::POLLOUT) && (flooding || flooder.at > 0) {
                flooder.write();
            }
            if ready.intersects(PollFlags::POLLIN | PollFlags::POLLHUP) && !flooder.ended {
                flooder.read();
            }
        }
    }
    crowd.into_iter().map(|flooder| flooder.account).collect()
}

/// Connects, sends a good frame and then what is none, again and again until told.
pub(super) fn talk_garbage(name: &str, path: &Path, flooding: &AtomicBool, quiet: &Sender<()>) -> Account {
    let mut account = Account { name: name.to_owned(), ..Account::default() };
    let bad_lengths = [0, MIN_FRAME as u32 - 1, MAX_FRAME as u32 + 1, 0x4745_5420, u32::MAX];
    for length in bad_lengths.map(Some).into_iter().chain([None]).cycle() {
        if !flooding.load(Ordering::Relaxed) {
            break;
        }
        let mut socket = UnixStream::connect(path).unwrap();
        let mut bytes = wire(&frame(EVERYBODY, 105, 0, 100));
        account.broadcasts += 1;
        match length {
            Some(length) => {
                account.bad_lengths += 1;
                bytes.extend(length.to_be_bytes());
            }
            // It leaves within a frame.
            None => {
                account.half_frames += 1;
                bytes.extend(&wire(&frame(EVERYBODY, 105, 0, 100))[..50]);
            }
        }
        socket.write_all(&bytes).unwrap();
        if length.is_some() {
            // What comes after it goes nowhere, if it can be written at all.
            let _ = socket.write_all(&bytes.repeat(100));
            socket.set_read_timeout(Some(LIMIT)).unwrap();
            let closed = loop {
                match socket.read(&mut [0; 65_536]) {
                    Ok(0) => break true,
                    Ok(_) => {}
                    Err(error) => break error.kind() == ErrorKind::ConnectionReset,
                }
            };
            assert!(closed, "the switch closes on a length of {length:?}");
        }
    }
    quiet.send(()).unwrap();
    account
}

/// Asks another station, or answers.
pub(super) struct Station {
    socket: UnixStream,
    decoder: StreamDecoder,
    mac: u8,
    peer: u8,
    number: u32,
    ended: bool,
    heard: Arc<AtomicU64>,
    pub(super) account: Account,
}

impl Station {
    pub(super) fn new(name: &str, mac: u8, peer: (&str, u8), socket: UnixStream) -> Station {
        socket.set_write_timeout(Some(LIMIT)).unwrap();
        let account = Account {
            name: name.to_owned(),
            peer: Some(peer.0.to_owned()),
            read: Some(0),
            ..Account::default()
        };
        let decoder = StreamDecoder::new();
        let heard = Arc::default();
        Station { socket, decoder, mac, peer: peer.1, number: 0, ended: false, heard, account }
    }

    /// How many frames it has read, and answered where they were for it.
    pub(super) fn heard(&self) -> Arc<AtomicU64> {
        Arc::clone(&self.heard)
    }

    /// Lets the switch learn where it is.
    pub(super) fn announce(&mut self) {
        self.socket.write_all(&wire(&frame(EVERYBODY, self.mac, 0, 60))).unwrap();
        self.account.broadcasts += 1;
    }

    fn send(&mut self, number: u32) {
        self.account.unicasts += 1;
        let bytes = wire(&frame(self.peer, self.mac, number, 60));
        self.socket.write_all(&bytes).expect("the switch always reads");
    }

    /// Asks, again and again after `again`, and answers how long it took until the answer.
    pub(super) fn ask(&mut self, again: Duration) -> Duration {
        let start = Instant::now();
        self.number += 1;
        while start.elapsed() < PROMPT {
            self.send(self.number);
            let until = Instant::now() + again;
            while let Some(number) = self.recv(until) {
                if number == self.number {
                    self.account.exchanges += 1;
                    return start.elapsed();
                }
            }
        }
        panic!("{}: no answer within {PROMPT:?}: {:#?}", self.account.name, self.account);
    }

    /// Answers until the switch closes.
    pub(super) fn answer_to_the_end(&mut self) {
        while let Some(number) = self.recv(Instant::now() + LIMIT) {
            self.send(number);
        }
        assert!(self.ended, "{}: nothing came for {LIMIT:?}", self.account.name);
    }

    pub(super) fn read_to_the_end(mut self) -> Account {
        while self.recv(Instant::now() + LIMIT).is_some() {}
        assert!(self.ended, "{}: the switch has not closed for {LIMIT:?}", self.account.name);
        self.account
    }

    /// The number of the next frame that is for this station alone; `None` at the end of the stream or of time.
    fn recv(&mut self, until: Instant) -> Option<u32> {
        loop {
            while let Some(frame) = self.decoder.next_frame().expect("the switch sends whole frames") {
                *self.account.read.get_or_insert_default() += 1;
                if let Some(number) = self.is_for_me(&frame) {
                    return Some(number);
                }
            }
            self.heard.store(self.account.read.unwrap_or(0), Ordering::Release);
            let left = until.saturating_duration_since(Instant::now()).max(Duration::from_micros(1));
            self.socket.set_read_timeout(Some(left)).unwrap();
            match read_once(&self.socket, &mut self.decoder) {
                Ok(true) => {}
                Ok(false) => {
                    self.ended = true;
                    return None;
                }
                Err(error) if error.kind() == ErrorKind::WouldBlock && Instant::now() >= until => {
                    return None;
                }
                Err(error) if error.kind() == ErrorKind::WouldBlock => {}
                Err(error) => panic!("{}: {error}", self.account.name),
            }
        }
    }

    fn is_for_me(&self, frame: &Frame) -> Option<u32> {
        let number = frame.get(14..18)?.try_into().ok()?;
        (frame[..6] == [0x52, 0x54, 0, 0, 0, self.mac]).then(|| u32::from_be_bytes(number))
    }
}
