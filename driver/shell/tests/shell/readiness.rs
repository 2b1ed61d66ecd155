//! A shell is found among what others print, and never typed at before it is there.

use std::fs::File;
use std::time::Duration;

use crate::line::{Guest, LIMIT, guests, options};
use process::Stdio;
use shell::tty::Tty;
use shell::{Command, Error, Login, Readiness, Shell};
use tokio::io::AsyncWriteExt as _;

const BANNER: &str = "Spawning backdoor root shell";

async fn greet(shell: &Shell) {
    let output = shell.run(Command::argv(["echo", "hello"]), LIMIT).await.unwrap();
    assert_eq!(output.stdout, b"hello\n");
}

#[tokio::test]
async fn a_backdoor_behind_firmware_and_boot_loader() {
    let script = format!(
        "stty raw -echo; printf '\\033[2J\\033[01;01H\\033[=3hBdsDxe: loading Boot0001\\033[3;1H'; \
         printf '\\033[0m\\033[37mGNU GRUB  version 2.12\\033[04;10H'; printf '[    0.000000] Linux version 6'; \
         read -t 1 early && echo \"typed too early: $early\"; echo; printf '{BANNER}...\\n'; \
         printf '[    9.1] random: crng init done\\r\\n'; exec bash --norc"
    );
    let (_guest, near) = Guest::start(&["bash", "--norc", "-c", &script]);
    let shell = Shell::attach(near, options(Readiness::Text(BANNER.to_owned()))).await.unwrap();
    greet(&shell).await;
    let text = shell.last_text().join("\n");
    assert!(!text.contains("too early"), "{text}");
}

/// What a getty and login(1) do, without being root: any user with the password `secret`.
const GETTY: &str = r#"printf '[    8.0] random: crng init done\r\n\r\nDebian GNU/Linux 13 server-1 ttyS0\r\n\r\n'
while :; do
printf 'server-1 login: '; read -r user || exit
[ -n "$user" ] || continue
stty -echo; printf 'Password: '; read -r password; stty echo; printf '\r\n'
[ "$password" = secret ] && break
printf 'Login incorrect\r\n'
done
printf 'Last login: Tue Nov 24 12:00:00 UTC on ttyS0\r\n'
exec env PS1='root@server-1:~# ' bash --norc --noprofile -i
"#;

fn login(password: &str) -> Readiness {
    Readiness::Login(Login { user: "root".into(), password: password.into() })
}

#[tokio::test]
async fn a_login_prompt_is_answered() {
    let (_guest, near) = Guest::start(&["sh", "-c", GETTY]);
    let shell = Shell::attach(near, options(login("secret"))).await.unwrap();
    greet(&shell).await;
}

#[tokio::test]
async fn a_wrong_password_is_said_so() {
    let (_guest, near) = Guest::start(&["sh", "-c", GETTY]);
    let error = Shell::attach(near, options(login("wrong"))).await.unwrap_err();
    assert!(matches!(&error, Error::LoginRefused { user, .. } if user == "root"), "{error}");
    assert!(!error.to_string().contains("wrong"), "{error}");
}

#[tokio::test]
async fn a_line_that_stays_dark_ends_at_the_limit_with_its_last_words() {
    let (_guest, near) =
        Guest::start(&["sh", "-c", "printf 'U-Boot 2024.01\r\nNo bootable device.\r\n'; exec sleep 1000"]);
    let mut options = options(login("secret"));
    options.limit = Duration::from_millis(800);
    let error = Shell::attach(near, options).await.unwrap_err();
    let text = error.to_string();
    assert!(matches!(error, Error::NoShell { .. }), "{text}");
    for part in ["here", "a pty", "login prompt", "No bootable device."] {
        assert!(text.contains(part), "{part}: {text}");
    }
}

#[tokio::test]
async fn a_guest_without_tools_is_told_by_their_names() {
    let directory = tempfile::tempdir().unwrap();
    let script = format!(
        "cd {} && for t in sh stty id base64 cat dd env head mkdir mktemp mv rm sha256sum sleep tr; do \
         ln -s \"$(command -v $t)\" .; done; PATH=$PWD; exec sh",
        directory.path().display()
    );
    let (_guest, near) = Guest::start(&["sh", "-c", &script]);
    let error = Shell::attach(near, options(Readiness::Now)).await.unwrap_err();
    let Error::ToolsMissing { tools, .. } = error else { panic!("{error}") };
    assert_eq!(tools, ["setsid", "wc"]);
}

#[tokio::test]
async fn a_shell_is_attached_again_while_the_last_server_still_listens() {
    for argv in [&["bash", "--norc"][..], &["dash"], &["bash", "--norc", "-i"]] {
        let pty = nix::pty::openpty(None, None).unwrap();
        let far = || Stdio::File(File::from(pty.slave.try_clone().unwrap()));
        let command =
            process::Command::new(argv[0]).args(&argv[1..]).stdin(far()).stdout(far()).stderr(far());
        let child = process::spawn(command).unwrap();
        for _ in 0..3 {
            // A second descriptor of the near end: the pty outlives the session.
            let near = Tty::from_fd(pty.master.try_clone().unwrap()).unwrap();
            let mut options = options(Readiness::Now);
            options.silence = Duration::from_secs(2);
            let shell = Shell::attach(near, options).await.unwrap();
            greet(&shell).await;
        }
        child.kill_group();
    }
}

/// On a starved host the first server may greet when the second is on its way: it leaves, and its directory with it.
#[tokio::test]
async fn the_greeting_of_a_server_that_leaves_does_not_count() {
    let directory = tempfile::tempdir().unwrap();
    let (wrapper, slept) = (directory.path().join("mktemp"), directory.path().join("slept"));
    let late = format!("#!/bin/sh\n[ -e {slept} ] || {{ : >{slept}; sleep 2; }}\n", slept = slept.display());
    let script = format!("{late}PATH=${{PATH#*:}} exec mktemp \"$@\"\n");
    std::fs::write(&wrapper, script).unwrap();
    std::fs::set_permissions(&wrapper, std::os::unix::fs::PermissionsExt::from_mode(0o755)).unwrap();
    let shell = format!("PATH={}:$PATH exec bash --norc", directory.path().display());
    let (_guest, near) = Guest::start(&["sh", "-c", &shell]);
    let mut options = options(Readiness::Now);
    options.silence = Duration::from_secs(1);
    let shell = Shell::attach(near, options).await.unwrap();
    assert!(slept.exists(), "the first server was not late");
    // More than comes with a command's end: it is fetched from the server's directory.
    let output = shell.run(Command::script("seq 20000"), LIMIT).await.unwrap();
    assert_eq!(output.stdout.len(), 108_894);
}

/// The `stty` before the server may have been ended by the key that ends what an earlier attempt left.
#[tokio::test]
async fn a_line_that_still_echoes_is_made_raw_by_the_server() {
    let directory = tempfile::tempdir().unwrap();
    let (wrapper, ended) = (directory.path().join("stty"), directory.path().join("ended"));
    let first =
        format!("#!/bin/sh\n[ -e {ended} ] || {{ : >{ended}; exit 130; }}\n", ended = ended.display());
    std::fs::write(&wrapper, format!("{first}PATH=${{PATH#*:}} exec stty \"$@\"\n")).unwrap();
    std::fs::set_permissions(&wrapper, std::os::unix::fs::PermissionsExt::from_mode(0o755)).unwrap();
    let shell = format!("PATH={}:$PATH exec bash --norc", directory.path().display());
    let (_guest, near) = Guest::start(&["sh", "-c", &shell]);
    let mut options = options(Readiness::Now);
    options.silence = Duration::from_secs(2);
    let shell = Shell::attach(near, options).await.unwrap();
    assert!(ended.exists(), "no stty was ended");
    greet(&shell).await;
}

/// What a damaged line of an earlier session may have left in front of a shell.
#[tokio::test]
async fn a_shell_that_waits_for_the_end_of_a_quote_or_a_bracket() {
    let opened = [
        "echo '",
        "echo \"",
        "echo `",
        "echo \"`",
        "echo \"$(echo '",
        "echo $(",
        "case x in",
        "(",
        "echo \\",
    ];
    let cases = guests().flat_map(|guest| opened.map(|opened| (guest, opened)));
    let attached = cases.map(async |((name, argv), opened)| {
        let (_guest, mut near) = Guest::start(argv);
        near.write_all(format!("{opened}\n").as_bytes()).await.unwrap();
        let mut options = options(Readiness::Now);
        options.silence = Duration::from_secs(1);
        let shell = Shell::attach(near, options).await;
        greet(&shell.unwrap_or_else(|error| panic!("{name} behind {opened:?}: {error}"))).await;
    });
    futures::future::join_all(attached).await;
}
