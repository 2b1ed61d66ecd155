//! The client against a QEMU that says whatever the test wants.

use std::time::{Duration, Instant};

use proptest::prelude::{ProptestConfig, Strategy, any, prop_oneof, proptest};
use qmp::commands::{query_status, query_version};
use qmp::{Client, Error, Options};
use serde_json::{Value, json};
use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader};
use tokio::net::UnixStream;
use tokio::net::unix::{OwnedReadHalf, OwnedWriteHalf};

const LIMIT: Duration = Duration::from_secs(20);
const GREETING: &str = r#"{"QMP": {"version": {"qemu": {"micro": 22, "minor": 2, "major": 7}, "package": "fake"}, "capabilities": ["oob"]}}"#;

struct Fake {
    lines: tokio::io::Lines<BufReader<OwnedReadHalf>>,
    writer: OwnedWriteHalf,
}

impl Fake {
    async fn say(&mut self, text: &str) {
        self.writer.write_all(format!("{text}\r\n").as_bytes()).await.unwrap();
    }

    async fn hear(&mut self) -> Value {
        serde_json::from_str(&self.lines.next_line().await.unwrap().unwrap()).unwrap()
    }

    async fn answer(&mut self, value: Value) -> Value {
        let command = self.hear().await;
        self.say(&json!({"return": value, "id": command["id"]}).to_string()).await;
        command
    }
}

fn options() -> Options {
    Options { limit: LIMIT, ..Options::new("server-1") }
}

async fn pair(options: Options) -> (Client, Fake) {
    let (ours, theirs) = UnixStream::pair().unwrap();
    let (reader, writer) = theirs.into_split();
    let mut fake = Fake { lines: BufReader::new(reader).lines(), writer };
    let greet = async {
        fake.say(GREETING).await;
        assert_eq!(fake.answer(json!({})).await["execute"], "qmp_capabilities");
    };
    let (client, ()) = tokio::join!(Client::connect(ours, options), greet);
    (client.unwrap(), fake)
}

#[tokio::test]
async fn typed_commands_and_the_greeting() {
    let (client, mut fake) = pair(options()).await;
    assert_eq!(client.version().to_string(), "7.2.22 (fake)");
    let (status, heard) = tokio::join!(
        client.execute(query_status {}),
        fake.answer(json!({"status": "running", "running": true, "singlestep": false, "new-member": [1]}))
    );
    assert!(status.unwrap().running);
    assert_eq!(heard, json!({"execute": "query-status", "id": 2}));
}

#[tokio::test]
async fn unknown_events_garbage_and_half_lines_do_not_end_it() {
    let (client, mut fake) = pair(options()).await;
    let mut events = client.events();
    fake.say(r#"{"event": "EVENT_OF_THE_FUTURE", "data": {"x": 1}, "timestamp": {"seconds": 1, "microseconds": 2}}"#).await;
    for garbage in [
        "not json",
        "[1, 2]",
        "{}",
        r#"{"return": {}, "id": 999}"#,
        r#"{"return": 1, "id": "text"}"#,
        r#"{"error": {}}"#,
        "",
    ] {
        fake.say(garbage).await;
    }
    fake.writer.write_all(b"\xff\xfe\n{\"event\": \"ST").await.unwrap();
    fake.writer.write_all(b"OP\"}\n").await.unwrap();
    let (_, next) = client.wait_event("STOP", 0, LIMIT, |event| event.name == "STOP").await.unwrap();
    assert_eq!(next, 2);
    assert_eq!(events.recv().await.unwrap().data, json!({"x": 1}));
    assert_eq!(events.recv().await.unwrap().name, "STOP");
    let (raw, _) = tokio::join!(client.execute_raw("x-new", json!({"a": 1})), fake.answer(json!(7)));
    assert_eq!(raw.unwrap(), json!(7));
}

#[tokio::test]
async fn answers_go_to_their_commands_in_any_order() {
    let (client, mut fake) = pair(options()).await;
    let fake_side = async {
        let (first, second) = (fake.hear().await, fake.hear().await);
        fake.say(&json!({"return": "second", "id": second["id"]}).to_string()).await;
        fake.say(&json!({"return": "first", "id": first["id"]}).to_string()).await;
    };
    let (first, second, ()) =
        tokio::join!(client.execute_raw("a", Value::Null), client.execute_raw("b", Value::Null), fake_side);
    assert_eq!((first.unwrap(), second.unwrap()), (json!("first"), json!("second")));
}

#[tokio::test]
async fn a_refusal_names_machine_and_command() {
    let (client, mut fake) = pair(options()).await;
    let fake_side = async {
        let id = fake.hear().await["id"].clone();
        fake.say(
            &json!({"error": {"class": "CommandNotFound", "desc": "no such thing"}, "id": id}).to_string(),
        )
        .await;
    };
    let asks = async {
        let error = client.execute_raw("x-old", Value::Null).await.unwrap_err();
        assert!(error.is_unknown_command());
        assert_eq!(error.to_string(), "server-1: QMP `x-old` failed: no such thing (CommandNotFound)");
    };
    tokio::join!(asks, fake_side);
}

#[tokio::test]
async fn a_deadline_leaves_the_connection_usable() {
    let (client, mut fake) = pair(options()).await;
    fake.say(r#"{"event": "RESUME"}"#).await;
    client.wait_event("RESUME", 0, LIMIT, |_| true).await.unwrap();
    let error = client.execute_within(query_version {}, Duration::from_millis(20)).await.unwrap_err();
    assert_eq!(
        error.to_string(),
        "server-1: QMP `query-version` was not answered within 0.0 s; last event: RESUME"
    );
    let late = fake.hear().await["id"].clone();
    fake.say(&json!({"return": "late", "id": late}).to_string()).await;
    let (next, _) = tokio::join!(client.execute_raw("next", Value::Null), fake.answer(json!("in time")));
    assert_eq!(next.unwrap(), json!("in time"));
    let error =
        client.wait_event("STOP", client.position(), Duration::from_millis(20), |_| true).await.unwrap_err();
    assert!(matches!(error, Error::NoEvent { .. }));
}

#[tokio::test]
async fn a_lost_connection_fails_all_that_wait_and_all_that_come() {
    let (client, mut fake) = pair(options()).await;
    let begun = Instant::now();
    let hang_up = async {
        fake.hear().await;
        fake.hear().await;
        fake.say(r#"{"event": "SHUTDOWN", "data": {"guest": false, "reason": "host-signal"}}"#).await;
        drop(fake);
    };
    let (a, b, event, closed, ()) = tokio::join!(
        client.execute_raw("a", Value::Null),
        client.execute_raw("b", Value::Null),
        client.wait_event("NEVER", 0, LIMIT, |event| event.name == "NEVER"),
        client.closed(),
        hang_up
    );
    for error in [a.unwrap_err(), b.unwrap_err(), event.unwrap_err(), closed] {
        assert!(error.is_lost(), "{error}");
        assert!(error.to_string().contains("SHUTDOWN {\"guest\":false"), "{error}");
    }
    assert!(client.execute(query_version {}).await.unwrap_err().is_lost());
    assert!(client.is_closed());
    // What came before the loss is still found.
    client.wait_event("SHUTDOWN", 0, LIMIT, |event| event.name == "SHUTDOWN").await.unwrap();
    assert!(begun.elapsed() < LIMIT);
}

#[tokio::test]
async fn no_greeting_says_what_came() {
    for (said, expected) in [
        (Some("SSH-2.0-OpenSSH"), "what came is not QMP: SSH-2.0-OpenSSH"),
        (None, "nothing came; is another client connected to this monitor?"),
    ] {
        let (ours, mut theirs) = UnixStream::pair().unwrap();
        if let Some(said) = said {
            theirs.write_all(format!("{said}\n").as_bytes()).await.unwrap();
        }
        let options = Options { limit: Duration::from_millis(100), ..Options::new("server-1") };
        let error = Client::connect(ours, options).await.unwrap_err().to_string();
        assert!(error.ends_with(expected), "{error}");
    }
    let (ours, theirs) = UnixStream::pair().unwrap();
    drop(theirs);
    let begun = Instant::now();
    let error = Client::connect(ours, options()).await.unwrap_err().to_string();
    assert!(error.contains("the connection was lost"), "{error}");
    assert!(begun.elapsed() < LIMIT);
}

#[tokio::test]
async fn an_answer_of_another_shape_is_shown() {
    let (client, mut fake) = pair(options()).await;
    let (status, _) =
        tokio::join!(client.execute(query_status {}), fake.answer(json!({"status": "dreaming"})));
    let error = status.unwrap_err().to_string();
    assert!(error.contains("`query-status` answered in a shape that is not known"), "{error}");
    assert!(error.ends_with(r#": {"status":"dreaming"}"#), "{error}");
}

#[tokio::test]
async fn all_traffic_is_logged() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("qmp.jsonl");
    let (client, mut fake) = pair(Options { log: Some(path.clone()), ..options() }).await;
    fake.say("gar\"bage").await;
    let (_, _) = tokio::join!(client.execute_raw("stop", Value::Null), fake.answer(json!({})));
    let log = std::fs::read_to_string(path).unwrap();
    let entries: Vec<Value> = log.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    assert_eq!(entries[0]["message"]["QMP"]["version"]["qemu"]["major"], 7);
    assert!(entries.iter().any(|entry| entry["direction"] == "out" && entry["message"]["execute"] == "stop"));
    assert!(entries.iter().any(|entry| entry["direction"] == "in" && entry["message"] == "gar\"bage"));
}

#[tokio::test]
async fn dropping_the_client_closes_the_connection() {
    let (client, mut fake) = pair(options()).await;
    drop(client);
    assert_eq!(tokio::time::timeout(LIMIT, fake.lines.next_line()).await.unwrap().unwrap(), None);
}

#[tokio::test]
async fn more_events_than_are_kept() {
    let (client, mut fake) = pair(options()).await;
    for count in 0..3000 {
        fake.say(&json!({"event": "E", "data": {"count": count}}).to_string()).await;
    }
    let last = |event: &qmp::Event| event.data["count"] == 2999;
    let (_, next) = client.wait_event("the last", 0, LIMIT, last).await.unwrap();
    assert_eq!(next, 3000);
}

proptest! {
    // Persistence looks for a lib.rs beside the test and warns that there is none.
    #![proptest_config(ProptestConfig { cases: 64, failure_persistence: None, ..ProptestConfig::default() })]

    /// Whatever comes between, the command after it is answered.
    #[test]
    fn arbitrary_lines_neither_panic_nor_wedge(lines in proptest::collection::vec(
        prop_oneof![
            proptest::collection::vec(any::<u8>(), 0..60),
            r#"\{"(event|return|error|QMP|id)": ?("[A-Z]{0,4}"|\{\}|[0-9]{0,3}|null)\}"#.prop_map(String::into_bytes),
        ], 0..20))
    {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async {
            let (client, mut fake) = pair(options()).await;
            for line in lines {
                fake.writer.write_all(&line).await.unwrap();
                fake.writer.write_all(b"\n").await.unwrap();
            }
            let (answer, _) = tokio::join!(client.execute_raw("stop", Value::Null), fake.answer(json!(1)));
            assert_eq!(answer.unwrap(), json!(1));
        });
    }
}
