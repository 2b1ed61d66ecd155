//! What QEMU says.

use std::fmt;
use std::time::Duration;

use serde_json::{Map, Value};

/// One message from QEMU.
#[derive(Debug, Clone, PartialEq)]
pub enum Message {
    /// The first message of a connection.
    Greeting(Greeting),
    /// Something happened.
    Event(Event),
    /// A command's answer.
    Return {
        /// The command's id.
        id: Option<u64>,
        /// What it returns.
        value: Value,
    },
    /// A command was refused.
    Error {
        /// The command's id; there is none if QEMU could not read the command.
        id: Option<u64>,
        /// `GenericError`, `CommandNotFound`, `DeviceNotFound`…
        class: String,
        /// For a human.
        description: String,
    },
    /// None of these.
    Garbage,
}

impl Message {
    /// Reads a line. Members that are not known are passed over.
    pub fn parse(line: &[u8]) -> Message {
        let Ok(Value::Object(mut object)) = serde_json::from_slice(line) else { return Message::Garbage };
        let id = object.get("id").and_then(Value::as_u64);
        if let Some(Value::Object(greeting)) = object.get("QMP") {
            return Message::Greeting(Greeting::of(greeting));
        }
        if let Some(Value::String(name)) = object.remove("event") {
            let timestamp = object.get("timestamp").and_then(timestamp);
            let data = object.remove("data").unwrap_or(Value::Object(Map::new()));
            return Message::Event(Event { name, data, timestamp });
        }
        if let Some(Value::Object(error)) = object.get("error") {
            let text = |key| error.get(key).and_then(Value::as_str).unwrap_or_default().to_owned();
            return Message::Error { id, class: text("class"), description: text("desc") };
        }
        match object.remove("return") {
            Some(value) => Message::Return { id, value },
            None => Message::Garbage,
        }
    }
}

fn timestamp(value: &Value) -> Option<Duration> {
    let seconds = value.get("seconds")?.as_u64()?;
    // -1 stands for a host clock that could not be read.
    let microseconds = value.get("microseconds")?.as_u64().filter(|&us| us < 1_000_000)?;
    Some(Duration::new(seconds, u32::try_from(microseconds).ok()? * 1000))
}

/// An event, of whatever name.
#[derive(Debug, Clone, PartialEq)]
pub struct Event {
    /// `SHUTDOWN`, `RESET`, `GUEST_PANICKED`…
    pub name: String,
    /// What belongs to it; an empty object if nothing does.
    pub data: Value,
    /// The host's clock, since the Unix epoch.
    pub timestamp: Option<Duration>,
}

impl fmt::Display for Event {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.name)?;
        match &self.data {
            Value::Object(data) if data.is_empty() => Ok(()),
            data => write!(f, " {data}"),
        }
    }
}

/// The first message of a connection.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Greeting {
    /// QEMU's version.
    pub version: Version,
    /// What may be switched on: `oob`.
    pub capabilities: Vec<String>,
}

impl Greeting {
    fn of(greeting: &Map<String, Value>) -> Greeting {
        let version = greeting.get("version");
        let number = |key| {
            let number = version.and_then(|version| version.get("qemu")?.get(key)?.as_u64());
            number.and_then(|number| u32::try_from(number).ok()).unwrap_or_default()
        };
        let package =
            version.and_then(|version| version.get("package")?.as_str()).unwrap_or_default().to_owned();
        let capabilities = greeting.get("capabilities").and_then(Value::as_array).into_iter().flatten();
        Greeting {
            version: Version {
                major: number("major"),
                minor: number("minor"),
                micro: number("micro"),
                package,
            },
            capabilities: capabilities.filter_map(|name| name.as_str().map(str::to_owned)).collect(),
        }
    }
}

/// QEMU's version. For messages and keys; what a QEMU *can* is asked for, never concluded from its version.
#[derive(Debug, Clone, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Version {
    /// 7 of 7.2.22.
    pub major: u32,
    /// 2 of 7.2.22.
    pub minor: u32,
    /// 22 of 7.2.22.
    pub micro: u32,
    /// The distribution's: `Debian 1:7.2+dfsg-7+deb12u18`.
    pub package: String,
}

impl fmt::Display for Version {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}.{}", self.major, self.minor, self.micro)?;
        if self.package.is_empty() { Ok(()) } else { write!(f, " ({})", self.package) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn what_is_newer_than_we_are_is_read_all_the_same() {
        let line = br#"{"event": "SOMETHING_NEW", "data": {"a": [1]}, "timestamp": {"seconds": 5, "microseconds": 7}, "x": 1}"#;
        let Message::Event(event) = Message::parse(line) else { panic!() };
        assert_eq!(
            (event.name.as_str(), event.timestamp),
            ("SOMETHING_NEW", Some(Duration::from_micros(5_000_007)))
        );
        assert_eq!(event.to_string(), r#"SOMETHING_NEW {"a":[1]}"#);
    }

    #[test]
    fn a_greeting_names_the_version() {
        let line = br#"{"QMP": {"version": {"qemu": {"micro": 22, "minor": 2, "major": 7}, "package": "Debian"}, "capabilities": ["oob"]}}"#;
        let Message::Greeting(greeting) = Message::parse(line) else { panic!() };
        assert_eq!(greeting.version.to_string(), "7.2.22 (Debian)");
        assert_eq!(greeting.capabilities, ["oob"]);
    }

    #[test]
    fn a_clock_that_could_not_be_read_is_none() {
        let line = br#"{"event": "STOP", "timestamp": {"seconds": -1, "microseconds": -1}}"#;
        assert!(matches!(Message::parse(line), Message::Event(Event { timestamp: None, .. })));
    }

    proptest! {
        #[test]
        fn any_bytes_are_some_message(line in proptest::collection::vec(any::<u8>(), 0..100)) {
            Message::parse(&line);
        }

        #[test]
        fn any_json_is_some_message(
            key in prop_oneof![Just("QMP"), Just("event"), Just("error"), Just("return"), Just("timestamp")],
            value in prop_oneof![Just("1"), Just("null"), Just("{}"), Just("[]"), Just("\"x\""), Just("{\"version\":{\"qemu\":7}}"),
                Just("{\"seconds\":1e300}"), Just("99999999999999999999")],
            id in prop_oneof![Just("1"), Just("null"), Just("\"x\""), Just("-1")],
        ) {
            Message::parse(format!("{{\"{key}\": {value}, \"id\": {id}}}").as_bytes());
        }
    }
}
