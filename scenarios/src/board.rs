//! Boards in the places of a scenario's machines.

use std::collections::BTreeMap;
use std::path::Path;

use anyhow::{Context as _, ensure};
use driver::board::Board;
use driver::spec::{Boot, GuestFile, MachineSpec, ShellSpec};
use harness::{Ability, Settings};
use profiles::{Profile, render};

/// Reads the files of the boards that the command line puts in the places of machines.
///
/// # Errors
/// What is wrong with a file.
pub(crate) fn of_settings(settings: &Settings) -> anyhow::Result<BTreeMap<String, Board>> {
    let load = |(name, file): (&str, &Path)| {
        let board = Board::load(file).with_context(|| format!("the board in the place of {name}"))?;
        Ok((name.to_owned(), board))
    };
    settings.boards().into_iter().map(load).collect()
}

/// The profile with the MAC addresses that the boards' cards have.
///
/// # Errors
/// When a machine or an address is none.
pub(crate) fn with_macs(profile: &Profile, boards: &BTreeMap<String, Board>) -> anyhow::Result<Profile> {
    let mut profile = profile.clone();
    for (machine, board) in boards {
        for (nic, uplink) in &board.uplinks {
            if let Some(mac) = &uplink.mac {
                profile = profile.with_mac(machine, nic, mac.parse()?)?;
            }
        }
    }
    Ok(profile)
}

/// Makes a board of a machine: it keeps its name, NICs and addresses, and gets its network's files if it has cables.
///
/// # Errors
/// When the machine has what a board can't have.
pub(crate) fn machine(spec: MachineSpec, board: Board, profile: &Profile) -> anyhow::Result<MachineSpec> {
    ensure!(
        spec.data_disks.is_empty(),
        "{}: the test gives it a data disk, and {} is a board, whose disks are its own",
        spec.name,
        board.file.display()
    );
    let mut files = spec.files;
    if !board.uplinks.is_empty() {
        let of_networkd = render::networkd(profile, &spec.name)?;
        let of_udev = render::udev(profile, &spec.name)?;
        // Not in /etc: what a test gives to a board is gone when it is off.
        let under = |folder: &'static str| {
            move |(name, content): (String, String)| GuestFile { path: format!("{folder}/{name}"), content }
        };
        files.extend(of_networkd.into_iter().map(under("/run/systemd/network")));
        files.extend(of_udev.into_iter().map(under("/run/udev/rules.d")));
    }
    Ok(MachineSpec {
        disk: None,
        agent: None,
        shell: Some(ShellSpec::Serial(board.login.clone())),
        credentials: Vec::new(),
        files,
        boot: Boot::Board(Box::new(board)),
        ..spec
    })
}

/// What a run's boards can't do.
pub(crate) fn lacking(settings: &Settings, ability: Ability) -> Option<String> {
    let mut boards = settings.boards().into_iter();
    boards.find_map(|(name, file)| {
        let why = match ability {
            // A file that can't be read fails the test, with its mistakes.
            Ability::Network if Board::load(file).is_ok_and(|board| board.uplinks.is_empty()) => {
                "it has no [uplink] that would lead there"
            }
            Ability::Network => return None,
            Ability::Checkpoint => "nobody can save its memory",
            Ability::Screenshot => "it has a serial line and no screen",
            Ability::HotPlug => "nobody plugs in its cards",
            Ability::Carrier => "nobody pulls its cables",
            Ability::Process => "it runs outside of this host",
            Ability::Image => "it boots its own disk in its own way",
            Ability::Agent => "it is reached over its serial line",
        };
        Some(format!("{name} is a board ({}), and {why}", file.display()))
    })
}
