//! `cargo xtask test`: everything that must be true before a change goes in, cheapest first, machines last.

use std::fmt::Write as _;
use std::io::IsTerminal as _;
use std::num::NonZero;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::{Result, bail, ensure};

use crate::closing::Closing;
use crate::command::Command;
use crate::metadata::Metadata;
use crate::{edges, hygiene, interop, room, setup, workspace};

/// What `cargo xtask test` was asked.
#[derive(Clone, Copy, Debug, clap::Args)]
pub(crate) struct Options {
    /// Leave out the tests that boot machines
    #[arg(long)]
    quick: bool,
    /// Don't ask before installing what is missing
    #[arg(long, short)]
    yes: bool,
}

type Job = Box<dyn FnOnce(&Path, &mut Closing) -> Result<String>>;

struct Stage {
    name: &'static str,
    job: Job,
}

struct Ran {
    name: &'static str,
    took: Duration,
    /// What to say beside it; an error's first line is said elsewhere.
    verdict: Result<String>,
}

/// Runs the stages, stops at the first that fails.
pub(crate) fn run(options: Options) -> Result<()> {
    let root = workspace::root()?;
    let mut stages = stages(options);
    let left_out = options.quick.then(|| stages.pop().map(|stage| stage.name)).flatten();
    let of = stages.len();
    let mut ran: Vec<Ran> = Vec::new();
    let mut closing = Closing::default();
    for (number, stage) in stages.into_iter().enumerate() {
        eprintln!("\n==> [{}/{of}] {}", number + 1, stage.name);
        let start = Instant::now();
        let mut lines = Closing::default();
        let verdict = (stage.job)(&root, &mut lines);
        closing.add(&lines);
        let stop = verdict.is_err();
        let verdict = verdict.map(|said| if lines.is_empty() { said } else { lines.counts() });
        ran.push(Ran { name: stage.name, took: start.elapsed(), verdict });
        if stop {
            break;
        }
    }
    println!("{}", table(&ran, of, &closing, left_out));
    match ran.pop() {
        Some(Ran { name, verdict: Err(error), .. }) => Err(error.context(format!("stage `{name}` failed"))),
        _ => Ok(()),
    }
}

fn stages(options: Options) -> Vec<Stage> {
    let stage = |name, job: Job| Stage { name, job };
    vec![
        stage(
            "set-up",
            Box::new(move |root, _| {
                setup::run(setup::Options::unattended(options.yes))?;
                if !options.quick {
                    setup::for_vm_tests(options.yes);
                }
                toolchain()?;
                room::check(root)
            }),
        ),
        stage("format", cargo(&["fmt", "--all", "--check"])),
        stage("walls", Box::new(|root, _| edges::check(root))),
        stage("tracked files", Box::new(|root, _| hygiene::check(root))),
        stage("clippy", cargo(&["clippy", "--workspace", "--all-targets", "--", "-D", "warnings"])),
        stage("docs", Box::new(docs)),
        stage("unit and property tests", Box::new(unit)),
        stage("doc tests", tests(&["test", "--workspace", "--doc"])),
        stage("self-tests", Box::new(self_tests)),
        stage("interoperability", Box::new(interop::suites)),
        // Last: minutes, not seconds.
        stage("VM tests", Box::new(vm_tests)),
    ]
}

fn toolchain() -> Result<()> {
    for (program, component) in [("cargo-fmt", "rustfmt"), ("cargo-clippy", "clippy")] {
        ensure!(
            workspace::program(program).is_some(),
            "{program} is missing: `rustup component add {component}` brings it"
        );
    }
    Ok(())
}

fn succeed(command: &Command, status: std::process::ExitStatus) -> Result<String> {
    ensure!(status.success(), "`{command}` failed ({status}); its own words are above");
    Ok(String::new())
}

/// A cargo command that keeps the terminal.
fn cargo(args: &'static [&'static str]) -> Job {
    Box::new(move |root, _| {
        let command = Command::cargo(root).args(args);
        succeed(&command, command.run()?)
    })
}

/// A cargo command whose closing lines are counted.
fn tests(args: &'static [&'static str]) -> Job {
    Box::new(move |root, closing| counted(&Command::cargo(root).args(args), closing))
}

fn counted(command: &Command, closing: &mut Closing) -> Result<String> {
    let colour = if std::io::stderr().is_terminal() { "always" } else { "auto" };
    let status = command.clone().env("CARGO_TERM_COLOR", colour).tee(&mut |line| closing.line(line))?;
    succeed(command, status)
}

fn docs(root: &Path, _: &mut Closing) -> Result<String> {
    let command =
        Command::cargo(root).args(["doc", "--workspace", "--no-deps"]).env("RUSTDOCFLAGS", "-Dwarnings");
    succeed(&command, command.run()?)
}

/// nextest where it is there, with these flags: it does not wait for the last test of one binary before it starts another.
fn runner(root: &Path, flags: &[&str]) -> Command {
    match workspace::program("cargo-nextest") {
        Some(_) => Command::cargo(root).args(["nextest", "run"]).args(flags),
        None => Command::cargo(root).args(["test"]),
    }
}

fn unit(root: &Path, closing: &mut Closing) -> Result<String> {
    counted(&runner(root, &[]).args(["--workspace", "--lib", "--bins"]), closing)
}

fn self_tests(root: &Path, closing: &mut Closing) -> Result<String> {
    // They wait for peers and clocks more than they compute: twice what the host has cores.
    let threads = 2 * std::thread::available_parallelism().map_or(1, NonZero::get);
    let flags = ["--test-threads", &threads.to_string()];
    counted(&runner(root, &flags).args(Metadata::read(root)?.test_files(false)?), closing)
}

/// On a terminal the harness draws a live line for each machine, so `cargo test` gets the terminal itself; else what is said
/// passes through here and is counted.
fn vm_tests(root: &Path, closing: &mut Closing) -> Result<String> {
    let files = Metadata::read(root)?.test_files(true)?;
    if std::io::stdout().is_terminal() {
        let command = Command::cargo(root).args(["test"]).args(files);
        return succeed(&command, command.run()?);
    }
    if let Err(error) = counted(&runner(root, &[]).args(files), closing) {
        let artifacts = artifacts(root);
        bail!("{error:#}\nartefacts of the failed test: {}", artifacts.display());
    }
    Ok(String::new())
}

/// Below this lies what each run left behind.
pub(crate) fn artifacts(root: &Path) -> PathBuf {
    match std::env::var_os("RACKLESS_ARTIFACTS").filter(|value| !value.is_empty()) {
        Some(dir) => PathBuf::from(dir),
        None => workspace::target_dir(root).join("rackless"),
    }
}

/// The closing words: a line for each stage, the runners' own closing lines, the sums.
fn table(ran: &[Ran], of: usize, closing: &Closing, left_out: Option<&str>) -> String {
    let mut text = String::new();
    let _ = writeln!(text, "\n{:<26}{:>9}", "stage", "seconds");
    for Ran { name, took, verdict } in ran {
        let said = match verdict {
            Ok(said) if said.is_empty() => "ok".to_owned(),
            Ok(said) => format!("ok    {said}"),
            Err(_) => "FAILED".to_owned(),
        };
        let _ = writeln!(text, "{name:<26}{:>9.1}  {said}", took.as_secs_f64());
    }
    let total: Duration = ran.iter().map(|ran| ran.took).sum();
    let _ = writeln!(text, "{:<26}{:>9.1}\n", "all", total.as_secs_f64());
    text.push_str(&closing.lines());
    if !closing.is_empty() {
        let _ = writeln!(text, "tests: {}", closing.counts());
    }
    let failed = ran.iter().filter(|ran| ran.verdict.is_err()).count();
    let _ = write!(text, "stages: {} passed, {failed} failed", ran.len() - failed);
    if ran.len() < of {
        let _ = write!(text, ", {} not run", of - ran.len());
    }
    if let Some(name) = left_out {
        let _ = write!(text, ", {name} left out by --quick");
    }
    text
}

#[cfg(test)]
mod tests {
    use anyhow::anyhow;

    use super::*;

    fn ran(name: &'static str, verdict: Result<String>) -> Ran {
        Ran { name, took: Duration::from_millis(1250), verdict }
    }

    #[test]
    fn machines_come_last() {
        let stages = stages(Options { quick: false, yes: false });
        assert_eq!(stages.last().map(|stage| stage.name), Some("VM tests"));
    }

    #[test]
    fn a_failed_stage_is_not_counted_as_passed_nor_are_those_after_it() {
        let text = table(
            &[ran("format", Ok(String::new())), ran("walls", Err(anyhow!("no")))],
            9,
            &Closing::default(),
            None,
        );
        assert!(text.contains("walls                           1.2  FAILED"), "{text}");
        assert!(text.ends_with("stages: 1 passed, 1 failed, 7 not run"), "{text}");
    }

    #[test]
    fn what_was_left_out_is_said() {
        let text = table(&[ran("format", Ok(String::new()))], 1, &Closing::default(), Some("VM tests"));
        assert!(text.ends_with("stages: 1 passed, 0 failed, VM tests left out by --quick"), "{text}");
    }
}
