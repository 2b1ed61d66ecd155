//! Lines that lose, change and add bytes: an answer is whole or an error.

use std::time::Duration;

use crate::line::{Guest, LIMIT, Mischief, bad_line, guests, options};
use shell::{Command, Error, Readiness, Shell, Status};

/// Bytes of output.
const BULK: usize = 10_000_000;

/// How often each of the long cases runs: three times in the gate.
fn runs() -> u64 {
    std::env::var("RACKLESS_SHELL_RUNS").ok().and_then(|runs| runs.parse().ok()).unwrap_or(3)
}

/// 10 MB of random output over `mischief`: whether it came whole, and every other end is an error with evidence.
async fn bulk(argv: &[&str], mischief: Mischief) -> Result<(), Error> {
    let content: Vec<u8> = std::iter::repeat_with({
        let mut chance = fastrand::Rng::with_seed(mischief.seed);
        move || chance.u8(..)
    })
    .take(BULK)
    .collect();
    let file = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(&file, &content).unwrap();
    let (_guest, near) = Guest::start(argv);
    let mut options = options(Readiness::Now);
    options.silence = Duration::from_secs(2);
    let shell = Shell::attach(bad_line(near, mischief), options).await?;
    let output = shell.run(Command::argv(["cat", file.path().to_str().unwrap()]), LIMIT).await?;
    assert_eq!(output.status, Status::Code(0));
    assert!(output.stdout == content, "{} bytes came that are others", output.stdout.len());
    Ok(())
}

/// Runs a case again and again, with another seed each time; says how many came whole.
async fn count(name: &str, mischief: impl Fn(u64) -> Mischief) -> u64 {
    let guests: Vec<_> = guests().collect();
    let mut whole = 0;
    for run in 0..runs() {
        let (guest, argv) = guests[usize::try_from(run).unwrap() % guests.len()];
        match bulk(argv, mischief(run)).await {
            Ok(()) => whole += 1,
            Err(error) => eprintln!("{name}, run {run}, {guest}: {error}"),
        }
    }
    eprintln!("{name}: whole in {whole} of {}", runs());
    whole
}

#[tokio::test]
async fn a_stalled_reader_of_a_line_that_waits() {
    let whole =
        count("waiting", |seed| Mischief { stall_after: Some(1_000_000), seed, ..Mischief::default() }).await;
    assert_eq!(whole, runs());
}

#[tokio::test]
async fn a_stalled_reader_of_a_line_that_drops() {
    let mischief = |seed| Mischief {
        stall_after: Some(1_000_000),
        // Less than one piece: bytes are lost in the stall, and now and then beside it.
        dropping: Some(32 << 10),
        seed,
        ..Mischief::default()
    };
    assert_eq!(count("dropping", mischief).await, runs());
}

#[tokio::test]
async fn boot_loader_and_kernel_talk_in_between() {
    let mischief = |seed| Mischief { stall_after: Some(1_000_000), noise: 8, seed, ..Mischief::default() };
    assert_eq!(count("noise", mischief).await, runs());
}

/// Attaches over a line on which every second attempt or so comes damaged.
async fn attach(argv: &[&str], mischief: Mischief) -> (Guest, Shell) {
    let (guest, near) = Guest::start(argv);
    let mut options = options(Readiness::Now);
    (options.silence, options.attempts) = (Duration::from_secs(1), 8);
    let attached = Shell::attach(bad_line(near, mischief), options).await;
    (guest, attached.unwrap_or_else(|error| panic!("{argv:?}, {}: {error}", mischief.seed)))
}

/// What is typed to start the server is damaged in ways that leave quotes, brackets and loops open.
#[tokio::test]
async fn a_shell_is_got_over_a_very_bad_line() {
    let mischief = Mischief {
        lost: 100,
        changed: 100,
        lost_to_guest: 100,
        changed_to_guest: 100,
        ..Mischief::default()
    };
    let attached =
        guests().flat_map(|(_, argv)| (0..8).map(move |seed| attach(argv, Mischief { seed, ..mischief })));
    futures::future::join_all(attached).await;
}

/// A line that is so bad that most pieces come damaged: whatever comes is right, and the channel can be used again.
#[tokio::test]
async fn a_very_bad_line_gives_errors_and_never_a_short_answer() {
    let (mut whole, mut errors) = (0, 0);
    for seed in 0..3 {
        let mischief = Mischief {
            lost: 100,
            changed: 100,
            noise: 100,
            lost_to_guest: 30,
            changed_to_guest: 30,
            seed,
            ..Mischief::default()
        };
        let (_guest, shell) = attach(&["bash", "--norc"], mischief).await;
        for number in 0..12 {
            let command = Command::script(format!("seq {number}000; echo {number} >&2; exit {number}"));
            match shell.run(command, LIMIT).await {
                Ok(output) => {
                    whole += 1;
                    let wanted: String = (1..=number * 1000).map(|n| format!("{n}\n")).collect();
                    assert_eq!(output.status, Status::Code(number));
                    assert!(output.stdout == wanted.as_bytes(), "{seed}, {number}");
                    assert_eq!(output.stderr, format!("{number}\n").into_bytes());
                }
                Err(error @ (Error::Damaged { .. } | Error::Silent { .. })) => {
                    errors += 1;
                    assert!(error.to_string().contains("here"), "{error}");
                }
                Err(error) => panic!("{seed}, {number}: {error}"),
            }
        }
    }
    eprintln!("whole {whole}, errors {errors}");
    assert!(whole > 24, "whole {whole}, errors {errors}");
}

/// With one attempt and no smaller pieces, a damaged answer is an error that shows it; the next request is answered.
#[tokio::test]
async fn a_damaged_answer_is_an_error_with_its_evidence() {
    let (_guest, near) = Guest::start(&["bash", "--norc"]);
    let mischief = Mischief { dropping: Some(8 << 10), ..Mischief::default() };
    let mut options = options(Readiness::Now);
    (options.silence, options.piece, options.attempts) = (Duration::from_secs(1), 512, 2);
    let shell = Shell::attach(bad_line(near, mischief), options).await.unwrap();
    shell.ping().await.unwrap();
    let output = shell.run(Command::script("seq 20000"), LIMIT).await.unwrap();
    assert_eq!(output.stdout.len(), 108_894);
}
