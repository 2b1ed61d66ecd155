//! `rackless profile`: list, show and render network profiles.

use std::collections::BTreeMap;
use std::io::{self, Write};
use std::path::PathBuf;

use anyhow::Context as _;
use clap::{Subcommand, ValueEnum};
use profiles::{Profile, render};

use crate::drawing;
use crate::outcome::BadInput;

/// What to do with network profiles.
#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Names the built-in profiles and says what each is for.
    List,
    /// Shows a profile: networks, bonds, machines with their addresses and MAC addresses.
    Show {
        /// A built-in profile's name, or the path of a TOML file.
        profile: String,
        /// Print the TOML text instead, to begin a profile of your own from.
        #[arg(long)]
        source: bool,
    },
    /// Draws machines, cables and VLANs as SVG.
    Draw {
        /// A built-in profile's name, or the path of a TOML file.
        profile: String,
        /// The file to write; `-` is stdout.
        #[arg(long, short, value_name = "FILE", default_value = "-")]
        output: PathBuf,
    },
    /// Renders what machines and switch are configured with.
    Render {
        /// A built-in profile's name, or the path of a TOML file.
        profile: String,
        /// Only this machine.
        #[arg(long, value_name = "NAME")]
        machine: Option<String>,
        /// Only this (may be given several times).
        #[arg(long, value_enum)]
        what: Vec<What>,
        /// Write files below this directory instead of printing them.
        #[arg(long, value_name = "DIR")]
        out: Option<PathBuf>,
    },
}

/// What can be rendered.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum What {
    /// The files of /etc/systemd/network, for each machine.
    Networkd,
    /// The switch's ports and bundles, as JSON.
    Switch,
    /// The flags of k3s, one a line, for each machine.
    K3s,
    /// /etc/hosts, the same for all machines.
    Hosts,
}

/// Runs one `rackless profile` command.
pub(crate) fn run(command: Command) -> anyhow::Result<()> {
    let mut out = io::stdout().lock();
    match command {
        Command::List => list(&mut out),
        Command::Show { profile, source: true } => Ok(out.write_all(source(&profile)?.as_bytes())?),
        Command::Show { profile, source: false } => show(&mut out, &load(&profile)?),
        Command::Draw { profile, output } => {
            drop(out);
            drawing::write(&drawing::of_profile(&load(&profile)?), &output)
        }
        Command::Render { profile, machine, what, out: dir } => {
            let files = files(&load(&profile)?, machine.as_deref(), &what)?;
            match dir {
                Some(dir) => write(&dir, &files),
                None => print(&mut out, &files),
            }
        }
    }
}

/// Whether an argument names a file and not a built-in profile.
fn is_path(profile: &str) -> bool {
    profile.contains('/') || profile.ends_with(".toml")
}

fn load(profile: &str) -> anyhow::Result<Profile> {
    let loaded = if is_path(profile) { Profile::load(profile) } else { profiles::builtin(profile) };
    Ok(loaded.map_err(BadInput::new)?)
}

fn source(profile: &str) -> anyhow::Result<String> {
    if !is_path(profile) {
        return Ok(profiles::source(profile).map_err(BadInput::new)?.to_owned());
    }
    load(profile)?;
    Ok(fs_err::read_to_string(profile)?)
}

fn list(out: &mut impl Write) -> anyhow::Result<()> {
    for name in profiles::names() {
        writeln!(out, "{name:14} {}", profiles::builtin(name)?.description())?;
    }
    Ok(())
}

fn show(out: &mut impl Write, profile: &Profile) -> anyhow::Result<()> {
    writeln!(out, "{}: {}", profile.name(), profile.description())?;
    let kubernetes = profile.kubernetes();
    let (pods, services) = (kubernetes.pod_cidr, kubernetes.service_cidr);
    writeln!(out, "API https://{}, pods {pods}, services {services}", profile.api_endpoint())?;

    writeln!(
        out,
        "\n{:12} {:18} {:>5} {:10} {:>5}  ADDRESSES",
        "NETWORK", "SUBNET", "VLAN", "INTERFACE", "MTU"
    )?;
    for network in profile.networks() {
        let vlan = network.vlan.map_or_else(|| "-".to_owned(), |id| id.to_string());
        let mut addresses = match &network.dhcp {
            Some(dhcp) => format!("by DHCP from {}", dhcp.server),
            None => "fixed".to_owned(),
        };
        if let Some(gateway) = network.gateway {
            addresses += &format!(", gateway {gateway}");
        }
        let (name, subnet, interface) = (&network.name, network.subnet.to_string(), &network.interface);
        writeln!(out, "{name:12} {subnet:18} {vlan:>5} {interface:10} {:>5}  {addresses}", network.mtu)?;
    }
    for bond in profile.bonds() {
        let mode = match &bond.mode {
            profiles::BondMode::Lacp { rate } => format!("802.3ad, {rate:?} LACP").to_lowercase(),
            profiles::BondMode::ActiveBackup { primary: Some(nic) } => {
                format!("active-backup, {nic} preferred")
            }
            mode => mode.name().to_owned(),
        };
        writeln!(
            out,
            "\n{}: {} ({mode}, links looked at every {} ms)",
            bond.name,
            bond.members.join(" + "),
            bond.miimon_ms
        )?;
    }

    writeln!(out, "\n{:12} {:7} NETWORK      {:18} INTERFACE", "MACHINE", "ROLE", "ADDRESS")?;
    for machine in profile.machines() {
        for (row, attachment) in machine.attachments.iter().enumerate() {
            let (name, role) = if row == 0 {
                (machine.name.as_str(), machine.role.to_string())
            } else {
                ("", String::new())
            };
            let (network, address) = (&attachment.network, attachment.address.to_string());
            writeln!(out, "{name:12} {role:7} {network:12} {address:18} {}", attachment.interface)?;
        }
        for nic in &machine.nics {
            writeln!(out, "{:12} {:7} {:12} {}", "", "", nic.name, nic.mac)?;
        }
    }
    Ok(())
}

/// What was asked for, by path below an output directory.
fn files(
    profile: &Profile,
    machine: Option<&str>,
    what: &[What],
) -> anyhow::Result<BTreeMap<String, String>> {
    let wanted = |one| what.is_empty() || what.contains(&one);
    let machines: Vec<&str> = match machine {
        Some(name) => vec![&profile.machine(name).map_err(BadInput::new)?.name],
        None => profile.machines().iter().map(|machine| machine.name.as_str()).collect(),
    };
    let mut files = BTreeMap::new();
    for name in machines {
        if wanted(What::Networkd) {
            for (file, text) in render::networkd(profile, name)? {
                files.insert(format!("{name}/etc/systemd/network/{file}"), text);
            }
            for (file, text) in render::udev(profile, name)? {
                files.insert(format!("{name}/etc/udev/rules.d/{file}"), text);
            }
        }
        if wanted(What::K3s) {
            files.insert(format!("{name}/k3s.flags"), render::k3s_flags(profile, name)?.join("\n") + "\n");
        }
    }
    if wanted(What::Hosts) {
        files.insert("hosts".to_owned(), render::hosts(profile));
    }
    if wanted(What::Switch) {
        let mut plan = render::switch_ports(profile);
        if let Some(machine) = machine {
            plan.ports.retain(|port| port.machine == machine);
            plan.bundles.retain(|bundle| bundle.machine == machine);
        }
        files.insert("switch.json".to_owned(), serde_json::to_string_pretty(&plan)? + "\n");
    }
    Ok(files)
}

/// Prints files with a heading each; a single one as it is, so that it can be piped.
fn print(out: &mut impl Write, files: &BTreeMap<String, String>) -> anyhow::Result<()> {
    for (index, (path, text)) in files.iter().enumerate() {
        if files.len() > 1 {
            writeln!(out, "{}==> {path} <==", if index == 0 { "" } else { "\n" })?;
        }
        out.write_all(text.as_bytes())?;
    }
    Ok(())
}

fn write(dir: &std::path::Path, files: &BTreeMap<String, String>) -> anyhow::Result<()> {
    for (path, text) in files {
        let path = dir.join(path);
        let parent = path.parent().context("every path is below the directory")?;
        fs_err::create_dir_all(parent)?;
        fs_err::write(&path, text)?;
    }
    eprintln!("{} files written below {}", files.len(), dir.display());
    Ok(())
}
