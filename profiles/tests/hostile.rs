//! No text makes the loader panic, and what it accepts can be rendered.

use profiles::{Error, Profile, render};
use proptest::prelude::*;

/// Loads, and renders everything that could be loaded.
fn exercise(text: &str) {
    match Profile::parse(text, "hostile.toml") {
        Ok(profile) => {
            render::hosts(&profile);
            render::switch_ports(&profile);
            render::dhcp_scopes(&profile);
            let _ = profile.api_endpoint();
            for machine in profile.machines() {
                render::networkd(&profile, &machine.name).unwrap();
                render::k3s_flags(&profile, &machine.name).unwrap();
            }
        }
        Err(Error::Invalid { problems, .. }) => {
            assert!(!problems.is_empty(), "refused without a reason:\n{text}");
            let lines = text.lines().count().max(1) + 1;
            assert!(problems.iter().all(|p| (1..=lines).contains(&p.line)), "{problems:?}\n{text}");
            assert!(problems.iter().all(|p| !p.to_string().is_empty()));
        }
        Err(other) => panic!("not a problem of the text: {other}"),
    }
}

fn valid() -> impl Strategy<Value = &'static str> {
    prop::sample::select(profiles::names().map(|name| profiles::source(name).unwrap()).collect::<Vec<_>>())
}

/// Values that stand for others well enough to reach the checks behind the types.
const VALUES: &[&str] = &[
    "\"\"",
    "0",
    "-1",
    "4095",
    "200",
    "100",
    "[]",
    "{}",
    "true",
    "1.5",
    "1979-05-27",
    "\"eth1\"",
    "\"eth2\"",
    "[\"eth1\"]",
    "[\"eth1\", \"eth1\"]",
    "\"bond0\"",
    "\"192.168.200.1\"",
    "\"192.168.200.0/24\"",
    "\"0.0.0.0/0\"",
    "\"::/0\"",
    "\"::1\"",
    "\"fd00::/127\"",
    "\"192.168.1.0/31\"",
    "\"server\"",
    "\"agent\"",
    "\"agent-1\"",
    "\"active-backup\"",
    "\"balance-rr\"",
    "{ cluster = 100 }",
    "{ cluster = \"192.168.1.1\" }",
    "{ eth1 = \"02:00:00:00:00:01\" }",
    "{ server = \"192.168.1.1\" }",
    "9223372036854775807",
    "0xffff",
];

proptest! {
    #[test]
    fn any_text(text in any::<String>()) {
        exercise(&text);
    }

    #[test]
    fn any_bytes_from_a_file(bytes in prop::collection::vec(any::<u8>(), 0..300)) {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("x.toml");
        std::fs::write(&path, &bytes).unwrap();
        let _ = Profile::load(&path);
    }

    #[test]
    fn a_profile_with_bytes_changed(text in valid(), at in any::<prop::sample::Index>(), with in "\\PC{0,4}|[\\n\"=\\[\\]{}.#]") {
        let mut chars: Vec<char> = text.chars().collect();
        let at = at.index(chars.len());
        chars.splice(at..at + 1, with.chars());
        exercise(&chars.into_iter().collect::<String>());
    }

    #[test]
    fn a_profile_with_values_exchanged(
        text in valid(),
        changes in prop::collection::vec((any::<prop::sample::Index>(), prop::sample::select(VALUES)), 1..4),
    ) {
        let mut lines: Vec<String> = text.lines().map(str::to_owned).collect();
        for (at, value) in changes {
            let settings: Vec<usize> = (0..lines.len()).filter(|&i| lines[i].contains(" = ")).collect();
            let line = &mut lines[settings[at.index(settings.len())]];
            let (key, _) = line.split_once(" = ").unwrap();
            *line = format!("{key} = {value}");
        }
        exercise(&lines.join("\n"));
    }

    #[test]
    fn a_profile_with_lines_cut_and_doubled(text in valid(), cut in any::<prop::sample::Index>(), doubled in any::<prop::sample::Index>()) {
        let mut lines: Vec<&str> = text.lines().collect();
        let doubled = doubled.index(lines.len());
        lines.insert(doubled, lines[doubled]);
        lines.remove(cut.index(lines.len()));
        exercise(&lines.join("\n"));
    }

    #[test]
    fn any_vlan_id(id in any::<u16>(), machine in "server-[1-4]", network in "cluster|storage|other") {
        if let Ok(profile) = profiles::vlans().with_vlan_id(&machine, &network, id) {
            prop_assert_eq!(profile.attachment(&machine, &network).unwrap().vlan, Some(id));
            let expected = format!("eth1.{id}");
            prop_assert_eq!(profile.interface(&machine, &network).unwrap(), expected);
        }
    }
}
