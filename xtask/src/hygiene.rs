//! What no tracked file may hold: a package registry's or mirror's host, a path of somebody's machine, a to-do
//! that no issue knows. And which files have grown long.

use std::path::{Path, PathBuf};

use anyhow::{Result, bail};

use crate::workspace;

/// Sources longer than this are listed.
const LONG: usize = 500;

/// Cargo writes these; they name the registry by design.
const GENERATED: [&str; 1] = ["Cargo.lock"];

/// Hosts of mirrors and registries start with one of these labels ...
const MIRROR_LABELS: [&str; 16] = [
    "archive", "cache", "cdn", "crates", "deb", "dl", "ftp", "index", "mirror", "mirrors", "packages",
    "ports", "proxy", "registry", "security", "static",
];
/// ... and end in one of these. (`mirror.example` is nobody's.)
const TOP_LEVELS: [&str; 7] = ["com", "dev", "io", "net", "org", "sh", "us"];

/// Directories below which a path is somebody's own. Written in halves, so that this file passes.
const PRIVATE: [&str; 6] = [
    concat!("/ho", "me/"),
    concat!("/Us", "ers/"),
    concat!("/ro", "ot/.cargo"),
    concat!("/ro", "ot/.rustup"),
    concat!("/ro", "ot/.cache"),
    concat!("/ro", "ot/.local"),
];
/// Users that stand for anybody.
const ANYBODY: [&str; 5] = ["user", "you", "alice", "NAME", "<"];

const TO_DO: [&str; 2] = [concat!("TO", "DO"), concat!("FIX", "ME")];

/// Checks every tracked text file.
///
/// # Errors
/// Lists each line that is against the rules.
pub(crate) fn check(root: &Path) -> Result<String> {
    let here = [Some(root.to_owned()), std::env::var_os("HOME").map(PathBuf::from)];
    // `/root` alone is a guest's directory as well.
    let own: Vec<String> = here
        .into_iter()
        .flatten()
        .map(|path| path.to_string_lossy().into_owned())
        .filter(|path| path.matches('/').count() > 1)
        .collect();
    let mut found = Vec::new();
    let mut long = Vec::new();
    let files = workspace::tracked_files(root)?;
    for file in &files {
        if GENERATED.iter().any(|generated| file == Path::new(generated)) {
            continue;
        }
        // Not text: nothing to read.
        let Ok(text) = std::fs::read_to_string(root.join(file)) else { continue };
        for (number, line) in text.lines().enumerate() {
            found
                .extend(fault(line, &own).map(|fault| format!("{}:{}: {fault}", file.display(), number + 1)));
        }
        let lines = text.lines().count();
        if lines > LONG && file.extension().is_some_and(|extension| extension == "rs") {
            long.push((lines, file.display()));
        }
    }
    long.sort_by_key(|(lines, _)| std::cmp::Reverse(*lines));
    for (lines, file) in long {
        println!("warning: {file} has {lines} lines; one job each, about {LONG} at most (CONTRIBUTING.md)");
    }
    if !found.is_empty() {
        bail!("tracked files that break the rules of CONTRIBUTING.md:\n  {}", found.join("\n  "));
    }
    Ok(format!("{} files", files.len()))
}

/// What is wrong with a line, if anything.
fn fault(line: &str, own: &[String]) -> Option<String> {
    let host =
        line.split(|c: char| !(c.is_ascii_alphanumeric() || "-.".contains(c))).find(|word| is_mirror(word));
    if let Some(host) = host {
        return Some(format!("names a registry or mirror: {host}"));
    }
    for directory in PRIVATE {
        for (at, _) in line.match_indices(directory) {
            let user = &line[at + directory.len()..];
            let named = user.starts_with(|c: char| c.is_ascii_alphanumeric() || "_/.".contains(c));
            if named && !ANYBODY.iter().any(|anybody| user.starts_with(anybody)) {
                return Some(format!("names somebody's directory: {directory}…"));
            }
        }
    }
    if let Some(path) = own.iter().find(|path| line.contains(path.as_str())) {
        return Some(format!("names a path of this machine: {path}"));
    }
    for word in TO_DO {
        for (at, _) in line.match_indices(word) {
            let whole = !line[..at].ends_with(|c: char| c.is_ascii_alphanumeric() || c == '_');
            let after = &line[at + word.len()..];
            let ends = !after.starts_with(|c: char| c.is_ascii_alphanumeric() || c == '_');
            let issue =
                after.strip_prefix("(#").is_some_and(|rest| rest.starts_with(|c: char| c.is_ascii_digit()));
            if whole && ends && !issue {
                return Some(format!("a {word} without an issue: write {word}(#12), or do it"));
            }
        }
    }
    None
}

fn is_mirror(word: &str) -> bool {
    let labels: Vec<&str> = word.trim_matches(['.', '-']).split('.').collect();
    let [first, .., last] = labels[..] else { return false };
    let first = first.rsplit_once('-').map_or(first, |(_, end)| end);
    let sparse = labels.len() == 2 && first != "crates";
    !sparse && MIRROR_LABELS.contains(&first) && TOP_LEVELS.contains(&last)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn registries_and_mirrors_are_seen() {
        for (first, rest) in [
            ("deb", ".debian.org/debian"),
            ("crates", ".io"),
            ("http://archive", ".ubuntu.com"),
            ("ftp", ".de.debian.org"),
            ("registry.npm", "js.org"),
            ("https://static.crates", ".io/x"),
        ] {
            let line = format!("see {first}{rest} for more");
            assert!(fault(&line, &[]).is_some_and(|f| f.contains("mirror")), "{line}");
        }
        for line in
            ["http://mirror.example/debian", "index.html", "mirror.rs", "https://www.qemu.org", "dl.net"]
        {
            assert_eq!(fault(line, &[]), None, "{line}");
        }
    }

    #[test]
    fn private_paths_are_seen() {
        let line = format!("{}ada/work", PRIVATE[0]);
        assert!(fault(&line, &[]).is_some());
        assert_eq!(fault(&format!("{}user/x and {}", PRIVATE[0], PRIVATE[0]), &[]), None);
        assert!(fault("cd /srv/checkout/src", &["/srv/checkout".to_owned()]).is_some());
        assert_eq!(fault("cat /root/marker", &[]), None, "a guest's");
    }

    #[test]
    fn a_to_do_needs_an_issue() {
        let word = TO_DO[0];
        assert!(fault(&format!("// {word}: later"), &[]).is_some());
        assert_eq!(fault(&format!("// {word}(#12): later"), &[]), None);
        assert_eq!(fault(&format!("x{word}S"), &[]), None);
    }
}
