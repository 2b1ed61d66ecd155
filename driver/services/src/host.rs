//! One host on a port of a switch.

use std::any::Any;
use std::fmt;
use std::net::{Ipv4Addr, Shutdown, SocketAddr};
use std::os::unix::net::UnixStream;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::thread::{self, JoinHandle};
use std::time::Instant;

use ipnet::Ipv4Net;
use switch::{Mac, PortConfig, PortId, PortMode, Switch, VlanId};

use crate::dhcp::{self, DhcpEngine, DhcpScope, DhcpServer};
use crate::dns::{DNS, DnsServer, Zone};
use crate::error::Error;
use crate::forward::Forward;
use crate::http::{HttpFiles, HttpServer};
use crate::ra::{RaEngine, RaScope, RouterAdvertiser};
use crate::shared::Shared;
use crate::tcp::{self, TcpListener, TcpStream};
use crate::worker::Worker;

/// How a host is to be.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HostOptions {
    /// Its name, and that of its port: unique in the switch.
    pub name: String,
    /// The VLAN that it is in. Its frames are untagged on its own port, whatever they are on others.
    pub vlan: VlanId,
    /// Its MAC address. Unless said otherwise, a locally administered one made of its IPv4 address.
    pub mac: Mac,
    /// Its address, and the length of its subnet's prefix. It has no router: who is to reach it must be in its subnet.
    pub address: Ipv4Net,
    /// The longest packet that it sends, in bytes. 1500 unless said otherwise.
    pub mtu: u16,
}

impl HostOptions {
    /// The usual values.
    pub fn new(name: impl Into<String>, vlan: VlanId, address: Ipv4Net) -> HostOptions {
        let [a, b, c, d] = address.addr().octets();
        HostOptions { name: name.into(), vlan, mac: Mac([0x02, 0x5e, a, b, c, d]), address, mtu: 1500 }
    }
}

/// A host on an access port of a switch, on a thread of its own. It answers ARP and ICMP echo, and serves what it is told
/// to. When it is dropped or told to stop, its thread ends and its port goes.
pub struct Host {
    switch: Switch,
    port: PortId,
    options: HostOptions,
    shared: Shared,
    socket: UnixStream,
    thread: Option<JoinHandle<()>>,
}

impl fmt::Debug for Host {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Host")
            .field("options", &self.options)
            .field("port", &self.port)
            .finish_non_exhaustive()
    }
}

impl Host {
    /// Adds a port to a switch and starts a host on it.
    ///
    /// # Errors
    /// [`Error::Address`]; [`Error::Switch`] if there is a port of that name; [`Error::Start`].
    pub fn start(switch: &Switch, options: HostOptions) -> Result<Host, Error> {
        let HostOptions { name, address, .. } = &options;
        let own = [address.network(), address.broadcast()];
        let unusable = address.addr().is_unspecified() || address.addr().is_multicast();
        if address.prefix_len() > 30 || unusable || own.contains(&address.addr()) {
            return Err(Error::Address { host: name.clone(), address: *address });
        }
        let from_switch = |operation| {
            let host = name.clone();
            move |source| Error::Switch { host, operation, source }
        };
        let from_system = |source| Error::Start { host: name.clone(), source };
        let config = PortConfig::new(name.clone(), PortMode::Access { vlan: options.vlan });
        let port = switch.add_port(config).map_err(from_switch("add its port"))?;
        let started =
            switch.attach_channel(port).map_err(from_switch("attach to its port")).and_then(|channel| {
                let socket = channel.into_socket();
                let ours = socket.try_clone().map_err(from_system)?;
                let shared = Shared::new(&options).map_err(from_system)?;
                let worker = Worker::new(shared.clone(), &options, socket);
                let run = {
                    let shared = shared.clone();
                    move || {
                        let evidence = match catch_unwind(AssertUnwindSafe(|| worker.run())) {
                            Ok(Ok(())) => "the switch closed its port".to_owned(),
                            Ok(Err(error)) => format!("its socket: {error}"),
                            Err(panic) => format!("its thread panicked: {}", panic_message(&*panic)),
                        };
                        shared.ended(evidence);
                    }
                };
                let thread =
                    thread::Builder::new().name(format!("host {name}")).spawn(run).map_err(from_system)?;
                Ok((shared, ours, thread))
            });
        match started {
            Ok((shared, socket, thread)) => {
                Ok(Host { switch: switch.clone(), port, options, shared, socket, thread: Some(thread) })
            }
            Err(error) => {
                let _ = switch.remove_port(port);
                Err(error)
            }
        }
    }

    /// Its name.
    pub fn name(&self) -> &str {
        &self.options.name
    }

    /// Its port on the switch.
    pub fn port(&self) -> PortId {
        self.port
    }

    /// Its MAC address.
    pub fn mac(&self) -> Mac {
        self.options.mac
    }

    /// Its IPv4 address.
    pub fn address(&self) -> Ipv4Addr {
        self.options.address.addr()
    }

    /// Serves DHCP from now on, in place of what it served of it before.
    ///
    /// # Errors
    /// Those of [`DhcpEngine::new`]; [`Error::NotRunning`].
    pub fn serve_dhcp(&self, scope: DhcpScope) -> Result<DhcpServer, Error> {
        self.shared.set_dhcp(DhcpEngine::new(self.options.address, scope)?)?;
        let described = self.shared.clone();
        self.switch.describe_service(self.port, "dhcp", move || dhcp::report(&described).ok());
        Ok(DhcpServer { shared: self.shared.clone(), switch: self.switch.clone(), port: self.port })
    }

    /// Serves DNS from now on, in place of what it served of it before. The zone becomes the authority for the addresses
    /// of the host's subnet.
    ///
    /// # Errors
    /// [`Error::NotRunning`].
    pub fn serve_dns(&self, mut zone: Zone) -> Result<DnsServer, Error> {
        zone.set_subnet(self.options.address);
        self.shared.set_zone(zone)?;
        Ok(DnsServer { shared: self.shared.clone() })
    }

    /// Advertises itself as an IPv6 router from now on, in place of what it advertised before, so that machines make
    /// addresses of their own. The host gets an IPv6 address for the link and one in each prefix, and is reached at them
    /// as at its IPv4 address.
    ///
    /// # Errors
    /// [`Error::Prefix`], [`Error::Advertised`], [`Error::NotRunning`].
    pub fn serve_ra(&self, scope: RaScope) -> Result<RouterAdvertiser, Error> {
        let engine = RaEngine::new(self.options.mac, scope, Instant::now())?;
        let addresses = engine.addresses();
        self.shared.check("advertise")?;
        self.shared.stack().set_ipv6(&addresses);
        self.shared.set_ra(Some(engine))?;
        Ok(RouterAdvertiser { shared: self.shared.clone(), addresses })
    }

    /// Opens a TCP port; 0 takes a free one. It closes when the listener is dropped.
    ///
    /// # Errors
    /// [`Error::PortTaken`], [`Error::NotRunning`].
    pub fn tcp_listen(&self, port: u16) -> Result<TcpListener, Error> {
        self.shared.check("listen")?;
        if port == DNS && self.shared.has_zone() {
            return Err(Error::PortTaken { host: self.options.name.clone(), port, by: "its DNS server" });
        }
        let (id, port) = self.shared.stack().listen(port)?;
        let address = SocketAddr::new(self.address().into(), port);
        Ok(TcpListener::new(self.shared.clone(), id, address))
    }

    /// Connects to a TCP port of another host or machine in the same subnet, within 10 s.
    ///
    /// # Errors
    /// [`Error::Unreachable`], [`Error::Refused`], [`Error::NoAnswer`], [`Error::NotRunning`].
    pub async fn tcp_connect(&self, peer: SocketAddr) -> Result<TcpStream, Error> {
        tcp::connect(self.shared.clone(), peer, tcp::CONNECT_LIMIT).await
    }

    /// Serves files over HTTP on a TCP port until the server is dropped; 0 takes a free port.
    ///
    /// # Errors
    /// [`Error::NoFile`], [`Error::UrlPath`], [`Error::PortTaken`], [`Error::System`], [`Error::NotRunning`].
    pub fn serve_files(&self, port: u16, files: HttpFiles) -> Result<HttpServer, Error> {
        HttpServer::start(&self.shared, self.tcp_listen(port)?, files)
    }

    /// Forwards a free TCP port of 127.0.0.1 to a port of a machine, so that the test's process reaches it
    /// ([`Forward::address`]), until the forward is dropped.
    ///
    /// # Errors
    /// [`Error::Unreachable`], [`Error::System`], [`Error::NotRunning`].
    pub fn forward_to(&self, machine: SocketAddr) -> Result<Forward, Error> {
        Forward::inward(&self.shared, machine)
    }

    /// Forwards a TCP port of this host to an address that the test's process reaches, so that machines reach it, until
    /// the forward is dropped; 0 takes a free port.
    ///
    /// # Errors
    /// [`Error::PortTaken`], [`Error::System`], [`Error::NotRunning`].
    pub fn forward_from(&self, port: u16, target: SocketAddr) -> Result<Forward, Error> {
        Forward::outward(&self.shared, self.tcp_listen(port)?, target)
    }

    /// Ends it and removes its port.
    ///
    /// # Errors
    /// [`Error::NotRunning`] if it had died; [`Error::Switch`] if the port or the switch is gone already.
    pub fn stop(mut self) -> Result<(), Error> {
        let alive = self.shared.check("stop");
        let removed = self.end();
        alive.and(removed)
    }

    #[cfg(test)]
    pub(crate) fn shared(&self) -> &Shared {
        &self.shared
    }

    fn end(&mut self) -> Result<(), Error> {
        let Some(thread) = self.thread.take() else { return Ok(()) };
        self.shared.ended("it was stopped".into());
        // This is what the thread waits for. A socket that the switch has closed is not connected any more.
        let _ = self.socket.shutdown(Shutdown::Both);
        // The thread catches its panics.
        let _ = thread.join();
        let gone =
            |source| Error::Switch { host: self.options.name.clone(), operation: "remove its port", source };
        self.switch.remove_port(self.port).map_err(gone)
    }
}

impl Drop for Host {
    fn drop(&mut self) {
        if let Err(error) = self.end() {
            tracing::debug!(%error, "a host's port was gone before it");
        }
    }
}

fn panic_message(panic: &(dyn Any + Send)) -> String {
    let text =
        panic.downcast_ref::<String>().map(String::as_str).or_else(|| panic.downcast_ref::<&str>().copied());
    text.unwrap_or("a panic without a message").to_owned()
}
