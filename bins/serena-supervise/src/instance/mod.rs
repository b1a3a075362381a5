//! One supervised server, as others see it: its board says where it is, a lease keeps it awake.
//!
//! Every change of the state goes through `Board::apply` under one lock, so a connection can never slip between
//! "nobody uses it" and "it goes to sleep". What the state asks to be done is done by its `actor`.

pub mod actor;
mod door;
pub mod failures;
mod health;
mod jobs;
mod process;
mod said;
mod start;
pub mod state;
mod stop;

use std::net::SocketAddr;
use std::path::PathBuf;
use std::pin::pin;
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use mcp_daemon::addr::{Listen, Route};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::{Value, json};
use tokio::sync::Notify;
use tokio::time::Instant;

use crate::config::Settings;
use crate::dashboard;
use crate::output::Output;
pub use door::Door;
pub use process::ended;
use said::Said;
use state::{Action, Event, Phase, Rest, State};

/// Lines of output that `status` shows.
const LINES_SHOWN: usize = 20;

/// One supervised server; shared by its actor, its socket and the control socket.
pub struct Instance {
    /// Its name.
    pub name: Route,
    roots: Roots,
    /// What it prints.
    pub output: Arc<Output>,
    /// What its lines said of its language server.
    said: Arc<Mutex<Said>>,
    board: Mutex<Board>,
    /// Rings when the board changed.
    changed: Notify,
    /// Rings when there is something to do.
    todo: Notify,
    /// Rung when the last connection has ended.
    quiet: Arc<Notify>,
}

/// What ties an instance to this machine.
#[derive(Clone, Debug)]
pub struct Roots {
    /// By this what we leave behind when we are killed is found again.
    pub owner: String,
    /// A directory that only this user can enter.
    pub runtime: PathBuf,
    /// Where clients connect, as it was bound.
    pub bound: Vec<Listen>,
}

/// Which generation of processes is wanted.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Fresh {
    /// Its name; a process that was started under another one is replaced.
    pub generation: String,
    /// How long a busy process of an older generation is tolerated.
    pub deadline: Duration,
}

/// What is known of an instance.
#[derive(Debug)]
pub struct Board {
    state: State,
    todo: Option<Action>,
    settings: Arc<Settings>,
    fresh: Fresh,
    /// Since when the generation of `fresh` is wanted.
    fresh_since: Instant,
    /// The generation of the process that runs.
    generation: String,
    /// Set when the supervisor stops: nothing is started any more.
    leaving: bool,
    target: Option<SocketAddr>,
    pid: Option<u32>,
    open: usize,
    held: usize,
    /// The last moment a connection was open.
    used: Instant,
    entered: Instant,
    ready_since: Option<Instant>,
    starts: u64,
    failures: u64,
    cause: Option<String>,
    /// The rung of the stop ladder, or what is waited for.
    doing: Option<String>,
    /// How the last main process ended.
    exit: Option<std::process::ExitStatus>,
    language_server: Option<String>,
    memory: Option<u64>,
    processes: Option<usize>,
    retry_at: Option<Instant>,
}

impl Board {
    /// Feeds the state; whoever waits for a change has to be rung for after.
    fn apply(&mut self, event: Event) {
        let before = self.state;
        let (state, action) = before.on(event);
        self.state = state;
        if action.is_some() {
            self.todo = action;
        }
        if state.phase() != before.phase() {
            self.entered = Instant::now();
            self.doing = None;
            self.retry_at = None;
            self.ready_since = state.serves().then(|| self.ready_since.unwrap_or(self.entered));
            if state.serves() && !before.serves() {
                // Whoever waited has not had the chance to be here yet.
                self.used = self.entered;
            }
        }
    }

    fn is_idle(&self) -> bool {
        self.open == 0 && self.held == 0
    }

    fn idle_for(&self) -> Duration {
        if self.is_idle() { self.used.elapsed() } else { Duration::ZERO }
    }
}

impl Instance {
    /// An instance at rest; `quiet` is rung whenever nobody uses it any more.
    pub fn new(name: Route, roots: Roots, settings: Settings, fresh: Fresh, quiet: Arc<Notify>) -> Arc<Self> {
        let now = Instant::now();
        let board = Board {
            state: State::default(),
            todo: None,
            settings: Arc::new(settings),
            generation: fresh.generation.clone(),
            fresh,
            fresh_since: now,
            leaving: false,
            target: None,
            pid: None,
            open: 0,
            held: 0,
            used: now,
            entered: now,
            ready_since: None,
            starts: 0,
            failures: 0,
            cause: None,
            doing: None,
            exit: None,
            language_server: None,
            memory: None,
            processes: None,
            retry_at: None,
        };
        let output = Output::new(name.as_str());
        let said: Arc<Mutex<Said>> = Arc::default();
        let heard = said.clone();
        output.on_line(Box::new(move |line| {
            if let Some(told) = dashboard::told_by(line) {
                heard.lock().expect("no panic while locked").take(told);
            }
        }));
        let (board, changed, todo) = (Mutex::new(board), Notify::new(), Notify::new());
        Arc::new(Self { name, roots, output, said, board, changed, todo, quiet })
    }

    fn board(&self) -> MutexGuard<'_, Board> {
        self.board.lock().expect("no panic while locked")
    }

    /// Changes the board and tells everybody who waits for that.
    fn update<T>(&self, change: impl FnOnce(&mut Board) -> T) -> T {
        let mut board = self.board();
        let served = board.state.serves();
        let result = change(&mut board);
        let todo = board.todo.is_some();
        let is_spare = board.state.serves() && !served && board.is_idle();
        drop(board);
        self.changed.notify_waiters();
        if is_spare {
            self.quiet.notify_waiters();
        }
        if todo {
            self.todo.notify_one();
        }
        result
    }

    /// Tells it that something is wanted of it; nothing is started any more once it is leaving.
    pub fn tell(&self, event: Event) {
        self.update(|board| {
            if !board.leaving || matches!(event, Event::Rest(_)) {
                board.apply(event);
            }
        });
    }

    /// Lets it stop for good.
    pub fn leave(&self) {
        self.update(|board| {
            board.leaving = true;
            board.apply(Event::Rest(Rest::Asked));
        });
        // Its actor has to look even if nothing is to be done any more.
        self.todo.notify_one();
    }

    /// Puts other settings in force, at the next start.
    pub fn set(&self, settings: Settings, fresh: Fresh) {
        self.update(|board| {
            board.settings = Arc::new(settings);
            if board.fresh.generation != fresh.generation {
                board.fresh_since = Instant::now();
            }
            board.fresh = fresh;
        });
    }

    /// The settings in force.
    pub fn settings(&self) -> Arc<Settings> {
        self.board().settings.clone()
    }

    /// Where it is.
    pub fn state(&self) -> State {
        self.board().state
    }

    /// How the last main process ended, if one did.
    pub fn exit(&self) -> Option<std::process::ExitStatus> {
        self.board().exit
    }

    /// Hands a signal on to its main process. Not on its way out: there it has perhaps been waited for, and its number
    /// may be somebody else's.
    pub fn signal(&self, signal: Signal) {
        let board = self.board();
        if let Some(pid) = board.pid.filter(|_| board.state.keeps_process()) {
            let _ = kill(Pid::from_raw(pid as i32), signal);
        }
    }

    /// What is not as it should be, for a person.
    pub fn complaint(&self) -> Option<String> {
        let board = self.board();
        let cause = || board.cause.as_deref().map(|cause| format!(": {cause}")).unwrap_or_default();
        let must_run = board.settings.starts_at_boot() && board.state.rest().is_none();
        match board.state.phase() {
            Phase::Failed => Some(format!("{} has failed{}", self.name, cause())),
            Phase::Backoff => Some(format!("{} is tried again soon{}", self.name, cause())),
            phase if must_run && board.ready_since.is_none() => {
                Some(format!("{} is {}", self.name, name(phase)))
            }
            Phase::Stopped if board.settings.starts_at_boot() && board.starts == 0 && !board.leaving => {
                Some(format!("{} has not started yet", self.name))
            }
            _ => None,
        }
    }

    /// For how long it could have slept, if it serves and nobody uses it.
    pub fn idle_for(&self) -> Option<Duration> {
        let board = self.board();
        // Without a socket nobody could wake it again.
        let wakes = board.settings.socket.is_some();
        (wakes && board.state.serves() && board.is_idle()).then(|| board.idle_for())
    }

    /// Puts it to sleep unless a connection came first.
    pub fn sleep_if_idle(&self, rest: Rest) -> bool {
        self.update(|board| {
            let idle = board.state.serves() && board.is_idle();
            if idle {
                board.apply(Event::Rest(rest));
            }
            idle
        })
    }

    /// Waits until `holds` says something of the board.
    async fn until<T>(&self, mut holds: impl FnMut(&Board) -> Option<T>) -> T {
        loop {
            let mut changed = pin!(self.changed.notified());
            // Before the look, so that a change in between is not missed.
            changed.as_mut().enable();
            if let Some(found) = holds(&self.board()) {
                return found;
            }
            changed.await;
        }
    }

    /// Waits until it is to rest.
    async fn until_resting(&self) {
        self.until(|board| board.state.rest().map(drop)).await;
    }

    /// Waits until its state is as `holds` says.
    pub async fn until_state(&self, mut holds: impl FnMut(State) -> bool) {
        self.until(|board| holds(board.state).then_some(())).await;
    }

    /// What `GET /instances` says of it; durations in seconds, sizes in bytes.
    pub fn report(&self) -> Value {
        let board = self.board();
        let state = board.state;
        let resting = matches!(state.phase(), Phase::Stopped);
        json!({
            "name": self.name.as_str(),
            "state": name(state.phase()),
            "why": state.rest().filter(|_| resting).map(why),
            "doing": board.doing,
            "cause": board.cause,
            "pid": board.pid,
            "port": board.target.filter(|_| board.settings.has_port()).map(|target| target.port()),
            "socket": self.roots.bound.first().map(ToString::to_string),
            "home": board.settings.home.as_ref().map(|home| home.display().to_string()),
            "in_state_seconds": board.entered.elapsed().as_secs(),
            "ready_seconds": board.ready_since.map(|since| since.elapsed().as_secs()),
            "retry_in_seconds": board.retry_at.map(|at| at.saturating_duration_since(Instant::now()).as_secs()),
            "starts": board.starts,
            "failures": board.failures,
            "connections": board.open,
            "held": board.held,
            "idle_seconds": state.serves().then(|| board.idle_for().as_secs()),
            "generation": board.generation,
            "language_server": board.language_server,
            "memory_bytes": board.memory,
            "processes": board.processes,
            "lines": self.output.last(LINES_SHOWN),
        })
    }
}

/// A state's name in `status`.
pub fn name(phase: Phase) -> &'static str {
    match phase {
        Phase::Backoff => "backoff",
        Phase::Degraded => "degraded",
        Phase::Draining => "draining",
        Phase::Failed => "failed",
        Phase::Finishing => "finishing",
        Phase::Killing => "killing",
        Phase::Preparing => "preparing",
        Phase::Probing => "probing",
        Phase::Ready => "ready",
        Phase::Starting => "starting",
        Phase::Stopped => "stopped",
        Phase::Stopping => "stopping",
    }
}

fn why(rest: Rest) -> &'static str {
    match rest {
        Rest::Asked => "asked",
        Rest::Asleep => "asleep",
        Rest::Limit => "limit",
    }
}

#[cfg(test)]
mod tests;
