//! The dialogue with a boot loader: something is waited for, and answered, step by step.

use std::fmt;
use std::time::{Duration, Instant};

use regex::Regex;

use crate::config::{BootDialogue, Pattern, Prompts, Send, Step};
use crate::error::Error;
use shell::Login;

/// How a wait on a line ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Waited {
    /// It came. What it is counts as read.
    Came,
    /// It did not come in time.
    NotYet,
    /// Nothing comes any more.
    Closed(String),
}

/// A line that somebody reads and types on.
pub trait Talk {
    /// Waits for a text after all that was waited for before, without escape sequences.
    fn expect(
        &mut self,
        pattern: &Regex,
        limit: Duration,
    ) -> impl Future<Output = Waited> + std::marker::Send;

    /// Types, in order.
    ///
    /// # Errors
    /// Why not.
    fn send(&mut self, bytes: Vec<u8>) -> Result<(), String>;
}

/// Holds the dialogue. At most `limit` for all of it, and what a step says for the step. `told` hears of each step that
/// came.
///
/// # Errors
/// [`Error::Dialogue`] or [`Error::Closed`].
pub async fn hold(
    board: &str,
    steps: &[Step],
    limit: Duration,
    talk: &mut impl Talk,
    mut told: impl FnMut(&str) + std::marker::Send,
) -> Result<(), Error> {
    let begun = Instant::now();
    let mut again: Option<(&[Send], Duration)> = None;
    for (index, step) in steps.iter().enumerate() {
        let here = Here { board, step: index + 1, step_spec: step };
        if let Some(pattern) = &step.expect {
            let left = limit.saturating_sub(begun.elapsed());
            wait(&here, pattern, step.within.min(left), again, talk).await?;
            told(&here.to_string());
        }
        send(&here, &step.send, talk)?;
        again = step.every.map(|every| (step.send.as_slice(), every));
    }
    Ok(())
}

/// The steps of a login that asks in words of its own.
#[must_use]
pub fn login_steps(boot: &BootDialogue, login: &Login, prompts: &Prompts) -> Vec<Step> {
    let step = |expect: &Pattern, text: Option<&str>| Step {
        expect: Some(expect.clone()),
        send: text.map(|text| Send::Text(format!("{text}\r"))).into_iter().collect(),
        every: None,
        within: boot.within,
    };
    let password = Some(login.password.as_str()).filter(|password| !password.is_empty());
    let mut steps = vec![step(&prompts.user, Some(&login.user))];
    steps.extend(password.map(|password| step(&prompts.password, Some(password))));
    steps.push(step(&prompts.shell, None));
    steps
}

struct Here<'a> {
    board: &'a str,
    step: usize,
    step_spec: &'a Step,
}

impl fmt::Display for Here<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "step {} of the boot dialogue: {}", self.step, self.expected())
    }
}

impl Here<'_> {
    fn expected(&self) -> String {
        self.step_spec.expect.as_ref().map_or_else(|| "nothing".to_owned(), ToString::to_string)
    }

    fn closed(&self, reason: String) -> Error {
        Error::Closed { board: self.board.to_owned(), step: self.step, expected: self.expected(), reason }
    }
}

async fn wait(
    here: &Here<'_>,
    pattern: &Pattern,
    limit: Duration,
    again: Option<(&[Send], Duration)>,
    talk: &mut impl Talk,
) -> Result<(), Error> {
    let pattern = pattern.compile();
    let begun = Instant::now();
    loop {
        let left = limit.saturating_sub(begun.elapsed());
        let piece = again.map_or(left, |(_, every)| every.min(left));
        match talk.expect(&pattern, piece).await {
            Waited::Came => return Ok(()),
            Waited::Closed(reason) => return Err(here.closed(reason)),
            Waited::NotYet if begun.elapsed() >= limit => {
                return Err(Error::Dialogue {
                    board: here.board.to_owned(),
                    step: here.step,
                    expected: here.expected(),
                    elapsed: begun.elapsed(),
                });
            }
            Waited::NotYet => {
                if let Some((what, _)) = again {
                    send(here, what, talk)?;
                }
            }
        }
    }
}

fn send(here: &Here<'_>, what: &[Send], talk: &mut impl Talk) -> Result<(), Error> {
    for piece in what {
        talk.send(piece.bytes()).map_err(|reason| here.closed(reason))?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;
    use crate::Board;

    /// A boot loader of a few lines: what it has said and not been read of, and its answers.
    struct Loader<F> {
        said: String,
        typed: Vec<u8>,
        answer: F,
    }

    impl<F: FnMut(&[u8]) -> &'static str + std::marker::Send> Talk for Loader<F> {
        async fn expect(&mut self, pattern: &Regex, limit: Duration) -> Waited {
            match pattern.find(&self.said).map(|found| found.end()) {
                Some(end) => {
                    self.said.drain(..end);
                    Waited::Came
                }
                None if self.said.ends_with("bye") => Waited::Closed("it hung up".into()),
                None => {
                    crate::wait::pause(limit).await;
                    Waited::NotYet
                }
            }
        }

        fn send(&mut self, bytes: Vec<u8>) -> Result<(), String> {
            self.typed.extend(&bytes);
            self.said += (self.answer)(&bytes);
            Ok(())
        }
    }

    fn steps(dialogue: &str) -> BootDialogue {
        let text = format!("[serial]\ntcp = \"x:1\"\n[power]\non = \"on\"\noff = \"off\"\n{dialogue}");
        Board::parse(&text, Path::new("orin.toml")).expect("a board").boot
    }

    async fn held<F>(dialogue: &str, loader: &mut Loader<F>) -> Result<Vec<String>, Error>
    where
        F: FnMut(&[u8]) -> &'static str + std::marker::Send,
    {
        let boot = steps(dialogue);
        let mut told = Vec::new();
        hold("orin", &boot.steps, boot.within, loader, |step| told.push(step.to_owned())).await?;
        Ok(told)
    }

    #[tokio::test]
    async fn a_boot_is_interrupted_its_environment_set_and_an_entry_chosen() {
        let answer = |typed: &[u8]| match typed {
            b" " => "\n=> ",
            b"setenv bootargs quiet\n" => "setenv bootargs quiet\n=> ",
            _ => "",
        };
        let mut loader = Loader {
            said: "U-Boot 2024.01\nHit any key to stop autoboot: 3".into(),
            typed: Vec::new(),
            answer,
        };
        let told = held(
            "[[boot.dialogue]]\nexpect = \"Hit any key\"\nkeys = [\"space\"]\n\
             [[boot.dialogue]]\nexpect_regex = \"=> $\"\nsend = \"setenv bootargs quiet\\n\"\n\
             [[boot.dialogue]]\nexpect_regex = \"=> $\"\nsend = \"bootmenu\"\nkeys = [\"enter\", \"down\"]\n",
            &mut loader,
        )
        .await
        .expect("held");
        assert_eq!(loader.typed, b" setenv bootargs quiet\nbootmenu\r\x1b[B");
        assert_eq!(told[0], "step 1 of the boot dialogue: \"Hit any key\"");
        assert_eq!(told.len(), 3);
    }

    #[tokio::test]
    async fn a_key_is_pressed_until_it_is_heard() {
        let mut pressed = 0;
        let answer = move |_: &[u8]| {
            pressed += 1;
            if pressed == 4 { "menu" } else { "" }
        };
        let mut loader = Loader { said: String::new(), typed: Vec::new(), answer };
        held(
            "[[boot.dialogue]]\nkeys = [\"space\"]\nevery = \"5ms\"\n[[boot.dialogue]]\nexpect = \"menu\"\n",
            &mut loader,
        )
        .await
        .expect("heard");
        assert_eq!(loader.typed, b"    ");
    }

    #[tokio::test]
    async fn a_step_that_does_not_come_is_told_in_time() {
        let mut loader = Loader { said: "Hit any".into(), typed: Vec::new(), answer: |_: &[u8]| "" };
        let dialogue = "[[boot.dialogue]]\nexpect = \"Hit any key\"\nwithin = \"50ms\"\n";
        let begun = Instant::now();
        let error = held(dialogue, &mut loader).await.expect_err("it did not come");
        assert!(begun.elapsed() < Duration::from_secs(5));
        assert_eq!(error.class(), crate::Class::Timeout);
        let message = error.to_string();
        assert!(
            message.starts_with("orin: step 1 of its boot dialogue waited for \"Hit any key\""),
            "{message}"
        );
        // The whole boot's limit counts as well.
        let dialogue = "[boot]\nwithin = \"50ms\"\n[[boot.dialogue]]\nexpect = \"Hit any key\"\n";
        held(dialogue, &mut loader).await.expect_err("it did not come");
        assert!(begun.elapsed() < Duration::from_secs(5));
    }

    #[tokio::test]
    async fn a_line_that_ends_is_no_timeout() {
        let mut loader = Loader { said: "bye".into(), typed: Vec::new(), answer: |_: &[u8]| "" };
        let error = held("[[boot.dialogue]]\nexpect = \"menu\"\n", &mut loader).await.expect_err("closed");
        assert_eq!(error.class(), crate::Class::Infra);
        assert!(error.to_string().contains("it hung up"), "{error}");
    }

    #[test]
    fn a_password_is_sent_only_if_there_is_one() {
        let boot = steps("[login]\nprompt = \"> $\"\n");
        let prompts = Prompts {
            user: Pattern::text("User:"),
            password: Pattern::text("Pass:"),
            shell: Pattern::text("> "),
        };
        let login = |password: &str| Login { user: "admin".into(), password: password.into() };
        assert_eq!(login_steps(&boot, &login(""), &prompts).len(), 2);
        let steps = login_steps(&boot, &login("secret"), &prompts);
        assert_eq!(steps.len(), 3);
        assert_eq!(steps[1].send, [Send::Text("secret\r".into())]);
        assert!(steps[2].send.is_empty());
    }
}
