//! Hosts that can't do what is asked: each is told before any machine starts.

use std::os::unix::fs::PermissionsExt as _;

use harness::Class;
use process::Command;
use scenarios::prelude::*;

use crate::run::{Fixture, no_overlay};

pub(crate) async fn qemu_is_missing(t: &mut Testbed) -> Result {
    let ended = Fixture::of(t, "stays")?.env("RACKLESS_QEMU", "/nonexistent/qemu").run().await?;
    ended.failed(Class::Infra, &["QEMU is missing", "/nonexistent/qemu", "cargo xtask setup"])
}

pub(crate) async fn qemu_is_too_old(t: &mut Testbed) -> Result {
    let old = t.artifacts().join("old-qemu");
    fs_err::write(&old, "#!/bin/sh\necho 'QEMU emulator version 6.2.0 (Debian 1:6.2)'\n")?;
    fs_err::set_permissions(&old, std::fs::Permissions::from_mode(0o755))?;
    let ended = Fixture::of(t, "stays")?.env("RACKLESS_QEMU", &old).run().await?;
    ended.failed(Class::Infra, &["QEMU is too old", "6.2.0", "7.2"])
}

pub(crate) async fn accel_unknown(t: &mut Testbed) -> Result {
    let ended = Fixture::of(t, "stays")?.env("RACKLESS_ACCEL", "warp").run().await?;
    ended.failed(Class::Infra, &["RACKLESS_ACCEL", "warp", "expected `kvm`, `tcg` or `auto`"])
}

pub(crate) async fn image_is_text(t: &mut Testbed) -> Result {
    let text = t.artifacts().join("notes.wic");
    fs_err::write(&text, "buy milk\n".repeat(1000))?;
    let ended = Fixture::of(t, "stays")?.env("RACKLESS_IMAGE_SERVER", &text).run().await?;
    ended.failed(Class::Infra, &["notes.wic"])?;
    no_overlay(&ended.folder)
}

pub(crate) async fn image_is_cut(t: &mut Testbed) -> Result {
    let store = images::Store::open(images::Store::default_root())?;
    let image = tokio::task::spawn_blocking(move || store.image("server")).await??;
    let cut = t.artifacts().join("cut.wic");
    let size = fs_err::metadata(&image.disk)?.len();
    // `cp` keeps the holes.
    let copy = Command::new("cp").arg("--sparse=always").arg(&image.disk).arg(&cut);
    process::run(copy, secs(120)).await?.checked()?;
    fs_err::OpenOptions::new().write(true).open(&cut)?.set_len(size / 2)?;
    let ended =
        Fixture::of(t, "stays")?.args(&["--image", &format!("server={}", cut.display())]).run().await?;
    fs_err::remove_file(&cut)?;
    ended.failed(Class::Infra, &["cut.wic"])?;
    no_overlay(&ended.folder)
}

pub(crate) async fn lab_is_too_big(t: &mut Testbed) -> Result {
    let ended = Fixture::of(t, "stays")?.env("RACKLESS_MEMORY", "512M").run().await?;
    ended.failed(Class::Infra, &["512", "768"])
}

/// The artefacts, the overlay among them, lie on a file system of four megabytes, in a mount namespace of the
/// child's own.
pub(crate) async fn disk_is_full(t: &mut Testbed) -> Result {
    let fixture = Fixture::of(t, "stays")?;
    fs_err::create_dir_all(&fixture.artifacts)?;
    let script = "mount -t tmpfs -o size=4m tmpfs \"$1\" && head -c 4000000 /dev/zero > \"$1/ballast\"; \
                  shift; \"$@\"; status=$?; grep -rhs . \"$0\" --include=result.json; exit $status";
    let command = Command::new("unshare")
        .args(["--user", "--map-root-user", "--mount", "sh", "-c", script])
        .arg(&fixture.artifacts)
        .arg(&fixture.artifacts)
        .arg(std::env::current_exe()?)
        .env(crate::run::FIXTURE, "1")
        .args(["--exact", "stays", "--nocapture", "--artifacts"])
        .arg(&fixture.artifacts);
    let output = process::run(command, secs(300)).await?;
    let said = format!("{}{}", output.stdout_text(), output.stderr_text());
    ensure!(!output.success(), "it passed on a full disk: {said}");
    ensure!(said.contains("No space left on device"), "it does not say that the disk is full: {said}");
    Ok(())
}
