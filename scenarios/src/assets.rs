//! What every lab stands on, found or built once in a process: QEMU, the accelerator, images, the agent.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use anyhow::bail;
use driver::qemu::{Accel, Choice, Qemu, choose_accel};
use driver::spec::Channel;
use harness::Testbed;
use images::{Image, Store};
use tokio::sync::OnceCell;

/// What a machine's channel takes to be told apart from others in one process: a counter.
static LABS: std::sync::atomic::AtomicU32 = std::sync::atomic::AtomicU32::new(0);

static ASSETS: OnceCell<Arc<Assets>> = OnceCell::const_new();
static ACCEL: OnceCell<Choice> = OnceCell::const_new();

/// What every lab of this process stands on.
pub struct Assets {
    /// The emulator.
    pub qemu: Qemu,
    /// The images.
    pub store: Store,
    /// The agent's binary.
    pub agent: PathBuf,
    /// The disk that brings the agent into the guests.
    pub agent_disk: PathBuf,
    /// The way to the agent, from `RACKLESS_CHANNEL`.
    pub channel: Channel,
}

impl Assets {
    /// Finds or builds everything; the first test of a process waits, and the deadline stands still meanwhile.
    ///
    /// # Errors
    /// When QEMU is missing or too old, the agent can't be built, or the cache can't be written.
    pub async fn get(t: &Testbed) -> anyhow::Result<Arc<Self>> {
        let still = t.deadline().stand_still();
        let assets = ASSETS.get_or_try_init(|| Self::gather(t)).await.cloned();
        drop(still);
        assets
    }

    async fn gather(t: &Testbed) -> anyhow::Result<Arc<Self>> {
        for reaped in process::reap_stale()? {
            t.note(&format!(
                "cleared what a killed run left behind: {} ({} processes)",
                reaped.run,
                reaped.killed.len()
            ));
        }
        let qemu = Qemu::find().await?;
        let channel = channel()?;
        t.note("the guest's agent: building, unless it is fresh");
        let agent = crate::agent::binary().await?;
        let store = Store::open(Store::default_root())?;
        let agent_disk = {
            let (store, agent) = (store.clone(), agent.clone());
            tokio::task::spawn_blocking(move || store.agent_disk(&agent)).await??
        };
        Ok(Arc::new(Self { qemu, store, agent, agent_disk, channel }))
    }

    /// An image by name: the user's own disk if one is named for it, else the cached one, else it is built now.
    ///
    /// # Errors
    /// When the user's disk can't be used, or the build fails.
    pub async fn image(&self, t: &Testbed, name: &str) -> anyhow::Result<Image> {
        let still = t.deadline().stand_still();
        let lane = t.lane("image");
        let (said, mut says) = tokio::sync::mpsc::unbounded_channel::<String>();
        let mut store = self.store.clone().on_progress(move |progress| {
            // Nobody listens any more once the test was cancelled.
            let _ = said.send(progress.to_string());
        });
        if let Some(own) = t.settings().image(name) {
            store = store.with_override(name, own);
        }
        let (name, scope) = (name.to_owned(), t.scope());
        let work = tokio::task::spawn_blocking(move || {
            scope.enter();
            store.image(&name)
        });
        while let Some(text) = says.recv().await {
            lane.set(text);
        }
        lane.close();
        let image = work.await?;
        drop(still);
        Ok(image?)
    }

    /// The accelerator, decided once in a process and said once.
    ///
    /// # Errors
    /// When `RACKLESS_ACCEL` asks for what can't be had.
    pub async fn accel(&self, t: &Testbed, kernel: Option<&Path>) -> anyhow::Result<Accel> {
        let still = t.deadline().stand_still();
        let choice = ACCEL
            .get_or_try_init(|| async {
                let choice = choose_accel(&self.qemu, kernel, &self.store.root().join("probes")).await?;
                t.note(&format!("{} (QEMU {}): {}", choice.accel, self.qemu.version, choice.reason));
                anyhow::Ok(choice)
            })
            .await?;
        drop(still);
        Ok(choice.accel)
    }
}

/// A name for a lab's run directory: short, for sockets live below it.
pub(crate) fn run_name() -> String {
    let count = LABS.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
    let since = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap_or(Duration::ZERO);
    format!("{:x}-{}-{count}", since.as_secs(), std::process::id())
}

fn channel() -> anyhow::Result<Channel> {
    let asked = std::env::var("RACKLESS_CHANNEL").unwrap_or_default();
    match asked.as_str() {
        "" | "virtserialport" => Ok(Channel::Virtserial),
        "vsock" if driver::has_vsock() => Ok(Channel::Vsock),
        "vsock" | "vhost-user-vsock" => Ok(Channel::VhostUserVsock),
        _ => bail!("RACKLESS_CHANNEL is {asked:?}: expected `virtserialport`, `vsock` or `vhost-user-vsock`"),
    }
}
