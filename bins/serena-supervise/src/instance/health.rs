//! The job of an instance that serves: its exit, its liveness, its limits, its language server, and whether it is still
//! wanted.

use std::future::pending;
use std::pin::pin;
use std::time::Duration;

use mcp_daemon::tree::Tree;
use tokio::time::{Instant, interval, sleep, sleep_until};

use super::jobs::Work;
use super::process::Process;
use super::state::{Event, Phase, Rest};
use crate::config::{Settings, SleepAfter};
use crate::dashboard::Level;
use crate::limits;

/// How often a tree without limits is measured: for `status`, and to reap what it orphaned.
const MEASURE: Duration = Duration::from_secs(30);
/// How often the state of the language server is looked at.
const ASK_LANGUAGE_SERVER: Duration = Duration::from_secs(1);

impl Work {
    /// Watches over a server that serves, until something has to be done.
    pub(super) async fn watch(&self) -> Event {
        let mut running = self.process.lock().await;
        let Some(process) = running.as_mut() else { return Event::Broke };
        let settings = process.settings.clone();
        let hung = Process::hung(process.liveness.clone(), settings.clone(), process.tree.pid());
        let mut hung = pin!(hung);
        let mut measure =
            interval(if settings.limits.any() { settings.limits.interval.duration() } else { MEASURE });
        let mut language_server = interval(ASK_LANGUAGE_SERVER);
        let since = self.instance.board().ready_since.unwrap_or_else(Instant::now);
        let mut stable = pin!(sleep_until(since + settings.backoff.stable.duration()));
        let mut may_fail = true;
        loop {
            tokio::select! {
                exit = process.tree.exited() => return self.exited(process, exit.ok()).await,
                cause = &mut hung => return self.failed(cause, Event::Broke),
                () = self.idle(&settings) => {}
                () = self.outdated() => return Event::Renew,
                _ = measure.tick() => {
                    let age = process.born.elapsed();
                    if let Some(event) = self.measure(&mut process.tree, &settings, age) {
                        return event;
                    }
                }
                () = &mut stable, if may_fail => {
                    let mut kept = self.kept();
                    kept.failures.forget();
                    kept.renewed = false;
                    may_fail = false;
                }
                _ = language_server.tick(), if settings.language_server => {
                    self.ask_language_server(process).await;
                }
            }
        }
    }

    /// Puts it to sleep once nobody has used it for long enough; that replaces the job that waits here.
    async fn idle(&self, settings: &Settings) {
        let (SleepAfter::Idle(after), true) = (settings.sleep_after, settings.socket.is_some()) else {
            return pending().await;
        };
        loop {
            let left = after.duration().saturating_sub(self.instance.board().idle_for());
            if left.is_zero() && self.instance.sleep_if_idle(Rest::Asleep) {
                return pending().await;
            }
            // A connection in between makes this too early, and never too late.
            sleep(left.max(Duration::from_millis(1))).await;
        }
    }

    /// Ends when a fresh process is wanted, and it is quiet or has been busy for too long.
    async fn outdated(&self) {
        let since = self
            .instance
            .until(|board| (board.generation != board.fresh.generation).then_some(board.fresh_since))
            .await;
        let deadline = self.instance.board().fresh.deadline;
        tokio::select! {
            () = self.instance.until(|board| board.is_idle().then_some(())) => {}
            () = sleep_until(since + deadline) => {}
        }
    }

    /// What is to be done about what the tree uses now.
    pub(super) fn measure(&self, tree: &mut Tree, settings: &Settings, age: Duration) -> Option<Event> {
        let usage = tree.usage();
        let idle = self.instance.update(|board| {
            board.memory = Some(usage.memory);
            board.processes = Some(usage.processes);
            // Before it is ready nobody could use it, and a fresh one would be no better.
            board.is_idle() && board.state.serves()
        });
        let excess = limits::verdict(&settings.limits, usage, age)?;
        if !excess.at_once && !idle {
            return None;
        }
        // One that needs more than it may again and again, and never served for long, would be renewed for ever.
        if excess.at_once && std::mem::replace(&mut self.kept().renewed, true) {
            return Some(self.failed(excess.text, Event::Broke));
        }
        log::warn!(instance = self.name(), excess = excess.text; "over its limits, gets a fresh process");
        self.instance.update(|board| board.cause = Some(excess.text));
        Some(match (excess.at_once, settings.socket.is_some()) {
            (true, _) => Event::RenewNow,
            // Whoever comes next wakes it.
            (false, true) if !settings.starts_at_boot() => Event::Rest(Rest::Limit),
            (false, _) => Event::Renew,
        })
    }

    /// What the state of the language server means for us; a failed one is never a reason to start again.
    async fn ask_language_server(&self, process: &mut Process) {
        let level = process.language_server(&self.instance).await;
        let patience = process.settings.start_timeout.duration();
        let (bad, text) = match &level {
            Level::Failed(why) => (true, format!("failed: {why}")),
            Level::Ready => (false, "ready".into()),
            Level::Starting => (process.born.elapsed() > patience, "starting".into()),
            Level::Unknown => (false, "unknown".into()),
        };
        let became_bad = self.instance.update(|board| {
            board.language_server = Some(text.clone());
            let was_bad = board.state.phase() == Phase::Degraded;
            board.apply(if bad { Event::Worse } else { Event::Better });
            bad && !was_bad
        });
        if became_bad {
            log::warn!(instance = self.name(), language_server = text; "serves without its language server");
        }
    }
}
