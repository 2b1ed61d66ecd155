//! The guest's side of the channel: one static binary.
//!
//! Without arguments it serves the virtserialports `rackless.agent` and `rackless.journal` and listens on AF_VSOCK,
//! whichever the guest has.
//! Every connection is a session of its own, and the end of a session kills the commands that it started.

mod exec;
mod failure;
mod files;
mod listen;
mod manager;
mod paths;
mod port;
mod request;
mod session;
mod spawn;
mod streams;
mod system;
mod tree;
mod units;
mod users;
mod wait;
mod watched;

use agent_proto::hello::Identity;
use anyhow::{Context, Result, bail};
use std::path::PathBuf;
use std::sync::Arc;
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::watch;
use tokio::task::JoinSet;

const USAGE: &str = "usage: rackless-agent [--port NAME] [--vsock PORT] [--unix PATH]
  --port NAME   serve the virtserialport of this name
  --vsock PORT  listen on this AF_VSOCK port
  --unix PATH   listen on a unix socket
  --version     say which protocol it speaks
Without arguments: --port rackless.agent --port rackless.journal --vsock 5252, whichever there is.";

/// A way in that the agent serves.
enum Way {
    Port(String),
    Vsock(u32),
    Unix(PathBuf),
}

fn ways(arguments: impl Iterator<Item = String>) -> Result<Vec<Way>> {
    let mut arguments = arguments.peekable();
    if arguments.peek().is_none() {
        return Ok(vec![
            Way::Port(agent_proto::PORT_NAME.into()),
            Way::Port(agent_proto::JOURNAL_PORT_NAME.into()),
            Way::Vsock(agent_proto::VSOCK_PORT),
        ]);
    }
    let mut ways = Vec::new();
    while let Some(flag) = arguments.next() {
        let value = arguments.next().with_context(|| format!("{flag} needs a value\n{USAGE}"))?;
        ways.push(match flag.as_str() {
            "--port" => Way::Port(value),
            "--vsock" => {
                Way::Vsock(value.parse().with_context(|| format!("--vsock {value}: no port\n{USAGE}"))?)
            }
            "--unix" => Way::Unix(std::path::absolute(value)?),
            _ => bail!("unknown argument {flag}\n{USAGE}"),
        });
    }
    Ok(ways)
}

fn main() -> Result<()> {
    if std::env::args().nth(1).is_some_and(|argument| argument == "--version") {
        println!("{}", agent_proto::version_line());
        return Ok(());
    }
    std::panic::set_hook(Box::new(last_words));
    let ways = ways(std::env::args().skip(1))?;
    // On a disk of its own it was started there, in a mount that is detached by now.
    std::env::set_current_dir("/").context("chdir to /")?;
    tokio::runtime::Builder::new_current_thread().enable_all().build()?.block_on(serve(ways))
}

/// A panic is the agent's end, and the journal with its message may end with the guest: the console has it as well.
fn last_words(panic: &std::panic::PanicHookInfo<'_>) {
    eprintln!("rackless-agent: {panic}");
    let one_line = panic.to_string().replace('\n', " ");
    let _ = std::fs::write("/dev/kmsg", format!("<2>rackless-agent: {one_line}\n"));
}

async fn serve(ways: Vec<Way>) -> Result<()> {
    let identity = Arc::new(Identity {
        version: agent_proto::VERSION,
        instance: fastrand::u64(1..),
        boot_id: system::boot_id(),
        pid: std::process::id(),
    });
    let (stop, stopping) = watch::channel(false);
    let mut tasks = JoinSet::new();
    for way in ways {
        let (identity, stopping) = (identity.clone(), stopping.clone());
        tasks.spawn(async move {
            match way {
                Way::Port(name) => port::serve(&name, &identity, stopping).await,
                Way::Vsock(port) => listen::vsock(port, &identity, stopping).await,
                Way::Unix(path) => listen::unix(&path, &identity, stopping).await,
            }
        });
    }
    let mut terminate = signal(SignalKind::terminate())?;
    loop {
        tokio::select! {
            _ = terminate.recv() => {
                let _ = stop.send(true);
            }
            ended = tasks.join_next() => match ended {
                None => return Ok(()),
                Some(Ok(Ok(()))) => {}
                // One way less: the others may still serve.
                Some(Ok(Err(error))) if !tasks.is_empty() => eprintln!("rackless-agent: {error:#}"),
                Some(Ok(Err(error))) => return Err(error),
                Some(Err(panic)) => return Err(panic.into()),
            },
        }
    }
}
