//! Every kind of mistake in a profile, with the exact message that it gives.

use pretty_assertions::assert_eq;
use profiles::{Error, Profile};

/// The lines of the tests below are counted in this text.
const GOOD: &str = r#"name = "rack"
nics = ["eth1", "eth2", "eth3"]
[bonds.bond0]
mode = "802.3ad"
members = ["eth1", "eth2"]
[networks.cluster]
subnet = "10.0.1.0/24"
interface = "bond0"
vlan = 200
[networks.storage]
subnet = "10.0.2.0/24"
interface = "eth3"
[machines.server-1]
role = "server"
addresses = { cluster = "10.0.1.1", storage = "10.0.2.1" }
[machines.agent-1]
role = "agent"
addresses = { cluster = "10.0.1.2", storage = "10.0.2.2" }
[kubernetes]
pod_cidr = "10.42.0.0/16"
service_cidr = "10.43.0.0/16"
api_server = "server-1"
"#;

/// The problems of the good text after a replacement, one a line.
fn after(from: &str, to: &str) -> String {
    assert!(GOOD.contains(from), "the good text has no {from}");
    problems(&GOOD.replacen(from, to, 1))
}

fn problems(text: &str) -> String {
    match Profile::parse(text, "rack.toml") {
        Ok(_) => "no problem".to_owned(),
        Err(error @ Error::Invalid { .. }) => error.to_string(),
        Err(other) => panic!("not a problem of the text: {other}"),
    }
}

/// `from => to` in the good text gives exactly this message.
macro_rules! mistakes {
    ($($name:ident: $from:literal => $to:literal, $message:literal;)*) => {
        $(#[test] fn $name() { assert_eq!(after($from, $to), $message); })*
    };
}

#[test]
fn the_good_text_is_good() {
    assert_eq!(problems(GOOD), "no problem");
}

mistakes! {
    no_toml: "[machines.agent-1]" => "[machines.agent-1",
        "rack.toml:16: not valid TOML: unclosed table, expected `]`";
    key_twice: "role = \"agent\"" => "role = \"agent\"\nrole = \"agent\"",
        "rack.toml:18: not valid TOML: duplicate key";
    unknown_key: "vlan = 200" => "vlna = 200",
        "rack.toml:9: networks.cluster.vlna: unknown key (did you mean \"vlan\"?); expected one of: subnet, vlan, \
         interface, mtu, gateway, dhcp";
    missing_key: "role = \"agent\"\n" => "",
        "rack.toml:16: machines.agent-1.role: missing; expected \"server\" or \"agent\"";
    wrong_type: "vlan = 200" => "vlan = \"200\"",
        "rack.toml:9: networks.cluster.vlan: found a string; expected a VLAN id, an integer from 1 to 4094";
    unknown_word: "role = \"agent\"" => "role = \"agnet\"",
        "rack.toml:17: machines.agent-1.role: \"agnet\" is not known (did you mean \"agent\"?); expected one of: \
         server, agent";
    out_of_range: "vlan = 200" => "vlan = 200\nmtu = 1_000",
        "rack.toml:10: networks.cluster.mtu: 1000 is out of range; expected 1280 to 9216";
    bad_name: "[machines.agent-1]" => "[machines.\"Agent 1\"]",
        "rack.toml:16: machines.\"Agent 1\": \"Agent 1\" is not a usable name; expected lower-case letters, digits and \
         single hyphens, beginning with a letter, at most 31 bytes";
    host_name_twice: "[machines.agent-1]" => "[machines.server-1-storage]",
        "rack.toml:13: machines.server-1: the host name \"server-1-storage\" also stands for machine server-1-storage; \
         expected names that stay apart";
    no_cluster: "[networks.cluster]" => "[networks.cluter]",
        "rack.toml:6: networks.cluster: missing; expected the network that gives machines their names, MAC addresses \
         and node addresses\n\
         rack.toml:15: machines.server-1.addresses.cluster: no network is named \"cluster\" (did you mean \
         \"cluter\"?); expected one of: cluter, storage\n\
         rack.toml:15: machines.server-1.addresses: no address in network cluter; expected one in each network of the \
         profile\n\
         rack.toml:18: machines.agent-1.addresses.cluster: no network is named \"cluster\" (did you mean \
         \"cluter\"?); expected one of: cluter, storage\n\
         rack.toml:18: machines.agent-1.addresses: no address in network cluter; expected one in each network of the \
         profile";
    bad_interface_name: "\"eth3\"]" => "\"eth3\", \"eth 4\"]",
        "rack.toml:2: nics[3]: \"eth 4\" is not a usable interface name; expected letters, digits, '_' and '-', \
         beginning with a letter, and none of lo, all, default\n\
         rack.toml:2: nics[3]: eth 4 carries no network and is in no bond; expected a use for it";
    a_jumbo_vlan_is_fine: "interface = \"eth3\"" => "interface = \"eth3\"\nvlan = 5\nmtu = 9000",
        "no problem";
    nic_twice: "\"eth3\"]" => "\"eth3\", \"eth1\"]",
        "rack.toml:2: nics[3]: eth1 is already used by nics[0] (line 2); expected each interface once";
    bond_named_as_nic: "[bonds.bond0]" => "[bonds.eth3]",
        "rack.toml:3: bonds.eth3: eth3 is already used by nics[2] (line 2); expected each interface once\n\
         rack.toml:8: networks.cluster.interface: no NIC or bond is named \"bond0\"; expected one of: eth1, eth2, \
         eth3, eth3";
    untagged_on_a_bond_is_fine: "vlan = 200\n" => "",
        "no problem";
    unknown_interface: "interface = \"eth3\"" => "interface = \"eth4\"",
        "rack.toml:2: nics[2]: eth3 carries no network and is in no bond; expected a use for it\n\
         rack.toml:12: networks.storage.interface: no NIC or bond is named \"eth4\" (did you mean \"eth1\"?); expected \
         one of: eth1, eth2, eth3, bond0";
    network_on_a_member: "interface = \"eth3\"" => "interface = \"eth2\"",
        "rack.toml:2: nics[2]: eth3 carries no network and is in no bond; expected a use for it\n\
         rack.toml:12: networks.storage.interface: eth2 is a member of bond0; expected the bond itself or a NIC that is \
         in none";
    bond_with_one_member: "members = [\"eth1\", \"eth2\"]" => "members = [\"eth1\"]",
        "rack.toml:2: nics[1]: eth2 carries no network and is in no bond; expected a use for it\n\
         rack.toml:5: bonds.bond0.members: a bond with 1 member; expected at least two";
    primary_with_lacp: "mode = \"802.3ad\"" => "mode = \"802.3ad\"\nprimary = \"eth1\"",
        "rack.toml:5: bonds.bond0.primary: means nothing with mode 802.3ad, which uses all members; expected it with \
         active-backup";
    rate_without_lacp: "mode = \"802.3ad\"" => "mode = \"active-backup\"\nlacp_rate = \"fast\"",
        "rack.toml:5: bonds.bond0.lacp_rate: means nothing with mode active-backup, which speaks no LACP; expected it \
         with 802.3ad";
    primary_that_is_no_member: "mode = \"802.3ad\"" => "mode = \"active-backup\"\nprimary = \"eth3\"",
        "rack.toml:5: bonds.bond0.primary: no NIC or bond is named \"eth3\" (did you mean \"eth1\"?); expected one of: \
         eth1, eth2";
    bad_cidr: "\"10.0.1.0/24\"" => "\"10.0.1.0/33\"",
        "rack.toml:7: networks.cluster.subnet: \"10.0.1.0/33\" is not a subnet; expected an address and a prefix length \
         like 192.168.200.0/24";
    host_bits: "\"10.0.1.0/24\"" => "\"10.0.1.1/24\"",
        "rack.toml:7: networks.cluster.subnet: 10.0.1.1/24 has host bits set; expected 10.0.1.0/24";
    overlapping_networks: "subnet = \"10.0.2.0/24\"" => "subnet = \"10.0.0.0/16\"",
        "rack.toml:11: networks.storage.subnet: 10.0.0.0/16 overlaps 10.0.1.0/24 of networks.cluster.subnet (line 7); \
         expected subnets that are apart";
    overlapping_pods: "pod_cidr = \"10.42.0.0/16\"" => "pod_cidr = \"10.43.128.0/17\"",
        "rack.toml:21: kubernetes.service_cidr: 10.43.0.0/16 overlaps 10.43.128.0/17 of kubernetes.pod_cidr (line 20); \
         expected subnets that are apart";
    bad_address: "cluster = \"10.0.1.2\"" => "cluster = \"10.0.1.2/24\"",
        "rack.toml:18: machines.agent-1.addresses.cluster: \"10.0.1.2/24\" is not an IP address; expected one like \
         192.168.200.1, without a prefix length";
    address_outside: "cluster = \"10.0.1.2\"" => "cluster = \"10.0.3.2\"",
        "rack.toml:18: machines.agent-1.addresses.cluster: 10.0.3.2 is outside the subnet of cluster; expected an \
         address in 10.0.1.0/24";
    address_of_the_network: "cluster = \"10.0.1.2\"" => "cluster = \"10.0.1.0\"",
        "rack.toml:18: machines.agent-1.addresses.cluster: 10.0.1.0 is the network address of 10.0.1.0/24; expected one \
         that a host may have";
    broadcast_address: "cluster = \"10.0.1.2\"" => "cluster = \"10.0.1.255\"",
        "rack.toml:18: machines.agent-1.addresses.cluster: 10.0.1.255 is the broadcast address of 10.0.1.0/24; expected \
         one that a host may have";
    duplicate_address: "storage = \"10.0.2.2\"" => "storage = \"10.0.2.1\"",
        "rack.toml:18: machines.agent-1.addresses.storage: 10.0.2.1 is already taken by \
         machines.server-1.addresses.storage (line 15); expected an address of its own";
    address_of_the_dhcp_server: "interface = \"eth3\"" => "interface = \"eth3\"\ndhcp = { server = \"10.0.2.2\" }",
        "rack.toml:19: machines.agent-1.addresses.storage: 10.0.2.2 is already taken by networks.storage.dhcp.server \
         (line 13); expected an address of its own";
    missing_address: ", storage = \"10.0.2.2\"" => "",
        "rack.toml:18: machines.agent-1.addresses: no address in network storage; expected one in each network of the \
         profile";
    address_in_an_unknown_network: "storage = \"10.0.2.2\"" => "storage = \"10.0.2.2\", strange = \"10.9.9.9\"",
        "rack.toml:18: machines.agent-1.addresses.strange: no network is named \"strange\" (did you mean \
         \"storage\"?); expected one of: cluster, storage";
    unknown_machine: "api_server = \"server-1\"" => "api_server = \"server-2\"",
        "rack.toml:22: kubernetes.api_server: no machine is named \"server-2\" (did you mean \"server-1\"?); expected \
         one of: server-1, agent-1";
    agent_as_api_server: "api_server = \"server-1\"" => "api_server = \"agent-1\"",
        "rack.toml:22: kubernetes.api_server: agent-1 is an agent; expected a server";
    bad_mac: "role = \"agent\"" => "role = \"agent\"\nmacs = { eth3 = \"52-54-00-12-34-56\" }",
        "rack.toml:18: machines.agent-1.macs.eth3: \"52-54-00-12-34-56\" is not a MAC address; expected six bytes like \
         52:54:00:12:34:56";
    group_mac: "role = \"agent\"" => "role = \"agent\"\nmacs = { eth3 = \"01:00:5e:00:00:01\" }",
        "rack.toml:18: machines.agent-1.macs.eth3: 01:00:5e:00:00:01 is no machine's own address; expected a unicast \
         one, with an even first byte";
    duplicate_mac: "role = \"agent\"" => "role = \"agent\"\nmacs = { eth3 = \"52:54:00:01:01:02\" }",
        "rack.toml:18: machines.agent-1.macs.eth3: 52:54:00:01:01:02 is already the MAC of eth2 on server-1; expected \
         one of its own (set it under macs)";
    mac_of_an_unknown_nic: "role = \"agent\"" => "role = \"agent\"\nmacs = { eth9 = \"52:54:00:aa:bb:cc\" }",
        "rack.toml:18: machines.agent-1.macs.eth9: no NIC or bond is named \"eth9\" (did you mean \"eth1\"?); expected \
         one of: eth1, eth2, eth3";
    vlan_id_0: "vlan = 200" => "vlan = 0",
        "rack.toml:9: networks.cluster.vlan: VLAN id 0 is out of range; expected 1 to 4094";
    vlan_id_4095: "vlan = 200" => "vlan = 4095",
        "rack.toml:9: networks.cluster.vlan: VLAN id 4095 is out of range; expected 1 to 4094";
    vlan_id_beyond_any_integer: "vlan = 200" => "vlan = 99999999999999999999",
        "rack.toml:9: networks.cluster.vlan: VLAN id 99999999999999999999 is out of range; expected 1 to 4094";
    duplicate_vlan_id: "interface = \"eth3\"" => "interface = \"eth3\"\nvlan = 200",
        "rack.toml:13: networks.storage.vlan: VLAN id 200 is already the one of network cluster; expected an id of its \
         own";
    own_vlan_id_out_of_range: "role = \"agent\"" => "role = \"agent\"\nvlans = { cluster = -1 }",
        "rack.toml:18: machines.agent-1.vlans.cluster: VLAN id -1 is out of range; expected 1 to 4094";
    own_vlan_id_untagged: "role = \"agent\"" => "role = \"agent\"\nvlans = { storage = 201 }",
        "rack.toml:18: machines.agent-1.vlans.storage: network storage is untagged; expected a network that has a VLAN \
         id";
    own_vlan_id_of_an_unknown_network: "role = \"agent\"" => "role = \"agent\"\nvlans = { backup = 201 }",
        "rack.toml:18: machines.agent-1.vlans.backup: no network is named \"backup\"; expected one of: cluster, storage";
    dhcp_in_ipv6: "subnet = \"10.0.2.0/24\"" => "subnet = \"fd00::/64\"\ndhcp = { server = \"fd00::1\" }",
        "rack.toml:12: networks.storage.dhcp: DHCP serves IPv4 only; expected no dhcp in an IPv6 network\n\
         rack.toml:16: machines.server-1.addresses.storage: 10.0.2.1 is outside the subnet of storage; expected an \
         address in fd00::/64\n\
         rack.toml:19: machines.agent-1.addresses.storage: 10.0.2.2 is outside the subnet of storage; expected an \
         address in fd00::/64";
    bond_without_members: "[kubernetes]" => "[bonds.bond1]\nmode = \"active-backup\"\nmembers = []\n[kubernetes]",
        "rack.toml:19: bonds.bond1: bond1 carries no network and is in no bond; expected a use for it\n\
         rack.toml:21: bonds.bond1.members: a bond with 0 members; expected at least two";
}

#[test]
fn a_vlan_whose_interface_name_is_too_long() {
    let text = GOOD.replace("bond0", "bond-of-racks");
    assert_eq!(
        problems(&text),
        "rack.toml:9: networks.cluster.vlan: the interface name \"bond-of-racks.200\" has 17 bytes; expected at most 15"
    );
    let text = GOOD.replace("eth3", "a-card-that-is-new");
    assert_eq!(
        problems(&text),
        "rack.toml:2: nics[2]: the interface name \"a-card-that-is-new\" has 18 bytes; expected at most 15"
    );
}

#[test]
fn two_untagged_networks_on_one_interface() {
    let text = GOOD.replace("\"eth3\"", "\"bond0\"").replace(", \"bond0\"]", "]").replace("vlan = 200\n", "");
    assert_eq!(
        problems(&text),
        "rack.toml:11: networks.storage.interface: bond0 is already used by networks.cluster.interface (line 8); \
         expected each interface once"
    );
}

#[test]
fn an_untagged_network_below_a_jumbo_vlan() {
    let text = GOOD
        .replace("\"eth3\"", "\"bond0\"")
        .replace(", \"bond0\"]", "]")
        .replace("vlan = 200", "vlan = 200\nmtu = 9000");
    assert_eq!(
        problems(&text),
        "rack.toml:11: networks.storage: cluster on the same interface has MTU 9000; expected at least that for the \
         untagged network"
    );
}

#[test]
fn a_bad_vlan_id_is_no_sign_of_an_untagged_network() {
    let text = GOOD
        .replace("\"eth3\"", "\"bond0\"")
        .replace(", \"bond0\"]", "]")
        .replace("vlan = 200", "vlan = 5000")
        .replace("role = \"agent\"", "role = \"agent\"\nvlans = { cluster = 7 }");
    assert_eq!(
        problems(&text),
        "rack.toml:9: networks.cluster.vlan: VLAN id 5000 is out of range; expected 1 to 4094"
    );
}

#[test]
fn own_vlan_ids_that_clash() {
    let tagged = GOOD.replace("interface = \"eth3\"", "interface = \"eth3\"\nvlan = 100");
    let own = |vlans: &str| {
        problems(&tagged.replace("role = \"agent\"", &format!("role = \"agent\"\nvlans = {vlans}")))
    };
    assert_eq!(own("{ cluster = 100, storage = 200 }"), "no problem");
    assert_eq!(
        own("{ cluster = 100 }"),
        "rack.toml:19: machines.agent-1.vlans.cluster: VLAN id 100 is already the one of network storage; expected an \
         id of its own"
    );
    assert_eq!(
        own("{ cluster = 7, storage = 7 }"),
        "rack.toml:19: machines.agent-1.vlans.storage: VLAN id 7 is already the one of network cluster; expected an id \
         of its own"
    );
}

#[test]
fn two_gateways() {
    let text = GOOD
        .replace("vlan = 200", "vlan = 200\ngateway = \"10.0.1.254\"")
        .replace("\"eth3\"\n", "\"eth3\"\ngateway = \"10.0.2.254\"\n");
    assert_eq!(
        problems(&text),
        "rack.toml:14: networks.storage.gateway: another network has a gateway already; expected one default route in a \
         profile"
    );
}

#[test]
fn several_mistakes_are_told_at_once_in_the_order_of_the_file() {
    let text = GOOD
        .replace("vlan = 200", "vlan = 5000")
        .replace("10.0.1.2", "10.0.1.1")
        .replace("\"agent\"", "\"boss\"");
    assert_eq!(
        problems(&text),
        "rack.toml:9: networks.cluster.vlan: VLAN id 5000 is out of range; expected 1 to 4094\n\
         rack.toml:17: machines.agent-1.role: \"boss\" is not known; expected one of: server, agent\n\
         rack.toml:18: machines.agent-1.addresses.cluster: 10.0.1.1 is already taken by \
         machines.server-1.addresses.cluster (line 15); expected an address of its own"
    );
}

#[test]
fn tables_that_hold_nothing() {
    assert_eq!(
        problems("name = \"x\"\nnics = []\nbonds = {}\nnetworks = {}\nmachines = {}\nkubernetes = {}"),
        "rack.toml:2: nics: missing; expected at least one NIC\n\
         rack.toml:3: bonds: missing; expected a bond, like [bonds.bond0], or no bonds at all\n\
         rack.toml:4: networks: missing; expected a table of networks, with [networks.cluster] among them\n\
         rack.toml:5: machines: missing; expected a table of machines, like [machines.server-1]\n\
         rack.toml:6: kubernetes.pod_cidr: missing; expected a subnet like \"192.168.200.0/24\"\n\
         rack.toml:6: kubernetes.service_cidr: missing; expected a subnet like \"192.168.200.0/24\"\n\
         rack.toml:6: kubernetes.api_server: missing; expected the server whose cluster address is the API's endpoint"
    );
}

#[test]
fn more_than_there_can_be() {
    let nics: Vec<_> = (0..65).map(|i| format!("\"eth{i}\"")).collect();
    let many = problems(&GOOD.replace("[\"eth1\", \"eth2\", \"eth3\"]", &format!("[{}]", nics.join(", "))));
    assert!(
        many.starts_with("rack.toml:2: nics: a list of 65 NICs is out of range; expected 1 to 64\n"),
        "{many}"
    );
    let networks: String = (1..64)
        .map(|i| format!("[networks.n{i}]\nsubnet = \"10.1.{i}.0/24\"\ninterface = \"bond0\"\nvlan = {i}\n"))
        .collect();
    let many = problems(&(GOOD.to_owned() + &networks));
    assert!(many.contains("networks: a table of 65 networks is out of range; expected 1 to 64"), "{many}");
}

#[test]
fn an_empty_file_lacks_everything() {
    assert_eq!(
        problems(""),
        "rack.toml:1: name: missing; expected the profile's name\n\
         rack.toml:1: nics: missing; expected the names of the NICs that each machine has, like [\"eth1\"]\n\
         rack.toml:1: networks: missing; expected a table of networks, with [networks.cluster] among them\n\
         rack.toml:1: machines: missing; expected a table of machines, like [machines.server-1]\n\
         rack.toml:1: kubernetes: missing; expected a table with pod_cidr and service_cidr"
    );
}

#[test]
fn a_file_that_is_no_text_or_not_there() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("disk.toml");
    let missing = Profile::load(&path).unwrap_err();
    assert_eq!(missing.to_string(), format!("{}: cannot read the network profile", path.display()));
    std::fs::write(&path, b"name = \"x\"\n\xff\xfe").unwrap();
    let binary = Profile::load(&path).unwrap_err();
    let expected =
        format!("{}:2: not valid TOML: byte 11 is not UTF-8; expected a text file", path.display());
    assert_eq!(binary.to_string(), expected);
}

#[test]
fn questions_to_a_profile_that_it_cannot_answer() {
    let vlans = profiles::vlans();
    let message = |error: Result<_, Error>| error.map(|_: Profile| ()).unwrap_err().to_string();
    assert_eq!(
        vlans.address("server-4", "cluster").unwrap_err().to_string(),
        "profile vlans has no machine \"server-4\" (did you mean \"server-1\"?); it has: server-1, server-2, server-3, \
         agent-1, agent-2"
    );
    assert_eq!(
        vlans.address("server-1", "clutser").unwrap_err().to_string(),
        "profile vlans has no network \"clutser\" (did you mean \"cluster\"?); it has: cluster, storage"
    );
    assert_eq!(
        message(profiles::builtin("vlan")),
        "no network profile is named \"vlan\" (did you mean \"vlans\"?); there are: simple, vlans, bonding-vlans, \
         dhcp-simple, vlans-broken"
    );
    assert_eq!(
        message(vlans.clone().with_vlan_id("server-3", "cluster", 4095)),
        "profile vlans: cannot tag network cluster of server-3 with VLAN id 4095: VLAN id 4095 is out of range; \
         expected 1 to 4094"
    );
    assert_eq!(
        message(vlans.clone().with_vlan_id("server-3", "cluster", 100)),
        "profile vlans: cannot tag network cluster of server-3 with VLAN id 100: VLAN id 100 is already the one of \
         network storage; expected an id of its own"
    );
    assert_eq!(
        message(profiles::simple().with_vlan_id("server-3", "cluster", 100)),
        "profile simple: cannot tag network cluster of server-3 with VLAN id 100: network cluster is untagged; \
         expected a network that has a VLAN id"
    );
}
