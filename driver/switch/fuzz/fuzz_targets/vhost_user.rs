//! A guest that writes anything into its rings and buffers, and a front end that changes them while they run: no panic,
//! the switch answers, its counters account for every frame, and a port of the usual kind goes on.
//!
//! One switch for all inputs, whose thread would end with a panic. It has threads, which ends the run of a leak checker:
//! `cargo fuzz run vhost_user -- -detect_leaks=0`.

#![no_main]

#[path = "../../tests/guest/mod.rs"]
#[allow(dead_code, reason = "the tests use more of it")]
mod guest;

use std::sync::{Mutex, OnceLock};
use std::time::Duration;

use guest::{ALL, Guest, MEMORY, SIZE, VERSION_1, ring};
use libfuzzer_sys::fuzz_target;
use switch::{Channel, PortConfig, PortCounters, PortId, PortMode, Switch, SwitchOptions, VlanId};
use tempfile::TempDir;
use vm_memory::{Bytes, GuestAddress};

const LIMIT: Duration = Duration::from_secs(10);
/// Of an input, as no mutation makes a longer one more interesting.
const STEPS: usize = 200;

struct Lab {
    sw: Switch,
    fast: PortId,
    channels: Mutex<[Channel; 2]>,
    _dir: TempDir,
}

fn lab() -> &'static Lab {
    static LAB: OnceLock<Lab> = OnceLock::new();
    LAB.get_or_init(|| {
        let dir = tempfile::tempdir().expect("a directory");
        let sw = Switch::start(SwitchOptions::new("fuzz", dir.path())).expect("a switch");
        let mode = PortMode::Access { vlan: VlanId::new(1).expect("a VLAN") };
        let add = |name: &str, fast: bool| {
            sw.add_port(PortConfig::new(name, mode.clone()).fast(fast)).expect("a port")
        };
        let fast = add("fast", true);
        let channels = ["a", "b"].map(|name| sw.attach_channel(add(name, false)).expect("a channel"));
        Lab { sw, fast, channels: Mutex::new(channels), _dir: dir }
    })
}

fuzz_target!(|bytes: &[u8]| {
    let Lab { sw, fast, channels, .. } = lab();
    let Some((first, mut rest)) = bytes.split_first() else { return };
    let features = if first & 1 == 0 { ALL } else { VERSION_1 };
    let buffers = if first & 2 == 0 { SIZE } else { 0 };
    let mut guest = Guest::start(&sw.socket_path(*fast).expect("its socket"), features, buffers);
    for _ in 0..STEPS {
        let [what, a, b, c, d, tail @ ..] = rest else { break };
        rest = tail;
        let (index, slot) = (usize::from(a & 1), u16::from(*b) % SIZE);
        let wide = u16::from_le_bytes([*c, *d]);
        match what % 8 {
            // A buffer within the memory, at its end, or nowhere.
            0 => guest.describe(index, slot, u64::from(wide) << 4, u32::from(wide), u16::from(a >> 1)),
            1 => guest.describe(index, slot, MEMORY as u64 - u64::from(*c), u32::from(*d), u16::from(a >> 1)),
            2 => guest.describe(index, slot, u64::MAX - u64::from(*c), u32::MAX - u32::from(*d), 0),
            3 => guest.announce(index, wide),
            // Anything in any part of a ring.
            4 => {
                let at = ring(index) + 4 * u64::from(*b) * u64::from(a >> 1);
                let _ = guest.memory.write_slice(&[*c, *d], GuestAddress(at));
            }
            5 => guest.set_up(index),
            6 => {
                let length = usize::from(*b).min(rest.len());
                let (frame, tail) = rest.split_at(length);
                rest = tail;
                guest.send_with(&[*a, *c, *d, 0, *c, *d, *a, 0, *b, 0], frame);
            }
            _ => guest.submit(u64::from(wide) << 6, u32::from(*b) << (a & 15), u16::from(a >> 4)),
        }
    }
    let mut channels = channels.lock().expect("no panic before");
    let [from, to] = &mut *channels;
    let beacon = [&[0xff; 6][..], &[2, 0, 0, 0, 0, 9], &[0x88, 0xb5], b"still there"].concat();
    from.send(&beacon).expect("the switch reads");
    while *to.recv(LIMIT).expect("the switch is there").expect("the frame arrives") != *beacon {}
    for port in sw.ports().expect("the switch answers") {
        let PortCounters { rx, tx, .. } = &port.counters;
        assert_eq!(rx.frames, rx.forwarded + rx.consumed + rx.dropped_total(), "{port:#?}");
        let gone = tx.sent + tx.dropped_total() + port.queue.frames + port.delayed.frames;
        assert_eq!(tx.offered + tx.duplicated, gone, "{port:#?}");
    }
    // What this guest sent to it is not for the next.
    while from.recv(Duration::from_micros(1)).expect("the switch is there").is_some() {}
});
