//! The sockets of a DNS server: UDP and TCP port 53 of its host.

use smoltcp::iface::{SocketHandle, SocketSet};
use smoltcp::socket::{tcp, udp};

use super::zone::{TCP_LONGEST, UDP_LONGEST, Zone};

/// DNS's port.
pub(crate) const DNS: u16 = 53;

/// How many clients may ask over TCP at once.
const TCP_CLIENTS: usize = 8;

/// The longest query over TCP in bytes; real ones have some dozens.
const TCP_QUERY: usize = 4096;

/// After what time a TCP client that says nothing is dropped.
const TCP_IDLE: smoltcp::time::Duration = smoltcp::time::Duration::from_secs(10);

/// How many datagrams may wait for the DNS server, and how many bytes of them.
const UDP_QUEUE: (usize, usize) = (256, 64 << 10);

/// What a DNS server listens on.
pub(crate) struct DnsSockets {
    udp: SocketHandle,
    tcp: Vec<SocketHandle>,
}

impl DnsSockets {
    pub(crate) fn open(sockets: &mut SocketSet<'static>) -> DnsSockets {
        let (packets, bytes) = UDP_QUEUE;
        let buffer = || udp::PacketBuffer::new(vec![udp::PacketMetadata::EMPTY; packets], vec![0; bytes]);
        let mut socket = udp::Socket::new(buffer(), buffer());
        if let Err(error) = socket.bind(DNS) {
            tracing::warn!(%error, "DNS has no UDP socket");
        }
        let udp = sockets.add(socket);
        let mut client = || {
            let received = tcp::SocketBuffer::new(vec![0; TCP_QUERY]);
            let sent = tcp::SocketBuffer::new(vec![0; 2 + usize::from(TCP_LONGEST)]);
            let mut socket = tcp::Socket::new(received, sent);
            socket.set_timeout(Some(TCP_IDLE));
            socket.set_keep_alive(None);
            sockets.add(socket)
        };
        let tcp = (0..TCP_CLIENTS).map(|_| client()).collect();
        let opened = DnsSockets { udp, tcp };
        opened.listen(sockets);
        opened
    }

    fn listen(&self, sockets: &mut SocketSet<'static>) {
        for handle in &self.tcp {
            let socket = sockets.get_mut::<tcp::Socket<'_>>(*handle);
            if !socket.is_open()
                && let Err(error) = socket.listen(DNS)
            {
                tracing::warn!(%error, "DNS has no TCP socket");
            }
        }
    }

    /// Answers what the stack has received; says whether there is something to send.
    pub(crate) fn serve(&self, sockets: &mut SocketSet<'static>, zone: &Zone) -> bool {
        let mut answered = false;
        let socket = sockets.get_mut::<udp::Socket<'_>>(self.udp);
        while socket.can_send() {
            let Ok((query, from)) = socket.recv() else { break };
            let Some(answer) = zone.answer(query, UDP_LONGEST) else { continue };
            // Without room the answer is lost, as on a network; the client asks again.
            answered |= socket.send_slice(&answer, from.endpoint).is_ok();
        }
        for handle in &self.tcp {
            answered |= serve_tcp(sockets.get_mut(*handle), zone);
        }
        self.listen(sockets);
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
