//! Installing with apt, on Debian and Ubuntu: first the whole plan is simulated, then it is carried out.

mod parse;
mod plan;

use anyhow::Result;

use crate::command::Command;
use crate::setup::privileged::Privileged;
use parse::{Installed, Offer};
pub(crate) use plan::EMULATOR;
use plan::{Apt, Plan, Simulation, plan};

/// What is common to the simulation and the real thing.
const OPTIONS: [&str; 3] = ["--yes", "--no-install-recommends", "--no-remove"];

/// Installs `wanted`.
///
/// # Errors
/// A package that no configured suite has, a plan that apt refuses in every form tried, a QEMU that is too old, or
/// a command that failed.
pub(crate) fn install(wanted: &[&str], privileged: &mut Privileged) -> Result<()> {
    privileged.about(&wanted.join(" "));
    let mut apt = Real { privileged, updated: false };
    loop {
        let plan = match plan(&mut apt, wanted) {
            Err(_) if apt.updated && apt.privileged.dry_run() => {
                println!("what follows is planned once the package lists are there");
                return Ok(());
            }
            plan => plan?,
        };
        for line in &plan.says {
            println!("  {line}");
        }
        match apt.privileged.run(&install_command(&plan)) {
            // The lists may name versions that the mirror no longer has.
            Err(error) if !apt.updated => {
                println!("  {error:#}; once more with fresh package lists");
                apt.update()?;
            }
            done => return done,
        }
    }
}

fn install_command(plan: &Plan) -> Command {
    // Recommended packages are left out: QEMU's bring a desktop. Nothing that is there may be removed.
    Command::new("env")
        .args(["DEBIAN_FRONTEND=noninteractive", "apt-get", "install"])
        .args(OPTIONS)
        .args(["-o", "DPkg::Lock::Timeout=300", "-o", "Acquire::Retries=3"])
        .args(&plan.args)
}

/// The host's own apt. Everything but `update` and the installation works without root.
struct Real<'a> {
    privileged: &'a mut Privileged,
    updated: bool,
}

fn english(program: &str) -> Command {
    Command::new(program).env("LC_ALL", "C")
}

impl Apt for Real<'_> {
    fn update(&mut self) -> Result<bool> {
        if std::mem::replace(&mut self.updated, true) {
            return Ok(false);
        }
        let update = Command::new("apt-get").args([
            "update",
            "-o",
            "DPkg::Lock::Timeout=300",
            "-o",
            "Acquire::Retries=1",
            "-o",
            "Acquire::http::Timeout=20",
        ]);
        // One unreachable third-party source fails the whole command, though the lists that matter came.
        if let Err(error) = self.privileged.attempt(&update)? {
            println!("  {error:#}; going on with the lists that are there");
        }
        Ok(!self.privileged.dry_run())
    }

    fn offers(&self, packages: &[&str]) -> Result<Vec<Offer>> {
        Ok(parse::madison(&english("apt-cache").arg("madison").args(packages).capture()?.stdout))
    }

    fn candidate(&self, package: &str) -> Result<Option<String>> {
        Ok(parse::candidate(&english("apt-cache").args(["policy", package]).capture()?.stdout))
    }

    fn installed_of_qemu(&self) -> Result<Vec<Installed>> {
        let listed = english("dpkg-query").args(["--show", parse::DPKG_FORMAT, "qemu-*"]).capture()?;
        Ok(parse::installed_of_qemu(&listed.stdout))
    }

    fn simulate(&self, args: &[String]) -> Result<Simulation> {
        let tried = english("apt-get").args(["--simulate", "install"]).args(OPTIONS).args(args).capture()?;
        Ok(if tried.status.success() { Ok(()) } else { Err(tried.both()) })
    }
}
