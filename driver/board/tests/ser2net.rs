//! Lines behind a serial server that is not ours: ser2net, raw and by RFC 2217. `cargo xtask interop` runs these.

use std::os::fd::AsFd;
use std::path::Path;
use std::time::{Duration, Instant};

use board::{Board, Error, line};
use process::{Child, Command, Stdio};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpListener;

/// What one step may take on a busy machine.
const LIMIT: Duration = Duration::from_secs(60);

/// How ser2net takes connections.
const RAW: &str = "tcp";
const RFC2217: &str = "telnet(rfc2217=true),tcp";
const TELNET: &str = "telnet,tcp";

/// ser2net between a terminal and a TCP port; ended with this.
struct Server {
    child: Child,
    address: String,
}

impl Drop for Server {
    fn drop(&mut self) {
        self.child.kill_group();
    }
}

impl Server {
    async fn start(folder: &Path, accepter: &str, terminal: &Path) -> Self {
        // A port that was free a moment ago: ser2net does not say which one it took.
        let port =
            TcpListener::bind("127.0.0.1:0").await.expect("a port").local_addr().expect("its number").port();
        let config = folder.join(format!("ser2net-{port}.yaml"));
        let text = format!(
            "connection: &board\n  accepter: {accepter},127.0.0.1,{port}\n  \
             connector: serialdev,{},9600n81,local\n",
            terminal.display()
        );
        fs_err::write(&config, text).expect("written");
        let path = format!("{}:/usr/sbin:/usr/local/sbin", std::env::var("PATH").unwrap_or_default());
        let command = Command::new("sh").args(["-c", "exec ser2net -n -u -c \"$1\"", "sh"]).arg(&config);
        let command = command.env("PATH", path).stdout(Stdio::Null).stderr(Stdio::Null);
        let child = process::spawn(command).expect("sh runs");
        let address = format!("127.0.0.1:{port}");
        until(|| listens(port)).await;
        Self { child, address }
    }
}

/// A board's file whose line is this one, at a speed.
fn board(line: &str, speed: u32) -> Board {
    let speed = if line.starts_with("tcp") { String::new() } else { format!("speed = {speed}\n") };
    let text = format!("[serial]\n{line}\n{speed}[power]\non = \"true\"\noff = \"true\"\n");
    Board::parse(&text, Path::new("served.toml")).expect("a board")
}

/// Whether somebody listens on the port, by proc(5): ser2net takes one connection at a time, and none to try.
fn listens(port: u16) -> bool {
    let sockets = fs_err::read_to_string("/proc/net/tcp").expect("the kernel's list");
    sockets.lines().any(|line| line.contains(&format!(":{port:04X} 00000000:0000 0A")))
}

/// Waits for it.
async fn until(mut so: impl FnMut() -> bool) {
    let begun = Instant::now();
    while !so() {
        assert!(begun.elapsed() < LIMIT, "it was not so in time");
        tokio::task::yield_now().await;
    }
}

/// All of these are in the text.
fn says(text: &str, parts: &[&str]) {
    for part in parts {
        assert!(text.contains(part), "no {part:?} in: {text}");
    }
}

/// A terminal with its near end, and its path.
fn raw_pty() -> (shell::tty::Tty, std::os::fd::OwnedFd, std::path::PathBuf) {
    let pty = nix::pty::openpty(None, None).expect("a pty");
    let mut raw = nix::sys::termios::tcgetattr(&pty.slave).expect("a terminal");
    nix::sys::termios::cfmakeraw(&mut raw);
    nix::sys::termios::tcsetattr(&pty.slave, nix::sys::termios::SetArg::TCSANOW, &raw).expect("set");
    let path = nix::unistd::ttyname(&pty.slave).expect("its name");
    (shell::tty::Tty::from_fd(pty.master).expect("the near end"), pty.slave, path)
}

fn speed_of(terminal: impl AsFd) -> u32 {
    rustix::termios::tcgetattr(terminal).expect("a terminal").output_speed()
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs ser2net: `cargo xtask interop`"]
async fn every_byte_passes_both_ways_and_the_speed_is_set() {
    let folder = tempfile::tempdir().expect("a folder");
    // What Telnet and terminals treat as their own is among them, in many orders.
    let bytes: Vec<u8> = (0..20_000_u32).map(|n| (n.wrapping_mul(2_654_435_761) >> 11) as u8).collect();
    for (accepter, line, speed) in [(RAW, "tcp", 9600), (RFC2217, "rfc2217", 57_600)] {
        let (mut far, slave, terminal) = raw_pty();
        let server = Server::start(folder.path(), accepter, &terminal).await;
        let board = board(&format!("{line} = {:?}", server.address), speed);
        let mut near = line::open(&board, LIMIT).await.unwrap_or_else(|error| panic!("{line}: {error}"));
        let mut came = vec![0; bytes.len()];
        let there = async {
            near.write_all(&bytes).await?;
            far.read_exact(&mut came).await
        };
        tokio::time::timeout(LIMIT, there).await.expect("in time").expect("passed");
        assert!(came == bytes, "{line}: other bytes to the board");
        came.fill(0);
        let back = async {
            let (wrote, read) = tokio::join!(far.write_all(&bytes), near.read_exact(&mut came));
            wrote.and(read.map(drop))
        };
        tokio::time::timeout(LIMIT, back).await.expect("in time").expect("passed");
        assert!(came == bytes, "{line}: other bytes from the board");
        // A raw port is set by its server, which takes connections before.
        assert_eq!(speed_of(&slave), speed, "{line}");
    }
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs ser2net: `cargo xtask interop`"]
async fn a_port_of_another_kind_is_told() {
    let folder = tempfile::tempdir().expect("a folder");
    let (_far, _slave, terminal) = raw_pty();
    let limit = Duration::from_secs(3);
    let server = Server::start(folder.path(), TELNET, &terminal).await;
    let error = line::open(&board(&format!("rfc2217 = {:?}", server.address), 9600), limit).await;
    let error = error.err().expect("plain Telnet");
    assert!(matches!(error, Error::Refused { .. }), "{error}");
    says(&error.to_string(), &["served: its serial line 127.0.0.1:", "COM-PORT-OPTION"]);
    drop(server);
    let server = Server::start(folder.path(), RAW, &terminal).await;
    let error = line::open(&board(&format!("rfc2217 = {:?}", server.address), 9600), limit).await;
    let error = error.err().expect("a raw port");
    assert!(matches!(error, Error::ServerSilent { .. }), "{error}");
    says(&error.to_string(), &["had not confirmed the speed"]);
    let address = server.address.clone();
    drop(server);
    let port = address.rsplit_once(':').and_then(|(_, port)| port.parse().ok()).expect("a port");
    until(|| !listens(port)).await;
    let error = line::open(&board(&format!("tcp = {address:?}"), 9600), limit).await.err().expect("nobody");
    says(&error.to_string(), &["served: its serial line", "refused"]);
}
