//! Reading what apt's tools print under `LC_ALL=C`.

/// A version that a configured suite has.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Offer {
    pub(crate) package: String,
    pub(crate) version: String,
    /// `bookworm-backports`.
    pub(crate) suite: String,
}

/// A package that is on the host.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Installed {
    pub(crate) package: String,
    pub(crate) version: String,
}

pub(crate) const DPKG_FORMAT: &str =
    "--showformat=${Package}\t${Version}\t${source:Package}\t${db:Status-Status}\n";

/// `apt-cache madison`: ` package | version | mirror suite/component arch Packages`, newest first.
pub(crate) fn madison(text: &str) -> Vec<Offer> {
    let offer = |line: &str| {
        let mut fields = line.split('|').map(str::trim);
        let (package, version, place) = (fields.next()?, fields.next()?, fields.next()?);
        let place: Vec<&str> = place.split_whitespace().collect();
        let [_, archive, .., "Packages"] = place[..] else { return None };
        let suite = archive.split('/').next()?;
        Some(Offer { package: package.into(), version: version.into(), suite: suite.into() })
    };
    text.lines().filter_map(offer).collect()
}

/// The `Candidate:` of `apt-cache policy` for one package: unlike `madison`, it knows the pins.
pub(crate) fn candidate(text: &str) -> Option<String> {
    let version = text.lines().find_map(|line| line.trim().strip_prefix("Candidate:"))?.trim();
    (version != "(none)").then(|| version.to_owned())
}

/// `dpkg-query` with [`DPKG_FORMAT`]: what is installed of the source package `qemu`.
pub(crate) fn installed_of_qemu(text: &str) -> Vec<Installed> {
    let installed = |line: &str| match line.split('\t').collect::<Vec<_>>()[..] {
        [package, version, "qemu", "installed"] => {
            Some(Installed { package: package.into(), version: version.into() })
        }
        _ => None,
    };
    text.lines().filter_map(installed).collect()
}

/// Whether two binary packages come from one source version: a rebuild (`+b3`) has no counterpart in packages
/// that are the same on every architecture.
pub(crate) fn same_source(a: &str, b: &str) -> bool {
    fn source(version: &str) -> &str {
        match version.rsplit_once("+b") {
            Some((source, build)) if !build.is_empty() && build.bytes().all(|b| b.is_ascii_digit()) => source,
            _ => version,
        }
    }
    source(a) == source(b)
}

/// The upstream version's first two numbers: `1:7.2+dfsg-7` is (7, 2).
pub(crate) fn upstream(version: &str) -> Option<(u32, u32)> {
    let without_epoch = version.split_once(':').map_or(version, |(_, rest)| rest);
    let mut numbers = without_epoch.split(|c: char| !c.is_ascii_digit());
    Some((numbers.next()?.parse().ok()?, numbers.next()?.parse().ok()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn madison_skips_sources_and_noise() {
        let text = "\
 qemu-utils | 1:7.2+dfsg-7+deb12u18+b3 | http://mirror.example/debian bookworm/main amd64 Packages
 qemu-utils | 1:7.2+dfsg-7+deb12u18 | http://mirror.example/debian bookworm/main Sources
N: Unable to locate package nothing
";
        let only = Offer {
            package: "qemu-utils".into(),
            version: "1:7.2+dfsg-7+deb12u18+b3".into(),
            suite: "bookworm".into(),
        };
        assert_eq!(madison(text), [only]);
    }

    #[test]
    fn a_candidate_may_be_none() {
        assert_eq!(candidate("p:\n  Installed: (none)\n  Candidate: 1:7.2\n"), Some("1:7.2".into()));
        assert_eq!(candidate("p:\n  Installed: (none)\n  Candidate: (none)\n"), None);
        assert_eq!(candidate(""), None);
    }

    #[test]
    fn only_installed_packages_of_qemu_count() {
        let text = "qemu-block-extra\t\tqemu-block-extra\tnot-installed\n\
                    qemu-utils\t1:10.0.2+ds-2\tqemu\tinstalled\n\
                    qemu-web-desktop\t1.0\tqemu-web-desktop\tinstalled\n";
        assert_eq!(
            installed_of_qemu(text),
            [Installed { package: "qemu-utils".into(), version: "1:10.0.2+ds-2".into() }]
        );
    }

    #[test]
    fn rebuilds_are_of_the_same_source() {
        assert!(same_source("1:7.2+dfsg-7+deb12u18+b3", "1:7.2+dfsg-7+deb12u18"));
        assert!(!same_source("1:7.2+dfsg-7+deb12u18", "1:7.2+dfsg-7+deb12u15"));
        assert!(!same_source("1:10.0.2+ds-2+deb13u1~bpo12+1", "1:10.0.2+ds-2+deb13u1~"));
    }

    #[test]
    fn upstream_versions() {
        assert_eq!(upstream("1:10.0.2+ds-2+deb13u1~bpo12+1"), Some((10, 0)));
        assert_eq!(upstream("1:6.2+dfsg-2ubuntu6"), Some((6, 2)));
        assert_eq!(upstream("unknown"), None);
    }
}
