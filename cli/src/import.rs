//! `rackless import`: what other projects describe their clusters by, turned into what Rackless takes.

use std::io::{self, Write as _};
use std::path::{Path, PathBuf};

use clap::Subcommand;
use nixos_test::NixosTest;
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
    /// The configuration that nixosTest writes for its driver: its VMs and VLANs, as a lab has them.
    NixosTest {
        /// The JSON file.
        config: PathBuf,
    },
}

/// Runs one `rackless import` command.
pub(crate) fn run(command: Command) -> anyhow::Result<()> {
    match command {
        Command::Plan { dir, name, out } => import_plan(&dir, name.as_deref(), out.as_deref()),
        Command::NixosTest { config } => import_nixos_test(&config),
    }
}

fn import_nixos_test(config: &Path) -> anyhow::Result<()> {
    let test = NixosTest::load(config).map_err(BadInput::new)?;
    let mut out = io::stdout().lock();
    writeln!(out, "{:16} {:>6} {:>5}  {:8} {:12} MAC", "MACHINE", "MIB", "VCPUS", "NIC", "PORT")?;
    for machine in test.lab("nixos-test").machines {
        write!(out, "{:16} {:>6} {:>5}  ", machine.name, machine.memory_mib, machine.vcpus)?;
        if machine.nics.is_empty() {
            writeln!(out, "none")?;
        }
        for (index, nic) in machine.nics.iter().enumerate() {
            if index > 0 {
                write!(out, "{:16} {:>6} {:>5}  ", "", "", "")?;
            }
            writeln!(out, "{:8} {:12} {}", nic.name, nic.port.to_string(), nic.mac)?;
        }
    }
    for vm in &test.vms {
        writeln!(out, "{}: {}", vm.name, vm.start_script.display())?;
    }
    Ok(())
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
