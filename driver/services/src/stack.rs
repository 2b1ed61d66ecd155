//! A host's IP stack: smoltcp and the TCP connections in it.

use std::net::{IpAddr, SocketAddr};
use std::time::{Duration, Instant};

use ipnet::Ipv4Net;
use smoltcp::iface::{Config, Interface, PollIngressSingleResult, PollResult, SocketSet};
use smoltcp::wire::{EthernetAddress, HardwareAddress, IpCidr, Ipv4Cidr, Ipv6Cidr};
use switch::Mac;

use crate::device::Queues;
use crate::error::Error;
use crate::host::HostOptions;
use crate::tcp::Connections;

/// How many bytes are sent before what has come is looked at again.
const BATCH: usize = 256 << 10;

/// A host's IP stack. Its thread drives it; the test's streams read and write its sockets.
pub(crate) struct Stack {
    pub(crate) device: Queues,
    pub(crate) sockets: SocketSet<'static>,
    pub(crate) connections: Connections,
    interface: Interface,
    began: Instant,
    host: String,
    subnet: Ipv4Net,
    /// How the host ended, for the I/O errors of each stream.
    end: Option<String>,
}

impl Stack {
    pub(crate) fn new(options: &HostOptions) -> Stack {
        let mut device = Queues::new(options.mtu);
        let hardware = HardwareAddress::Ethernet(EthernetAddress(options.mac.0));
        let mut config = Config::new(hardware);
        config.random_seed = seed(options.mac);
        let mut interface = Interface::new(config, &mut device, smoltcp::time::Instant::ZERO);
        let (address, prefix) = (options.address.addr(), options.address.prefix_len());
        interface.update_ip_addrs(|addresses| {
            // One address fits into every build of smoltcp.
            let _ = addresses.push(IpCidr::Ipv4(Ipv4Cidr::new(address, prefix)));
        });
        Stack {
            device,
            sockets: SocketSet::new(Vec::new()),
            connections: Connections::default(),
            interface,
            began: Instant::now(),
            host: options.name.clone(),
            subnet: options.address,
            end: None,
        }
    }

    fn now(&self) -> smoltcp::time::Instant {
        smoltcp::time::Instant::from_micros(
            i64::try_from(self.began.elapsed().as_micros()).unwrap_or(i64::MAX),
        )
    }

    /// Takes what has come and makes what is to be sent, with `serve` in between, which says whether it gave something.
    pub(crate) fn poll(&mut self, mut serve: impl FnMut(&mut SocketSet<'static>) -> bool) {
        let now = self.now();
        let Stack { interface, device, sockets, connections, .. } = self;
        while interface.poll_ingress_single(now, device, sockets) != PollIngressSingleResult::None {
            // Before the next frame, which may be the next client's.
            connections.keep_listening(sockets);
        }
        loop {
            let served = serve(sockets);
            let sent = interface.poll_egress(now, device, sockets) != PollResult::None;
            if !(served || sent) || device.outgoing_bytes() >= BATCH {
                break;
            }
        }
        connections.keep_listening(sockets);
        connections.reap(sockets, Instant::now());
    }

    /// For how long there is nothing to do unless a frame comes or somebody wakes the thread.
    pub(crate) fn idle(&mut self) -> Option<Duration> {
        let now = self.now();
        let stack = self.interface.poll_delay(now, &self.sockets);
        let stack = stack.map(|delay| Duration::from_micros(delay.total_micros()));
        let reap = self.connections.next_reap().map(|due| due.saturating_duration_since(Instant::now()));
        stack.into_iter().chain(reap).min()
    }

    /// Gives the host these IPv6 addresses, in place of those that it had.
    pub(crate) fn set_ipv6(&mut self, addresses: &[std::net::Ipv6Addr]) {
        self.interface.update_ip_addrs(|own| {
            own.retain(|address| matches!(address, IpCidr::Ipv4(_)));
            for address in addresses {
                // There is room for them: `MAX_PREFIXES`.
                let _ = own.push(IpCidr::Ipv6(Ipv6Cidr::new(*address, 64)));
            }
        });
    }

    /// Whether a TCP listener of the test has this port.
    pub(crate) fn listens(&self, port: u16) -> bool {
        self.connections.listens(port)
    }

    /// Whether the host can send to an address at all.
    pub(crate) fn reachable(&self, peer: SocketAddr) -> Result<(), Error> {
        let unreachable = |evidence: String| Error::Unreachable { host: self.host.clone(), peer, evidence };
        let own = self.interface.ip_addrs();
        if own.iter().any(|own| IpAddr::from(own.address()) == peer.ip()) {
            return Err(unreachable("this is the host's own address".into()));
        }
        if !own.iter().any(|own| own.contains_addr(&peer.ip().into())) {
            return Err(unreachable(format!(
                "it is not in {}, and the host has no router",
                self.subnet.trunc()
            )));
        }
        Ok(())
    }

    /// Begins a connection.
    pub(crate) fn connect(
        &mut self,
        peer: SocketAddr,
        limit: Duration,
    ) -> Result<(smoltcp::iface::SocketHandle, SocketAddr), Error> {
        self.reachable(peer)?;
        let Stack { interface, sockets, connections, .. } = self;
        connections
            .connect(interface.context(), sockets, peer, limit)
            .map_err(|evidence| Error::Unreachable { host: self.host.clone(), peer, evidence })
    }

    /// Adds a listener's port; 0 takes a free one.
    pub(crate) fn listen(&mut self, port: u16) -> Result<(u64, u16), Error> {
        self.connections.listen(&mut self.sockets, port).ok_or_else(|| Error::PortTaken {
            host: self.host.clone(),
            port,
            by: "another listener",
        })
    }

    /// Ends every connection; streams tell this error from now on.
    pub(crate) fn end(&mut self, error: Error) {
        self.end.get_or_insert(error.to_string());
        self.connections.end(&mut self.sockets);
    }

    /// The error of a stream whose host has ended.
    pub(crate) fn check(&self) -> std::io::Result<()> {
        match &self.end {
            None => Ok(()),
            Some(evidence) => Err(std::io::Error::new(std::io::ErrorKind::NotConnected, evidence.clone())),
        }
    }
}

/// A seed for what smoltcp draws, the same in each run.
fn seed(mac: Mac) -> u64 {
    let [a, b, c, d, e, f] = mac.0;
    u64::from_be_bytes([0, 0, a, b, c, d, e, f])
}
