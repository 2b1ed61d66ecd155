//! A machine behind a start script: the VDE switches that its NICs are plugged into, and the process.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::Duration;

use process::{Command, Stdio};
use switch::{UplinkConfig, UplinkId, UplinkKind, VdeConfig};

use super::instance::last_words;
use super::{Machine, Plugged};
use crate::Error;
use crate::lab::Context;
use crate::qemu::{
    CommandLine, Plugs, ScriptWiring, quote, script_arguments, script_environment, script_netdev,
};
use crate::spec::{Boot, MachineSpec, StartScript};

/// What a machine behind a start script has besides.
pub(super) struct Scripted {
    pub(super) script: StartScript,
    /// The directory that it runs in.
    state: PathBuf,
    shared: PathBuf,
    /// The VDE switch of each VLAN number: its ports are this machine's alone.
    vde: BTreeMap<u16, (UplinkId, PathBuf)>,
}

impl Scripted {
    /// Makes its directory and the VDE switches for its NICs; `None` for a machine that the driver starts itself.
    pub(super) fn create(spec: &MachineSpec, lab: &Context) -> Result<Option<Self>, Error> {
        let Boot::Script(script) = &spec.boot else { return Ok(None) };
        let state = lab.scratch.join(format!("{}.state", spec.name));
        let shared = lab.scratch.join("shared");
        for dir in [&state, &shared] {
            fs_err::create_dir_all(dir).map_err(Error::file("making", dir))?;
        }
        let mut vde = BTreeMap::new();
        for (&vlan, nic) in script.vlans.iter().zip(&spec.nics) {
            if vde.contains_key(&vlan) {
                continue;
            }
            let dir = lab.socket(&format!("{}.vde{vlan}", spec.name))?;
            let config = VdeConfig { dir: Some(dir.clone()), ..VdeConfig::default() };
            let id = lab.switch.add_uplink(UplinkConfig {
                name: format!("{}/vlan{vlan}", spec.name),
                mode: nic.port.clone(),
                kind: UplinkKind::Vde(config),
            })?;
            vde.insert(vlan, (id, dir));
        }
        Ok(Some(Self { script: script.clone(), state, shared, vde }))
    }

    /// The command that runs the script; what it was given is kept in `cmdline.sh`.
    pub(super) fn command(&self, machine: &Machine, plugs: &Plugs) -> Result<Command, Error> {
        let vde = self.vde.iter().map(|(vlan, (_, dir))| (*vlan, dir.clone())).collect();
        let wiring = ScriptWiring {
            accel: machine.inner.lab.accel,
            state: &self.state,
            shared: &self.shared,
            overlay: machine.inner.disk.as_ref().map(|disk| disk.path()),
            vde: &vde,
            plugs,
        };
        let line = script_arguments(machine.spec(), &self.script, &wiring);
        let env = script_environment(machine.spec(), &self.script, &wiring);
        keep(machine, &line, &env)?;
        let command = Command::new(&line.program).args(&line.args).cwd(&self.state).stdin(Stdio::Null);
        Ok(env.iter().fold(command, |command, (name, value)| command.env(name, value)))
    }

    /// Finds the ports that the script's QEMU has plugged its NICs into: each VLAN's in the order of their numbers, which
    /// is the order in which QEMU made them.
    ///
    /// QEMU has greeted its VDE switches before it answers its monitor.
    pub(super) fn plugged(&self, machine: &Machine, elapsed: Duration) -> Result<Vec<Plugged>, Error> {
        let mut ports = BTreeMap::new();
        for (vlan, (id, _)) in &self.vde {
            let mut clients = machine.inner.lab.switch.uplink(*id)?.clients;
            clients.sort_by_key(|client| client.number);
            ports.insert(vlan, clients.into_iter().map(|client| client.port).collect::<Vec<_>>().into_iter());
        }
        let nics = self.script.vlans.iter().zip(&machine.spec().nics).enumerate();
        let plugged = nics.map(|(slot, (vlan, nic))| {
            let port = ports.get_mut(vlan).and_then(Iterator::next).ok_or_else(|| {
                let log = machine.inner.artifacts.join("qemu.log");
                let said = last_words(&log, "nothing");
                Error::Start {
                    machine: machine.name().to_owned(),
                    waiting_for: "its start script left a NIC unplugged",
                    elapsed,
                    said: format!(
                        "{} is not on $QEMU_VDE_SOCKET_{vlan}, which -netdev vde,id={} should have taken; {said}",
                        nic.name,
                        script_netdev(slot)
                    ),
                    log,
                }
            })?;
            Ok(Plugged { spec: nic.clone(), port, slot })
        });
        plugged.collect()
    }
}

/// Writes what starts the machine by hand: the script, and what it was given.
fn keep(machine: &Machine, line: &CommandLine, env: &BTreeMap<String, String>) -> Result<(), Error> {
    let mut text = format!(
        "#!/bin/sh\n# Starts {} as the test did. Each path of a socket here is the test's, and gone with it: put others, a\n\
         # vde_switch behind each QEMU_VDE_SOCKET, and `-serial mon:stdio` for a console on this terminal.\nset -eu\n",
        machine.name()
    );
    for (name, value) in env {
        text += &format!("export {name}={}\n", quote(value));
    }
    text.push_str(&line.to_shell());
    super::instance::write_script(machine, &text)
}
