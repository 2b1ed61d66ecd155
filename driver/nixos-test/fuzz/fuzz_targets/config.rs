//! Any bytes as a configuration and, behind a line of `---`, as every start script that it names: no panic, and a lab's
//! start scripts have a VLAN of the test for each NIC.

#![no_main]

use driver::spec::Boot;
use libfuzzer_sys::fuzz_target;
use nixos_test::{Error, NixosTest};

const BETWEEN: &[u8] = b"\n---\n";

fuzz_target!(|bytes: &[u8]| {
    let at = bytes.windows(BETWEEN.len()).position(|window| window == BETWEEN);
    let (config, script) = match at {
        Some(at) => (&bytes[..at], &bytes[at + BETWEEN.len()..]),
        None => (bytes, &b""[..]),
    };
    match NixosTest::parse("config.json", config, |_| Ok(script.to_owned())) {
        Ok(test) => {
            for machine in test.lab("test").machines {
                let Boot::Script(script) = &machine.boot else { panic!("not a start script") };
                assert_eq!(script.vlans.len(), machine.nics.len());
                assert!(script.vlans.iter().all(|vlan| test.vlans.contains(vlan)));
            }
        }
        Err(Error::Invalid { problems, .. }) => assert!(!problems.is_empty()),
        Err(error) => panic!("{error}"),
    }
});
