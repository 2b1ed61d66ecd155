//! The command line of a test binary: libtest's flags and ours, which have twins in the environment.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::time::Duration;

use clap::{Args, Parser, ValueEnum};
use libtest_mimic::Arguments;

/// When machines are kept after a test's end, so that someone can look at them.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Keep {
    /// Never.
    #[default]
    Never,
    /// When the test failed.
    Failure,
    /// After every test.
    Always,
}

/// What is left of the frames that cross the networks of a test's machines.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Capture {
    /// Nothing.
    Off,
    /// The latest of them, when the test failed.
    Ring,
    /// All of them, after every test.
    Whole,
}

/// Everything a run can be told.
#[derive(Debug, Clone, Parser)]
#[command(
    disable_version_flag = true,
    override_usage = "cargo test --test <SUITE> -- [OPTIONS] [FILTER]",
    after_help = "Exit codes: 0 all passed, 101 a test failed, 2 wrong usage, 130 interrupted (SIGINT, or a second \
                  signal), 143 terminated (SIGTERM)."
)]
pub(crate) struct CommandLine {
    #[command(flatten)]
    pub(crate) libtest: Arguments,
    #[command(flatten)]
    pub(crate) settings: Settings,
}

/// Our flags. Every one has a twin in the environment, for runners that pass no flags on.
#[derive(Debug, Clone, Default, Args)]
#[command(next_help_heading = "Rackless")]
pub struct Settings {
    /// Keep a failed test's machines until Enter or Ctrl-C, and say how to get in; `=always`: a passed test's too
    #[arg(
        long = "keep-vms",
        env = "RACKLESS_KEEP_VMS",
        value_name = "failure|always|never",
        num_args = 0..=1,
        require_equals = true,
        default_missing_value = "failure",
        default_value = "never",
        value_parser = keep
    )]
    pub keep_vms: Keep,

    /// Which frames of a test's networks are left among its artefacts: the latest after a failure, all, or none
    /// [default: the test's choice, else ring]
    #[arg(long, env = "RACKLESS_CAPTURE", value_name = "ring|whole|off", hide_possible_values = true)]
    pub capture: Option<Capture>,

    /// Use this disk for the image NAME (or set RACKLESS_IMAGE_NAME, in capitals); may be given several times
    #[arg(long = "image", value_name = "NAME=PATH", value_parser = image)]
    pub(crate) images: Vec<(String, PathBuf)>,

    /// Put the board that FILE describes in the place of machine NAME; may be given several times (in RACKLESS_BOARD:
    /// with commas between)
    #[arg(long = "board", env = "RACKLESS_BOARD", value_name = "NAME=FILE", value_delimiter = ',', value_parser = board)]
    pub(crate) boards: Vec<(String, PathBuf)>,

    /// Where artefacts go [default: rackless/ in cargo's target directory]
    #[arg(long, env = "RACKLESS_ARTIFACTS", value_name = "DIR")]
    pub artifacts: Option<PathBuf>,

    /// Write JUnit here [default: junit.xml among the artefacts of the suite]
    #[arg(long, env = "RACKLESS_JUNIT", value_name = "FILE")]
    pub junit: Option<PathBuf>,

    /// Deadline of each test, before scaling: `90s`, `10m` [default: the suite's, else 10m]
    #[arg(long, env = "RACKLESS_DEADLINE", value_name = "TIME", value_parser = time)]
    pub deadline: Option<Duration>,

    /// Scale deadlines by this factor, on a slow host
    #[arg(long, env = "RACKLESS_DEADLINE_FACTOR", value_name = "FACTOR")]
    pub deadline_factor: Option<f64>,

    /// Seed of everything random in the tests, to repeat a run
    #[arg(long, env = "RACKLESS_SEED", value_name = "NUMBER", value_parser = seed)]
    pub seed: Option<u64>,

    /// `off`: tests restore no checkpoints and make none; each boots and forms what it needs
    #[arg(
        long = "checkpoints",
        env = "RACKLESS_CHECKPOINTS",
        value_name = "on|off",
        default_value = "on",
        action = clap::ArgAction::Set,
        value_parser = on_or_off
    )]
    pub checkpoints: bool,

    /// How many runs to keep artefacts of, this one included
    #[arg(long, env = "RACKLESS_KEEP_RUNS", value_name = "N", default_value_t = 10)]
    pub keep_runs: usize,

    /// Name of the run, for several binaries that belong together [default: nextest's run, else time and pid]
    #[arg(long, env = "RACKLESS_RUN", value_name = "NAME")]
    pub run_name: Option<String>,

    /// Memory that tests may use together, `6G` or `6144M` [default: what is free, less a reserve]
    #[arg(long = "memory", env = "RACKLESS_MEMORY", value_name = "SIZE", value_parser = mebibytes)]
    pub memory_mib: Option<u64>,

    /// Virtual CPUs that tests may use together [default: twice the host's cores]
    #[arg(long, env = "RACKLESS_VCPUS", value_name = "N")]
    pub vcpus: Option<u32>,

    /// Virtual CPUs that may be booting at once, over all tests [default: twice the host's cores]
    #[arg(long, env = "RACKLESS_BOOTING_VCPUS", value_name = "N")]
    pub booting_vcpus: Option<u32>,

    /// No live lines and no steps, only verdicts (also libtest's --quiet)
    #[arg(id = "no-progress", long, env = "RACKLESS_QUIET", value_parser = clap::builder::FalseyValueParser::new())]
    pub quiet: bool,

    /// What goes into harness.log, as `target=level` pairs
    #[arg(long = "log", env = "RACKLESS_LOG", value_name = "FILTER", default_value = "debug")]
    pub log: String,
}

impl Settings {
    /// The disk that the user wants for an image: from `--image NAME=PATH`, else from `RACKLESS_IMAGE_<NAME>`.
    pub fn image(&self, name: &str) -> Option<PathBuf> {
        let flag = self.images.iter().rev().find(|(flag, _)| flag == name);
        flag.map(|(_, path)| path.clone())
            .or_else(|| std::env::var_os(variable(name)).filter(|value| !value.is_empty()).map(PathBuf::from))
    }

    /// The images named on the command line; those from the environment are found by [`Settings::image`] only.
    pub fn images(&self) -> BTreeMap<&str, &PathBuf> {
        self.images.iter().map(|(name, path)| (name.as_str(), path)).collect()
    }
}

impl Settings {
    /// The boards that take machines' places: a machine's name and a board's file. The last one for a name counts.
    pub fn boards(&self) -> BTreeMap<&str, &Path> {
        self.boards.iter().map(|(name, path)| (name.as_str(), path.as_path())).collect()
    }
}

impl CommandLine {
    /// Reads a command line, program name first.
    pub(crate) fn read(arguments: impl IntoIterator<Item = OsString>) -> Result<Self, clap::Error> {
        let mut line = Self::try_parse_from(arguments)?;
        line.settings.quiet |= line.libtest.quiet;
        Ok(line)
    }
}

fn variable(image: &str) -> String {
    let name = image.chars().map(|c| if c.is_ascii_alphanumeric() { c.to_ascii_uppercase() } else { '_' });
    format!("RACKLESS_IMAGE_{}", name.collect::<String>())
}

fn keep(text: &str) -> Result<Keep, String> {
    match text {
        "" | "0" | "no" | "never" | "false" => Ok(Keep::Never),
        "1" | "yes" | "failure" | "true" => Ok(Keep::Failure),
        "always" => Ok(Keep::Always),
        _ => Err("expected failure, always or never".into()),
    }
}

fn on_or_off(text: &str) -> Result<bool, String> {
    match text {
        "" | "on" | "1" | "yes" | "true" => Ok(true),
        "off" | "0" | "no" | "never" | "false" => Ok(false),
        _ => Err("expected on or off".into()),
    }
}

fn image(text: &str) -> Result<(String, PathBuf), String> {
    match text.split_once('=') {
        Some((name, path)) if !name.is_empty() && !path.is_empty() => Ok((name.into(), path.into())),
        _ => Err("expected NAME=PATH, for instance server=disk.wic".into()),
    }
}

fn board(text: &str) -> Result<(String, PathBuf), String> {
    image(text).map_err(|_| "expected NAME=FILE, for instance server-2=lab/orin.toml".into())
}

fn time(text: &str) -> Result<Duration, String> {
    let wrong = || "expected a time such as 90s, 10m or 1h30m".to_owned();
    if let Ok(seconds) = text.parse::<u64>() {
        return Ok(Duration::from_secs(seconds));
    }
    let signed: jiff::SignedDuration = text.parse().map_err(|_| wrong())?;
    Duration::try_from(signed).map_err(|_| wrong())
}

fn seed(text: &str) -> Result<u64, String> {
    let parsed = text.strip_prefix("0x").map_or_else(|| text.parse(), |hex| u64::from_str_radix(hex, 16));
    parsed.map_err(|_| "expected a number, decimal or 0x and hexadecimal".into())
}

fn mebibytes(text: &str) -> Result<u64, String> {
    let wrong = || "expected a size such as 6G, 6144M or 6144 (MiB)".to_owned();
    let (number, unit) = text.split_at(text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len()));
    let number: u64 = number.parse().map_err(|_| wrong())?;
    match unit {
        "" | "M" | "MiB" => Ok(number),
        "G" | "GiB" => number.checked_mul(1024).ok_or_else(wrong),
        _ => Err(wrong()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(arguments: &[&str]) -> Result<CommandLine, clap::Error> {
        CommandLine::read(std::iter::once("suite").chain(arguments.iter().copied()).map(OsString::from))
    }

    #[test]
    fn clap_accepts_the_definition() {
        use clap::CommandFactory;
        CommandLine::command().debug_assert();
    }

    #[test]
    fn libtest_and_our_flags_mix() {
        let line = read(&[
            "--exact",
            "forms",
            "--keep-vms",
            "--image",
            "server=a.wic",
            "--deadline",
            "90s",
            "--nocapture",
            "--image=server=b=c.wic",
            "--memory-mib=1",
        ]);
        assert!(line.is_err(), "an unknown flag is an error");
        let line = read(&[
            "--exact",
            "forms",
            "--keep-vms",
            "--image",
            "server=a.wic",
            "--deadline",
            "90s",
            "--nocapture",
            "--image=server=b=c.wic",
        ])
        .expect("known flags only");
        assert!(line.libtest.exact && line.libtest.nocapture);
        assert_eq!(line.libtest.filter.as_deref(), Some("forms"));
        assert_eq!(line.settings.keep_vms, Keep::Failure);
        assert!(line.settings.checkpoints && !read(&["--checkpoints=off"]).unwrap().settings.checkpoints);
        assert_eq!(line.settings.capture, None, "the test may choose");
        assert_eq!(read(&["--capture=whole"]).expect("a known flag").settings.capture, Some(Capture::Whole));
        assert_eq!(line.settings.image("server"), Some("b=c.wic".into()), "the last one counts");
        let boards = read(&["--board", "server-1=a.toml,server-2=b.toml", "--board=server-1=c.toml"]);
        let boards = boards.expect("known flags").settings;
        let of = |name| boards.boards().get(name).map(|path| path.to_owned());
        assert_eq!((of("server-1"), of("server-2")), (Some(Path::new("c.toml")), Some(Path::new("b.toml"))));
        assert_eq!(line.settings.deadline, Some(Duration::from_secs(90)));
    }

    #[test]
    fn values_are_checked() {
        for wrong in [
            &["--keep-vms=perhaps"][..],
            &["--checkpoints", "perhaps"],
            &["--image", "server"],
            &["--board", "server-1"],
            &["--deadline", "soon"],
            &["--deadline", "-5s"],
            &["--memory", "6T"],
            &["--seed", "0xg"],
            &["--capture", "all"],
            &["--no-such-flag"],
        ] {
            assert!(read(wrong).is_err(), "{wrong:?}");
        }
    }

    #[test]
    fn units() {
        assert_eq!(mebibytes("6G"), Ok(6144));
        assert_eq!(mebibytes("300"), Ok(300));
        assert_eq!(time("1h30m"), Ok(Duration::from_secs(5400)));
        assert_eq!(time("45"), Ok(Duration::from_secs(45)));
        assert_eq!(seed("0xff"), Ok(255));
        assert_eq!(variable("debian-12"), "RACKLESS_IMAGE_DEBIAN_12");
    }
}
