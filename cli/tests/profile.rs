//! `rackless profile` as a user meets it: output, errors, exit codes.

use std::path::Path;
use std::process::{Command, Output};

use pretty_assertions::assert_eq;

#[expect(clippy::disallowed_methods, reason = "a command that ends at once and starts nothing")]
fn rackless(args: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_rackless")).arg("profile").args(args).output().unwrap()
}

fn succeeds(args: &[&str]) -> String {
    let output = rackless(args);
    let stderr = String::from_utf8(output.stderr).unwrap();
    assert!(output.status.success(), "{args:?} failed: {stderr}");
    String::from_utf8(output.stdout).unwrap()
}

/// Runs what must fail; returns the exit code and stderr, having seen that stdout stayed empty.
fn fails(args: &[&str]) -> (Option<i32>, String) {
    let output = rackless(args);
    assert_eq!(String::from_utf8(output.stdout).unwrap(), "", "{args:?}");
    (output.status.code(), String::from_utf8(output.stderr).unwrap())
}

fn path(path: &Path) -> &str {
    path.to_str().unwrap()
}

#[test]
fn list_has_a_line_for_each_builtin() {
    let listed = succeeds(&["list"]);
    let names: Vec<_> = listed.lines().map(|line| line.split_whitespace().next().unwrap()).collect();
    assert_eq!(names, profiles::names().collect::<Vec<_>>());
}

#[test]
fn show_tells_networks_machines_and_bonds() {
    let shown = succeeds(&["show", "bonding-vlans"]);
    for part in
        ["192.168.200.0/24", "bond0: eth1 + eth2 (802.3ad, fast lacp", "192.168.100.5", "52:54:00:c8:03:02"]
    {
        assert!(shown.contains(part), "no {part} in:\n{shown}");
    }
}

#[test]
fn the_source_of_a_builtin_loads_again_from_a_file() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("mine.toml");
    std::fs::write(&file, succeeds(&["show", "vlans", "--source"])).unwrap();
    assert_eq!(succeeds(&["show", path(&file)]), succeeds(&["show", "vlans"]));
    assert_eq!(succeeds(&["render", path(&file)]), succeeds(&["render", "vlans"]));
}

#[test]
fn render_prints_a_single_file_bare() {
    assert_eq!(
        succeeds(&["render", "vlans", "--machine", "agent-1", "--what", "k3s"]),
        "--node-ip=192.168.200.3\n--flannel-iface=eth1.200\n"
    );
    assert_eq!(
        succeeds(&["render", "simple", "--what", "hosts"]),
        profiles::render::hosts(&profiles::simple())
    );
}

#[test]
fn the_switch_is_json_of_the_machine_asked_for() {
    let text = succeeds(&["render", "bonding-vlans", "--machine", "agent-1", "--what", "switch"]);
    let plan: serde_json::Value = serde_json::from_str(&text).unwrap();
    assert_eq!(plan["ports"].as_array().unwrap().len(), 2);
    assert_eq!(plan["ports"][1]["name"], "agent-1/eth2");
    assert_eq!(plan["ports"][1]["mode"], "trunk");
    assert_eq!(plan["ports"][1]["allowed"], serde_json::json!([100, 200]));
    assert_eq!(plan["bundles"].as_array().unwrap().len(), 1);
    assert_eq!(plan["bundles"][0]["ports"], serde_json::json!(["agent-1/eth1", "agent-1/eth2"]));
}

#[test]
fn render_writes_a_tree() {
    let dir = tempfile::tempdir().unwrap();
    let out = dir.path().join("new/tree");
    assert_eq!(succeeds(&["render", "vlans", "--out", path(&out)]), "");
    for (name, text) in profiles::render::networkd(&profiles::vlans(), "server-3").unwrap() {
        assert_eq!(
            std::fs::read_to_string(out.join("server-3/etc/systemd/network").join(name)).unwrap(),
            text
        );
    }
    assert!(
        out.join("hosts").is_file()
            && out.join("switch.json").is_file()
            && out.join("agent-2/k3s.flags").is_file()
    );
}

#[test]
fn an_unknown_name_suggests_the_nearest() {
    assert_eq!(
        fails(&["show", "vlan"]),
        (
            Some(2),
            "rackless: no network profile is named \"vlan\" (did you mean \"vlans\"?); there are: simple, vlans, \
             bonding-vlans, dhcp-simple, vlans-broken\n"
                .to_owned()
        )
    );
    let (code, stderr) = fails(&["render", "vlans", "--machine", "sever-1"]);
    assert_eq!(code, Some(2));
    assert!(stderr.contains("has no machine \"sever-1\" (did you mean \"server-1\"?)"), "{stderr}");
}

#[test]
fn a_bad_file_is_told_by_line_and_key_with_all_its_mistakes() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("bad.toml");
    let text = profiles::source("vlans").unwrap().replace("vlan = 200", "vlan = 4095");
    std::fs::write(&file, text.replace("192.168.200.2", "192.168.201.2")).unwrap();
    let (code, stderr) = fails(&["render", path(&file)]);
    let file = path(&file);
    assert_eq!(code, Some(2));
    assert_eq!(
        stderr,
        format!(
            "rackless: {file}:9: networks.cluster.vlan: VLAN id 4095 is out of range; expected 1 to 4094\n\
             {file}:23: machines.server-2.addresses.cluster: 192.168.201.2 is outside the subnet of cluster; expected \
             an address in 192.168.200.0/24\n"
        )
    );
}

#[test]
fn a_missing_file_is_bad_input_and_a_blocked_directory_is_not() {
    let (code, stderr) = fails(&["show", "./nowhere.toml"]);
    assert_eq!(code, Some(2));
    assert!(stderr.contains("./nowhere.toml: cannot read the network profile: No such file"), "{stderr}");

    let file = tempfile::NamedTempFile::new().unwrap();
    let (code, stderr) = fails(&["render", "vlans", "--out", path(file.path())]);
    assert_eq!(code, Some(1), "{stderr}");
    assert!(stderr.contains(path(file.path())), "{stderr}");
}
