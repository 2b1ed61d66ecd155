//! The two vsock ways to the agent: the host kernel's, and a vhost-user daemon's.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use process::{Child, Command, Stdio};

use crate::Error;
use crate::guest::{Transport, VhostUserVsock, Vsock};
use crate::machine::Machine;
use crate::poll::Backoff;
use crate::spec::Channel;

/// The daemon of rust-vmm's vhost-device project.
const DAEMON: &str = "vhost-device-vsock";
/// How long the daemon may take to make its socket, before scaling.
const DAEMON_LIMIT: Duration = Duration::from_secs(10);
/// A guest's context id behind its own daemon; nobody else sees it.
const PRIVATE_CID: u32 = 3;

/// QEMU's plug, our transport, and the daemon between them.
pub(crate) struct VsockWay {
    pub(crate) socket: Option<PathBuf>,
    pub(crate) cid: Option<u32>,
    pub(crate) transport: Arc<dyn Transport>,
    pub(crate) daemon: Option<Child>,
}

/// Whether the host's kernel gives guests AF_VSOCK: `/dev/vhost-vsock` opens.
#[must_use]
pub fn has_vsock() -> bool {
    std::fs::OpenOptions::new().read(true).write(true).open("/dev/vhost-vsock").is_ok()
}

/// Whether the daemon for vhost-user-vsock is there, which needs nothing of the kernel.
#[must_use]
pub fn has_vhost_user_vsock() -> bool {
    find_daemon().is_some()
}

/// Opens the way for `machine`.
pub(crate) async fn open(machine: &Machine, channel: Channel) -> Result<VsockWay, Error> {
    match channel {
        Channel::VhostUserVsock => daemon(machine).await,
        Channel::Vsock | Channel::Virtserial => kernel(machine),
    }
}

fn kernel(machine: &Machine) -> Result<VsockWay, Error> {
    if let Err(source) = std::fs::OpenOptions::new().read(true).write(true).open("/dev/vhost-vsock") {
        return Err(unavailable(format!("/dev/vhost-vsock can't be opened: {source}")));
    }
    // Context ids are the whole host's. One is drawn from the run and the machine; a clash makes QEMU refuse to
    // start, and says so.
    let mut hash = blake3::Hasher::new();
    hash.update(machine.lab_socket("vsock")?.as_os_str().as_encoded_bytes());
    hash.update(machine.name().as_bytes());
    let mut bytes = [0; 4];
    bytes.copy_from_slice(&hash.finalize().as_bytes()[..4]);
    let cid = 0x1000 + u32::from_le_bytes(bytes) % 0x7fff_0000;
    let transport = Arc::new(Vsock::new(cid, agent_proto::VSOCK_PORT));
    Ok(VsockWay { socket: None, cid: Some(cid), transport, daemon: None })
}

async fn daemon(machine: &Machine) -> Result<VsockWay, Error> {
    let program = find_daemon().ok_or_else(|| {
        unavailable(format!("{DAEMON} is missing; `RACKLESS_CHANNEL=vsock cargo xtask setup` builds it"))
    })?;
    let device = machine.lab_socket("vsock-device")?;
    let host = machine.lab_socket("vsock")?;
    let log = machine.artifacts().join("vhost-device-vsock.log");
    let out = fs_err::File::create(&log).map_err(Error::file("writing", &log))?.into_parts().0;
    let err = out.try_clone().map_err(Error::file("writing", &log))?;
    let command = Command::new(program)
        .arg("--guest-cid")
        .arg(PRIVATE_CID.to_string())
        .arg("--socket")
        .arg(&device)
        .arg("--uds-path")
        .arg(&host)
        .stdout(Stdio::File(out))
        .stderr(Stdio::File(err));
    let child = process::spawn(command)
        .map_err(|source| Error::Tool { operation: "starting the vsock daemon", source })?;
    let mut backoff = Backoff::new(machine.limit(DAEMON_LIMIT));
    while !device.exists() && child.try_status().is_none() && backoff.pause().await {}
    if !device.exists() {
        let said =
            fs_err::read(&log).map(|t| crate::error::last_lines(&t, 3).join(" / ")).unwrap_or_default();
        return Err(unavailable(format!(
            "{DAEMON} made no socket: {said} (its output is in {})",
            log.display()
        )));
    }
    let transport = Arc::new(VhostUserVsock::new(host, agent_proto::VSOCK_PORT));
    Ok(VsockWay { socket: Some(device), cid: None, transport, daemon: Some(child) })
}

/// The daemon on the `PATH`, or where set-up builds it: named in `RACKLESS_VHOST_VSOCK`, or in the cache.
fn find_daemon() -> Option<PathBuf> {
    if let Some(named) = std::env::var_os("RACKLESS_VHOST_VSOCK") {
        return Some(PathBuf::from(named)).filter(|p| p.is_file());
    }
    let path = std::env::var_os("PATH").unwrap_or_default();
    let on_path = std::env::split_paths(&path).map(|folder| folder.join(DAEMON));
    let set = |name: &str| std::env::var_os(name).map(PathBuf::from);
    let cache = set("RACKLESS_CACHE")
        .or_else(|| set("XDG_CACHE_HOME").map(|p| p.join("rackless")))
        .or_else(|| set("HOME").map(|p| p.join(".cache/rackless")));
    let built = cache.map(|cache| cache.join("tools/bin").join(DAEMON));
    on_path.chain(built).find(|p| p.is_file())
}

fn unavailable(why: String) -> Error {
    Error::ChannelUnavailable { asked: "vsock".to_owned(), why }
}
