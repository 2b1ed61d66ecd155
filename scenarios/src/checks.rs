//! What more than one suite looks for in a machine.

use anyhow::ensure;
use driver::Machine;
use harness::Testbed;

use crate::cluster::Cluster;
use crate::etcd::Etcd;
use crate::isolation::kept_apart;

/// No unit of systemd's has failed.
///
/// # Errors
/// With those that have, or when the guest can't be asked.
pub async fn no_failed_unit(machine: &Machine) -> anyhow::Result<()> {
    let failed = machine.succeed("systemctl --failed --no-legend --plain").await?;
    ensure!(failed.trim().is_empty(), "{}: failed units: {failed}", machine.name());
    Ok(())
}

/// The guest is called as its machine, and its first NIC gets the address that the machine has on the network `cluster`.
///
/// # Errors
/// When it has another name, or not that address in time.
pub async fn has_name_and_address(machine: &Machine) -> anyhow::Result<()> {
    ensure!(machine.succeed("hostname").await?.trim() == machine.name(), "another hostname");
    has_address(machine).await
}

/// Its first NIC gets the address that the machine has on the network `cluster`.
///
/// # Errors
/// When it has not got it in time.
pub async fn has_address(machine: &Machine) -> anyhow::Result<()> {
    let address = machine.address("cluster")?;
    machine.wait_until_succeeds(format!("ip -o addr show dev eth1 | grep -w {address}")).await?;
    Ok(())
}

/// So many bytes go from one machine to the other by TCP on the network `cluster`, and are the same there by their digest: a
/// connection that carries half of them fails.
///
/// # Errors
/// When they don't arrive, or others do.
pub async fn tcp_arrives_whole(from: &Machine, to: &Machine, bytes: u64) -> anyhow::Result<()> {
    let address = to.address("cluster")?;
    from.succeed(format!("head -c {bytes} /dev/urandom > /tmp/sent")).await?;
    to.succeed("rm -f /tmp/received").await?;
    to.succeed("systemd-run --unit=receive --collect sh -c 'nc -l 7000 > /tmp/received'").await?;
    // Not by connecting: the one connection that it takes is the one under test.
    to.wait_until_succeeds("ss -Hltn sport = :7000 | grep -q LISTEN").await?;
    from.succeed(format!("nc -N {address} 7000 < /tmp/sent")).await?;
    let sent = from.succeed("sha256sum < /tmp/sent").await?;
    to.wait_until_succeeds(format!("test \"$(sha256sum < /tmp/received)\" = '{}'", sent.trim())).await?;
    Ok(())
}

/// A formed cluster on the profile `vlans` replicates on one VLAN, its machines reach each other on the other, and no frame of
/// one is seen on the other.
///
/// # Errors
/// Of the step that fails.
pub async fn replicates_over_vlans(t: &Testbed, c: &Cluster) -> anyhow::Result<()> {
    let etcd = Etcd::of(c, "cluster");
    t.step("all members are healthy", async || etcd.wait_healthy().await).await?;
    t.step("what one member takes, the others have", async || {
        etcd.wait_replicated("server-1", "rackless/forms", "yes", &["server-2", "server-3"]).await
    })
    .await?;
    t.step("the storage VLAN carries traffic between all pairs", async || c.ping_all("storage").await)
        .await?;
    t.step("no frame of one VLAN is seen on the other", async || kept_apart(c, ["cluster", "storage"])).await
}
