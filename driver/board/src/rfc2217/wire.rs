//! Telnet's bytes, and the sub-negotiation of the COM-PORT-OPTION in them.

/// Interpret as command.
pub const IAC: u8 = 255;
/// Begin and end of a sub-negotiation.
const SB: u8 = 250;
const SE: u8 = 240;
/// Telnet's COM-PORT-OPTION.
pub const COM_PORT: u8 = 44;
/// What a server adds to the number of a client's command.
pub const SERVER: u8 = 100;
/// FLOWCONTROL-SUSPEND of a server: no data, please.
pub const SUSPEND: u8 = 108;
/// FLOWCONTROL-RESUME of a server.
pub const RESUME: u8 = 109;
/// The longest sub-negotiation that is kept; of the COM-PORT-OPTION's, only a signature is longer than six bytes.
const SUB_MAX: usize = 512;

/// Who is to do what (RFC 854).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verb {
    /// I will.
    Will = 251,
    /// I won't.
    Wont = 252,
    /// You do.
    Do = 253,
    /// You don't.
    Dont = 254,
}

/// One thing that came.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Item {
    /// Bytes of the serial port.
    Data(Vec<u8>),
    /// A verb and an option.
    Negotiation(Verb, u8),
    /// A command of the COM-PORT-OPTION with its value.
    ComPort(u8, Vec<u8>),
}

/// A verb about an option.
#[must_use]
pub fn negotiation(verb: Verb, option: u8) -> [u8; 3] {
    [IAC, verb as u8, option]
}

/// A command of the COM-PORT-OPTION.
#[must_use]
pub fn com_port(command: u8, value: &[u8]) -> Vec<u8> {
    let mut bytes = vec![IAC, SB, COM_PORT];
    for &byte in std::iter::once(&command).chain(value) {
        bytes.push(byte);
        if byte == IAC {
            bytes.push(IAC);
        }
    }
    bytes.extend([IAC, SE]);
    bytes
}

/// Data for the other end. Where it is not `binary`, a carriage return gets Telnet's NUL.
#[must_use]
pub fn escape(data: &[u8], binary: bool) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(data.len() + 8);
    for &byte in data {
        bytes.push(byte);
        match byte {
            IAC => bytes.push(IAC),
            b'\r' if !binary => bytes.push(0),
            _ => {}
        }
    }
    bytes
}

/// Takes a stream apart. How it is cut makes no difference.
#[derive(Debug, Default)]
pub struct Decoder {
    state: State,
    sub: Vec<u8>,
}

#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
enum State {
    #[default]
    Data,
    Command,
    Option(Verb),
    Sub,
    SubCommand,
}

impl Decoder {
    /// What these bytes complete; data comes as far as it is there.
    pub fn push(&mut self, bytes: &[u8]) -> Vec<Item> {
        let mut items = Vec::new();
        for &byte in bytes {
            self.state = match (self.state, byte) {
                (State::Data, IAC) => State::Command,
                (State::Data, _) => {
                    add(&mut items, byte);
                    State::Data
                }
                (State::Command, IAC) => {
                    add(&mut items, IAC);
                    State::Data
                }
                (State::Command, SB) => {
                    self.sub.clear();
                    State::Sub
                }
                (State::Command, 251) => State::Option(Verb::Will),
                (State::Command, 252) => State::Option(Verb::Wont),
                (State::Command, 253) => State::Option(Verb::Do),
                (State::Command, 254) => State::Option(Verb::Dont),
                // NOP, "are you there" and the like.
                (State::Command, _) => State::Data,
                (State::Option(verb), option) => {
                    items.push(Item::Negotiation(verb, option));
                    State::Data
                }
                (State::Sub, IAC) => State::SubCommand,
                (State::Sub, _) => {
                    self.keep(byte);
                    State::Sub
                }
                (State::SubCommand, IAC) => {
                    self.keep(IAC);
                    State::Sub
                }
                (State::SubCommand, SE) => {
                    items.extend(self.end_of_sub());
                    State::Data
                }
                // Not in RFC 855: the server has lost its thread, and so the sub-negotiation is over.
                (State::SubCommand, _) => State::Data,
            };
        }
        items
    }

    fn keep(&mut self, byte: u8) {
        if self.sub.len() <= SUB_MAX {
            self.sub.push(byte);
        }
    }

    fn end_of_sub(&mut self) -> Option<Item> {
        let sub = std::mem::take(&mut self.sub);
        match sub.as_slice() {
            [COM_PORT, command, value @ ..] if sub.len() <= SUB_MAX => {
                Some(Item::ComPort(*command, value.to_vec()))
            }
            _ => None,
        }
    }
}

fn add(items: &mut Vec<Item>, byte: u8) {
    match items.last_mut() {
        Some(Item::Data(data)) => data.push(byte),
        _ => items.push(Item::Data(vec![byte])),
    }
}
