//! The one task that owns the engine: it takes snapshots when they are due and does what it is asked, one thing after
//! another, and ends with a last snapshot.

use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use jiff::Timestamp;
use mcp_daemon::exit::{Exit, Failure, chain};
use mcp_daemon::heap;
use mcp_daemon::life::Life;
use mcp_daemon::secret::random_fraction;
use tokio::signal::unix::Signal;
use tokio::sync::mpsc;
use tokio::time::{Duration, Instant, sleep_until};

use super::after::After;
use super::jobs::{Answer, Asked, Job};
use super::metrics::Metrics;
use super::schedule::Schedule;
use super::settle::settle;
use super::state::{State, Working};
use crate::config::Plan;
use crate::engine::{Engine, EngineError, Outcome, RENEW, RestoreOutcome, Standing};
use crate::progress::Progress;
use crate::report;
use crate::settings::Takeover;

/// Pause before the store is asked again, while snapshots are taken only when asked.
const ASK_AGAIN: Duration = Duration::from_secs(60);

/// Owns the engine.
pub struct Actor {
    pub(super) engine: Engine,
    plan: Arc<Plan>,
    state: Arc<State>,
    pub(super) metrics: Arc<Metrics>,
    life: Life,
    jobs: mpsc::Receiver<Asked>,
    waiting: VecDeque<Asked>,
    wanted: Signal,
    pub(super) schedule: Schedule,
    /// The store has been read, and the home restored where that was to be done.
    pub(super) is_settled: bool,
    /// When to try that again, without an interval.
    ask_again: Option<Instant>,
    renew: Option<Instant>,
    pub(super) after: After,
    cancelled: Arc<AtomicBool>,
    /// When everything must be over, once the drain has begun.
    stop_at: Option<Instant>,
}

/// The time for a stop is over.
#[derive(Debug)]
pub struct Over;

impl Actor {
    /// One that has asked nobody yet; `wanted` asks for a snapshot each time it comes.
    pub fn new(
        engine: Engine,
        plan: Arc<Plan>,
        state: Arc<State>,
        metrics: Arc<Metrics>,
        jobs: mpsc::Receiver<Asked>,
        wanted: Signal,
        life: Life,
    ) -> Self {
        Actor {
            schedule: Schedule::new(plan.interval.duration(), Instant::now(), false),
            engine,
            plan,
            state,
            metrics,
            life,
            jobs,
            waiting: VecDeque::new(),
            wanted,
            is_settled: false,
            ask_again: None,
            renew: None,
            after: After::Nothing,
            cancelled: Arc::new(AtomicBool::new(false)),
            stop_at: None,
        }
    }

    /// Reads the store, becomes the writer, and restores an empty home; an error means that nobody can tell.
    pub async fn start(&mut self) -> Result<Result<(), EngineError>, Over> {
        let settled = self.settle().await?;
        let restored = match &settled {
            Ok(outcome) => matches!(outcome, RestoreOutcome::Restored { .. }),
            Err(_) => return Ok(settled.map(drop)),
        };
        // What has never been stored is stored at once.
        let at_once = !restored && has_entries(&self.plan);
        self.schedule = Schedule::new(self.plan.interval.duration(), Instant::now(), at_once);
        Ok(Ok(()))
    }

    /// Works until the drain, then takes the last snapshot; an error says why there is none.
    pub async fn run(mut self) -> Result<(), Failure> {
        match self.work().await {
            Ok(()) => {}
            Err(Over) => return Err(self.too_late()),
        }
        log::info!("taking the last snapshot");
        let Ok(last) = self.take("shutdown").await else { return Err(self.too_late()) };
        self.jobs.close();
        self.collect();
        for asked in self.waiting.drain(..) {
            let stopping = || Failure { line: "the daemon is stopping".to_owned(), exit: Exit::TryAgain };
            let is_joined = matches!(asked.job, Job::Snapshot);
            let _gone = asked.answer.send(if is_joined { last.clone() } else { Err(stopping()) });
        }
        // What it does not get to is done after the next snapshot; this one is there.
        let _in_time = self.tidy().await;
        if self.plan.settings.takeover == Takeover::Wait
            && let Ok(Err(error)) = self.bounded(async |engine| engine.release().await).await
        {
            log::warn!(error = chain(&error); "nobody could be told that we stop; a newcomer waits a while");
        }
        last.map(drop)
    }

    fn too_late(&self) -> Failure {
        let deadline = self.plan.shutdown_deadline.as_secs();
        Failure {
            line: format!(
                "the last snapshot was not done within shutdown_deadline ({deadline} s); the one before it is the newest"
            ),
            exit: Exit::TryAgain,
        }
    }

    async fn work(&mut self) -> Result<(), Over> {
        if self.plan.settings.takeover == Takeover::Wait {
            self.renew = Some(Instant::now() + RENEW);
        }
        loop {
            self.tidy().await?;
            let due = self.schedule.due().or(self.ask_again);
            self.state.known().next = due;
            tokio::select! {
                biased;
                () = self.life.draining() => return Ok(()),
                Some(asked) = self.jobs.recv() => {
                    self.waiting.push_back(asked);
                    self.answer_waiting().await?;
                }
                Some(()) = self.wanted.recv() => {
                    log::info!("asked for a snapshot by SIGUSR1");
                    let _told_in_the_log = self.take("asked").await?;
                }
                () = until(due) => {
                    if self.schedule.due().is_some() {
                        let _told_in_the_log = self.take("periodic").await?;
                    } else {
                        let _told_in_the_log = self.settle().await?;
                    }
                }
                () = until(self.renew) => self.renew().await?,
            }
        }
    }

    async fn answer_waiting(&mut self) -> Result<(), Over> {
        while let Some(Asked { job, answer }) = self.waiting.pop_front() {
            let done = match job {
                Job::Snapshot => {
                    // Whoever has asked by now is served by the same run; whoever asks later may have changed something.
                    let joined = self.joined();
                    let done = self.take("asked").await?;
                    for other in joined {
                        let _gone = other.answer.send(done.clone());
                    }
                    done
                }
                other => self.perform(other).await?,
            };
            // Nobody may wait for it any more.
            let _gone = answer.send(done);
            if self.life.is_draining() {
                return Ok(());
            }
        }
        Ok(())
    }

    /// All requests for a snapshot that wait by now.
    fn joined(&mut self) -> Vec<Asked> {
        self.collect();
        let (joined, rest) = self.waiting.drain(..).partition(|asked| matches!(asked.job, Job::Snapshot));
        self.waiting = rest;
        Vec::from(joined)
    }

    fn collect(&mut self) {
        while let Ok(asked) = self.jobs.try_recv() {
            self.waiting.push_back(asked);
        }
    }

    /// Takes a snapshot; where nobody could tell yet whether there is one, finds that out first.
    pub(super) async fn take(&mut self, reason: &str) -> Result<Answer, Over> {
        if !self.is_settled
            && let Err(error) = self.settle().await?
        {
            return Ok(Err(Failure::from(&error)));
        }
        self.snapshot(reason).await
    }

    pub(super) async fn settle(&mut self) -> Result<Result<RestoreOutcome, EngineError>, Over> {
        let progress = Arc::new(Progress::default());
        let _working = self.working("restore", &progress);
        let settled = self.bounded(async |engine| settle(engine, &progress).await).await?;
        heap::give_back();
        match &settled {
            Ok((outcome, standing)) => {
                self.is_settled = true;
                self.ask_again = None;
                self.was_restored(outcome, *standing);
            }
            Err(error) => {
                log::error!(error = chain(error); "nobody can tell whether there is a snapshot: nothing is published or deleted until the store has been read");
                self.stands(None);
                self.ask_again = Some(Instant::now() + ASK_AGAIN);
                self.failed(error);
            }
        }
        Ok(settled.map(|(outcome, _)| outcome))
    }

    pub(super) fn was_restored(&mut self, outcome: &RestoreOutcome, standing: Standing) {
        if let RestoreOutcome::Restored { files, bytes, .. } = outcome {
            self.metrics.holds(*files, *bytes);
        }
        self.stands(Some(standing));
    }

    async fn snapshot(&mut self, reason: &str) -> Result<Answer, Over> {
        let progress = Arc::new(Progress::default());
        let _working = self.working("snapshot", &progress);
        let began = Instant::now();
        let cancelled = Arc::clone(&self.cancelled);
        let done =
            self.bounded(async |engine| engine.snapshot_alone(reason, &progress, &cancelled).await).await?;
        let took = began.elapsed();
        self.after = self.after.max(After::snapshot(&done, took));
        match done {
            Ok(outcome) => {
                match &outcome {
                    Outcome::Forked(_, standing) => self.stands(Some(*standing)),
                    Outcome::Published(_) => self.stands(Some(Standing::Current)),
                    Outcome::Nothing | Outcome::Unchanged(_) => {}
                }
                self.metrics.snapshot(&outcome, took);
                let mut value = report::outcome(&outcome);
                value["took_ms"] = (took.as_micros() as f64 / 1000.0).into();
                self.schedule.succeeded(Instant::now());
                let mut known = self.state.known();
                known.last = Some(value.clone());
                known.success = Some((Timestamp::now(), Instant::now()));
                known.failures = 0;
                known.error = None;
                if known.complaint.take().is_some() {
                    log::info!("snapshots succeed again");
                }
                Ok(Ok(value))
            }
            Err(error) => {
                log::warn!(reason, error = chain(&error); "no snapshot, tried again within the interval");
                self.failed(&error);
                Ok(Err(Failure::from(&error)))
            }
        }
    }

    fn failed(&mut self, error: &EngineError) {
        self.metrics.failed(error);
        let now = Instant::now();
        self.schedule.failed(now, random_fraction());
        let overdue = self.schedule.overdue(now);
        let mut known = self.state.known();
        known.failures = self.schedule.failures();
        known.error = Some((chain(error), Timestamp::now()));
        if let Some(since) = overdue {
            let line = format!("no snapshot has succeeded for {} s: {}", since.as_secs(), chain(error));
            if known.complaint.replace(line).is_none() {
                log::error!(seconds = since.as_secs(), error = chain(error); "no snapshot has succeeded for three intervals");
            }
        }
    }

    async fn renew(&mut self) -> Result<(), Over> {
        match self.bounded(async |engine| engine.renew().await).await? {
            Ok(true) => {}
            Ok(false) => self.stands(Some(Standing::Fenced)),
            Err(error) => log::warn!(error = chain(&error); "HEAD was not renewed; a newcomer may take over"),
        }
        self.renew = Some(Instant::now() + RENEW);
        Ok(())
    }

    /// Notes how the home and the store stand to each other, and says it once where that is bad.
    pub(super) fn stands(&self, standing: Option<Standing>) {
        let before = std::mem::replace(&mut self.state.known().standing, standing);
        if before == standing {
            return;
        }
        match standing {
            Some(Standing::Diverged) => log::error!(
                "this home does not descend from the newest snapshot: it goes to forks/ only, until `serena-snapshotd adopt --local` (this home wins) or `adopt --remote` (the snapshot wins)"
            ),
            Some(Standing::Fenced) => log::error!(
                "another daemon has taken over this partition: this one publishes nothing any more, its home goes to forks/; stop one of the two"
            ),
            Some(Standing::Current | Standing::Empty | Standing::Fresh) | None => {}
        }
    }

    /// Shows what is being done until the guard is dropped.
    pub(super) fn working(&self, what: &'static str, progress: &Arc<Progress>) -> Shown {
        let working = Working { what, progress: Arc::clone(progress), began: Instant::now() };
        self.state.known().working = Some(working);
        Shown(Arc::clone(&self.state))
    }

    /// Works with the engine to the end, or until the time for a stop is over.
    pub(super) async fn bounded<T>(&mut self, work: impl AsyncFnOnce(&mut Engine) -> T) -> Result<T, Over> {
        let Actor { engine, life, stop_at, cancelled, plan, .. } = self;
        let stop = async {
            life.draining().await;
            sleep_until(*stop_at.get_or_insert_with(|| Instant::now() + plan.shutdown_deadline)).await;
        };
        tokio::select! {
            done = work(engine) => Ok(done),
            () = stop => {
                // What runs on other threads ends soon.
                cancelled.store(true, Ordering::Relaxed);
                Err(Over)
            }
        }
    }
}

/// Takes the work off the state.
pub(super) struct Shown(Arc<State>);

impl Drop for Shown {
    fn drop(&mut self) {
        self.0.known().working = None;
    }
}

async fn until(when: Option<Instant>) {
    match when {
        Some(when) => sleep_until(when).await,
        None => std::future::pending().await,
    }
}

/// Whether there is anything in the home.
fn has_entries(plan: &Plan) -> bool {
    std::fs::read_dir(plan.home()).is_ok_and(|mut entries| entries.next().is_some())
}
