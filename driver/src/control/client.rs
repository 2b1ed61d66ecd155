//! The side of a command-line tool: plain blocking sockets.

use std::io::{self, BufRead as _, BufReader, Read as _, Write as _};
use std::os::unix::net::UnixStream;
use std::path::Path;

use super::{Answer, MAX_LINE, Request};

/// A connection whose request was answered.
#[derive(Debug)]
pub struct Connection {
    /// The answer.
    pub answer: Answer,
    /// The raw bytes, from the lab.
    pub reader: BufReader<UnixStream>,
    /// The raw bytes, to the lab.
    pub writer: UnixStream,
}

/// Sends a request to the lab whose run directory is `run`.
///
/// # Errors
/// When there is no lab, or it does not answer in the protocol.
pub fn connect(run: &Path, request: &Request) -> io::Result<Connection> {
    let mut writer = UnixStream::connect(run.join("control"))?;
    let mut line = serde_json::to_vec(request)?;
    line.push(b'\n');
    writer.write_all(&line)?;
    let mut reader = BufReader::new(writer.try_clone()?);
    let mut text = String::new();
    (&mut reader).take(MAX_LINE).read_line(&mut text)?;
    let answer = serde_json::from_str(&text)
        .map_err(|e| io::Error::other(format!("the lab answered {text:?}, which is no answer: {e}")))?;
    Ok(Connection { answer, reader, writer })
}
