//! Configurations, right and wrong.

use std::path::Path;

use driver::spec::Boot;
use nixos_test::{Error, Nic, NixosTest};
use pretty_assertions::assert_eq;
use proptest::prelude::*;
use switch::VlanId;

const CONFIG: &str = r#"{
  "vms": {
    "server": { "name": "server", "start_script": "/nix/store/s/bin/run-server-vm" },
    "client": { "name": "client", "start_script": "/nix/store/c/bin/run-client-vm" }
  },
  "containers": {}, "vlans": [2, 1, 1], "global_timeout": 3600, "enable_ssh_backdoor": false,
  "test_script": "/nix/store/t/test-script"
}"#;

/// What such a script ends with, in our words.
fn script(nics: &[(u32, u32)]) -> Vec<u8> {
    let mut text =
        "#!/bin/sh\nexec qemu-kvm -cpu max \\\n  -m 2048 \\\n -smp 2 \\\n -netdev user,id=user.0 \\\n"
            .to_owned();
    for (index, vlan) in nics {
        text += &format!(
            "  -device virtio-net-pci,netdev=vlan{index},mac=52:54:00:12:0{vlan}:0A \\\n  \
             -netdev vde,id=vlan{index},sock=\"$QEMU_VDE_SOCKET_{vlan}\" \\\n"
        );
    }
    (text + "  $QEMU_OPTS \"$@\"\n").into_bytes()
}

fn parsed(config: &str, nics: &[(u32, u32)]) -> Result<NixosTest, Error> {
    NixosTest::parse("config.json", config.as_bytes(), |_| Ok(script(nics)))
}

fn told(config: &str, nics: &[(u32, u32)]) -> Vec<String> {
    let error = parsed(config, nics).expect_err("a configuration with mistakes").to_string();
    error.lines().map(str::to_owned).collect()
}

#[test]
fn a_configuration_is_a_lab_of_start_scripts() {
    let test = parsed(CONFIG, &[(2, 2), (1, 1)]).expect("a sound configuration");
    assert_eq!(test.vms.iter().map(|vm| vm.name.as_str()).collect::<Vec<_>>(), ["client", "server"]);
    assert_eq!((test.vlans.as_slice(), test.global_timeout_s), (&[1, 2][..], Some(3600)));
    let nic = |vlan: u16| Nic { vlan: VlanId::new(vlan).unwrap(), mac: format!("52:54:00:12:0{vlan}:0a") };
    assert_eq!(test.vms[0].nics, [nic(1), nic(2)]);

    let lab = test.lab("test");
    let client = &lab.machines[0];
    assert_eq!((client.memory_mib, client.vcpus, client.disk.as_ref()), (2048, 2, None));
    let ports: Vec<_> = client.nics.iter().map(|nic| (nic.name.as_str(), nic.port.to_string())).collect();
    assert_eq!(ports, [("eth1", "access 1".to_owned()), ("eth2", "access 2".to_owned())]);
    let Boot::Script(script) = &client.boot else { panic!("{:?}", client.boot) };
    assert_eq!(
        (script.program.as_path(), script.vlans.as_slice()),
        (Path::new("/nix/store/c/bin/run-client-vm"), &[1, 2][..])
    );
}

#[test]
fn all_mistakes_are_told_at_once() {
    let config = CONFIG
        .replace("\"name\": \"server\"", "\"name\": \"ser_ver\"")
        .replace("[2, 1, 1]", "[1, 4095]")
        .replace(
            "\"containers\": {}",
            "\"containers\": {\"box\": {\"name\": \"box\", \"start_script\": \"/x\"}}",
        );
    assert_eq!(
        told(&config, &[(1, 2)]),
        [
            "config.json: containers: box is a container; expected VMs only, since Rackless starts no systemd-nspawn",
            "config.json: vms: \"ser_ver\" can't be a hostname: expected up to 63 letters, digits and hyphens, no \
             hyphen at an end",
            "config.json: vlans: 4095 is no VLAN; expected 1 to 4094",
            "config.json: client: its start script has a NIC in VLAN 2; the test has [1]",
        ]
    );
    assert_eq!(
        told(CONFIG, &[(2, 1)]).first().map(String::as_str),
        Some(
            "config.json: client: its start script: its NICs are not counted from 1: vlan2 stands for vlan1"
        )
    );
    assert_eq!(told(r#"{"vms": {}, "vlans": []}"#, &[]), ["config.json: vms: none; expected at least one"]);
    assert_eq!(told("{\n\"vms\": 1}", &[]).len(), 1);
    assert!(told("{\n\"vms\": 1}", &[])[0].starts_with("config.json: line 2, column 8: invalid type"));
    assert!(told("", &[])[0].contains("EOF"));
}

#[test]
fn files_are_read_and_a_missing_script_is_named() {
    let dir = tempfile::tempdir().unwrap();
    let start = dir.path().join("run-a-vm");
    let config = dir.path().join("config.json");
    let text = format!(r#"{{"vms": {{"a": {{"name": "a", "start_script": {start:?}}}}}, "vlans": [1]}}"#);
    std::fs::write(&config, text).unwrap();
    let missing = NixosTest::load(&config).expect_err("no script").to_string();
    assert_eq!(missing, format!("{}: cannot read this part of the test", start.display()));
    std::fs::write(&start, script(&[(1, 1)])).unwrap();
    assert_eq!(NixosTest::load(&config).unwrap().vms[0].nics.len(), 1);
    assert!(matches!(NixosTest::load(Path::new("/nonexistent")), Err(Error::Read { .. })));
}

proptest! {
    #[test]
    fn any_text_is_a_test_or_a_problem(
        config in prop_oneof![prop::collection::vec(any::<u8>(), 0..64), Just(CONFIG.into())],
        script in prop::collection::vec(any::<u8>(), 0..64), nics in prop::collection::vec((0u32..4, 0u32..5000), 0..4)
    ) {
        let text = [self::script(&nics), script].concat();
        match NixosTest::parse("config.json", &config, |_| Ok(text.clone())) {
            Ok(test) => for machine in test.lab("test").machines {
                let Boot::Script(script) = &machine.boot else { unreachable!("all are scripts") };
                prop_assert_eq!(script.vlans.len(), machine.nics.len());
                prop_assert!(script.vlans.iter().all(|vlan| test.vlans.contains(vlan)));
            },
            Err(Error::Invalid { problems, .. }) => prop_assert!(!problems.is_empty()),
            Err(error) => prop_assert!(false, "{}", error),
        }
    }
}
