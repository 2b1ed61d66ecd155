//! Two hosts of one switch that speak TCP with each other, and what is left of it in their stacks.

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use pretty_assertions::assert_eq;
use switch::{Switch, SwitchOptions, VlanId};
use tempfile::TempDir;
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use crate::{Error, Host, HostOptions, Zone};

const LIMIT: Duration = Duration::from_secs(30);

struct Lab {
    server: Host,
    client: Host,
    _sw: Switch,
    _dir: TempDir,
}

fn lab() -> Lab {
    let dir = tempfile::tempdir().unwrap();
    let sw = Switch::start(SwitchOptions::new("sw", dir.path())).unwrap();
    let vlan = VlanId::new(7).unwrap();
    let host = |name: &str, address: &str| {
        Host::start(&sw, HostOptions::new(name, vlan, address.parse().unwrap())).unwrap()
    };
    Lab {
        server: host("server", "192.168.7.254/24"),
        client: host("client", "192.168.7.1/24"),
        _sw: sw,
        _dir: dir,
    }
}

async fn until(what: &str, condition: impl Fn() -> bool) {
    let mut often = tokio::time::interval(Duration::from_millis(5));
    let end = Instant::now() + LIMIT;
    while !condition() {
        assert!(Instant::now() < end, "not within {LIMIT:?}: {what}");
        often.tick().await;
    }
}

/// Waits until a host has no connection any more but those that only wait for late segments.
async fn until_none_are_left(host: &Host) {
    let none = || {
        let mut stack = host.shared().stack();
        let stack = &mut *stack;
        stack.connections.count(&mut stack.sockets) == 0
    };
    until("no connection is left", none).await;
}

#[tokio::test]
async fn data_passes_both_ways_and_each_direction_ends_for_itself() {
    let lab = lab();
    let listener = lab.server.tcp_listen(80).unwrap();
    assert_eq!(listener.local_addr(), "192.168.7.254:80".parse().unwrap());
    let sent: Vec<u8> = (0..3_000_000_u32).map(|n| (n % 251) as u8).collect();
    let client = async {
        let mut stream = lab.client.tcp_connect(listener.local_addr()).await.unwrap();
        stream.write_all(&sent).await.unwrap();
        stream.shutdown().await.unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).await.unwrap();
        answer
    };
    let server = async {
        let (mut stream, peer) = listener.accept().await.unwrap();
        assert_eq!((peer, peer.ip()), (stream.peer_addr(), lab.client.address().into()));
        let mut received = Vec::new();
        stream.read_to_end(&mut received).await.unwrap();
        assert!(received == sent, "{} bytes of {}", received.len(), sent.len());
        stream.write_all(b"whole").await.unwrap();
    };
    let (answer, ()) = tokio::time::timeout(LIMIT, async { tokio::join!(client, server) }).await.unwrap();
    assert_eq!(answer, "whole");
    drop(listener);
    until_none_are_left(&lab.server).await;
    until_none_are_left(&lab.client).await;
}

#[tokio::test]
async fn what_was_read_late_is_not_lost() {
    let lab = lab();
    let listener = lab.server.tcp_listen(0).unwrap();
    let mut client = lab.client.tcp_connect(listener.local_addr()).await.unwrap();
    let (mut server, _) = listener.accept().await.unwrap();
    client.shutdown().await.unwrap();
    server.write_all(b"late").await.unwrap();
    drop(server);
    // The server's end of the connection is over once the client has acknowledged its end; the client's socket will be
    // emptied, so that the bytes are kept elsewhere.
    until_none_are_left(&lab.server).await;
    until("the bytes are kept", || lab.client.shared().stack().connections.kept() == 4).await;
    let mut late = String::new();
    client.read_to_string(&mut late).await.unwrap();
    assert_eq!(late, "late");
    assert_eq!(client.read(&mut [0; 8]).await.unwrap(), 0, "the end stays the end");
}

#[tokio::test]
async fn many_clients_at_once() {
    let lab = lab();
    let listener = lab.server.tcp_listen(8080).unwrap();
    let clients = (0..64).map(|n: u8| {
        let (client, address) = (&lab.client, listener.local_addr());
        async move {
            let mut stream = client.tcp_connect(address).await.unwrap();
            stream.write_all(&[n]).await.unwrap();
            stream.read_u8().await.unwrap()
        }
    });
    let server = async {
        let mut streams = Vec::new();
        for _ in 0..64 {
            streams.push(listener.accept().await.unwrap().0);
        }
        for stream in &mut streams {
            let n = stream.read_u8().await.unwrap();
            stream.write_all(&[n]).await.unwrap();
        }
        streams
    };
    let clients = async {
        let mut waiting: Vec<_> = clients.map(Box::pin).collect();
        let mut echoed = Vec::new();
        while !waiting.is_empty() {
            std::future::poll_fn(|context| {
                waiting.retain_mut(|client| match client.as_mut().poll(context) {
                    std::task::Poll::Ready(n) => {
                        echoed.push(n);
                        false
                    }
                    std::task::Poll::Pending => true,
                });
                if waiting.is_empty() { std::task::Poll::Ready(()) } else { std::task::Poll::Pending }
            })
            .await;
        }
        echoed.sort_unstable();
        echoed
    };
    let (streams, echoed) =
        tokio::time::timeout(LIMIT, async { tokio::join!(server, clients) }).await.unwrap();
    assert_eq!(echoed, (0..64).collect::<Vec<u8>>());
    drop(streams);
}

#[tokio::test]
async fn failures_have_names() {
    let lab = lab();
    let told = async |peer: &str| lab.client.tcp_connect(peer.parse().unwrap()).await.unwrap_err();
    let refused = told("192.168.7.254:81").await;
    assert!(matches!(refused, Error::Refused { .. }), "{refused}");
    let far = told("10.0.0.1:81").await.to_string();
    assert_eq!(
        far,
        "host client: cannot connect to 10.0.0.1:81: it is not in 192.168.7.0/24, and the host has no router"
    );
    let own = told("192.168.7.1:81").await.to_string();
    assert!(own.contains("own address"), "{own}");
    let limit = Duration::from_millis(200);
    let silent: SocketAddr = "192.168.7.9:81".parse().unwrap();
    let silent = super::connect(lab.client.shared().clone(), silent, limit).await.unwrap_err();
    assert!(matches!(silent, Error::NoAnswer { elapsed, .. } if elapsed >= limit), "{silent}");

    let listener = lab.server.tcp_listen(53).unwrap();
    let taken = lab.server.tcp_listen(53).unwrap_err().to_string();
    assert_eq!(taken, "host server: TCP port 53 is taken by another listener");
    lab.server.serve_dns(Zone::new("lab").unwrap()).unwrap_err();
    drop(listener);
    lab.server.serve_dns(Zone::new("lab").unwrap()).unwrap();
    let dns = lab.server.tcp_listen(53).unwrap_err().to_string();
    assert_eq!(dns, "host server: TCP port 53 is taken by its DNS server");
}

#[tokio::test]
async fn a_reset_and_the_end_of_the_host_are_errors() {
    let lab = lab();
    let listener = lab.server.tcp_listen(80).unwrap();
    let mut first = lab.client.tcp_connect(listener.local_addr()).await.unwrap();
    listener.accept().await.unwrap().0.abort();
    let reset = first.read(&mut [0; 8]).await.unwrap_err();
    assert_eq!(reset.kind(), std::io::ErrorKind::ConnectionReset);
    assert_eq!(reset.to_string(), "host client: the connection to 192.168.7.254:80 was reset");
    let mut broken = Ok(());
    while broken.is_ok() {
        broken = first.write_all(b"more").await;
    }

    let mut second = lab.client.tcp_connect(listener.local_addr()).await.unwrap();
    let reading = tokio::spawn(async move { second.read(&mut [0; 8]).await });
    let waiting = async { listener.accept().await.map(drop) };
    listener.accept().await.unwrap();
    let stopping = async {
        tokio::task::yield_now().await;
        lab.client.stop().unwrap();
        lab.server.stop().unwrap();
    };
    let (ended, ()) = tokio::join!(waiting, stopping);
    assert!(
        ended.unwrap_err().to_string().contains("host server: exchange data over TCP: the host does not run")
    );
    // The server's stream was dropped, so that the client may have seen its end before its own host's.
    let ended = tokio::time::timeout(LIMIT, reading).await.unwrap().unwrap();
    assert!(ended.is_err() || ended.is_ok_and(|count| count == 0));
}

#[tokio::test]
async fn a_listener_that_goes_resets_who_waits_for_it() {
    let lab = lab();
    let listener = lab.server.tcp_listen(80).unwrap();
    let address = listener.local_addr();
    let mut waits = lab.client.tcp_connect(address).await.unwrap();
    drop(listener);
    waits.read(&mut [0; 8]).await.unwrap_err();
    assert!(matches!(lab.client.tcp_connect(address).await, Err(Error::Refused { .. })));
    drop(waits);
    until_none_are_left(&lab.server).await;
    until_none_are_left(&lab.client).await;
}
