//! A board's file, read: types by serde, then what they say together. All problems of the second kind are told at once.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use serde::{Deserialize, Deserializer};
use shell::Login;
use shell::tty::{FlowControl, Mode, Parity, StopBits};

use super::place::{key_at, line_of, line_of_key};
use super::{
    Board, BootDialogue, Cable, Command, Line, OnFailure, Pattern, PowerSpec, Prompts, Send, Step, Tags,
    Uplink,
};
use crate::error::{Error, Problem, did_you_mean};
use crate::keys::Key;

/// What one step of a dialogue may take, unless it says otherwise.
const STEP: Duration = Duration::from_secs(60);
/// From power-on to the login.
const BOOT: Duration = Duration::from_secs(300);
/// What a power command may take.
const POWER: Duration = Duration::from_secs(30);
/// What a system that is not too busy takes to answer.
const SILENCE: Duration = Duration::from_secs(5);
/// How far apart looks at the power are.
const WATCH: Duration = Duration::from_secs(10);
/// How long a relay stays off, so that what it feeds is discharged.
const AFTER_OFF: Duration = Duration::from_secs(1);

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct RawBoard {
    name: Option<String>,
    serial: RawSerial,
    power: RawPower,
    #[serde(default)]
    boot: RawBoot,
    #[serde(default)]
    login: RawLogin,
    #[serde(default)]
    uplink: BTreeMap<String, RawUplink>,
    #[serde(default)]
    lock: RawLock,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct RawSerial {
    device: Option<PathBuf>,
    rfc2217: Option<String>,
    tcp: Option<String>,
    speed: Option<u32>,
    data_bits: Option<u8>,
    parity: Option<RawParity>,
    stop_bits: Option<u8>,
    flow: Option<RawFlow>,
    #[serde(default, deserialize_with = "time")]
    silence: Option<Duration>,
}

#[derive(Deserialize, Clone, Copy)]
#[serde(rename_all = "kebab-case")]
enum RawParity {
    None,
    Even,
    Odd,
}

#[derive(Deserialize, Clone, Copy)]
#[serde(rename_all = "kebab-case")]
enum RawFlow {
    None,
    Hardware,
}

#[derive(Deserialize)]
#[serde(untagged, expecting = "a line for the shell, or a list of a program and its arguments")]
enum RawCommand {
    Line(String),
    Argv(Vec<String>),
}

#[derive(Deserialize, Clone, Copy)]
#[serde(rename_all = "kebab-case")]
enum RawOnFailure {
    Leave,
    Off,
    Cycle,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct RawPower {
    on: RawCommand,
    off: RawCommand,
    cycle: Option<RawCommand>,
    state: Option<RawCommand>,
    is_on: Option<String>,
    is_off: Option<String>,
    #[serde(default, deserialize_with = "time")]
    after_off: Option<Duration>,
    #[serde(default, deserialize_with = "time")]
    after_on: Option<Duration>,
    #[serde(default, deserialize_with = "time")]
    within: Option<Duration>,
    #[serde(default, deserialize_with = "time")]
    watch: Option<Duration>,
    on_failure: Option<RawOnFailure>,
}

#[derive(Deserialize, Default)]
#[serde(deny_unknown_fields)]
struct RawBoot {
    #[serde(default, deserialize_with = "time")]
    within: Option<Duration>,
    #[serde(default)]
    dialogue: Vec<RawStep>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct RawStep {
    expect: Option<String>,
    expect_regex: Option<String>,
    send: Option<String>,
    #[serde(default)]
    keys: Vec<String>,
    #[serde(default, deserialize_with = "time")]
    every: Option<Duration>,
    #[serde(default, deserialize_with = "time")]
    within: Option<Duration>,
}

#[derive(Deserialize, Default)]
#[serde(deny_unknown_fields)]
struct RawLogin {
    user: Option<String>,
    password: Option<String>,
    /// The shell's prompt.
    prompt: Option<String>,
    user_prompt: Option<String>,
    password_prompt: Option<String>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct RawUplink {
    nic: Option<String>,
    tap: Option<String>,
    vde: Option<PathBuf>,
    vxlan: Option<RawVxlan>,
    mac: Option<String>,
    access: Option<u16>,
    trunk: Option<String>,
    native: Option<u16>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct RawVxlan {
    local: SocketAddr,
    peer: SocketAddr,
    vni: u32,
}

#[derive(Deserialize, Default)]
#[serde(deny_unknown_fields)]
struct RawLock {
    folder: Option<PathBuf>,
}

fn time<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<Duration>, D::Error> {
    let text = String::deserialize(deserializer)?;
    let signed: Option<jiff::SignedDuration> = text.parse().ok();
    let time = signed.and_then(|signed| Duration::try_from(signed).ok());
    let wrong = || {
        serde::de::Error::custom(format!(
            "{text:?} is no time: expected one such as \"500ms\", \"30s\" or \"5m\""
        ))
    };
    time.map(Some).ok_or_else(wrong)
}

pub(super) fn read(text: &str, file: &Path) -> Result<Board, Error> {
    let raw: RawBoard = toml::from_str(text)
        .map_err(|error| Error::Invalid { file: file.to_owned(), problems: vec![of_serde(text, &error)] })?;
    let mut report = Report { text, problems: Vec::new() };
    let board = report.board(raw, file);
    match board {
        Some(board) if report.problems.is_empty() => Ok(board),
        _ => Err(Error::Invalid { file: file.to_owned(), problems: report.problems }),
    }
}

/// A problem of syntax or type, with the name that may have been meant.
fn of_serde(text: &str, error: &toml::de::Error) -> Problem {
    let line = line_of(text, error.span().map_or(0, |span| span.start));
    let message = error.message().trim().replace('\n', " ");
    // serde's words: unknown field `baud`, expected one of `device`, `speed`.
    let quoted: Vec<&str> = message.split('`').skip(1).step_by(2).collect();
    let hint = match quoted.split_first() {
        Some((found, known)) if message.starts_with("unknown ") => did_you_mean(found, known),
        _ => String::new(),
    };
    Problem { line, key: key_at(text, line), message: format!("{message}{hint}") }
}

struct Report<'t> {
    text: &'t str,
    problems: Vec<Problem>,
}

impl Report<'_> {
    fn add(&mut self, key: &str, message: impl Into<String>) {
        let line = line_of_key(self.text, key);
        self.problems.push(Problem { line, key: key.to_owned(), message: message.into() });
    }

    fn board(&mut self, raw: RawBoard, file: &Path) -> Option<Board> {
        let stem = || {
            file.file_stem().map_or_else(|| "board".to_owned(), |stem| stem.to_string_lossy().into_owned())
        };
        let mode = self.mode(&raw.serial);
        let silence = raw.serial.silence.unwrap_or(SILENCE);
        if silence.is_zero() {
            self.add("serial.silence", "no line answers in no time");
        }
        let line = self.line(raw.serial);
        let power = self.power(raw.power);
        let boot = BootDialogue {
            within: raw.boot.within.unwrap_or(BOOT),
            steps: raw
                .boot
                .dialogue
                .into_iter()
                .enumerate()
                .map(|(index, step)| self.step(index, step))
                .collect(),
        };
        if boot.steps.last().is_some_and(|step| step.every.is_some()) {
            let last = boot.steps.len() - 1;
            self.add(
                &format!("boot.dialogue[{last}].every"),
                "the last step has no next one that would end it",
            );
        }
        let prompts = self.prompts(&raw.login);
        let login = Login {
            user: raw.login.user.unwrap_or_else(|| "root".to_owned()),
            password: raw.login.password.unwrap_or_default(),
        };
        let uplinks = raw
            .uplink
            .into_iter()
            .filter_map(|(nic, raw)| Some((nic.clone(), self.uplink(&nic, raw)?)))
            .collect();
        Some(Board {
            name: raw.name.unwrap_or_else(stem),
            file: file.to_owned(),
            line: line?,
            mode,
            silence,
            power,
            boot,
            login,
            prompts,
            uplinks,
            lock_folder: raw.lock.folder.unwrap_or_else(crate::lock::default_folder),
        })
    }

    fn line(&mut self, raw: RawSerial) -> Option<Line> {
        let has_mode = raw.speed.or(raw.data_bits.map(u32::from)).is_some()
            || raw.parity.is_some()
            || raw.stop_bits.is_some()
            || raw.flow.is_some();
        let line = match (raw.device, raw.rfc2217, raw.tcp) {
            (Some(device), None, None) => Line::Device(device),
            (None, Some(address), None) => Line::Rfc2217(address),
            (None, None, Some(address)) => Line::Tcp(address),
            _ => {
                self.add("serial", "a board has one line: `device`, `rfc2217` or `tcp`");
                return None;
            }
        };
        match &line {
            Line::Tcp(_) if has_mode => {
                self.add(
                    "serial.tcp",
                    "a raw TCP port has its own speed and mode: set them at the serial server",
                );
            }
            Line::Device(_) | Line::Rfc2217(_) if raw.speed.is_none() => {
                self.add("serial.speed", "missing: the line's speed in baud, such as 115200");
            }
            _ => {}
        }
        if let Line::Rfc2217(address) | Line::Tcp(address) = &line {
            let key = if matches!(line, Line::Tcp(_)) { "serial.tcp" } else { "serial.rfc2217" };
            let port = address.rsplit_once(':').filter(|(host, _)| !host.is_empty());
            if port.and_then(|(_, port)| port.parse::<u16>().ok()).is_none_or(|port| port == 0) {
                self.add(key, format!("{address:?} is not \"host:port\""));
            }
        }
        Some(line)
    }

    fn mode(&mut self, raw: &RawSerial) -> Mode {
        let mut mode = Mode::new(raw.speed.unwrap_or(115_200));
        if mode.speed == 0 {
            self.add("serial.speed", "0 baud is no speed");
        }
        mode.data_bits = raw.data_bits.unwrap_or(8);
        if !matches!(mode.data_bits, 7 | 8) {
            self.add("serial.data_bits", format!("{} bits: expected 7 or 8", mode.data_bits));
        }
        mode.parity = match raw.parity {
            None | Some(RawParity::None) => Parity::None,
            Some(RawParity::Even) => Parity::Even,
            Some(RawParity::Odd) => Parity::Odd,
        };
        mode.stop_bits = match raw.stop_bits {
            None | Some(1) => StopBits::One,
            Some(2) => StopBits::Two,
            Some(other) => {
                self.add("serial.stop_bits", format!("{other} stop bits: expected 1 or 2"));
                StopBits::One
            }
        };
        mode.flow = match raw.flow {
            None | Some(RawFlow::None) => FlowControl::None,
            Some(RawFlow::Hardware) => FlowControl::Hardware,
        };
        mode
    }

    fn power(&mut self, raw: RawPower) -> PowerSpec {
        if raw.state.is_none() && (raw.is_on.is_some() || raw.is_off.is_some()) {
            self.add("power.state", "missing: the command whose output `is_on` and `is_off` are about");
        }
        let watch = raw.watch.unwrap_or(WATCH);
        if watch.is_zero() {
            self.add("power.watch", "looks at the power need a pause between them");
        }
        PowerSpec {
            on: self.command("power.on", raw.on),
            off: self.command("power.off", raw.off),
            cycle: raw.cycle.map(|raw| self.command("power.cycle", raw)),
            state: raw.state.map(|raw| self.command("power.state", raw)),
            is_on: self.regex("power.is_on", raw.is_on.as_deref().unwrap_or(r"(?i)\bon\b")),
            is_off: self.regex("power.is_off", raw.is_off.as_deref().unwrap_or(r"(?i)\boff\b")),
            after_off: raw.after_off.unwrap_or(AFTER_OFF),
            after_on: raw.after_on.unwrap_or(Duration::ZERO),
            within: raw.within.unwrap_or(POWER),
            watch,
            on_failure: match raw.on_failure {
                None | Some(RawOnFailure::Off) => OnFailure::Off,
                Some(RawOnFailure::Leave) => OnFailure::Leave,
                Some(RawOnFailure::Cycle) => OnFailure::Cycle,
            },
        }
    }

    fn command(&mut self, key: &str, raw: RawCommand) -> Command {
        let (command, empty) = match raw {
            RawCommand::Line(line) => (Command::Line(line.clone()), line.trim().is_empty()),
            RawCommand::Argv(argv) => {
                (Command::Argv(argv.clone()), argv.first().is_none_or(String::is_empty))
            }
        };
        if empty {
            self.add(key, "the command is empty");
        }
        command
    }

    fn regex(&mut self, key: &str, pattern: &str) -> Pattern {
        Pattern::regex(pattern).unwrap_or_else(|error| {
            // The last line says what is wrong, those before show where.
            let error = error.to_string();
            self.add(key, format!("no regular expression: {}", error.lines().last().unwrap_or_default()));
            Pattern::text(pattern)
        })
    }

    fn step(&mut self, index: usize, raw: RawStep) -> Step {
        let key = |name: &str| format!("boot.dialogue[{index}].{name}");
        let expect = match (raw.expect, raw.expect_regex) {
            (Some(_), Some(_)) => {
                self.add(&key("expect_regex"), "a step expects a text or an expression, not both");
                None
            }
            (Some(text), None) => Some(Pattern::text(text)),
            (None, Some(pattern)) => Some(self.regex(&key("expect_regex"), &pattern)),
            (None, None) => None,
        };
        let mut send: Vec<Send> = raw.send.into_iter().map(Send::Text).collect();
        for name in &raw.keys {
            match Key::by_name(name) {
                Some(pressed) => send.push(Send::Key(pressed)),
                None => {
                    let hint = did_you_mean(name, &Key::names());
                    self.add(&key("keys"), format!("no key is called {name:?}{hint}"));
                }
            }
        }
        if expect.is_none() && send.is_empty() {
            self.add(&format!("boot.dialogue[{index}]"), "the step neither expects nor sends anything");
        }
        if raw.every.is_some_and(|every| every.is_zero() || send.is_empty()) {
            self.add(&key("every"), "something has to be sent, and a pause has to be between");
        }
        Step { expect, send, every: raw.every, within: raw.within.unwrap_or(STEP) }
    }

    fn prompts(&mut self, raw: &RawLogin) -> Option<Prompts> {
        let Some(shell) = &raw.prompt else {
            if raw.user_prompt.is_some() || raw.password_prompt.is_some() {
                self.add(
                    "login.prompt",
                    "missing: the shell's prompt, which ends a login with prompts of its own",
                );
            }
            return None;
        };
        Some(Prompts {
            user: self.regex("login.user_prompt", raw.user_prompt.as_deref().unwrap_or("login: $")),
            password: self
                .regex("login.password_prompt", raw.password_prompt.as_deref().unwrap_or("(?i)password: ?$")),
            shell: self.regex("login.prompt", shell),
        })
    }

    fn uplink(&mut self, nic: &str, raw: RawUplink) -> Option<Uplink> {
        let key = |name: &str| format!("uplink.{nic}.{name}");
        let cable = match (raw.nic, raw.tap, raw.vde, raw.vxlan) {
            (Some(nic), None, None, None) => Cable::Nic(nic),
            (None, Some(tap), None, None) => Cable::Tap(tap),
            (None, None, Some(dir), None) => Cable::Vde(dir),
            (None, None, None, Some(RawVxlan { local, peer, vni })) => Cable::Vxlan { local, peer, vni },
            _ => {
                self.add(
                    &format!("uplink.{nic}"),
                    "a cable has one end here: `nic`, `tap`, `vde` or `vxlan`",
                );
                return None;
            }
        };
        if let Some(mac) = &raw.mac
            && !is_mac(mac)
        {
            self.add(&key("mac"), format!("{mac:?} is no MAC address such as \"48:b0:2d:00:00:01\""));
        }
        let is_vlan = |id: &u16| (1..=4094).contains(id);
        for (name, id) in [("access", raw.access), ("native", raw.native)] {
            if let Some(id) = id.filter(|id| !is_vlan(id)) {
                self.add(&key(name), format!("{id} is no VLAN: expected 1 to 4094"));
            }
        }
        let tags = match (raw.access, raw.trunk, raw.native) {
            (None, None, None) => None,
            (Some(vlan), None, None) => Some(Tags::Access(vlan)),
            (None, Some(allowed), native) => Some(Tags::Trunk { allowed, native }),
            (None, None, Some(_)) => {
                self.add(&key("native"), "a native VLAN is one of a trunk: `trunk` is missing");
                None
            }
            (Some(_), ..) => {
                self.add(&key("access"), "a port is an access port or a trunk, not both");
                None
            }
        };
        Some(Uplink { cable, mac: raw.mac, tags })
    }
}

fn is_mac(text: &str) -> bool {
    let octets: Vec<&str> = text.split(':').collect();
    octets.len() == 6
        && octets.iter().all(|octet| octet.len() == 2 && octet.chars().all(|c| c.is_ascii_hexdigit()))
}

#[cfg(test)]
mod tests;
