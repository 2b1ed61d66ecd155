use proptest::prelude::*;
use shell::tty::Mode;

use super::wire::{Decoder, IAC, Item, Verb, com_port, escape, negotiation};
use super::*;

/// A server's answer to a setting.
fn answer(setting: Setting, value: &[u8]) -> Vec<u8> {
    com_port(setting as u8 + wire::SERVER, value)
}

/// A server that agrees to all, and sets what it is asked for.
fn agreed(mode: &Mode) -> Session {
    let mut session = Session::new(mode);
    session.receive(&negotiation(Verb::Do, COM_PORT));
    session.receive(&[negotiation(Verb::Do, BINARY), negotiation(Verb::Will, BINARY)].concat());
    for (setting, value) in session.settings.clone() {
        session.receive(&answer(setting, &value_of(setting, value)));
    }
    session
}

#[test]
fn a_port_is_set_once_the_server_agrees_to_the_option() {
    let mode = Mode { speed: 115_200, parity: Parity::Even, stop_bits: StopBits::Two, ..Mode::new(115_200) };
    let mut session = Session::new(&mode);
    assert_eq!(
        session.begin(),
        [255, 251, 0, 255, 251, 3, 255, 251, 44, 255, 253, 0, 255, 253, 3],
        "WILL BINARY, SGA and COM-PORT, DO BINARY and SGA"
    );
    assert_eq!(session.receive(&negotiation(Verb::Do, BINARY)), Received::default(), "nothing is said twice");
    let settings = session.receive(&negotiation(Verb::Do, COM_PORT)).reply;
    let expected = [
        &[255, 250, 44, 1, 0, 1, 0xc2, 0, 255, 240][..],
        &[255, 250, 44, 2, 8, 255, 240],
        &[255, 250, 44, 3, 3, 255, 240],
        &[255, 250, 44, 4, 2, 255, 240],
        &[255, 250, 44, 5, 1, 255, 240],
        &[255, 250, 44, 12, 3, 255, 240],
    ];
    assert_eq!(settings, expected.concat());
    assert!(!session.is_ready());
    session.receive(&answer(Setting::BaudRate, &115_200_u32.to_be_bytes()));
    for (setting, value) in
        [(Setting::DataSize, 8), (Setting::Parity, 3), (Setting::StopSize, 2), (Setting::Flow, 1)]
    {
        session.receive(&answer(setting, &[value]));
    }
    assert_eq!(session.open(), [Setting::Purge]);
    session.receive(&answer(Setting::Purge, &[3]));
    assert!(session.is_ready() && session.refusal().is_none());
}

#[test]
fn another_value_is_a_refusal() {
    let mut session = Session::new(&Mode::new(1_500_000));
    session.receive(&negotiation(Verb::Do, COM_PORT));
    session.receive(&answer(Setting::BaudRate, &115_200_u32.to_be_bytes()));
    let refusal = session.refusal().expect("refused").to_string();
    assert_eq!(refusal, "the speed: 1500000 was asked for, and the server set 115200");
    assert!(!session.is_ready());
}

#[test]
fn a_server_without_the_option_is_told() {
    let mut session = Session::new(&Mode::new(9600));
    let replied = session.receive(&negotiation(Verb::Dont, COM_PORT)).reply;
    assert!(replied.is_empty(), "it was asked for, and is not on: {replied:?}");
    assert_eq!(session.refusal(), Some(&Refusal::NoComPort));
    // One that changes its mind, when all was well.
    let mut session = agreed(&Mode::new(9600));
    assert!(session.is_ready());
    assert_eq!(session.receive(&negotiation(Verb::Dont, COM_PORT)).reply, [255, 252, 44]);
    assert!(!session.is_ready());
}

#[test]
fn what_was_not_asked_for_is_refused_and_a_refusal_is_not_answered() {
    let mut session = Session::new(&Mode::new(9600));
    assert_eq!(session.receive(&negotiation(Verb::Will, 1)).reply, [255, 254, 1], "DONT ECHO");
    assert_eq!(session.receive(&negotiation(Verb::Do, 24)).reply, [255, 252, 24], "WONT TERMINAL-TYPE");
    assert!(session.receive(&negotiation(Verb::Wont, 1)).reply.is_empty());
    assert!(session.receive(&negotiation(Verb::Dont, 24)).reply.is_empty());
}

#[test]
fn carriage_returns_have_a_nul_only_where_it_is_not_binary() {
    let mut session = Session::new(&Mode::new(9600));
    assert_eq!(session.send(b"a\r\xff"), b"a\r\0\xff\xff");
    assert_eq!(session.receive(b"x\r").data, b"x\r");
    assert_eq!(session.receive(b"\0y\0").data, b"y\0", "the NUL behind a return is Telnet's, another is not");
    let mut session = agreed(&Mode::new(9600));
    assert_eq!(session.send(b"a\r\xff"), b"a\r\xff\xff");
    assert_eq!(session.receive(b"x\r\0").data, b"x\r\0");
}

#[test]
fn a_server_can_hold_back() {
    let mut session = agreed(&Mode::new(9600));
    session.receive(&com_port(wire::SUSPEND, &[]));
    assert!(session.is_suspended());
    session.receive(&com_port(wire::RESUME, &[]));
    assert!(!session.is_suspended());
}

#[test]
fn a_sub_negotiation_without_end_takes_no_memory_and_is_dropped() {
    let mut decoder = Decoder::default();
    assert!(decoder.push(&[255, 250, 44, 101]).is_empty());
    for _ in 0..1000 {
        assert!(decoder.push(&[7; 1000]).is_empty());
    }
    assert_eq!(decoder.push(&[255, 240, b'x']), [Item::Data(vec![b'x'])]);
}

/// Joins data that was cut.
fn joined(items: Vec<Item>) -> Vec<Item> {
    items.into_iter().fold(Vec::new(), |mut joined, item| {
        match (joined.last_mut(), item) {
            (Some(Item::Data(data)), Item::Data(more)) => data.extend(more),
            (_, item) => joined.push(item),
        }
        joined
    })
}

proptest! {
    #[test]
    fn data_comes_back_as_it_was(data: Vec<u8>, cut in 1_usize..9) {
        let mut session = agreed(&Mode::new(9600));
        let sent = session.send(&data);
        let came: Vec<u8> = sent.chunks(cut).flat_map(|piece| session.receive(piece).data).collect();
        prop_assert_eq!(came, data);
    }

    #[test]
    fn values_come_back_as_they_were(command: u8, value in proptest::collection::vec(any::<u8>(), 0..40)) {
        let items = Decoder::default().push(&com_port(command, &value));
        prop_assert_eq!(items, [Item::ComPort(command, value)]);
    }

    #[test]
    fn cuts_make_no_difference(bytes in proptest::collection::vec(prop_oneof![Just(IAC), Just(250), Just(240), Just(44), any::<u8>()], 0..200), cut in 1_usize..9) {
        let whole = Decoder::default().push(&bytes);
        let mut decoder = Decoder::default();
        let pieces = bytes.chunks(cut).flat_map(|piece| decoder.push(piece)).collect();
        prop_assert_eq!(joined(whole), joined(pieces));
    }

    #[test]
    fn an_escaped_byte_is_never_a_command(data: Vec<u8>, binary: bool) {
        let items = Decoder::default().push(&escape(&data, binary));
        let only_data = items.iter().all(|item| matches!(item, Item::Data(_)));
        prop_assert!(only_data);
    }
}
