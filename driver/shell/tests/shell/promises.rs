//! What the channel promises, with each shell that a guest may have.

use std::time::{Duration, Instant};

use crate::line::{LIMIT, attached, guests};
use shell::{Command, Error, Output, Refusal, Shell, Status};

async fn run(shell: &Shell, command: Command) -> Output {
    shell.run(command, LIMIT).await.unwrap()
}

#[tokio::test]
async fn stdout_stderr_and_status_are_apart() {
    for (name, argv) in guests() {
        let (_guest, shell) = attached(argv).await;
        let output = run(&shell, Command::script("echo out; echo err >&2; exit 3")).await;
        assert_eq!(output.status, Status::Code(3), "{name}");
        assert_eq!((output.stdout, output.stderr), (b"out\n".to_vec(), b"err\n".to_vec()), "{name}");
        let output = run(&shell, Command::script("kill -9 $$")).await;
        assert_eq!(output.status, Status::Signal(9), "{name}");
        let output = run(&shell, Command::argv(["printf", "%s|", "a b", "$HOME", "", "it's"])).await;
        assert_eq!(output.stdout, b"a b|$HOME||it's|", "{name}");
        let output = run(&shell, Command::argv(["true"])).await;
        assert_eq!(
            (output.stdout, output.stderr, output.status),
            (vec![], vec![], Status::Code(0)),
            "{name}"
        );
    }
}

#[tokio::test]
async fn environment_directory_and_stdin() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().to_str().unwrap();
    for (name, argv) in guests() {
        let (_guest, shell) = attached(argv).await;
        let command =
            Command::script("echo $GREETING; pwd; cat").env("GREETING", "mo\nin 'x'").cwd(path).stdin("in");
        let output = run(&shell, command).await;
        let wanted = format!("mo in 'x'\n{path}\nin");
        assert_eq!(String::from_utf8_lossy(&output.stdout), wanted, "{name}");
        assert_eq!(run(&shell, Command::argv(["cat"])).await.stdout, b"", "{name}: without stdin");
        let output = run(&shell, Command::script("env | sed 's/=.*//' | sort | tr '\\n' ' '; pwd")).await;
        let text = String::from_utf8(output.stdout).unwrap();
        for variable in ["HOME", "LANG", "LOGNAME", "PATH", "SHELL", "USER"] {
            assert!(text.contains(variable), "{name}: {text}");
        }
        assert!(!text.contains("CARGO"), "{name}: {text}");
    }
}

#[tokio::test]
async fn every_byte_comes_through() {
    let bytes: Vec<u8> = (0..=255).cycle().take(100_003).collect();
    for (name, argv) in guests() {
        let (_guest, shell) = attached(argv).await;
        let output = run(&shell, Command::argv(["cat"]).stdin(bytes.clone())).await;
        assert!(output.stdout == bytes, "{name}");
        let output =
            run(&shell, Command::script("cat >&2; printf '\\0'").stdin(bytes[..3000].to_vec())).await;
        assert!(output.stderr == bytes[..3000] && output.stdout == b"\0", "{name}");
    }
}

#[tokio::test]
async fn what_is_missing_is_named() {
    for (name, argv) in guests() {
        let (_guest, shell) = attached(argv).await;
        for (command, what) in [
            (Command::argv(["rackless-no-such-program"]), "rackless-no-such-program"),
            (Command::argv(["true"]).user("rackless-no-such-user"), "rackless-no-such-user"),
            (Command::argv(["true"]).cwd("/rackless/no/such"), "/rackless/no/such"),
        ] {
            match shell.run(command, LIMIT).await {
                Err(Error::Refused { refusal: Refusal::NotFound, message, .. }) if message.contains(what) => {
                }
                other => panic!("{name}: {what}: {other:?}"),
            }
        }
        assert_eq!(run(&shell, Command::argv(["true"])).await.status, Status::Code(0), "{name}");
    }
}

#[tokio::test]
async fn another_user_has_its_groups() {
    if !nix::unistd::geteuid().is_root() {
        return;
    }
    let (_guest, shell) = attached(&["bash", "--norc"]).await;
    let output = run(&shell, Command::script("id -u; id -g; id -G; echo $USER $HOME").user("nobody")).await;
    let wanted =
        run(&shell, Command::script("id -u nobody; id -g nobody; id -G nobody; echo nobody; echo ~nobody"))
            .await;
    let words = |bytes: &[u8]| {
        String::from_utf8_lossy(bytes).split_whitespace().map(str::to_owned).collect::<Vec<_>>()
    };
    let (got, wanted) = (words(&output.stdout), words(&wanted.stdout));
    assert_eq!(got[..4], wanted[..4]);
    let output = run(&shell, Command::script("id -u; id -g").user("4242:4243")).await;
    assert_eq!(output.stdout, b"4242\n4243\n");
}

#[tokio::test]
async fn a_limit_kills_the_group_and_the_channel_goes_on() {
    for (name, argv) in guests() {
        let (_guest, shell) = attached(argv).await;
        let script = "echo evidence; echo $$; sleep 1000 & sleep 1000; echo never";
        let error = shell.run(Command::script(script), Duration::from_millis(300)).await.unwrap_err();
        assert!(error.is_timeout() && error.to_string().contains("evidence"), "{name}: {error}");
        let Error::CommandTimeout { output, .. } = &error else { panic!("{name}: {error}") };
        group_ends(&shell, &output[1]).await;
        assert_eq!(run(&shell, Command::argv(["echo", "on"])).await.stdout, b"on\n", "{name}");
    }
}

/// Waits until a process group has no members.
async fn group_ends(shell: &Shell, leader: &str) {
    let probe = format!("kill -0 -- -{leader}");
    let begun = Instant::now();
    while run(shell, Command::script(&probe)).await.status == Status::Code(0) {
        assert!(begun.elapsed() < LIMIT, "the group {leader} lives on");
    }
}

#[tokio::test]
async fn a_command_that_nobody_waits_for_is_killed() {
    let (_guest, shell) = attached(&["dash"]).await;
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("pid");
    let script = format!("echo $$ >{}.new; mv {0}.new {0}; sleep 1000", file.display());
    let waiting = tokio::spawn({
        let shell = shell.clone();
        async move { shell.run(Command::script(script), LIMIT).await }
    });
    let begun = Instant::now();
    let leader = loop {
        if let Ok(text) = std::fs::read_to_string(&file) {
            break text.trim().to_owned();
        }
        assert!(begun.elapsed() < LIMIT);
        tokio::task::yield_now().await;
    };
    waiting.abort();
    group_ends(&shell, &leader).await;
}

#[tokio::test]
async fn commands_run_beside_each_other() {
    let (_guest, shell) = attached(&["bash", "--norc"]).await;
    let directory = tempfile::tempdir().unwrap();
    let fifo = directory.path().join("fifo");
    let waits = format!("mkfifo {0}; cat {0}", fifo.display());
    let opens = format!("until [ -p {0} ]; do :; done; echo beside >{0}", fifo.display());
    let (first, second) =
        tokio::join!(run(&shell, Command::script(waits)), run(&shell, Command::script(opens)));
    assert_eq!((first.stdout, second.status), (b"beside\n".to_vec(), Status::Code(0)));
    let many = (0..20).map(|number| {
        let shell = shell.clone();
        tokio::spawn(async move {
            (number, run(&shell, Command::argv(["echo".to_owned(), number.to_string()])).await)
        })
    });
    for task in many.collect::<Vec<_>>() {
        let (number, output) = task.await.unwrap();
        assert_eq!(output.stdout, format!("{number}\n").into_bytes());
    }
}

#[tokio::test]
async fn a_child_that_outlives_its_command_keeps_nobody_waiting() {
    let (_guest, shell) = attached(&["dash"]).await;
    let output = run(&shell, Command::script("sleep 1000 & echo $!")).await;
    assert_eq!(output.status, Status::Code(0));
    let child = String::from_utf8(output.stdout).unwrap();
    assert_eq!(run(&shell, Command::argv(["kill", child.trim()])).await.status, Status::Code(0));
}

#[tokio::test]
async fn files_both_ways() {
    let directory = tempfile::tempdir().unwrap();
    let content: Vec<u8> = (0..300_001_u32).map(|n| n.wrapping_mul(2_654_435_761).to_le_bytes()[3]).collect();
    for (name, argv) in guests() {
        let (_guest, shell) = attached(argv).await;
        let path = format!("{}/deep er/{}/fi'le", directory.path().display(), argv.join("-"));
        shell.write_file(&path, &content, 0o640, None).await.unwrap();
        assert!(std::fs::read(&path).unwrap() == content, "{name}");
        let meta = shell.stat(&path).await.unwrap();
        assert_eq!((meta.mode, meta.directory), (0o640, false), "{name}");
        let mut got = Vec::new();
        shell.read_file(&path, &mut got).await.unwrap();
        assert!(got == content, "{name}");
        shell.write_file(&path, b"", 0o600, None).await.unwrap();
        got.clear();
        shell.read_file(&path, &mut got).await.unwrap();
        assert_eq!(got, b"", "{name}: shorter than before");
        let status = shell.read_file("/proc/self/status", &mut got).await;
        assert!(status.is_ok() && got.starts_with(b"Name:"), "{name}: {status:?}");
        let missing = shell.read_file("/rackless/missing", &mut Vec::new()).await;
        assert!(
            matches!(missing, Err(Error::Refused { refusal: Refusal::NotFound, .. })),
            "{name}: {missing:?}"
        );
        let left = std::fs::read_dir(std::path::Path::new(&path).parent().unwrap()).unwrap().count();
        assert_eq!(left, 1, "{name}: no part is left");
    }
}

#[tokio::test]
async fn a_file_goes_on_where_it_was_cut_short() {
    let directory = tempfile::tempdir().unwrap();
    let content: Vec<u8> = (0..200_000_u32).map(|n| n.to_le_bytes()[(n % 3) as usize]).collect();
    let path = directory.path().join("file");
    std::fs::write(&path, &content).unwrap();
    let (_guest, shell) = attached(&["bash", "--norc"]).await;
    // The first half is wrong in one byte: taken for what came before, it shows at the end.
    let mut got = content[..100_000].to_vec();
    shell.read_file(path.to_str().unwrap(), &mut got).await.unwrap();
    assert!(got == content);
    let mut got = content[..100_000].to_vec();
    got[5] ^= 1;
    let error = shell.read_file(path.to_str().unwrap(), &mut got).await.unwrap_err();
    assert!(matches!(error, Error::Digest { .. }), "{error}");
    assert!(got.is_empty(), "what is wrong is not kept");
}

#[tokio::test]
async fn a_shell_without_an_end_is_silent_in_time() {
    let (guest, near) = crate::line::Guest::start(&["bash", "--norc"]);
    let mut options = crate::line::options(shell::Readiness::Now);
    (options.silence, options.attempts) = (Duration::from_millis(200), 3);
    let shell = Shell::attach(near, options).await.unwrap();
    // The guest's server stops: the line stays open and says nothing any more.
    guest.signal(process::Signal::STOP);
    let error = shell.ping().await.unwrap_err();
    assert!(matches!(error, Error::Silent { attempts: 3, .. }), "{error}");
    guest.signal(process::Signal::CONT);
    shell.ping().await.unwrap();
    drop(guest);
    let begun = Instant::now();
    let error = loop {
        match shell.ping().await.unwrap_err() {
            error @ Error::Closed { .. } => break error,
            error => assert!(begun.elapsed() < LIMIT, "{error}"),
        }
    };
    assert!(error.is_lost() && error.to_string().contains("here"), "{error}");
}
