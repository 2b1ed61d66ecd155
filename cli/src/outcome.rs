//! What a subcommand's result means to the shell.

use std::fmt;
use std::io;
use std::process::ExitCode;

/// Marks an error as the fault of what the user gave: a bad file, an unknown name. It exits with 2.
///
/// Wrap where the input is read: `load(path).map_err(BadInput::new)?`.
#[derive(Debug)]
pub(crate) struct BadInput(anyhow::Error);

impl BadInput {
    /// Marks `error`; its text and its chain stay as they are.
    pub(crate) fn new(error: impl Into<anyhow::Error>) -> Self {
        Self(error.into())
    }
}

impl fmt::Display for BadInput {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl std::error::Error for BadInput {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        self.0.source()
    }
}

/// A command in a guest that ended with this code: it has said itself what was wrong.
#[derive(Debug)]
pub(crate) struct GuestExit(pub(crate) u8);

impl fmt::Display for GuestExit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "the command in the guest ended with {}", self.0)
    }
}

impl std::error::Error for GuestExit {}

/// Prints a failure on stderr and gives the exit code that `main` returns.
///
/// A reader that went away (`rackless … | head`) is no failure.
pub(crate) fn exit_code(result: anyhow::Result<()>) -> ExitCode {
    let Err(error) = result else { return ExitCode::SUCCESS };
    if error
        .chain()
        .any(|e| e.downcast_ref::<io::Error>().is_some_and(|e| e.kind() == io::ErrorKind::BrokenPipe))
    {
        return ExitCode::SUCCESS;
    }
    if let Some(GuestExit(code)) = error.downcast_ref() {
        return ExitCode::from(*code);
    }
    eprintln!("rackless: {error:#}");
    if error.chain().any(|e| e.is::<BadInput>()) { ExitCode::from(2) } else { ExitCode::FAILURE }
}
