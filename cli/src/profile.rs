//! `rackless profile`: list, show and render network profiles.

use clap::Subcommand;

use crate::outcome::BadInput;

/// What to do with network profiles.
#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Prints a profile.
    Show {
        /// A built-in profile's name.
        name: String,
    },
}

/// Runs one `rackless profile` command.
pub(crate) fn run(command: Command) -> anyhow::Result<()> {
    match command {
        Command::Show { name } => Err(BadInput::new(anyhow::anyhow!("no profile is named {name:?}")).into()),
    }
}
