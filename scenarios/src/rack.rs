//! From a profile and an image to a running lab.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;

use anyhow::{Context as _, bail};
use driver::board::Board;
use driver::checkpoint::Checkpoint;
use driver::qemu::{Accel, Memory, Qemu};
use driver::spec::{
    AgentSource, AgentSpec, Boot, BundleSpec, Channel, DataDisk, DiskBus, DiskSpec, GuestFile, LabSpec,
    MachineSpec, NicBackend, NicSpec, ShellSpec, Tuning,
};
use driver::{After, Captures, Lab, LabOptions};
use harness::{Capture, Testbed};
use images::injection::{self, CREDENTIALS_SINCE, Injection};
use images::{Image, Login, WayIn};
use profiles::Profile;
use profiles::render;
use switch::{LldpConfig, PortMode, VlanId, VlanSet};

use crate::assets::Assets;
use crate::board;
use crate::dhcp::LabServices;
use crate::launched::Launched;
use crate::subject::{LabSubject, TestSupervisor};

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

/// All that a lab is made from.
pub(crate) struct Plan {
    pub(crate) spec: LabSpec,
    pub(crate) qemu: Qemu,
    pub(crate) accel: Accel,
    /// `None` for machines that others describe.
    profile: Option<Profile>,
    checkpoints: bool,
    captures: Captures,
    /// How many copies of the lab the host has room for besides itself.
    pub(crate) copies: u32,
}

impl Plan {
    /// Takes a lab's share of the host, and chooses how its guests are run.
    ///
    /// # Errors
    /// When the host has no room for it, or `RACKLESS_ACCEL` asks for what can't be had.
    pub(crate) async fn of(t: &Testbed, assets: &Assets, spec: LabSpec) -> anyhow::Result<Self> {
        // A crowded host may let the test wait here: the deadline stands still.
        t.budget(u64::from(spec.memory_mib()), spec.vcpus()).await?;
        let accel = assets.accel(t, None).await?;
        t.deadline().scale(f64::from(accel.time_factor()));
        Ok(Self {
            qemu: assets.qemu.clone(),
            accel,
            profile: None,
            checkpoints: false,
            captures: captures(t.settings().capture, Captures::default()),
            copies: 0,
            spec,
        })
    }

    /// Where the guests' memory lies.
    pub(crate) fn memory(&self) -> Memory {
        if self.checkpoints { Memory::Memfd } else { Memory::Own }
    }

    /// Makes the lab and the hosts on its switch, hands them to the harness, and starts nothing.
    pub(crate) async fn lab(self: &Arc<Self>, t: &Testbed) -> anyhow::Result<Launched> {
        let lab = Lab::create(self.spec.clone(), self.options(t, None)?).await?;
        self.attach(t, lab)
    }

    /// The lab as a checkpoint has it, going on. As a copy it has the artefacts of its own, in a folder of that name.
    ///
    /// # Errors
    /// Those of restoring; nothing is left of the lab then.
    pub(crate) async fn restored(
        self: &Arc<Self>,
        t: &Testbed,
        from: &Checkpoint,
        copy: Option<&str>,
    ) -> anyhow::Result<Launched> {
        let lab = Lab::restored(self.spec.clone(), self.options(t, copy)?, from).await?;
        let launched = self.attach(t, lab)?;
        if let Err(error) = launched.resume(from).await {
            launched.end(t).await?;
            return Err(error.into());
        }
        Ok(launched)
    }

    /// Starts the hosts on the lab's switch, and hands all of it to the harness.
    fn attach(self: &Arc<Self>, t: &Testbed, lab: Lab) -> anyhow::Result<Launched> {
        let LabServices { hosts, dhcp } = match &self.profile {
            Some(profile) => {
                name_vlans(profile, &lab)?;
                LabServices::start(profile, lab.switch())?
            }
            None => LabServices::default(),
        };
        let subject = t.attach(Arc::new(LabSubject::watched(lab.clone(), hosts)));
        Ok(Launched::new(lab, dhcp, self.clone(), subject))
    }

    fn options(&self, t: &Testbed, copy: Option<&str>) -> anyhow::Result<LabOptions> {
        let machines = self.spec.machines.iter().map(|machine| machine.name.clone());
        Ok(LabOptions {
            qemu: self.qemu.clone(),
            accel: self.accel,
            run: process::RunDir::create(&crate::assets::run_name())?,
            artifacts: copy.map_or_else(|| t.artifacts().to_owned(), |copy| t.artifacts().join(copy)),
            supervisor: Arc::new(TestSupervisor::new(t, machines, copy)?),
            seed: t.seed(),
            checkpoints: self.checkpoints,
            captures: self.captures,
        })
    }
}

/// The switch tells by LLDP what the VLANs of its ports are called: as the profile's networks.
fn name_vlans(profile: &Profile, lab: &Lab) -> anyhow::Result<()> {
    let name = |network: &profiles::Network| {
        let vlan = profile.switch_vlan(&network.name)?;
        Ok((VlanId::new(vlan).with_context(|| format!("{vlan} is no VLAN id"))?, network.name.clone()))
    };
    let vlan_names = profile.networks().iter().map(name).collect::<anyhow::Result<_>>()?;
    Ok(lab.switch().set_lldp(Some(LldpConfig { vlan_names, ..LldpConfig::new() }))?)
}

/// What the command line asks for goes before what the test asks for.
fn captures(asked: Option<Capture>, of_test: Captures) -> Captures {
    match asked {
        Some(Capture::Off) => Captures::Off,
        Some(Capture::Ring) => Captures::Ring,
        Some(Capture::Whole) => Captures::Whole,
        None => of_test,
    }
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

    /// Makes a checkpoint a matter of milliseconds: see [`LabOptions::checkpoints`].
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
        let services = LabServices::start(&self.profile, lab.switch())?;
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
        // A crowded host may let the test wait here: the deadline stands still.
        let labs = 1 + self.copies;
        t.budget(u64::from(labs) * u64::from(spec.memory_mib()), labs * spec.vcpus()).await?;
        let kernel = image.kernel.clone();
        let choice = assets.accel(t, kernel.as_deref()).await?;
        t.deadline().scale(f64::from(choice.time_factor()));
        Ok(Plan {
            qemu: assets.qemu.clone(),
            accel: choice,
            profile: Some(profile),
            checkpoints: self.checkpoints,
            captures: captures(t.settings().capture, self.captures),
            copies: self.copies,
            spec,
        })
    }

    async fn spec(
        &self,
        t: &Testbed,
        profile: &Profile,
        boards: &BTreeMap<String, Board>,
        assets: &Assets,
        image: &Image,
    ) -> anyhow::Result<LabSpec> {
        let plan = render::switch_ports(profile);
        let mut machines = Vec::new();
        for name in &self.machines {
            let machine = self.machine(name, profile, assets, image, &plan).await?;
            machines.push(match boards.get(name) {
                Some(board) => board::machine(machine, board.clone(), profile)?,
                None => machine,
            });
        }
        for (machine, after) in &self.after {
            let found = machines.iter_mut().find(|it| it.name == *machine);
            let found = found.with_context(|| {
                format!(
                    "{machine} is to start after {after}, and is not among the machines: {}",
                    self.machines.join(", ")
                )
            })?;
            found.after.push(after.clone());
        }
        let mut spec = LabSpec { name: self.profile.name().to_owned(), machines };
        for edit in &self.edit {
            edit(&mut spec, t)?;
        }
        Ok(spec)
    }

    async fn machine(
        &self,
        name: &str,
        profile: &Profile,
        assets: &Assets,
        image: &Image,
        plan: &render::SwitchPlan,
    ) -> anyhow::Result<MachineSpec> {
        let machine = profile.machine(name)?;
        let nics = plan.ports_of(name).map(|port| {
            Ok(NicSpec {
                name: port.nic.clone(),
                mac: port.mac.to_string(),
                port: port_mode(&port.mode)?,
                backend: self.backend,
            })
        });
        let bundles = plan.bundles.iter().filter(|bundle| bundle.machine == name).map(|bundle| {
            let members = plan.ports_of(name).filter(|port| bundle.ports.contains(&port.name));
            BundleSpec {
                name: bundle.name.clone(),
                nics: members.map(|port| port.nic.clone()).collect(),
                lacp: bundle.lacp.is_some(),
            }
        });
        let addresses = machine.attachments.iter().map(|a| (a.network.clone(), a.address));
        let channel = self.channel.unwrap_or(assets.channel);
        let way_in = self.way_in.unwrap_or(image.way_in);
        let injection = Injection {
            agent: way_in == WayIn::Agent,
            agent_args: Vec::new(),
            hostname: Some(name.to_owned()),
            networkd: render::networkd(profile, name)?,
            udev: render::udev(profile, name)?,
        };
        let takes_credentials = image.systemd.is_none_or(|version| version >= CREDENTIALS_SINCE);
        let shell = self.shell_of(image, way_in);
        let over_shell = || {
            let source = AgentSource::OverShell(assets.agent.clone());
            self.then_agent.then_some(AgentSpec { source, channel })
        };
        let (disk, credentials, agent) = match way_in {
            // Nothing is brought into a guest that is only looked at.
            WayIn::Console => (image.disk.clone(), Vec::new(), None),
            WayIn::Shell | WayIn::Backdoor if !takes_credentials => {
                (image.disk.clone(), Vec::new(), over_shell())
            }
            WayIn::Shell | WayIn::Backdoor => {
                let credentials = injection::credentials(&injection)
                    .with_context(|| format!("{name}: the credentials with its name and addresses"))?;
                (image.disk.clone(), credentials, over_shell())
            }
            WayIn::Agent if self.into_copy || !takes_credentials => {
                let copy = written_into_a_copy(name, assets, image, injection).await?;
                (copy, Vec::new(), Some(AgentSpec { source: AgentSource::Image, channel }))
            }
            WayIn::Agent => {
                let credentials = injection::credentials(&injection).with_context(|| {
                    format!("{name}: the credentials that bring the agent into the guest")
                })?;
                let source = AgentSource::Disk(assets.agent_disk.clone());
                (image.disk.clone(), credentials, Some(AgentSpec { source, channel }))
            }
        };
        Ok(MachineSpec {
            name: name.to_owned(),
            memory_mib: self.memory_mib,
            vcpus: self.vcpus,
            boot: self.boot_of(image)?,
            tuning: self.tuning,
            disk: Some(DiskSpec { image: disk, bus: self.bus.unwrap_or(bus(image.bus)), grow_to: None }),
            data_disks: self.data_disks.clone(),
            nics: nics.collect::<anyhow::Result<_>>()?,
            bundles: bundles.collect(),
            agent,
            shell,
            credentials,
            hostname: Some(name.to_owned()),
            files: vec![GuestFile { path: "/etc/hosts".to_owned(), content: render::hosts(profile) }],
            addresses: addresses.collect(),
            after: Vec::new(),
        })
    }

    /// The shell that stands in for the agent.
    fn shell_of(&self, image: &Image, way_in: WayIn) -> Option<ShellSpec> {
        match way_in {
            WayIn::Agent | WayIn::Console => None,
            WayIn::Backdoor => Some(ShellSpec::Backdoor),
            WayIn::Shell => {
                let login = self.login.clone().or_else(|| image.login.clone());
                let login =
                    login.unwrap_or_else(|| Login { user: "root".to_owned(), password: String::new() });
                Some(ShellSpec::Serial(driver::spec::Login { user: login.user, password: login.password }))
            }
        }
    }

    fn boot_of(&self, image: &Image) -> anyhow::Result<Boot> {
        match (self.boot, &image.kernel) {
            (BootMode::Firmware, _) => Ok(Boot::Firmware),
            (BootMode::Direct, Some(kernel)) => Ok(Boot::Direct {
                kernel: kernel.clone(),
                initrd: image.initrd.clone(),
                cmdline: image.cmdline.clone(),
            }),
            (BootMode::Direct, None) => bail!(
                "the image {} exports no kernel, so it can't be booted directly: boot it by firmware, or name \
                 `kernel` and `cmdline` in the TOML beside it",
                image.name
            ),
        }
    }
}

/// A copy of the image's disk with the agent in it, out of the cache.
async fn written_into_a_copy(
    name: &str,
    assets: &Assets,
    image: &Image,
    injection: Injection,
) -> anyhow::Result<PathBuf> {
    let (store, disk, agent) = (assets.store.clone(), image.disk.clone(), assets.agent.clone());
    let written = tokio::task::spawn_blocking(move || store.copy_with(&disk, &agent, &injection)).await?;
    written.with_context(|| format!("{name}: writing the agent into a copy of {}", image.disk.display()))
}

fn port_mode(mode: &render::PortMode) -> anyhow::Result<PortMode> {
    let id = |vlan: u16| VlanId::new(vlan).with_context(|| format!("{vlan} is no VLAN id"));
    Ok(match mode {
        render::PortMode::Access { vlan } => PortMode::Access { vlan: id(*vlan)? },
        render::PortMode::Trunk { allowed, native } => PortMode::Trunk {
            allowed: allowed.iter().map(|&v| id(v)).collect::<anyhow::Result<VlanSet>>()?,
            native: native.map(id).transpose()?,
        },
    })
}

fn bus(bus: images::DiskBus) -> DiskBus {
    match bus {
        images::DiskBus::VirtioBlk => DiskBus::VirtioBlk,
        images::DiskBus::VirtioScsi => DiskBus::VirtioScsi,
        images::DiskBus::Sata => DiskBus::Sata,
        images::DiskBus::Nvme => DiskBus::Nvme,
    }
}
