//! Any bytes as the three files of a plan, one after the other with a line of `---` between them: no panic, every
//! problem in a line that there is, and what is a plan is a profile with a machine for each node.

#![no_main]

use libfuzzer_sys::fuzz_target;
use plan::{Error, FILES, Plan, Sources};

const BETWEEN: &[u8] = b"\n---\n";

fn split(bytes: &[u8]) -> (&[u8], &[u8]) {
    match bytes.windows(BETWEEN.len()).position(|window| window == BETWEEN) {
        Some(at) => (&bytes[..at], &bytes[at + BETWEEN.len()..]),
        None => (bytes, b""),
    }
}

fuzz_target!(|bytes: &[u8]| {
    let (hosts, rest) = split(bytes);
    let (k3s, network) = split(rest);
    match Plan::parse("plan", &Sources { hosts, k3s, network }) {
        Ok(plan) => assert_eq!(plan.profile().machines().len(), plan.nodes.len()),
        Err(Error::Invalid(problems)) => {
            assert!(!problems.is_empty());
            for problem in problems {
                let place = FILES.iter().position(|file| *file == problem.file).expect("one of the files");
                // A carriage return alone ends a line of YAML as well (YAML 1.2.2, 5.4).
                let ends = |byte: &&u8| matches!(byte, b'\n' | b'\r');
                let lines = 1 + [hosts, k3s, network][place].iter().filter(ends).count();
                assert!((1..=lines).contains(&problem.line), "{problem}");
            }
        }
        Err(error) => panic!("{error}"),
    }
});
