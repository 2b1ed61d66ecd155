//! `rackless board check`, as it is run.

use std::time::Duration;

use process::{Command, Output};

fn check(file: &std::path::Path) -> Output {
    let command = Command::new(env!("CARGO_BIN_EXE_rackless")).args(["board", "check"]).arg(file);
    process::run_blocking(command, Duration::from_secs(60)).expect("it runs")
}

#[test]
fn a_board_is_looked_at_and_not_touched() {
    let folder = tempfile::tempdir().expect("a folder");
    let listener = std::net::TcpListener::bind("127.0.0.1:0").expect("a port");
    let file = folder.path().join("orin.toml");
    let text = format!(
        "[serial]\ntcp = \"{}\"\n[power]\non = \"touch {dir}/turned\"\noff = \"touch {dir}/turned\"\n\
         state = \"echo Chassis Power is off\"\n[uplink.eth1]\nnic = \"enp3s0\"\n[lock]\nfolder = \"{dir}/locks\"\n",
        listener.local_addr().expect("an address"),
        dir = folder.path().display()
    );
    fs_err::write(&file, &text).expect("written");
    let told = check(&file);
    let out = told.stdout_text();
    assert!(told.success(), "{}", told.stderr_text());
    for part in ["orin.toml: orin", "power   off; after a failure: off", "uplink  eth1: the NIC enp3s0"] {
        assert!(out.contains(part), "no {part:?} in {out}");
    }
    assert!(!folder.path().join("turned").exists(), "its power was turned");

    fs_err::write(&file, text.replace("tcp =", "tpc =")).expect("written");
    let told = check(&file);
    assert_eq!(told.status.code(), Some(2));
    let error = told.stderr_text();
    assert!(error.contains("orin.toml:2: serial.tpc: unknown field") && error.contains("\"tcp\""), "{error}");

    drop(listener);
    fs_err::write(&file, text).expect("written");
    let told = check(&file);
    assert_eq!(told.status.code(), Some(1));
    assert!(told.stderr_text().contains("orin: its serial line"), "{}", told.stderr_text());
}
