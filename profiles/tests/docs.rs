//! The reference in docs/profiles.md says what the code does.

use profiles::Profile;

const DOCS: &str = include_str!("../../docs/profiles.md");

fn block(kind: &str) -> &'static str {
    DOCS.split(&format!("```{kind}\n")).nth(1).unwrap().split("```").next().unwrap()
}

#[test]
fn the_whole_file_is_valid() {
    Profile::parse(block("toml"), "docs/profiles.md").unwrap_or_else(|error| panic!("{error}"));
}

#[test]
fn the_mistakes_look_as_shown() {
    let text = block("toml").replace("vlan = 200", "vlan = 5000").replace("192.168.200.3", "192.168.200.1");
    let error = Profile::parse(&text, "rack.toml").unwrap_err();
    assert_eq!(error.to_string(), block("text").trim_end());
}
