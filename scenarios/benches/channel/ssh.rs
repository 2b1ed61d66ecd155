//! ssh over the switch: one connection that is kept, through a forward to the guest's address.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use driver::guest::Exec;
use process::{Command, Stdio};
use scenarios::prelude::*;
use services::{Forward, Host, HostOptions};
use switch::VlanId;

const LIMIT: Duration = secs(300);

pub(crate) struct Ssh {
    key: PathBuf,
    control: PathBuf,
    port: u16,
    _forward: Forward,
    _host: Host,
    _directory: tempfile::TempDir,
}

impl Ssh {
    pub(crate) async fn open(lab: &Lab) -> Result<Self> {
        let directory = tempfile::tempdir()?;
        let key = directory.path().join("key");
        let make = Command::new("ssh-keygen").args(["-q", "-t", "ed25519", "-N", "", "-f"]).arg(&key);
        process::run(make, LIMIT).await?.checked()?;
        let public = fs_err::read(key.with_extension("pub"))?;
        let machine = &lab["server-1"];
        let guest = machine.guest().await?;
        guest.write_file("/root/.ssh/authorized_keys", &public, 0o600, LIMIT).await?;
        let start = guest.run(Exec::shell("ssh-keygen -A && systemctl restart ssh.service"), LIMIT).await?;
        ensure!(start.status.success(), "{}", String::from_utf8_lossy(&start.stderr));
        guest.wait_for_port("127.0.0.1", 22, LIMIT).await?;
        let vlan = VlanId::new(profiles::simple().switch_vlan("cluster")?)?;
        let host = Host::start(lab.switch(), HostOptions::new("ssh", vlan, "192.168.1.200/24".parse()?))?;
        let forward = host.forward_to(SocketAddr::new(machine.address("cluster")?, 22))?;
        let (control, port) = (directory.path().join("control"), forward.address().port());
        let ssh = Self { key, control, port, _forward: forward, _host: host, _directory: directory };
        let master = ssh.command().args(["-M", "-N", "-f", "-o", "ControlPersist=yes", "root@127.0.0.1"]);
        process::run(master, LIMIT).await?.checked()?;
        Ok(ssh)
    }

    fn command(&self) -> Command {
        Command::new("ssh")
            .args(["-F", "none", "-o", "BatchMode=yes", "-o", "StrictHostKeyChecking=no"])
            .args(["-o", "UserKnownHostsFile=/dev/null", "-o", "LogLevel=ERROR"])
            .arg("-i")
            .arg(&self.key)
            .arg("-S")
            .arg(&self.control)
            .arg("-p")
            .arg(self.port.to_string())
    }

    pub(crate) async fn run(&self, command: &str) -> Result {
        process::run(self.command().args(["root@127.0.0.1", command]), LIMIT).await?.checked()?;
        Ok(())
    }

    pub(crate) async fn copy_to(&self, from: &Path, to: &str) -> Result {
        let file = fs_err::File::open(from)?.into_parts().0;
        let copy = self.command().args(["root@127.0.0.1", &format!("cat > {to}")]).stdin(Stdio::File(file));
        process::run(copy, LIMIT).await?.checked()?;
        Ok(())
    }

    pub(crate) async fn copy_from(&self, from: &str, to: &Path) -> Result {
        let file = fs_err::File::create(to)?.into_parts().0;
        let copy = self.command().args(["root@127.0.0.1", &format!("cat {from}")]).stdout(Stdio::File(file));
        let child = process::spawn(copy)?;
        let status = child.wait().await;
        ensure!(status.success(), "ssh, copying {from}: {status}");
        Ok(())
    }
}

impl Drop for Ssh {
    fn drop(&mut self) {
        let exit = self.command().args(["-O", "exit", "root@127.0.0.1"]);
        // The master goes when its machine does, at the latest.
        let _ = process::run_blocking(exit, secs(10));
    }
}
