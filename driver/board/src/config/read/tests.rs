use super::*;

const WHOLE: &str = r#"
name = "orin-3"

[serial]
device = "/dev/ttyUSB0"
speed = 115200
parity = "even"
stop_bits = 2
flow = "hardware"

[power]
on = ["relay", "3", "on"]
off = "relay 3 off"
cycle = "relay 3 cycle"
state = ["relay", "3"]
is_on = "^closed"
is_off = "^open"
after_off = "2s"
after_on = "500ms"
within = "10s"
watch = "3s"
on_failure = "leave"

[boot]
within = "4m"

[[boot.dialogue]]
expect = "Hit any key"
keys = ["enter"]
every = "200ms"

[[boot.dialogue]]
expect_regex = "=> $"
send = "setenv bootargs quiet\n"
keys = ["ctrl-c", "down"]
within = "5s"

[login]
user = "admin"
password = "secret"
prompt = "admin@.*> $"

[uplink.eth1]
nic = "enp3s0"
mac = "48:b0:2d:00:00:01"

[uplink.eth2]
vxlan = { local = "127.0.0.1:0", peer = "127.0.0.1:4789", vni = 7 }
trunk = "10,20-29"
native = 1

[lock]
folder = "/run/lock/lab"
"#;

const LEAST: &str = "[serial]\ntcp = \"serial:2001\"\n[power]\non = \"on\"\noff = \"off\"\n";

fn parse(text: &str) -> Result<Board, Error> {
    Board::parse(text, Path::new("lab/orin.toml"))
}

/// The message for a file.
fn refused(text: &str) -> String {
    parse(text).expect_err("a problem").to_string()
}

#[test]
fn all_that_a_file_can_say() {
    let board = parse(WHOLE).expect("a board");
    assert_eq!((board.name.as_str(), board.line.to_string()), ("orin-3", "/dev/ttyUSB0".to_owned()));
    assert_eq!(
        board.mode,
        Mode {
            parity: Parity::Even,
            stop_bits: StopBits::Two,
            flow: FlowControl::Hardware,
            ..Mode::new(115_200)
        }
    );
    assert_eq!(board.power.off, Command::Line("relay 3 off".into()));
    assert_eq!(board.power.on, Command::Argv(vec!["relay".into(), "3".into(), "on".into()]));
    assert_eq!(board.power.after_on, Duration::from_millis(500));
    assert_eq!(board.power.on_failure, OnFailure::Leave);
    assert_eq!(board.boot.within, Duration::from_secs(240));
    let [first, second] = board.boot.steps.as_slice() else { panic!("two steps") };
    assert_eq!(first.every, Some(Duration::from_millis(200)));
    assert_eq!(
        second.send.iter().flat_map(Send::bytes).collect::<Vec<_>>(),
        b"setenv bootargs quiet\n\x03\x1b[B"
    );
    assert!(second.expect.as_ref().expect("one").compile().is_match("=> "));
    assert!(!format!("{board:?}").contains("secret"), "a password has no place in a log");
    assert!(board.prompts.expect("prompts").shell.compile().is_match("admin@orin:/> "));
    assert_eq!(board.uplinks["eth1"].cable, Cable::Nic("enp3s0".into()));
    let tags = Tags::Trunk { allowed: "10,20-29".into(), native: Some(1) };
    assert_eq!(board.uplinks["eth2"].tags, Some(tags));
    assert_eq!(board.lock_folder, Path::new("/run/lock/lab"));
}

#[test]
fn the_least_that_a_file_must_say() {
    let board = parse(LEAST).expect("a board");
    assert_eq!(board.name, "orin", "the file's");
    assert_eq!((board.login.user.as_str(), board.login.password.as_str()), ("root", ""));
    assert_eq!(board.power.on_failure, OnFailure::Off);
    assert!(board.power.is_on.compile().is_match("Chassis Power is on"));
    assert!(board.power.is_off.compile().is_match("Chassis Power is off"));
    assert!(!board.power.is_on.compile().is_match("none, online"), "a word of its own, not a part of one");
}

#[test]
fn names_that_nobody_knows_get_a_suggestion() {
    let told = refused(&LEAST.replace("tcp = ", "tpc = "));
    assert!(told.starts_with("lab/orin.toml:2: serial.tpc: unknown field `tpc`"), "{told}");
    assert!(told.ends_with("(did you mean \"tcp\"?)"), "{told}");
    let told = refused(&format!("{LEAST}on_failure = \"lave\"\n"));
    assert!(told.starts_with("lab/orin.toml:6: power.on_failure: unknown variant `lave`"), "{told}");
    assert!(told.ends_with("(did you mean \"leave\"?)"), "{told}");
    let told = refused(&format!("{LEAST}[[boot.dialogue]]\nexpect = \"x\"\nkeys = [\"entr\"]\n"));
    assert_eq!(
        told,
        "lab/orin.toml:8: boot.dialogue[0].keys: no key is called \"entr\" (did you mean \"enter\"?)"
    );
}

#[test]
fn each_mistake_names_its_line_and_key() {
    for (text, wanted) in [
        (LEAST.replace("tcp", "device"), "lab/orin.toml:1: serial.speed: missing: the line's speed in baud"),
        (
            LEAST.replace("serial:2001", "serial"),
            "lab/orin.toml:2: serial.tcp: \"serial\" is not \"host:port\"",
        ),
        (
            LEAST.replace("[power]", "speed = 9600\n[power]"),
            "lab/orin.toml:2: serial.tcp: a raw TCP port has its own",
        ),
        (
            LEAST.replace("[power]", "device = \"/dev/x\"\n[power]"),
            "lab/orin.toml:1: serial: a board has one line",
        ),
        (
            LEAST.replace("[power]", "speed = \"fast\"\n[power]"),
            "lab/orin.toml:3: serial.speed: invalid type: string",
        ),
        (
            LEAST.replace("on = \"on\"", "on = 1"),
            "lab/orin.toml:4: power.on: a line for the shell, or a list of",
        ),
        (LEAST.replace("on = \"on\"", "on = []"), "lab/orin.toml:4: power.on: the command is empty"),
        (LEAST.replace("off = \"off\"\n", ""), "lab/orin.toml:3: power: missing field `off`"),
        (format!("{LEAST}within = \"soon\"\n"), "lab/orin.toml:6: power.within: \"soon\" is no time"),
        (
            format!("{LEAST}is_on = \"on\"\n"),
            "lab/orin.toml:3: power.state: missing: the command whose output",
        ),
        (
            format!("{LEAST}state = \"s\"\nis_on = \"(\"\n"),
            "lab/orin.toml:7: power.is_on: no regular expression",
        ),
        (format!("{LEAST}watch = \"0s\"\n"), "lab/orin.toml:6: power.watch: looks at the power need a pause"),
        (
            format!("{LEAST}[[boot.dialogue]]\n"),
            "lab/orin.toml:6: boot.dialogue[0]: the step neither expects nor",
        ),
        (
            format!("{LEAST}[[boot.dialogue]]\nexpect = \"x\"\nsend = \"y\"\nevery = \"1s\"\n"),
            "lab/orin.toml:9: boot.dialogue[0].every: the last step has no next one",
        ),
        (
            format!("{LEAST}[login]\nuser_prompt = \"x\"\n"),
            "lab/orin.toml:6: login.prompt: missing: the shell's prompt",
        ),
        (
            format!("{LEAST}[uplink.eth1]\nmac = \"a\"\n"),
            "lab/orin.toml:6: uplink.eth1: a cable has one end here",
        ),
        (
            format!("{LEAST}[uplink.eth1]\nnic = \"x\"\nmac = \"a\"\n"),
            "lab/orin.toml:8: uplink.eth1.mac: \"a\" is no MAC address",
        ),
        (
            format!("{LEAST}[uplink.eth1]\nnic = \"x\"\naccess = 4095\n"),
            "lab/orin.toml:8: uplink.eth1.access: 4095 is no VLAN",
        ),
        (
            format!("{LEAST}[uplink.eth1]\nnic = \"x\"\nnative = 5\n"),
            "lab/orin.toml:8: uplink.eth1.native: a native VLAN is one of a trunk",
        ),
        ("[serial\n".to_owned(), "lab/orin.toml:1: "),
        (String::new(), "lab/orin.toml:1: "),
    ] {
        let told = refused(&text);
        assert!(told.starts_with(wanted), "\n{text}\ngave   {told}\nwanted {wanted}");
    }
}

#[test]
fn all_problems_are_told_at_once() {
    let text = format!("{LEAST}watch = \"0s\"\n[uplink.eth1]\n[uplink.eth2]\n");
    let told = refused(&text);
    assert_eq!(told.lines().count(), 3, "{told}");
}

#[test]
fn the_file_in_the_manual_is_one() {
    let manual = include_str!("../../../../../docs/boards.md");
    let text = manual.split("```toml\n").nth(1).and_then(|rest| rest.split("```").next()).expect("a file");
    let board = parse(text).expect("the manual's board");
    assert_eq!((board.name.as_str(), board.boot.steps.len(), board.uplinks.len()), ("orin-3", 3, 1));
    // Every line that is commented out is one that could be there instead.
    let other = text.replace("\ndevice = ", "\n# device = ").replace("# rfc2217 = ", "rfc2217 = ");
    let other = other.replace("# prompt = ", "prompt = ").replace("# user_prompt = ", "user_prompt = ");
    let other = other.replace("# password_prompt = ", "password_prompt = ").replace("# trunk = ", "trunk = ");
    let board = parse(&other.replace("# native = ", "native = ")).expect("the manual's other board");
    assert_eq!(board.line, Line::Rfc2217("serial.lab:2001".into()));
    assert!(board.prompts.is_some() && board.uplinks["eth1"].tags.is_some());
}
