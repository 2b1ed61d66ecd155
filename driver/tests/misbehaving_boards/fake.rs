//! A board that is played: a pty whose near end is a serial line, power that is a file, a boot loader of three lines, and
//! this host's bash for its system. So nothing here asks it to reboot or to power itself off.

use std::fs::File;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use driver::board::Board;
use process::{Child, Command, Stdio};
use shell::tty::Tty;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::sync::watch;
use tokio::task::JoinHandle;

/// How the board behaves from its login on.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) enum Mood {
    /// As it should.
    #[default]
    Good,
    /// It says nothing any more, and reads on.
    Silent,
    /// It says what nobody has asked for.
    Garbage,
    /// It starts anew.
    Reboots,
}

/// A board and its line. Its tasks end with it.
pub(crate) struct Fake {
    folder: PathBuf,
    line: PathBuf,
    mood: watch::Sender<Mood>,
    /// Whether its boot loader says anything.
    mute: Arc<AtomicBool>,
    player: JoinHandle<()>,
    /// The far end of the line, which outlives every reader of the near one.
    _line: OwnedFd,
}

impl Drop for Fake {
    fn drop(&mut self) {
        self.player.abort();
    }
}

/// What its boot loader waits for.
const PROMPT: &str = "\r\nU-Boot 2024.01 (fake)\r\nHit any key to stop autoboot: 3";

impl Fake {
    /// Makes one that is off, in a folder of the test's.
    pub(crate) fn new(folder: &Path) -> Self {
        let pty = nix::pty::openpty(None, None).expect("a pty");
        let line = nix::unistd::ttyname(&pty.slave).expect("its name");
        // A line does not echo, and lets every byte through, before anybody has set it.
        let mut raw = nix::sys::termios::tcgetattr(&pty.slave).expect("a terminal");
        nix::sys::termios::cfmakeraw(&mut raw);
        nix::sys::termios::tcsetattr(&pty.slave, nix::sys::termios::SetArg::TCSANOW, &raw).expect("set");
        let near = Tty::from_fd(pty.master).expect("the near end");
        let (mood, moods) = watch::channel(Mood::Good);
        let mute = Arc::new(AtomicBool::new(false));
        let player = Player { folder: folder.to_owned(), near, moods, mute: mute.clone() };
        let player = tokio::spawn(player.play());
        Self { folder: folder.to_owned(), line, mood, mute, player, _line: pty.slave }
    }

    /// Its file, with `more` of `[power]` and of what comes after.
    pub(crate) fn board(&self, more: &str) -> Board {
        let text = format!(
            "name = \"fake\"\n[serial]\ndevice = {line:?}\nspeed = 115200\nsilence = \"500ms\"\n[lock]\nfolder = \"{folder}/locks\"\n\
             [power]\non = \"touch {folder}/power; echo on >> {folder}/turned\"\n\
             off = \"rm -f {folder}/power; echo off >> {folder}/turned\"\n\
             state = \"test -e {folder}/power && echo on || echo off\"\n\
             after_off = \"50ms\"\nwatch = \"100ms\"\n{more}\n",
            line = self.line,
            folder = self.folder.display(),
        );
        let text = if more.contains("[[boot.dialogue]]") { text } else { format!("{text}{DIALOGUE}") };
        Board::parse(&text, Path::new("fake.toml")).unwrap_or_else(|error| panic!("{error}\n{text}"))
    }

    /// Its line, as a terminal device.
    pub(crate) fn line(&self) -> &Path {
        &self.line
    }

    /// From now on.
    pub(crate) fn be(&self, mood: Mood) {
        self.mood.send_replace(mood);
    }

    /// A boot loader that says nothing.
    pub(crate) fn mute(&self) {
        self.mute.store(true, Ordering::SeqCst);
    }

    /// Somebody else turns it off.
    pub(crate) fn cut_power(&self) {
        fs_err::remove_file(self.folder.join("power")).expect("it was on");
    }

    /// What was done with its power, `on off`.
    pub(crate) fn turned(&self) -> String {
        let text = fs_err::read_to_string(self.folder.join("turned")).unwrap_or_default();
        text.split_whitespace().collect::<Vec<_>>().join(" ")
    }
}

const DIALOGUE: &str = "[[boot.dialogue]]\nexpect = \"Hit any key\"\nkeys = [\"space\"]\nwithin = \"20s\"\n\
                        [[boot.dialogue]]\nexpect_regex = \"=> $\"\nsend = \"boot\\r\"\nwithin = \"20s\"\n";

struct Player {
    folder: PathBuf,
    near: Tty,
    moods: watch::Receiver<Mood>,
    mute: Arc<AtomicBool>,
}

impl Player {
    async fn play(mut self) {
        loop {
            while !self.has_power() {
                self.pass(Duration::from_millis(10)).await;
            }
            // Until its power goes, or it starts anew.
            self.run().await;
        }
    }

    fn has_power(&self) -> bool {
        self.folder.join("power").exists()
    }

    /// What is typed while nobody listens is lost.
    async fn pass(&mut self, time: Duration) {
        let mut lost = [0; 256];
        let _ = tokio::time::timeout(time, self.near.read(&mut lost)).await;
    }

    async fn say(&mut self, text: &str) {
        let _ = self.near.write_all(text.as_bytes()).await;
    }

    /// Reads until it was told `wanted`; `false` when the power goes.
    async fn hear(&mut self, wanted: &str) -> bool {
        let mut heard = String::new();
        let mut chunk = [0; 256];
        while self.has_power() {
            let read = tokio::time::timeout(Duration::from_millis(10), self.near.read(&mut chunk)).await;
            let Ok(Ok(count)) = read else { continue };
            heard += &String::from_utf8_lossy(&chunk[..count]);
            if heard.contains(wanted) {
                return true;
            }
        }
        false
    }

    async fn run(&mut self) {
        if self.mute.load(Ordering::SeqCst) {
            self.hear("nothing that would help").await;
            return;
        }
        for (says, hears) in [
            (PROMPT, " "),
            ("\r\n=> ", "boot\r"),
            (
                "\r\n[    0.000000] Linux version 6.12.0 (fake)\r\nWelcome to Fake 1!\r\n\r\nfake login: ",
                "root\n",
            ),
        ] {
            self.say(says).await;
            if !self.hear(hears).await {
                return;
            }
        }
        let (system, mut far) = self.system();
        let (mut typed, mut said) = ([0; 4096], [0; 4096]);
        while self.has_power() {
            let mood = *self.moods.borrow();
            if mood == Mood::Reboots {
                break;
            }
            tokio::select! {
                Ok(count) = self.near.read(&mut typed) => {
                    let _ = far.write_all(&typed[..count]).await;
                }
                Ok(count) = far.read(&mut said) => match mood {
                    Mood::Silent => {}
                    Mood::Garbage => self.say(&"\x7f?~{\r\n".repeat(count.div_ceil(6))).await,
                    Mood::Good | Mood::Reboots => {
                        let _ = self.near.write_all(&said[..count]).await;
                    }
                },
                _ = self.moods.changed() => {}
                () = elapse(Duration::from_millis(20)) => {}
            }
        }
        system.kill_group();
    }

    fn system(&self) -> (Child, Tty) {
        let pty = nix::pty::openpty(None, None).expect("a pty");
        let far = || Stdio::File(File::from(pty.slave.try_clone().expect("a descriptor")));
        let command = Command::new("bash").args(["--norc", "--noprofile", "-i"]);
        let command = command.env("PS1", "root@fake:~# ").env("TERM", "vt220");
        let child = process::spawn(command.stdin(far()).stdout(far()).stderr(far())).expect("bash runs");
        (child, Tty::from_fd(pty.master).expect("its near end"))
    }
}

/// The board's power is a file, which tells nobody that it is gone.
async fn elapse(time: Duration) {
    let _ = tokio::time::timeout(time, std::future::pending::<()>()).await;
}
