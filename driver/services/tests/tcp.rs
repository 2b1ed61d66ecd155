//! Files over HTTP and TCP forwards, with a second host of this process as the machine: no privileges.

use std::collections::BTreeMap;
use std::fs;
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use pretty_assertions::assert_eq;
use services::{Error, Forward, Host, HostOptions, HttpFiles, TcpStream};
use switch::{CapturedFrame, Direction, FrameFilter, Switch, SwitchOptions, VlanId};
use tempfile::TempDir;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net;

const LIMIT: Duration = Duration::from_secs(30);

struct Lab {
    host: Host,
    machine: Host,
    sw: Switch,
    dir: TempDir,
}

fn lab() -> Lab {
    let dir = tempfile::tempdir().unwrap();
    let sw = Switch::start(SwitchOptions::new("sw", dir.path())).unwrap();
    let vlan = VlanId::new(7).unwrap();
    let host = |name: &str, address: &str| {
        Host::start(&sw, HostOptions::new(name, vlan, address.parse().unwrap())).unwrap()
    };
    let (host, machine) = (host("services", "192.168.7.254/24"), host("machine", "192.168.7.1/24"));
    Lab { host, machine, sw, dir }
}

impl Lab {
    /// Sends a request as it is and reads until the server closes.
    async fn ask(&self, server: SocketAddr, request: &str) -> (String, Vec<u8>) {
        let mut stream = self.machine.tcp_connect(server).await.unwrap();
        stream.write_all(request.as_bytes()).await.unwrap();
        let mut answer = all_of(&mut stream).await;
        let end = answer.windows(4).position(|four| four == b"\r\n\r\n").expect("an end of the head") + 4;
        let body = answer.split_off(end);
        (String::from_utf8(answer).unwrap().to_lowercase(), body)
    }

    async fn get(&self, server: SocketAddr, path: &str) -> (String, Vec<u8>) {
        self.ask(server, &format!("GET {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")).await
    }
}

/// What comes until the peer ends.
async fn all_of(stream: &mut TcpStream) -> Vec<u8> {
    let mut all = Vec::new();
    tokio::time::timeout(LIMIT, stream.read_to_end(&mut all)).await.unwrap().unwrap();
    all
}

fn status(head: &str) -> &str {
    head.split(' ').nth(1).unwrap()
}

#[tokio::test]
async fn a_directory_is_served_whole_and_in_parts() {
    let lab = lab();
    let root = lab.dir.path().join("www");
    fs::create_dir_all(root.join("sub")).unwrap();
    let bundle: Vec<u8> = (0..5_000_000_u32).map(|n| (n % 253) as u8).collect();
    fs::write(root.join("bundle.raucb"), &bundle).unwrap();
    fs::write(root.join("sub/b c.txt"), "below").unwrap();
    fs::write(lab.dir.path().join("secret"), "not for clients").unwrap();
    let server = lab.host.serve_files(80, HttpFiles::Directory(root.clone())).unwrap();
    assert_eq!(server.url("/bundle.raucb"), "http://192.168.7.254:80/bundle.raucb");
    let at = server.address();

    let (head, body) = lab.get(at, "/bundle.raucb").await;
    assert_eq!(status(&head), "200");
    assert!(
        head.contains("content-length: 5000000\r\n") && head.contains("accept-ranges: bytes\r\n"),
        "{head}"
    );
    assert!(body == bundle);
    let (head, body) =
        lab.ask(at, "HEAD /bundle.raucb HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n").await;
    assert_eq!((status(&head), body.len()), ("200", 0));
    assert!(head.contains("content-length: 5000000\r\n"), "{head}");
    let part = "GET /bundle.raucb HTTP/1.1\r\nHost: x\r\nConnection: close\r\nRange: bytes=1000-1999\r\n\r\n";
    let (head, body) = lab.ask(at, part).await;
    assert_eq!(status(&head), "206");
    assert!(head.contains("content-range: bytes 1000-1999/5000000\r\n"), "{head}");
    assert!(body == bundle[1000..2000]);
    let (head, _) = lab.ask(at, &part.replace("1000-1999", "5000000-")).await;
    assert_eq!(status(&head), "416");

    assert_eq!(lab.get(at, "/sub/b%20c.txt").await.1, b"below");
    for path in [
        "/missing",
        "/../secret",
        "/%2e%2e/secret",
        "/sub/..%2f..%2fsecret",
        "/sub/%2e%2e/%2e%2e/secret",
        "/sub",
    ] {
        let (head, body) = lab.get(at, path).await;
        assert!(["404", "307"].contains(&status(&head)), "{path}: {head}");
        assert_eq!(body, b"", "{path}");
    }
    let (head, _) =
        lab.ask(at, "DELETE /bundle.raucb HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n").await;
    assert_eq!(status(&head), "405");
    assert!(head.contains("allow: get,head\r\n"), "{head}");
    assert!(root.join("bundle.raucb").exists());
    let (head, _) = lab.ask(at, "no HTTP at all\r\n\r\n").await;
    assert_eq!(status(&head), "400");

    let requests = server.requests();
    let told: Vec<_> =
        requests.iter().take(3).map(|r| (r.method.as_str(), r.range.as_deref(), r.status)).collect();
    assert_eq!(told, [("GET", None, 200), ("HEAD", None, 200), ("GET", Some("bytes=1000-1999"), 206)]);
    assert_eq!(
        (requests[0].client.ip(), requests[0].path.as_str()),
        (lab.machine.address().into(), "/bundle.raucb")
    );
}

#[tokio::test]
async fn named_files_and_no_others_until_the_server_is_dropped() {
    let lab = lab();
    let file = lab.dir.path().join("image");
    fs::write(&file, "bytes").unwrap();
    let files = |url: &str, path: &std::path::Path| {
        HttpFiles::Files(BTreeMap::from([(url.to_owned(), path.to_owned())]))
    };
    let refused = lab.host.serve_files(80, files("image", &file)).unwrap_err().to_string();
    assert!(refused.contains("\"image\" is not the path of a URL"), "{refused}");
    let missing = lab.host.serve_files(80, files("/image", &lab.dir.path().join("none"))).unwrap_err();
    assert!(matches!(missing, Error::NoFile { .. }), "{missing}");
    let missing = lab.host.serve_files(80, HttpFiles::Directory(file.clone())).unwrap_err().to_string();
    assert!(missing.contains("not a directory"), "{missing}");

    let server = lab.host.serve_files(80, files("/v2/image.raucb", &file)).unwrap();
    let at = server.address();
    assert_eq!(lab.get(at, "/v2/image.raucb").await.1, b"bytes");
    assert_eq!(status(&lab.get(at, "/image").await.0), "404");
    fs::remove_file(&file).unwrap();
    assert_eq!(status(&lab.get(at, "/v2/image.raucb").await.0), "404");
    // A client that keeps its connection does not keep the server.
    let mut kept = lab.machine.tcp_connect(at).await.unwrap();
    kept.write_all(b"GET /image HTTP/1.1\r\nHost: x\r\n\r\n").await.unwrap();
    kept.read_u8().await.unwrap();
    drop(server);
    let mut rest = Vec::new();
    let _ = tokio::time::timeout(LIMIT, kept.read_to_end(&mut rest)).await.unwrap();
    until("the port is free again", async || lab.host.tcp_listen(80).is_ok()).await;
}

#[tokio::test]
async fn clients_at_once_each_get_their_file() {
    let lab = lab();
    for n in 0..8_u8 {
        fs::write(lab.dir.path().join(n.to_string()), vec![n; 500_000]).unwrap();
    }
    let server = lab.host.serve_files(80, HttpFiles::Directory(lab.dir.path().to_owned())).unwrap();
    let get = async |n: u8| {
        let (_, body) = lab.get(server.address(), &format!("/{n}")).await;
        assert!(body == vec![n; 500_000], "{n}: {} bytes", body.len());
    };
    tokio::join!(get(0), get(1), get(2), get(3), get(4), get(5), get(6), get(7));
}

/// How far a host's peer may send, as each of the host's acknowledgements says: RFC 9293, 3.8.6.
fn edges(sw: &Switch, host: &str) -> Vec<u32> {
    let frames = sw.frames(&FrameFilter::new().port(host).direction(Direction::In)).unwrap();
    let (mut shift, mut edges) = (0, Vec::new());
    for frame in &frames {
        let Some(tcp) = frame.summary().and_then(|summary| summary.tcp().cloned()) else { continue };
        let header = tcp_header(frame);
        if tcp.flags.syn {
            shift = scale(&header[20..usize::from(header[12] >> 4) * 4]);
        } else {
            edges.push(tcp.ack.wrapping_add(u32::from(window(header)) << shift));
        }
    }
    edges
}

/// What follows the headers of Ethernet and IPv4, which has no options.
fn tcp_header(frame: &CapturedFrame) -> &[u8] {
    &frame.bytes[34..]
}

fn window(header: &[u8]) -> u16 {
    u16::from_be_bytes([header[14], header[15]])
}

/// The window scale (RFC 7323, 2.2) among the options of a TCP header.
fn scale(options: &[u8]) -> u32 {
    match options {
        [3, 3, shift, ..] => (*shift).into(),
        [1, rest @ ..] => scale(rest),
        [_, length, ..] => scale(options.get(usize::from(*length)..).unwrap_or_default()),
        _ => 0,
    }
}

#[tokio::test]
async fn a_host_never_takes_back_what_it_has_room_for() {
    let lab = lab();
    let listener = lab.machine.tcp_listen(22).unwrap();
    let reading = async {
        let mut stream = lab.host.tcp_connect(listener.local_addr()).await.unwrap();
        all_of(&mut stream).await.len()
    };
    let writing = async {
        let (mut stream, _) = listener.accept().await.unwrap();
        stream.write_all(&[7; 5_000_000]).await.unwrap();
    };
    assert_eq!(tokio::join!(reading, writing).0, 5_000_000);
    let edges = edges(&lab.sw, "services");
    assert!(edges.len() > 50, "{} acknowledgements", edges.len());
    for (number, pair) in edges.windows(2).enumerate() {
        let step = pair[1].wrapping_sub(pair[0]);
        assert!(step < 1 << 31, "acknowledgement {number} takes back {} bytes", step.wrapping_neg());
    }
}

#[tokio::test]
async fn who_ends_after_its_peer_does_not_wait_for_room_that_there_is() {
    let lab = lab();
    let listener = lab.machine.tcp_listen(22).unwrap();
    let reading = async {
        let mut stream = lab.host.tcp_connect(listener.local_addr()).await.unwrap();
        stream.shutdown().await.unwrap();
        all_of(&mut stream).await.len()
    };
    let writing = async {
        let (mut stream, _) = listener.accept().await.unwrap();
        assert_eq!(stream.read(&mut [0; 8]).await.unwrap(), 0);
        stream.write_all(&[7; 1_000_000]).await.unwrap();
        stream.shutdown().await.unwrap();
        let late = stream.write_all(b"more").await.unwrap_err();
        assert_eq!(late.kind(), std::io::ErrorKind::BrokenPipe);
    };
    assert_eq!(tokio::join!(reading, writing).0, 1_000_000);
    // A probe of one byte (RFC 9293, 3.8.6.1) is for a window that is closed.
    let mut open = 0;
    for frame in lab.sw.frames(&FrameFilter::new().port("services")).unwrap() {
        if frame.summary().is_none_or(|summary| summary.tcp().is_none()) {
            continue;
        }
        match frame.direction {
            Direction::In => open = window(tcp_header(&frame)),
            Direction::Out => {
                assert!(open == 0 || frame.payload().len() != 1, "a probe of a window of {open} bytes")
            }
        }
    }
}

async fn until(what: &str, mut condition: impl AsyncFnMut() -> bool) {
    let mut often = tokio::time::interval(Duration::from_millis(5));
    let end = Instant::now() + LIMIT;
    while !condition().await {
        assert!(Instant::now() < end, "not within {LIMIT:?}: {what}");
        often.tick().await;
    }
}

async fn counted(forward: &Forward, open: u64, failed: u64) {
    let count = async || (forward.counters().open, forward.counters().failed) == (open, failed);
    until(&format!("{open} open and {failed} failed"), count).await;
}

#[tokio::test]
async fn from_this_process_to_a_machine() {
    let lab = lab();
    let listener = lab.machine.tcp_listen(22).unwrap();
    let forward = lab.host.forward_to(listener.local_addr()).unwrap();
    assert!(forward.address().ip().is_loopback() && forward.target() == listener.local_addr());
    let local = net::TcpStream::connect(forward.address()).await.unwrap();
    let (machine, peer) = listener.accept().await.unwrap();
    assert_eq!(peer.ip(), lab.host.address());
    tokio::time::timeout(LIMIT, async {
        let (mut local, mut machine) = (local, machine);
        // Writing and reading at once, since a million bytes fit into no buffer on the way.
        local.write_all(b"question").await.unwrap();
        local.shutdown().await.unwrap();
        let mut question = String::new();
        machine.read_to_string(&mut question).await.unwrap();
        assert_eq!(question, "question");
        let writing = async {
            machine.write_all(&[7; 1_000_000]).await.unwrap();
            drop(machine);
        };
        let mut answer = Vec::new();
        let reading = local.read_to_end(&mut answer);
        let ((), read) = tokio::join!(writing, reading);
        assert_eq!(read.unwrap(), 1_000_000);
    })
    .await
    .unwrap();
    counted(&forward, 0, 0).await;
    assert_eq!((forward.counters().accepted, forward.last_failure()), (1, None));

    // What the machine cuts is cut here, and so is what nobody takes there.
    let mut cut = net::TcpStream::connect(forward.address()).await.unwrap();
    // A byte goes first: a reset that comes with the answer to the connection is a refusal.
    cut.write_u8(1).await.unwrap();
    let mut taken = listener.accept().await.unwrap().0;
    assert_eq!(taken.read_u8().await.unwrap(), 1);
    taken.abort();
    assert!(cut.read_u8().await.is_err());
    counted(&forward, 0, 1).await;
    let why = forward.last_failure().unwrap();
    assert!(why.starts_with("the connection to 192.168.7.1:22 was cut: "), "{why}");
    drop(listener);
    // The reset may come before this side has looked whether it is connected.
    let refused = async { net::TcpStream::connect(forward.address()).await?.read_u8().await };
    assert!(refused.await.is_err());
    counted(&forward, 0, 2).await;
    let why = forward.last_failure().unwrap();
    assert!(why.contains("192.168.7.1:22 refused the connection"), "{why}");

    let address = forward.address();
    drop(forward);
    until("the forward's port closes", async || net::TcpStream::connect(address).await.is_err()).await;
    let far = lab.host.forward_to("10.0.0.1:22".parse().unwrap()).unwrap_err();
    assert!(matches!(far, Error::Unreachable { .. }), "{far}");
}

#[tokio::test]
async fn from_a_machine_to_this_process() {
    let lab = lab();
    let listener = net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let target = listener.local_addr().unwrap();
    let forward = lab.host.forward_from(8080, target).unwrap();
    assert_eq!(forward.address(), "192.168.7.254:8080".parse().unwrap());
    let connect = async || lab.machine.tcp_connect(forward.address()).await.unwrap();
    let (machine, local): (TcpStream, _) = tokio::join!(connect(), listener.accept());
    let local = local.unwrap().0;
    tokio::time::timeout(LIMIT, async {
        let (mut machine, mut local) = (machine, local);
        machine.write_all(b"question").await.unwrap();
        machine.shutdown().await.unwrap();
        let mut question = String::new();
        local.read_to_string(&mut question).await.unwrap();
        assert_eq!(question, "question");
        local.write_all(b"answer").await.unwrap();
        drop(local);
        let mut answer = String::new();
        machine.read_to_string(&mut answer).await.unwrap();
        assert_eq!(answer, "answer");
    })
    .await
    .unwrap();
    counted(&forward, 0, 0).await;

    let (mut open, local) = tokio::join!(connect(), listener.accept());
    drop(listener);
    // Whether the reset comes before the client has seen that it was connected is a matter of moments.
    match lab.machine.tcp_connect(forward.address()).await {
        Ok(mut refused) => assert!(refused.read_u8().await.is_err()),
        Err(error) => assert!(matches!(error, Error::Refused { .. }), "{error}"),
    }
    counted(&forward, 1, 1).await;
    let why = forward.last_failure().unwrap();
    assert!(why.contains(&format!("cannot be passed on to {target}: ")), "{why}");

    // Dropping the forward ends what it passes on, at both ends, and closes its port.
    let address = forward.address();
    drop(forward);
    assert!(!matches!(open.read(&mut [0; 8]).await, Ok(1..)));
    assert!(!matches!(local.unwrap().0.read(&mut [0; 8]).await, Ok(1..)));
    let refused = async || matches!(lab.machine.tcp_connect(address).await, Err(Error::Refused { .. }));
    until("the forward's port closes", refused).await;
}
