//! Plans as people write them, right and wrong.

use plan::{Error, Kind, NodeKind, Plan, Sources};
use pretty_assertions::assert_eq;

const HOSTS: &str = "name, interface, ip, admin, rack\nOlaf , enp0s20f0, 10.0.100.2, Manfred, a1\n\
                     ulf, enp1s0, 10.0.100.3, manfred, a1\nrolf, eno2, 10.0.100.4, manfred, a2\n";
const K3S: &str = "host, name, type, ip\nolaf, olaf-k3s-server, INIT-server, 10.0.100.10\n\
                   OLAF, olaf-k3s-agent, agent, 10.0.100.11\nulf, ulf-k3s-server, Server, 10.0.100.12\n";
const NETWORK: &str = "# the house\nnetmask: \"24\"\ngateway: 10.0.100.1\ndns: [1.1.1.1]\n";

fn parsed(hosts: &str, k3s: &str, network: &str) -> Result<Plan, Error> {
    let sources = Sources { hosts: hosts.as_bytes(), k3s: k3s.as_bytes(), network: network.as_bytes() };
    Plan::parse("house", &sources)
}

/// What is wrong, a line each.
fn told(hosts: &str, k3s: &str, network: &str) -> Vec<String> {
    let error = parsed(hosts, k3s, network).expect_err("a plan with mistakes");
    error.to_string().lines().map(str::to_owned).collect()
}

#[test]
fn a_plan_becomes_a_profile_with_a_machine_for_each_node() {
    let plan = parsed(HOSTS, K3S, NETWORK).expect("a sound plan");
    let kinds: Vec<_> = plan.nodes.iter().map(|node| (node.host.as_str(), node.kind)).collect();
    assert_eq!(kinds, [("olaf", NodeKind::InitServer), ("olaf", NodeKind::Agent), ("ulf", NodeKind::Server)]);
    assert_eq!(plan.hosts[0].admin, "manfred");
    assert_eq!(plan.idle_hosts().map(|host| host.name.as_str()).collect::<Vec<_>>(), ["rolf"]);

    let profile = plan.profile();
    assert_eq!(profile.name(), "house");
    assert_eq!(profile.description(), "3 K3s nodes on 2 hosts");
    assert_eq!(profile.api_endpoint().to_string(), "10.0.100.10:6443");
    assert_eq!(profile.machines_of(profiles::Role::Server).count(), 2);
    assert_eq!(profile.address("ulf-k3s-server", "cluster").unwrap().to_string(), "10.0.100.12");
    assert_eq!(profile.networks()[0].gateway.unwrap().to_string(), "10.0.100.1");
    assert!(plan.to_toml().contains("# On the host olaf, enp0s20f0."), "{}", plan.to_toml());
}

#[test]
fn all_mistakes_are_told_at_once_with_file_line_and_column() {
    let hosts = "name, interface, ip\nolaf, eno1, 10.0.100.2\nolaf, , 10.0.99.3\nBad_Name, eno1, ten\n";
    let k3s =
        "host, name, type, ip\nolof, a, sever, 10.0.100.2\nolaf, b, agent\n\nolaf, b, agent, 10.0.100.255\n";
    let network = "netmask: 255.0.255.0\n\ngateway: here\n";
    assert_eq!(
        told(hosts, k3s, network),
        [
            "hosts.csv:1: admin: there is no such column; the table has: name, interface, ip",
            "hosts.csv:3: interface: empty; expected the name of its NIC",
            "hosts.csv:3: name: \"olaf\" is already the name in line 2; expected a name of its own",
            "hosts.csv:4: ip: \"ten\" is not an IPv4 address; expected one like 192.168.100.5, without a prefix length",
            "hosts.csv:4: name: \"bad_name\" is not a usable name; expected lower-case letters, digits and single \
             hyphens, beginning with a letter, at most 31 bytes",
            "k3s.csv:2: type: \"sever\" is not known (did you mean \"server\"?); expected one of: init-server, init, \
             server, agent",
            "k3s.csv:2: ip: 10.0.100.2 is already taken (hosts.csv:2); expected an address of its own",
            "k3s.csv:2: host: hosts.csv has no host \"olof\" (did you mean \"olaf\"?); it has: olaf, olaf, bad_name",
            "k3s.csv:3: 3 cells; expected 4, as in the table's first line",
            "k3s.csv:5: name: \"b\" is already the name in line 3; expected a name of its own",
            "k3s.csv:5: host: olaf already runs the agent of line 3; expected one agent a host at most",
            "network.yaml:1: netmask: \"255.0.255.0\" is not a mask that a network of hosts can have; expected 1 to 30, \
             or one like 255.255.255.0",
            "network.yaml:3: gateway: \"here\" is not an IPv4 address; expected one like 192.168.100.5, without a \
             prefix length",
        ]
    );
}

#[test]
fn addresses_must_be_in_the_network_and_each_once() {
    let hosts = HOSTS.replace("10.0.100.4", "10.0.101.4").replace("10.0.100.3", "10.0.100.1");
    let k3s = K3S.replace("10.0.100.12", "10.0.100.255");
    assert_eq!(
        told(&hosts, &k3s, NETWORK),
        [
            "hosts.csv:3: ip: 10.0.100.1 is already taken (network.yaml:3); expected an address of its own",
            "hosts.csv:4: ip: 10.0.101.4 is outside the subnet of cluster; expected an address in 10.0.100.0/24",
            "k3s.csv:4: ip: 10.0.100.255 is the broadcast address of 10.0.100.0/24; expected one that a host may have",
        ]
    );
    let wide = told(HOSTS, K3S, "netmask: 8\ngateway: 10.0.100.1\n");
    assert_eq!(wide.len(), 2, "{wide:?}");
    assert_eq!(
        wide[0],
        "network.yaml:1: netmask: 10.0.0.0/8 overlaps 10.42.0.0/16, which K3s gives to pods; expected a network apart \
         from it"
    );
}

#[test]
fn exactly_one_begins_the_cluster() {
    assert_eq!(
        told(HOSTS, &K3S.replace("INIT-server", "server"), NETWORK),
        ["k3s.csv:1: type: no node is an init-server; expected the one that begins the cluster"]
    );
    assert_eq!(
        told(HOSTS, &K3S.replace("Server", "init"), NETWORK),
        ["k3s.csv:4: type: line 2 has an init-server already; expected one, and the others as server"]
    );
}

#[test]
fn what_a_profile_refuses_is_told_at_its_row() {
    // Its host name would also be that of the first in the network.
    let k3s = K3S.replace("ulf-k3s-server", "olaf-k3s-agent-cluster");
    let told = told(HOSTS, &k3s, NETWORK);
    assert_eq!(told.len(), 1, "{told:?}");
    assert!(told[0].starts_with("k3s.csv:3: name: the host name \"olaf-k3s-agent-cluster\""), "{told:?}");
    // MAC addresses follow from the last two bytes of an address.
    let (hosts, k3s) =
        ("name,interface,ip,admin\na,e,11.0.0.9,x\nb,e,11.0.0.8,x\n", K3S.lines().next().unwrap());
    let k3s = format!("{k3s}\na,a,init,11.1.1.1\nb,b,agent,11.2.1.1\n");
    let error = parsed(hosts, &k3s, "{netmask: 8, gateway: 11.0.0.1}").expect_err("one MAC address for two");
    let Error::Invalid(problems) = error else { panic!("{error}") };
    assert!(matches!(problems[0].kind, Kind::Profile(profiles::Kind::DuplicateMac { .. })), "{problems:?}");
    assert_eq!((problems[0].file, problems[0].line, problems[0].column.as_str()), ("k3s.csv", 3, "name"));
}

#[test]
fn lines_are_counted_as_an_editor_does() {
    let bad = "no.such";
    for end in ["\n", "\r\n"] {
        let hosts = format!(
            "\u{feff}name,interface,ip,admin{end}{end}a,\"e{end}f\",10.0.0.2,x{end}{end}  ,{end}b,e,{bad},x"
        );
        let k3s = format!("host,name,type,ip{end}a,a,init,10.0.0.3{end}");
        let told = told(&hosts, &k3s, "netmask: 24\ngateway: 10.0.0.1");
        assert_eq!(told.len(), 1, "{told:?}");
        assert!(told[0].starts_with("hosts.csv:7: ip: \"no.such\""), "{told:?}");
    }
}

#[test]
fn empty_files_and_files_of_another_kind_say_so() {
    let empty = told("", " \n", "");
    assert_eq!(
        empty,
        [
            "hosts.csv:1: the table is empty; expected a first line with the columns name, interface, ip, admin",
            "k3s.csv:1: the table is empty; expected a first line with the columns host, name, type, ip",
            "k3s.csv:1: type: no node is an init-server; expected the one that begins the cluster",
            "network.yaml:1: netmask: missing; expected the network's mask, like 24",
            "network.yaml:1: gateway: missing; expected the router's address, like 192.168.100.1",
        ]
    );
    let other = told(HOSTS, K3S, "netmask: 24\ngateway: [10.0.100.1]\n");
    assert_eq!(other.len(), 1, "{other:?}");
    assert!(other[0].starts_with("network.yaml:2: not usable YAML: "), "{other:?}");
    let sources = Sources {
        hosts: b"name,interface,ip,admin\n\xff,e,10.0.100.2,x\n",
        k3s: K3S.as_bytes(),
        network: b"\xfe",
    };
    let told = Plan::parse("house", &sources).expect_err("no text").to_string();
    assert!(told.contains("hosts.csv:2: not UTF-8") && told.contains("network.yaml:1: not UTF-8"), "{told}");
}

#[test]
fn a_directory_is_read_also_when_the_plans_are_below_it() {
    let dir = tempfile::tempdir().unwrap();
    let house = dir.path().join("House");
    std::fs::create_dir_all(house.join("plans")).unwrap();
    for (file, text) in plan::FILES.into_iter().zip([HOSTS, K3S, NETWORK]) {
        std::fs::write(house.join("plans").join(file), text).unwrap();
    }
    assert_eq!(Plan::load(&house, None).unwrap().name, "house");
    assert_eq!(Plan::load(&house.join("plans"), Some("mine")).unwrap().name, "mine");
    assert!(matches!(Plan::load(&house, Some("No Name")), Err(Error::BadName { .. })));
    let missing = Plan::load(dir.path(), None).expect_err("no plan").to_string();
    assert!(missing.ends_with("hosts.csv: cannot read this part of the plan"), "{missing}");
}
