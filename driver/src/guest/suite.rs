//! What the channel promises, as checks that run over any transport to any agent.
//!
//! The driver's own tests run them against an agent on the host, the tests with machines over each transport that
//! the host can have. A check needs a POSIX shell and coreutils in the guest, leaves nothing there, and sleeps nowhere.

mod units;

use super::{Chunk, CopyOptions, Exec, FailureKind, Guest, GuestError, Status, SystemState};
use futures::FutureExt;
use futures::future::{BoxFuture, join_all};
use std::fmt::Write;
use std::os::unix::fs::PermissionsExt;
use std::time::Duration;
use units::{
    a_failed_unit_ends_the_wait, a_unit_is_waited_for_while_it_starts, units_start_stop_and_have_properties,
};

/// A promise.
#[derive(Clone, Copy)]
pub struct Check {
    /// What it is called in reports.
    pub name: &'static str,
    run: fn(&Room) -> BoxFuture<'_, Result<(), String>>,
}

/// Where a check works: a guest and a directory in it.
struct Room {
    guest: Guest,
    directory: String,
    limit: Duration,
}

/// All checks.
#[must_use]
pub fn checks() -> Vec<Check> {
    macro_rules! checks {
        ($($name:ident),* $(,)?) => {
            vec![$(Check { name: stringify!($name), run: |room| $name(room).boxed() }),*]
        };
    }
    checks![
        stdout_stderr_and_status_are_apart,
        binary_output_is_exact,
        environment_directory_and_stdin,
        another_user_has_its_groups,
        what_is_missing_is_named,
        a_stalled_reader_blocks_nobody,
        two_hundred_in_flight,
        stdin_is_streamed,
        a_limit_kills_the_group,
        dropping_kills_the_group,
        signals_reach_the_command,
        a_terminal_has_a_size,
        a_background_child_does_not_block,
        ten_megabytes_both_ways,
        trees_both_ways,
        files_are_replaced_whole,
        waits_end_when_it_comes_to_be,
        waits_keep_their_evidence,
        a_failed_unit_ends_the_wait,
        a_unit_is_waited_for_while_it_starts,
        units_start_stop_and_have_properties,
    ]
}

/// Runs all checks, one after the other, with `limit` for each step and three times that for each check.
///
/// # Errors
///
/// The names of the checks that failed, with the reasons.
pub async fn run(guest: &Guest, limit: Duration) -> Result<(), String> {
    let mut failures = String::new();
    for check in checks() {
        if let Err(reason) = check.run(guest, limit).await {
            let _ = writeln!(failures, "{}: {reason}", check.name);
        }
    }
    if failures.is_empty() { Ok(()) } else { Err(failures) }
}

impl Check {
    /// Runs it in a directory of its own, which is removed.
    ///
    /// # Errors
    ///
    /// The reason of the failure.
    pub async fn run(&self, guest: &Guest, limit: Duration) -> Result<(), String> {
        let made = guest.run(Exec::argv(["mktemp", "-d"]), limit).await.map_err(text)?;
        let directory = String::from_utf8_lossy(&made.stdout).trim_end().to_owned();
        let room = Room { guest: guest.clone(), directory, limit };
        let result = tokio::time::timeout(limit * 3, (self.run)(&room)).await;
        let result = result.unwrap_or_else(|_| Err(format!("not done within {:.1?}", limit * 3)));
        let removed = guest.run(Exec::argv(["rm", "-rf", &room.directory]), limit).await;
        result.and(removed.map(drop).map_err(text))
    }
}

fn text(error: GuestError) -> String {
    error.to_string()
}

/// Fails with both values shown.
fn same<T: PartialEq + std::fmt::Debug>(what: &str, got: T, wanted: T) -> Result<(), String> {
    if got == wanted { Ok(()) } else { Err(format!("{what}: got {got:.200?}, wanted {wanted:.200?}")) }
}

impl Room {
    fn path(&self, name: &str) -> String {
        format!("{}/{name}", self.directory)
    }

    async fn run(&self, exec: Exec) -> Result<super::Output, String> {
        self.guest.run(exec, self.limit).await.map_err(text)
    }

    async fn is_root(&self) -> Result<bool, String> {
        Ok(self.run(Exec::argv(["id", "-u"])).await?.stdout == b"0\n")
    }

    /// Whether it can start units there.
    async fn has_systemd(&self) -> Result<bool, String> {
        let systemd = self.guest.info(self.limit).await.map_err(text)?.systemd_version.is_some();
        if !systemd || !self.is_root().await? {
            return Ok(false);
        }
        let state = self.guest.system_state(self.limit).await.map_err(text)?;
        Ok(matches!(state, SystemState::Running | SystemState::Degraded))
    }

    /// A process group comes to its end.
    async fn group_ends(&self, leader: u32) -> Result<(), String> {
        let probe = Exec::shell(format!("kill -0 -- -{leader}"));
        self.guest.wait_until_fails(probe, self.limit).await.map(drop).map_err(text)
    }
}

async fn stdout_stderr_and_status_are_apart(room: &Room) -> Result<(), String> {
    let output = room.run(Exec::shell("echo out; echo err >&2; exit 3")).await?;
    same("status", output.status, Status::Code(3))?;
    same("stdout", output.stdout, b"out\n".to_vec())?;
    same("stderr", output.stderr, b"err\n".to_vec())?;
    let output = room.run(Exec::shell("kill -9 $$")).await?;
    same("status", output.status, Status::Signal(9))?;
    let output = room.run(Exec::argv(["printf", "%s|", "a b", "$HOME", ""])).await?;
    same("arguments", output.stdout, b"a b|$HOME||".to_vec())?;
    if output.usage.max_rss_kib == 0 {
        return Err("no resource use is told".into());
    }
    Ok(())
}

async fn binary_output_is_exact(room: &Room) -> Result<(), String> {
    let bytes: Vec<u8> = (0..=255).cycle().take(100_000).collect();
    let output = room.run(Exec::argv(["cat"]).stdin(bytes.clone())).await?;
    same("bytes", output.stdout == bytes, true)
}

async fn environment_directory_and_stdin(room: &Room) -> Result<(), String> {
    let exec =
        Exec::shell("echo $GREETING; pwd; cat").env("GREETING", "moin").cwd(&*room.directory).stdin("in");
    let output = room.run(exec).await?;
    same(
        "output",
        String::from_utf8_lossy(&output.stdout).into_owned(),
        format!("moin\n{}\nin", room.directory),
    )?;
    let output = room.run(Exec::argv(["cat"])).await?;
    same("without stdin", output.stdout, Vec::new())
}

async fn another_user_has_its_groups(room: &Room) -> Result<(), String> {
    if !room.is_root().await? {
        return Ok(());
    }
    let output = room.run(Exec::shell("id -u; id -g; id -G; echo $USER $HOME").user("nobody")).await?;
    let wanted =
        room.run(Exec::shell("id -u nobody; id -g nobody; id -G nobody; echo nobody ~nobody")).await?;
    let words = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    same("user", words(&output.stdout), words(&wanted.stdout))?;
    let output = room.run(Exec::argv(["id", "-u"]).user("4242:4243")).await?;
    same("a number", output.stdout, b"4242\n".to_vec())
}

async fn what_is_missing_is_named(room: &Room) -> Result<(), String> {
    let missing = [
        (Exec::argv(["rackless-no-such-program"]), "rackless-no-such-program"),
        (Exec::argv(["true"]).user("rackless-no-such-user"), "rackless-no-such-user"),
        (Exec::argv(["true"]).cwd("/rackless/no/such/directory"), "/rackless/no/such/directory"),
    ];
    for (exec, name) in missing {
        match room.guest.run(exec, room.limit).await {
            Err(GuestError::Refused { kind: FailureKind::NotFound, message, .. })
                if message.contains(name) => {}
            other => return Err(format!("{name}: {other:?}")),
        }
    }
    let read = room.guest.read_file(room.path("missing"), room.limit).await;
    same("read", matches!(read, Err(GuestError::Refused { kind: FailureKind::NotFound, .. })), true)
}

async fn a_stalled_reader_blocks_nobody(room: &Room) -> Result<(), String> {
    let lines = 1_500_000;
    let mut running =
        room.guest.exec(Exec::argv(["seq".to_owned(), lines.to_string()])).await.map_err(text)?;
    let mut stdout = running.take_stdout().ok_or("stdout can't be taken")?;
    // The writer has filled its window and the pipe once it sleeps in a write.
    let state = format!("grep -q '^State:.*S' /proc/{}/status", running.pid());
    room.guest.wait_until_succeeds(Exec::shell(state), room.limit).await.map_err(text)?;
    for number in 0..20 {
        let output = room.run(Exec::argv(["echo".to_owned(), number.to_string()])).await?;
        same("beside it", output.stdout, format!("{number}\n").into_bytes())?;
    }
    let (mut length, mut hasher) = (0, blake3::Hasher::new());
    while let Some(bytes) = stdout.next().await.map_err(text)? {
        length += bytes.len();
        hasher.update(&bytes);
    }
    let mut wanted = String::new();
    for line in 1..=lines {
        let _ = writeln!(wanted, "{line}");
    }
    same("length", length, wanted.len())?;
    same("digest", hasher.finalize(), blake3::hash(wanted.as_bytes()))?;
    same("status", running.wait().await.map_err(text)?.status, Status::Code(0))
}

async fn two_hundred_in_flight(room: &Room) -> Result<(), String> {
    // All of them live at once: none gets its input before the last has started.
    let start = (0..200).map(|_| room.guest.exec(Exec::argv(["cat"]).stdin_streamed()));
    let started = join_all(start).await.into_iter().collect::<Result<Vec<_>, _>>().map_err(text)?;
    let answer = |(number, mut running): (usize, super::Running)| async move {
        let stdin = running.take_stdin().ok_or("stdin can't be taken")?;
        let word = format!("number {number}").into_bytes();
        stdin.write(&word).await;
        same("answer", running.next().await.map_err(text)?, Some(Chunk::Stdout(word)))?;
        drop(stdin);
        same("status", running.wait().await.map_err(text)?.status, Status::Code(0))
    };
    join_all(started.into_iter().enumerate().map(answer)).await.into_iter().collect()
}

async fn stdin_is_streamed(room: &Room) -> Result<(), String> {
    let mut running = room.guest.exec(Exec::argv(["cat"]).stdin_streamed()).await.map_err(text)?;
    let stdin = running.take_stdin().ok_or("stdin can't be taken")?;
    for word in [&b"first"[..], b"second"] {
        stdin.write(word).await;
        same("echo", running.next().await.map_err(text)?, Some(Chunk::Stdout(word.to_vec())))?;
    }
    let bulk = vec![b'x'; 3_000_000];
    let feed = async {
        let fed = stdin.write(&bulk).await;
        drop(stdin);
        fed
    };
    let read = async {
        let mut length = 0;
        while let Some(Chunk::Stdout(bytes)) = running.next().await.map_err(text)? {
            length += bytes.len();
        }
        Ok::<_, String>(length)
    };
    let (fed, length) = futures::join!(feed, read);
    same("fed", fed, true)?;
    same("length", length?, bulk.len())?;
    same("status", running.wait().await.map_err(text)?.status, Status::Code(0))?;
    // A command that doesn't read its input ends all the same.
    let output = room.run(Exec::argv(["true"]).stdin(bulk)).await?;
    same("unread", output.status, Status::Code(0))
}

async fn a_limit_kills_the_group(room: &Room) -> Result<(), String> {
    let limit = Duration::from_millis(300);
    let exec = Exec::shell("echo evidence; sleep 1000 & sleep 1000; echo never");
    let mut running = room.guest.exec(exec.clone().limit(limit)).await.map_err(text)?;
    same("status", running.wait().await.map_err(text)?.status, Status::TimedOut)?;
    room.group_ends(running.pid()).await?;
    match room.guest.run(exec, limit).await {
        Err(error @ GuestError::CommandTimeout { .. }) if error.is_timeout() => {
            same("evidence", error.to_string().contains("evidence"), true)?;
        }
        other => return Err(format!("{other:?}")),
    }
    room.guest.ping(room.limit).await.map_err(text)
}

async fn dropping_kills_the_group(room: &Room) -> Result<(), String> {
    let running = room.guest.exec(Exec::shell("sleep 1000 & sleep 1000")).await.map_err(text)?;
    let leader = running.pid();
    drop(running);
    room.group_ends(leader).await
}

async fn signals_reach_the_command(room: &Room) -> Result<(), String> {
    let exec = Exec::shell("trap 'exit 7' USR1; sleep 1000 & echo ready; wait");
    let mut running = room.guest.exec(exec).await.map_err(text)?;
    same("ready", running.next().await.map_err(text)?, Some(Chunk::Stdout(b"ready\n".to_vec())))?;
    running.signal(10);
    same("status", running.wait().await.map_err(text)?.status, Status::Code(7))
}

async fn a_terminal_has_a_size(room: &Room) -> Result<(), String> {
    let output =
        room.run(Exec::shell("test -t 0 && test -t 2 && stty size && echo end >&2").tty(90, 33)).await?;
    let shown = String::from_utf8_lossy(&output.stdout).replace('\r', "");
    same("output", shown, "33 90\nend\n".to_owned())?;
    let exec = Exec::shell("trap 'stty size; exit 0' WINCH; sleep 1000 & echo ready; wait").tty(80, 24);
    let mut running = room.guest.exec(exec).await.map_err(text)?;
    let mut seen = Vec::new();
    while let Some(Chunk::Stdout(bytes)) = running.next().await.map_err(text)? {
        if seen.is_empty() {
            running.resize(120, 40);
        }
        seen.extend_from_slice(&bytes);
        if seen.ends_with(b"40 120\r\n") {
            return Ok(());
        }
    }
    Err(format!("no new size: {:?}", String::from_utf8_lossy(&seen)))
}

async fn a_background_child_does_not_block(room: &Room) -> Result<(), String> {
    let output = room.run(Exec::shell("sleep 1000 & echo $!")).await?;
    same("lingering", output.lingering, true)?;
    let child = String::from_utf8_lossy(&output.stdout).trim_end().to_owned();
    let output = room.run(Exec::argv(["kill", &child])).await?;
    same("the child lives on", output.status, Status::Code(0))
}

async fn ten_megabytes_both_ways(room: &Room) -> Result<(), String> {
    let host = tempfile::tempdir().map_err(|error| error.to_string())?;
    let io = |error: std::io::Error| error.to_string();
    let (from, to, path) = (host.path().join("from"), host.path().join("sub/to"), room.path("deep/er/file"));
    let content: Vec<u8> =
        (0..10_000_000_u32).map(|n| n.wrapping_mul(2_654_435_761).to_le_bytes()[3]).collect();
    std::fs::write(&from, &content).map_err(io)?;
    let options = CopyOptions { mode: Some(0o640), owner: None };
    let sent = room.guest.copy_to(&from, &path, options, room.limit).await.map_err(text)?;
    let output = room.run(Exec::argv(["stat", "-c", "%a %s", &path])).await?;
    same("mode and size", output.stdout, b"640 10000000\n".to_vec())?;
    let got = room.guest.copy_from(&path, &to, room.limit).await.map_err(text)?;
    same("digest", got.digest, sent.digest)?;
    same("digest", &got.digest, blake3::hash(&content).as_bytes())?;
    same("content", std::fs::read(&to).map_err(io)? == content, true)?;
    let mode = std::fs::metadata(&to).map_err(io)?.permissions().mode() & 0o7777;
    same("mode", mode, 0o640)?;
    if room.is_root().await? {
        let options = CopyOptions { mode: Some(0o600), owner: Some("1:2".into()) };
        room.guest.copy_to(&from, &path, options, room.limit).await.map_err(text)?;
        let output = room.run(Exec::argv(["stat", "-c", "%u:%g %a", &path])).await?;
        same("owner", output.stdout, b"1:2 600\n".to_vec())?;
    }
    Ok(())
}

async fn trees_both_ways(room: &Room) -> Result<(), String> {
    let host = tempfile::tempdir().map_err(|error| error.to_string())?;
    let io = |error: std::io::Error| error.to_string();
    let from = host.path().join("from");
    std::fs::create_dir_all(from.join("empty")).map_err(io)?;
    std::fs::create_dir_all(from.join("a/b")).map_err(io)?;
    std::fs::write(from.join("a/b/script"), "#!/bin/sh\n").map_err(io)?;
    std::fs::set_permissions(from.join("a/b/script"), std::fs::Permissions::from_mode(0o750)).map_err(io)?;
    std::fs::write(from.join("large"), vec![7; 1_000_000]).map_err(io)?;
    std::os::unix::fs::symlink("a/b/script", from.join("link")).map_err(io)?;
    let (there, back) = (room.path("tree"), host.path().join("back"));
    room.guest.copy_to(&from, &there, CopyOptions::default(), room.limit).await.map_err(text)?;
    let output = room.run(Exec::shell("stat -c %a a/b/script; readlink link; ls").cwd(&*there)).await?;
    let listing = "750\na/b/script\na\nempty\nlarge\nlink\n";
    same("listing", String::from_utf8_lossy(&output.stdout).into_owned(), listing.to_owned())?;
    room.guest.copy_from(&there, &back, room.limit).await.map_err(text)?;
    let mode = std::fs::metadata(back.join("a/b/script")).map_err(io)?.permissions().mode() & 0o7777;
    same("mode", mode, 0o750)?;
    same("link", std::fs::read_link(back.join("link")).map_err(io)?, "a/b/script".into())?;
    same("large", std::fs::read(back.join("large")).map_err(io)? == vec![7; 1_000_000], true)?;
    same("empty", back.join("empty").is_dir(), true)
}

async fn files_are_replaced_whole(room: &Room) -> Result<(), String> {
    let path = room.path("file");
    room.guest.write_file(&path, b"one", 0o600, room.limit).await.map_err(text)?;
    let old = room.run(Exec::argv(["stat", "-c", "%i %a", &path])).await?.stdout;
    room.guest.write_file(&path, b"two", 0o600, room.limit).await.map_err(text)?;
    let new = room.run(Exec::argv(["stat", "-c", "%i %a", &path])).await?.stdout;
    same("another inode", old == new, false)?;
    same("content", room.guest.read_file(&path, room.limit).await.map_err(text)?, b"two".to_vec())?;
    let listed = room.run(Exec::argv(["ls", "-A", &room.directory])).await?.stdout;
    same("nothing else is left", listed, b"file\n".to_vec())?;
    // A file without a size.
    let version = room.guest.read_file("/proc/version", room.limit).await.map_err(text)?;
    same("/proc", version.starts_with(b"Linux"), true)?;
    match room.guest.write_file(&room.directory, b"", 0o600, room.limit).await {
        Err(GuestError::Refused { message, .. }) if message.contains("is a directory") => Ok(()),
        other => Err(format!("{other:?}")),
    }
}

async fn waits_end_when_it_comes_to_be(room: &Room) -> Result<(), String> {
    let path = room.path("late");
    let wait = async { room.guest.wait_for_file(&path, room.limit).await.map_err(text) };
    let make = async { room.guest.write_file(&path, b"", 0o600, room.limit).await.map_err(text) };
    let (waited, made) = futures::join!(wait, make);
    waited.and(made)?;
    let wait = async { room.guest.wait_for_no_file(&path, room.limit).await.map_err(text) };
    let remove = room.run(Exec::argv(["rm", &path]));
    let (waited, removed) = futures::join!(wait, remove);
    waited.and(removed.map(drop))?;
    // Through directories that come one by one.
    let deep = room.path("a/b/late");
    let wait = async { room.guest.wait_for_file(&deep, room.limit).await.map_err(text) };
    let make = async { room.guest.write_file(&deep, b"", 0o600, room.limit).await.map_err(text) };
    let (waited, made) = futures::join!(wait, make);
    waited.and(made)?;
    room.guest.wait_for_closed_port("127.0.0.1", 1, room.limit).await.map_err(text)?;
    let count = format!("echo x >> {0}; wc -l < {0}; test $(wc -l < {0}) -ge 3", room.path("count"));
    let last = room.guest.wait_until_succeeds(Exec::shell(count), room.limit).await.map_err(text)?;
    same("the third attempt", last.as_str(), "exit code 0\n3")
}

async fn waits_keep_their_evidence(room: &Room) -> Result<(), String> {
    let short = Duration::from_millis(200);
    let file = room.guest.wait_for_file(room.path("never"), short).await;
    let port = room.guest.wait_for_port("127.0.0.1", 1, short).await;
    let socket = room.guest.wait_for_unix_socket(room.path("never"), short).await;
    let command = Exec::shell("echo last words; false");
    let command = room.guest.wait_until_succeeds(command, short).await.map(drop);
    let results =
        [(file, "does not exist"), (port, "refused"), (socket, "No such file"), (command, "last words")];
    for (result, evidence) in results {
        match result {
            Err(error @ GuestError::WaitTimeout { .. }) if error.to_string().contains(evidence) => {}
            other => return Err(format!("{evidence}: {other:?}")),
        }
    }
    Ok(())
}
