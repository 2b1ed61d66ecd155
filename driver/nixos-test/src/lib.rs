//! The configuration that nixosTest writes for its driver, and the lab that it describes.
//!
//! It is a JSON file that names each VM's start script and the VLANs that there are (nixpkgs,
//! `nixos/lib/testing/driver-configuration.nix`). It does not say which VM is in which VLAN: that stands in the start
//! scripts, in the words of their contract, `-netdev vde,id=vlan<n>,sock=$QEMU_VDE_SOCKET_<vlan>`, and so they are read,
//! and never changed.
//!
//! Each VLAN becomes an access VLAN of the lab's switch, each NIC a port of its own in it. `docs/nixos.md` tells the rest.

mod config;
mod error;
mod script;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use driver::spec::{Boot, LabSpec, MachineSpec, NicBackend, NicSpec, ShellSpec, StartScript, Tuning};
use switch::{PortMode, VlanId};

pub use error::{Error, Problem};

/// The longest start script that is read, in bytes: they are shell scripts of some kilobytes.
const LONGEST_SCRIPT: u64 = 1 << 20;

/// A test of NixOS, as its driver is told of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NixosTest {
    /// The VMs, by name in the alphabet's order, which is that of nixosTest.
    pub vms: Vec<Vm>,
    /// The numbers of the VLANs.
    pub vlans: Vec<u16>,
    /// How long the whole test may take, in seconds.
    pub global_timeout_s: Option<u64>,
    /// The test's own Python script, if the configuration names it: it is not run.
    pub test_script: Option<PathBuf>,
}

/// One VM of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Vm {
    /// Its name.
    pub name: String,
    /// Its start script.
    pub start_script: PathBuf,
    /// Its NICs on the test's VLANs, in the order of their numbers; the user network's is not among them.
    pub nics: Vec<Nic>,
    /// The memory that its script asks for, in MiB.
    pub memory_mib: Option<u32>,
    /// The processors that its script asks for.
    pub vcpus: Option<u32>,
}

/// A NIC on one of the test's VLANs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Nic {
    /// The VLAN.
    pub vlan: VlanId,
    /// Its MAC address.
    pub mac: String,
}

impl NixosTest {
    /// Reads a configuration and the start scripts that it names.
    ///
    /// # Errors
    /// [`Error::Read`], or [`Error::Invalid`] with all that is wrong in the configuration and the scripts.
    pub fn load(path: &Path) -> Result<Self, Error> {
        let read = |path: &Path| {
            let text = fs_err::metadata(path).and_then(|meta| match meta.len() > LONGEST_SCRIPT {
                true => Err(std::io::Error::other(format!("{} bytes are no text of this kind", meta.len()))),
                false => fs_err::read(path),
            });
            text.map_err(|source| Error::Read { path: path.to_owned(), source })
        };
        let text = read(path)?;
        Self::parse(&path.display().to_string(), &text, |script| read(script))
    }

    /// The same on a configuration's text, with start scripts from elsewhere. `file` is how messages name it.
    ///
    /// # Errors
    /// [`Error::Invalid`], or what `script` gives.
    pub fn parse(
        file: &str,
        text: &[u8],
        script: impl Fn(&Path) -> Result<Vec<u8>, Error>,
    ) -> Result<Self, Error> {
        let mut problems = Vec::new();
        let config = config::read(text, &mut problems);
        let mut vms = Vec::new();
        for (name, start_script) in config.vms {
            let read = script::read(&script(&start_script)?);
            let (mut nics, mut told) = (Vec::new(), Vec::new());
            for nic in read.nics {
                match nic.map(|(vlan, mac)| (vlan, VlanId::new(vlan), mac)) {
                    Ok((number, Ok(vlan), mac)) if config.vlans.contains(&number) => {
                        nics.push(Nic { vlan, mac })
                    }
                    Ok((vlan, ..)) => {
                        let known = config.vlans.clone();
                        told.push(Problem::UnknownVlan { vm: name.clone(), vlan, known });
                    }
                    Err(what) => told.push(Problem::Script { vm: name.clone(), what }),
                }
            }
            problems.append(&mut told);
            vms.push(Vm { name, start_script, nics, memory_mib: read.memory_mib, vcpus: read.vcpus });
        }
        if !problems.is_empty() {
            return Err(Error::Invalid { file: file.to_owned(), problems });
        }
        let (vlans, test_script) = (config.vlans, config.test_script);
        Ok(Self { vms, vlans, global_timeout_s: config.global_timeout, test_script })
    }

    /// The lab that it describes. Its machines have no agent: the way in is the backdoor that each VM of nixosTest has.
    #[must_use]
    pub fn lab(&self, name: &str) -> LabSpec {
        LabSpec { name: name.to_owned(), machines: self.vms.iter().map(Vm::machine).collect() }
    }
}

impl Vm {
    /// What nixosTest gives a VM that asks for nothing else, in MiB.
    const MEMORY_MIB: u32 = 1024;

    fn machine(&self) -> MachineSpec {
        let nics = self.nics.iter().enumerate().map(|(index, nic)| NicSpec {
            // eth0 is the user network's.
            name: format!("eth{}", index + 1),
            mac: nic.mac.clone(),
            port: PortMode::Access { vlan: nic.vlan },
            backend: NicBackend::Stream,
        });
        MachineSpec {
            name: self.name.clone(),
            memory_mib: self.memory_mib.unwrap_or(Self::MEMORY_MIB),
            vcpus: self.vcpus.unwrap_or(1),
            boot: Boot::Script(StartScript {
                program: self.start_script.clone(),
                vlans: self.nics.iter().map(|nic| nic.vlan.get()).collect(),
                env: BTreeMap::new(),
            }),
            tuning: Tuning::default(),
            disk: None,
            data_disks: Vec::new(),
            nics: nics.collect(),
            bundles: Vec::new(),
            agent: None,
            shell: Some(ShellSpec::Backdoor),
            credentials: Vec::new(),
            hostname: None,
            files: Vec::new(),
            addresses: BTreeMap::new(),
            after: Vec::new(),
        }
    }
}
