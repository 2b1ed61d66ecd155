//! Plans that chance writes: never a panic, every problem in its place, and what is a plan is a profile.

use plan::{Error, FILES, Plan, Sources};
use proptest::prelude::*;

fn cell() -> impl Strategy<Value = String> {
    prop_oneof![
        4 => prop::sample::select(vec!["a", "b", "C ", "olaf", "a-cluster", "server", "agent", "init-server", "eth0"])
            .prop_map(str::to_owned),
        4 => (0u8..4, 0u8..=255).prop_map(|(c, d)| format!("10.{c}.0.{d}")),
        1 => "\\PC{0,8}",
        1 => Just(String::new()),
    ]
}

fn table(head: &'static str) -> impl Strategy<Value = Vec<u8>> {
    let rows = prop::collection::vec(prop::collection::vec(cell(), 3..6), 0..6);
    (rows, any::<bool>(), prop::collection::vec(any::<u8>(), 0..4)).prop_map(move |(rows, headed, rest)| {
        let mut text = if headed { format!("{head}\n") } else { String::new() };
        for row in rows {
            text += &(row.join(",") + "\n");
        }
        [text.into_bytes(), rest].concat()
    })
}

fn network() -> impl Strategy<Value = Vec<u8>> {
    prop_oneof![
        (0u8..=33, cell())
            .prop_map(|(mask, gateway)| format!("netmask: {mask}\ngateway: {gateway}\n").into_bytes()),
        prop::collection::vec(any::<u8>(), 0..64),
        "\\PC{0,64}".prop_map(String::into_bytes),
    ]
}

proptest! {
    #[test]
    fn any_files_are_a_plan_or_problems_in_their_places(
        hosts in table("name,interface,ip,admin"), k3s in table("host,name,type,ip"), network in network()
    ) {
        let sources = Sources { hosts: &hosts, k3s: &k3s, network: &network };
        match Plan::parse("plan", &sources) {
            Ok(plan) => {
                prop_assert_eq!(plan.profile().machines().len(), plan.nodes.len());
            }
            Err(Error::Invalid(problems)) => {
                prop_assert!(!problems.is_empty());
                for problem in problems {
                    let place = FILES.iter().position(|file| *file == problem.file).expect("one of the files");
                    let lines = [&hosts, &k3s, &network][place].split(|byte| *byte == b'\n').count();
                    prop_assert!((1..=lines).contains(&problem.line), "{}", problem);
                }
            }
            Err(error) => prop_assert!(false, "{}", error),
        }
    }

    /// A plan without mistakes is always a profile that says the same.
    #[test]
    fn a_sound_plan_is_a_profile(
        agents in prop::collection::vec(any::<bool>(), 1..20), third in 0u8..=255, space in "[ \t]{0,3}"
    ) {
        let mut hosts = "Name, IP, interface, admin, extra\n".to_owned();
        let mut k3s = "type, ip, name, host\n".to_owned();
        for (index, agent) in agents.iter().enumerate() {
            let kind = if index == 0 { "init-server" } else if *agent { "Agent" } else { "SERVER" };
            let (own, node) = (index + 2, index + 100);
            hosts += &format!("Host-{index}{space},10.7.{third}.{own},eno{index},{space}ann,x\n");
            k3s += &format!("{kind},{space}10.7.{third}.{node},node-{index},host-{index}{space}\n");
        }
        let network = format!("gateway: 10.7.{third}.1\nnetmask: 255.255.255.0\n");
        let sources = Sources { hosts: hosts.as_bytes(), k3s: k3s.as_bytes(), network: network.as_bytes() };
        let profile = Plan::parse("plan", &sources).expect("a sound plan").profile();
        for index in 0..agents.len() {
            let address = profile.address(&format!("node-{index}"), "cluster").unwrap();
            prop_assert_eq!(address.to_string(), format!("10.7.{}.{}", third, index + 100));
        }
    }
}
