//! The lab's side.

use std::io;
use std::path::Path;

use switch::{FrameFilter, VlanId};
use tokio::io::{AsyncBufReadExt as _, AsyncReadExt as _, AsyncSeekExt as _, AsyncWriteExt as _, BufReader};
use tokio::net::{UnixListener, UnixStream};
use tokio::task::JoinHandle;

use super::{Answer, LabNetwork, MAX_REQUEST, MachineState, Piece, Request};
use crate::Error;
use crate::guest::{Chunk, Exec};
use crate::lab::Lab;
use crate::machine::Machine;

/// Serves until dropped.
pub(crate) struct Server {
    task: JoinHandle<()>,
}

impl Server {
    /// Listens at `path`. The lab is only held weakly: a server does not keep it alive.
    pub(crate) fn start(lab: &Lab, path: &Path) -> Result<Self, Error> {
        let listener = UnixListener::bind(path).map_err(Error::file("listening on", path))?;
        let lab = lab.downgrade();
        let task = tokio::spawn(async move {
            // The connections end with the server: an idle client must not keep the lab.
            let mut connections = tokio::task::JoinSet::new();
            while let Ok((stream, _)) = listener.accept().await {
                let Some(lab) = lab.upgrade() else { return };
                connections.spawn(async move {
                    if let Err(error) = serve(&lab, stream).await {
                        tracing::debug!(%error, "a control connection ended");
                    }
                });
            }
        });
        Ok(Self { task })
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.task.abort();
    }
}

async fn serve(lab: &Lab, stream: UnixStream) -> io::Result<()> {
    let mut stream = BufReader::new(stream);
    let mut line = String::new();
    (&mut stream).take(MAX_REQUEST).read_line(&mut line).await?;
    let request = serde_json::from_str(&line).map_err(io::Error::other);
    let machine = |name: &str| lab.machine(name).map_err(|e| e.to_string());
    match request {
        Ok(Request::Machines) => answer(&mut stream, &Answer::Machines { machines: states(lab) }).await,
        Ok(Request::Switch) => {
            let network = LabNetwork::of(lab).map(|network| Answer::Switch { network: Box::new(network) });
            let failed = |error: Error| Answer::Error { message: error.to_string() };
            answer(&mut stream, &network.unwrap_or_else(failed)).await
        }
        Ok(Request::Frames { ports, vlan }) => frames(lab, stream, ports, vlan).await,
        Ok(Request::Shell { machine: name, argv, columns, rows }) => match machine(&name) {
            Ok(machine) => shell(machine, stream, argv, (columns, rows)).await,
            Err(message) => answer(&mut stream, &Answer::Error { message }).await,
        },
        Ok(Request::Console { machine: name }) => match machine(&name) {
            Ok(machine) => console(machine, stream).await,
            Err(message) => answer(&mut stream, &Answer::Error { message }).await,
        },
        Err(error) => {
            answer(&mut stream, &Answer::Error { message: format!("not a request: {error}") }).await
        }
    }
}

fn states(lab: &Lab) -> Vec<MachineState> {
    let state = |machine: &Machine| MachineState {
        name: machine.name().to_owned(),
        state: if machine.is_running() { machine.stage().to_string() } else { "off".to_owned() },
        pid: machine.qemu_pid(),
        artifacts: machine.artifacts().to_owned(),
        monitor: lab.run_dir().join(format!("{}.monitor", machine.name())),
    };
    lab.machines().iter().map(state).collect()
}

async fn answer(stream: &mut BufReader<UnixStream>, answer: &Answer) -> io::Result<()> {
    let mut line = serde_json::to_vec(answer)?;
    line.push(b'\n');
    stream.write_all(&line).await
}

async fn frames(
    lab: &Lab,
    mut stream: BufReader<UnixStream>,
    ports: Vec<String>,
    vlan: Option<VlanId>,
) -> io::Result<()> {
    let filter = ports.into_iter().fold(FrameFilter::new(), FrameFilter::port);
    let filter = vlan.into_iter().fold(filter, FrameFilter::vlan);
    let recording = match lab.switch().recording(&filter) {
        Ok(recording) => recording,
        Err(error) => return answer(&mut stream, &Answer::Error { message: error.to_string() }).await,
    };
    let (frames, missing) = (recording.frames().len(), recording.missing());
    let unseen = recording.unseen_ports().to_owned();
    // As long as the switch's ring at most.
    let pcapng = tokio::task::spawn_blocking(move || {
        let mut bytes = Vec::new();
        recording.write_to(&mut bytes).map(|()| bytes)
    });
    let pcapng = pcapng.await.map_err(io::Error::other)??;
    answer(&mut stream, &Answer::Frames { frames, missing, unseen, bytes: pcapng.len() as u64 }).await?;
    stream.write_all(&pcapng).await?;
    stream.shutdown().await
}

async fn shell(
    machine: &Machine,
    mut stream: BufReader<UnixStream>,
    argv: Vec<String>,
    (columns, rows): (u16, u16),
) -> io::Result<()> {
    let argv = if argv.is_empty() {
        vec!["/bin/sh".into(), "-lc".into(), "exec ${SHELL:-/bin/sh} -l".into()]
    } else {
        argv
    };
    let exec =
        Exec::argv(argv).tty(columns, rows).env("TERM", "xterm-256color").user("root").stdin_streamed();
    let guest = match machine.guest().await {
        Ok(guest) => guest,
        Err(error) => return answer(&mut stream, &Answer::Error { message: error.to_string() }).await,
    };
    let mut running = match guest.exec(exec).await {
        Ok(running) => running,
        Err(error) => return answer(&mut stream, &Answer::Error { message: error.to_string() }).await,
    };
    answer(&mut stream, &Answer::Ok).await?;
    let (mut from, mut to) = tokio::io::split(stream);
    let stdin = running.take_stdin();
    let typed = async move {
        let mut bytes = [0; 4096];
        while let Some(stdin) = &stdin {
            match from.read(&mut bytes).await {
                Ok(count) if count > 0 && stdin.write(&bytes[..count]).await => {}
                _ => return,
            }
        }
    };
    let shown = async {
        while let Ok(Some(Chunk::Stdout(bytes) | Chunk::Stderr(bytes))) = running.next().await {
            to.write_all(&Piece::Output(bytes).to_bytes()).await?;
        }
        // A session that was lost ends without this, and the client says so.
        if let Ok(exit) = running.wait().await {
            to.write_all(&Piece::Ended(exit.status.shell_code()).to_bytes()).await?;
        }
        io::Result::Ok(())
    };
    tokio::pin!(typed, shown);
    tokio::select! {
        // Nothing more is typed: what the command still has to say is shown to its end.
        () = &mut typed => shown.await,
        // The command ended, or the client left: dropping `running` ends what still runs in the guest.
        ended = &mut shown => ended,
    }
}

async fn console(machine: &Machine, mut stream: BufReader<UnixStream>) -> io::Result<()> {
    let console = match machine.console() {
        Ok(console) => console,
        Err(error) => return answer(&mut stream, &Answer::Error { message: error.to_string() }).await,
    };
    // The bytes as they came are in a file; what is shown begins at its end.
    let mut raw = tokio::fs::File::open(machine.artifacts().join("console.raw")).await?;
    raw.seek(io::SeekFrom::End(0)).await?;
    let mut progress = console.progress();
    answer(&mut stream, &Answer::Ok).await?;
    let (mut from, mut to) = tokio::io::split(stream);
    let typed = async {
        let mut bytes = [0; 4096];
        loop {
            let count = from.read(&mut bytes).await?;
            if count == 0 {
                return io::Result::Ok(());
            }
            console.send(&bytes[..count]).map_err(io::Error::other)?;
        }
    };
    let shown = async {
        let mut bytes = [0; 16 * 1024];
        loop {
            progress.borrow_and_update();
            match raw.read(&mut bytes).await? {
                0 if progress.changed().await.is_err() => return io::Result::Ok(()),
                count => to.write_all(&bytes[..count]).await?,
            }
        }
    };
    tokio::select! {
        ended = typed => ended,
        ended = shown => ended,
    }
}
