//! Cluster plans in CSV tables, as users of NixOS-K3s-Cluster keep them, and the network profile that they make.
//!
//! A plan is three files: `hosts.csv` (name, interface, ip, admin), `k3s.csv` (host, name, type, ip) and `network.yaml`
//! (netmask, gateway). Cells are stripped, letters large and small are the same, and columns and keys that are not
//! listed here may be there. Each K3s node becomes a machine of the profile: its container has a name, an address and a
//! place in the network of its own, which is all that the network can see of it. Which host it runs on stays in the
//! plan, and as a comment in the profile.
//!
//! ```
//! let sources = plan::Sources {
//!     hosts: b"name, interface, ip, admin\nolaf, eno1, 10.0.0.2, ann\n",
//!     k3s: b"host, name, type, ip\nOlaf, olaf-k3s, init-server, 10.0.0.10\n",
//!     network: b"netmask: 24\ngateway: 10.0.0.1\n",
//! };
//! let profile = plan::Plan::parse("home", &sources)?.profile();
//! assert_eq!(profile.address("olaf-k3s", "cluster").unwrap().to_string(), "10.0.0.10");
//! # Ok::<(), plan::Error>(())
//! ```

mod check;
mod error;
mod network;
mod report;
mod table;

use std::fmt::Write as _;
use std::net::Ipv4Addr;
use std::path::Path;

use ipnet::Ipv4Net;
use profiles::Profile;

pub use error::{Error, Kind, Problem};

const HOSTS: &str = "hosts.csv";
const K3S: &str = "k3s.csv";
const NETWORK: &str = "network.yaml";

/// The addresses that K3s gives to pods unless it is told otherwise.
const POD_CIDR: Ipv4Net = Ipv4Net::new_assert(Ipv4Addr::new(10, 42, 0, 0), 16);
/// And to services.
const SERVICE_CIDR: Ipv4Net = Ipv4Net::new_assert(Ipv4Addr::new(10, 43, 0, 0), 16);

/// The files of a plan, in the order in which their problems are told.
pub const FILES: [&str; 3] = [HOSTS, K3S, NETWORK];

/// A cluster as it is planned: valid from the moment that it is there.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Plan {
    /// The name that its profile has.
    pub name: String,
    /// The physical machines.
    pub hosts: Vec<Host>,
    /// What runs K3s on them.
    pub nodes: Vec<Node>,
    /// The network that all of them are in.
    pub subnet: Ipv4Net,
    /// Its router.
    pub gateway: Ipv4Addr,
}

/// A physical machine.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Host {
    /// Its name.
    pub name: String,
    /// The NIC that it shares with its nodes.
    pub interface: String,
    /// Its own address.
    pub address: Ipv4Addr,
    /// The user who looks after it.
    pub admin: String,
}

/// A K3s node.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Node {
    /// Its name, also the machine's in the profile.
    pub name: String,
    /// The host that it runs on.
    pub host: String,
    /// What it does.
    pub kind: NodeKind,
    /// Its address.
    pub address: Ipv4Addr,
}

/// What a node does in the cluster.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NodeKind {
    /// The server that begins the cluster, and whose address the others join by.
    InitServer,
    /// A server that joins.
    Server,
    /// It runs workloads only.
    Agent,
}

impl NodeKind {
    const WORDS: [&'static str; 4] = ["init-server", "init", "server", "agent"];

    /// The kind that a word of the tables means. `init` is what that project's own example has for `init-server`.
    fn of(word: &str) -> Option<Self> {
        match word {
            "init-server" | "init" => Some(Self::InitServer),
            "server" => Some(Self::Server),
            "agent" => Some(Self::Agent),
            _ => None,
        }
    }

    fn role(self) -> &'static str {
        match self {
            Self::InitServer | Self::Server => "server",
            Self::Agent => "agent",
        }
    }
}

/// The text of a plan's files.
#[derive(Clone, Copy, Debug)]
pub struct Sources<'a> {
    /// `hosts.csv`.
    pub hosts: &'a [u8],
    /// `k3s.csv`.
    pub k3s: &'a [u8],
    /// `network.yaml`.
    pub network: &'a [u8],
}

impl Plan {
    /// Reads and checks the plan in a directory, or in its subdirectory `plans`. Without a `name`, the profile gets the
    /// directory's, or `plan` where that is none.
    ///
    /// # Errors
    /// [`Error::Read`], [`Error::BadName`], or [`Error::Invalid`] with all that is wrong in the files.
    pub fn load(dir: &Path, name: Option<&str>) -> Result<Self, Error> {
        let own = dir.file_name().map(|name| name.to_string_lossy().to_lowercase());
        let own = own.filter(|name| profiles::is_name(name)).unwrap_or_else(|| "plan".to_owned());
        let plans = dir.join("plans");
        let dir = if !dir.join(HOSTS).exists() && plans.join(HOSTS).exists() { &plans } else { dir };
        let read = |file: &str| {
            let path = dir.join(file);
            std::fs::read(&path).map_err(|source| Error::Read { path, source })
        };
        let [hosts, k3s, network] = FILES.map(read);
        let (hosts, k3s, network) = (hosts?, k3s?, network?);
        Self::parse(name.unwrap_or(&own), &Sources { hosts: &hosts, k3s: &k3s, network: &network })
    }

    /// Checks the text of a plan, whose profile is to be called `name`.
    ///
    /// # Errors
    /// [`Error::BadName`], or [`Error::Invalid`] with all that is wrong in the text.
    pub fn parse(name: &str, sources: &Sources<'_>) -> Result<Self, Error> {
        if !profiles::is_name(name) {
            return Err(Error::BadName { name: name.to_owned() });
        }
        let mut report = report::Report::new();
        check::plan(name, sources, &mut report).ok_or_else(|| Error::Invalid(report.into_problems()))
    }

    /// The node that the others join by.
    #[must_use]
    pub fn init_server(&self) -> Option<&Node> {
        self.nodes.iter().find(|node| node.kind == NodeKind::InitServer)
    }

    /// The hosts that run no node: they are in no profile.
    pub fn idle_hosts(&self) -> impl Iterator<Item = &Host> {
        self.hosts.iter().filter(|host| self.nodes.iter().all(|node| node.host != host.name))
    }

    /// The network profile of its nodes.
    ///
    /// # Panics
    /// Never for a plan that was parsed: that it makes a profile is a part of its check.
    #[must_use]
    pub fn profile(&self) -> Profile {
        match Profile::parse(&self.to_toml(), &self.name) {
            Ok(profile) => profile,
            Err(error) => panic!("a plan that is no profile: {error}"),
        }
    }

    /// The text of that profile.
    #[must_use]
    pub fn to_toml(&self) -> String {
        let mut text = format!(
            "# Made of a plan in CSV tables: each K3s node is a machine.\nname = \"{}\"\n\
             description = \"{} K3s nodes on {} hosts\"\n\nnics = [\"eth1\"]\n\n[networks.{cluster}]\n\
             subnet = \"{}\"\ninterface = \"eth1\"\ngateway = \"{}\"\n",
            self.name,
            self.nodes.len(),
            self.hosts.len() - self.idle_hosts().count(),
            self.subnet,
            self.gateway,
            cluster = profiles::CLUSTER,
        );
        for node in &self.nodes {
            let host = self.hosts.iter().find(|host| host.name == node.host);
            let nic = host.map_or_else(String::new, |h| format!(", {}", h.interface.escape_debug()));
            let _ = write!(
                text,
                "\n# On the host {}{nic}.\n[machines.{}]\nrole = \"{}\"\naddresses = {{ {} = \"{}\" }}\n",
                node.host.escape_debug(),
                node.name,
                node.kind.role(),
                profiles::CLUSTER,
                node.address,
            );
        }
        let _ =
            writeln!(text, "\n[kubernetes]\npod_cidr = \"{POD_CIDR}\"\nservice_cidr = \"{SERVICE_CIDR}\"");
        if let Some(init) = self.init_server() {
            let _ = writeln!(text, "api_server = \"{}\"", init.name);
        }
        text
    }
}
