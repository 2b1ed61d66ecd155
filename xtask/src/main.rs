//! Set-up, the demo and the tests: the two commands of the README and their parts.

mod bench;
mod closing;
mod command;
mod demo;
mod edges;
mod hygiene;
mod interop;
mod metadata;
mod room;
mod setup;
mod stages;
mod workspace;

use std::process::ExitCode;

use anyhow::Result;
use clap::{Parser, Subcommand};

/// What one does with a checkout of Rackless.
#[derive(Parser)]
#[command(name = "cargo xtask", bin_name = "cargo xtask", arg_required_else_help = true)]
struct Cli {
    #[command(subcommand)]
    command: Task,
}

#[derive(Subcommand)]
enum Task {
    /// Find what this host lacks and install it
    Setup(setup::Options),
    /// Set up, then run the main job: a cluster over a VLAN switch
    Demo {
        /// Don't ask before installing what is missing
        #[arg(long, short)]
        yes: bool,
    },
    /// Set up, then format, walls, lints, docs, unit tests, self-tests and VM tests
    Test(stages::Options),
    /// Set up the peers, then measure Rackless beside them
    Bench(bench::Options),
    /// Install the peers of the tests of interoperability, and run those tests
    Interop(interop::Options),
    /// Check the forbidden edges between crates
    Edges,
    /// Check tracked files for hosts, paths and to-dos that don't belong there
    Files,
}

fn main() -> ExitCode {
    match run(Cli::parse().command) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run(task: Task) -> Result<()> {
    match task {
        Task::Setup(options) => setup::run(options),
        Task::Demo { yes } => demo::run(yes),
        Task::Test(options) => stages::run(options),
        Task::Bench(options) => bench::run(options),
        Task::Interop(options) => interop::run(options),
        Task::Edges => {
            println!("{}", edges::check(&workspace::root()?)?);
            Ok(())
        }
        Task::Files => {
            println!("{}", hygiene::check(&workspace::root()?)?);
            Ok(())
        }
    }
}
