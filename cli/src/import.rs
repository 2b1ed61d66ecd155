//! `rackless import`: what other projects describe their clusters by, turned into what Rackless takes.

use std::path::{Path, PathBuf};

use clap::Subcommand;
use plan::Plan;

use crate::drawing;
use crate::outcome::BadInput;

/// What to import.
#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// A cluster planned in CSV tables (hosts.csv, k3s.csv, network.yaml), as a network profile.
    Plan {
        /// The directory that has the three files, itself or in a subdirectory `plans`.
        dir: PathBuf,
        /// The profile's name; by default the directory's, or `plan`.
        #[arg(long)]
        name: Option<String>,
        /// Write NAME.toml and the drawing NAME.svg into this directory instead of printing the profile.
        #[arg(long, short, value_name = "DIR")]
        out: Option<PathBuf>,
    },
}

/// Runs one `rackless import` command.
pub(crate) fn run(command: Command) -> anyhow::Result<()> {
    match command {
        Command::Plan { dir, name, out } => import_plan(&dir, name.as_deref(), out.as_deref()),
    }
}

fn import_plan(dir: &Path, name: Option<&str>, out: Option<&Path>) -> anyhow::Result<()> {
    // `rackless import plan .` is to be called after the directory, not after the dot.
    let dir = fs_err::canonicalize(dir).map_err(BadInput::new)?;
    let plan = Plan::load(&dir, name).map_err(BadInput::new)?;
    for host in plan.idle_hosts() {
        eprintln!("{} ({}) runs no K3s node: it is not in the profile", host.name, host.address);
    }
    let Some(out) = out else {
        print!("{}", plan.to_toml());
        return Ok(());
    };
    fs_err::create_dir_all(out)?;
    let profile = out.join(format!("{}.toml", plan.name));
    fs_err::write(&profile, plan.to_toml())?;
    let topology = profile.with_extension("svg");
    drawing::write(&drawing::of_profile(&plan.profile()), &topology)?;
    eprintln!("{} and {} written", profile.display(), topology.display());
    Ok(())
}
