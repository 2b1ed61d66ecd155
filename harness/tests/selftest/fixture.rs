//! The suite under test: each of its tests ends in another way.

use std::fs::File;
use std::future::pending;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, bail, ensure};
use futures::FutureExt;
use futures::future::BoxFuture;
use harness::{Class, Options, Subject, Suite, Testbed, poll_until};
use tokio::sync::watch;

type Result = anyhow::Result<()>;

const SHORT: Duration = Duration::from_millis(200);

pub(crate) fn suite() -> Suite {
    let options = Options {
        deadline: Duration::from_secs(50),
        teardown_limit: Duration::from_secs(1),
        diagnose_limit: Duration::from_secs(1),
        signal_grace: Duration::from_secs(2),
        watchdog_grace: Duration::from_millis(500),
        classify: |error| error.downcast_ref::<Crashed>().map(|_| Class::GuestCrash),
        ..Options::default()
    };
    harness::suite("fixture")
        .with(options)
        .test("passes", passes)
        .cases("matrix", [("debian::firmware", 2), ("debian::direct", 3)], matrix)
        .test("fails", fails)
        .test("infra", infra)
        .test("waits_too_long", waits_too_long)
        .test("crashed", crashed)
        .test("panics", panics)
        .test("panics_in_background", panics_in_background)
        .test("deadline", deadline)
        .deadline(SHORT)
        .test("stands_still", stands_still)
        .deadline(Duration::from_millis(400))
        .test("dies", dies)
        .test("notices_death_first", notices_death_first)
        .test("lingers", lingers)
        .test("fails_and_lingers", fails_and_lingers)
        .test("teardown_hangs", teardown_hangs)
        .test("teardown_blocks", teardown_blocks)
        .test("diagnosis_hangs", diagnosis_hangs)
        .test("waits", waits)
        .test("waits_too", waits)
        .test("waits_stubbornly", waits_stubbornly)
        .test("blocks", blocks)
        .deadline(SHORT)
        .test("blocks_and_cannot_be_killed", blocks_and_cannot_be_killed)
        .deadline(SHORT)
        .test("holds_budget", holds_budget)
        .test("holds_budget_too", holds_budget)
        .test("takes_budget", takes_budget)
        .deadline(Duration::from_secs(1))
        .test("asks_twice", asks_twice)
        .test("logs", logs)
        .test("loses_its_directory", loses_its_directory)
        .test("slow", passes)
        .ignored("takes an hour")
}

/// Writes down what is asked of it.
#[derive(Clone)]
struct Fake {
    name: &'static str,
    log: PathBuf,
    lingers: bool,
    hangs: Hangs,
    death: watch::Sender<bool>,
}

#[derive(Clone, Copy, PartialEq)]
enum Hangs {
    Nowhere,
    InDiagnosis,
    InTeardown,
    BlockingInTeardown,
    BlockingInKill,
}

impl Fake {
    fn new(testbed: &Testbed, name: &'static str) -> Self {
        let log = testbed.artifacts().join("calls");
        Self { name, log, lingers: false, hangs: Hangs::Nowhere, death: watch::Sender::new(false) }
    }

    fn attach(self, testbed: &Testbed) -> Self {
        testbed.attach(Arc::new(self.clone()));
        self
    }

    fn call(&self, what: &str) {
        say(&self.log, &format!("{} {what}", self.name));
    }
}

fn say(log: &Path, line: &str) {
    let mut file = File::options().create(true).append(true).open(log).expect("the log opens");
    file.write_all(format!("{line}\n").as_bytes()).expect("writes");
}

/// Tells the self-test how far a test has come.
fn reached(testbed: &Testbed, what: &str) {
    say(&testbed.artifacts().join("calls"), what);
}

fn block() -> ! {
    loop {
        std::thread::park();
    }
}

impl Subject for Fake {
    fn name(&self) -> String {
        self.name.into()
    }

    fn died(&self) -> BoxFuture<'static, anyhow::Error> {
        let mut death = self.death.subscribe();
        async move {
            if death.wait_for(|dead| *dead).await.is_err() {
                pending::<()>().await;
            }
            anyhow::anyhow!("Kernel panic - not syncing")
        }
        .boxed()
    }

    fn diagnose<'a>(&'a self, dir: &'a Path) -> BoxFuture<'a, ()> {
        async move {
            self.call("diagnosed");
            std::fs::write(dir.join("registers"), "RIP=0").expect("writes");
            if self.hangs == Hangs::InDiagnosis {
                pending::<()>().await;
            }
        }
        .boxed()
    }

    fn teardown(&self) -> BoxFuture<'_, Result> {
        async {
            self.call("torn down");
            match self.hangs {
                Hangs::InTeardown => pending().await,
                Hangs::BlockingInTeardown => block(),
                _ => {}
            }
            ensure!(!self.lingers, "process 4711 is still there");
            Ok(())
        }
        .boxed()
    }

    fn hold(&self) -> BoxFuture<'_, Vec<String>> {
        async { vec![format!("rackless shell {}", self.name)] }.boxed()
    }

    fn kill(&self) {
        self.call("killed");
        if self.hangs == Hangs::BlockingInKill {
            block();
        }
    }
}

async fn passes(t: &mut Testbed) -> Result {
    Fake::new(t, "server-1").attach(t);
    t.lane("server-1").set("Kernel");
    let sum = t
        .step("outer", async || {
            t.note("halfway");
            t.step("inner", async || Ok(1 + 1)).await
        })
        .await?;
    ensure!(sum == 2);
    Ok(())
}

async fn matrix(t: &mut Testbed, case: &u32) -> Result {
    ensure!(t.name().starts_with("matrix::debian::"));
    ensure!(*case == 2, "the case is {case}");
    Ok(())
}

async fn fails(t: &mut Testbed) -> Result {
    Fake::new(t, "server-1").attach(t);
    Fake::new(t, "server-2").attach(t);
    t.step("members are healthy", async || {
        t.step("ask the leader", async || bail!("connection refused")).await.context("etcd on server-1")
    })
    .await
}

async fn infra(_: &mut Testbed) -> Result {
    Err(anyhow::anyhow!("no space left on device").context(Class::Infra))
}

async fn waits_too_long(_: &mut Testbed) -> Result {
    poll_until("port 22", SHORT, async || Err::<(), _>("refused")).await?;
    Ok(())
}

#[derive(Debug, thiserror::Error)]
#[error("the guest crashed")]
struct Crashed;

async fn crashed(_: &mut Testbed) -> Result {
    Err(Crashed.into())
}

async fn panics(t: &mut Testbed) -> Result {
    Fake::new(t, "server-1").attach(t);
    t.step("compare", async || {
        assert_eq!(1 + 1, 3, "arithmetic");
        Ok(())
    })
    .await
}

async fn panics_in_background(_: &mut Testbed) -> Result {
    let task = tokio::spawn(async { panic!("a task of its own") });
    ensure!(task.await.is_err());
    Ok(())
}

async fn deadline(t: &mut Testbed) -> Result {
    Fake::new(t, "server-1").attach(t);
    t.step("wait for ever", async || pending().await).await
}

async fn stands_still(t: &mut Testbed) -> Result {
    let still = t.deadline().stand_still();
    let long = t.deadline().limit() * 2;
    // Longer than the deadline, which does not pass.
    let _ = tokio::time::timeout(long, pending::<()>()).await;
    drop(still);
    ensure!(t.deadline().stood_still() >= long);
    Ok(())
}

async fn dies(t: &mut Testbed) -> Result {
    Fake::new(t, "server-1").attach(t);
    let dying = Fake::new(t, "server-2").attach(t);
    t.step("boot", async || {
        dying.death.send_replace(true);
        pending().await
    })
    .await
}

async fn notices_death_first(t: &mut Testbed) -> Result {
    let dying = Fake::new(t, "server-1").attach(t);
    tokio::spawn(async move {
        let _ = tokio::time::timeout(Duration::from_millis(50), pending::<()>()).await;
        dying.death.send_replace(true);
    });
    bail!("connection reset by peer")
}

async fn lingers(t: &mut Testbed) -> Result {
    Fake::new(t, "server-1").attach(t);
    Fake { lingers: true, ..Fake::new(t, "server-2") }.attach(t);
    Ok(())
}

async fn fails_and_lingers(t: &mut Testbed) -> Result {
    Fake { lingers: true, ..Fake::new(t, "server-1") }.attach(t);
    bail!("wrong answer")
}

async fn teardown_hangs(t: &mut Testbed) -> Result {
    Fake::new(t, "server-1").attach(t);
    Fake { hangs: Hangs::InTeardown, ..Fake::new(t, "server-2") }.attach(t);
    Ok(())
}

async fn teardown_blocks(t: &mut Testbed) -> Result {
    Fake { hangs: Hangs::BlockingInTeardown, ..Fake::new(t, "server-1") }.attach(t);
    Ok(())
}

async fn diagnosis_hangs(t: &mut Testbed) -> Result {
    Fake { hangs: Hangs::InDiagnosis, ..Fake::new(t, "server-1") }.attach(t);
    bail!("wrong answer")
}

async fn waits(t: &mut Testbed) -> Result {
    Fake::new(t, "server-1").attach(t);
    reached(t, "waiting");
    t.step("wait for a signal", async || pending().await).await
}

async fn waits_stubbornly(t: &mut Testbed) -> Result {
    Fake { hangs: Hangs::InTeardown, ..Fake::new(t, "server-1") }.attach(t);
    reached(t, "waiting");
    pending().await
}

async fn blocks(t: &mut Testbed) -> Result {
    Fake::new(t, "server-1").attach(t);
    reached(t, "blocking");
    t.step("a call that never returns", async || block()).await
}

async fn blocks_and_cannot_be_killed(t: &mut Testbed) -> Result {
    Fake { hangs: Hangs::BlockingInKill, ..Fake::new(t, "server-1") }.attach(t);
    block()
}

async fn holds_budget(t: &mut Testbed) -> Result {
    let grant = t.budget(700, 2).await?;
    ensure!(grant.memory_mib() == 768 && grant.vcpus() == 2);
    reached(t, "granted");
    pending().await
}

async fn takes_budget(t: &mut Testbed) -> Result {
    reached(t, "asking");
    t.budget(700, 2).await?;
    Ok(())
}

async fn asks_twice(t: &mut Testbed) -> Result {
    let grant = t.budget(256, 1).await?;
    let refused = t.budget(256, 1).await;
    ensure!(matches!(refused, Err(harness::Error::BudgetHeld { .. })));
    grant.release();
    t.budget(256, 1).await?;
    Ok(())
}

async fn loses_its_directory(t: &mut Testbed) -> Result {
    std::fs::remove_dir_all(t.artifacts())?;
    Ok(())
}

async fn logs(t: &mut Testbed) -> Result {
    tracing::info!(answer = 42, "from the test");
    tokio::spawn(async { tracing::info!("from a task") }).await?;
    let scope = t.scope();
    let thread = std::thread::spawn(move || {
        scope.enter();
        tracing::info!("from a thread");
    });
    ensure!(thread.join().is_ok());
    Ok(())
}
