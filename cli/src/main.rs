//! The `rackless` command: one module for each area, and a dispatcher that only knows their names.
//!
//! An area is a module with a `Command` that clap parses and a `run(Command) -> anyhow::Result<()>`. To add one:
//! a `mod`, a variant of [`Area`], an arm in [`dispatch`].
//!
//! Exit codes: 0 for success, 2 when the input was bad ([`outcome::BadInput`] anywhere in the error's chain, and
//! clap's own usage errors), 1 for every other failure; `shell` ends as what ran in the guest. What was asked for goes to stdout, all else to stderr.

mod attach;
mod board;
mod checkpoint;
mod doctor;
mod drawing;
mod image;
mod import;
mod outcome;
mod pcap;
mod profile;
mod runs;
mod switch;

use std::process::ExitCode;

use clap::{Parser, Subcommand};

/// Boots whole racks of machines for a test, and looks after what that needs.
#[derive(Debug, Parser)]
#[command(name = "rackless", version, propagate_version = true)]
struct Cli {
    #[command(subcommand)]
    area: Area,
}

#[derive(Debug, Subcommand)]
enum Area {
    /// Network profiles: list, show, render.
    #[command(subcommand)]
    Profile(profile::Command),
    /// Disk images: list, build, info, verify, import, path, rm
    #[command(subcommand)]
    Image(image::Command),
    /// Imports of what other projects describe their clusters by: plan, nixos-test
    #[command(subcommand)]
    Import(import::Command),
    /// Checkpoints of labs: list, info, rm
    #[command(subcommand)]
    Checkpoint(checkpoint::Command),
    /// Boards behind serial lines: check
    #[command(subcommand)]
    Board(board::Command),
    /// What this host has of what a lab needs
    Doctor,
    /// Running labs and their machines
    Ps,
    /// The switch of a running lab: ports, bundles, addresses, faults, leases
    Switch(switch::Command),
    /// The latest frames of the switch of a running lab, as pcapng
    Pcap(pcap::Command),
    /// A shell in a machine of a running lab
    Shell(attach::Shell),
    /// The serial console of a machine of a running lab
    Console(runs::Target),
    /// The QMP monitor of a machine of a running lab
    Qmp(runs::Target),
    /// A log of a machine of a running lab
    Logs(runs::Logs),
    /// Clears what killed runs left behind
    Gc,
}

fn dispatch(area: Area) -> anyhow::Result<()> {
    match area {
        Area::Profile(command) => profile::run(command),
        Area::Image(command) => image::run(command),
        Area::Import(command) => import::run(command),
        Area::Checkpoint(command) => checkpoint::run(command),
        Area::Board(command) => board::run(command),
        Area::Doctor => doctor::run(),
        Area::Ps => runs::ps(),
        Area::Switch(command) => switch::run(&command),
        Area::Pcap(command) => pcap::run(command),
        Area::Shell(command) => attach::shell(command),
        Area::Console(target) => attach::console(&target),
        Area::Qmp(target) => attach::qmp(&target),
        Area::Logs(command) => runs::logs(&command),
        Area::Gc => runs::gc(),
    }
}

fn main() -> ExitCode {
    outcome::exit_code(dispatch(Cli::parse().area))
}
