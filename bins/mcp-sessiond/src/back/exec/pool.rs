//! The processes of one back: who may start, who must go, who failed how often.

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::ffi::OsString;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use http::Response;
use mcp_daemon::addr::Route;
use mcp_daemon::body::Body;
use mcp_daemon::client::SendError;
use mcp_daemon::life::Life;
use mcp_daemon::tree::{Launch, Tree};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::{Instant, timeout};

use super::ExecOptions;
use super::answer;
use super::call::{Outcome, not_sent};
use super::child::Child;
use super::failures::{Failure, Failures};
use super::shared::Slot;

/// A command as it fails: sessions of a route do not suffer from requests without a session, nor from other routes.
type Kind = (Option<Route>, bool);

/// The processes of one back.
pub(super) struct Pool {
    pub(super) options: ExecOptions,
    pub(super) life: Life,
    places: Arc<Semaphore>,
    is_closed: AtomicBool,
    tables: Mutex<Tables>,
}

#[derive(Default)]
struct Tables {
    /// Every process whose tree is not empty yet.
    running: HashMap<String, Arc<Child>>,
    sessions: HashMap<String, Arc<Child>>,
    slots: HashMap<Option<Route>, Arc<Slot>>,
    /// Only of those that failed and have not succeeded since.
    failures: HashMap<Kind, Failures>,
}

/// Why no process was started.
pub(super) enum Unstarted {
    /// We end.
    Closed,
    /// The command cannot be run.
    Failed(SendError),
    /// All places are taken by processes with requests in flight.
    Full,
    /// It failed too often; how long not to try again.
    Paused(Duration),
}

impl Pool {
    pub(super) fn new(options: ExecOptions, life: Life) -> Arc<Self> {
        let places = Arc::new(Semaphore::new(places(&options) as usize));
        Arc::new(Pool { options, life, places, is_closed: AtomicBool::new(false), tables: Mutex::default() })
    }

    /// The process of a session, if `route` is the one it was started for.
    pub(super) fn session(&self, id: &str, route: Option<&Route>) -> Option<Arc<Child>> {
        let tables = self.tables();
        tables.sessions.get(id).filter(|child| child.route.as_ref() == route).cloned()
    }

    /// Makes a process that answered `initialize` known by its id.
    pub(super) fn enter_session(&self, child: &Arc<Child>) {
        let mut tables = self.tables();
        if let Entry::Occupied(mut failures) = tables.failures.entry(kind(child)) {
            failures.get_mut().started();
            if failures.get().is_clear() {
                failures.remove();
            }
        }
        // It may have died since; a dead entry would hold its place in the table for ever.
        if !child.desk().has_ended() {
            tables.sessions.insert(child.id.clone(), Arc::clone(child));
        }
    }

    /// Forgets a session and ends its process.
    pub(super) fn end_session(&self, child: &Arc<Child>) {
        self.tables().sessions.remove(&child.id);
        child.stop();
    }

    /// The place where requests without a session find their process.
    pub(super) fn slot(&self, route: Option<&Route>) -> Arc<Slot> {
        let mut tables = self.tables();
        tables.slots.retain(|_, slot| Arc::strong_count(slot) > 1 || !slot.is_vacant());
        Arc::clone(tables.slots.entry(route.cloned()).or_default())
    }

    /// Notes what an answer proves, and passes it on.
    pub(super) fn finish(&self, child: &Child, outcome: Outcome) -> Response<Body> {
        match outcome {
            Outcome::Answer(body) => {
                self.works(child);
                answer::response(body, child.is_shared)
            }
            Outcome::Events(response) => {
                self.works(child);
                response
            }
            Outcome::Duplicate(response) => response,
        }
    }

    fn works(&self, child: &Child) {
        let mut tables = self.tables();
        if !tables.failures.is_empty() && tables.failures.remove(&kind(child)).is_some() {
            log::info!(pid = child.pid; "the server works again");
        }
    }

    /// Counts a process that said nothing for too long; its end will be one that was asked for.
    pub(super) fn timed_out(&self, child: &Child) {
        self.failed(kind(child), Failure::Start);
    }

    /// Starts a process, if need be in the place of the longest idle one.
    pub(super) async fn start(
        self: &Arc<Self>,
        route: Option<&Route>,
        is_shared: bool,
    ) -> Result<Arc<Child>, Unstarted> {
        let kind = (route.cloned(), is_shared);
        if let Some(left) =
            self.tables().failures.get(&kind).and_then(|failures| failures.pause(Instant::now()))
        {
            return Err(Unstarted::Paused(left));
        }
        let place = self.place().await?;
        let command = command(&self.options.command, route).map_err(Unstarted::Failed)?;
        let program = command[0].clone();
        let launch = Launch { owner: self.options.owner.clone(), ..Launch::new(command) };
        let (tree, pipes) = Tree::spawn(launch).await.map_err(|error| {
            self.failed(kind, Failure::Start);
            Unstarted::Failed(not_sent(format!("cannot run `{}`: {error}", program.display())))
        })?;
        let (child, letters) = Child::new(&tree, route.cloned(), is_shared);
        log::info!(pid = child.pid; "server process started");
        self.tables().running.insert(child.id.clone(), Arc::clone(&child));
        let (pool, running) = (Arc::clone(self), Arc::clone(&child));
        self.life.spawn(async move {
            let on_end = |failure| pool.forget(&running, failure);
            running.run(tree, pipes, letters, &pool.options, &pool.life, on_end).await;
            pool.tables().running.remove(&running.id);
            drop(place);
        });
        Ok(child)
    }

    /// A place for one more process; waits for the end of the one that has to make room.
    async fn place(&self) -> Result<OwnedSemaphorePermit, Unstarted> {
        if self.is_closed.load(Ordering::Acquire) || self.life.is_draining() {
            return Err(Unstarted::Closed);
        }
        if let Ok(place) = Arc::clone(&self.places).try_acquire_owned() {
            return Ok(place);
        }
        if !self.evict() {
            return Err(Unstarted::Full);
        }
        match timeout(self.options.start_timeout, Arc::clone(&self.places).acquire_owned()).await {
            Ok(Ok(place)) => Ok(place),
            Ok(Err(_)) => Err(Unstarted::Closed),
            Err(_) => Err(Unstarted::Full),
        }
    }

    /// Ends the longest idle process; `false` if all have something in flight.
    fn evict(&self) -> bool {
        let tables = self.tables();
        let shared = tables.slots.values().filter_map(|slot| slot.current());
        let mut idle: Vec<Arc<Child>> = tables.sessions.values().cloned().chain(shared).collect();
        drop(tables);
        idle.sort_by_cached_key(|child| child.desk().last_used());
        // A request that comes from now on finds the desk closed and knows that it was not sent.
        let Some(child) = idle.into_iter().find(|child| child.desk().end_if_idle()) else { return false };
        log::info!(pid = child.pid; "ended the longest idle server process to make room");
        self.end_session(&child);
        true
    }

    /// A process takes no more requests.
    fn forget(&self, child: &Child, failure: Option<Failure>) {
        self.tables().sessions.remove(&child.id);
        if let Some(failure) = failure {
            self.failed(kind(child), failure);
        }
    }

    fn failed(&self, kind: Kind, failure: Failure) {
        let threshold = self.options.failure_threshold;
        let mut tables = self.tables();
        let failures = tables.failures.entry(kind).or_default();
        if let Some(pause) = failures.failed(failure, threshold, Instant::now()) {
            let pause_ms = pause.as_millis() as u64;
            log::error!(failures = threshold, pause_ms; "the server failed too often in a row, starting it again pauses");
        }
    }

    pub(super) fn status(&self) -> serde_json::Value {
        let tables = self.tables();
        let mut processes: Vec<&Arc<Child>> = tables.running.values().collect();
        processes.sort_by_key(|child| child.born);
        let processes: Vec<serde_json::Value> = processes
            .into_iter()
            .map(|child| {
                serde_json::json!({
                    "pid": child.pid,
                    "age_s": child.born.elapsed().as_secs(),
                    "shared": child.is_shared,
                    "route": child.route.as_ref().map(Route::as_str),
                    "in_flight": child.desk().in_flight(),
                })
            })
            .collect();
        serde_json::json!({ "processes": processes, "max_processes": places(&self.options) })
    }

    pub(super) async fn shut_down(&self) {
        self.is_closed.store(true, Ordering::Release);
        let running: Vec<Arc<Child>> = self.tables().running.values().cloned().collect();
        for child in running {
            self.tables().sessions.remove(&child.id);
            child.stop_now();
        }
        // Every process holds its place until its tree is empty.
        let _ = self.places.acquire_many(places(&self.options)).await;
        self.places.close();
    }

    fn tables(&self) -> MutexGuard<'_, Tables> {
        self.tables.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// At least one, or nothing would ever run.
fn places(options: &ExecOptions) -> u32 {
    u32::try_from(options.max_processes).unwrap_or(u32::MAX).clamp(1, 1 << 20)
}

fn kind(child: &Child) -> Kind {
    (child.route.clone(), child.is_shared)
}

/// The command with the route in its place.
fn command(command: &[OsString], route: Option<&Route>) -> Result<Vec<OsString>, SendError> {
    let fill = |argument: &OsString| match (argument.to_str(), route) {
        (Some(text), Some(route)) => Ok(text.replace("{route}", route.as_str()).into()),
        (Some(text), None) if text.contains("{route}") => {
            Err(not_sent(format!("the command needs a route for `{text}`, and the request has none")))
        }
        _ => Ok(argument.clone()),
    };
    let command: Vec<OsString> = command.iter().map(fill).collect::<Result<_, _>>()?;
    if command.is_empty() { Err(not_sent("the command is empty")) } else { Ok(command) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_route_is_put_into_every_argument_and_asked_for_where_it_lacks() {
        let argv: Vec<OsString> = ["serve", "--home", "/srv/{route}/x"].map(OsString::from).into();
        let route: Route = "team-1".parse().unwrap();
        assert_eq!(command(&argv, Some(&route)).unwrap()[2], "/srv/team-1/x");
        assert!(
            matches!(command(&argv, None), Err(SendError::NotSent(why)) if why.to_string().contains("{route}"))
        );
        assert_eq!(command(&argv[..2], None).unwrap(), argv[..2]);
    }
}
