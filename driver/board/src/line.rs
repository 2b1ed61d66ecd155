//! A board's serial line as a stream: a terminal device, RFC 2217, or raw TCP.

use std::io;
use std::time::{Duration, Instant};

use shell::tty::{Mode, Tty};
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _, DuplexStream};
use tokio::net::TcpStream;

use crate::config::{Board, Line};
use crate::error::Error;
use crate::rfc2217::Session;

/// A byte stream both ways.
pub trait Stream: AsyncRead + AsyncWrite + Send + Unpin {}

impl<T: AsyncRead + AsyncWrite + Send + Unpin> Stream for T {}

/// What an RFC 2217 line holds for a reader that is late. What is more waits at the server.
const BUFFER: usize = 64 << 10;

/// Opens the line. A device is this process's alone until it is dropped.
///
/// # Errors
/// [`Error::Line`], [`Error::Refused`], [`Error::ServerSilent`].
pub async fn open(board: &Board, limit: Duration) -> Result<Box<dyn Stream>, Error> {
    let failed = |source| Error::Line { board: board.name.clone(), line: board.line.clone(), source };
    match &board.line {
        Line::Device(path) => Ok(Box::new(Tty::open(path, &board.mode).map_err(failed)?)),
        Line::Tcp(address) => Ok(Box::new(connect(address, limit).await.map_err(failed)?)),
        Line::Rfc2217(address) => {
            let begun = Instant::now();
            let mut stream = connect(address, limit).await.map_err(failed)?;
            let left = limit.saturating_sub(begun.elapsed());
            let mut session = Session::new(&board.mode);
            let mut early = Vec::new();
            let agreed = tokio::time::timeout(left, agree(&mut stream, &mut session, &mut early)).await;
            if let Some(refusal) = session.refusal() {
                let (board, line) = (board.name.clone(), board.line.clone());
                return Err(Error::Refused { board, line, refusal: refusal.clone() });
            }
            match agreed {
                Ok(agreed) => agreed.map_err(failed)?,
                Err(_) => {
                    let open = session.open().iter().map(ToString::to_string).collect::<Vec<_>>().join(", ");
                    let (board, line, elapsed) = (board.name.clone(), board.line.clone(), begun.elapsed());
                    return Err(Error::ServerSilent { board, line, elapsed, open });
                }
            }
            let (ours, theirs) = tokio::io::duplex(BUFFER);
            tokio::spawn(relay(stream, session, early, theirs));
            Ok(Box::new(ours))
        }
    }
}

async fn connect(address: &str, limit: Duration) -> io::Result<TcpStream> {
    let connected = tokio::time::timeout(limit, TcpStream::connect(address)).await;
    let stream = connected.unwrap_or_else(|_| {
        Err(io::Error::new(
            io::ErrorKind::TimedOut,
            format!("no connection within {:.1} s", limit.as_secs_f64()),
        ))
    })?;
    // Keys are small, and a boot loader waits for them a second or two.
    stream.set_nodelay(true)?;
    Ok(stream)
}

/// Sets the port. What it says meanwhile is kept.
async fn agree(stream: &mut TcpStream, session: &mut Session, early: &mut Vec<u8>) -> io::Result<()> {
    stream.write_all(&session.begin()).await?;
    let mut chunk = vec![0; 4 << 10];
    while !session.is_ready() && session.refusal().is_none() {
        let count = stream.read(&mut chunk).await?;
        if count == 0 {
            return Err(io::Error::new(
                io::ErrorKind::UnexpectedEof,
                "the server closed the connection at once",
            ));
        }
        let received = session.receive(&chunk[..count]);
        early.extend(received.data);
        stream.write_all(&received.reply).await?;
    }
    Ok(())
}

/// Carries bytes between the server and the stream that the caller holds, until either is closed.
async fn relay(stream: TcpStream, mut session: Session, early: Vec<u8>, near: DuplexStream) {
    let (mut from_server, mut to_server) = stream.into_split();
    let (mut from_near, mut to_near) = tokio::io::split(near);
    let (mut typed, mut came) = (vec![0; 4 << 10], vec![0; 16 << 10]);
    let carried = async {
        to_near.write_all(&early).await?;
        loop {
            let suspended = session.is_suspended();
            tokio::select! {
                count = from_server.read(&mut came) => {
                    let count = count?;
                    if count == 0 || session.refusal().is_some() {
                        return Ok(());
                    }
                    let received = session.receive(&came[..count]);
                    to_server.write_all(&received.reply).await?;
                    to_near.write_all(&received.data).await?;
                }
                count = from_near.read(&mut typed), if !suspended => {
                    let count = count?;
                    if count == 0 {
                        return Ok(());
                    }
                    to_server.write_all(&session.send(&typed[..count])).await?;
                }
            }
        }
    };
    let ended: io::Result<()> = carried.await;
    if let Err(error) = ended {
        tracing::debug!("an RFC 2217 line ended: {error}");
    }
}

/// The mode in the words of serial ports: `115200 8N1`.
#[must_use]
pub fn mode_text(mode: &Mode) -> String {
    use shell::tty::{FlowControl, Parity, StopBits};
    let parity = match mode.parity {
        Parity::None => 'N',
        Parity::Even => 'E',
        Parity::Odd => 'O',
    };
    let stop = if mode.stop_bits == StopBits::One { 1 } else { 2 };
    let flow = if mode.flow == FlowControl::Hardware { ", RTS/CTS" } else { "" };
    format!("{} {}{parity}{stop}{flow}", mode.speed, mode.data_bits)
}
