//! Getting into a machine of a running lab: its shell, its serial console, its monitor.

use std::io::{self, IsTerminal as _, Read as _, Write as _};
use std::net::Shutdown;
use std::os::unix::net::UnixStream;

use anyhow::{Context as _, bail};
use clap::Args;
use driver::control::{Answer, Connection, Piece, Request, connect};
use rustix::termios::{self, OptionalActions, Termios};

use crate::outcome::GuestExit;
use crate::runs::Target;

/// Ctrl-]: leaves a console, as telnet and virsh have it.
const ESCAPE: u8 = 0x1d;

/// `rackless shell`.
#[derive(Debug, Args)]
pub(crate) struct Shell {
    #[command(flatten)]
    target: Target,
    /// A command and its arguments, instead of a login shell
    #[arg(last = true)]
    command: Vec<String>,
}

/// Opens a shell in the guest, through the agent. Ends as what ran in it ended.
pub(crate) fn shell(command: Shell) -> anyhow::Result<()> {
    let (run, machine) = command.target.find()?;
    let (columns, rows) = size();
    let request = Request::Shell { machine: machine.name, argv: command.command, columns, rows };
    let connection = connect(&run.path, &request).context("the lab's control socket")?;
    served(&connection)?;
    match show_pieces(connection).context("the shell was cut off: the machine or its lab is gone")? {
        0 => Ok(()),
        code => Err(GuestExit(code).into()),
    }
}

/// Copies both ways until the command ends; its exit code.
fn show_pieces(mut connection: Connection) -> io::Result<u8> {
    let _raw = Raw::enter();
    let writer = connection.writer;
    std::thread::spawn(move || type_into(writer, None));
    loop {
        match Piece::read(&mut connection.reader)? {
            Piece::Output(bytes) => show(&bytes)?,
            Piece::Ended(code) => return Ok(code),
        }
    }
}

/// Joins the serial console.
pub(crate) fn console(target: &Target) -> anyhow::Result<()> {
    let (run, machine) = target.find()?;
    let connection = connect(&run.path, &Request::Console { machine: machine.name })?;
    served(&connection)?;
    if io::stdin().is_terminal() {
        eprintln!("console of {}: Ctrl-] leaves\r", target.machine());
    }
    let _raw = Raw::enter();
    copy_both(connection.reader, connection.writer, Some(ESCAPE))
}

/// Joins the second monitor: QMP, one JSON object a line.
pub(crate) fn qmp(target: &Target) -> anyhow::Result<()> {
    let (_, machine) = target.find()?;
    let mut stream = UnixStream::connect(&machine.monitor)
        .with_context(|| format!("the monitor of {} at {}", machine.name, machine.monitor.display()))?;
    stream.write_all(b"{\"execute\":\"qmp_capabilities\"}\n")?;
    let reader = stream.try_clone()?;
    copy_both(reader, stream, None)
}

fn served(connection: &Connection) -> anyhow::Result<()> {
    match &connection.answer {
        Answer::Ok => Ok(()),
        Answer::Error { message } => bail!("{message}"),
        Answer::Machines { .. } | Answer::Switch { .. } | Answer::Frames { .. } => {
            bail!("the lab gave an answer to something else")
        }
    }
}

/// Copies until the lab closes its side, or `escape` is typed.
fn copy_both(mut reader: impl io::Read, writer: UnixStream, escape: Option<u8>) -> anyhow::Result<()> {
    // Ends with the process: a blocked read of a terminal can't be called off.
    std::thread::spawn(move || type_into(writer, escape));
    let mut bytes = [0; 16 * 1024];
    loop {
        match reader.read(&mut bytes) {
            Ok(0) => return Ok(()),
            Ok(count) => show(&bytes[..count])?,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error.into()),
        }
    }
}

fn show(bytes: &[u8]) -> io::Result<()> {
    let mut stdout = io::stdout();
    stdout.write_all(bytes)?;
    stdout.flush()
}

fn type_into(mut writer: UnixStream, escape: Option<u8>) {
    let mut bytes = [0; 4096];
    while let Ok(count) = io::stdin().read(&mut bytes) {
        let typed = &bytes[..count];
        if escape.is_some_and(|escape| typed.contains(&escape)) {
            let _ = writer.shutdown(Shutdown::Both);
            return;
        }
        if count == 0 {
            // What is still to come is shown: only our side is done.
            let _ = writer.shutdown(Shutdown::Write);
            return;
        }
        if writer.write_all(typed).is_err() {
            return;
        }
    }
}

/// The terminal in raw mode, until dropped. Nothing happens where stdin is no terminal.
struct Raw(Option<Termios>);

impl Raw {
    fn enter() -> Self {
        let stdin = io::stdin();
        if !stdin.is_terminal() {
            return Self(None);
        }
        let Ok(before) = termios::tcgetattr(&stdin) else { return Self(None) };
        let mut raw = before.clone();
        raw.make_raw();
        let set = termios::tcsetattr(&stdin, OptionalActions::Now, &raw);
        Self(set.is_ok().then_some(before))
    }
}

impl Drop for Raw {
    fn drop(&mut self) {
        if let Some(before) = &self.0 {
            let _ = termios::tcsetattr(io::stdin(), OptionalActions::Now, before);
        }
    }
}

/// The size of the terminal, or the classic one.
fn size() -> (u16, u16) {
    match termios::tcgetwinsize(io::stdout()) {
        Ok(size) if size.ws_col > 0 && size.ws_row > 0 => (size.ws_col, size.ws_row),
        _ => (80, 24),
    }
}
