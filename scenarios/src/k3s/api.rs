//! What the API of K3s says of nodes and of itself: pure text.

use std::fmt;
use std::net::IpAddr;

use anyhow::Context as _;
use serde::Deserialize;

/// A node.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Node {
    /// Its name: the machine's.
    pub name: String,
    /// Its `InternalIP`.
    pub address: Option<IpAddr>,
    /// What it does, from its labels `node-role.kubernetes.io/…`: `control-plane`, `etcd`; an agent has none.
    pub roles: Vec<String>,
    /// Whether it is Ready, else why not.
    pub ready: Result<(), String>,
    /// Whether it votes in the embedded etcd; `None` where K3s tells nothing of that: an agent.
    pub votes: Option<bool>,
    /// The version of its kubelet.
    pub version: String,
}

#[derive(Deserialize)]
struct List {
    items: Vec<Item>,
}

#[derive(Deserialize)]
struct Item {
    metadata: Metadata,
    #[serde(default)]
    status: Status,
}

#[derive(Deserialize)]
struct Metadata {
    name: String,
    #[serde(default)]
    labels: std::collections::BTreeMap<String, String>,
}

#[derive(Deserialize, Default)]
#[serde(default, rename_all = "camelCase")]
struct Status {
    addresses: Vec<Address>,
    conditions: Vec<Condition>,
    node_info: Info,
}

#[derive(Deserialize)]
struct Address {
    r#type: String,
    address: String,
}

#[derive(Deserialize)]
struct Condition {
    r#type: String,
    status: String,
    #[serde(default)]
    reason: String,
    #[serde(default)]
    message: String,
}

#[derive(Deserialize, Default)]
#[serde(default, rename_all = "camelCase")]
struct Info {
    kubelet_version: String,
}

impl Node {
    /// Reads `kubectl get nodes -o json` (core/v1 `NodeList`).
    ///
    /// # Errors
    /// When it is no such list.
    pub fn list(json: &str) -> anyhow::Result<Vec<Self>> {
        let list: List = serde_json::from_str(json).context("kubectl's list of nodes")?;
        Ok(list.items.into_iter().map(Self::of).collect())
    }

    fn of(item: Item) -> Self {
        let Status { addresses, conditions, node_info } = item.status;
        let condition = |kind: &str| conditions.iter().find(|condition| condition.r#type == kind);
        let ready = match condition("Ready") {
            Some(condition) if condition.status == "True" => Ok(()),
            Some(Condition { status, reason, message, .. }) => {
                Err(format!("Ready is {status}: {reason}: {message}"))
            }
            None => Err("it has no condition Ready yet".to_owned()),
        };
        let internal = addresses.iter().find(|address| address.r#type == "InternalIP");
        let roles = item.metadata.labels.keys();
        Self {
            name: item.metadata.name,
            address: internal.and_then(|address| address.address.parse().ok()),
            roles: roles
                .filter_map(|label| label.strip_prefix("node-role.kubernetes.io/"))
                .map(str::to_owned)
                .collect(),
            ready,
            votes: condition("EtcdIsVoter").map(|condition| condition.status == "True"),
            version: node_info.kubelet_version,
        }
    }

    /// What is wrong with the node of a machine that has this address, and is a server or not.
    #[must_use]
    pub fn problem(nodes: &[Self], name: &str, address: IpAddr, server: bool) -> Option<String> {
        let Some(node) = nodes.iter().find(|node| node.name == name) else {
            let known: Vec<&str> = nodes.iter().map(|node| node.name.as_str()).collect();
            return Some(format!("it has not joined; the nodes are {}", known.join(", ")));
        };
        if let Err(why) = &node.ready {
            return Some(format!("its node is not Ready: {why}"));
        }
        if node.address != Some(address) {
            let other = node.address.map_or_else(|| "none".to_owned(), |address| address.to_string());
            return Some(format!("its node has the address {other}, and the profile says {address}"));
        }
        match (server, node.votes) {
            (true, Some(true)) | (false, _) => None,
            (true, Some(false)) => Some("its etcd does not vote yet".to_owned()),
            (true, None) => Some("its node tells of no etcd, which a server of a cluster has".to_owned()),
        }
    }
}

/// The checks of an API server: `/readyz?verbose`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Health {
    checks: Vec<(String, bool)>,
    told: String,
}

impl Health {
    /// Reads the lines `[+]name ok` and `[-]name failed: …`.
    #[must_use]
    pub fn parse(told: &str) -> Self {
        let check = |line: &str| {
            let (good, rest) = match line.trim().split_at_checked(3)? {
                ("[+]", rest) => (true, rest),
                ("[-]", rest) => (false, rest),
                _ => return None,
            };
            Some((rest.split_ascii_whitespace().next()?.to_owned(), good))
        };
        Self { checks: told.lines().filter_map(check).collect(), told: told.trim().to_owned() }
    }

    /// Whether this check was made and passed.
    #[must_use]
    pub fn is_ok(&self, check: &str) -> bool {
        self.checks.iter().any(|(name, good)| name == check && *good)
    }
}

impl fmt::Display for Health {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let failed: Vec<&str> =
            self.checks.iter().filter(|(_, good)| !good).map(|(name, _)| name.as_str()).collect();
        match (self.checks.is_empty(), failed.is_empty()) {
            (true, _) => write!(f, "it tells no checks: {:?}", self.told),
            (false, true) => write!(f, "{} checks pass", self.checks.len()),
            (false, false) => write!(f, "failed are {}", failed.join(", ")),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn node(name: &str, address: &str, ready: &str, voter: &str) -> String {
        let voter = match voter {
            "" => String::new(),
            voter => format!(r#",{{"type":"EtcdIsVoter","status":"{voter}","reason":"MemberNotLearner"}}"#),
        };
        format!(
            r#"{{"metadata":{{"name":"{name}","labels":{{"node-role.kubernetes.io/etcd":"true","other":""}}}},
            "status":{{"addresses":[{{"type":"Hostname","address":"x"}},{{"type":"InternalIP","address":"{address}"}}],
            "conditions":[{{"type":"Ready","status":"{ready}","reason":"KubeletNotReady","message":"no CNI"}}{voter}],
            "nodeInfo":{{"kubeletVersion":"v1.33.1+k3s1"}}}}}}"#
        )
    }

    fn problem(node: String, server: bool) -> Option<String> {
        let nodes = Node::list(&format!(r#"{{"kind":"List","items":[{node}]}}"#)).expect("a list");
        Node::problem(&nodes, "server-1", "10.0.0.1".parse().expect("an address"), server)
    }

    #[test]
    fn a_node_is_read() {
        let list = format!(r#"{{"items":[{}]}}"#, node("server-1", "10.0.0.1", "True", "True"));
        let nodes = Node::list(&list).expect("a list");
        assert_eq!(
            nodes,
            [Node {
                name: "server-1".into(),
                address: "10.0.0.1".parse().ok(),
                roles: vec!["etcd".into()],
                ready: Ok(()),
                votes: Some(true),
                version: "v1.33.1+k3s1".into(),
            }]
        );
        assert!(Node::list("The connection was refused").is_err());
    }

    #[test]
    fn what_is_wrong_with_a_node_is_told() {
        assert_eq!(problem(node("server-1", "10.0.0.1", "True", "True"), true), None);
        assert_eq!(problem(node("server-1", "10.0.0.1", "True", ""), false), None);
        let told = |node, server| problem(node, server).expect("a problem");
        let unready = told(node("server-1", "10.0.0.1", "False", "True"), true);
        assert_eq!(unready, "its node is not Ready: Ready is False: KubeletNotReady: no CNI");
        let elsewhere = told(node("server-1", "10.0.2.15", "True", "True"), true);
        assert_eq!(elsewhere, "its node has the address 10.0.2.15, and the profile says 10.0.0.1");
        assert_eq!(told(node("server-1", "10.0.0.1", "True", "False"), true), "its etcd does not vote yet");
        assert!(told(node("server-1", "10.0.0.1", "True", ""), true).contains("no etcd"));
        assert_eq!(
            told(node("server-2", "10.0.0.1", "True", "True"), true),
            "it has not joined; the nodes are server-2"
        );
        let fresh = r#"{"metadata":{"name":"server-1"}}"#.to_owned();
        assert_eq!(told(fresh, false), "its node is not Ready: it has no condition Ready yet");
    }

    #[test]
    fn checks_of_an_api_are_read() {
        let health = Health::parse(
            "[+]ping ok\n[+]etcd ok\n[-]informer-sync failed: reason withheld\nreadyz check failed",
        );
        assert!(health.is_ok("ping") && health.is_ok("etcd") && !health.is_ok("informer-sync"));
        assert!(!health.is_ok("log"), "a check that was not made");
        assert_eq!(health.to_string(), "failed are informer-sync");
        let refused = Health::parse("The connection to the server was refused\n");
        assert!(!refused.is_ok("etcd") && refused.to_string().contains("was refused"), "{refused}");
    }
}
