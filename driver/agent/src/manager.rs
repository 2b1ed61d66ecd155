//! systemd itself, over D-Bus on its own socket: it is there from PID 1's first moments, needs no bus daemon, and
//! every connection gets the signals of all units unasked (systemd's `bus_init_private`). Root only.
//!
//! What is spoken is in the D-Bus Specification: EXTERNAL authentication, then messages as "Message Format" has them.

use std::collections::HashMap;
use std::io;
use std::path::Path;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::UnixStream;
use zvariant::serialized::{Context, Data};
use zvariant::{Endian, LE, ObjectPath, Value};

/// Where PID 1 listens.
pub(crate) const SOCKET: &str = "/run/systemd/private";

/// What all units' objects have in common.
pub(crate) const UNIT: &str = "org.freedesktop.systemd1.Unit";

const METHOD_CALL: u8 = 1;
const METHOD_RETURN: u8 = 2;
const ERROR: u8 = 3;
const SIGNAL: u8 = 4;
/// The header's fields, by their codes.
const PATH: u8 = 1;
const INTERFACE: u8 = 2;
const MEMBER: u8 = 3;
const REPLY_SERIAL: u8 = 5;
const DESTINATION: u8 = 6;
const SIGNATURE: u8 = 8;
/// What comes before the header's fields, with their length.
const FIXED: usize = 16;
/// The largest message that is taken (the specification's limit).
const LARGEST: usize = 128 * 1024 * 1024;

/// A connection to PID 1.
pub(crate) struct Manager {
    stream: UnixStream,
    received: Vec<u8>,
    serial: u32,
    /// The object whose signals matter.
    object: String,
    /// One of them came since they were last asked for.
    changed: bool,
    /// The latest `ActiveState` that they told.
    told: Option<String>,
}

/// A header: byte order, kind, flags, version, length of the body, serial, fields.
type Header<'a> = (u8, u8, u8, u8, u32, u32, Vec<(u8, Value<'a>)>);

struct Message {
    kind: u8,
    #[cfg_attr(not(test), expect(dead_code, reason = "who answers needs it: the manager of the tests"))]
    serial: u32,
    path: Option<String>,
    reply_to: Option<u32>,
    body: Data<'static, 'static>,
}

fn invalid(error: impl Into<Box<dyn std::error::Error + Send + Sync>>) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, error)
}

/// A unit's object: every byte that is no letter and no digit (at the front: no letter) is `_` and two hex digits.
pub(crate) fn object_of(unit: &str) -> String {
    let escape = |(at, byte): (usize, u8)| match byte {
        b'a'..=b'z' | b'A'..=b'Z' => char::from(byte).to_string(),
        b'0'..=b'9' if at > 0 => char::from(byte).to_string(),
        _ => format!("_{byte:02x}"),
    };
    let name: String = unit.bytes().enumerate().map(escape).collect();
    format!("/org/freedesktop/systemd1/unit/{}", if name.is_empty() { "_" } else { &name })
}

impl Manager {
    /// Connects to the socket of PID 1, to follow one object.
    ///
    /// # Errors
    ///
    /// If it isn't there, or lets only others in.
    pub(crate) async fn connect(socket: &Path, object: String) -> io::Result<Self> {
        let stream = UnixStream::connect(socket).await?;
        let mut manager =
            Self { stream, received: Vec::new(), serial: 0, object, changed: false, told: None };
        let uid: String =
            nix::unistd::geteuid().to_string().bytes().map(|byte| format!("{byte:02x}")).collect();
        manager.stream.write_all(format!("\0AUTH EXTERNAL {uid}\r\n").as_bytes()).await?;
        let line = loop {
            if let Some(end) = manager.received.windows(2).position(|two| two == b"\r\n") {
                break manager.received.drain(..end + 2).collect::<Vec<_>>();
            }
            manager.receive().await?;
        };
        if !line.starts_with(b"OK ") {
            let said = String::from_utf8_lossy(&line).trim_end().to_owned();
            return Err(io::Error::new(io::ErrorKind::PermissionDenied, said));
        }
        manager.stream.write_all(b"BEGIN\r\n").await?;
        Ok(manager)
    }

    /// Properties of the object, each as `(interface, name)`; `None` where there is no such property.
    ///
    /// # Errors
    ///
    /// If the connection is over or says what no D-Bus connection would.
    pub(crate) async fn properties(
        &mut self,
        wanted: &[(&str, &str)],
    ) -> io::Result<Vec<Option<Value<'static>>>> {
        let first = self.serial + 1;
        let mut calls = Vec::new();
        for (interface, name) in wanted {
            self.serial += 1;
            calls.extend(get(self.serial, &self.object, interface, name).map_err(invalid)?);
        }
        self.stream.write_all(&calls).await?;
        let mut values: Vec<Option<Value<'static>>> = vec![None; wanted.len()];
        let mut missing = wanted.len();
        while missing > 0 {
            let message = self.message().await?;
            let slot = message
                .reply_to
                .and_then(|serial| serial.checked_sub(first))
                .and_then(|index| values.get_mut(usize::try_from(index).ok()?));
            match (message.kind, slot) {
                (METHOD_RETURN, Some(slot)) => {
                    let (value, _) = message.body.deserialize::<Value<'_>>().map_err(invalid)?;
                    *slot = Some(value.try_to_owned().map_err(invalid)?.into());
                    missing -= 1;
                }
                (ERROR, Some(_)) => missing -= 1,
                _ => self.hear(&message),
            }
        }
        Ok(values)
    }

    /// Resolves when the object has changed since the last call of this. Cancel-safe.
    ///
    /// # Errors
    ///
    /// If the connection is over.
    pub(crate) async fn changed(&mut self) -> io::Result<()> {
        while !std::mem::take(&mut self.changed) {
            let message = self.message().await?;
            self.hear(&message);
        }
        Ok(())
    }

    /// The latest `ActiveState` that was told with a change, once: to ask for it again takes longer than to be told.
    pub(crate) fn told(&mut self) -> Option<String> {
        self.told.take()
    }

    /// Takes a signal of the object (`PropertiesChanged` of the specification's standard interfaces).
    fn hear(&mut self, message: &Message) {
        if message.kind != SIGNAL || message.path.as_deref() != Some(&self.object) {
            return;
        }
        let change = message.body.deserialize::<(String, HashMap<String, Value<'_>>, Vec<String>)>();
        if let Ok(((interface, properties, _), _)) = change {
            // What belongs to its kind, such as a service's main process, comes just before what all units have.
            if interface != UNIT {
                return;
            }
            if let Some(Value::Str(active)) = properties.get("ActiveState") {
                self.told = Some(active.to_string());
            }
        }
        self.changed = true;
    }

    /// The next message. Cancel-safe.
    async fn message(&mut self) -> io::Result<Message> {
        loop {
            if let Some((message, length)) = parse(&self.received)? {
                self.received.drain(..length);
                return Ok(message);
            }
            self.receive().await?;
        }
    }

    async fn receive(&mut self) -> io::Result<()> {
        match self.stream.read_buf(&mut self.received).await? {
            0 => Err(io::ErrorKind::UnexpectedEof.into()),
            _ => Ok(()),
        }
    }
}

/// A call of `org.freedesktop.DBus.Properties.Get`.
fn get(serial: u32, object: &str, interface: &str, name: &str) -> zvariant::Result<Vec<u8>> {
    let fields = vec![
        (PATH, Value::from(ObjectPath::try_from(object)?)),
        (INTERFACE, Value::from("org.freedesktop.DBus.Properties")),
        (MEMBER, Value::from("Get")),
        (DESTINATION, Value::from("org.freedesktop.systemd1")),
    ];
    message(METHOD_CALL, serial, fields, "ss", &(interface, name))
}

/// A message whose body has this signature.
fn message<B>(
    kind: u8,
    serial: u32,
    fields: Vec<(u8, Value<'_>)>,
    signature: &str,
    body: &B,
) -> zvariant::Result<Vec<u8>>
where
    B: serde::Serialize + zvariant::DynamicType,
{
    let context = Context::new_dbus(LE, 0);
    let body = zvariant::to_bytes(context, body)?;
    let length = |length: usize| u32::try_from(length).map_err(|_| zvariant::Error::OutOfBounds);
    let header: Header<'_> = (b'l', kind, 0, 1, length(body.len())?, serial, fields);
    let mut bytes = zvariant::to_bytes(context, &header)?.to_vec();
    let pad = |bytes: &mut Vec<u8>| bytes.resize(bytes.len().next_multiple_of(8), 0);
    // By hand: zvariant would put a body of several types between parentheses, and so make one structure of it.
    pad(&mut bytes);
    bytes.extend([
        SIGNATURE,
        1,
        b'g',
        0,
        u8::try_from(signature.len()).map_err(|_| zvariant::Error::OutOfBounds)?,
    ]);
    bytes.extend_from_slice(signature.as_bytes());
    bytes.push(0);
    let fields = length(bytes.len() - FIXED)?;
    bytes[FIXED - 4..FIXED].copy_from_slice(&fields.to_le_bytes());
    pad(&mut bytes);
    bytes.extend_from_slice(&body);
    Ok(bytes)
}

/// The first message in the bytes and its length; `None` if it isn't all there.
fn parse(bytes: &[u8]) -> io::Result<Option<(Message, usize)>> {
    let Some(fixed) = bytes.get(..FIXED) else { return Ok(None) };
    let endian = match fixed[0] {
        b'l' => Endian::Little,
        b'B' => Endian::Big,
        other => return Err(invalid(format!("byte order {other:#04x}"))),
    };
    let word = |at: usize| -> usize {
        let bytes = [fixed[at], fixed[at + 1], fixed[at + 2], fixed[at + 3]];
        endian.read_u32(&bytes) as usize
    };
    let body = word(12).saturating_add(FIXED).next_multiple_of(8);
    let end = body.saturating_add(word(4));
    if end > LARGEST {
        return Err(invalid(format!("a message of {end} bytes")));
    }
    let Some(whole) = bytes.get(..end) else { return Ok(None) };
    let context = Context::new_dbus(endian, 0);
    let header = Data::new(&whole[..body], context);
    let (header, _) = header.deserialize::<Header<'_>>().map_err(invalid)?;
    let field = |code| header.6.iter().find(|(field, _)| *field == code).map(|(_, value)| value);
    let path = match field(PATH) {
        Some(Value::ObjectPath(path)) => Some(path.to_string()),
        _ => None,
    };
    let reply_to = match field(REPLY_SERIAL) {
        Some(Value::U32(serial)) => Some(*serial),
        _ => None,
    };
    let body = Data::new(whole[body..].to_vec(), context);
    Ok(Some((Message { kind: header.1, serial: header.5, path, reply_to, body }, end)))
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use tokio::net::UnixListener;

    /// What one look at a service asks for.
    const ASKED: usize = 6;

    /// A PID 1 with one unit, whose state the test sets; the property `Job` is none, what it doesn't know is an error.
    pub(crate) struct FakeManager {
        stream: UnixStream,
        received: Vec<u8>,
        serial: u32,
    }

    impl FakeManager {
        /// Takes the next connection and has it say who it is.
        pub(crate) async fn accept(listener: &UnixListener) -> Self {
            let (stream, _) = listener.accept().await.unwrap();
            let mut fake = Self { stream, received: Vec::new(), serial: 0 };
            let auth = fake.line().await;
            let uid = String::from_utf8(auth.strip_prefix(b"\0AUTH EXTERNAL ").unwrap().to_vec()).unwrap();
            assert_eq!(uid.trim_end(), hex(&nix::unistd::geteuid().to_string()));
            fake.stream.write_all(b"OK 0123456789abcdef0123456789abcdef\r\n").await.unwrap();
            assert_eq!(fake.line().await, b"BEGIN\r\n");
            fake
        }

        async fn line(&mut self) -> Vec<u8> {
            loop {
                if let Some(end) = self.received.windows(2).position(|two| two == b"\r\n") {
                    return self.received.drain(..end + 2).collect();
                }
                assert_ne!(self.stream.read_buf(&mut self.received).await.unwrap(), 0);
            }
        }

        /// Answers one look at the unit.
        pub(crate) async fn answer(&mut self, active: &str) {
            for _ in 0..ASKED {
                let call = loop {
                    if let Some((call, length)) = parse(&self.received).unwrap() {
                        self.received.drain(..length);
                        break call;
                    }
                    assert_ne!(self.stream.read_buf(&mut self.received).await.unwrap(), 0);
                };
                assert_eq!(call.path.as_deref(), Some("/org/freedesktop/systemd1/unit/some_2eservice"));
                let ((interface, name), _) = call.body.deserialize::<(String, String)>().unwrap();
                let unit = "org.freedesktop.systemd1.Unit";
                let value = match (interface.as_str(), name.as_str()) {
                    (i, "ActiveState") if i == unit => Some(Value::from(active)),
                    (i, "SubState") if i == unit => Some(Value::from("dead")),
                    (i, "LoadState") if i == unit => Some(Value::from("loaded")),
                    (i, "ConditionResult") if i == unit => Some(Value::from(true)),
                    (i, "Job") if i == unit => {
                        let none = ObjectPath::try_from("/").unwrap();
                        Some(Value::from(zvariant::Structure::from((0_u32, none))))
                    }
                    _ => None,
                };
                let reply_to = (REPLY_SERIAL, Value::from(call.serial));
                self.serial += 1;
                let reply = match value {
                    Some(value) => message(METHOD_RETURN, self.serial, vec![reply_to], "v", &value),
                    None => message(ERROR, self.serial, vec![reply_to], "s", &"no such property"),
                };
                self.stream.write_all(&reply.unwrap()).await.unwrap();
            }
        }

        /// Says that properties of an interface of an object have changed, its state among them if it is given.
        pub(crate) async fn signal(&mut self, object: &str, interface: &str, active: Option<&str>) {
            let fields = vec![
                (PATH, Value::from(ObjectPath::try_from(object).unwrap())),
                (INTERFACE, Value::from("org.freedesktop.DBus.Properties")),
                (MEMBER, Value::from("PropertiesChanged")),
            ];
            self.serial += 1;
            let changed: HashMap<_, _> =
                active.into_iter().map(|active| ("ActiveState", Value::from(active))).collect();
            let body = (interface, changed, vec!["Invalidated"]);
            let signal = message(SIGNAL, self.serial, fields, "sa{sv}as", &body).unwrap();
            self.stream.write_all(&signal).await.unwrap();
        }
    }

    fn hex(text: &str) -> String {
        text.bytes().map(|byte| format!("{byte:02x}")).collect()
    }

    /// As `busctl tree org.freedesktop.systemd1` shows them.
    #[test]
    fn objects_are_named_as_systemd_names_them() {
        assert_eq!(object_of("ssh.service"), "/org/freedesktop/systemd1/unit/ssh_2eservice");
        assert_eq!(object_of("-.mount"), "/org/freedesktop/systemd1/unit/_2d_2emount");
        assert_eq!(
            object_of("8021q@a-b.service"),
            "/org/freedesktop/systemd1/unit/_38021q_40a_2db_2eservice"
        );
    }

    /// Taken by hand from the specification's layout, so that both ends can't be wrong in the same way.
    #[test]
    fn a_call_is_laid_out_as_the_specification_says() {
        let call = get(7, "/a", "i", "p").unwrap();
        let mut wanted = vec![b'l', 1, 0, 1, 12, 0, 0, 0, 7, 0, 0, 0, 0, 0, 0, 0];
        wanted.extend(b"\x01\x01o\0\x02\0\0\0/a\0\0\0\0\0\0");
        wanted.extend(b"\x02\x01s\0\x1f\0\0\0org.freedesktop.DBus.Properties\0");
        wanted.extend(b"\x03\x01s\0\x03\0\0\0Get\0\0\0\0\0");
        wanted.extend(b"\x06\x01s\0\x18\0\0\0org.freedesktop.systemd1\0\0\0\0\0\0\0\0");
        wanted.extend(b"\x08\x01g\0\x02ss\0");
        let length = u32::try_from(wanted.len() - FIXED).unwrap();
        wanted[12..16].copy_from_slice(&length.to_le_bytes());
        wanted.extend(b"\x01\0\0\0i\0\0\0\x01\0\0\0p\0");
        wanted[4] = 14;
        assert_eq!(call, wanted);
    }

    #[test]
    fn a_message_is_taken_when_all_of_it_is_there_and_nonsense_is_refused() {
        let call = get(7, "/a", "i", "p").unwrap();
        for end in 0..call.len() {
            assert!(parse(&call[..end]).unwrap().is_none(), "{end}");
        }
        let (message, length) = parse(&[&call[..], b"more"].concat()).unwrap().unwrap();
        assert_eq!((message.kind, message.serial, length), (METHOD_CALL, 7, call.len()));
        let mut huge = call.clone();
        huge[4..8].copy_from_slice(&u32::MAX.to_le_bytes());
        assert!(parse(&huge).is_err());
        let mut order = call;
        order[0] = b'x';
        assert!(parse(&order).is_err());
    }
}
