//! The guest's agent: found, or built by cargo when there is a source tree.

use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context as _, bail};

/// A cold build of the agent and its dependencies on two slow cores.
const BUILD_LIMIT: Duration = Duration::from_secs(15 * 60);

/// Copies are digested in the guest. Under TCG, BLAKE3's code for SSE2 is 1.5 times as quick as that for SSE4.1 (100 MB/s and
/// 66, measured by QEMU's user mode), since each of its byte shuffles is a call of QEMU's; under KVM there is AVX2.
const DIGEST: &str = "blake3/no_sse41";

/// Finds the agent: `RACKLESS_AGENT` when set; otherwise cargo builds it, static, which takes moments when it is
/// fresh.
///
/// # Errors
/// When `RACKLESS_AGENT` names no file, or the build fails: cargo's last lines are in the error.
pub(crate) async fn binary() -> anyhow::Result<PathBuf> {
    if let Some(path) = std::env::var_os("RACKLESS_AGENT").map(PathBuf::from) {
        if !path.is_file() {
            bail!("RACKLESS_AGENT is {}: there is no such file", path.display());
        }
        return Ok(path);
    }
    // Known at compile time; a binary that was carried elsewhere finds no source there and says so.
    let workspace = Path::new(env!("CARGO_MANIFEST_DIR")).parent().context("the workspace has a root")?;
    let target = std::env::var_os("CARGO_TARGET_DIR").map_or_else(|| workspace.join("target"), PathBuf::from);
    if !workspace.join("driver/agent/Cargo.toml").is_file() {
        bail!(
            "no agent: name its binary in RACKLESS_AGENT (the source tree that this test was built from is gone)"
        );
    }
    let triple = format!("{}-unknown-linux-{}", std::env::consts::ARCH, libc_name());
    // A folder of its own: another build of the workspace, with other flags, must neither wait nor be thrown away.
    let target = target.join("agent");
    let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let command = process::Command::new(cargo)
        .args([
            "build",
            "--quiet",
            "--locked",
            "--package",
            "agent",
            "--features",
            DIGEST,
            "--profile",
            "agent",
            "--target",
            &triple,
        ])
        .arg("--target-dir")
        .arg(&target)
        .cwd(workspace)
        .env("RUSTFLAGS", "-C target-feature=+crt-static")
        // What cargo sets for the test that calls this must not reach the build.
        .env_remove("CARGO_ENCODED_RUSTFLAGS");
    process::run(command, BUILD_LIMIT).await?.checked().context("building the guest's agent")?;
    Ok(target.join(triple).join("agent/rackless-agent"))
}

/// musl where the toolchain targets it, glibc otherwise; both link statically.
fn libc_name() -> &'static str {
    if cfg!(target_env = "musl") { "musl" } else { "gnu" }
}
