//! Recipes: those that come with us, and wrong ones.

use std::path::Path;

use proptest::prelude::*;

use crate::recipe::{BUILTIN, Initrd, Recipe, Source};

fn wrong(text: &str) -> String {
    Recipe::parse(text, Path::new("own.toml")).unwrap_err().to_string()
}

#[test]
fn those_that_come_with_us_are_sound_and_name_no_mirror() {
    for (name, file, text) in BUILTIN {
        let recipe = Recipe::parse(text, Path::new(file)).unwrap_or_else(|error| panic!("{error}"));
        assert_eq!(recipe.name, name);
        assert!(!text.contains("://"), "{file} names a mirror");
        assert_eq!(Recipe::builtin(name), Some(recipe));
    }
    let server = Recipe::builtin("server").unwrap();
    assert!(matches!(&server.source, Source::Packages(packages) if packages.suite == "trixie"));
    assert_eq!(server.initrd, Initrd::Small);
    assert_eq!(Recipe::builtin("plain").unwrap().initrd, Initrd::Distribution);
    assert_eq!(Recipe::builtin("stranger").unwrap().source, Source::Base("server".into()));
}

#[test]
fn errors_name_file_line_and_key() {
    let base = "name = \"own\"\ndistribution = \"debian\"\nsuite = \"trixie\"\n";
    for (addition, expected) in [
        ("pakages = []\n", "own.toml:4: unknown field `pakages`"),
        ("packages = [\"a\",\n \"b c\"]\n", "own.toml:5: `packages`: \"b c\" is no package's name"),
        ("[disk]\nfree_mib = -1\n", "own.toml:5: "),
        ("[disk]\nesp_mib = 1\n", "own.toml:5: `disk.esp_mib`: 1 MiB is outside 36 to 2048"),
        ("[boot]\ninitrd = \"dracut\"\n", "own.toml:5: unknown variant `dracut`"),
        ("[disk]\nbus = \"scsi\"\n", "own.toml:5: unknown variant `scsi`"),
        (
            "[boot]\ncmdline = [\"root=/dev/vda2\"]\n",
            "own.toml:5: `boot.cmdline`: root= is set by the builder",
        ),
        (
            "[[file]]\npath = \"etc/x\"\ncontent = \"\"\n",
            "own.toml:5: `file.path`: \"etc/x\" is not an absolute path",
        ),
        ("[[file]]\npath = \"/etc/../x\"\ncontent = \"\"\n", "own.toml:5: `file.path`"),
        (
            "[[file]]\npath = \"/x\"\nmode = \"rwx\"\ncontent = \"\"\n",
            "own.toml:6: `file.mode`: \"rwx\" is no mode",
        ),
        ("[[file]]\npath = \"/x\"\n", "own.toml:5: `file`: has nothing in it"),
        ("[[file]]\npath = \"/x\"\nsource = \"x\"\n", "own.toml:6: `file.source`: is given without"),
        (
            "[[file]]\npath = \"/x\"\nsource = \"x\"\nsha256 = \"12\"\n",
            "own.toml:7: `file.sha256`: \"12\" is no SHA-256",
        ),
        ("base = \"server\"\n", "own.toml:2: `distribution`: a derived image"),
    ] {
        let error = wrong(&format!("{base}{addition}"));
        assert!(error.starts_with(expected), "{error}\nexpected: {expected}");
    }
    assert!(wrong("name = \"own\"\n").contains("`distribution`: is missing"));
    assert!(wrong("name = \"Own\"\n").contains("lower-case"));
    let mirror = "name = \"own\"\ndistribution = \"debian\"\nsuite = \"http://x/\"\n";
    assert!(wrong(mirror).contains("RACKLESS_MIRROR"));
    assert!(wrong("name = \"a\"\nbase = \"a\"\n").contains("not another image's name"));
}

proptest! {
    #[test]
    fn no_text_panics(text in "\\PC*") {
        let _ = Recipe::parse(&text, Path::new("own.toml"));
    }

    #[test]
    fn a_changed_recipe_never_panics(at in any::<prop::sample::Index>(), put in "[\\[\\]\"=a-z0-9{}\n]{0,6}") {
        let text = BUILTIN[0].2;
        let at = at.index(text.len());
        if text.is_char_boundary(at) {
            let _ = Recipe::parse(&format!("{}{put}{}", &text[..at], &text[at..]), Path::new("own.toml"));
        }
    }
}
