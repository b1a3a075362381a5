//! The jobs of an instance that starts: its process is made, and asked until it is ready; meanwhile it may neither exit
//! nor use more than it may.

use std::pin::pin;
use std::process::ExitStatus;
use std::sync::Mutex;

use mcp_daemon::tree::{Holder, Tree};
use tokio::time::{Instant, interval_at, sleep, timeout};

use super::jobs::Work;
use super::process::{LAST_WORDS, Process, StartError};
use super::state::Event;
use crate::config::Settings;

/// Why a start did not come to its end.
enum Cut {
    /// The tree uses more than it may.
    Excess(Event),
    /// The main process has exited.
    Exit(Option<ExitStatus>),
}

impl Work {
    /// The process itself.
    pub(super) async fn spawn(&self) -> Event {
        let settings = self.begun_with();
        let process = match Process::start(&self.instance, settings, &self.life).await {
            Ok(process) => process,
            Err(StartError::Machine(cause)) => {
                self.kept().blameless = true;
                return self.failed(cause, Event::Broke);
            }
            Err(StartError::Command(cause)) => return self.failed(cause, Event::Broke),
        };
        self.instance.update(|board| {
            board.starts += 1;
            board.pid = Some(process.tree.pid());
            board.target = Some(process.target);
            board.generation.clone_from(&board.fresh.generation);
            board.language_server = None;
        });
        log::info!(instance = self.name(), pid = process.tree.pid(), port = process.target.port(); "started");
        *self.process.lock().await = Some(process);
        Event::Started
    }

    /// Until it answers, and it is really ours that does.
    pub(super) async fn probe(&self) -> Event {
        let mut running = self.process.lock().await;
        let Some(process) = running.as_mut() else { return Event::Broke };
        let born = Instant::now();
        let patience = Mutex::new(born + process.settings.start_timeout.duration());
        let mut last = None;
        let Process { tree, readiness, settings, .. } = &mut *process;
        let answered = self.unless_cut(tree, settings, async {
            tokio::select! {
                told = readiness.until_ready(&mut last, &patience) => Some(told),
                () = passed(&patience) => None,
            }
        });
        match answered.await {
            Ok(Some(Ok(()))) => {}
            Ok(Some(Err(told))) => {
                // Mostly it says so by its exit, and that says more.
                return match timeout(LAST_WORDS, process.tree.exited()).await {
                    Ok(exit) => self.exited(process, exit.ok()).await,
                    Err(_elapsed) => self.failed(told.to_string(), Event::Broke),
                };
            }
            Ok(None) => {
                let last = last.map(|last| format!(": {last}")).unwrap_or_default();
                return self.failed(
                    format!("not ready within {}{last}", process.settings.start_timeout),
                    Event::Broke,
                );
            }
            Err(Cut::Exit(exit)) => return self.exited(process, exit).await,
            Err(Cut::Excess(event)) => return event,
        }
        if let Holder::Foreign(pid) = process.tree.listener_on(process.target.port()) {
            return self.port_taken(process, pid);
        }
        if let Some(settle) = process.settings.settle {
            self.doing("settling");
            let Process { tree, settings, .. } = &mut *process;
            match self.unless_cut(tree, settings, sleep(settle.duration())).await {
                Ok(()) => {}
                Err(Cut::Exit(exit)) => return self.exited(process, exit).await,
                Err(Cut::Excess(event)) => return event,
            }
        }
        self.kept().ports_tried = 0;
        self.instance.update(|board| board.cause = None);
        log::info!(instance = self.name(), pid = process.tree.pid(), took_ms = born.elapsed().as_millis() as u64; "ready");
        Event::Answers
    }

    /// Waits for a fact of the start, unless the main process exits or the tree uses more than it may before.
    async fn unless_cut<T>(
        &self,
        tree: &mut Tree,
        settings: &Settings,
        fact: impl Future<Output = T>,
    ) -> Result<T, Cut> {
        let mut fact = pin!(fact);
        let (began, every) = (Instant::now(), settings.limits.interval.duration());
        let mut measure = interval_at(began + every, every);
        loop {
            tokio::select! {
                exit = tree.exited() => return Err(Cut::Exit(exit.ok())),
                fact = &mut fact => return Ok(fact),
                _ = measure.tick(), if settings.limits.can_cut() => {
                    if let Some(event) = self.measure(tree, settings, began.elapsed()) {
                        return Err(Cut::Excess(event));
                    }
                }
            }
        }
    }
}

/// Waits until a moment that may move on meanwhile.
async fn passed(moment: &Mutex<Instant>) {
    loop {
        let until = *moment.lock().expect("no panic while locked");
        if Instant::now() >= until {
            return;
        }
        tokio::time::sleep_until(until).await;
    }
}
