//! A board's file, as it was understood.

mod place;
mod read;

use std::collections::BTreeMap;
use std::fmt;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use shell::Login;
use shell::tty::Mode;

use crate::error::Error;
use crate::keys::Key;

/// A board.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Board {
    /// What errors call it: `name`, or the file's.
    pub name: String,
    /// The file.
    pub file: PathBuf,
    /// Its serial line.
    pub line: Line,
    /// How characters are on it. A raw TCP port has a mode of its own, which nobody can set from here.
    pub mode: Mode,
    /// How long it may say nothing before a request is said again. After fifteen of these, less or more, a request has failed.
    pub silence: Duration,
    /// Its power.
    pub power: PowerSpec,
    /// The dialogue with its boot loader.
    pub boot: BootDialogue,
    /// Who logs in; root without a password unless the file says otherwise.
    pub login: Login,
    /// What it asks for at a login, where that is not what Linux asks for.
    pub prompts: Option<Prompts>,
    /// The cables that lead to the lab's switch, by the name of the machine's NIC.
    pub uplinks: BTreeMap<String, Uplink>,
    /// Where its lock is.
    pub lock_folder: PathBuf,
}

/// What a serial line is reached by.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Line {
    /// A terminal device of this host.
    Device(PathBuf),
    /// A serial server that speaks RFC 2217, as host and port.
    Rfc2217(String),
    /// A raw TCP port of one, as host and port.
    Tcp(String),
}

impl fmt::Display for Line {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Device(path) => path.display().fmt(f),
            Self::Rfc2217(address) => write!(f, "{address} (RFC 2217)"),
            Self::Tcp(address) => write!(f, "{address} (TCP)"),
        }
    }
}

/// A command of the host.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Command {
    /// A line for `sh -c`.
    Line(String),
    /// A program and its arguments.
    Argv(Vec<String>),
}

/// Power: commands of the host, each of which ends with status 0 when it has done its work.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PowerSpec {
    /// Turns it on.
    pub on: Command,
    /// Turns it off.
    pub off: Command,
    /// Turns it off and on; without it that is what is done.
    pub cycle: Option<Command>,
    /// Prints whether it is on.
    pub state: Option<Command>,
    /// What `state` prints when it is on.
    pub is_on: Pattern,
    /// What it prints when it is off.
    pub is_off: Pattern,
    /// What passes after turning it off, so that it is discharged.
    pub after_off: Duration,
    /// What passes after turning it on.
    pub after_on: Duration,
    /// What one command may take, and the power to be as it was asked for.
    pub within: Duration,
    /// How often it is looked whether it is still on.
    pub watch: Duration,
    /// What is done after a test that failed.
    pub on_failure: OnFailure,
}

/// What is done with the power after a test that failed. After one that passed the board is turned off.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum OnFailure {
    /// Nothing: somebody may want to look at it.
    Leave,
    /// It is turned off.
    #[default]
    Off,
    /// It is turned off and on, so that it idles in what it boots by itself.
    Cycle,
}

impl fmt::Display for OnFailure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Leave => "leave",
            Self::Off => "off",
            Self::Cycle => "cycle",
        })
    }
}

/// A text, or a regular expression.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Pattern {
    text: String,
    is_regex: bool,
}

impl Pattern {
    /// This text.
    #[must_use]
    pub fn text(text: impl Into<String>) -> Self {
        Self { text: text.into(), is_regex: false }
    }

    /// A regular expression.
    ///
    /// # Errors
    /// When it is none.
    pub fn regex(pattern: impl Into<String>) -> Result<Self, Box<regex::Error>> {
        let pattern = Self { text: pattern.into(), is_regex: true };
        regex::Regex::new(&pattern.text).map_err(Box::new)?;
        Ok(pattern)
    }

    /// What finds it.
    #[must_use]
    pub fn compile(&self) -> regex::Regex {
        let text = if self.is_regex { self.text.clone() } else { regex::escape(&self.text) };
        // `regex` has compiled it already, and what is escaped always compiles.
        regex::Regex::new(&text).expect("it was compiled when it was made")
    }
}

impl fmt::Display for Pattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.is_regex { write!(f, "/{}/", self.text) } else { write!(f, "{:?}", self.text) }
    }
}

/// What is said to a boot loader.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BootDialogue {
    /// From power-on until the login.
    pub within: Duration,
    /// The steps, in order.
    pub steps: Vec<Step>,
}

/// One step of a dialogue: something is waited for, and answered.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Step {
    /// What is waited for; at once without.
    pub expect: Option<Pattern>,
    /// What is sent then.
    pub send: Vec<Send>,
    /// The same is sent again and again, this far apart, until what the next step expects is there.
    pub every: Option<Duration>,
    /// How long it is waited for.
    pub within: Duration,
}

/// Something that is sent.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Send {
    /// Text as it is.
    Text(String),
    /// A key.
    Key(Key),
}

impl Send {
    /// As it goes over the line.
    #[must_use]
    pub fn bytes(&self) -> Vec<u8> {
        match self {
            Self::Text(text) => text.clone().into_bytes(),
            Self::Key(key) => key.bytes(),
        }
    }
}

/// What a login asks for, where it is no Linux' `login:` and `Password:` and no prompt that ends in `# ` or `$ `.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Prompts {
    /// Asks for the user.
    pub user: Pattern,
    /// Asks for the password; a password is sent only then.
    pub password: Pattern,
    /// The shell's.
    pub shell: Pattern,
}

/// A cable between one of the board's NICs and the lab's switch.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Uplink {
    /// Where its end is on this host.
    pub cable: Cable,
    /// The board's own MAC address there, which takes the place of the profile's.
    pub mac: Option<String>,
    /// The VLANs on it, where they are not those of the profile's port.
    pub tags: Option<Tags>,
}

/// Where a cable's end is on this host: a kind of the switch's uplinks.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Cable {
    /// A NIC.
    Nic(String),
    /// A tap device.
    Tap(String),
    /// The directory of a VDE switch.
    Vde(PathBuf),
    /// A VXLAN tunnel to a host that has the cable.
    Vxlan {
        /// Its end here.
        local: SocketAddr,
        /// Its other end.
        peer: SocketAddr,
        /// The network's number.
        vni: u32,
    },
}

impl fmt::Display for Cable {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Nic(name) => write!(f, "the NIC {name}"),
            Self::Tap(name) => write!(f, "the tap {name}"),
            Self::Vde(dir) => write!(f, "the VDE switch {}", dir.display()),
            Self::Vxlan { local, peer, vni } => write!(f, "VXLAN {vni} from {local} to {peer}"),
        }
    }
}

/// VLANs of a cable.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Tags {
    /// Untagged frames, which belong to this VLAN.
    Access(u16),
    /// Frames with tags, such as `10,20-29`, and untagged ones if there is a native VLAN.
    Trunk {
        /// The list.
        allowed: String,
        /// The VLAN of frames without a tag.
        native: Option<u16>,
    },
}

impl Board {
    /// Reads a board's file.
    ///
    /// # Errors
    /// [`Error::File`], or [`Error::Invalid`] with the file, the line and the key of each problem.
    pub fn load(path: impl AsRef<Path>) -> Result<Self, Error> {
        let path = path.as_ref();
        let text = fs_err::read_to_string(path).map_err(|source| Error::File { source })?;
        Self::parse(&text, path)
    }

    /// The same of a text that is at hand.
    ///
    /// # Errors
    /// [`Error::Invalid`].
    pub fn parse(text: &str, file: &Path) -> Result<Self, Error> {
        read::read(text, file)
    }
}
