//! Everything that can be wrong with a plan.

use std::fmt;
use std::net::Ipv4Addr;
use std::path::PathBuf;

use ipnet::Ipv4Net;

/// Why a plan could not be had.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// A file could not be read.
    #[error("{}: cannot read this part of the plan", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// What the system said.
        source: std::io::Error,
    },
    /// The name that the profile was to have is none.
    #[error("{}", bad_name(.name))]
    BadName {
        /// The name.
        name: String,
    },
    /// The plan is not valid; all that is wrong with it is named at once, one problem a line.
    #[error("{}", lines(.0))]
    Invalid(Vec<Problem>),
}

/// One thing that is wrong with a plan.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Problem {
    /// The file's name.
    pub file: &'static str,
    /// The line, counted from 1.
    pub line: usize,
    /// The column of a table or the key of `network.yaml`; empty where the whole line or file is meant.
    pub column: String,
    /// What is wrong, and what was expected.
    pub kind: Kind,
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}: ", self.file, self.line)?;
        if !self.column.is_empty() {
            write!(f, "{}: ", self.column)?;
        }
        self.kind.fmt(f)
    }
}

/// What is wrong, and what was expected instead.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum Kind {
    /// A table without its first line.
    #[error("the table is empty; expected a first line with the columns {}", .expected.join(", "))]
    EmptyTable {
        /// The columns that it needs.
        expected: &'static [&'static str],
    },
    /// A column that is needed is not in the first line.
    #[error("there is no such column{}; the table has: {}", did_you_mean(.column, .known), .known.join(", "))]
    MissingColumn {
        /// The column.
        column: &'static str,
        /// The columns that there are.
        known: Vec<String>,
    },
    /// Two columns of one name.
    #[error("the column is there twice; expected it once")]
    DuplicateColumn,
    /// A line with more or fewer cells than the first one.
    #[error("{found} cells; expected {expected}, as in the table's first line")]
    WrongWidth {
        /// How many there are.
        found: usize,
        /// How many columns there are.
        expected: usize,
    },
    /// A cell or a value that must not be empty.
    #[error("empty; expected {expected}")]
    Empty {
        /// What should be there.
        expected: &'static str,
    },
    /// Bytes that are no text.
    #[error("not UTF-8; expected text")]
    NotUtf8,
    /// What the reader of YAML said.
    #[error("not usable YAML: {message}")]
    Yaml {
        /// Its words.
        message: String,
    },
    /// A key that `network.yaml` must have.
    #[error("missing; expected {expected}")]
    Missing {
        /// What should be there.
        expected: &'static str,
    },
    /// A word that is not among the known ones.
    #[error("{found:?} is not known{}; expected one of: {}", did_you_mean(.found, .known), .known.join(", "))]
    UnknownWord {
        /// The word found.
        found: String,
        /// The words that may stand here.
        known: &'static [&'static str],
    },
    /// A host that `hosts.csv` does not have.
    #[error("hosts.csv has no host {found:?}{}; it has: {}", did_you_mean(.found, .known), .known.join(", "))]
    UnknownHost {
        /// The name found.
        found: String,
        /// The hosts there are.
        known: Vec<String>,
    },
    /// A name that is there twice.
    #[error("{found:?} is already the name in line {line}; expected a name of its own")]
    DuplicateName {
        /// The name.
        found: String,
        /// The line that has it.
        line: usize,
    },
    /// An address that is there twice.
    #[error("{address} is already taken ({file}:{line}); expected an address of its own")]
    DuplicateAddress {
        /// The address.
        address: Ipv4Addr,
        /// The file that has it.
        file: &'static str,
        /// Its line.
        line: usize,
    },
    /// A second server or a second agent on one host.
    #[error("{host} already runs the {what} of line {line}; expected one {what} a host at most")]
    SecondOnHost {
        /// The host.
        host: String,
        /// `server` or `agent`.
        what: &'static str,
        /// The line of the first.
        line: usize,
    },
    /// Nobody begins the cluster.
    #[error("no node is an init-server; expected the one that begins the cluster")]
    NoInitServer,
    /// Two begin a cluster each.
    #[error("line {line} has an init-server already; expected one, and the others as server")]
    SecondInitServer {
        /// The line of the first.
        line: usize,
    },
    /// Text that is no mask of an IPv4 network.
    #[error(
        "{found:?} is not a mask that a network of hosts can have; expected 1 to 30, or one like 255.255.255.0"
    )]
    BadNetmask {
        /// The text found.
        found: String,
    },
    /// Text that is no IPv4 address.
    #[error("{found:?} is not an IPv4 address; expected one like 192.168.100.5, without a prefix length")]
    BadAddress {
        /// The text found.
        found: String,
    },
    /// The network has addresses that K3s uses for something else.
    #[error("{subnet} overlaps {other}, which K3s gives to {what}; expected a network apart from it")]
    Overlap {
        /// The network.
        subnet: Ipv4Net,
        /// K3s's own.
        other: Ipv4Net,
        /// `pods` or `services`.
        what: &'static str,
    },
    /// What would be wrong with the profile that the plan makes.
    #[error(transparent)]
    Profile(#[from] profiles::Kind),
}

fn bad_name(name: &str) -> profiles::Kind {
    profiles::Kind::BadName { found: name.to_owned() }
}

fn lines(problems: &[Problem]) -> String {
    problems.iter().map(Problem::to_string).collect::<Vec<_>>().join("\n")
}

/// ` (did you mean "server"?)` when one of the known names is near, else nothing.
fn did_you_mean<S: AsRef<str>>(found: &str, known: &[S]) -> String {
    let allowed = (found.chars().count() / 3).clamp(1, 3);
    let near = known.iter().map(|name| (strsim::damerau_levenshtein(found, name.as_ref()), name.as_ref()));
    let nearest = near.filter(|&(distance, _)| distance <= allowed).min();
    nearest.map_or_else(String::new, |(_, name)| format!(" (did you mean {name:?}?)"))
}
