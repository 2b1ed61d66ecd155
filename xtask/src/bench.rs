//! `cargo xtask bench`: what Rackless does beside what others do, in the same run on the same machine.

mod suites;

use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result, ensure};
use clap::ValueEnum;
use serde_json::Value;

use crate::command::Command;
use crate::{setup, workspace};

/// What `cargo xtask bench` was asked.
#[derive(Clone, Debug, clap::Args)]
pub(crate) struct Options {
    /// Which; all of them unless said otherwise
    names: Vec<Name>,
    /// Write the results to this file as well: a list of {bench, case, unit, ours, peer, peer_name, ratio, runs}
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
    /// Don't ask before installing the peers
    #[arg(long, short)]
    yes: bool,
}

/// A benchmark.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Name {
    /// The switch beside `vde_switch --hub`
    Switch,
    /// TCP between two guests over our switch beside `vde_switch --hub`
    Tcp,
    /// A cluster out of a checkpoint beside one that boots and forms
    Checkpoint,
    /// The cluster suites with checkpoints beside the same without
    Suites,
    /// The boot of machines beside the one that their distribution makes
    Boot,
    /// The guest channel beside nixosTest's shell, ssh and QEMU's guest agent
    Channel,
}

impl Name {
    fn word(self) -> &'static str {
        match self {
            Self::Switch => "switch",
            Self::Tcp => "tcp",
            Self::Checkpoint => "checkpoint",
            Self::Suites => "suites",
            Self::Boot => "boot",
            Self::Channel => "channel",
        }
    }

    /// The bench that cargo knows. The suites are their own.
    fn target(self) -> Option<&'static str> {
        match self {
            Self::Switch => Some("beside_vde"),
            Self::Suites => None,
            Self::Tcp | Self::Checkpoint | Self::Boot | Self::Channel => Some(self.word()),
        }
    }
}

/// Runs the benchmarks one after the other.
///
/// # Errors
/// A peer that can't be installed, a benchmark that fails, a file that can't be written.
pub(crate) fn run(options: Options) -> Result<()> {
    let root = workspace::root()?;
    setup::peers(options.yes)?;
    let names = if options.names.is_empty() { Name::value_variants() } else { &options.names };
    let mut results = Vec::new();
    for &name in names {
        results.extend(measure(&root, name)?);
    }
    if let Some(file) = options.json {
        fs_err::write(&file, serde_json::to_string_pretty(&results)? + "\n")?;
        println!("results    {}", file.display());
    }
    Ok(())
}

/// Builds and runs one; its results.
fn measure(root: &Path, name: Name) -> Result<Vec<Value>> {
    let Some(bench) = name.target() else { return suites::measure(root) };
    let dir = workspace::target_dir(root).join("bench");
    fs_err::create_dir_all(&dir)?;
    let file = dir.join(format!("{}.json", name.word()));
    // No package is named: cargo would compile most dependencies again for the features of that one alone.
    let command = Command::cargo(root).args(["bench", "--bench", bench, "--", "--json"]).arg(&file);
    println!("+ {command}");
    let status = command.run()?;
    ensure!(status.success(), "`{command}` failed ({status}); its own words are above");
    let text = fs_err::read_to_string(&file)?;
    serde_json::from_str(&text).with_context(|| format!("{}: what the benchmark wrote", file.display()))
}
