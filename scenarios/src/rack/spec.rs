//! What a rack's lab looks like: each machine's disk, kernel, addresses, ports and way in.

use std::collections::BTreeMap;
use std::path::PathBuf;

use anyhow::{Context as _, bail};
use driver::board::Board;
use driver::spec::{
    AgentSource, AgentSpec, Boot, BundleSpec, DiskBus, DiskSpec, GuestFile, LabSpec, MachineSpec, NicSpec,
    ShellSpec,
};
use harness::Testbed;
use images::injection::{self, CREDENTIALS_SINCE, Injection};
use images::{Image, Login, WayIn};
use profiles::Profile;
use profiles::render;
use switch::{PortMode, VlanId, VlanSet};

use super::{BootMode, Rack};
use crate::assets::Assets;
use crate::board;

impl Rack {
    pub(super) async fn spec(
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
