//! Planning against an apt of strings, whose texts were taken from a Debian 12 host with `qemu-utils` of
//! bookworm-backports.

use std::cell::RefCell;

use anyhow::Result;

use super::super::parse::{Installed, Offer, candidate, installed_of_qemu, madison};
use super::{Apt, EMULATOR, Simulation, plan};

/// `apt-get --simulate install qemu-system-x86` on that host.
const BREAKS: &str = "\
The following packages have unmet dependencies:
 qemu-utils : Breaks: qemu-system-common (< 1:8.0+dfsg-5~) but 1:7.2+dfsg-7+deb12u18+b3 is to be installed
E: Error, pkgProblemResolver::Resolve generated breaks, this may be caused by held packages.";

const BOOKWORM: &str = "\
qemu-utils | 1:7.2+dfsg-7+deb12u18+b3 | http://mirror.example/debian bookworm/main amd64 Packages
qemu-utils | 1:7.2+dfsg-7+deb12u15 | http://mirror.example/debian-security bookworm-security/main amd64 Packages
qemu-system-x86 | 1:7.2+dfsg-7+deb12u18+b3 | http://mirror.example/debian bookworm/main amd64 Packages
qemu-system-x86 | 1:7.2+dfsg-7+deb12u15 | http://mirror.example/debian-security bookworm-security/main amd64 Packages
ovmf | 2022.11-6+deb12u2 | http://mirror.example/debian bookworm/main amd64 Packages
";

const BACKPORTS: &str = "\
qemu-utils | 1:10.0.2+ds-2+deb13u1~bpo12+1 | http://mirror.example/debian bookworm-backports/main amd64 Packages
qemu-system-x86 | 1:10.0.2+ds-2+deb13u1~bpo12+1 | http://mirror.example/debian bookworm-backports/main amd64 Packages
";

const INSTALLED: &str = "qemu-block-extra\t\tqemu-block-extra\tnot-installed\n\
                         qemu-utils\t1:10.0.2+ds-2+deb13u1~bpo12+1\tqemu\tinstalled\n";

/// An apt that accepts a plan when `accepts` says so.
struct Fake {
    offers: String,
    after_update: Option<String>,
    policy: &'static str,
    installed: &'static str,
    accepts: fn(&[String]) -> bool,
    simulated: RefCell<Vec<String>>,
    updates: usize,
}

impl Fake {
    fn new(offers: &str, accepts: fn(&[String]) -> bool) -> Self {
        Self {
            offers: offers.to_owned(),
            after_update: None,
            policy: "qemu-system-x86:\n  Installed: (none)\n  Candidate: 1:7.2+dfsg-7+deb12u18+b3\n",
            installed: "",
            accepts,
            simulated: RefCell::default(),
            updates: 0,
        }
    }
}

impl Apt for Fake {
    fn update(&mut self) -> Result<bool> {
        self.updates += 1;
        self.offers = self.after_update.take().unwrap_or_else(|| self.offers.clone());
        Ok(self.updates == 1)
    }
    fn offers(&self, packages: &[&str]) -> Result<Vec<Offer>> {
        let all = madison(&self.offers).into_iter();
        Ok(all.filter(|offer| packages.contains(&offer.package.as_str())).collect())
    }
    fn candidate(&self, _package: &str) -> Result<Option<String>> {
        Ok(candidate(self.policy))
    }
    fn installed_of_qemu(&self) -> Result<Vec<Installed>> {
        Ok(installed_of_qemu(self.installed))
    }
    fn simulate(&self, args: &[String]) -> Result<Simulation> {
        self.simulated.borrow_mut().push(args.join(" "));
        Ok(if (self.accepts)(args) { Ok(()) } else { Err(BREAKS.to_owned()) })
    }
}

const WANTED: [&str; 2] = [EMULATOR, "ovmf"];

#[test]
fn on_a_plain_host_the_packages_are_the_plan_and_no_list_is_fetched() {
    let mut apt = Fake::new(BOOKWORM, |_| true);
    let plan = plan(&mut apt, &WANTED).unwrap();
    assert_eq!((plan.args.join(" "), plan.says.len(), apt.updates), ("qemu-system-x86 ovmf".into(), 0, 0));
}

#[test]
fn empty_lists_are_fetched_first() {
    let mut apt = Fake::new("", |_| true);
    apt.after_update = Some(BOOKWORM.to_owned());
    plan(&mut apt, &WANTED).unwrap();
    assert_eq!(apt.updates, 1);
}

#[test]
fn a_package_that_no_suite_has_is_named() {
    let mut apt = Fake::new(BOOKWORM, |_| true);
    let message = plan(&mut apt, &[EMULATOR, "mmdebstrap"]).unwrap_err().to_string();
    assert!(message.contains("has: mmdebstrap."), "{message}");
}

#[test]
fn qemu_utils_of_a_suite_that_is_gone_is_moved_to_the_emulators_version() {
    let mut apt =
        Fake::new(BOOKWORM, |args| args.contains(&"qemu-utils=1:7.2+dfsg-7+deb12u18+b3".to_owned()));
    apt.installed = INSTALLED;
    let plan = plan(&mut apt, &WANTED).unwrap();
    assert_eq!(
        plan.args.join(" "),
        "--allow-downgrades qemu-system-x86 ovmf qemu-utils=1:7.2+dfsg-7+deb12u18+b3"
    );
    assert!(plan.says[0].contains("moving qemu-utils to 1:7.2"), "{:?}", plan.says);
}

#[test]
fn where_its_suite_is_still_configured_the_emulator_comes_from_there() {
    let both = format!("{BACKPORTS}{BOOKWORM}");
    let mut apt = Fake::new(&both, |args| args.len() > 2);
    apt.installed = INSTALLED;
    let plan = plan(&mut apt, &WANTED).unwrap();
    assert_eq!(plan.args.join(" "), "--target-release bookworm-backports qemu-system-x86 ovmf");
}

#[test]
fn if_that_suite_does_not_do_it_the_move_is_tried_next() {
    let both = format!("{BACKPORTS}{BOOKWORM}");
    let mut apt = Fake::new(&both, |args| args[0] == "--allow-downgrades");
    apt.installed = INSTALLED;
    assert!(plan(&mut apt, &WANTED).is_ok());
    assert_eq!(apt.simulated.borrow().len(), 4, "plain, again with fresh lists, the suite, the move");
}

#[test]
fn what_can_not_be_solved_shows_apts_words_for_every_try() {
    let mut apt = Fake::new(BOOKWORM, |_| false);
    apt.installed = INSTALLED;
    let message = plan(&mut apt, &WANTED).unwrap_err().to_string();
    assert_eq!(message.matches("Breaks: qemu-system-common").count(), 2, "{message}");
    assert!(message.contains("with --allow-downgrades"), "{message}");
}

#[test]
fn another_conflict_is_not_blamed_on_qemu() {
    let mut apt = Fake::new(BOOKWORM, |_| false);
    let message = plan(&mut apt, &["ovmf"]).unwrap_err().to_string();
    assert!(message.starts_with("apt can't install ovmf:"), "{message}");
}

#[test]
fn a_qemu_without_stream_is_refused() {
    let mut apt = Fake::new(BOOKWORM, |_| true);
    apt.policy = "qemu-system-x86:\n  Candidate: 1:6.2+dfsg-2ubuntu6\n";
    let message = plan(&mut apt, &WANTED).unwrap_err().to_string();
    assert!(message.contains("QEMU 6.2; Rackless needs 7.2"), "{message}");
}
