//! Commands that need root: shown first, asked for once, through sudo when we are not root.

use anyhow::{Result, anyhow, bail, ensure};

use super::host::Host;
use crate::command::{Command, confirm, in_ci, interactive};
use crate::workspace;

/// How the user wants it.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Consent {
    /// Don't ask.
    pub(crate) yes: bool,
    /// Show, change nothing.
    pub(crate) dry_run: bool,
}

/// Runs commands as root.
pub(crate) struct Privileged {
    superuser: bool,
    consent: Consent,
    /// What the commands lead to, for the question.
    about: String,
}

impl Privileged {
    pub(crate) fn new(host: &Host, consent: Consent) -> Self {
        Self { superuser: host.superuser, consent, about: String::new() }
    }

    pub(crate) fn about(&mut self, what: &str) {
        what.clone_into(&mut self.about);
    }

    pub(crate) fn dry_run(&self) -> bool {
        self.consent.dry_run
    }

    /// Shows `command`, asks unless that was done, runs it.
    ///
    /// # Errors
    /// Refused, nobody to ask, no sudo, or the command failed.
    pub(crate) fn run(&mut self, command: &Command) -> Result<()> {
        self.attempt(command)?
    }

    /// The same with the command's own failure inside, for a caller who can go on without it.
    ///
    /// # Errors
    /// Refused, nobody to ask, or no sudo.
    pub(crate) fn attempt(&mut self, command: &Command) -> Result<Result<()>> {
        let someone = interactive();
        let command = if self.superuser {
            command.clone()
        } else {
            ensure!(
                self.consent.dry_run || workspace::program("sudo").is_some(),
                "this needs root and there is no sudo; as root, run: {command}"
            );
            let quiet = if someone { &[][..] } else { &["--non-interactive"][..] };
            Command::new("sudo").args(quiet).before(command)
        };
        if self.consent.dry_run {
            println!("would run: {command}");
            return Ok(Ok(()));
        }
        println!("+ {command}");
        if !self.consent.yes && someone {
            ensure!(
                confirm(&format!("Run this, to set up {}?", self.about))?,
                "refused: nothing was changed"
            );
        } else if !self.consent.yes && !self.superuser && !in_ci() {
            bail!("this needs root and nobody can be asked: run the line above yourself, or use --yes");
        }
        self.consent.yes = true;
        let status = command.run()?;
        Ok(if status.success() { Ok(()) } else { Err(anyhow!("`{command}` failed ({status})")) })
    }
}
