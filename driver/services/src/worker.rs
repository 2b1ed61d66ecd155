//! The host's thread: frames from the switch go to the DHCP engine or into the stack, answers go back.

use std::collections::BTreeMap;
use std::io::{self, ErrorKind, Read, Write};
use std::net::Ipv4Addr;
use std::os::fd::AsFd;
use std::os::unix::net::UnixStream;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use smoltcp::iface::{Config, Interface, SocketHandle, SocketSet};
use smoltcp::socket::{tcp, udp};
use smoltcp::wire::{EthernetAddress, HardwareAddress, IpCidr, Ipv4Cidr};
use switch::{Mac, StreamDecoder};

use crate::device::Queues;
use crate::dhcp::{DhcpEngine, DhcpFrame};
use crate::dns::{TCP_LONGEST, UDP_LONGEST, Zone};
use crate::error::Error;
use crate::host::HostOptions;

/// DNS's port.
const DNS: u16 = 53;

/// How many clients may ask over TCP at once.
const TCP_CLIENTS: usize = 8;

/// The longest query over TCP in bytes; real ones have some dozens.
const TCP_QUERY: usize = 4096;

/// After what time a TCP client that says nothing is dropped.
const TCP_IDLE: smoltcp::time::Duration = smoltcp::time::Duration::from_secs(10);

/// How many datagrams may wait for the DNS server, and how many bytes of them.
const UDP_QUEUE: (usize, usize) = (256, 64 << 10);

/// How many DHCP replies may be held back at once; what comes when there are more is lost, as on a network.
const HELD_BACK: usize = 1024;

/// What the host's thread and the test share.
#[derive(Clone)]
pub(crate) struct Shared {
    name: Arc<str>,
    state: Arc<Mutex<State>>,
}

#[derive(Default)]
struct State {
    dhcp: Option<DhcpEngine>,
    zone: Option<Zone>,
    /// How the thread ended.
    end: Option<String>,
}

impl std::fmt::Debug for Shared {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_tuple("Host").field(&self.name).finish()
    }
}

impl Shared {
    pub(crate) fn new(name: &str) -> Shared {
        Shared { name: name.into(), state: Arc::default() }
    }

    pub(crate) fn name(&self) -> &str {
        &self.name
    }

    pub(crate) fn set_dhcp(&self, engine: DhcpEngine) -> Result<(), Error> {
        self.running("serve DHCP")?.dhcp = Some(engine);
        Ok(())
    }

    pub(crate) fn set_zone(&self, zone: Zone) -> Result<(), Error> {
        self.running("serve DNS")?.zone = Some(zone);
        Ok(())
    }

    pub(crate) fn with_dhcp<T>(
        &self,
        operation: &'static str,
        call: impl FnOnce(&mut DhcpEngine) -> T,
    ) -> Result<T, Error> {
        let mut state = self.running(operation)?;
        let evidence = || "it serves no DHCP".to_owned();
        state.dhcp.as_mut().map(call).ok_or_else(|| self.not_running(operation, evidence()))
    }

    pub(crate) fn with_zone<T>(
        &self,
        operation: &'static str,
        call: impl FnOnce(&mut Zone) -> T,
    ) -> Result<T, Error> {
        let mut state = self.running(operation)?;
        let evidence = || "it serves no DNS".to_owned();
        state.zone.as_mut().map(call).ok_or_else(|| self.not_running(operation, evidence()))
    }

    pub(crate) fn check(&self, operation: &'static str) -> Result<(), Error> {
        self.running(operation).map(drop)
    }

    pub(crate) fn ended(&self, evidence: String) {
        self.state().end.get_or_insert(evidence);
    }

    fn running(&self, operation: &'static str) -> Result<MutexGuard<'_, State>, Error> {
        let state = self.state();
        match &state.end {
            None => Ok(state),
            Some(evidence) => Err(self.not_running(operation, evidence.clone())),
        }
    }

    fn not_running(&self, operation: &'static str, evidence: String) -> Error {
        Error::NotRunning { host: self.name.to_string(), operation, evidence }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

pub(crate) struct Worker {
    shared: Shared,
    socket: UnixStream,
    decoder: StreamDecoder,
    mac: Mac,
    address: Ipv4Addr,
    began: Instant,
    device: Queues,
    interface: Interface,
    sockets: SocketSet<'static>,
    dns: Option<DnsSockets>,
    held_back: BTreeMap<(Instant, u64), Vec<u8>>,
    held_back_ever: u64,
}

struct DnsSockets {
    udp: SocketHandle,
    tcp: Vec<SocketHandle>,
}

impl Worker {
    pub(crate) fn new(shared: Shared, options: &HostOptions, socket: UnixStream) -> Worker {
        let began = Instant::now();
        let mut device = Queues::new(options.mtu);
        let hardware = HardwareAddress::Ethernet(EthernetAddress(options.mac.0));
        let mut config = Config::new(hardware);
        let octets = options.mac.0;
        config.random_seed =
            u64::from_be_bytes([0, 0, octets[0], octets[1], octets[2], octets[3], octets[4], octets[5]]);
        let mut interface = Interface::new(config, &mut device, smoltcp::time::Instant::ZERO);
        let (address, prefix) = (options.address.addr(), options.address.prefix_len());
        interface.update_ip_addrs(|addresses| {
            // One address fits into every build of smoltcp.
            let _ = addresses.push(IpCidr::Ipv4(Ipv4Cidr::new(address, prefix)));
        });
        Worker {
            shared,
            socket,
            decoder: StreamDecoder::new(),
            mac: options.mac,
            address,
            began,
            device,
            interface,
            sockets: SocketSet::new(Vec::new()),
            dns: None,
            held_back: BTreeMap::new(),
            held_back_ever: 0,
        }
    }

    /// Runs until the socket is closed, by either end.
    pub(crate) fn run(mut self) -> io::Result<()> {
        loop {
            self.wait()?;
            if !self.take_frames()? {
                return Ok(());
            }
            self.release_held_back();
            self.work();
            self.send()?;
        }
    }

    fn now(&self) -> smoltcp::time::Instant {
        smoltcp::time::Instant::from_micros(
            i64::try_from(self.began.elapsed().as_micros()).unwrap_or(i64::MAX),
        )
    }

    /// Waits for a frame, or until the stack or a reply that is held back is due.
    fn wait(&mut self) -> io::Result<()> {
        let stack = self.interface.poll_delay(self.now(), &self.sockets);
        let stack = stack.map(|delay| Duration::from_micros(delay.total_micros()));
        let held = self.held_back.keys().next().map(|(due, _)| due.saturating_duration_since(Instant::now()));
        let timeout = match stack.into_iter().chain(held).min() {
            None => PollTimeout::NONE,
            // Upwards, so that it does not spin through the last millisecond.
            Some(left) => PollTimeout::try_from(left.as_micros().div_ceil(1000)).unwrap_or(PollTimeout::MAX),
        };
        let mut fds = [PollFd::new(self.socket.as_fd(), PollFlags::POLLIN)];
        match poll(&mut fds, timeout) {
            Ok(_) | Err(Errno::EINTR) => Ok(()),
            Err(errno) => Err(errno.into()),
        }
    }

    /// Reads what has come; `false` if the socket is closed.
    fn take_frames(&mut self) -> io::Result<bool> {
        loop {
            self.socket.set_nonblocking(true)?;
            let read = self.socket.read(self.decoder.space());
            // Writes wait for the switch, which always reads.
            self.socket.set_nonblocking(false)?;
            match read {
                Ok(0) => return Ok(false),
                Ok(bytes) => self.decoder.filled(bytes),
                Err(error) if error.kind() == ErrorKind::WouldBlock => return Ok(true),
                Err(error) if error.kind() == ErrorKind::Interrupted => continue,
                Err(error) if error.kind() == ErrorKind::ConnectionReset => return Ok(false),
                Err(error) => return Err(error),
            }
            while let Some(frame) =
                self.decoder.next_frame().map_err(|bad| io::Error::other(bad.to_string()))?
            {
                self.take(&frame);
            }
            // A flood must not keep answers back.
            self.work();
            self.send()?;
        }
    }

    fn take(&mut self, frame: &[u8]) {
        if let DhcpFrame::Message(message) = DhcpFrame::parse(frame, self.mac, self.address) {
            let mut state = self.shared.state();
            if let Some(engine) = &mut state.dhcp {
                let now = Instant::now();
                // One that is damaged counts as an empty one.
                if let Some(reply) = engine.handle(message.unwrap_or_default(), now) {
                    let frame = reply.frame(self.mac, self.address);
                    if reply.delay.is_zero() {
                        self.device.outgoing.push(frame);
                    } else if self.held_back.len() < HELD_BACK {
                        self.held_back_ever += 1;
                        self.held_back.insert((now + reply.delay, self.held_back_ever), frame);
                    }
                }
                return;
            }
        }
        self.device.incoming.push_back(frame.to_vec());
    }

    fn release_held_back(&mut self) {
        let now = Instant::now();
        while let Some(first) = self.held_back.first_entry()
            && first.key().0 <= now
        {
            self.device.outgoing.push(first.remove());
        }
    }

    fn work(&mut self) {
        self.open_dns();
        let now = self.now();
        while self.interface.poll(now, &mut self.device, &mut self.sockets)
            != smoltcp::iface::PollResult::None
        {
            if !self.serve_dns() {
                break;
            }
        }
    }

    fn send(&mut self) -> io::Result<()> {
        if self.device.outgoing.is_empty() {
            return Ok(());
        }
        let mut bytes = Vec::new();
        for frame in self.device.outgoing.drain(..) {
            let length = u32::try_from(frame.len()).map_err(io::Error::other)?;
            bytes.extend_from_slice(&length.to_be_bytes());
            bytes.extend_from_slice(&frame);
        }
        self.socket.write_all(&bytes)
    }

    /// Opens the sockets once there is a zone to answer from.
    fn open_dns(&mut self) {
        if self.dns.is_some() || self.shared.state().zone.is_none() {
            return;
        }
        let (packets, bytes) = UDP_QUEUE;
        let buffer = || udp::PacketBuffer::new(vec![udp::PacketMetadata::EMPTY; packets], vec![0; bytes]);
        let mut socket = udp::Socket::new(buffer(), buffer());
        if let Err(error) = socket.bind(DNS) {
            tracing::warn!(%error, "DNS has no UDP socket");
        }
        let udp = self.sockets.add(socket);
        let mut client = || {
            let received = tcp::SocketBuffer::new(vec![0; TCP_QUERY]);
            let sent = tcp::SocketBuffer::new(vec![0; 2 + usize::from(TCP_LONGEST)]);
            let mut socket = tcp::Socket::new(received, sent);
            socket.set_timeout(Some(TCP_IDLE));
            socket.set_keep_alive(None);
            self.sockets.add(socket)
        };
        let tcp = (0..TCP_CLIENTS).map(|_| client()).collect();
        self.dns = Some(DnsSockets { udp, tcp });
        self.listen();
    }

    fn listen(&mut self) {
        for handle in self.dns.iter().flat_map(|dns| &dns.tcp) {
            let socket = self.sockets.get_mut::<tcp::Socket<'_>>(*handle);
            if !socket.is_open()
                && let Err(error) = socket.listen(DNS)
            {
                tracing::warn!(%error, "DNS has no TCP socket");
            }
        }
    }

    /// Answers what the stack has received; says whether there is something to send.
    fn serve_dns(&mut self) -> bool {
        let Some(dns) = &self.dns else { return false };
        let state = self.shared.state();
        let Some(zone) = &state.zone else { return false };
        let mut answered = false;
        let socket = self.sockets.get_mut::<udp::Socket<'_>>(dns.udp);
        while socket.can_send() {
            let Ok((query, from)) = socket.recv() else { break };
            let Some(answer) = zone.answer(query, UDP_LONGEST) else { continue };
            // Without room the answer is lost, as on a network; the client asks again.
            answered |= socket.send_slice(&answer, from.endpoint).is_ok();
        }
        for handle in &dns.tcp {
            answered |= serve_tcp(self.sockets.get_mut(*handle), zone);
        }
        drop(state);
        self.listen();
        answered
    }
}

/// Answers the queries of a TCP client, each preceded by its length (RFC 1035, 4.2.2).
fn serve_tcp(socket: &mut tcp::Socket<'_>, zone: &Zone) -> bool {
    let mut acted = false;
    while socket.can_recv() {
        let mut query = vec![0; TCP_QUERY];
        let Ok(waiting) = socket.peek_slice(&mut query) else { break };
        let Some(prefix) = query.first_chunk::<2>().filter(|_| waiting >= 2) else { break };
        let whole = 2 + usize::from(u16::from_be_bytes(*prefix));
        if whole > TCP_QUERY {
            socket.abort();
            return true;
        }
        // Room for the longest answer, or the client must take what it has been given first.
        if waiting < whole || socket.send_capacity() - socket.send_queue() < 2 + usize::from(TCP_LONGEST) {
            break;
        }
        let _ = socket.recv(|_| (whole, ()));
        acted = true;
        if let Some(answer) = zone.answer(&query[2..whole], TCP_LONGEST) {
            let length = u16::try_from(answer.len()).unwrap_or(0).to_be_bytes();
            let _ = socket.send_slice(&[&length[..], &answer].concat());
        }
    }
    if !socket.may_recv() && socket.may_send() && socket.recv_queue() == 0 {
        socket.close();
        acted = true;
    }
    acted
}
