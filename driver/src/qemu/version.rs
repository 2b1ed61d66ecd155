//! Finding QEMU and checking that it is new enough.

use std::fmt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use process::Command;

use crate::Error;

/// The emulator's name; only x86-64 guests are driven so far.
const PROGRAM: &str = "qemu-system-x86_64";

/// The oldest QEMU that has `-netdev stream`: Debian 12's.
pub const MINIMUM: Version = Version { major: 7, minor: 2, micro: 0 };

/// A QEMU version.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Version {
    /// `7` of `7.2.22`.
    pub major: u32,
    /// `2` of `7.2.22`.
    pub minor: u32,
    /// `22` of `7.2.22`.
    pub micro: u32,
}

impl Version {
    /// Reads the version from what `qemu-system-… --version` prints.
    #[must_use]
    pub fn parse(banner: &str) -> Option<Self> {
        let rest = banner.split_once("version ")?.1;
        let word: String = rest.chars().take_while(|c| c.is_ascii_digit() || *c == '.').collect();
        let mut parts = word.split('.').map(|p| p.parse::<u32>().ok());
        let major = parts.next()??;
        let minor = parts.next()??;
        Some(Self { major, minor, micro: parts.next().flatten().unwrap_or(0) })
    }
}

impl fmt::Display for Version {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}.{}", self.major, self.minor, self.micro)
    }
}

/// An emulator that was found and is new enough.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Qemu {
    /// The program.
    pub program: PathBuf,
    /// What it says of itself.
    pub version: Version,
}

impl Qemu {
    /// Looks for QEMU: `RACKLESS_QEMU` when set, else the `PATH`.
    ///
    /// # Errors
    /// [`Error::QemuMissing`] when there is none, [`Error::QemuTooOld`] below [`MINIMUM`].
    pub async fn find() -> Result<Self, Error> {
        let program = std::env::var_os("RACKLESS_QEMU").map_or_else(|| PathBuf::from(PROGRAM), PathBuf::from);
        Self::at(&program).await
    }

    /// Asks one program for its version.
    ///
    /// # Errors
    /// As [`Qemu::find`].
    pub async fn at(program: &Path) -> Result<Self, Error> {
        let command = Command::new(program).arg("--version");
        let output = match process::run(command, Duration::from_secs(20)).await {
            Ok(output) => output,
            Err(process::Error::NotFound { .. }) => {
                return Err(Error::QemuMissing { program: program.to_owned() });
            }
            Err(source) => return Err(Error::Tool { operation: "asking QEMU for its version", source }),
        };
        let banner = String::from_utf8_lossy(&output.stdout).into_owned();
        let version = Version::parse(&banner).ok_or_else(|| Error::QemuUnknown {
            program: program.to_owned(),
            said: banner.trim().to_owned(),
        })?;
        if version < MINIMUM {
            return Err(Error::QemuTooOld { program: program.to_owned(), version });
        }
        Ok(Self { program: program.to_owned(), version })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_what_distributions_print() {
        let debian = "QEMU emulator version 7.2.22 (Debian 1:7.2+dfsg-7+deb12u18+b3)\nCopyright";
        assert_eq!(Version::parse(debian), Some(Version { major: 7, minor: 2, micro: 22 }));
        let plain = "QEMU emulator version 11.0\n";
        assert_eq!(Version::parse(plain), Some(Version { major: 11, minor: 0, micro: 0 }));
        assert_eq!(Version::parse("bash: no such file"), None);
        assert_eq!(Version::parse("version x.y"), None);
    }

    #[test]
    fn orders_by_number_not_by_text() {
        let old = Version { major: 7, minor: 2, micro: 9 };
        assert!(old > MINIMUM && Version { major: 10, minor: 0, micro: 0 } > old);
    }
}
