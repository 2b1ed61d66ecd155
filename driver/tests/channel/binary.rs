//! The agent's binary.

use std::path::{Path, PathBuf};
use std::sync::OnceLock;
use std::time::Duration;

/// The agent: `RACKLESS_AGENT`, or built once for all tests of this binary.
pub(crate) fn agent() -> &'static Path {
    static AGENT: OnceLock<PathBuf> = OnceLock::new();
    AGENT.get_or_init(|| {
        if let Some(given) = std::env::var_os("RACKLESS_AGENT") {
            return given.into();
        }
        let manifest = Path::new(env!("CARGO_MANIFEST_DIR"));
        let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
        let build = process::Command::new(cargo)
            .args(["build", "--quiet", "--message-format=json", "--manifest-path"])
            .arg(manifest.join("agent/Cargo.toml"));
        let built = process::run_blocking(build, Duration::from_secs(600)).and_then(process::Output::checked);
        let built = built.expect("the agent builds");
        let text = built.stdout_text();
        let executable = text.lines().filter_map(|line| line.split("\"executable\":\"").nth(1)).next_back();
        executable.and_then(|rest| rest.split('"').next()).expect("cargo names the binary").into()
    })
}
