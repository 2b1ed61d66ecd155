//! Power: the commands of a board's file.

use std::fmt;
use std::time::{Duration, Instant};

use crate::config::{Board, Command, PowerSpec};
use crate::error::Error;
use crate::wait::pause;

/// The longest pause between two looks at the state.
const PAUSE: Duration = Duration::from_secs(1);

/// Whether a board has power.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum State {
    /// It has.
    On,
    /// It has not.
    Off,
}

impl fmt::Display for State {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::On => "on",
            Self::Off => "off",
        })
    }
}

/// The power of one board.
#[derive(Debug, Clone)]
pub struct Power {
    board: String,
    spec: PowerSpec,
}

impl Power {
    /// That of this board.
    #[must_use]
    pub fn of(board: &Board) -> Self {
        Self { board: board.name.clone(), spec: board.power.clone() }
    }

    /// Whether it is on; `None` where the file has no command for that.
    ///
    /// # Errors
    /// [`Error::Power`] when the command fails, [`Error::PowerUnknown`].
    pub async fn state(&self) -> Result<Option<State>, Error> {
        let Some(command) = &self.spec.state else { return Ok(None) };
        let said = self.run("state", command).await?;
        let is = |pattern: &crate::Pattern| pattern.compile().is_match(said.trim_end());
        match (is(&self.spec.is_on), is(&self.spec.is_off)) {
            (true, false) => Ok(Some(State::On)),
            (false, true) => Ok(Some(State::Off)),
            _ => Err(Error::PowerUnknown {
                board: self.board.clone(),
                command: line(command),
                is_on: self.spec.is_on.to_string(),
                is_off: self.spec.is_off.to_string(),
                said,
            }),
        }
    }

    /// Turns it on, so that it boots from the start: a board that is on, or of which nobody knows, is turned off before.
    ///
    /// # Errors
    /// [`Error::Power`], [`Error::PowerUnknown`], [`Error::PowerStuck`].
    pub async fn boot(&self) -> Result<(), Error> {
        match self.state().await? {
            Some(State::Off) => self.on().await,
            _ => self.cycle().await,
        }
    }

    /// Turns it off, and waits as long as the file says.
    ///
    /// # Errors
    /// As [`Power::boot`].
    pub async fn off(&self) -> Result<(), Error> {
        self.run("off", &self.spec.off).await?;
        self.wait_for(State::Off).await?;
        pause(self.spec.after_off).await;
        Ok(())
    }

    /// Turns it off and on.
    ///
    /// # Errors
    /// As [`Power::boot`].
    pub async fn cycle(&self) -> Result<(), Error> {
        match &self.spec.cycle {
            Some(cycle) => {
                self.run("off and on", cycle).await?;
                self.wait_for(State::On).await?;
                pause(self.spec.after_on).await;
                Ok(())
            }
            None => {
                self.off().await?;
                self.on().await
            }
        }
    }

    async fn on(&self) -> Result<(), Error> {
        self.run("on", &self.spec.on).await?;
        self.wait_for(State::On).await?;
        pause(self.spec.after_on).await;
        Ok(())
    }

    /// Power supplies take their time after the command has ended.
    async fn wait_for(&self, wanted: State) -> Result<(), Error> {
        let begun = Instant::now();
        let mut between = Duration::from_millis(20);
        loop {
            match self.state().await? {
                None => return Ok(()),
                Some(state) if state == wanted => return Ok(()),
                Some(_) => {}
            }
            if begun.elapsed() >= self.spec.within {
                let wanted = if wanted == State::On { "on" } else { "off" };
                return Err(Error::PowerStuck {
                    board: self.board.clone(),
                    wanted,
                    elapsed: begun.elapsed(),
                });
            }
            pause(between).await;
            between = (between * 2).min(PAUSE);
        }
    }

    async fn run(&self, operation: &'static str, command: &Command) -> Result<String, Error> {
        let command = match command {
            Command::Line(line) => process::Command::new("sh").args(["-c", line]),
            Command::Argv(argv) => process::Command::new(&argv[0]).args(&argv[1..]),
        };
        let failed = |source| Error::Power { board: self.board.clone(), operation, source: Box::new(source) };
        let output = process::run(command, self.spec.within).await.and_then(process::Output::checked);
        Ok(output.map_err(failed)?.stdout_text().trim_end().to_owned())
    }
}

fn line(command: &Command) -> String {
    match command {
        Command::Line(line) => line.clone(),
        Command::Argv(argv) => argv.join(" "),
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;

    /// A board whose power is a file: there or not. What was done is in `log`.
    fn board(folder: &Path, more: &str) -> Power {
        let text = format!(
            "[serial]\ntcp = \"x:1\"\n[power]\non = \"cd {0} && echo on >> log && touch power\"\n\
             off = [\"sh\", \"-c\", \"cd {0} && echo off >> log && rm -f power\"]\nafter_off = \"10ms\"\n{more}\n",
            folder.display()
        );
        Power::of(&Board::parse(&text, Path::new("orin.toml")).expect("a board"))
    }

    fn with_state(folder: &Path) -> String {
        format!("state = \"test -e {}/power && echo power: on || echo power: off\"", folder.display())
    }

    fn log(folder: &Path) -> String {
        fs_err::read_to_string(folder.join("log")).unwrap_or_default().replace('\n', " ")
    }

    #[tokio::test]
    async fn a_board_that_is_on_boots_from_the_start() {
        let folder = tempfile::tempdir().expect("a folder");
        let power = board(folder.path(), &with_state(folder.path()));
        assert_eq!(power.state().await.expect("a state"), Some(State::Off));
        power.boot().await.expect("on");
        assert_eq!(power.state().await.expect("a state"), Some(State::On));
        power.boot().await.expect("off and on");
        power.off().await.expect("off");
        assert_eq!(log(folder.path()), "on off on off ");
    }

    #[tokio::test]
    async fn without_a_state_nothing_is_believed() {
        let folder = tempfile::tempdir().expect("a folder");
        let power = board(folder.path(), "");
        assert_eq!(power.state().await.expect("none"), None);
        power.boot().await.expect("off and on");
        assert_eq!(log(folder.path()), "off on ");
    }

    #[tokio::test]
    async fn a_command_that_fails_or_hangs_says_which_and_why() {
        let folder = tempfile::tempdir().expect("a folder");
        let text = "state = \"echo no such outlet >&2; exit 3\"";
        let error = board(folder.path(), text).boot().await.expect_err("no state").to_string();
        for part in ["orin: turning its power state", "no such outlet", "3"] {
            assert!(error.contains(part), "{error}");
        }
        let text = "state = [\"sleep\", \"1000\"]\nwithin = \"100ms\"";
        let begun = Instant::now();
        let error = board(folder.path(), text).boot().await.expect_err("it hangs").to_string();
        assert!(error.contains("sleep 1000") && begun.elapsed() < Duration::from_secs(10), "{error}");
        let text = "state = \"echo maybe\"";
        let error = board(folder.path(), text).boot().await.expect_err("neither").to_string();
        assert!(error.contains("neither") && error.contains("maybe"), "{error}");
    }

    #[tokio::test]
    async fn power_that_stays_off_is_told() {
        let folder = tempfile::tempdir().expect("a folder");
        let power = board(folder.path(), "state = \"echo off\"\nwithin = \"1s\"");
        let error = power.boot().await.expect_err("stuck");
        assert!(matches!(error, Error::PowerStuck { wanted: "on", .. }), "{error}");
        assert_eq!(error.class(), crate::Class::Timeout);
    }
}
