//! The steps of a test: nested, timed, and the one that failed.

use std::sync::Mutex;
use std::time::Instant;

use crate::context::lock;
use crate::result::{StepOutcome, StepRecord};

tokio::task_local! {
    /// The step that the running code is in: steps joined in one test are siblings, not nested.
    pub(crate) static CURRENT: usize;
}

/// Keeps the steps of one test.
pub(crate) struct Steps {
    begun: Instant,
    list: Mutex<Vec<Step>>,
}

struct Step {
    name: String,
    parent: Option<usize>,
    started: Instant,
    ended: Option<Instant>,
    outcome: StepOutcome,
}

impl Steps {
    pub(crate) fn new(begun: Instant) -> Self {
        Self { begun, list: Mutex::default() }
    }

    /// Begins a step within the current one; answers its index and its depth.
    pub(crate) fn begin(&self, name: &str) -> (usize, usize) {
        let parent = CURRENT.try_with(|step| *step).ok();
        let mut list = lock(&self.list);
        list.push(Step {
            name: name.to_owned(),
            parent,
            started: Instant::now(),
            ended: None,
            outcome: StepOutcome::Running,
        });
        let index = list.len() - 1;
        (index, path(&list, index).len() - 1)
    }

    /// Ends a step; answers how long it took in seconds.
    pub(crate) fn end(&self, index: usize, ok: bool) -> std::time::Duration {
        let mut list = lock(&self.list);
        let step = &mut list[index];
        step.ended = Some(Instant::now());
        step.outcome = if ok { StepOutcome::Ok } else { StepOutcome::Failed };
        step.started.elapsed()
    }

    /// The names of the steps that a failure now is about, outermost first: those still going on, else the step that
    /// ended last, if it failed, down to the innermost that did.
    pub(crate) fn at_fault(&self) -> Vec<String> {
        let list = lock(&self.list);
        if let Some(running) = list.iter().rposition(|step| step.outcome == StepOutcome::Running) {
            return path(&list, running);
        }
        let last_among = |wanted: &dyn Fn(&Step) -> bool| {
            let ended = list.iter().enumerate().filter(|(_, step)| wanted(step));
            ended.max_by_key(|(_, step)| step.ended).map(|(index, _)| index)
        };
        let failed = |index: &usize| list[*index].outcome == StepOutcome::Failed;
        let Some(mut at) = last_among(&|step| step.parent.is_none()).filter(failed) else {
            return Vec::new();
        };
        while let Some(inner) = last_among(&|step| step.parent == Some(at)).filter(failed) {
            at = inner;
        }
        path(&list, at)
    }

    /// The steps for `result.json`; `over` marks those that go on as interrupted.
    pub(crate) fn records(&self, over: bool) -> Vec<StepRecord> {
        let millis = |duration: std::time::Duration| u64::try_from(duration.as_millis()).unwrap_or(u64::MAX);
        let record = |step: &Step| StepRecord {
            name: step.name.clone(),
            parent: step.parent,
            started_ms: millis(step.started.saturating_duration_since(self.begun)),
            elapsed_ms: millis(
                step.ended.unwrap_or_else(Instant::now).saturating_duration_since(step.started),
            ),
            outcome: match step.outcome {
                StepOutcome::Running if over => StepOutcome::Interrupted,
                outcome => outcome,
            },
        };
        lock(&self.list).iter().map(record).collect()
    }
}

fn path(list: &[Step], index: usize) -> Vec<String> {
    let mut names = vec![list[index].name.clone()];
    let mut at = index;
    while let Some(parent) = list[at].parent {
        names.push(list[parent].name.clone());
        at = parent;
    }
    names.reverse();
    names
}

#[cfg(test)]
mod tests {
    use super::*;

    async fn within(steps: &Steps, name: &str, ok: bool, inner: impl Future<Output = ()>) {
        let (index, _) = steps.begin(name);
        CURRENT.scope(index, inner).await;
        steps.end(index, ok);
    }

    #[tokio::test]
    async fn the_innermost_failed_step_is_at_fault() {
        let steps = Steps::new(Instant::now());
        within(&steps, "fine", true, async {}).await;
        within(&steps, "outer", false, within(&steps, "inner", false, async {})).await;
        assert_eq!(steps.at_fault(), ["outer", "inner"]);
        within(&steps, "later", true, async {}).await;
        assert!(steps.at_fault().is_empty(), "a failure that the test survived is not at fault");
    }

    #[tokio::test]
    async fn a_running_step_is_at_fault_and_interrupted() {
        let steps = Steps::new(Instant::now());
        let (outer, depth) = steps.begin("outer");
        assert_eq!(depth, 0);
        CURRENT.scope(outer, async { assert_eq!(steps.begin("inner").1, 1) }).await;
        assert_eq!(steps.at_fault(), ["outer", "inner"]);
        let outcomes: Vec<_> = steps.records(true).into_iter().map(|step| step.outcome).collect();
        assert_eq!(outcomes, [StepOutcome::Interrupted; 2]);
    }

    #[tokio::test]
    async fn joined_steps_are_siblings() {
        let steps = Steps::new(Instant::now());
        let both = async {
            tokio::join!(within(&steps, "a", true, async {}), within(&steps, "b", true, async {}));
        };
        within(&steps, "outer", true, both).await;
        let parents: Vec<_> = steps.records(true).into_iter().map(|step| step.parent).collect();
        assert_eq!(parents, [None, Some(0), Some(0)]);
    }
}
