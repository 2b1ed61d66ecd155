//! From a profile and an image to a running lab.

mod spec;

use std::collections::BTreeMap;
use std::sync::Arc;

use driver::board::Board;
use driver::spec::{Channel, DataDisk, DiskBus, LabSpec, NicBackend, Tuning};
use driver::{After, Captures, Lab};
use harness::Testbed;
use images::{Login, WayIn};
use profiles::Profile;

use crate::assets::Assets;
use crate::board;
use crate::dhcp::LabServices;
use crate::launched::Launched;
use crate::plan::{Plan, captures};
use crate::subject::LabSubject;

/// Memory of a machine, in MiB, unless the test says otherwise.
const MEMORY_MIB: u32 = 512;

/// How machines start.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum BootMode {
    /// By the kernel and initrd that the image exports: quicker.
    #[default]
    Direct,
    /// By UEFI firmware and the boot loader on the disk: as on a board.
    Firmware,
}

impl BootMode {
    /// The word for it in names of tests.
    #[must_use]
    pub fn word(self) -> &'static str {
        match self {
            Self::Direct => "direct",
            Self::Firmware => "firmware",
        }
    }
}

/// A topology about to be launched: some machines of a profile, all from one image.
#[must_use = "does nothing until it is launched"]
pub struct Rack {
    profile: Profile,
    machines: Vec<String>,
    image: String,
    boot: BootMode,
    bus: Option<DiskBus>,
    channel: Option<Channel>,
    into_copy: bool,
    way_in: Option<WayIn>,
    login: Option<Login>,
    then_agent: bool,
    memory_mib: u32,
    vcpus: u32,
    checkpoints: bool,
    copies: u32,
    captures: Captures,
    backend: NicBackend,
    data_disks: Vec<DataDisk>,
    after: Vec<(String, After)>,
    tuning: Tuning,
    boards: BTreeMap<String, Board>,
    edit: Vec<Edit>,
}

type Edit = Box<dyn Fn(&mut LabSpec, &Testbed) -> anyhow::Result<()> + Send + Sync>;

impl Rack {
    /// Machines of `profile`, from the image `server`.
    pub fn of(profile: Profile, machines: &[&str]) -> Self {
        Self {
            profile,
            machines: machines.iter().map(|&m| m.to_owned()).collect(),
            image: "server".to_owned(),
            boot: BootMode::default(),
            bus: None,
            channel: None,
            into_copy: false,
            way_in: None,
            login: None,
            then_agent: false,
            memory_mib: MEMORY_MIB,
            vcpus: 1,
            checkpoints: false,
            copies: 0,
            captures: Captures::default(),
            backend: NicBackend::default(),
            data_disks: Vec::new(),
            after: Vec::new(),
            tuning: Tuning::default(),
            boards: BTreeMap::new(),
            edit: Vec::new(),
        }
    }

    /// Starts from another image.
    pub fn image(mut self, name: &str) -> Self {
        self.image = name.to_owned();
        self
    }

    /// Starts in another way.
    pub fn boot(mut self, boot: BootMode) -> Self {
        self.boot = boot;
        self
    }

    /// Puts the system disk on another bus than the image asks for.
    pub fn bus(mut self, bus: DiskBus) -> Self {
        self.bus = Some(bus);
        self
    }

    /// Reaches the agents over another transport than `RACKLESS_CHANNEL` asks for.
    pub fn channel(mut self, channel: Channel) -> Self {
        self.channel = Some(channel);
        self
    }

    /// Writes the agent and the network's units into a copy of the disk, as is done by itself for a systemd that
    /// takes no units as credentials (before 254).
    pub fn into_copy(mut self) -> Self {
        self.into_copy = true;
        self
    }

    /// Brings no agent in, as for an image whose TOML says `way_in = "console"`: there is the console, and verbs that
    /// need an agent say so.
    pub fn console_only(mut self) -> Self {
        self.way_in = Some(WayIn::Console);
        self
    }

    /// Brings no agent in: commands go over a root shell on `/dev/hvc0`, which the image has to start, as for one whose TOML
    /// says `way_in = "backdoor"`. Addresses and names are given all the same, where the image's systemd takes credentials.
    pub fn backdoor(mut self) -> Self {
        self.way_in = Some(WayIn::Backdoor);
        self
    }

    /// Brings no agent in: commands go over a login on the serial console, as for an image whose TOML says
    /// `way_in = "shell"`. Without a `login` it is the image's own, or root without a password.
    pub fn serial_login(mut self, login: Option<Login>) -> Self {
        self.way_in = Some(WayIn::Shell);
        self.login = login;
        self
    }

    /// Has the shell of [`Rack::backdoor`] or [`Rack::serial_login`] carry the agent in once it is up, at each boot, and
    /// hand over to it. Where the guest can't take it, the shell stays the way in, and an event says why:
    /// [`driver::guest::Guest::is_agent`] tells.
    pub fn then_agent(mut self) -> Self {
        self.then_agent = true;
        self
    }

    /// Whether this host has the daemon for [`Channel::VhostUserVsock`].
    #[must_use]
    pub fn has_vhost_user_vsock() -> bool {
        driver::has_vhost_user_vsock()
    }

    /// Whether this host's kernel has what [`Channel::Vsock`] needs.
    #[must_use]
    pub fn has_vsock() -> bool {
        driver::has_vsock()
    }

    /// Memory of each machine in MiB.
    pub fn memory_mib(mut self, memory: u32) -> Self {
        self.memory_mib = memory;
        self
    }

    /// Virtual CPUs of each machine.
    pub fn vcpus(mut self, vcpus: u32) -> Self {
        self.vcpus = vcpus;
        self
    }

    /// Makes a checkpoint a matter of milliseconds: see [`driver::LabOptions::checkpoints`].
    pub fn checkpoints(mut self) -> Self {
        self.checkpoints = true;
        self
    }

    /// Takes room on the host for so many copies of the lab besides itself: see [`Launched::fork`].
    pub fn copies(mut self, copies: u32) -> Self {
        self.copies = copies;
        self.checkpoints()
    }

    /// Gives each machine an empty disk of `mib` MiB besides its system disk: `/dev/disk/by-id/virtio-<name>`.
    pub fn data_disk(mut self, name: &str, mib: u32) -> Self {
        let bytes = u64::from(mib) << 20;
        self.data_disks.push(DataDisk { name: name.to_owned(), bytes, image: None });
        self
    }

    /// Writes all frames that cross to `net/<profile>.pcapng`, from the start to the end, whether or not the test fails.
    /// Without it the latest are written, and after a failure only. `--capture` has the last word.
    pub fn whole_capture(mut self) -> Self {
        self.captures = Captures::Whole;
        self
    }

    /// Connects all NICs through shared memory, for a test of throughput: no capture, no impairments, no checkpoint. To
    /// do so with some of them, set their [`NicBackend`] in [`Rack::edit`].
    pub fn fast_nics(mut self) -> Self {
        self.backend = NicBackend::VhostUser;
        self
    }

    /// Starts a machine only once another one is ready, or has a unit running, or a port open: the clients of an API after
    /// its server. `.after("agent-1", "server-1")`, `.after("agent-1", After::port("server-1", 6443))`; several calls for
    /// one machine add up. Launching does not wait for such machines; their verbs do.
    pub fn after(mut self, machine: &str, what: impl Into<After>) -> Self {
        self.after.push((machine.to_owned(), what.into()));
        self
    }

    /// Turns off what makes machines quicker under emulation: for a test of what it changes.
    pub fn tuning(mut self, tuning: Tuning) -> Self {
        self.tuning = tuning;
        self
    }

    /// Puts a board in the place of a machine, as `--board NAME=FILE` does for any test; the command line has the last word.
    pub fn board(mut self, machine: &str, board: Board) -> Self {
        self.boards.insert(machine.to_owned(), board);
        self
    }

    /// Changes the topology before it is made: another VLAN on a port, another credential.
    pub fn edit(self, edit: impl Fn(&mut LabSpec) + Send + Sync + 'static) -> Self {
        self.edit_with(move |lab, _| {
            edit(lab);
            Ok(())
        })
    }

    /// The same for a change that may fail, or needs the test.
    pub(crate) fn edit_with(
        mut self,
        edit: impl Fn(&mut LabSpec, &Testbed) -> anyhow::Result<()> + Send + Sync + 'static,
    ) -> Self {
        self.edit.push(Box::new(edit));
        self
    }

    /// Makes the lab, hands it to the harness, and powers every machine on. [`Lab::wait_ready`] waits for the boot.
    ///
    /// # Errors
    /// When the image can't be had, the host has not the memory, or a machine does not start.
    pub async fn launch(self, t: &Testbed) -> anyhow::Result<Launched> {
        let lab = self.prepare(t).await?;
        lab.start().await?;
        Ok(lab)
    }

    /// The same, for a test of how machines die: the harness tears the lab down, and a death does not end the test.
    ///
    /// # Errors
    /// As [`Rack::launch`].
    pub async fn launch_unwatched(self, t: &Testbed) -> anyhow::Result<Lab> {
        let plan = self.plan(t).await?;
        let lab = Lab::create(plan.spec.clone(), plan.options(t, None)?).await?;
        let services = LabServices::start(plan.profile.as_ref().unwrap_or(&self.profile), lab.switch())?;
        t.attach(Arc::new(LabSubject::unwatched(lab.clone(), services.hosts)));
        lab.start().await?;
        Ok(lab)
    }

    /// The same as [`Rack::launch`] without powering anything on.
    ///
    /// # Errors
    /// As [`Rack::launch`].
    pub async fn prepare(self, t: &Testbed) -> anyhow::Result<Launched> {
        Arc::new(self.plan(t).await?).lab(t).await
    }

    /// What the lab would be made from; nothing is started, and nothing of the host is taken.
    ///
    /// # Errors
    /// When the image can't be had.
    pub async fn spec_of(&self, t: &Testbed) -> anyhow::Result<LabSpec> {
        let assets = Assets::get(t).await?;
        let image = assets.image(t, &self.image).await?;
        let (boards, profile) = self.boards(t)?;
        self.spec(t, &profile, &boards, &assets, &image).await
    }

    /// The boards that stand in for machines of this rack, and the profile with their addresses.
    fn boards(&self, t: &Testbed) -> anyhow::Result<(BTreeMap<String, Board>, Profile)> {
        let mut boards = self.boards.clone();
        boards.extend(board::of_settings(t.settings())?);
        boards.retain(|name, _| self.machines.contains(name));
        let profile = board::with_macs(&self.profile, &boards)?;
        Ok((boards, profile))
    }

    /// Finds or builds all that the lab needs, and takes its share of the host.
    pub(crate) async fn plan(&self, t: &Testbed) -> anyhow::Result<Plan> {
        let assets = Assets::get(t).await?;
        let (boards, profile) = self.boards(t)?;
        let image = assets.image(t, &self.image).await?;
        let spec = self.spec(t, &profile, &boards, &assets, &image).await?;
        let plan = Plan::of(t, &assets, spec, self.copies, image.kernel.as_deref()).await?;
        Ok(Plan {
            profile: Some(profile),
            checkpoints: self.checkpoints,
            captures: captures(t.settings().capture, self.captures),
            ..plan
        })
    }
}
