//! How an image starts K3s, and what it reads then: pure text.

use std::fmt::Write as _;

use anyhow::{Context as _, bail, ensure};

/// Where K3s reads flags from, whatever its unit gives it besides: the last file in the alphabet's order counts
/// (docs.k3s.io, "Configuration File").
const CONFIG: &str = "/etc/rancher/k3s/config.yaml.d/90-rackless.yaml";

/// What an image starts K3s by.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Contract {
    /// The unit.
    pub unit: String,
    /// How it is told what to do.
    pub kind: Kind,
}

/// How K3s is told what to do.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Kind {
    /// By `/etc/default/<unit>`, an environment file, and K3s's own configuration: packages for Debian, and K3s's
    /// installer.
    EnvFile,
    /// By what the NixOS system was built with; only the token comes from outside, in this file.
    Nixos {
        /// The file that `--token-file` names.
        token_file: String,
        /// The command that the unit runs.
        exec: String,
    },
}

/// How a machine joins.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Join {
    /// The cluster's token.
    pub token: String,
    /// Where the API is; `None` for the server that begins the cluster.
    pub url: Option<String>,
}

/// Files to write: paths and contents, for nobody but root to read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Files(pub Vec<(String, String)>);

impl Contract {
    /// A script that tells what there is, for [`Contract::parse`].
    #[must_use]
    pub fn probe(server: bool) -> String {
        let units = if server { "k3s-server k3s" } else { "k3s-agent k3s" };
        format!(
            "[ ! -e /etc/NIXOS ] || echo nixos\n\
             for unit in {units}; do\n\
             if systemctl cat $unit.service >/dev/null 2>&1; then\n\
             echo \"unit $unit.service\"; systemctl show -p ExecStart --value $unit.service; break\n\
             fi\n\
             done"
        )
    }

    /// Reads what [`Contract::probe`] printed.
    ///
    /// # Errors
    /// When there is no unit of K3s, or a NixOS system that takes no token from a file.
    pub fn parse(told: &str) -> anyhow::Result<Self> {
        let unit = told.lines().find_map(|line| line.strip_prefix("unit "));
        let unit = unit.context("the image has no unit of it: k3s-server, k3s-agent or k3s")?.to_owned();
        if !told.lines().any(|line| line == "nixos") {
            return Ok(Self { unit, kind: Kind::EnvFile });
        }
        let exec = argv(told).with_context(|| format!("{unit} tells no command"))?.to_owned();
        let token_file = flag(&exec, "--token-file")
            .with_context(|| {
                format!("{unit} has no --token-file, so that it can't be given a token: {exec}")
            })?
            .to_owned();
        Ok(Self { unit, kind: Kind::Nixos { token_file, exec } })
    }

    /// The files that have a machine run with `flags`, each `--name=value`, and join.
    ///
    /// # Errors
    /// When a NixOS system was built with other flags: it is of another profile.
    pub fn files(&self, flags: &[String], join: &Join) -> anyhow::Result<Files> {
        match &self.kind {
            Kind::EnvFile => {
                let name = self.unit.trim_end_matches(".service");
                let mut env = format!("K3S_TOKEN={}\n", join.token);
                if let Some(url) = &join.url {
                    let _ = writeln!(env, "K3S_URL={url}");
                }
                Ok(Files(vec![
                    (format!("/etc/default/{name}"), env),
                    (CONFIG.to_owned(), config(flags, join.url.is_none())?),
                ]))
            }
            Kind::Nixos { token_file, exec } => {
                let missing: Vec<&str> =
                    flags.iter().map(String::as_str).filter(|it| !has(exec, it)).collect();
                ensure!(
                    missing.is_empty(),
                    "its NixOS system was built for another profile: {} has no {} in {exec}",
                    self.unit,
                    missing.join(", ")
                );
                let joins = flag(exec, "--server");
                ensure!(
                    joins == join.url.as_deref(),
                    "its NixOS system joins {}, and the profile says {}",
                    joins.unwrap_or("nobody"),
                    join.url.as_deref().unwrap_or("nobody")
                );
                Ok(Files(vec![(token_file.clone(), format!("{}\n", join.token))]))
            }
        }
    }
}

/// The words of a command in `systemctl show -p ExecStart`: `{ path=… ; argv[]=… ; ignore_errors=… }`.
fn argv(told: &str) -> Option<&str> {
    let (_, rest) = told.split_once("argv[]=")?;
    rest.split(" ; ").next().map(str::trim)
}

/// The value of a flag, `--name=value` or `--name value`.
fn flag<'e>(exec: &'e str, name: &str) -> Option<&'e str> {
    let mut words = exec.split_ascii_whitespace();
    while let Some(word) = words.next() {
        if word == name {
            return words.next();
        }
        if let Some(value) = word.strip_prefix(name).and_then(|rest| rest.strip_prefix('=')) {
            return Some(value);
        }
    }
    None
}

fn has(exec: &str, wanted: &str) -> bool {
    wanted.split_once('=').is_some_and(|(name, value)| flag(exec, name) == Some(value))
}

/// Flags as K3s's configuration has them: a key each, without its hyphens.
fn config(flags: &[String], begins: bool) -> anyhow::Result<String> {
    let mut text = String::from("# Written by the test, from its network profile.\n");
    for flag in flags {
        let Some((name, value)) = flag.strip_prefix("--").and_then(|flag| flag.split_once('=')) else {
            bail!("{flag:?} is no --name=value")
        };
        let _ = writeln!(text, "{name}: \"{value}\"");
    }
    if begins {
        text.push_str("cluster-init: true\n");
    }
    Ok(text)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn flags(machine: &str) -> Vec<String> {
        profiles::render::k3s_flags(&profiles::vlans(), machine).expect("a machine of the profile")
    }

    fn join(url: Option<&str>) -> Join {
        Join { token: "secret".to_owned(), url: url.map(str::to_owned) }
    }

    #[test]
    fn the_server_that_begins_has_an_environment_and_flags_of_its_profile() {
        let contract = Contract::parse("unit k3s-server.service\n{ path=/usr/bin/k3s ; argv[]=x ; }\n");
        let contract = contract.expect("a unit");
        let Files(files) = contract.files(&flags("server-1"), &join(None)).expect("files");
        assert_eq!(files[0], ("/etc/default/k3s-server".to_owned(), "K3S_TOKEN=secret\n".to_owned()));
        assert_eq!(files[1].0, CONFIG);
        assert_eq!(
            files[1].1,
            "# Written by the test, from its network profile.\n\
             node-ip: \"192.168.200.1\"\nflannel-iface: \"eth1.200\"\nadvertise-address: \"192.168.200.1\"\n\
             tls-san: \"192.168.200.1\"\ncluster-cidr: \"10.42.0.0/16\"\nservice-cidr: \"10.43.0.0/16\"\n\
             cluster-init: true\n"
        );
    }

    #[test]
    fn an_agent_joins_by_its_environment() {
        let url = "https://192.168.200.1:6443";
        let contract = Contract::parse("unit k3s-agent.service\n").expect("a unit");
        let Files(files) = contract.files(&flags("agent-1"), &join(Some(url))).expect("files");
        assert_eq!(files[0].0, "/etc/default/k3s-agent");
        assert_eq!(files[0].1, format!("K3S_TOKEN=secret\nK3S_URL={url}\n"));
        assert!(
            files[1].1.contains("flannel-iface") && !files[1].1.contains("cluster-init"),
            "{}",
            files[1].1
        );
        // The unit of K3s's own installer reads /etc/default/%N as well.
        let installed = Contract::parse("unit k3s.service\n").expect("a unit");
        assert_eq!(installed.files(&[], &join(None)).expect("files").0[0].0, "/etc/default/k3s");
    }

    const NIXOS: &str = "nixos\nunit k3s.service\n{ path=/nix/store/x/bin/k3s ; argv[]=/nix/store/x/bin/k3s agent \
         --server https://192.168.200.1:6443 --token-file /etc/rackless/k3s-token --node-ip=192.168.200.3 \
         --flannel-iface=eth1.200 ; ignore_errors=no ; start_time=[n/a] }\n";

    #[test]
    fn a_nixos_system_takes_the_token_and_has_the_rest() {
        let contract = Contract::parse(NIXOS).expect("a unit");
        let files = contract.files(&flags("agent-1"), &join(Some("https://192.168.200.1:6443")));
        let token = ("/etc/rackless/k3s-token".to_owned(), "secret\n".to_owned());
        assert_eq!(files.expect("files"), Files(vec![token]));
    }

    #[test]
    fn a_nixos_system_of_another_profile_is_told() {
        let told = |text: &str, machine: &str, url| {
            let contract = Contract::parse(text).expect("a unit");
            contract.files(&flags(machine), &join(url)).expect_err("another profile").to_string()
        };
        let url = Some("https://192.168.200.1:6443");
        let other = told(NIXOS, "agent-2", url);
        assert!(other.contains("has no --node-ip=192.168.200.4 in"), "{other}");
        let joins = told(NIXOS, "agent-1", None);
        assert!(joins.contains("joins https://192.168.200.1:6443, and the profile says nobody"), "{joins}");
        let without = Contract::parse(&NIXOS.replace("--token-file", "--token")).expect_err("no token file");
        assert!(without.to_string().contains("has no --token-file"), "{without}");
    }

    #[test]
    fn an_image_without_k3s_says_so() {
        assert!(Contract::parse("nixos\n").expect_err("no unit").to_string().contains("no unit"));
    }
}
