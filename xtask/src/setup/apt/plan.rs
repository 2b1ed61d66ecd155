//! Deciding what to ask of apt.
//!
//! A host may have some of QEMU's packages from a suite that is newer than the one which now offers the
//! emulator, or that is no longer configured at all: a preinstalled `qemu-utils` from backports is common on
//! build machines. The packages of one source must match (newer ones break older ones), so apt refuses, or would
//! remove what is there. Then the emulator is taken from the suite of what is installed, or what is installed is
//! moved to the emulator's version.

use anyhow::{Result, bail, ensure};

use super::parse::{Installed, Offer, same_source, upstream};

/// The package of the emulator for x86-64.
pub(crate) const EMULATOR: &str = "qemu-system-x86";
/// Binary packages of the source `qemu` that set-up asks for, the one that decides the version first.
const OF_QEMU: [&str; 2] = [EMULATOR, "qemu-utils"];
/// The first with `-netdev stream`, by which machines hang on the switch.
const OLDEST_QEMU: (u32, u32) = (7, 2);

/// What apt says to a plan: done, or its complaint.
pub(crate) type Simulation = Result<(), String>;

/// What planning needs of apt.
pub(crate) trait Apt {
    /// Fetches the package lists; false when that was done before or is not to be done.
    fn update(&mut self) -> Result<bool>;
    /// What the configured suites have, newest first.
    fn offers(&self, packages: &[&str]) -> Result<Vec<Offer>>;
    /// What apt would take.
    fn candidate(&self, package: &str) -> Result<Option<String>>;
    /// What is installed of the source `qemu`.
    fn installed_of_qemu(&self) -> Result<Vec<Installed>>;
    /// Tries `apt-get install` with these arguments, changing nothing.
    fn simulate(&self, args: &[String]) -> Result<Simulation>;
}

/// What to give to `apt-get install`, and why when it is not just the packages.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Plan {
    pub(crate) args: Vec<String>,
    pub(crate) says: Vec<String>,
}

/// Finds arguments with which apt installs `wanted`.
pub(crate) fn plan(apt: &mut dyn Apt, wanted: &[&str]) -> Result<Plan> {
    let mut lacking = without_offer(apt, wanted)?;
    if !lacking.is_empty() && apt.update()? {
        lacking = without_offer(apt, wanted)?;
    }
    ensure!(
        lacking.is_empty(),
        "no configured package source has: {}. Run `apt-get update` or add the suite that has it (on Ubuntu: \
         `sudo add-apt-repository universe`)",
        lacking.join(", ")
    );

    let args = owned(wanted);
    let mut complaint = match apt.simulate(&args)? {
        Ok(()) => return checked(apt, wanted, Plan { args, says: Vec::new() }),
        Err(complaint) => complaint,
    };
    if apt.update()? {
        match apt.simulate(&args)? {
            Ok(()) => return checked(apt, wanted, Plan { args, says: Vec::new() }),
            Err(later) => complaint = later,
        }
    }
    let others = match matching(apt, wanted)? {
        Some(lead) => lead,
        None => bail!("apt can't install {}:\n{complaint}", wanted.join(" ")),
    };
    let mut tried = Vec::new();
    for other in others {
        match apt.simulate(&other.args)? {
            Ok(()) => return checked(apt, wanted, other),
            Err(complaint) => tried.push(format!("with {}:\n{complaint}", other.args.join(" "))),
        }
    }
    bail!("apt can't install {}:\n{complaint}\n{}", wanted.join(" "), tried.join("\n"))
}

fn owned(args: &[&str]) -> Vec<String> {
    args.iter().map(|arg| (*arg).to_owned()).collect()
}

fn without_offer(apt: &dyn Apt, wanted: &[&str]) -> Result<Vec<String>> {
    let offers = apt.offers(wanted)?;
    Ok(wanted
        .iter()
        .filter(|name| !offers.iter().any(|o| o.package == **name))
        .map(|n| (*n).to_owned())
        .collect())
}

/// Other plans when the versions of QEMU's packages don't match: none if that can't be the reason.
fn matching(apt: &dyn Apt, wanted: &[&str]) -> Result<Option<Vec<Plan>>> {
    let Some(lead) = OF_QEMU.into_iter().find(|name| wanted.contains(name)) else { return Ok(None) };
    let Some(candidate) = apt.candidate(lead)? else { return Ok(None) };
    let odd: Vec<Installed> =
        apt.installed_of_qemu()?.into_iter().filter(|i| !same_source(&i.version, &candidate)).collect();
    if odd.is_empty() {
        return Ok(None);
    }
    let names: Vec<&str> = odd.iter().map(|installed| installed.package.as_str()).collect();
    let there = apt.offers(&names)?;
    let leads = apt.offers(&[lead])?;
    let mut plans = Vec::new();

    // The suite that brought what is installed may still be configured.
    let mut suites: Vec<&str> = Vec::new();
    for offer in &there {
        let brought = odd.iter().any(|i| i.package == offer.package && i.version == offer.version);
        let has_lead =
            leads.iter().any(|l| l.suite == offer.suite && same_source(&l.version, &offer.version));
        if brought && has_lead && !suites.contains(&offer.suite.as_str()) {
            suites.push(&offer.suite);
        }
    }
    for suite in suites {
        let mut args = vec!["--target-release".to_owned(), suite.to_owned()];
        args.extend(owned(wanted));
        plans.push(Plan {
            args,
            says: vec![format!(
                "{} is installed from {suite}, so {lead} comes from there too",
                names.join(", ")
            )],
        });
    }

    // Otherwise it is moved to the version that there is.
    let mut args = vec!["--allow-downgrades".to_owned()];
    args.extend(owned(wanted));
    let mut says = Vec::new();
    for installed in &odd {
        let target =
            there.iter().find(|o| o.package == installed.package && same_source(&o.version, &candidate));
        if let Some(target) = target {
            args.push(format!("{}={}", target.package, target.version));
            says.push(format!(
                "{} {} is installed, but {lead} comes as {candidate} and the two must match: moving {} to {}",
                installed.package, installed.version, installed.package, target.version
            ));
        }
    }
    if !says.is_empty() {
        plans.push(Plan { args, says });
    }
    Ok(Some(plans))
}

/// Refuses a plan that would bring a QEMU that can't do the work.
fn checked(apt: &dyn Apt, wanted: &[&str], plan: Plan) -> Result<Plan> {
    if !wanted.contains(&EMULATOR) || plan.args.iter().any(|arg| arg == "--target-release") {
        return Ok(plan);
    }
    let candidate = apt.candidate(EMULATOR)?.unwrap_or_default();
    if let Some(version) = upstream(&candidate).filter(|version| *version < OLDEST_QEMU) {
        bail!(
            "this host's {EMULATOR} is QEMU {}.{}; Rackless needs {}.{} or later (`-netdev stream`). Use a newer \
             release of the distribution (Debian 12, Ubuntu 24.04) or the Nix shell: `nix develop`",
            version.0,
            version.1,
            OLDEST_QEMU.0,
            OLDEST_QEMU.1
        );
    }
    Ok(plan)
}

#[cfg(test)]
#[path = "plan_tests.rs"]
mod tests;
