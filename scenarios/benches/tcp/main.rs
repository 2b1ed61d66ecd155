//! TCP from one guest to another, over our stream ports, our vhost-user ports, and `vde_switch --hub`: how much goes
//! through in a second, and what it costs the switch.
//!
//! `cargo xtask bench tcp` installs the peer and runs it. The two machines are the same for all three: each has a NIC on
//! every network. Runs alternate.

use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::sync::OnceLock;
use std::time::Duration;

use bench_table::{Better, Table, json_argument};
use driver::spec::{NicBackend, NicSpec};
use process::{Child, Command, Stdio};
use scenarios::prelude::*;
use serde_json::{Value, json};
use switch::{PortMode, VlanId};

/// What a case takes from a transfer.
type Figure = fn(&Sent) -> f64;

/// Runs of each network.
const RUNS: usize = 5;
/// What each sends, in seconds.
const SECONDS: u64 = 5;
const PEER: &str = "vde_switch --hub";
const MACHINES: [&str; 2] = ["server-1", "server-2"];
/// A VLAN that the profile does not have, for the fast NICs.
const FAST_VLAN: u16 = 3001;
/// The root port of the NIC that is plugged in: behind those of the two NICs that a machine starts with.
const SPARE_PORT: &str = "rp2";
const DEADLINE: Duration = secs(20 * 60);

/// Where the results go besides the terminal.
static JSON: OnceLock<PathBuf> = OnceLock::new();

/// A network that both machines are on, each with an address of its own in it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Network {
    Stream,
    Fast,
    Vde,
}

const NETWORKS: [Network; 3] = [Network::Stream, Network::Fast, Network::Vde];

impl Network {
    /// The address of the machine with this index.
    fn address(self, machine: usize) -> String {
        format!("10.77.{}.{}", self as u8, machine + 1)
    }

    /// The MAC address of that machine's NIC, of those that the profile does not give.
    fn mac(self, machine: usize) -> String {
        format!("52:54:00:77:{:02x}:{:02x}", self as u8, machine + 1)
    }
}

/// What one run gave.
struct Sent {
    mib_per_second: f64,
    /// CPU time of the switch.
    us_per_mib: f64,
}

fn main() -> ExitCode {
    match json_argument() {
        Ok(Some(file)) => JSON.set(file).expect("set once"),
        Ok(None) => {}
        Err(code) => return code,
    }
    let suite = suite("bench-tcp").test("tcp", tcp).deadline(DEADLINE);
    suite.run_with([OsString::from("bench-tcp")])
}

async fn tcp(t: &mut Testbed) -> Result {
    let rack = Rack::of(profiles::simple(), &MACHINES).edit(|lab| {
        for (index, machine) in lab.machines.iter_mut().enumerate() {
            let vlan = VlanId::new(FAST_VLAN).expect("a VLAN's number");
            machine.nics.truncate(1);
            machine.nics.push(NicSpec {
                name: "eth2".to_owned(),
                mac: Network::Fast.mac(index),
                port: PortMode::Access { vlan },
                backend: NicBackend::VhostUser,
            });
        }
    });
    let lab = rack.launch(t).await?;
    lab.wait_ready().await?;
    let vde = t.step("each machine is on each network", async || connect(&lab).await).await?;
    let [near, far] = MACHINES.map(|name| &lab[name]);
    far.succeed("systemd-run --unit=iperf iperf3 --server").await?;
    far.wait_for_open_port(5201).await?;
    let mut runs: Vec<(Network, Sent)> = Vec::new();
    for run in 0..RUNS {
        // Who begins changes.
        let mut order = NETWORKS;
        order.rotate_left(run % NETWORKS.len());
        for network in order {
            let cpu = || match network {
                Network::Stream | Network::Fast => cpu_of_thread(lab.switch().name()),
                Network::Vde => cpu(&PathBuf::from(format!("/proc/{}", vde.child.pid()))),
            };
            let before = cpu()?;
            let (bytes, seconds) = iperf(near, &network.address(1)).await?;
            let cpu = cpu()? - before;
            let mib = bytes / f64::from(1 << 20);
            let sent = Sent { mib_per_second: mib / seconds, us_per_mib: cpu.as_secs_f64() * 1e6 / mib };
            t.note(&format!(
                "{network:?}: {:.1} MiB/s, {:.0} µs of the switch for each MiB",
                sent.mib_per_second, sent.us_per_mib
            ));
            runs.push((network, sent));
        }
    }
    let of = |network: Network, value: fn(&Sent) -> f64| -> Vec<f64> {
        runs.iter().filter(|(of, _)| *of == network).map(|(_, sent)| value(sent)).collect()
    };
    let mut table = Table::of("tcp");
    for (network, name) in [(Network::Stream, "stream ports"), (Network::Fast, "vhost-user ports")] {
        let cases: [(_, _, _, Figure); 2] = [
            ("throughput", "MiB/s", Better::More, |sent| sent.mib_per_second),
            ("CPU of the switch", "µs/MiB", Better::Less, |sent| sent.us_per_mib),
        ];
        for (what, unit, better, value) in cases {
            let (mut ours, mut peer) = (of(network, value), of(Network::Vde, value));
            table.add(
                &format!("TCP between two guests, {name}, {what}"),
                unit,
                better,
                &mut ours,
                PEER,
                &mut peer,
            );
        }
    }
    table.print();
    match JSON.get() {
        Some(file) => Ok(table.write(file)?),
        None => Ok(()),
    }
}

/// The peer; it ends with its stdin, and so with this at the latest.
struct Vde {
    child: Child,
    _directory: tempfile::TempDir,
}

/// Starts the peer, plugs both machines into it, and gives every NIC its address.
async fn connect(lab: &Lab) -> Result<Vde> {
    let directory = tempfile::tempdir()?;
    let sockets = directory.path().join("vde");
    let start = Command::new("vde_switch").args(["--hub", "-s"]).arg(&sockets);
    let child = process::spawn(start.stdin(Stdio::Piped).stdout(Stdio::Null))?;
    let control = sockets.join("ctl");
    let listening = driver::poll_until(secs(10), async || control.exists().then_some(())).await;
    listening.with_context(|| format!("{PEER} does not listen on {}", control.display()))?;
    for (index, name) in MACHINES.iter().enumerate() {
        let machine = &lab[name];
        let monitor = machine.monitor()?;
        let netdev = json!({ "type": "vde", "id": "net-vde", "sock": sockets });
        monitor.execute_raw("netdev_add", netdev).await?;
        let device = json!({
            "driver": "virtio-net-pci", "id": "nic-vde", "netdev": "net-vde", "bus": SPARE_PORT, "romfile": "",
            "mac": Network::Vde.mac(index),
        });
        monitor.execute_raw("device_add", device).await?;
        let stream = machine.spec().nics[0].mac.clone();
        for network in NETWORKS {
            let mac = if network == Network::Stream { stream.clone() } else { network.mac(index) };
            let address = network.address(index);
            machine
                .wait_until_succeeds(format!(
                    "for nic in /sys/class/net/*; do if grep -qx {mac} $nic/address; then \
                     ip link set ${{nic##*/}} up && ip address replace {address}/24 dev ${{nic##*/}}; fi; done; \
                     ip -4 -o address | grep -qw {address}"
                ))
                .await?;
        }
    }
    for network in NETWORKS {
        lab[MACHINES[0]].wait_until_succeeds(format!("ping -c1 -W2 {}", network.address(1))).await?;
    }
    Ok(Vde { child, _directory: directory })
}

/// The bytes that arrived, and in how many seconds.
async fn iperf(from: &Machine, to: &str) -> Result<(f64, f64)> {
    let command = format!("iperf3 --json --time {SECONDS} --client {to}");
    let report = from.succeed(command).within(secs(SECONDS + 60)).await?;
    let report: Value = serde_json::from_str(&report)?;
    let sum = &report["end"]["sum_received"];
    let figure = |name: &str| sum[name].as_f64().with_context(|| format!("iperf3's report has no {name}"));
    Ok((figure("bytes")?, figure("seconds")?))
}

/// The CPU time of the switch's thread in this process.
fn cpu_of_thread(switch: &str) -> Result<Duration> {
    // As long as a thread's name can be (prctl(2), PR_SET_NAME).
    let name: String = format!("switch {switch}").chars().take(15).collect();
    for thread in fs_err::read_dir("/proc/self/task")? {
        let thread = thread?.path();
        if fs_err::read_to_string(thread.join("comm"))?.trim_end() == name {
            return cpu(&thread);
        }
    }
    bail!("no thread {name:?}")
}

/// The CPU time of a process or a thread: the first number of `schedstat`, in nanoseconds (Linux's sched-stats.rst).
fn cpu(of: &Path) -> Result<Duration> {
    let text = fs_err::read_to_string(of.join("schedstat"))?;
    let nanoseconds = text.split_whitespace().next().context("an empty schedstat")?;
    Ok(Duration::from_nanos(nanoseconds.parse()?))
}
