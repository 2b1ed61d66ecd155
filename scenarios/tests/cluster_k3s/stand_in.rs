//! A stand-in for K3s on an image that has none: the program, and the units of the two contracts.

use scenarios::prelude::*;

const PROGRAM: &str = include_str!("stand-in.pl");

/// As a package for Debian has it: flags from the environment and from files.
pub(crate) async fn debian(machine: &Machine) -> Result {
    let unit = "[Service]\nEnvironmentFile=-/etc/default/k3s-server\nExecStart=/usr/bin/k3s server $K3S_SERVER_OPTS\n";
    install(machine, "k3s-server", unit).await
}

/// As a NixOS system has it: flags in the unit, the token in a file, its own mark.
pub(crate) async fn nixos(machine: &Machine, c: &Cluster) -> Result {
    let flags = profiles::render::k3s_flags(c.profile(), machine.name())?.join(" ");
    let url = format!("https://{}", c.profile().api_endpoint());
    let exec = format!("/usr/bin/k3s agent --server {url} --token-file /etc/rackless/k3s-token {flags}");
    machine.succeed("touch /etc/NIXOS").await?;
    install(machine, "k3s", &format!("[Service]\nExecStart={exec}\n")).await
}

async fn install(machine: &Machine, unit: &str, text: &str) -> Result {
    machine.succeed("cat > /usr/bin/k3s && chmod 755 /usr/bin/k3s").stdin(PROGRAM).await?;
    machine
        .succeed(format!("cat > /etc/systemd/system/{unit}.service && systemctl daemon-reload"))
        .stdin(text)
        .await?;
    Ok(())
}
