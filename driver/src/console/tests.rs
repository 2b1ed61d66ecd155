use super::*;

use tokio::io::DuplexStream;

const LIMIT: Duration = Duration::from_secs(20);

struct Fixture {
    console: Console,
    guest: DuplexStream,
    dir: tempfile::TempDir,
}

impl Fixture {
    fn new() -> Fixture {
        let dir = tempfile::tempdir().unwrap();
        let (ours, guest) = tokio::io::duplex(1 << 16);
        let log = dir.path().join("console.log");
        let options = ConsoleOptions { machine: "server-1".into(), log, started: Instant::now() };
        Fixture { console: Console::capture(ours, options).unwrap(), guest, dir }
    }

    async fn print(&mut self, text: &str) {
        self.guest.write_all(text.as_bytes()).await.unwrap();
    }

    async fn wait(&self, pattern: &str, from: Position) -> Match {
        self.console.wait_for(&Regex::new(pattern).unwrap(), from, LIMIT).await.unwrap()
    }
}

#[tokio::test]
async fn a_dialogue() {
    let mut t = Fixture::new();
    t.print("\r\nserver-1 \x1b[1mlogin:\x1b[0m ").await;
    let prompt = t.wait(r"(\S+) login: $", Position::START).await;
    assert_eq!((prompt.text.as_str(), prompt.groups[1].as_deref()), ("server-1 login: ", Some("server-1")));
    t.console.send("root\r").unwrap();
    let mut typed = [0; 5];
    t.guest.read_exact(&mut typed).await.unwrap();
    assert_eq!(&typed, b"root\r");
    t.print("root\r\nPassword: ").await;
    t.wait("Password: ", prompt.position).await;
    // The first prompt lies before the position and does not match again.
    let error =
        t.console.wait_for(&Regex::new("login:").unwrap(), prompt.position, Duration::from_millis(20)).await;
    assert!(error.unwrap_err().is_timeout());
}

#[tokio::test]
async fn a_wait_that_fails_tells_stage_time_and_last_lines() {
    let mut t = Fixture::new();
    t.print("[    0.000000] Linux version 6.12\r\n[    1.000000] Waiting for root device\r\n").await;
    t.wait("root device", Position::START).await;
    let pattern = Regex::new("login:").unwrap();
    let error = t.console.wait_for(&pattern, Position::START, Duration::from_millis(20)).await.unwrap_err();
    let text = error.to_string();
    assert!(
        text.starts_with("server-1: the console did not show /login:/ within 0.0 s; stage Kernel, 0."),
        "{text}"
    );
    assert!(text.ends_with("\n  | [    1.000000] Waiting for root device"), "{text}");
    drop(t.guest);
    let error = t.console.wait_for(&pattern, Position::START, LIMIT).await.unwrap_err();
    assert!(matches!(error, ConsoleError::Closed { .. }), "{error}");
    let send = async {
        // The writing task sees the end with the first write.
        while t.console.send("x").is_ok() {
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout(LIMIT, send).await.unwrap();
}

#[tokio::test]
async fn stages_and_findings_are_live_and_none_is_missed() {
    let mut t = Fixture::new();
    let mut stages = t.console.stages();
    t.print("[    0.000000] Linux version 6.12\r\n[   12.000000] Kernel panic - not syncing: test\r\n").await;
    stages.wait_for(|&stage| stage == Stage::Kernel).await.unwrap();
    let mut findings = t.console.findings();
    let found = tokio::time::timeout(LIMIT, findings.next()).await.unwrap().unwrap();
    assert_eq!((found.kind, found.severity()), (FindingKind::KernelPanic, Severity::Fatal));

    t.console.set_stage(Stage::Ready);
    t.console.set_stage(Stage::Agent);
    assert_eq!(t.console.stage(), Stage::Ready, "stages do not go back");
    t.console.set_stage(Stage::Spawned);
    assert_eq!(t.console.stage(), Stage::Spawned);
    t.print("SeaBIOS (version 1.16)\r\n").await;
    stages.wait_for(|&stage| stage == Stage::Firmware).await.unwrap();

    drop(t.console);
    assert_eq!(tokio::time::timeout(LIMIT, findings.next()).await.unwrap(), None);
    drop(findings);
    assert!(
        tokio::time::timeout(LIMIT, stages.wait_for(|&stage| stage == Stage::Ready)).await.unwrap().is_err()
    );
}

#[tokio::test]
async fn both_logs_are_written() {
    let mut t = Fixture::new();
    t.print("one \x1b[31mred\x1b[0m\r\nprompt> ").await;
    t.guest.shutdown().await.unwrap();
    drop(t.guest);
    let mut findings = t.console.findings();
    assert_eq!(tokio::time::timeout(LIMIT, findings.next()).await.unwrap(), None);
    assert!(t.console.is_closed());
    let log = fs_err::read_to_string(t.dir.path().join("console.log")).unwrap();
    let stamp = Regex::new(r"^\[ {3}\d\.\d{3}\] one red\n\[ {3}\d\.\d{3}\] prompt> \n$").unwrap();
    assert!(stamp.is_match(&log), "{log:?}");
    assert_eq!(
        fs_err::read(t.dir.path().join("console.raw")).unwrap(),
        b"one \x1b[31mred\x1b[0m\r\nprompt> "
    );
    assert_eq!(t.console.tail(1), ["prompt>"]);
    assert_eq!(t.console.text(Position::START), "one red\nprompt> ");
}

#[tokio::test]
async fn a_log_that_can_not_be_made_is_an_error_with_its_path() {
    let (ours, _guest) = tokio::io::duplex(64);
    let log = PathBuf::from("/no/such/directory/console.log");
    let error = Console::capture(ours, ConsoleOptions { machine: "m".into(), log, started: Instant::now() });
    assert!(error.unwrap_err().to_string().contains("/no/such/directory/console.log"));
}
