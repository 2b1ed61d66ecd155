//! The shell script that mmdebstrap runs on the finished root, before it is packed.

use std::fmt::Write as _;

use crate::recipe::Recipe;

/// What no machine may share with another, and what only costs time at boot. `$root` is the root's directory.
const TIDY: &str = r#"
rm -f "$root/etc/hostname" "$root/etc/resolv.conf" "$root"/vmlinuz* "$root"/initrd.img*
rm -f "$root"/etc/ssh/ssh_host_* "$root/var/lib/dbus/machine-id" "$root/var/lib/systemd/random-seed"
rm -rf "$root"/boot/initrd.img-* "$root"/var/log/apt "$root"/var/log/*.log
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
    let own_fstab = recipe.files.iter().any(|file| file.path == "/etc/fstab");
    if !own_fstab {
        put(&mut script, "/etc/fstab", 0o644, fstab);
    }
    for file in &recipe.files {
        put(&mut script, &file.path, file.mode, &file.content);
    }
    script
}

fn put(script: &mut String, path: &str, mode: u32, content: &str) {
    let (directory, _) = path.rsplit_once('/').unwrap_or_default();
    let path = quote(path);
    let _ = writeln!(script, "mkdir -p \"$root\"{}", quote(&format!("{directory}/")));
    let _ = writeln!(script, "printf '%s' {} > \"$root\"{path}", quote(content));
    let _ = writeln!(script, "chmod {mode:04o} \"$root\"{path}");
}

fn quote(text: &str) -> String {
    format!("'{}'", text.replace('\'', r"'\''"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::path::Path;

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
        let command = process::Command::new("/bin/sh")
            .arg("-c")
            .arg(script(&recipe, "PARTUUID=x / ext4 defaults 0 1\n"))
            .arg("sh")
            .arg(dir.path());
        process::run_blocking(command, std::time::Duration::from_secs(20)).unwrap().checked().unwrap();
        let read = |path: &str| std::fs::read_to_string(dir.path().join(path)).unwrap();
        assert_eq!(read("etc/deep/er/odd.conf"), "it's $HOME `id` %s \\n\nend");
        assert_eq!(read("etc/fstab"), "PARTUUID=x / ext4 defaults 0 1\n");
        assert_eq!(read("etc/machine-id"), "");
    }
}
