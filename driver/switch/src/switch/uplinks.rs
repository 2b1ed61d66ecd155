//! Calls about uplinks. What an uplink needs of the system is opened by the thread that asks, in its network namespace.

use std::io::{self, ErrorKind};
use std::os::unix::ffi::OsStrExt;

use nix::errno::Errno;

use super::{LONGEST_PATH, Switch, file_name};
use crate::error::Error;
use crate::io::{Nic, Opened, TapDevice, Tunnel, VdeServer, Worker};
use crate::uplink::{UplinkConfig, UplinkId, UplinkKind, UplinkState, VdeConfig};

const TUN_HINT: &str = "; load the kernel's tun module, or let the container have /dev/net/tun";
const TAP_RIGHT: &str = "; this needs CAP_NET_ADMIN, or a tap of yours: \
    `sudo ip tuntap add mode tap user $USER name NAME && sudo ip link set NAME up`";
const TAP_BUSY: &str = "; another program has this tap open";
const NIC_RIGHT: &str = "; this needs CAP_NET_RAW: run as root, or give the test's binary the capability \
    (`sudo setcap cap_net_raw+ep`)";
const NO_INTERFACE: &str = "; `ip link` lists the interfaces that there are";
const IN_USE: &str =
    "; another uplink or program has it: give each uplink a local port or address of its own";
const NOT_OURS: &str = "; the local address must be one of this host: `ip address` lists them";
const OTHER_SWITCH: &str = "; another switch serves this directory";

impl Switch {
    /// Joins the switch to a network beyond this process's machines. A VXLAN tunnel, a tap or a NIC is one port, which is
    /// up at once; a VDE switch has a port for each client, from when it connects until it leaves.
    ///
    /// Nothing keeps frames from going round in circles: two uplinks must not lead to the same network.
    ///
    /// # Errors
    /// [`Error::DuplicatePort`]; [`Error::SocketPathTooLong`]; [`Error::Uplink`] with what the system said, and what to do
    /// about it.
    pub fn add_uplink(&self, config: UplinkConfig) -> Result<UplinkId, Error> {
        let UplinkConfig { name, mode, kind } = config;
        let failed = |operation: String, source: io::Error, hint: &str| Error::Uplink {
            switch: self.inner.name.to_string(),
            uplink: name.clone(),
            operation,
            source,
            hint: hint.to_owned(),
        };
        let (kind, opened) = match kind {
            UplinkKind::Vde(VdeConfig { dir, numbered }) => {
                if numbered.contains_key(&0) {
                    let wrong =
                        io::Error::new(ErrorKind::InvalidInput, "its ports have the numbers 1 to 255");
                    return Err(failed("have a port 0".to_owned(), wrong, ""));
                }
                let dir = dir.unwrap_or_else(|| self.inner.dir.join(format!("{}.vde", file_name(&name))));
                let path = VdeServer::longest_path(&dir);
                let length = path.as_os_str().as_bytes().len();
                if length > LONGEST_PATH {
                    let switch = self.inner.name.to_string();
                    return Err(Error::SocketPathTooLong { switch, port: name, path, length });
                }
                let server = VdeServer::open(&dir, numbered.clone()).map_err(|(operation, source)| {
                    let in_use = source.kind() == ErrorKind::AddrInUse;
                    failed(operation, source, if in_use { OTHER_SWITCH } else { "" })
                })?;
                (UplinkKind::Vde(VdeConfig { dir: Some(dir), numbered }), Opened::Vde(Box::new(server)))
            }
            UplinkKind::Vxlan { local, peer, vni } => {
                let tried = || format!("take VXLAN on {local} for {peer}");
                if local.is_ipv4() != peer.is_ipv4() || peer.port() == 0 {
                    let wrong = "both addresses must be IPv4 or both IPv6, and the peer's needs a port";
                    return Err(failed(tried(), io::Error::new(ErrorKind::InvalidInput, wrong), ""));
                }
                let hint = |source: &io::Error| match source.kind() {
                    ErrorKind::AddrInUse => IN_USE,
                    ErrorKind::AddrNotAvailable => NOT_OURS,
                    _ => "",
                };
                let opened = Tunnel::open(local, peer, vni).and_then(|tunnel| Ok((tunnel.local()?, tunnel)));
                let (local, tunnel) = opened.map_err(|source| {
                    let hint = hint(&source);
                    failed(tried(), source, hint)
                })?;
                (UplinkKind::Vxlan { local, peer, vni }, Opened::Port(Box::new(tunnel)))
            }
            UplinkKind::Tap { interface } => {
                let tap = TapDevice::open(&interface).map_err(|(operation, source)| {
                    let hint = match errno(&source) {
                        Errno::ENOENT | Errno::ENODEV | Errno::ENXIO => TUN_HINT,
                        Errno::EPERM | Errno::EACCES => TAP_RIGHT,
                        Errno::EBUSY => TAP_BUSY,
                        _ => "",
                    };
                    failed(operation, source, hint)
                })?;
                (UplinkKind::Tap { interface: tap.interface.clone() }, Opened::Port(Box::new(tap)))
            }
            UplinkKind::Nic { interface } => {
                let nic = Nic::open(&interface).map_err(|source| {
                    let hint = match errno(&source) {
                        Errno::ENODEV | Errno::ENXIO => NO_INTERFACE,
                        Errno::EPERM | Errno::EACCES => NIC_RIGHT,
                        _ => "",
                    };
                    failed(format!("open the interface {interface}"), source, hint)
                })?;
                (UplinkKind::Nic { interface }, Opened::Port(Box::new(nic)))
            }
        };
        let config = UplinkConfig { name, mode, kind };
        self.call("add an uplink", move |worker| worker.add_uplink(config, opened))?
    }

    /// Removes an uplink and its ports. The clients of a VDE switch see their connections end; a tap that it made is gone.
    ///
    /// # Errors
    /// [`Error::UnknownUplink`].
    pub fn remove_uplink(&self, id: UplinkId) -> Result<(), Error> {
        self.call("remove an uplink", move |worker| worker.remove_uplink(id))?
    }

    /// The uplinks, in the order in which they were added.
    ///
    /// # Errors
    /// Only those of every call: see [`Switch::ports`].
    pub fn uplinks(&self) -> Result<Vec<UplinkState>, Error> {
        self.call("list the uplinks", Worker::uplinks)
    }

    /// One uplink.
    ///
    /// # Errors
    /// [`Error::UnknownUplink`].
    pub fn uplink(&self, id: UplinkId) -> Result<UplinkState, Error> {
        self.call("read an uplink's state", move |worker| worker.uplink(id))?
    }
}

fn errno(error: &io::Error) -> Errno {
    Errno::from_raw(error.raw_os_error().unwrap_or_default())
}
