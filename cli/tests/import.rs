//! `rackless import` as a user meets it: output, errors, exit codes.

use std::path::Path;
use std::process::{Command, Output};

use pretty_assertions::assert_eq;

#[expect(clippy::disallowed_methods, reason = "a command that ends at once and starts nothing")]
fn rackless(args: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_rackless")).args(args).output().unwrap()
}

fn text(bytes: Vec<u8>) -> String {
    String::from_utf8(bytes).unwrap()
}

fn plan(dir: &Path, hosts: &str) {
    for (file, text) in [
        ("hosts.csv", hosts),
        (
            "k3s.csv",
            "host, name, type, ip\nOlaf, olaf-server, init-server, 10.0.0.10\nulf, ulf-agent, agent, 10.0.0.11\n",
        ),
        ("network.yaml", "netmask: \"24\"\ngateway: 10.0.0.1\n"),
    ] {
        std::fs::write(dir.join(file), text).unwrap();
    }
}

const HOSTS: &str = "name, interface, ip, admin\nolaf, eno1, 10.0.0.2, ann\nulf, eno1, 10.0.0.3, ann\nkarl, eno1, 10.0.0.4, ann\n";

#[test]
fn a_plan_is_printed_as_a_profile_or_written_beside_its_drawing() {
    let dir = tempfile::tempdir().unwrap();
    plan(dir.path(), HOSTS);
    let path = dir.path().to_str().unwrap();
    let printed = rackless(&["import", "plan", path, "--name", "house"]);
    assert!(printed.status.success());
    assert_eq!(text(printed.stderr), "karl (10.0.0.4) runs no K3s node: it is not in the profile\n");

    let out = dir.path().join("out");
    let written = rackless(&["import", "plan", path, "--name", "house", "-o", out.to_str().unwrap()]);
    assert!(written.status.success(), "{}", text(written.stderr));
    let profile = out.join("house.toml");
    assert_eq!(std::fs::read_to_string(&profile).unwrap(), text(printed.stdout));
    let drawing = std::fs::read_to_string(out.join("house.svg")).unwrap();
    assert!(drawing.starts_with("<svg") && drawing.contains("olaf-server"), "{drawing}");
    // All that takes a profile takes it.
    let flags = rackless(&[
        "profile",
        "render",
        profile.to_str().unwrap(),
        "--machine",
        "ulf-agent",
        "--what",
        "k3s",
    ]);
    assert_eq!(text(flags.stdout), "--node-ip=10.0.0.11\n--flannel-iface=eth1\n");
}

#[test]
fn mistakes_are_the_users_and_named() {
    let dir = tempfile::tempdir().unwrap();
    plan(dir.path(), &HOSTS.replace("ulf", "ulv"));
    let refused = rackless(&["import", "plan", dir.path().to_str().unwrap()]);
    assert_eq!(refused.status.code(), Some(2));
    assert_eq!(
        text(refused.stderr),
        "rackless: k3s.csv:3: host: hosts.csv has no host \"ulf\" (did you mean \"ulv\"?); it has: olaf, ulv, karl\n"
    );
    let nowhere = rackless(&["import", "plan", "/nonexistent"]);
    assert_eq!((nowhere.status.code(), text(nowhere.stdout).as_str()), (Some(2), ""));
}

#[test]
fn a_configuration_of_nixos_test_is_shown_as_a_lab() {
    let dir = tempfile::tempdir().unwrap();
    let script = dir.path().join("run-server-vm");
    let config = dir.path().join("config.json");
    let json =
        format!(r#"{{"vms": {{"server": {{"name": "server", "start_script": {script:?}}}}}, "vlans": [1]}}"#);
    std::fs::write(&config, json).unwrap();
    let nic = "-device virtio-net-pci,netdev=vlan1,mac=52:54:00:12:01:01 -netdev vde,id=vlan1,sock=\"$QEMU_VDE_SOCKET_1\"";
    std::fs::write(&script, format!("exec qemu -m 700 {nic} $QEMU_OPTS \"$@\"\n")).unwrap();
    let config = config.to_str().unwrap();
    let shown = rackless(&["import", "nixos-test", config]);
    assert_eq!(
        text_of(shown),
        format!(
            "MACHINE             MIB VCPUS  NIC      PORT         MAC\n\
             server              700     1  eth1     access 1     52:54:00:12:01:01\nserver: {}\n",
            script.display()
        )
    );
    std::fs::write(&script, nic.replace("SOCKET_1", "SOCKET_2")).unwrap();
    let refused = rackless(&["import", "nixos-test", config]);
    assert_eq!(refused.status.code(), Some(2));
    let told = text(refused.stderr);
    assert!(told.ends_with("server: its start script has a NIC in VLAN 2; the test has [1]\n"), "{told}");
}

fn text_of(output: Output) -> String {
    assert!(output.status.success(), "{}", text(output.stderr));
    text(output.stdout)
}
