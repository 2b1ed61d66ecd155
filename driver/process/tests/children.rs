//! Real children, killed in every way.

use std::io::{BufRead, BufReader, Read};
use std::os::unix::process::ExitStatusExt;
use std::process::ChildStdout;
use std::time::{Duration, Instant};

use process::{Child, Command, Error, Identity, RunState, Signal, Stdio, Stream};

const LIMIT: Duration = Duration::from_secs(20);

fn sh(script: &str) -> Command {
    Command::new("sh").args(["-c", script])
}

fn lines_of(child: &Child) -> std::io::Lines<BufReader<ChildStdout>> {
    BufReader::new(child.take_stdout().expect("stdout is piped")).lines()
}

fn identity(line: Option<std::io::Result<String>>) -> Identity {
    let pid = line.expect("a line").expect("text").trim().parse().expect("a pid");
    Identity::of(pid).unwrap().expect("a running process")
}

#[test]
fn killing_the_group_gets_grandchildren() {
    let child = process::spawn(sh("sleep 1000 & echo $!; wait").stdout(Stdio::Piped)).unwrap();
    let grandchild = identity(lines_of(&child).next());
    assert!(grandchild.is_alive());
    child.kill_group();
    assert_eq!(child.wait_blocking(LIMIT).unwrap().signal(), Some(9));
    assert!(grandchild.wait_gone(LIMIT).unwrap());
}

#[test]
fn the_group_ends_with_its_leader() {
    let child = process::spawn(sh("sleep 1000 & echo $!; exit 3").stdout(Stdio::Piped)).unwrap();
    let pid: u32 = lines_of(&child).next().unwrap().unwrap().parse().unwrap();
    assert_eq!(child.wait_blocking(LIMIT).unwrap().code(), Some(3));
    if let Some(grandchild) = Identity::of(pid).unwrap() {
        assert!(grandchild.wait_gone(LIMIT).unwrap());
    }
}

#[test]
fn dropping_the_last_handle_kills_and_leaves_no_zombie() {
    let child = process::spawn(Command::new("sleep").arg("1000")).unwrap();
    let id = child.identity();
    let other = child.clone();
    drop(child);
    assert!(id.is_alive(), "a handle is left");
    drop(other);
    assert!(id.wait_gone(LIMIT).unwrap());
    // Reaped by the waiting thread a moment later: its entry in /proc goes, a zombie's would stay.
    let until = Instant::now() + LIMIT;
    while Identity::of(id.pid).unwrap() == Some(id) {
        assert!(Instant::now() < until, "pid {} is still a zombie", id.pid);
        std::thread::yield_now();
    }
}

#[test]
fn many_wait_and_all_see_the_status() {
    let child = process::spawn(sh("read _; exit 7").stdin(Stdio::Piped)).unwrap();
    assert_eq!(child.try_status(), None);
    let stdin = child.take_stdin().unwrap();
    let threads: Vec<_> = (0..3)
        .map(|_| {
            let child = child.clone();
            std::thread::spawn(move || child.wait_blocking(LIMIT).unwrap().code())
        })
        .collect();
    let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
    drop(stdin);
    assert_eq!(runtime.block_on(async { tokio::join!(child.wait(), child.wait()) }).1.code(), Some(7));
    for thread in threads {
        assert_eq!(thread.join().unwrap(), Some(7));
    }
    assert!(!child.signal_group(Signal::TERM).unwrap(), "it has ended, so nobody is signalled");
}

#[test]
fn a_child_is_in_a_group_of_its_own_with_its_signals_reset() {
    let output =
        process::run_blocking(Command::new("cat").arg("/proc/self/stat"), LIMIT).unwrap().checked().unwrap();
    let text = output.stdout_text().into_owned();
    let fields: Vec<&str> = text.split_whitespace().collect();
    assert_eq!(fields[0], fields[4], "pid and process group: {text}");
}

#[test]
fn a_missing_program_is_an_error_of_its_own() {
    let error = process::spawn(Command::new("no-such-tool-here")).unwrap_err();
    assert!(matches!(error, Error::NotFound { .. }), "{error:?}");
    assert!(
        error.to_string().starts_with("no-such-tool-here is not installed: looked on the PATH ("),
        "{error}"
    );
    let error = process::spawn(Command::new("sh").cwd("/no/such/directory")).unwrap_err();
    assert!(error.to_string().contains("its working directory /no/such/directory does not exist"), "{error}");
}

#[test]
fn environment_input_and_files_arrive() {
    let dir = tempfile::tempdir().unwrap();
    std::fs::write(dir.path().join("file"), "in the file").unwrap();
    let file = std::fs::File::open(dir.path().join("file")).unwrap();
    let command =
        sh(r#"printf '%s|%s|' "$GREETING" "$(pwd)"; cat; printf '|'; cat <&9; env | grep -c ^HOME= >&2"#)
            .env("GREETING", "hello")
            .env_remove("HOME")
            .cwd(dir.path())
            .stdin_bytes("typed")
            .fd(file, 9);
    let output = process::run_blocking(command, LIMIT).unwrap();
    let here = dir.path().canonicalize().unwrap();
    assert_eq!(output.stdout_text(), format!("hello|{}|typed|in the file", here.display()));
    assert_eq!(output.stderr_text(), "0\n");
}

#[test]
fn large_input_and_output_do_not_wedge() {
    let megabytes = vec![b'x'; 8 << 20];
    let output = process::run_blocking(Command::new("cat").stdin_bytes(megabytes.clone()), LIMIT).unwrap();
    assert_eq!(output.stdout.len(), megabytes.len());
    let ignored = process::run_blocking(Command::new("true").stdin_bytes(megabytes), LIMIT).unwrap();
    assert!(ignored.success());
}

#[test]
fn a_limit_kills_the_whole_group_and_says_what_was_printed() {
    let begun = Instant::now();
    let command = sh("sleep 1000 & echo $! >&2; echo about to hang >&2; wait");
    let error = process::run_blocking(command, Duration::from_millis(300)).unwrap_err();
    assert!(begun.elapsed() < LIMIT);
    let Error::Limit { tail, .. } = &error else { panic!("{error:?}") };
    assert_eq!(tail.lines().last(), Some("about to hang"));
    let grandchild = tail.lines().next().unwrap().parse().unwrap();
    if let Some(grandchild) = Identity::of(grandchild).unwrap() {
        assert!(grandchild.wait_gone(LIMIT).unwrap());
    }
    assert!(error.to_string().contains("was killed; the last lines of stderr:"), "{error}");
}

#[test]
fn a_limit_on_a_runtime_is_the_same() {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let error =
        runtime.block_on(process::run(sh("echo so far; exec sleep 1000"), Duration::from_millis(300)));
    assert!(matches!(&error, Err(Error::Limit { tail, .. }) if tail.lines().eq(["so far"])), "{error:?}");
    let output = runtime.block_on(process::run(sh("echo out; echo err >&2; exit 4"), LIMIT)).unwrap();
    assert_eq!((output.stdout_text().as_ref(), output.stderr_text().as_ref()), ("out\n", "err\n"));
    let error = output.checked().unwrap_err().to_string();
    assert!(error.starts_with("`sh -c 'echo out; echo err >&2; exit 4'` failed: exit status: 4"), "{error}");
    assert!(error.ends_with("err"), "{error}");
}

#[test]
fn cancelling_a_run_kills_it() {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let dir = tempfile::tempdir().unwrap();
    let fifo = dir.path().join("pid");
    process::run_blocking(Command::new("mkfifo").arg(&fifo), LIMIT).unwrap().checked().unwrap();
    let id = runtime.block_on(async {
        let run = process::run(sh(&format!("echo $$ > {}; exec sleep 1000", fifo.display())), LIMIT);
        let pid = tokio::task::spawn_blocking(move || std::fs::read_to_string(fifo).unwrap());
        tokio::select! {
            output = run => panic!("{output:?}"),
            pid = pid => identity(Some(Ok(pid.unwrap()))),
        }
    });
    assert!(id.wait_gone(LIMIT).unwrap());
}

#[test]
fn lines_stream_as_they_come() {
    let mut seen = Vec::new();
    let script = "echo one; printf ' 10%%\\r 20%%\\r'; echo two >&2; printf last";
    let output =
        process::run_streaming(sh(script), LIMIT, |stream, line| seen.push((stream, line.to_owned())))
            .unwrap();
    assert!(output.success());
    let stdout: Vec<_> = seen.iter().filter(|(s, _)| *s == Stream::Stdout).map(|(_, l)| l.as_str()).collect();
    assert_eq!(stdout, ["one", " 10%", " 20%", "last"]);
    assert!(seen.contains(&(Stream::Stderr, "two".into())));

    let begun = Instant::now();
    let chatter = sh("while :; do echo again; done");
    let error = process::run_streaming(chatter, Duration::from_millis(200), |_, _| {}).unwrap_err();
    assert!(matches!(&error, Error::Limit { tail, .. } if tail.lines().last() == Some("again")), "{error}");
    assert!(begun.elapsed() < LIMIT);
}

#[test]
fn a_daemon_that_keeps_the_pipe_does_not_wedge_the_run() {
    let begun = Instant::now();
    let output =
        process::run_blocking(sh("exec 3>&1; echo $(setsid sh -c 'sleep 15 >&3 & echo $!')"), LIMIT).unwrap();
    assert!(begun.elapsed() < Duration::from_secs(14), "it waited for the daemon");
    let daemon = identity(Some(Ok(output.stdout_text().into_owned())));
    assert!(
        process::lingering().unwrap().iter().any(|(id, _)| *id == daemon),
        "what left the group is found by its mark"
    );
    assert!(daemon.signal(Signal::KILL).unwrap());
}

const ROLE: &str = "PROCESS_TEST_ROLE";

/// What the tests below start again from this very binary. Without the variable it is no test.
#[test]
fn owner() {
    match std::env::var(ROLE).as_deref() {
        Ok("thread") => {
            // Spawned from a thread that ends at once: the children must live on.
            let child = std::thread::spawn(|| process::spawn(Command::new("sleep").arg("1000")).unwrap())
                .join()
                .unwrap();
            println!("pid {}", child.pid());
            std::mem::forget(child);
        }
        Ok("run") => {
            let run = process::RunDir::create("killed").unwrap();
            // One grandchild in the group, one that left it.
            let script = "sleep 1000 & echo pid $!; setsid sleep 1000 & echo pid $!; echo pid $$; wait";
            let child = process::spawn(sh(script).stdout(Stdio::Inherit)).unwrap();
            run.record("server-1", &child).unwrap();
            println!("recorded {}", run.path().display());
            std::mem::forget((run, child));
        }
        _ => return,
    }
    // Until killed.
    let _ = std::io::stdin().read(&mut [0]);
}

/// Starts `owner` and returns it with the processes that it announced.
fn start_owner(role: &str, runtime_dir: &std::path::Path, pids: usize) -> (Child, Vec<Identity>) {
    let command = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "owner", "--nocapture"])
        .env(ROLE, role)
        .env("XDG_RUNTIME_DIR", runtime_dir)
        .stdin(Stdio::Piped)
        .stdout(Stdio::Piped);
    let owner = process::spawn(command).unwrap();
    let mut found = Vec::new();
    let mut recorded = role != "run";
    for line in lines_of(&owner) {
        let line = line.unwrap();
        // libtest prints the test's name without a newline first.
        if let Some((_, pid)) = line.rsplit_once("pid ") {
            found.push(identity(Some(Ok(pid.to_owned()))));
        }
        recorded |= line.contains("recorded ");
        if found.len() == pids && recorded {
            return (owner, found);
        }
    }
    panic!("the owner ended early: {owner:?}");
}

#[test]
fn a_child_dies_with_its_parent_but_not_with_the_thread_that_asked_for_it() {
    let dir = tempfile::tempdir().unwrap();
    let (owner, children) = start_owner("thread", dir.path(), 1);
    assert!(!children[0].wait_gone(Duration::from_millis(200)).unwrap(), "it died with the thread");
    // Exactly the parent, so that only the death signal can end the child.
    assert!(owner.identity().signal(Signal::KILL).unwrap());
    assert!(children[0].wait_gone(LIMIT).unwrap());
}

#[test]
fn what_a_killed_owner_left_is_reaped() {
    let dir = tempfile::tempdir().unwrap();
    let (owner, processes) = start_owner("run", dir.path(), 3);
    let ask = |role: &str| {
        let command = Command::new(std::env::current_exe().unwrap())
            .args(["--exact", "reaper", "--nocapture"])
            .env(ROLE, role)
            .env("XDG_RUNTIME_DIR", dir.path());
        process::run_blocking(command, LIMIT).unwrap().checked().unwrap();
    };
    ask("sees-alive");
    owner.identity().signal(Signal::KILL).unwrap();
    assert!(owner.wait_blocking(LIMIT).is_some());
    ask("reaps");
    for process in &processes {
        assert!(!process.is_alive(), "{process:?} was left");
    }
    assert_eq!(
        std::fs::read_dir(dir.path().join("rackless-runs")).unwrap().count(),
        1,
        "only the lock of the base"
    );
}

/// The other side of the test above.
#[test]
fn reaper() {
    match std::env::var(ROLE).as_deref() {
        Ok("sees-alive") => {
            assert_eq!(process::reap_stale().unwrap(), []);
            let runs = process::runs().unwrap();
            let killed = runs.iter().find(|run| run.run == "killed").unwrap();
            assert_eq!(killed.state, RunState::Alive);
            assert_eq!(killed.children[0].name, "server-1");
            assert!(killed.children[0].alive);
        }
        Ok("reaps") => {
            let reaped = process::reap_stale().unwrap();
            let killed = reaped.iter().find(|reaped| reaped.run == "killed").unwrap();
            assert_eq!(killed.survivors, []);
            assert!(killed.killed.iter().any(|(_, command)| command.starts_with("sleep 1000")), "{killed:?}");
            assert!(!process::runs().unwrap().iter().any(|run| run.run == "killed"));
        }
        _ => {}
    }
}
