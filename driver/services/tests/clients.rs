//! DHCP, DNS, HTTP and TCP clients that are not ours, from Debian, each in a network namespace with a tap that a relay joins to a
//! port of a real switch. The host's own network is not touched.

use std::fs::{self, File};
use std::io::{Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc;
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use nix::sched::{CloneFlags, unshare};
use nix::unistd::gettid;
use pretty_assertions::assert_eq;
use services::{
    Clients, DhcpScope, DhcpServer, DnsServer, Host, HostOptions, HttpFiles, Lease, LeaseState, RaScope,
    RecordData, Reservation, Zone,
};
use smoltcp::phy::{Device, Medium, RxToken, TunTapInterface, TxToken};
use switch::{Channel, Mac, PortConfig, PortMode, Switch, SwitchOptions, VlanId};
use tempfile::TempDir;

const LIMIT: Duration = Duration::from_secs(60);
const MAC: Mac = Mac([0x52, 0x54, 0, 1, 1, 1]);

struct Lab {
    dir: TempDir,
    sw: Switch,
    host: Host,
    dhcp: DhcpServer,
    dns: DnsServer,
    namespace: PathBuf,
    stop: Arc<AtomicBool>,
    relay: Option<JoinHandle<()>>,
}

fn lab() -> Lab {
    let dir = tempfile::tempdir().unwrap();
    let sw = Switch::start(SwitchOptions::new("sw", dir.path())).unwrap();
    let vlan = VlanId::new(7).unwrap();
    let host =
        Host::start(&sw, HostOptions::new("services", vlan, "192.168.7.254/24".parse().unwrap())).unwrap();
    let scope = DhcpScope {
        reservations: vec![Reservation {
            mac: MAC,
            address: "192.168.7.1".parse().unwrap(),
            hostname: Some("server-1".into()),
        }],
        router: Some("192.168.7.253".parse().unwrap()),
        dns: vec![host.address()],
        ntp: vec!["192.168.7.252".parse().unwrap()],
        mtu: Some(1400),
        domain: Some("lab".into()),
        search: vec!["lab".into(), "rack.lab".into()],
        routes: vec![("10.42.0.0/16".parse().unwrap(), "192.168.7.251".parse().unwrap())],
        ..DhcpScope::default()
    };
    let dhcp = host.serve_dhcp(scope).unwrap();
    let mut zone = Zone::new("lab").unwrap();
    zone.host("server-1", "192.168.7.1".parse().unwrap()).unwrap();
    let dns = host.serve_dns(zone).unwrap();
    let port = sw.add_port(PortConfig::new("client", PortMode::Access { vlan })).unwrap();
    let channel = sw.attach_channel(port).unwrap();
    let stop = Arc::new(AtomicBool::new(false));
    let (ready, namespace) = mpsc::channel();
    let stopped = Arc::clone(&stop);
    let relay = thread::spawn(move || relay(channel, &stopped, &ready));
    let namespace = namespace.recv_timeout(LIMIT).expect("a network namespace with a tap");
    let lab = Lab { dir, sw, host, dhcp, dns, namespace, stop, relay: Some(relay) };
    lab.succeed(&format!("ip link set eth0 address {MAC} up"));
    lab
}

/// Makes a namespace with a tap for this thread, and copies frames between it and the switch.
fn relay(mut channel: Channel, stop: &AtomicBool, ready: &mpsc::Sender<PathBuf>) {
    unshare(CloneFlags::CLONE_NEWNET).expect("a network namespace: this needs root");
    let mut tap = TunTapInterface::new("eth0", Medium::Ethernet).expect("a tap");
    ready.send(format!("/proc/{}/task/{}/ns/net", std::process::id(), gettid()).into()).unwrap();
    let now = smoltcp::time::Instant::now();
    while !stop.load(Ordering::Relaxed) {
        while let Some((frame, _)) = tap.receive(now) {
            frame.consume(|frame| channel.send(frame).unwrap());
        }
        while let Some(frame) = channel.recv(Duration::from_millis(1)).unwrap() {
            // A tap that is down takes nothing.
            tap.transmit(now).unwrap().consume(frame.len(), |to| to.copy_from_slice(&frame));
        }
    }
}

impl Drop for Lab {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        let ended = self.relay.take().unwrap().join();
        assert!(ended.is_ok() || thread::panicking(), "the relay panicked");
    }
}

impl Lab {
    /// A shell's command in the namespace, with mounts of its own.
    fn command(&self, script: &str) -> Command {
        let mut command = Command::new("nsenter");
        command.arg(format!("--net={}", self.namespace.display()));
        command
            .args(["unshare", "--mount", "timeout", "60", "sh", "-ec", script])
            .current_dir(self.dir.path());
        command
    }

    #[expect(
        clippy::disallowed_methods,
        reason = "the switch's crates start no programs, so `process` is not theirs"
    )]
    fn succeed(&self, script: &str) -> String {
        let output = self.command(script).output().unwrap();
        let text = String::from_utf8_lossy(&[output.stdout, output.stderr].concat()).into_owned();
        assert!(output.status.success(), "{script}: {}\n{text}", output.status);
        text
    }

    #[expect(
        clippy::disallowed_methods,
        reason = "the switch's crates start no programs, so `process` is not theirs"
    )]
    fn spawn(&self, script: &str) -> Client {
        let mut command = self.command(script);
        Client(
            command
                .stdin(Stdio::null())
                .stdout(Stdio::null())
                .stderr(File::create(self.path("log")).unwrap())
                .spawn()
                .unwrap(),
        )
    }

    /// A client's hook: keeps its environment in a file named by the reason, and configures the address.
    fn hook(&self, reason: &str, address: &str, prefix: &str) -> PathBuf {
        let path = self.path("hook");
        let dir = self.dir.path().display();
        let script = format!(
            "#!/bin/sh\nreason={reason}\nenv | sort > {dir}/$reason.new\nmv {dir}/$reason.new {dir}/$reason\n\
             [ -z \"{address}\" ] || ip address replace {address}/{prefix} dev eth0\nexit 0\n"
        );
        fs::write(&path, script).unwrap();
        fs::set_permissions(&path, std::os::unix::fs::PermissionsExt::from_mode(0o755)).unwrap();
        path
    }

    fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    fn lease(&self) -> Lease {
        self.dhcp.lease(MAC).unwrap().expect("a lease")
    }

    fn until(&self, what: &str, mut condition: impl FnMut() -> bool) {
        let end = Instant::now() + LIMIT;
        while !condition() {
            assert!(
                Instant::now() < end,
                "not within {LIMIT:?}: {what}; {:?}, {:?}, {:?}, {:#?}",
                fs::read_to_string(self.path("log")),
                self.dhcp.counters(),
                self.dhcp.leases(),
                self.sw.ports()
            );
            thread::yield_now();
        }
    }
}

/// The variables of a hook's environment that a test looks at.
fn variables(file: &Path, names: &[&str]) -> Vec<String> {
    let text = fs::read_to_string(file).unwrap();
    let has = |name: &&str| {
        let found = text.lines().find_map(|line| line.strip_prefix(*name)?.strip_prefix('='));
        format!("{name}={}", found.unwrap_or("(none)").trim())
    };
    names.iter().map(has).collect()
}

#[test]
#[ignore = "needs root, /dev/net/tun and Debian's udhcpc, knot-dnsutils, iputils-ping"]
fn udhcpc_and_what_it_then_reaches() {
    let lab = lab();
    let hook = lab.hook("$1", "$ip", "$mask");
    let hook = hook.display();
    lab.succeed(&format!(
        "udhcpc -f -n -q -i eth0 -s {hook} -x hostname:guest -O search -O staticroutes -O ntpsrv -O mtu -O hostname"
    ));
    let got = [
        "ip",
        "mask",
        "router",
        "dns",
        "ntpsrv",
        "mtu",
        "domain",
        "search",
        "staticroutes",
        "lease",
        "hostname",
    ];
    assert_eq!(
        variables(&lab.path("bound"), &got),
        [
            "ip=192.168.7.1",
            "mask=24",
            "router=192.168.7.253",
            "dns=192.168.7.254",
            "ntpsrv=192.168.7.252",
            "mtu=1400",
            "domain=lab",
            "search=lab rack.lab",
            "staticroutes=10.42.0.0/16 192.168.7.251 0.0.0.0/0 192.168.7.253",
            "lease=3600",
            "hostname=server-1",
        ]
    );
    let lease = lab.lease();
    assert_eq!((lease.state, lease.hostname.as_deref()), (LeaseState::Bound, Some("guest")));

    lab.succeed("ping -c 3 -i 0.05 -W 5 192.168.7.254; ping -c 1 -W 5 -s 6000 192.168.7.254");
    let dig = |query: &str| lab.succeed(&format!("kdig @192.168.7.254 {query}"));
    assert_eq!(dig("+short server-1.lab A"), "192.168.7.1\n");
    assert_eq!(dig("+short -x 192.168.7.1"), "server-1.lab.\n");
    assert_eq!(dig("+short +tcp SERVER-1.LAB A"), "192.168.7.1\n");
    assert!(dig("nobody.lab").contains("status: NXDOMAIN"));
    assert!(dig("example.com").contains("status: REFUSED"));
    for text in 0..40 {
        lab.dns.add("long", RecordData::Txt(format!("{text:0200}"))).unwrap();
    }
    let cut = dig("+ignore long.lab TXT");
    assert!(cut.contains("Flags: qr aa tc"), "{cut}");
    let whole = dig("+short long.lab TXT");
    assert_eq!(
        whole.lines().filter(|line| line.starts_with('"')).count(),
        40,
        "the client asks again over TCP: {whole}"
    );
}

#[test]
#[ignore = "needs root, /dev/net/tun and Debian's udhcpc"]
fn udhcpc_loses_its_lease_and_begins_anew() {
    let lab = lab();
    let hook = lab.hook("$1", "$ip", "$mask");
    lab.dhcp.set_lease_time(Duration::from_secs(16)).unwrap();
    let _client = lab.spawn(&format!("exec udhcpc -f -i eth0 -s {}", hook.display()));
    lab.until("it has an address", || lab.path("bound").exists());
    // By itself at half of its lease time, for which udhcpc takes no less than 16 s.
    lab.until("it renews", || lab.path("renew").exists());
    assert_eq!(lab.dhcp.counters().unwrap().naks, 0);

    lab.dhcp.expire(MAC).unwrap();
    assert_eq!(lab.lease().state, LeaseState::Expired);
    fs::remove_file(lab.path("bound")).unwrap();
    lab.until("it is refused", || lab.path("nak").exists());
    lab.until("it has an address again", || lab.path("bound").exists());
    assert_eq!(lab.lease().state, LeaseState::Bound);
    assert_eq!(lab.dhcp.counters().unwrap().naks, 1);
}

#[test]
#[ignore = "needs root, /dev/net/tun and Debian's isc-dhcp-client"]
fn dhclient_takes_an_address_and_gives_it_back() {
    let lab = lab();
    let hook = lab.hook("$reason", "$new_ip_address", "24");
    let client = format!("dhclient -4 -1 -cf conf -lf leases -pf pid -sf {}", hook.display());
    fs::write(
        lab.path("conf"),
        "option classless code 121 = array of unsigned integer 8;\n\
         request subnet-mask, routers, domain-name-servers, domain-search, interface-mtu, ntp-servers, classless, \
         host-name;\nsend host-name \"guest\";\n",
    )
    .unwrap();
    fs::write(lab.path("leases"), "").unwrap();
    lab.succeed(&format!("{client} -v eth0"));
    let got = [
        "new_ip_address",
        "new_subnet_mask",
        "new_routers",
        "new_domain_name_servers",
        "new_domain_search",
        "new_interface_mtu",
        "new_ntp_servers",
        "new_classless",
        "new_host_name",
        "new_dhcp_lease_time",
    ];
    assert_eq!(
        variables(&lab.path("BOUND"), &got),
        [
            "new_ip_address=192.168.7.1",
            "new_subnet_mask=255.255.255.0",
            "new_routers=192.168.7.253",
            "new_domain_name_servers=192.168.7.254",
            "new_domain_search=lab. rack.lab.",
            "new_interface_mtu=1400",
            "new_ntp_servers=192.168.7.252",
            "new_classless=16 10 42 192 168 7 251 0 192 168 7 253",
            "new_host_name=server-1",
            "new_dhcp_lease_time=3600",
        ]
    );
    assert_eq!(lab.lease().state, LeaseState::Bound);
    lab.succeed(&format!("{client} -r eth0"));
    lab.until("the address is given back", || lab.lease().state == LeaseState::Released);
}

#[test]
#[ignore = "needs root, /dev/net/tun and Debian's dhcpcd-base"]
fn dhcpcd_waits_for_a_server_that_is_silent() {
    let lab = lab();
    let hook = lab.hook("$reason", "", "");
    let silent = lab.dhcp.ignore(Clients::One(MAC)).unwrap();
    let _client = lab.spawn(&format!(
        "mkdir -p /var/lib/dhcpcd; mount -t tmpfs tmpfs /var/lib/dhcpcd; mount -t tmpfs tmpfs /run\n\
         exec dhcpcd -4 -1 -B -L --noarp -c {} eth0",
        hook.display()
    ));
    lab.until("it has asked in vain", || lab.dhcp.counters().unwrap().ignored > 0);
    assert_eq!(lab.dhcp.leases().unwrap(), []);
    silent.heal();
    lab.until("it has an address", || lab.path("BOUND").exists());
    let got = [
        "new_ip_address",
        "new_routers",
        "new_domain_name_servers",
        "new_domain_search",
        "new_interface_mtu",
    ];
    assert_eq!(
        variables(&lab.path("BOUND"), &got),
        [
            "new_ip_address=192.168.7.1",
            "new_routers=192.168.7.253",
            "new_domain_name_servers=192.168.7.254",
            "new_domain_search=lab rack.lab",
            "new_interface_mtu=1400",
        ]
    );
    assert_eq!(lab.lease().state, LeaseState::Bound);
}

#[test]
#[ignore = "needs root, /dev/net/tun and Debian's curl"]
fn curl_takes_files_whole_and_in_parts() {
    let lab = lab();
    lab.succeed("ip address add 192.168.7.1/24 dev eth0");
    let bundle: Vec<u8> = (0..20_000_000_u32).map(|n| (n % 249) as u8).collect();
    fs::create_dir(lab.path("www")).unwrap();
    fs::write(lab.path("www/bundle.raucb"), &bundle).unwrap();
    let server = lab.host.serve_files(8080, HttpFiles::Directory(lab.path("www"))).unwrap();
    let url = server.url("/bundle.raucb");
    lab.succeed(&format!("curl -sSf --output whole {url}; cmp whole www/bundle.raucb"));
    // A download that is resumed, as update clients do.
    lab.succeed(&format!(
        "head -c 7000001 www/bundle.raucb > part; curl -sSf --continue-at - --output part {url}; cmp part www/bundle.raucb"
    ));
    lab.succeed(&format!("curl -sSf --range 5-9 --output range {url}"));
    assert_eq!(fs::read(lab.path("range")).unwrap(), bundle[5..10]);
    let head = lab.succeed(&format!("curl -sSf --head {url}"));
    assert!(head.contains("content-length: 20000000"), "{head}");
    let code =
        |arguments: &str| lab.succeed(&format!("curl -s -o /dev/null -w '%{{http_code}}' {arguments}"));
    assert_eq!(code(&server.url("/none")), "404");
    assert_eq!(code(&format!("--path-as-is {}", server.url("/../hook"))), "404");
    assert_eq!(code(&format!("-X DELETE {url}")), "405");
    assert_eq!(code(&format!("--data x=1 {url}")), "405");
    lab.succeed(&format!("curl -sSf --parallel --parallel-immediate --remote-name-all {url}'?[1-9]' -o '#1'; for n in 1 2 3 4 5 6 7 8 9; do cmp $n www/bundle.raucb; done"));
    let seen = server.requests();
    assert!(seen.iter().any(|request| request.range.as_deref() == Some("bytes=7000001-")), "{seen:?}");
    assert!(
        seen.iter()
            .all(|request| request.user_agent.as_deref().is_some_and(|name| name.starts_with("curl/")))
    );
}

#[test]
#[ignore = "needs root, /dev/net/tun and Debian's iputils-ping, knot-dnsutils and curl"]
fn a_kernel_makes_its_own_address() {
    let lab = lab();
    lab.succeed("echo 2 > /proc/sys/net/ipv6/conf/eth0/accept_ra");
    let router = lab
        .host
        .serve_ra(RaScope {
            prefixes: vec!["fd00:7::/64".parse().unwrap()],
            mtu: Some(1380),
            dns: vec!["fd00:7::53".parse().unwrap()],
            router_lifetime: Duration::from_secs(1800),
            ..RaScope::default()
        })
        .unwrap();
    lab.until("it has an address", || {
        lab.succeed("ip -6 -o address show dev eth0 scope global -tentative")
            .contains("fd00:7::5054:ff:fe01:101/64")
    });
    let [link, global] = router.addresses() else { panic!("two addresses") };
    let route = lab.succeed("ip -6 route show default");
    assert!(route.contains(&format!("default via {link} dev eth0 proto ra")), "{route}");
    assert_eq!(lab.succeed("cat /proc/sys/net/ipv6/conf/eth0/mtu"), "1380\n");
    lab.succeed(&format!("ping -6 -c 2 -i 0.05 -W 5 {link}%eth0; ping -6 -c 2 -i 0.05 -W 5 {global}"));
    assert_eq!(lab.succeed(&format!("kdig @{global} +short server-1.lab A")), "192.168.7.1\n");
    fs::write(lab.path("file"), "over IPv6").unwrap();
    let _server = lab.host.serve_files(80, HttpFiles::Directory(lab.dir.path().to_owned())).unwrap();
    assert_eq!(lab.succeed(&format!("curl -sSf -g 'http://[{global}]/file'")), "over IPv6");
    let counters = router.counters().unwrap();
    assert!(counters.multicast + counters.unicast > 0 && counters.malformed == 0, "{counters:?}");
    router.stop().unwrap();
    router.counters().unwrap_err();
}

#[test]
#[ignore = "needs root, /dev/net/tun and Debian's dhcpcd-base"]
fn dhcpcd_takes_dns_servers_from_a_router() {
    let lab = lab();
    let hook = lab.hook("$reason", "", "");
    let scope = RaScope {
        prefixes: vec!["fd00:7::/64".parse().unwrap()],
        dns: vec!["fd00:7::53".parse().unwrap(), "fd00:7::54".parse().unwrap()],
        ..RaScope::default()
    };
    lab.host.serve_ra(scope).unwrap();
    let _client = lab.spawn(&format!(
        "mkdir -p /var/lib/dhcpcd; mount -t tmpfs tmpfs /var/lib/dhcpcd; mount -t tmpfs tmpfs /run\n\
         exec dhcpcd -6 -1 -B -c {} eth0",
        hook.display()
    ));
    lab.until("it has heard the router", || lab.path("ROUTERADVERT").exists());
    assert_eq!(
        variables(&lab.path("ROUTERADVERT"), &["nd1_rdnss1_servers", "nd1_prefix_information1_prefix"]),
        ["nd1_rdnss1_servers=fd00:7::53 fd00:7::54", "nd1_prefix_information1_prefix=fd00:7::"]
    );
}

#[test]
#[ignore = "needs root, /dev/net/tun and Debian's curl and perl-base"]
fn forwards_to_and_from_a_kernel() {
    let lab = lab();
    lab.succeed("ip address add 192.168.7.1/24 dev eth0");
    // Reads to the end, then answers with how much that was.
    let server = "use IO::Socket::INET; my $l = IO::Socket::INET->new(Listen => 5, LocalPort => 22) or die; \
         while (my $c = $l->accept) { my $n = 0; while (sysread($c, my $b, 65536)) { $n += length $b } \
         print $c $n; close $c }";
    let _server = lab.spawn(&format!("exec perl -e '{server}'"));
    let forward = lab.host.forward_to("192.168.7.1:22".parse().unwrap()).unwrap();
    let mut answer = String::new();
    lab.until("the server in the namespace listens", || {
        answer.clear();
        let mut stream = TcpStream::connect(forward.address()).unwrap();
        // Until it listens, its kernel refuses, which arrives here as a reset.
        let sent = stream.write_all(&vec![1; 3_000_000]).and_then(|()| stream.shutdown(Shutdown::Write));
        sent.and_then(|()| stream.read_to_string(&mut answer)).is_ok()
    });
    assert_eq!(answer, "3000000", "{forward:?}");

    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let forward = lab.host.forward_from(80, listener.local_addr().unwrap()).unwrap();
    let serving = thread::spawn(move || {
        let (mut stream, _) = listener.accept().unwrap();
        // All of it: a connection that is closed with bytes unread is reset.
        let mut request = Vec::new();
        while !request.ends_with(b"\r\n\r\n") {
            let mut byte = [0];
            stream.read_exact(&mut byte).unwrap();
            request.extend(byte);
        }
        stream.write_all(b"HTTP/1.0 200 OK\r\n\r\nfrom the test").unwrap();
        request
    });
    assert_eq!(lab.succeed(&format!("curl -sS http://{}/", forward.address())), "from the test");
    assert!(serving.join().unwrap().starts_with(b"GET / HTTP/1.1\r\n"));
    let refused = lab.command(&format!("curl -sS http://{}/", forward.address()));
    assert!(!succeeds(refused), "nobody listens any more");
    lab.until("the failure is told", || forward.last_failure().is_some_and(|why| why.contains("refused")));
}

#[expect(
    clippy::disallowed_methods,
    reason = "the switch's crates start no programs, so `process` is not theirs"
)]
fn succeeds(mut command: Command) -> bool {
    command.output().unwrap().status.success()
}

/// A client that runs on, and ends with this: each program on the way to it is replaced by the next.
struct Client(Child);

impl Drop for Client {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}
