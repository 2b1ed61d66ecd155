//! The server's rules as a table: what a client says, when, and what comes back.

use std::net::Ipv4Addr;
use std::time::{Duration, Instant};

use dhcproto::v4::{DhcpOption, Flags, Message, MessageType, OptionCode};
use dhcproto::{Decodable, Decoder, Encodable};
use pretty_assertions::assert_eq;
use proptest::prelude::*;
use switch::Mac;

use super::*;
use crate::Error;

const KNOWN: Mac = Mac([0x52, 0x54, 0, 1, 1, 1]);
const OTHER: Mac = Mac([0x52, 0x54, 0, 9, 9, 9]);
const THIRD: Mac = Mac([0x52, 0x54, 0, 9, 9, 8]);
const HOUR: Duration = Duration::from_secs(3600);

fn ip(last: u8) -> Ipv4Addr {
    Ipv4Addr::new(192, 168, 1, last)
}

fn scope() -> DhcpScope {
    DhcpScope {
        reservations: vec![Reservation { mac: KNOWN, address: ip(1), hostname: Some("server-1".into()) }],
        range: Some(ip(100)..=ip(101)),
        ..DhcpScope::default()
    }
}

/// An engine, and the time.
struct Bench {
    engine: DhcpEngine,
    now: Instant,
}

fn bench(scope: DhcpScope) -> Bench {
    Bench {
        engine: DhcpEngine::new("192.168.1.254/24".parse().unwrap(), scope).unwrap(),
        now: Instant::now(),
    }
}

fn message(mac: Mac, kind: MessageType) -> Message {
    let none = Ipv4Addr::UNSPECIFIED;
    let mut message = Message::new(none, none, none, none, &mac.0);
    message.opts_mut().insert(DhcpOption::MessageType(kind));
    message
}

impl Bench {
    fn send(&mut self, message: &Message) -> Option<DhcpReply> {
        self.engine.handle(&message.to_vec().unwrap(), self.now)
    }

    /// The reply in short: its type and its address.
    fn say(&mut self, message: &Message) -> Option<(MessageType, Ipv4Addr)> {
        let reply = self.send(message)?;
        Some((reply.kind, read(&reply).yiaddr()))
    }

    fn discover(&mut self, mac: Mac) -> Option<(MessageType, Ipv4Addr)> {
        self.say(&message(mac, MessageType::Discover))
    }

    /// SELECTING: this server was chosen.
    fn choose(&mut self, mac: Mac, address: Ipv4Addr) -> Option<(MessageType, Ipv4Addr)> {
        self.say(&asking(mac, Some(ip(254)), Some(address), None))
    }

    /// RENEWING or REBINDING.
    fn renew(&mut self, mac: Mac, address: Ipv4Addr) -> Option<(MessageType, Ipv4Addr)> {
        self.say(&asking(mac, None, None, Some(address)))
    }

    /// INIT-REBOOT.
    fn reboot(&mut self, mac: Mac, address: Ipv4Addr) -> Option<(MessageType, Ipv4Addr)> {
        self.say(&asking(mac, None, Some(address), None))
    }

    fn state(&self, mac: Mac) -> LeaseState {
        self.engine.leases(self.now).into_iter().find(|lease| lease.mac == mac).unwrap().state
    }
}

fn asking(mac: Mac, server: Option<Ipv4Addr>, asked: Option<Ipv4Addr>, own: Option<Ipv4Addr>) -> Message {
    let mut request = message(mac, MessageType::Request);
    request.set_ciaddr(own.unwrap_or(Ipv4Addr::UNSPECIFIED));
    let options = [server.map(DhcpOption::ServerIdentifier), asked.map(DhcpOption::RequestedIpAddress)];
    for option in options.into_iter().flatten() {
        request.opts_mut().insert(option);
    }
    request
}

fn read(reply: &DhcpReply) -> Message {
    Message::decode(&mut Decoder::new(&reply.message)).unwrap()
}

fn offer(last: u8) -> Option<(MessageType, Ipv4Addr)> {
    Some((MessageType::Offer, ip(last)))
}

fn ack(last: u8) -> Option<(MessageType, Ipv4Addr)> {
    Some((MessageType::Ack, ip(last)))
}

const NAK: Option<(MessageType, Ipv4Addr)> = Some((MessageType::Nak, Ipv4Addr::UNSPECIFIED));

#[test]
fn an_address_is_offered_taken_renewed_and_given_back() {
    for (mac, last) in [(KNOWN, 1), (OTHER, 100)] {
        let mut bench = bench(scope());
        assert_eq!(bench.discover(mac), offer(last));
        assert_eq!(bench.state(mac), LeaseState::Offered);
        assert_eq!(bench.choose(mac, ip(last)), ack(last));
        assert_eq!(bench.state(mac), LeaseState::Bound);
        bench.now += HOUR / 2;
        assert_eq!(bench.renew(mac, ip(last)), ack(last));
        bench.now += HOUR - Duration::from_secs(1);
        assert_eq!(bench.state(mac), LeaseState::Bound, "a renewal counts from when it was made");
        bench.now += Duration::from_secs(1);
        assert_eq!(bench.state(mac), LeaseState::Expired);
        assert_eq!(bench.reboot(mac, ip(last)), ack(last), "nobody else has it");
        let mut release = message(mac, MessageType::Release);
        release.set_ciaddr(ip(last));
        assert_eq!(bench.say(&release), None);
        assert_eq!(bench.state(mac), LeaseState::Released);
    }
}

#[test]
fn what_a_client_may_not_have_is_refused_to_all_at_once() {
    let mut bench = bench(scope());
    for (mac, last) in [(KNOWN, 100), (OTHER, 1), (OTHER, 254), (OTHER, 50), (KNOWN, 2)] {
        assert_eq!(bench.choose(mac, ip(last)), NAK, "{mac} chooses {last}");
        assert_eq!(bench.renew(mac, ip(last)), NAK, "{mac} renews {last}");
        assert_eq!(bench.reboot(mac, ip(last)), NAK, "{mac} reboots with {last}");
    }
    assert_eq!(bench.reboot(OTHER, "10.0.0.7".parse().unwrap()), NAK, "it comes from another network");
    assert_eq!(bench.discover(OTHER), offer(100));
    assert_eq!(bench.choose(OTHER, ip(100)), ack(100));
    assert_eq!(bench.renew(THIRD, ip(100)), NAK, "another has it");
    let nak = bench.send(&asking(THIRD, None, None, Some(ip(100)))).unwrap();
    assert_eq!((nak.to, nak.mac), (Ipv4Addr::BROADCAST, Mac::BROADCAST));
}

#[test]
fn the_range_ends_and_addresses_come_back() {
    let mut bench = bench(scope());
    assert_eq!(bench.discover(OTHER), offer(100));
    assert_eq!(bench.discover(THIRD), offer(101));
    let late = Mac([2, 0, 0, 0, 0, 1]);
    assert_eq!(bench.discover(late), None);
    assert_eq!(bench.engine.counters().no_address, 1);
    assert_eq!(bench.choose(THIRD, ip(101)), ack(101));
    bench.now += Duration::from_secs(61);
    assert_eq!(bench.discover(late), offer(100), "an offer that nobody took is void after a minute");
    assert_eq!(bench.discover(OTHER), None);
}

#[test]
fn another_server_was_chosen() {
    let mut bench = bench(scope());
    assert_eq!(bench.discover(OTHER), offer(100));
    assert_eq!(bench.say(&asking(OTHER, Some(ip(253)), Some(ip(7)), None)), None);
    assert_eq!(bench.engine.leases(bench.now), []);
}

#[test]
fn a_declined_address_is_left_alone() {
    let mut bench = bench(scope());
    for (mac, last, instead) in [(OTHER, 100, 101), (KNOWN, 1, 100)] {
        bench.engine = DhcpEngine::new("192.168.1.254/24".parse().unwrap(), scope()).unwrap();
        assert_eq!(bench.discover(mac), offer(last));
        assert_eq!(bench.choose(mac, ip(last)), ack(last));
        let mut decline = message(mac, MessageType::Decline);
        decline.opts_mut().insert(DhcpOption::RequestedIpAddress(ip(last)));
        assert_eq!(bench.say(&decline), None);
        assert_eq!(bench.state(mac), LeaseState::Declined);
        assert_eq!(bench.discover(mac), offer(instead));
    }
}

#[test]
fn a_client_with_an_address_is_told_the_options_only() {
    let mut bench = bench(scope());
    let mut inform = message(OTHER, MessageType::Inform);
    inform.set_ciaddr(ip(77));
    let reply = bench.send(&inform).unwrap();
    assert_eq!((reply.to, reply.mac), (ip(77), OTHER));
    let reply = read(&reply);
    assert!(reply.yiaddr().is_unspecified() && !reply.opts().contains(OptionCode::AddressLeaseTime));
    assert!(reply.opts().contains(OptionCode::SubnetMask));
    assert_eq!(bench.engine.leases(bench.now), []);
}

#[test]
fn where_replies_go() {
    let mut bench = bench(scope());
    let mut discover = message(KNOWN, MessageType::Discover);
    let reply = bench.send(&discover).unwrap();
    assert_eq!((reply.to, reply.mac), (ip(1), KNOWN), "to an address that the client has not yet");
    assert!(reply.message.len() >= 300);
    discover.set_flags(Flags::default().set_broadcast());
    let reply = bench.send(&discover).unwrap();
    assert_eq!((reply.to, reply.mac), (Ipv4Addr::BROADCAST, Mac::BROADCAST));
}

#[test]
fn a_client_gets_the_options_that_it_asks_for() {
    let mut bench = bench(DhcpScope { mtu: Some(9000), router: Some(ip(253)), ..scope() });
    let mut discover = message(KNOWN, MessageType::Discover);
    discover.opts_mut().insert(DhcpOption::ClientIdentifier(vec![255, 1, 2]));
    let all = read(&bench.send(&discover).unwrap());
    assert_eq!(all.opts().get(OptionCode::InterfaceMtu), Some(&DhcpOption::InterfaceMtu(9000)));
    assert_eq!(all.opts().get(OptionCode::Hostname), Some(&DhcpOption::Hostname("server-1".into())));
    assert_eq!(all.opts().get(OptionCode::Renewal), Some(&DhcpOption::Renewal(1800)));
    assert_eq!(all.opts().get(OptionCode::Rebinding), Some(&DhcpOption::Rebinding(3150)));
    assert!(all.opts().contains(OptionCode::ClientIdentifier));
    discover.opts_mut().insert(DhcpOption::ParameterRequestList(vec![OptionCode::Router]));
    let some = read(&bench.send(&discover).unwrap());
    assert!(some.opts().contains(OptionCode::Router) && !some.opts().contains(OptionCode::InterfaceMtu));
}

#[test]
fn a_test_ends_refuses_ignores_and_delays() {
    let mut bench = bench(scope());
    let missing = bench.engine.expire(KNOWN, bench.now).unwrap_err().to_string();
    assert!(missing.contains("52:54:00:01:01:01 has no lease"), "{missing}");
    assert_eq!(bench.choose(KNOWN, ip(1)), ack(1));
    bench.engine.expire(KNOWN, bench.now).unwrap();
    assert_eq!(bench.state(KNOWN), LeaseState::Expired);
    assert_eq!(bench.renew(KNOWN, ip(1)), NAK);
    assert_eq!(bench.discover(KNOWN), offer(1));

    let refuse = bench.engine.inject(Clients::One(KNOWN), DhcpFault::Nak);
    assert_eq!(bench.discover(KNOWN), offer(1));
    assert_eq!(bench.choose(KNOWN, ip(1)), NAK);
    assert_eq!(bench.choose(OTHER, ip(100)), ack(100));
    bench.engine.heal(refuse);
    assert_eq!(bench.choose(KNOWN, ip(1)), ack(1));

    let ignore = bench.engine.inject(Clients::All, DhcpFault::Ignore);
    assert_eq!(bench.renew(KNOWN, ip(1)), None);
    assert_eq!(bench.engine.counters().ignored, 1);
    bench.engine.heal(ignore);
    bench.engine.inject(Clients::All, DhcpFault::Delay(HOUR));
    assert_eq!(bench.send(&message(KNOWN, MessageType::Discover)).unwrap().delay, HOUR);
}

#[test]
fn what_is_no_clients_message_is_counted_only() {
    let mut bench = bench(scope());
    let sound = message(KNOWN, MessageType::Discover).to_vec().unwrap();
    for (at, value) in [(0, 2), (1, 6), (2, 17), (2, 255), (24, 1), (28, 0x01), (236, 0)] {
        let mut bad = sound.clone();
        bad[at] = value;
        assert_eq!(bench.engine.handle(&bad, bench.now), None, "byte {at}");
    }
    assert_eq!(bench.engine.counters().malformed, 7);
    assert!(bench.engine.handle(&sound, bench.now).is_some());
}

#[test]
fn options_that_mean_nothing_are_passed_over() {
    let mut bench = bench(scope());
    let sound = message(KNOWN, MessageType::Discover).to_vec().unwrap();
    let nonsense: [&[u8]; 6] = [
        // A static route whose prefix has 33 bits.
        &[121, 9, 33, 1, 2, 3, 4, 5, 6, 7, 8],
        // A bulk lease query's base time of two bytes, and a status without a code.
        &[152, 2, 0, 0],
        &[151, 0],
        // An address of one byte, and a type of three.
        &[50, 1, 9],
        &[53, 3, 1, 121, 5],
        // Cut short.
        &[12, 200, b'a'],
    ];
    for option in nonsense {
        let mut bytes = sound[..sound.len() - 1].to_vec();
        bytes.extend(option);
        let reply = bench.engine.handle(&bytes, bench.now).expect("an offer");
        assert_eq!((reply.kind, read(&reply).yiaddr()), (MessageType::Offer, ip(1)), "{option:?}");
        // In front of the type too.
        bytes = sound[..240].to_vec();
        bytes.extend(option);
        bytes.extend(&sound[240..]);
        let reply = bench.engine.handle(&bytes, bench.now);
        assert!(reply.is_some() || option[0] == 12, "{option:?}");
    }
}

#[test]
fn a_scope_that_cannot_work_is_refused() {
    let refused = |change: fn(&mut DhcpScope)| {
        let mut scope = scope();
        change(&mut scope);
        DhcpEngine::new("192.168.1.254/24".parse().unwrap(), scope)
            .err()
            .map(|error: Error| error.to_string())
    };
    let told = |change, part: &str| {
        let error = refused(change).expect("it is refused");
        assert!(error.contains(part), "{error}");
    };
    told(
        |scope| scope.reservations[0].address = "10.0.0.1".parse().unwrap(),
        "the reservation of server-1: 10.0.0.1",
    );
    told(|scope| scope.reservations[0].address = ip(255), "192.168.1.255");
    told(
        |scope| scope.reservations[0].address = ip(254),
        "the server and the reservation of server-1 both have",
    );
    told(|scope| scope.reservations.extend(scope.reservations.clone()), "both have 192.168.1.1");
    told(|scope| scope.range = Some(ip(9)..=ip(8)), "has 0 addresses");
    told(|scope| scope.range = Some(ip(9)..="192.168.2.9".parse().unwrap()), "the range: 192.168.2.9");
    told(|scope| scope.lease_time = Duration::from_millis(999), "a lease of 0 s");
    told(|scope| scope.mtu = Some(67), "an MTU of 67");
    told(|scope| scope.search = vec!["a..b".into()], "\"a..b\"");
    told(|scope| scope.search = (0..60).map(|n| format!("domain-{n}.example.org")).collect(), "1472 fit");
    assert_eq!(refused(|_| ()), None);
}

#[test]
fn a_flood_of_clients_takes_no_more_than_the_range() {
    let mut bench = bench(DhcpScope { range: Some(ip(10)..=ip(200)), ..scope() });
    for client in 0..4_000_u32 {
        let [a, b, c, d] = client.to_be_bytes();
        let mut discover = message(Mac([2, 0, a, b, c, d]), MessageType::Discover);
        discover.opts_mut().insert(DhcpOption::Hostname("h".repeat(400)));
        bench.send(&discover);
    }
    let leases = bench.engine.leases(bench.now);
    assert_eq!(leases.len(), 191);
    assert!(leases.iter().all(|lease| lease.hostname.as_deref().unwrap().len() == 255));
    assert_eq!(bench.discover(KNOWN), offer(1), "a reservation holds through it");
}

proptest! {
    /// Whatever clients say, no two have one address, and nobody has one that is not theirs to have.
    #[test]
    fn no_address_is_given_twice(
        steps in proptest::collection::vec((0_u8..6, 0_u8..5, 98_u8..104, 0_u64..4000), 0..60)
    ) {
        let mut bench = bench(scope());
        for (client, verb, last, seconds) in steps {
            let mac = if client == 0 { KNOWN } else { Mac([2, 0, 0, 0, 0, client]) };
            let last = if last == 98 { 1 } else { last };
            let got = match verb {
                0 => bench.discover(mac),
                1 => bench.choose(mac, ip(last)),
                2 => bench.renew(mac, ip(last)),
                3 => bench.reboot(mac, ip(last)),
                _ => {
                    bench.now += Duration::from_secs(seconds);
                    continue;
                }
            };
            if let Some((MessageType::Offer | MessageType::Ack, address)) = got {
                let own: &[Ipv4Addr] = if mac == KNOWN { &[ip(1)] } else { &[ip(100), ip(101)] };
                prop_assert!(own.contains(&address));
            }
            let leases = bench.engine.leases(bench.now);
            let mut addresses: Vec<_> = leases.iter().map(|lease| lease.address).collect();
            addresses.sort();
            addresses.dedup();
            prop_assert_eq!(addresses.len(), leases.len());
        }
    }

    #[test]
    fn any_bytes_are_taken(start in any::<Vec<u8>>(), options in any::<Vec<u8>>()) {
        let mut bench = bench(scope());
        bench.engine.handle(&start, bench.now);
        let mut bytes = message(OTHER, MessageType::Discover).to_vec().unwrap();
        bytes.pop();
        bytes.extend(options);
        bench.engine.handle(&bytes, bench.now);
        DhcpFrame::parse(&start, KNOWN, ip(254));
    }
}
