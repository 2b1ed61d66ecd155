//! The client of RFC 2217: a serial port at the other end of a Telnet connection. Pure: bytes in, bytes out.
//!
//! [`wire`] reads and writes Telnet (RFC 854, 855, 856) with the COM-PORT-OPTION inside; [`Session`] asks for the
//! option, sets the port, and is ready once the server has said each value again.

pub mod wire;

use std::collections::BTreeMap;
use std::fmt;

use shell::tty::{FlowControl, Mode, Parity, StopBits};
use wire::{COM_PORT, Decoder, Item, Verb};

/// RFC 856: eight bits each way, nothing added to carriage returns.
const BINARY: u8 = 0;
/// RFC 858: both may speak at once.
const SUPPRESS_GO_AHEAD: u8 = 3;

/// What is set on a port: the number of the client's command. The server answers with 100 more.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Setting {
    /// SET-BAUDRATE, in baud.
    BaudRate = 1,
    /// SET-DATASIZE, in bits.
    DataSize = 2,
    /// SET-PARITY: 1 none, 2 odd, 3 even.
    Parity = 3,
    /// SET-STOPSIZE: 1 or 2 bits.
    StopSize = 4,
    /// SET-CONTROL, of which this is flow control alone: 1 none, 3 hardware.
    Flow = 5,
    /// PURGE-DATA: 3 is what waits in either direction.
    Purge = 12,
}

impl fmt::Display for Setting {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::BaudRate => "the speed",
            Self::DataSize => "the size of a character",
            Self::Parity => "the parity",
            Self::StopSize => "the stop bits",
            Self::Flow => "the flow control",
            Self::Purge => "emptying its buffers",
        })
    }
}

/// Why there is no such port.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Refusal {
    /// The server does not speak RFC 2217: a raw or plain Telnet port.
    NoComPort,
    /// It has set another value than was asked for.
    Value {
        /// What was to be set.
        setting: Setting,
        /// The value that was asked for, by the RFC's numbers.
        asked: u32,
        /// The value that it answered.
        answered: u32,
    },
}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NoComPort => f.write_str(
                "the server refuses Telnet's COM-PORT-OPTION (RFC 2217), so it may be a raw port: `tcp` is for those",
            ),
            Self::Value { setting, asked, answered } => {
                write!(f, "{setting}: {asked} was asked for, and the server set {answered}")
            }
        }
    }
}

/// What came of some bytes.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Received {
    /// What the serial port said.
    pub data: Vec<u8>,
    /// What has to go to the server.
    pub reply: Vec<u8>,
}

/// How far an option of Telnet's is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Side {
    Asked,
    On,
    Off,
}

/// One connection.
#[derive(Debug)]
pub struct Session {
    decoder: Decoder,
    ours: BTreeMap<u8, Side>,
    theirs: BTreeMap<u8, Side>,
    settings: Vec<(Setting, u32)>,
    /// Those that the server has not confirmed.
    open: Vec<(Setting, u32)>,
    refusal: Option<Refusal>,
    suspended: bool,
    /// A carriage return came on a line that is not binary: a NUL behind it is Telnet's.
    returned: bool,
}

impl Session {
    /// A session that will set the port to `mode`.
    #[must_use]
    pub fn new(mode: &Mode) -> Self {
        let settings = vec![
            (Setting::BaudRate, mode.speed),
            (Setting::DataSize, u32::from(mode.data_bits)),
            (
                Setting::Parity,
                match mode.parity {
                    Parity::None => 1,
                    Parity::Odd => 2,
                    Parity::Even => 3,
                },
            ),
            (
                Setting::StopSize,
                match mode.stop_bits {
                    StopBits::One => 1,
                    StopBits::Two => 2,
                },
            ),
            (
                Setting::Flow,
                match mode.flow {
                    FlowControl::None => 1,
                    FlowControl::Hardware => 3,
                },
            ),
            (Setting::Purge, 3),
        ];
        let asked = |options: &[u8]| options.iter().map(|&option| (option, Side::Asked)).collect();
        Self {
            decoder: Decoder::default(),
            ours: asked(&[BINARY, SUPPRESS_GO_AHEAD, COM_PORT]),
            theirs: asked(&[BINARY, SUPPRESS_GO_AHEAD]),
            open: settings.clone(),
            settings,
            refusal: None,
            suspended: false,
            returned: false,
        }
    }

    /// What is said first.
    #[must_use]
    pub fn begin(&self) -> Vec<u8> {
        let ours = self.ours.keys().map(|&option| (Verb::Will, option));
        let theirs = self.theirs.keys().map(|&option| (Verb::Do, option));
        ours.chain(theirs).flat_map(|(verb, option)| wire::negotiation(verb, option)).collect()
    }

    /// Whether the port is as it was asked for.
    #[must_use]
    pub fn is_ready(&self) -> bool {
        self.open.is_empty() && self.refusal.is_none()
    }

    /// Why it never will be.
    #[must_use]
    pub fn refusal(&self) -> Option<&Refusal> {
        self.refusal.as_ref()
    }

    /// What the server has not confirmed yet.
    #[must_use]
    pub fn open(&self) -> Vec<Setting> {
        self.open.iter().map(|(setting, _)| *setting).collect()
    }

    /// Whether the server takes no data now (FLOWCONTROL-SUSPEND).
    #[must_use]
    pub fn is_suspended(&self) -> bool {
        self.suspended
    }

    /// Data as it goes to the server.
    #[must_use]
    pub fn send(&self, data: &[u8]) -> Vec<u8> {
        wire::escape(data, self.ours.get(&BINARY) == Some(&Side::On))
    }

    /// Takes what the server sent.
    pub fn receive(&mut self, bytes: &[u8]) -> Received {
        let mut received = Received::default();
        for item in self.decoder.push(bytes) {
            match item {
                Item::Data(data) => self.data(&data, &mut received.data),
                Item::Negotiation(verb, option) => self.negotiate(verb, option, &mut received.reply),
                Item::ComPort(command, value) => self.answered(command, &value),
            }
        }
        received
    }

    fn data(&mut self, data: &[u8], out: &mut Vec<u8>) {
        if self.theirs.get(&BINARY) == Some(&Side::On) {
            self.returned = false;
            return out.extend_from_slice(data);
        }
        for &byte in data {
            if !(self.returned && byte == 0) {
                out.push(byte);
            }
            self.returned = byte == b'\r';
        }
    }

    fn negotiate(&mut self, verb: Verb, option: u8, reply: &mut Vec<u8>) {
        let (table, agree, refuse) = match verb {
            Verb::Do | Verb::Dont => (&mut self.ours, Verb::Will, Verb::Wont),
            Verb::Will | Verb::Wont => (&mut self.theirs, Verb::Do, Verb::Dont),
        };
        let wanted = matches!(verb, Verb::Do | Verb::Will);
        let Some(side) = table.get_mut(&option) else {
            // Only a wish is answered, so that two that say no don't go on for ever (RFC 1143).
            if wanted {
                reply.extend(wire::negotiation(refuse, option));
            }
            return;
        };
        let before = std::mem::replace(side, if wanted { Side::On } else { Side::Off });
        match (before, wanted) {
            (Side::Off, true) => reply.extend(wire::negotiation(agree, option)),
            (Side::On, false) => reply.extend(wire::negotiation(refuse, option)),
            _ => {}
        }
        if option == COM_PORT && matches!(verb, Verb::Do | Verb::Dont) {
            match (before, wanted) {
                (Side::On, true) => {}
                (_, true) => {
                    for &(setting, value) in &self.settings {
                        reply.extend(wire::com_port(setting as u8, &value_of(setting, value)));
                    }
                }
                (_, false) => self.refusal = Some(Refusal::NoComPort),
            }
        }
    }

    fn answered(&mut self, command: u8, value: &[u8]) {
        match command {
            wire::SUSPEND => self.suspended = true,
            wire::RESUME => self.suspended = false,
            _ => {}
        }
        let found = self.open.iter().position(|(setting, _)| *setting as u8 + wire::SERVER == command);
        let Some(index) = found else { return };
        let (setting, asked) = self.open.remove(index);
        // Big-endian, of one byte or four (RFC 2217, section 3).
        let answered = value.iter().fold(0_u32, |sum, &byte| sum << 8 | u32::from(byte));
        if answered != asked {
            self.refusal.get_or_insert(Refusal::Value { setting, asked, answered });
        }
    }
}

fn value_of(setting: Setting, value: u32) -> Vec<u8> {
    match setting {
        Setting::BaudRate => value.to_be_bytes().to_vec(),
        _ => vec![value.to_be_bytes()[3]],
    }
}

#[cfg(test)]
mod tests;
