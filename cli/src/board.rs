//! `rackless board`: looks at a board without changing anything about it.

use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context as _, Result};
use clap::Subcommand;
use driver::board::{Board, Holder, Line, Lock, Power, line};

use crate::outcome::BadInput;

/// How long who has the board is waited for.
const LOCK_LIMIT: Duration = Duration::from_secs(2);
/// What a serial server may take to be connected, and to set its port.
const LINE_LIMIT: Duration = Duration::from_secs(20);

/// Boards: check
#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Read a board's file, open its line, and ask for the state of its power; nothing is turned on or off
    Check {
        /// The file.
        file: PathBuf,
    },
}

/// Runs one of them.
pub(crate) fn run(command: Command) -> Result<()> {
    let Command::Check { file } = command;
    let board = Board::load(&file).map_err(BadInput::new)?;
    let runtime = tokio::runtime::Runtime::new().context("starting the runtime")?;
    runtime.block_on(check(&board))
}

async fn check(board: &Board) -> Result<()> {
    println!("{}: {}", board.file.display(), board.name);
    let me = Holder::me("rackless board check");
    let lock = Lock::take(board, &me, LOCK_LIMIT, |holder| eprintln!("waits: {holder}")).await?;
    println!("  lock    {}", lock.path().display());
    let open = line::open(board, LINE_LIMIT).await?;
    let mode = match &board.line {
        Line::Tcp(_) => "as its server has it".to_owned(),
        Line::Device(_) | Line::Rfc2217(_) => line::mode_text(&board.mode),
    };
    println!("  line    {}: {mode}", board.line);
    drop(open);
    match Power::of(board).state().await? {
        Some(state) => println!("  power   {state}; after a failure: {}", board.power.on_failure),
        None => {
            println!("  power   unknown, as there is no `state`; after a failure: {}", board.power.on_failure)
        }
    }
    println!(
        "  boot    {} steps of dialogue, then the login of {}",
        board.boot.steps.len(),
        board.login.user
    );
    for (nic, uplink) in &board.uplinks {
        println!("  uplink  {nic}: {}", uplink.cable);
    }
    Ok(())
}
