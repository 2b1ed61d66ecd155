//! The shell script that mmdebstrap runs on the finished root, before it is packed.

use std::fmt::Write as _;

use crate::recipe::{FileContent, Initrd, Recipe};

/// What no machine may share with another, and what only costs time at boot. `$root` is the root's directory.
const TIDY: &str = r#"
rm -f "$root/etc/hostname" "$root/etc/resolv.conf" "$root"/vmlinuz* "$root"/initrd.img*
rm -f "$root"/etc/ssh/ssh_host_* "$root/var/lib/dbus/machine-id" "$root/var/lib/systemd/random-seed"
rm -rf "$root"/var/log/apt "$root"/var/log/*.log
# Empty, not missing: systemd makes one at boot and does not take it for the first boot ever.
: > "$root/etc/machine-id"
printf '127.0.0.1 localhost\n::1 localhost ip6-localhost\n' > "$root/etc/hosts"
# Says that /etc and /var are as new as /usr. Otherwise the first boot of every overlay runs ldconfig, sysusers and
# the journal's catalogue again.
for directory in etc var; do
    printf 'TIMESTAMP_NSEC=%s000000000\n' "$(date +%s)" > "$root/$directory/.updated"
    touch "$root/$directory/.updated"
done
"#;

/// Writes the script for a recipe; `fstab` is used unless the recipe has its own.
pub(crate) fn script(recipe: &Recipe, fstab: &str) -> String {
    let mut script = String::from("set -eu\nroot=\"$1\"\n");
    for (verb, units) in [
        ("enable", &recipe.services.enable),
        ("disable", &recipe.services.disable),
        ("mask", &recipe.services.mask),
    ] {
        if !units.is_empty() {
            let units: Vec<String> = units.iter().map(|unit| quote(unit)).collect();
            let _ = writeln!(script, "chroot \"$root\" systemctl {verb} -- {}", units.join(" "));
        }
    }
    if let Some(login) = &recipe.login {
        let user = quote(&login.user);
        let _ = writeln!(
            script,
            "chroot \"$root\" id {user} >/dev/null 2>&1 || chroot \"$root\" useradd -m -s /bin/bash {user}"
        );
        if login.password.is_empty() {
            let _ = writeln!(script, "chroot \"$root\" passwd -d {user}");
        } else {
            let pair = quote(&format!("{}:{}", login.user, login.password));
            let _ = writeln!(script, "printf '%s\\n' {pair} | chroot \"$root\" chpasswd");
        }
    }
    script.push_str(TIDY);
    if recipe.initrd == Initrd::Small {
        script.push_str("rm -f \"$root\"/boot/initrd.img-*\n");
    }
    let own_fstab = recipe.files.iter().any(|file| file.path == "/etc/fstab");
    if !own_fstab {
        put(&mut script, "/etc/fstab", 0o644, &FileContent::Text(fstab.to_owned()));
    }
    for file in &recipe.files {
        put(&mut script, &file.path, file.mode, &file.content);
    }
    script
}

fn put(script: &mut String, path: &str, mode: u32, content: &FileContent) {
    let (directory, _) = path.rsplit_once('/').unwrap_or_default();
    let path = quote(path);
    let _ = writeln!(script, "mkdir -p \"$root\"{}", quote(&format!("{directory}/")));
    let _ = match content {
        FileContent::Text(text) => writeln!(script, "printf '%s' {} > \"$root\"{path}", quote(text)),
        // What is copied is compared as well: it may have changed since the build began.
        FileContent::File { path: from, sha256 } => writeln!(
            script,
            "cp -- {} \"$root\"{path}\nprintf '%s  %s\\n' {sha256} \"$root\"{path} | sha256sum --check --status",
            quote(&from.display().to_string())
        ),
    };
    let _ = writeln!(script, "chmod {mode:04o} \"$root\"{path}");
}

fn quote(text: &str) -> String {
    format!("'{}'", text.replace('\'', r"'\''"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::path::Path;

    /// Runs a recipe's script on the root in a directory.
    fn run(recipe: &Recipe, fstab: &str, root: &Path) -> process::Output {
        let command =
            process::Command::new("/bin/sh").arg("-c").arg(script(recipe, fstab)).arg("sh").arg(root);
        process::run_blocking(command, std::time::Duration::from_secs(20)).unwrap()
    }

    #[test]
    fn files_land_with_their_content_whatever_is_in_it() {
        let dir = tempfile::tempdir().unwrap();
        let text = r#"
            name = "odd"
            distribution = "debian"
            suite = "trixie"
            [[file]]
            path = "/etc/deep/er/odd.conf"
            mode = "0600"
            content = "it's $HOME `id` %s \\n\nend"
        "#;
        let recipe = Recipe::parse(text, Path::new("odd.toml")).unwrap();
        std::fs::create_dir_all(dir.path().join("etc")).unwrap();
        std::fs::create_dir_all(dir.path().join("var")).unwrap();
        run(&recipe, "PARTUUID=x / ext4 defaults 0 1\n", dir.path()).checked().unwrap();
        let read = |path: &str| std::fs::read_to_string(dir.path().join(path)).unwrap();
        assert_eq!(read("etc/deep/er/odd.conf"), "it's $HOME `id` %s \\n\nend");
        assert_eq!(read("etc/fstab"), "PARTUUID=x / ext4 defaults 0 1\n");
        assert_eq!(read("etc/machine-id"), "");
    }

    #[test]
    fn the_distribution_s_initrd_stays_where_it_is_wanted() {
        for (wanted, stays) in [("small", false), ("distribution", true)] {
            let dir = tempfile::tempdir().unwrap();
            for made in ["boot", "etc", "var"] {
                std::fs::create_dir_all(dir.path().join(made)).unwrap();
            }
            let initrd = dir.path().join("boot/initrd.img-6.12");
            std::fs::write(&initrd, "").unwrap();
            let text = format!(
                "name = \"odd\"\ndistribution = \"debian\"\nsuite = \"trixie\"\n[boot]\ninitrd = \"{wanted}\"\n"
            );
            let recipe = Recipe::parse(&text, Path::new("odd.toml")).unwrap();
            run(&recipe, "", dir.path()).checked().unwrap();
            assert_eq!(initrd.exists(), stays, "{wanted}");
        }
    }

    #[test]
    fn a_file_of_the_host_lands_if_it_is_the_one_that_is_meant() {
        let dir = tempfile::tempdir().unwrap();
        let root = dir.path().join("root");
        for made in ["etc", "var"] {
            std::fs::create_dir_all(root.join(made)).unwrap();
        }
        std::fs::write(dir.path().join("it's"), "a program\n").unwrap();
        let sha256 = "5d43e4b8c3f8dd1bd2a5bd7cc6b9f2d4a8a0ee9bd42bd3ba0d3a4f4f3ba9a7a1";
        let text = format!(
            "name = \"odd\"\ndistribution = \"debian\"\nsuite = \"trixie\"\n\
             [[file]]\npath = \"/usr/bin/k3s\"\nmode = \"0755\"\nsource = \"it's\"\nsha256 = \"{sha256}\"\n"
        );
        let land = |text: &str| {
            let recipe = Recipe::parse(text, &dir.path().join("odd.toml")).unwrap();
            (run(&recipe, "", &root), recipe.files[0].bytes())
        };
        let (refused, bytes) = land(&text);
        assert!(!refused.success());
        let error = bytes.unwrap_err().to_string();
        assert!(error.contains("another file than the recipe means") && error.contains(sha256), "{error}");
        let found = error.split("its SHA-256 is ").nth(1).unwrap()[..64].to_owned();
        let (done, bytes) = land(&text.replace(sha256, &found));
        done.checked().unwrap();
        assert_eq!(bytes.unwrap(), b"a program\n");
        let landed = root.join("usr/bin/k3s");
        assert_eq!(std::fs::read(&landed).unwrap(), b"a program\n");
        let mode = std::os::unix::fs::PermissionsExt::mode(&landed.metadata().unwrap().permissions());
        assert_eq!(mode & 0o777, 0o755);
    }
}
