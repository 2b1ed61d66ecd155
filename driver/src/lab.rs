//! A running topology: its machines, its switch, and their common end.

use std::ops::Index;
use std::path::{Path, PathBuf};
use std::sync::{Arc, PoisonError, Weak};
use std::time::Duration;

use futures::StreamExt as _;
use futures::stream::FuturesUnordered;
use process::{Child, RunDir};
use switch::{BundleConfig, LacpMode, LldpConfig, PortConfig, PortId, Switch, SwitchOptions};
use tokio_util::sync::CancellationToken;

use crate::capture::Captures;
use crate::checkpoint::Checkpoint;
use crate::death::Died;
use crate::fault::tell_service_faults;
use crate::machine::Machine;
use crate::qemu::{Accel, Firmware, Qemu, script_problem};
use crate::spec::{
    AgentSource, Boot, BundleSpec, DataDisk, LabSpec, MachineSpec, NicBackend, NicSpec, is_hostname,
};
use crate::supervisor::Supervisor;
use crate::{Error, control};

/// What QEMU may take to quit politely, before it is killed.
const QUIT_GRACE: Duration = Duration::from_secs(5);

/// What a lab needs from outside.
pub struct LabOptions {
    /// The emulator.
    pub qemu: Qemu,
    /// The accelerator.
    pub accel: Accel,
    /// The run's directory, for sockets and records.
    pub run: RunDir,
    /// The folder of this test's artefacts.
    pub artifacts: PathBuf,
    /// Whoever runs the test.
    pub supervisor: Arc<dyn Supervisor>,
    /// The seed of what is left to chance: which frames an impairment loses, for example.
    pub seed: u64,
    /// Whether guests' memory lies where a checkpoint takes it from in a moment, and where restored labs share it.
    /// A lab without this can be saved as well, in more time and space.
    pub checkpoints: bool,
    /// What is left of the frames that crossed.
    pub captures: Captures,
}

/// What the machines of a lab share.
pub(crate) struct Context {
    pub(crate) qemu: Qemu,
    pub(crate) accel: Accel,
    pub(crate) firmware: Option<Firmware>,
    pub(crate) artifacts: PathBuf,
    /// Overlays and UEFI variables; removed with the lab.
    pub(crate) scratch: PathBuf,
    pub(crate) supervisor: Arc<dyn Supervisor>,
    pub(crate) switch: Switch,
    pub(crate) seed: u64,
    /// See [`LabOptions::checkpoints`].
    pub(crate) checkpoints: bool,
    pub(crate) captures: Captures,
    /// The machine of the lab that asks for its turn to boot.
    pub(crate) line: tokio::sync::Mutex<()>,
    /// Cancelled when the lab ends: nothing starts any more.
    pub(crate) over: CancellationToken,
    run: RunDir,
}

impl Context {
    pub(crate) fn socket(&self, name: &str) -> Result<PathBuf, Error> {
        self.run.socket(name).map_err(|source| Error::Run { source })
    }

    pub(crate) fn record(&self, name: &str, child: &Child) -> Result<(), Error> {
        self.run.record(name, child).map_err(|source| Error::Run { source })
    }

    pub(crate) fn forget(&self, name: &str) {
        if let Err(error) = self.run.forget(name) {
            tracing::debug!(%error, "a record could not be taken away");
        }
    }

    pub(crate) fn add_port(&self, machine: &str, nic: &NicSpec) -> Result<PortId, Error> {
        let name = format!("{machine}/{}", nic.name);
        let fast = nic.backend == NicBackend::VhostUser;
        Ok(self.switch.add_port(PortConfig::new(name, nic.port.clone()).fast(fast))?)
    }
}

/// A running topology. A cheap handle: clones are the same lab.
#[derive(Clone)]
pub struct Lab {
    inner: Arc<Inner>,
}

/// A handle that does not keep the lab alive.
pub(crate) struct WeakLab(Weak<Inner>);

impl WeakLab {
    pub(crate) fn upgrade(&self) -> Option<Lab> {
        self.0.upgrade().map(|inner| Lab { inner })
    }
}

struct Inner {
    name: String,
    context: Arc<Context>,
    machines: Vec<Machine>,
    control: std::sync::Mutex<Option<control::Server>>,
}

impl Lab {
    /// Makes the switch and the machines of `spec`. Nothing is powered on yet.
    ///
    /// # Errors
    /// [`Error::Spec`], [`Error::FirmwareMissing`], [`Error::Switch`], or files and overlays that can't be
    /// made.
    pub async fn create(spec: LabSpec, options: LabOptions) -> Result<Self, Error> {
        Self::make(spec, options, None).await
    }

    /// The same, with disks and variables as a checkpoint has them.
    pub(crate) async fn make(
        spec: LabSpec,
        options: LabOptions,
        from: Option<&Checkpoint>,
    ) -> Result<Self, Error> {
        check(&spec)?;
        let LabOptions { qemu, accel, run, artifacts, supervisor, seed, checkpoints, captures } = options;
        let firmware = match spec.machines.iter().any(|m| m.boot == Boot::Firmware) {
            true => Some(Firmware::find()?),
            false => None,
        };
        let net = artifacts.join("net");
        fs_err::create_dir_all(&net).map_err(Error::file("making", &net))?;
        let scratch = artifacts.join("scratch");
        fs_err::create_dir_all(&scratch).map_err(Error::file("making", &scratch))?;
        run.own(&scratch).map_err(|source| Error::Run { source })?;
        let switch = Switch::start(SwitchOptions { seed, ..SwitchOptions::new(&spec.name, run.path()) })?;
        switch.set_lldp(Some(LldpConfig::new()))?;
        captures.begin(&switch, &net)?;
        tell_service_faults(&switch, &supervisor, &spec);
        let context = Arc::new(Context {
            qemu,
            accel,
            firmware,
            artifacts,
            scratch,
            supervisor,
            switch,
            seed,
            checkpoints,
            captures,
            line: tokio::sync::Mutex::default(),
            over: CancellationToken::new(),
            run,
        });
        let mut machines = Vec::new();
        for machine in spec.machines {
            let saved = from.and_then(|checkpoint| checkpoint.incoming(&machine.name));
            let machine = Machine::create(machine, context.clone(), saved.as_ref()).await?;
            add_bundles(&machine, &context.switch)?;
            machines.push(machine);
        }
        let lab = Self {
            inner: Arc::new(Inner {
                name: spec.name,
                context,
                machines,
                control: std::sync::Mutex::default(),
            }),
        };
        let control = control::Server::start(&lab, &lab.inner.context.socket("control")?)?;
        *lab.inner.control.lock().unwrap_or_else(PoisonError::into_inner) = Some(control);
        Ok(lab)
    }

    /// Waits until every machine is ready.
    ///
    /// # Errors
    /// The first machine's that does not get there.
    pub async fn wait_ready(&self) -> Result<(), Error> {
        let ready = self.inner.machines.iter().map(|m| std::future::IntoFuture::into_future(m.wait_ready()));
        futures::future::try_join_all(ready).await.map(drop)
    }

    /// A handle that does not keep the lab alive.
    pub(crate) fn downgrade(&self) -> WeakLab {
        WeakLab(Arc::downgrade(&self.inner))
    }

    /// The name.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.inner.name
    }

    /// The machines, in the order of the spec.
    #[must_use]
    pub fn machines(&self) -> &[Machine] {
        &self.inner.machines
    }

    /// A machine by name.
    ///
    /// # Errors
    /// [`Error::NoSuchMachine`] names those that there are.
    pub fn machine(&self, name: &str) -> Result<&Machine, Error> {
        self.inner.machines.iter().find(|m| m.name() == name).ok_or_else(|| Error::NoSuchMachine {
            name: name.to_owned(),
            known: self.inner.machines.iter().map(|m| m.name().to_owned()).collect(),
        })
    }

    pub(crate) fn context(&self) -> &Arc<Context> {
        &self.inner.context
    }

    /// The switch.
    #[must_use]
    pub fn switch(&self) -> &Switch {
        &self.inner.context.switch
    }

    /// The accelerator that its machines run on.
    #[must_use]
    pub fn accel(&self) -> Accel {
        self.inner.context.accel
    }

    /// The folder of artefacts.
    #[must_use]
    pub fn artifacts(&self) -> &Path {
        &self.inner.context.artifacts
    }

    /// The directory of the run, with its sockets.
    #[must_use]
    pub fn run_dir(&self) -> &Path {
        self.inner.context.run.path()
    }

    /// Resolves with the first machine that dies without being asked to.
    pub async fn died(&self) -> Died {
        let mut deaths: FuturesUnordered<_> = self.inner.machines.iter().map(Machine::died).collect();
        match deaths.next().await {
            Some(died) => died,
            None => std::future::pending().await,
        }
    }

    /// Gathers what can be gathered after a failure, from all machines at once and from the switch.
    pub async fn diagnose(&self) {
        let all = self.inner.machines.iter().map(Machine::diagnose);
        // The frames at once: what the switch holds is replaced by what crosses meanwhile.
        tokio::join!(self.keep_frames(), futures::future::join_all(all));
        self.keep_ports();
    }

    /// Writes the state of the switch's ports to `net/ports.json`.
    fn keep_ports(&self) {
        let path = self.artifacts().join("net/ports.json");
        if let Err(error) = self.switch().write_state(&path) {
            tracing::warn!(%error, "the ports' state could not be kept");
        }
    }

    /// Ends the lab in order: QEMU is asked to quit and killed after 5 s, then the switch stops, then what was
    /// written for the run goes.
    ///
    /// # Errors
    /// [`Error::Lingering`] names what is still there.
    pub async fn teardown(&self) -> Result<(), Error> {
        self.inner.context.over.cancel();
        self.inner.control.lock().unwrap_or_else(PoisonError::into_inner).take();
        let quit = self.inner.machines.iter().map(|m| m.quit(QUIT_GRACE));
        futures::future::join_all(quit).await;
        self.keep_ports();
        let mut lingering: Vec<String> = self
            .inner
            .machines
            .iter()
            .filter(|m| m.is_running())
            .map(|m| match m.qemu_pid() {
                Some(pid) => format!("QEMU of {} (pid {pid})", m.name()),
                None => format!("{}, a board whose power could not be turned off", m.name()),
            })
            .collect();
        match self.switch().stop() {
            Ok(captured) => self.tell_captured(&captured),
            Err(error) => lingering.push(format!("the switch: {error}")),
        }
        if let Err(error) = fs_err::remove_dir_all(&self.inner.context.scratch) {
            lingering.push(error.to_string());
        }
        if lingering.is_empty() {
            Ok(())
        } else {
            Err(Error::Lingering { lab: self.name().to_owned(), what: lingering })
        }
    }

    /// Kills every QEMU now, without waiting: for a watchdog.
    pub fn kill(&self) {
        self.inner.context.over.cancel();
        self.inner.machines.iter().for_each(Machine::kill_now);
    }
}

impl Index<&str> for Lab {
    type Output = Machine;

    /// A machine by name, for tests: [`Lab::machine`] gives an error instead of a panic.
    ///
    /// # Panics
    /// When there is no such machine.
    fn index(&self, name: &str) -> &Machine {
        match self.machine(name) {
            Ok(machine) => machine,
            Err(error) => panic!("{error}"),
        }
    }
}

/// Makes the switch the partner of a machine's bonds.
fn add_bundles(machine: &Machine, switch: &Switch) -> Result<(), Error> {
    // The NICs of a start script and of a board get their ports when these run, and join then.
    if matches!(machine.spec().boot, Boot::Script(_) | Boot::Board(_)) {
        return Ok(());
    }
    join_bundles(machine, switch)
}

/// Makes a machine's NICs, as they are plugged in now, the members of its bundles, which are made if they are not there.
pub(crate) fn join_bundles(machine: &Machine, switch: &Switch) -> Result<(), Error> {
    let spec = machine.spec();
    for bundle in &spec.bundles {
        // In a lab out of a checkpoint, one may have been pulled.
        let plugged = machine.nics();
        let members = bundle.nics.iter().filter(|nic| plugged.contains(nic)).map(|nic| machine.port(nic));
        let members = members.collect::<Result<Vec<_>, _>>()?;
        let mode =
            spec.nics.iter().find(|nic| bundle.nics.first() == Some(&nic.name)).map(|nic| nic.port.clone());
        if let Some(old) = switch.bundles()?.into_iter().find(|old| old.name == bundle.name) {
            for member in members {
                switch.add_member(old.id, member)?;
            }
        } else if let Some(mode) = mode {
            let lacp = if bundle.lacp { LacpMode::Active } else { LacpMode::Static };
            switch.add_bundle(BundleConfig::new(&bundle.name, mode, members).lacp(lacp))?;
        }
    }
    Ok(())
}

fn check(spec: &LabSpec) -> Result<(), Error> {
    let mut names = std::collections::BTreeSet::new();
    for machine in &spec.machines {
        let problem = if !names.insert(&machine.name) {
            "there are two machines of that name".to_owned()
        } else if !is_hostname(&machine.name) {
            let problem =
                "a name must be a hostname: up to 63 letters, digits and hyphens, no hyphen at an end";
            let machine = if machine.name.is_empty() {
                "a machine without a name".into()
            } else {
                machine.name.clone()
            };
            return Err(Error::Spec { machine, problem: problem.into() });
        } else if let Boot::Board(board) = &machine.boot {
            match crate::machine::board_problem(machine, board) {
                Some(problem) => problem,
                None => continue,
            }
        } else if machine.vcpus == 0 || machine.memory_mib < 64 {
            format!("{} vCPUs and {} MiB are no machine", machine.vcpus, machine.memory_mib)
        } else if machine.shell.is_none()
            && machine.agent.as_ref().is_some_and(|agent| matches!(agent.source, AgentSource::OverShell(_)))
        {
            "its agent is to come in over a shell, and it has none".to_owned()
        } else if let Some(problem) = data_disk_problem(machine) {
            problem
        } else if let Boot::Script(script) = &machine.boot
            && let Some(problem) = script_problem(machine, script)
        {
            problem
        } else if machine.disk.is_none() && !matches!(machine.boot, Boot::Script(_) | Boot::Direct { .. }) {
            "firmware needs a disk to boot from".to_owned()
        } else if let Some(problem) =
            machine.bundles.iter().find_map(|bundle| bundle_problem(machine, bundle))
        {
            problem
        } else {
            continue;
        };
        return Err(Error::Spec { machine: machine.name.clone(), problem });
    }
    match crate::start::problem(&spec.machines) {
        Some((machine, problem)) => Err(Error::Spec { machine, problem }),
        None => Ok(()),
    }
}

/// What is wrong with the data disks.
fn data_disk_problem(machine: &MachineSpec) -> Option<String> {
    let disks = &machine.data_disks;
    if disks.len() > MachineSpec::DATA_DISKS {
        return Some(format!(
            "{} data disks, and there is room for {}",
            disks.len(),
            MachineSpec::DATA_DISKS
        ));
    }
    let mut names = std::collections::BTreeSet::new();
    disks.iter().find_map(|DataDisk { name, bytes, .. }| {
        let plain = name.chars().all(|c| c.is_ascii_alphanumeric() || c == '-');
        if !plain || !(1..=20).contains(&name.len()) {
            Some(format!(
                "a data disk is called {name:?}: up to 20 letters, digits and hyphens are a serial number"
            ))
        } else if !names.insert(name) {
            Some(format!("there are two data disks {name}"))
        } else if *bytes == 0 || bytes % 512 != 0 {
            Some(format!("the data disk {name} has {bytes} bytes, which are no whole sectors"))
        } else {
            None
        }
    })
}

/// What is wrong with a bundle.
fn bundle_problem(machine: &MachineSpec, bundle: &BundleSpec) -> Option<String> {
    let nics = || bundle.nics.iter().map(|nic| machine.nics.iter().find(|n| n.name == *nic));
    if bundle.nics.is_empty() {
        return Some(format!("the bundle {} has no NICs", bundle.name));
    }
    if let Some(nic) = bundle.nics.iter().zip(nics()).find_map(|(nic, found)| found.is_none().then_some(nic))
    {
        return Some(format!("the bundle {} has {nic}, and the machine has not", bundle.name));
    }
    let mut ports = nics().flatten().map(|nic| &nic.port);
    let first = ports.next();
    let same = ports.all(|port| Some(port) == first);
    (!same).then(|| format!("the ports of the bundle {} have different VLANs", bundle.name))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::spec::tests::machine;
    use crate::spec::{AgentSpec, Channel, ShellSpec};

    fn refusal(machines: Vec<MachineSpec>) -> String {
        let refused = check(&LabSpec { name: "lab".into(), machines }).expect_err("a refused spec");
        assert_eq!(refused.kind(), crate::Kind::Infra);
        refused.to_string()
    }

    #[test]
    fn a_bundle_needs_nics_that_are_there_and_have_the_same_vlans() {
        let told = |nics: &[&str]| {
            let nics = nics.iter().map(|&nic| nic.to_owned()).collect();
            let bundles = vec![BundleSpec { name: "a/bond0".into(), nics, lacp: true }];
            refusal(vec![MachineSpec { bundles, ..machine("a") }])
        };
        assert_eq!(told(&[]), "a: the bundle a/bond0 has no NICs");
        assert_eq!(told(&["eth0", "eth7"]), "a: the bundle a/bond0 has eth7, and the machine has not");
        assert_eq!(told(&["eth0", "eth1"]), "a: the ports of the bundle a/bond0 have different VLANs");
    }

    #[test]
    fn data_disks_have_names_that_fit_and_whole_sectors() {
        let told = |disks: &[(&str, u64)]| {
            let disk = |&(name, bytes): &(&str, u64)| DataDisk { name: name.to_owned(), bytes, image: None };
            refusal(vec![MachineSpec { data_disks: disks.iter().map(disk).collect(), ..machine("a") }])
        };
        let rule = "up to 20 letters, digits and hyphens are a serial number";
        for name in ["", "a b", "data_1", "a23456789-123456789-1"] {
            assert_eq!(told(&[(name, 512)]), format!("a: a data disk is called {name:?}: {rule}"));
        }
        assert_eq!(told(&[("d", 512), ("d", 512)]), "a: there are two data disks d");
        assert_eq!(told(&[("d", 513)]), "a: the data disk d has 513 bytes, which are no whole sectors");
        assert_eq!(told(&[("d", 512); 9]), "a: 9 data disks, and there is room for 8");
    }

    #[test]
    fn two_machines_of_one_name_are_refused() {
        let machines = vec![machine("server-1"), machine("agent-1"), machine("server-1")];
        assert_eq!(refusal(machines), "server-1: there are two machines of that name");
    }

    #[test]
    fn a_name_that_is_no_hostname_is_refused() {
        let rule = "a name must be a hostname: up to 63 letters, digits and hyphens, no hyphen at an end";
        let long = "a".repeat(64);
        for name in ["server_1", "server 1", "a/b", "..", "sérver", "a.b", "-x", "a-", long.as_str()] {
            let told = refusal(vec![machine("agent-1"), machine(name)]);
            assert_eq!(told, format!("{name}: {rule}"));
        }
        assert_eq!(refusal(vec![machine("")]), format!("a machine without a name: {rule}"));
    }

    #[test]
    fn a_machine_without_cpus_or_memory_is_refused() {
        let none = MachineSpec { vcpus: 0, ..machine("server-1") };
        assert_eq!(refusal(vec![none]), "server-1: 0 vCPUs and 768 MiB are no machine");
        let little = MachineSpec { memory_mib: 63, ..machine("server-1") };
        assert_eq!(refusal(vec![little]), "server-1: 2 vCPUs and 63 MiB are no machine");
    }

    #[test]
    fn an_agent_that_comes_over_a_shell_needs_one() {
        let source = AgentSource::OverShell("/agent".into());
        let agent = Some(AgentSpec { source, channel: Channel::Virtserial });
        let lone = MachineSpec { agent, ..machine("server-1") };
        let told = "server-1: its agent is to come in over a shell, and it has none";
        assert_eq!(refusal(vec![lone.clone()]), told);
        let machines = vec![MachineSpec { shell: Some(ShellSpec::Backdoor), ..lone }];
        check(&LabSpec { name: "lab".into(), machines }).expect("a sound lab");
    }

    #[test]
    fn sound_labs_pass_and_so_does_an_empty_one() {
        let smallest = MachineSpec { vcpus: 1, memory_mib: 64, ..machine("9") };
        let machines = vec![machine("server-1"), machine("Server-1"), smallest];
        check(&LabSpec { name: "lab".into(), machines }).expect("a sound lab");
        check(&LabSpec { name: "lab".into(), machines: Vec::new() }).expect("an empty lab");
    }
}
