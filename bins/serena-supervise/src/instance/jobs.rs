//! What is done in each state of an instance; each job ends with the event that it came to. Those of one that
//! starts are in `start`, that of one that serves in `health`.

use std::process::ExitStatus;
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use mcp_daemon::life::Life;
use mcp_daemon::secret::chance;
use mcp_daemon::tree::Holder;
use tokio::sync::MutexGuard as AsyncGuard;
use tokio::time::{Instant, sleep, timeout};

use super::failures::{Failures, Verdict};
use super::process::{Process, ended};
use super::state::Event;
use super::{Instance, stop};
use crate::config::{Hook, Settings};
use crate::hooks::{self, HookError};
use crate::places::{Place, Places};

/// Serena exits with this when its port is taken.
const PORT_TAKEN: i32 = 3;
/// What other servers print then.
const PORT_TAKEN_WORDS: [&str; 2] = ["address already in use", "eaddrinuse"];
/// A port may be taken this often in a row before it counts as a failure.
const PORTS_TRIED: u32 = 5;
/// Pause after a failure that is not the server's: the machine had no process or descriptor to give.
const MACHINE_PAUSE: Duration = Duration::from_secs(1);

/// What the jobs of one instance share.
pub(super) struct Work {
    pub(super) instance: Arc<Instance>,
    places: Option<Arc<Places>>,
    pub(super) life: Life,
    pub(super) process: tokio::sync::Mutex<Option<Process>>,
    kept: Mutex<Kept>,
}

/// What outlasts a job.
#[derive(Default)]
pub(super) struct Kept {
    place: Option<Place>,
    /// Those with which the last start began. It also ends with them: what a hook fetched before the start, the hook of
    /// the same settings brings back after the stop. Others, put in force meanwhile, are for the next start.
    begun_with: Option<Arc<Settings>>,
    pub(super) failures: Failures,
    pub(super) ports_tried: u32,
    /// When a limit made a fresh process necessary at once.
    pub(super) renewed: Option<Instant>,
    /// Whether the last failure was this machine's, which is out of something.
    pub(super) blameless: bool,
}

impl Work {
    pub(super) fn new(instance: Arc<Instance>, places: Option<Arc<Places>>, life: Life) -> Self {
        Self { instance, places, life, process: tokio::sync::Mutex::default(), kept: Mutex::default() }
    }

    pub(super) fn kept(&self) -> MutexGuard<'_, Kept> {
        self.kept.lock().expect("no panic while locked")
    }

    pub(super) fn name(&self) -> &str {
        self.instance.name.as_str()
    }

    pub(super) fn begun_with(&self) -> Arc<Settings> {
        self.kept().begun_with.clone().unwrap_or_else(|| self.instance.settings())
    }

    pub(super) fn doing(&self, what: impl Into<String>) {
        let what = what.into();
        self.instance.update(|board| board.doing = Some(what));
    }

    /// Something failed; `cause` is for a person.
    pub(super) fn failed(&self, cause: String, event: Event) -> Event {
        log::warn!(instance = self.name(), cause; "failed");
        self.instance.update(|board| {
            board.failures += 1;
            board.cause = Some(cause);
        });
        event
    }

    /// Nothing runs and nothing will for a while: the place is somebody else's.
    pub(super) fn rest(&self) {
        self.kept().place = None;
    }

    /// A place, a home, and the hook before the start.
    pub(super) async fn prepare(&self) -> Event {
        if let Some(places) = &self.places
            && self.kept().place.is_none()
        {
            self.doing(format!("waiting for one of {} places", places.max()));
            tokio::select! {
                place = places.take() => self.kept().place = Some(place),
                () = self.instance.until_resting() => return Event::CalledOff,
            }
        }
        let settings = self.instance.settings();
        self.kept().begun_with = Some(settings.clone());
        if let Some(home) = &settings.home
            && let Err(error) = std::fs::create_dir_all(home)
        {
            return self.failed(format!("home {}: {error}", home.display()), Event::NotPrepared);
        }
        if let Some(hook) = &settings.hooks.before_start {
            self.doing("before_start hook");
            let called_off = self.instance.until_resting();
            match self.hook(hook, "before_start", &settings, called_off).await {
                Err(HookStop::CalledOff) => return Event::CalledOff,
                Err(HookStop::Failed(error)) if hook.strict => return self.failed(error, Event::NotPrepared),
                Err(HookStop::Failed(_)) | Ok(()) => {}
            }
        }
        Event::Prepared
    }

    /// Until nobody uses it, or the time for that is over.
    pub(super) async fn drain(&self) -> Event {
        let settings = self.begun_with();
        self.doing("waiting for connections to end");
        let quiet = self.instance.until(|board| (board.open == 0).then_some(()));
        if timeout(settings.stop.drain.duration(), quiet).await.is_err() {
            let open = self.instance.board().open;
            log::info!(instance = self.name(), open; "connections are still open, stopping all the same");
        }
        Event::Drained
    }

    /// The whole ladder.
    pub(super) async fn stop(&self) -> Event {
        let mut running = self.process.lock().await;
        if let Some(process) = running.as_mut() {
            let (ladder, target) = (process.settings.stop.clone(), process.target);
            stop::stop(&mut process.tree, Some(target), &ladder, |rung| self.rung(rung)).await;
        }
        self.empty(running).await
    }

    /// The rest of a tree whose main process is gone or hangs.
    pub(super) async fn clear(&self) -> Event {
        let mut running = self.process.lock().await;
        if let Some(process) = running.as_mut() {
            stop::clear(&mut process.tree, |rung| self.rung(rung)).await;
        }
        self.empty(running).await
    }

    fn rung(&self, rung: &'static str) {
        log::debug!(instance = self.name(), rung; "stopping");
        self.instance.update(|board| {
            if rung.starts_with("SIGKILL") {
                board.apply(Event::KillBegan);
            }
            board.doing = Some(rung.into());
        });
    }

    async fn empty(&self, mut running: AsyncGuard<'_, Option<Process>>) -> Event {
        let exit = match running.take() {
            Some(process) => process.forget().await,
            None => None,
        };
        self.instance.update(|board| {
            board.exit = exit.or(board.exit);
            board.pid = None;
            board.target = None;
            board.memory = None;
            board.processes = None;
        });
        let how = exit.map_or_else(|| "there was none".into(), ended);
        log::info!(instance = self.name(), exit = how; "no process is left");
        Event::Empty
    }

    /// The hook after the stop.
    pub(super) async fn finish(&self) -> Event {
        let settings = self.begun_with();
        if let Some(hook) = &settings.hooks.after_stop {
            self.doing("after_stop hook");
            if let Err(HookStop::Failed(error)) =
                self.hook(hook, "after_stop", &settings, std::future::pending()).await
            {
                self.instance.update(|board| board.cause = Some(error));
            }
        }
        Event::Finished
    }

    /// Counts a failure and pauses.
    pub(super) async fn pause(&self) -> Event {
        // Meanwhile somebody else may run.
        self.rest();
        let settings = self.instance.settings();
        if std::mem::take(&mut self.kept().blameless) {
            return self.wait(MACHINE_PAUSE).await;
        }
        let verdict = self.kept().failures.count(&settings.backoff, Instant::now(), chance());
        match verdict {
            Verdict::TooMany => Event::TooMany,
            Verdict::Pause(pause) => self.wait(pause).await,
        }
    }

    /// Pauses for long.
    pub(super) async fn pause_long(&self) -> Event {
        self.rest();
        let retry = self.instance.settings().backoff.retry;
        log::error!(instance = self.name(), retry:% = retry; "failed too often, tried again seldom");
        self.wait(retry.duration()).await
    }

    async fn wait(&self, pause: Duration) -> Event {
        self.instance.update(|board| board.retry_at = Some(Instant::now() + pause));
        sleep(pause).await;
        Event::PauseOver
    }

    /// The main process exited by itself.
    pub(super) async fn exited(&self, process: &mut Process, exit: Option<ExitStatus>) -> Event {
        // Before anything is waited for: the number is free now.
        self.instance.update(|board| board.pid = None);
        let last = process.last_line(&self.instance).await;
        let said = last.to_lowercase();
        let says_so = PORT_TAKEN_WORDS.iter().any(|words| said.contains(words));
        // Of another server the number may mean anything, so somebody has to be there.
        if says_so || exit.and_then(|exit| exit.code()) == Some(PORT_TAKEN) {
            match process.tree.listener_on(process.target.port()) {
                Holder::Foreign(holder) => return self.port_taken(process, holder),
                Holder::Nobody if !says_so => {}
                Holder::Nobody | Holder::Ours | Holder::Unknown => return self.port_taken(process, None),
            }
        }
        let how = exit.map_or_else(|| "it is gone".into(), ended);
        let cause = if last.is_empty() { how } else { format!("{how}: {last}") };
        self.failed(cause, Event::Broke)
    }

    pub(super) fn port_taken(&self, process: &Process, holder: Option<i32>) -> Event {
        let port = process.target.port();
        let holder = holder.map(|pid| format!(" by process {pid}")).unwrap_or_default();
        let cause = format!("port {port} was taken{holder}");
        let tried = {
            let mut kept = self.kept();
            kept.ports_tried += 1;
            kept.ports_tried
        };
        if process.settings.port.is_some() || tried >= PORTS_TRIED {
            return self.failed(cause, Event::Broke);
        }
        log::info!(instance = self.name(), port; "port taken, trying another");
        self.instance.update(|board| board.cause = Some(cause));
        Event::PortTaken
    }

    async fn hook(
        &self,
        hook: &Hook,
        name: &'static str,
        settings: &Settings,
        called_off: impl Future<Output = ()>,
    ) -> Result<(), HookStop> {
        let error = match self.instance.surroundings(settings) {
            Ok(surroundings) => {
                match hooks::run(name, hook, surroundings, &self.instance.output, called_off).await {
                    Ok(()) => return Ok(()),
                    Err(HookError::CalledOff { .. }) => return Err(HookStop::CalledOff),
                    Err(error) => error.to_string(),
                }
            }
            Err(error) => format!("{name}: {error}"),
        };
        log::warn!(instance = self.name(), error; "hook failed");
        Err(HookStop::Failed(error))
    }
}

/// Why a hook did not come to its end.
enum HookStop {
    /// Its instance is to rest.
    CalledOff,
    /// For this reason.
    Failed(String),
}
