//! `rackless checkpoint` as a user meets it: output, errors, exit codes.

use std::fs;
use std::path::Path;
use std::process::{Command, Output};

use cache::sparse;
use pretty_assertions::assert_eq;
use serde_json::{Value, json};

#[expect(clippy::disallowed_methods, reason = "a command that ends at once and starts nothing")]
fn rackless(cache: &Path, limit: &str, args: &[&str]) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_rackless"));
    command.env("RACKLESS_CACHE", cache).env("RACKLESS_CHECKPOINTS_GIB", limit);
    command.arg("checkpoint").args(args).output().unwrap()
}

/// Exit code, stdout and stderr.
fn run(cache: &Path, args: &[&str]) -> (Option<i32>, String, String) {
    let output = rackless(cache, "", args);
    let text = |bytes| String::from_utf8(bytes).unwrap();
    (output.status.code(), text(output.stdout), text(output.stderr))
}

/// Puts a checkpoint of one machine into the cache.
fn put(cache: &Path, key: &str) {
    let entry = cache.join("checkpoints/entries").join(key);
    fs::create_dir_all(&entry).unwrap();
    let file = |name: &str| {
        let path = entry.join(name);
        fs::write(&path, vec![7; 20_000]).unwrap();
        json!({ "name": name, "bytes": 20_000, "blake3": sparse::digest(&path).unwrap() })
    };
    let machine = json!({
        "name": "server-1", "named_memory": true, "vars": null, "data": [], "nics": [], "paused": false,
        "state": file("server-1.state"), "ram": file("server-1.ram"), "disk": file("server-1.qcow2"),
    });
    let manifest = json!({
        "version": 2, "lab": "vlans", "about": "formed 1", "saved_at": 0, "machines": [machine], "fdb": [],
    });
    fs::write(entry.join("manifest.json"), manifest.to_string()).unwrap();
    let digest = sparse::digest(&entry.join("manifest.json")).unwrap();
    fs::write(entry.join("manifest.b3sum"), format!("{digest}  manifest.json\n")).unwrap();
}

#[test]
fn an_empty_cache_says_so() {
    let cache = tempfile::tempdir().unwrap();
    assert_eq!(run(cache.path(), &["list"]), (Some(0), "no checkpoints\n".into(), String::new()));
    assert_eq!(run(cache.path(), &["list", "--json"]).1, "[]\n");
}

#[test]
fn what_is_there_is_listed_and_shown() {
    let cache = tempfile::tempdir().unwrap();
    put(cache.path(), "286d51bde53ade2e");
    let listed = run(cache.path(), &["list"]).1;
    let line = listed.lines().nth(1).unwrap();
    assert!(
        line.starts_with("286d51bde53a ")
            && line.contains(" vlans ")
            && line.ends_with("formed 1     server-1"),
        "{listed}"
    );
    let json: Value = serde_json::from_str(&run(cache.path(), &["list", "--json"]).1).unwrap();
    assert_eq!((&json[0]["key"], &json[0]["machines"]), (&json!("286d51bde53ade2e"), &json!(["server-1"])));
    let (code, shown, _) = run(cache.path(), &["info", "286d"]);
    assert_eq!(code, Some(0));
    assert!(
        shown.contains("\n    20 KiB  server-1.ram\n") && shown.ends_with("  every file has its digest\n"),
        "{shown}"
    );
}

#[test]
fn damage_is_found_named_and_fails() {
    let cache = tempfile::tempdir().unwrap();
    put(cache.path(), "286d");
    fs::write(cache.path().join("checkpoints/entries/286d/server-1.ram"), vec![8; 20_000]).unwrap();
    let (code, shown, told) = run(cache.path(), &["info", "2"]);
    assert_eq!(code, Some(1));
    assert!(
        told.contains("is damaged: server-1.ram has the digest ") && !shown.contains("has its digest"),
        "{told}"
    );
    let json: Value = serde_json::from_str(&run(cache.path(), &["info", "2", "--json"]).1).unwrap();
    assert!(json["damage"].as_str().unwrap().contains("server-1.ram"));
}

#[test]
fn a_key_must_mean_one_checkpoint() {
    let cache = tempfile::tempdir().unwrap();
    put(cache.path(), "28aa");
    put(cache.path(), "28bb");
    let (code, _, told) = run(cache.path(), &["info", "99"]);
    assert_eq!(
        (code, told.trim()),
        (Some(2), "rackless: no checkpoint's key begins with \"99\": see `rackless checkpoint list`")
    );
    let (code, _, told) = run(cache.path(), &["rm", "28"]);
    assert_eq!((code, told.trim()), (Some(2), "rackless: the keys of several checkpoints begin with \"28\""));
    assert_eq!(run(cache.path(), &["rm"]).0, Some(2), "neither a key nor --all");
}

#[test]
fn what_is_removed_is_gone() {
    let cache = tempfile::tempdir().unwrap();
    for key in ["aa", "bb", "cc"] {
        put(cache.path(), key);
    }
    assert_eq!(run(cache.path(), &["rm", "aa"]).0, Some(0));
    assert_eq!(run(cache.path(), &["list"]).1.lines().count(), 3);
    assert_eq!(run(cache.path(), &["rm", "--all"]).0, Some(0));
    assert_eq!(run(cache.path(), &["list"]).1, "no checkpoints\n");
}

#[test]
fn a_limit_that_makes_no_sense_is_bad_input() {
    let cache = tempfile::tempdir().unwrap();
    let output = rackless(cache.path(), "lots", &["list"]);
    assert_eq!(output.status.code(), Some(2));
    assert!(String::from_utf8(output.stderr).unwrap().contains("RACKLESS_CHECKPOINTS_GIB is \"lots\""));
}
