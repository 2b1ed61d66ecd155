//! The side of a command-line tool: plain blocking sockets.

use std::io::{self, BufRead as _, BufReader, Read as _, Write as _};
use std::os::unix::net::UnixStream;
use std::path::Path;

use super::{Answer, MAX_ANSWER, Request};

/// How much of what is no answer stands in the error, in characters.
const SHOWN: usize = 200;

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
/// When there is no lab, when it ends before it has answered (`UnexpectedEof`, or the system's errors for a connection
/// that was closed), or when it does not answer in the protocol.
pub fn connect(run: &Path, request: &Request) -> io::Result<Connection> {
    let mut writer = UnixStream::connect(run.join("control"))?;
    let mut line = serde_json::to_vec(request)?;
    line.push(b'\n');
    writer.write_all(&line)?;
    let mut reader = BufReader::new(writer.try_clone()?);
    let mut text = String::new();
    (&mut reader).take(MAX_ANSWER).read_line(&mut text)?;
    if !text.ends_with('\n') {
        let cut = format!("the lab ended in the middle of its answer, after {} bytes", text.len());
        return Err(io::Error::new(io::ErrorKind::UnexpectedEof, cut));
    }
    let answer = serde_json::from_str(&text).map_err(|error| {
        let shown: String = text.chars().take(SHOWN).collect();
        io::Error::other(format!(
            "the lab, perhaps of another version, answered what is no answer: {error}; it begins {shown:?}"
        ))
    })?;
    Ok(Connection { answer, reader, writer })
}
