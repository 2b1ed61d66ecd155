//! Drawings of profiles and of a lab, as they come out of the command.

use std::process::{Command, Output};

#[expect(clippy::disallowed_methods, reason = "a command that ends at once and starts nothing")]
fn draw(args: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_rackless")).args(["profile", "draw"]).args(args).output().unwrap()
}

fn drawn(profile: &str) -> String {
    let output = draw(&[profile]);
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap()
}

#[test]
fn the_drawing_of_a_profile_is_the_same_each_time() {
    insta::assert_snapshot!(drawn("bonding-vlans"));
    assert_eq!(drawn("bonding-vlans"), drawn("bonding-vlans"));
}

#[test]
fn every_builtin_is_drawn_with_its_machines_addresses_and_vlans() {
    for name in profiles::names() {
        let profile = profiles::builtin(name).unwrap();
        let svg = drawn(name);
        for machine in profile.machines() {
            assert!(svg.contains(&format!(">{}</text>", machine.name)), "{name}: {}", machine.name);
            for attachment in &machine.attachments {
                let address = format!(">{}", attachment.address);
                assert!(svg.contains(&address), "{name}: {} {address}", machine.name);
            }
            for nic in &machine.nics {
                assert!(svg.contains(&format!(">{}</text>", nic.mac)), "{name}: {}", nic.mac);
            }
        }
        for network in profile.networks() {
            let vlan = profile.switch_vlan(&network.name).unwrap();
            assert!(svg.contains(&format!(">VLAN {vlan}</text>")), "{name}: {vlan}");
        }
        // Only a machine that tags wrongly is red.
        assert_eq!(svg.contains("red: a wrong tag"), name == "vlans-broken", "{name}");
    }
}

#[test]
fn the_drawing_goes_to_a_file_and_what_it_says_is_escaped() {
    let dir = tempfile::tempdir().unwrap();
    let (toml, svg) = (dir.path().join("mine.toml"), dir.path().join("mine.svg"));
    let source = profiles::source("simple").unwrap();
    let described = source.lines().map(|line| match line.starts_with("description") {
        true => "description = '<script>alert(\"a & b\")</script>'",
        false => line,
    });
    std::fs::write(&toml, described.collect::<Vec<_>>().join("\n")).unwrap();
    let output = draw(&[toml.to_str().unwrap(), "-o", svg.to_str().unwrap()]);
    assert!(output.status.success() && output.stdout.is_empty(), "{output:?}");
    let text = std::fs::read_to_string(&svg).unwrap();
    assert!(text.contains("&lt;script&gt;alert(&quot;a &amp; b&quot;)&lt;/script&gt;"), "{text}");
    assert!(!text.contains("<script"), "{text}");

    let output = draw(&["no-such-profile"]);
    assert_eq!(output.status.code(), Some(2));
}
