//! The machines of one port (IEEE 802.1AX, 6.4): Receive, Periodic Transmission, Mux (coupled control), the limit on
//! transmission, and the Marker Responder (6.5.4).

use std::collections::VecDeque;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::pdu::{LacpBit, LacpState, Lacpdu, Marker, Pdu, PortInfo};
use crate::mac::Mac;

/// `Fast_Periodic_Time`, and the interval of the limit on transmission (6.4.16).
const FAST_PERIODIC: Duration = Duration::from_secs(1);
/// `Slow_Periodic_Time`.
const SLOW_PERIODIC: Duration = Duration::from_secs(30);
/// `Short_Timeout_Time`.
const SHORT_TIMEOUT: Duration = Duration::from_secs(3);
/// `Long_Timeout_Time`.
const LONG_TIMEOUT: Duration = Duration::from_secs(90);
/// `Aggregate_Wait_Time`.
const AGGREGATE_WAIT: Duration = Duration::from_secs(2);
/// No more LACPDUs than this leave within [`FAST_PERIODIC`] (6.4.16).
const PDUS_PER_SECOND: usize = 3;
/// No more answers to markers than this leave within a second: the limit of IEEE 802.3, 57A.3 for one slow protocol.
const MARKERS_PER_SECOND: usize = 10;

/// The state of the Receive machine. INITIALIZE is not here: it leads on to [`ReceiveState::PortDisabled`] at once.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ReceiveState {
    /// The port is down.
    PortDisabled,
    /// The port is up and does not speak LACP: its bundle is static.
    LacpDisabled,
    /// A LACPDU is overdue; 3 s more and the partner is forgotten.
    Expired,
    /// There is no partner that speaks LACP.
    Defaulted,
    /// The partner's last LACPDU is fresh.
    Current,
}

/// The state of the Periodic Transmission machine.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum PeriodicState {
    /// No LACPDUs: the port is down, does not speak LACP, or both ends are passive.
    NoPeriodic,
    /// One each second, as the partner wishes.
    Fast,
    /// One each 30 s.
    Slow,
}

/// The state of the Mux machine, with collecting and distributing as one.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum MuxState {
    /// Not part of the bundle.
    Detached,
    /// Chosen; waits 2 s for other links, so that they join together.
    Waiting,
    /// Part of the bundle as far as we are concerned; the partner is not in sync yet.
    Attached,
    /// Carries frames.
    CollectingDistributing,
}

/// What the Selection logic says of a port.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Selected {
    /// The bundle has chosen the port.
    Selected,
    /// It fits, but eight others are there already.
    Standby,
    /// Not chosen: the port is down.
    Down,
    /// Not chosen: no partner that speaks LACP was heard.
    Silent,
    /// Not chosen: the partner takes the link for an individual one.
    Individual,
    /// Not chosen: the partner is this bundle itself, by a cable from the switch to the switch.
    Loopback,
    /// Not chosen: its partner, or the partner's key, is another one than that of the bundle.
    OtherPartner,
    /// Not chosen since the partner changed; until the Mux machine has let go.
    Changed,
}

#[derive(Debug)]
pub(super) struct Port {
    pub(super) enabled: bool,
    lacp: bool,
    pub(super) actor: PortInfo,
    pub(super) partner: PortInfo,
    pub(super) receive: ReceiveState,
    current_while: Option<Duration>,
    pub(super) periodic: PeriodicState,
    periodic_timer: Option<Duration>,
    pub(super) selected: Selected,
    pub(super) mux: MuxState,
    wait_while: Option<Duration>,
    need_to_transmit: bool,
    sent: Window<PDUS_PER_SECOND>,
    markers: VecDeque<Marker>,
    markers_answered: Window<MARKERS_PER_SECOND>,
    /// Whether the owner was last told that the port carries frames.
    pub(super) reported: bool,
    pub(super) pdus_received: u64,
    pub(super) pdus_sent: u64,
}

/// When the last `N` frames were sent.
#[derive(Debug, Default)]
struct Window<const N: usize>(VecDeque<Duration>);

impl<const N: usize> Window<N> {
    /// From when on one more may be sent.
    fn open_at(&self) -> Duration {
        match self.0.front() {
            Some(oldest) if self.0.len() == N => oldest.saturating_add(FAST_PERIODIC),
            _ => Duration::ZERO,
        }
    }

    fn sent(&mut self, now: Duration) {
        if self.0.len() == N {
            self.0.pop_front();
        }
        self.0.push_back(now);
    }
}

/// `Partner_Admin`: what is believed of a partner that was not heard. It wants a LACPDU each second, so that one that
/// is passive is found within a second of its start.
fn unknown_partner() -> PortInfo {
    let state = LacpState(LacpBit::ShortTimeout as u8);
    PortInfo { system_priority: 0, system: Mac([0; 6]), key: 0, port_priority: 0, port: 0, state }
}

fn is_over(timer: Option<Duration>, now: Duration) -> bool {
    timer.is_some_and(|end| end <= now)
}

impl Port {
    /// In INITIALIZE, that is: down.
    pub(super) fn new(actor: PortInfo, lacp: bool) -> Port {
        let mut port = Port {
            enabled: false,
            lacp,
            actor,
            partner: unknown_partner(),
            receive: ReceiveState::PortDisabled,
            current_while: None,
            periodic: PeriodicState::NoPeriodic,
            periodic_timer: None,
            selected: Selected::Down,
            mux: MuxState::Detached,
            wait_while: None,
            need_to_transmit: false,
            sent: Window::default(),
            markers: VecDeque::new(),
            markers_answered: Window::default(),
            reported: false,
            pdus_received: 0,
            pdus_sent: 0,
        };
        port.initialize();
        port
    }

    pub(super) fn is_active(&self) -> bool {
        self.mux == MuxState::CollectingDistributing
    }

    /// INITIALIZE, and on to PORT_DISABLED: also when the partner was seen on another port (`port_moved`).
    pub(super) fn initialize(&mut self) {
        self.record_default();
        self.actor.state.set(LacpBit::Expired, false);
        self.disable();
    }

    pub(super) fn set_enabled(&mut self, enabled: bool, now: Duration) {
        if self.enabled == enabled {
            return;
        }
        self.enabled = enabled;
        if !enabled {
            self.disable();
        } else if self.lacp {
            self.expire(now);
        } else {
            self.receive = ReceiveState::LacpDisabled;
            self.record_default();
            self.partner.state.set(LacpBit::Aggregation, false);
            self.actor.state.set(LacpBit::Expired, false);
        }
        self.run_periodic(now);
    }

    /// PORT_DISABLED. Who the partner was is kept, so that a cable that is plugged in again is known again.
    fn disable(&mut self) {
        self.receive = ReceiveState::PortDisabled;
        self.current_while = None;
        self.partner.state.set(LacpBit::Synchronization, false);
        self.markers.clear();
    }

    /// EXPIRED.
    fn expire(&mut self, now: Duration) {
        self.receive = ReceiveState::Expired;
        self.partner.state.set(LacpBit::Synchronization, false);
        self.partner.state.set(LacpBit::ShortTimeout, true);
        self.current_while = Some(now.saturating_add(SHORT_TIMEOUT));
        self.actor.state.set(LacpBit::Expired, true);
    }

    fn record_default(&mut self) {
        self.partner = unknown_partner();
        self.partner.state.set(LacpBit::Synchronization, true);
        self.actor.state.set(LacpBit::Defaulted, true);
    }

    /// A LACPDU has come: CURRENT.
    pub(super) fn receive(&mut self, pdu: &Lacpdu, now: Duration) {
        if !self.enabled || !self.lacp {
            return;
        }
        self.pdus_received += 1;
        self.receive = ReceiveState::Current;
        // update_Selected
        if !pdu.actor.is_same_port(&self.partner) {
            self.selected = Selected::Changed;
        }
        // update_NTT: what the partner believes of us is not so.
        let mut compared = LacpState(0);
        for bit in [LacpBit::Activity, LacpBit::ShortTimeout, LacpBit::Synchronization, LacpBit::Aggregation]
        {
            compared.set(bit, true);
        }
        let differs = (pdu.partner.state.0 ^ self.actor.state.0) & compared.0 != 0;
        self.need_to_transmit |= differs || !pdu.partner.is_same_port(&self.actor);
        self.record_pdu(pdu);
        let timeout = if self.actor.state.has(LacpBit::ShortTimeout) { SHORT_TIMEOUT } else { LONG_TIMEOUT };
        self.current_while = Some(now.saturating_add(timeout));
        self.actor.state.set(LacpBit::Expired, false);
        self.run_periodic(now);
    }

    fn record_pdu(&mut self, pdu: &Lacpdu) {
        let theirs = pdu.actor.state;
        let individual = !theirs.has(LacpBit::Aggregation);
        let knows_us = pdu.partner.is_same_port(&self.actor) || individual;
        let asks_us = self.actor.state.has(LacpBit::Activity) && pdu.partner.state.has(LacpBit::Activity);
        let maintained = theirs.has(LacpBit::Activity) || asks_us;
        let in_sync = theirs.has(LacpBit::Synchronization) && knows_us && maintained;
        self.partner = pdu.actor;
        self.partner.state.set(LacpBit::Synchronization, in_sync);
        self.actor.state.set(LacpBit::Defaulted, false);
    }

    /// A question of the Marker protocol has come. Those above the limit are not answered.
    pub(super) fn mark(&mut self, marker: Marker) {
        if self.enabled && self.lacp && self.markers.len() < MARKERS_PER_SECOND {
            self.markers.push_back(marker);
        }
    }

    /// Lets the timers run out that are due.
    pub(super) fn run_timers(&mut self, now: Duration) {
        if is_over(self.current_while, now) {
            self.current_while = None;
            match self.receive {
                ReceiveState::Current => self.expire(now),
                ReceiveState::Expired => {
                    self.receive = ReceiveState::Defaulted;
                    // update_Default_Selected
                    if !self.partner.is_same_port(&unknown_partner()) {
                        self.selected = Selected::Changed;
                    }
                    self.record_default();
                    self.actor.state.set(LacpBit::Expired, false);
                }
                _ => {}
            }
        }
        if is_over(self.wait_while, now) {
            self.wait_while = None;
        }
        self.run_periodic(now);
    }

    fn run_periodic(&mut self, now: Duration) {
        let active = [&self.actor, &self.partner].into_iter().any(|end| end.state.has(LacpBit::Activity));
        if !self.enabled || !self.lacp || !active {
            self.periodic = PeriodicState::NoPeriodic;
            self.periodic_timer = None;
            return;
        }
        let fast = self.partner.state.has(LacpBit::ShortTimeout);
        let over = is_over(self.periodic_timer, now);
        let next = match self.periodic {
            // The standard begins with Fast_Periodic even if the partner wishes it slow.
            PeriodicState::NoPeriodic => PeriodicState::Fast,
            _ if fast => PeriodicState::Fast,
            _ => PeriodicState::Slow,
        };
        self.need_to_transmit |= over || self.periodic == PeriodicState::Slow && next == PeriodicState::Fast;
        if over || next != self.periodic {
            let period = if next == PeriodicState::Fast { FAST_PERIODIC } else { SLOW_PERIODIC };
            self.periodic_timer = Some(now.saturating_add(period));
        }
        self.periodic = next;
    }

    /// Chosen, and not waiting any more: what the Mux machine calls `Ready_N`.
    pub(super) fn holds_others_up(&self) -> bool {
        self.mux == MuxState::Waiting && self.selected == Selected::Selected && self.wait_while.is_some()
    }

    /// One step of the Mux machine; false if it stays where it is.
    pub(super) fn step_mux(&mut self, ready: bool, now: Duration) -> bool {
        use MuxState::*;
        let chosen = self.selected == Selected::Selected;
        let in_sync = self.partner.state.has(LacpBit::Synchronization);
        let next = match self.mux {
            // Without LACP there is nobody to come to terms with.
            _ if !self.lacp && chosen => CollectingDistributing,
            Detached if chosen || self.selected == Selected::Standby => Waiting,
            Waiting if !chosen && self.selected != Selected::Standby => Detached,
            Waiting if chosen && ready => Attached,
            Attached if !chosen => Detached,
            Attached if in_sync => CollectingDistributing,
            CollectingDistributing if !chosen || !in_sync && self.lacp => Attached,
            same => same,
        };
        if next == self.mux {
            return false;
        }
        self.mux = next;
        self.wait_while = (next == Waiting).then(|| now.saturating_add(AGGREGATE_WAIT));
        let state = &mut self.actor.state;
        state.set(LacpBit::Synchronization, matches!(next, Attached | CollectingDistributing));
        state.set(LacpBit::Collecting, next == CollectingDistributing);
        state.set(LacpBit::Distributing, next == CollectingDistributing);
        self.need_to_transmit |= next != Waiting;
        true
    }

    /// What may leave now.
    pub(super) fn transmit(&mut self, now: Duration) -> Vec<Pdu> {
        let mut pdus = Vec::new();
        if self.periodic == PeriodicState::NoPeriodic {
            self.need_to_transmit = false;
        }
        if self.need_to_transmit && self.sent.open_at() <= now {
            self.need_to_transmit = false;
            self.sent.sent(now);
            self.pdus_sent += 1;
            pdus.push(Pdu::Lacp(Lacpdu { actor: self.actor, partner: self.partner, collector_max_delay: 0 }));
        }
        while self.markers_answered.open_at() <= now
            && let Some(marker) = self.markers.pop_front()
        {
            self.markers_answered.sent(now);
            pdus.push(Pdu::MarkerResponse(marker));
        }
        pdus
    }

    /// When there is something to do next.
    pub(super) fn next_deadline(&self) -> Option<Duration> {
        let unreported = (self.reported != self.is_active()).then_some(Duration::ZERO);
        let pdu = self.need_to_transmit.then(|| self.sent.open_at());
        let marker = (!self.markers.is_empty()).then(|| self.markers_answered.open_at());
        [self.current_while, self.periodic_timer, self.wait_while, unreported, pdu, marker]
            .into_iter()
            .flatten()
            .min()
    }
}
