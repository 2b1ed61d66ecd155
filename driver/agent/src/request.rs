//! From a request to who does it.

use crate::failure::{Answer, failure};
use crate::session::Windows;
use crate::streams::{Inbox, Outbox};
use crate::{exec, files, system, tree, wait};
use agent_proto::message::{FailureKind, Reply, Request, ToHost};
use std::time::Duration;
use tokio::runtime::Handle;

/// Does it and replies.
pub(crate) async fn perform(request: Request, outbox: Outbox, inbox: Inbox, windows: Windows) {
    let reply = outbox.clone();
    let after = match &request {
        Request::Sysrq { key } => Some(system::After::Sysrq(*key)),
        Request::Power(power) => Some(system::After::Power(*power)),
        _ => None,
    };
    let runtime = Handle::current();
    let result = match request {
        Request::Ping => Ok(Reply::Done),
        Request::Info => system::info().await.map(Reply::Info),
        Request::Exec(spec) => exec::run(spec, outbox, inbox, windows).await,
        Request::WriteFile(spec) => blocking(move || files::receive(&spec, inbox)).await,
        Request::ReadFile { path } => {
            blocking(move || files::send(&path, outbox, windows.out, runtime)).await
        }
        Request::WriteTree(spec) => blocking(move || tree::receive(&spec, inbox)).await,
        Request::ReadTree { path } => blocking(move || tree::send(&path, outbox, windows.out, runtime)).await,
        Request::WriteFiles(batch) => blocking(move || files::write_all(&batch)).await,
        Request::Wait { condition, limit_ms } => {
            wait::wait(condition, Duration::from_millis(limit_ms)).await.map(Reply::Waited)
        }
        Request::SetHostname { name, persist } => system::set_hostname(&name, persist),
        Request::SetTime { seconds, nanoseconds } => system::set_time(seconds, nanoseconds),
        Request::Sysrq { .. } | Request::Power(_) => system::may_go_down(),
    };
    let accepted = result.is_ok();
    let id = reply.id;
    reply.message(ToHost::Reply { id, result }).await;
    if let Some(after) = after.filter(|_| accepted) {
        // The reply has to be out before the machine stops.
        reply.flush().await;
        if let Err(error) = after.perform().await {
            eprintln!("rackless-agent: {}", error.message);
        }
    }
}

async fn blocking(work: impl FnOnce() -> Answer + Send + 'static) -> Answer {
    tokio::task::spawn_blocking(work).await.unwrap_or_else(|panic| {
        Err(failure(FailureKind::Io, format!("the agent's worker panicked: {panic}")))
    })
}
