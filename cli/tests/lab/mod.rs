//! A lab without machines in the test's own process, and `rackless` run on it.

use std::process::{Command, Output};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use driver::qemu::{Accel, Qemu, Version};
use driver::spec::LabSpec;
use driver::{Lab, LabOptions, Unsupervised};
use process::RunDir;
use switch::{Channel, PortConfig, PortId, PortMode, Switch, VlanId};
use tempfile::TempDir;

/// How long anything may take.
pub(crate) const LIMIT: Duration = Duration::from_secs(60);

/// A lab in this process, on a runtime of its own; `rackless` finds it as it finds any other.
pub(crate) struct Running {
    runtime: tokio::runtime::Runtime,
    pub(crate) artifacts: TempDir,
    lab: Lab,
    pub(crate) run: String,
}

impl Running {
    pub(crate) fn start() -> Self {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        let run = format!("cli-{}-{}", std::process::id(), COUNT.fetch_add(1, Ordering::Relaxed));
        let artifacts = tempfile::tempdir().unwrap();
        let options = LabOptions {
            qemu: Qemu {
                program: "/nonexistent/qemu".into(),
                version: Version { major: 7, minor: 2, micro: 0 },
            },
            accel: Accel::Tcg,
            run: RunDir::create(&run).unwrap(),
            artifacts: artifacts.path().to_owned(),
            supervisor: Unsupervised::until(LIMIT),
            seed: 7,
            checkpoints: false,
            captures: driver::Captures::Ring,
        };
        let spec = LabSpec { name: "rack".into(), machines: Vec::new() };
        let runtime = tokio::runtime::Runtime::new().unwrap();
        let lab = runtime.block_on(Lab::create(spec, options)).unwrap();
        // What it says by itself would be counted.
        lab.switch().set_lldp(None).unwrap();
        Self { runtime, artifacts, lab, run }
    }

    pub(crate) fn switch(&self) -> &Switch {
        self.lab.switch()
    }

    pub(crate) fn port(&self, name: &str) -> (PortId, Channel) {
        let mode = PortMode::Access { vlan: vlan() };
        let port = self.switch().add_port(PortConfig::new(name, mode)).unwrap();
        (port, self.switch().attach_channel(port).unwrap())
    }

    pub(crate) fn end(self) {
        self.runtime.block_on(self.lab.teardown()).unwrap();
        drop(self.lab);
        drop(self.artifacts);
    }
}

pub(crate) fn vlan() -> VlanId {
    VlanId::new(100).unwrap()
}

#[expect(clippy::disallowed_methods, reason = "a command that ends at once and starts nothing")]
pub(crate) fn rackless(args: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_rackless")).args(args).output().unwrap()
}

pub(crate) fn succeeds(args: &[&str]) -> String {
    let output = rackless(args);
    let stderr = String::from_utf8(output.stderr).unwrap();
    assert!(output.status.success(), "{args:?} failed: {stderr}");
    String::from_utf8(output.stdout).unwrap()
}

pub(crate) fn fails(args: &[&str]) -> (Option<i32>, String) {
    let output = rackless(args);
    assert_eq!(String::from_utf8(output.stdout).unwrap(), "", "{args:?}");
    (output.status.code(), String::from_utf8(output.stderr).unwrap())
}
