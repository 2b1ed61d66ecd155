//! A terminal device as a stream: a serial port, or a pty.

use std::io;
use std::os::fd::OwnedFd;
use std::path::Path;
use std::pin::Pin;
use std::task::{Context, Poll};

use rustix::fs::OFlags;
use rustix::termios::{ControlModes, OptionalActions, Termios, tcgetattr, tcsetattr};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::unix::pipe;

/// What keeps a sender from overrunning the receiver of a serial line.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum FlowControl {
    /// Nothing: most boards' consoles have three wires.
    #[default]
    None,
    /// RTS and CTS.
    Hardware,
}

/// The bit that is added to each character, if one is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Parity {
    /// None is.
    #[default]
    None,
    /// The ones are an even number.
    Even,
    /// The ones are an odd number.
    Odd,
}

/// What is between two characters.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum StopBits {
    /// One bit's time.
    #[default]
    One,
    /// Two.
    Two,
}

/// How characters are on a serial line.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Mode {
    /// In baud.
    pub speed: u32,
    /// Bits in a character: 7 or 8.
    pub data_bits: u8,
    /// The parity.
    pub parity: Parity,
    /// The stop bits.
    pub stop_bits: StopBits,
    /// The flow control.
    pub flow: FlowControl,
}

impl Mode {
    /// What nearly all consoles have: 8 bits, no parity, one stop bit, no flow control.
    #[must_use]
    pub fn new(speed: u32) -> Self {
        Self { speed, data_bits: 8, parity: Parity::None, stop_bits: StopBits::One, flow: FlowControl::None }
    }
}

/// An open terminal.
///
/// tokio's pipes do the polling: they take any file that epoll takes, and are its only stream of that kind which needs no
/// `unsafe` of the caller.
#[derive(Debug)]
pub struct Tty {
    reader: pipe::Receiver,
    writer: pipe::Sender,
}

impl Tty {
    /// Opens a serial device: raw, and for this process alone (TIOCEXCL). Needs a tokio runtime.
    ///
    /// # Errors
    /// If it isn't there, isn't a terminal, can't do the mode, or is open elsewhere.
    pub fn open(path: &Path, mode: &Mode) -> io::Result<Self> {
        let flags = OFlags::RDWR | OFlags::NOCTTY | OFlags::NONBLOCK | OFlags::CLOEXEC;
        let fd = rustix::fs::open(path, flags, rustix::fs::Mode::empty())?;
        rustix::termios::ioctl_tiocexcl(&fd)?;
        let mut termios = tcgetattr(&fd)?;
        termios.make_raw();
        termios.set_speed(mode.speed)?;
        let modes = &mut termios.control_modes;
        modes.insert(ControlModes::CLOCAL | ControlModes::CREAD);
        modes.remove(ControlModes::CSIZE);
        modes.insert(if mode.data_bits == 7 { ControlModes::CS7 } else { ControlModes::CS8 });
        modes.set(ControlModes::PARENB, mode.parity != Parity::None);
        modes.set(ControlModes::PARODD, mode.parity == Parity::Odd);
        modes.set(ControlModes::CSTOPB, mode.stop_bits == StopBits::Two);
        modes.set(ControlModes::CRTSCTS, mode.flow == FlowControl::Hardware);
        tcsetattr(&fd, OptionalActions::Now, &termios)?;
        // What the driver can't do it leaves out without an error (tcsetattr(3)).
        let is = tcgetattr(&fd)?;
        check(&termios, &is)?;
        Self::from_fd(fd)
    }

    /// A terminal that is open already, as it is: the near end of a pty.
    ///
    /// # Errors
    /// If it can't be polled.
    pub fn from_fd(fd: OwnedFd) -> io::Result<Self> {
        let flags = rustix::fs::fcntl_getfl(&fd)?;
        rustix::fs::fcntl_setfl(&fd, flags | OFlags::NONBLOCK)?;
        let writer = pipe::Sender::from_file_unchecked(fd.try_clone()?.into())?;
        Ok(Self { reader: pipe::Receiver::from_file_unchecked(fd.into())?, writer })
    }
}

fn check(wanted: &Termios, is: &Termios) -> io::Result<()> {
    let refused = |what: String| Err(io::Error::new(io::ErrorKind::Unsupported, what));
    if wanted.output_speed() != is.output_speed() {
        return refused(format!(
            "its driver can't do {} baud: it stays at {}",
            wanted.output_speed(),
            is.output_speed()
        ));
    }
    let ignored = [
        (ControlModes::CRTSCTS, "hardware flow control"),
        (ControlModes::PARENB, "parity"),
        (ControlModes::CSTOPB, "second stop bit"),
    ]
    .into_iter()
    .find(|(mode, _)| wanted.control_modes.contains(*mode) && !is.control_modes.contains(*mode));
    match ignored {
        Some((_, what)) => refused(format!("its driver has no {what}")),
        None => Ok(()),
    }
}

impl AsyncRead for Tty {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        match Pin::new(&mut self.reader).poll_read(context, buffer) {
            // The far end of a pty is closed: an end as any other.
            Poll::Ready(Err(error)) if error.raw_os_error() == Some(rustix::io::Errno::IO.raw_os_error()) => {
                Poll::Ready(Ok(()))
            }
            read => read,
        }
    }
}

impl AsyncWrite for Tty {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        data: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.writer).poll_write(context, data)
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }
}
