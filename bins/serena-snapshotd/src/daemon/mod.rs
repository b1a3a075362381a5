//! The daemon: restores an empty home, then keeps taking snapshots, and answers on its control socket.
//!
//! One `actor` owns the engine and does one thing after another; `schedule` says when, `ops` passes on what is asked,
//! and `state` is what everybody may see. [`run`] puts them together.

mod actor;
mod after;
mod jobs;
mod metrics;
mod ops;
mod perform;
mod query;
mod schedule;
mod settle;
mod state;

use std::path::PathBuf;
use std::sync::Arc;

use mcp_daemon::control::{self, Controlled};
use mcp_daemon::exit::{Exit, Failure};
use mcp_daemon::life::Life;
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::mpsc;
use tokio::time::{Duration, Instant, interval};

use self::actor::{Actor, Over};
use self::jobs::MAX_WAITING;
use self::metrics::Metrics;
use self::ops::{Off, Ops};
use self::state::State;
use crate::config::{ConfigProblem, DAEMON, Plan};
use crate::engine::{Engine, EngineError, Standing};

/// How often a start that takes long is reported to the service manager.
const STILL_STARTING: Duration = Duration::from_secs(5);

/// Makes the settings again, at a reload.
pub type Source = Arc<dyn Fn() -> Result<Plan, ConfigProblem> + Send + Sync>;

/// What is served.
pub struct Serving {
    /// The settings.
    pub plan: Plan,
    /// The same again.
    pub source: Source,
    /// Where the control socket is to be, if not at the usual place.
    pub control: Option<PathBuf>,
    /// Where to say that we are ready.
    pub ready_fd: Option<i32>,
}

/// Serves until it is told to stop; a failure says why it could not start, or why there is no last snapshot.
pub async fn run(serving: Serving, life: Life) -> Result<(), Failure> {
    let Serving { plan, source, control, ready_fd } = serving;
    let wanted = usr1()?;
    plan.make_directories().map_err(|problem| Failure::new(Exit::Config, &problem))?;
    let (settings, store) = plan.connect().map_err(|problem| Failure::new(Exit::Config, &problem))?;
    let engine = Engine::open(settings, store).map_err(|error| Failure::from(&error))?;
    let plan = Arc::new(plan);
    let (state, metrics) = (Arc::new(State::default()), Arc::new(Metrics::new()));
    let (send, jobs) = mpsc::channel(MAX_WAITING);
    let ops = Arc::new(Ops {
        state: Arc::clone(&state),
        metrics: Arc::clone(&metrics),
        jobs: send,
        reader: engine.reader(),
        plan: Arc::clone(&plan),
        source,
        started: Instant::now(),
        life: life.clone(),
    });
    let partition = plan.settings.partition.as_str().to_owned();
    let control = spawn_control(control, &partition, ops.clone(), &life)?;
    if let Some(observe) = &plan.observe {
        control::spawn_observe(observe, ops.clone(), life.clone())
            .map_err(|error| Failure::unavailable(&error))?;
    }
    life.spawn(control::reload_on_signal(ops, life.clone()));
    log::info!(home:% = plan.home().display(), store:% = plan.location, partition, interval:% = plan.interval, control:% = control.display(); "keeping snapshots");
    let mut actor =
        Actor::new(engine, Arc::clone(&plan), Arc::clone(&state), metrics, jobs, wanted, life.clone());
    let ended = match start(&mut actor, &state, &life).await {
        Err(Over) => Err(stopped_too_early()),
        // Nobody may start on a home that may be an old one, or none.
        Ok(Err(error)) if plan.strict => {
            life.drain();
            Err(Failure::new(cannot_tell(&error), &error))
        }
        Ok(_) => {
            life.ready(&ready_text(&state), ready_fd);
            actor.run().await
        }
    };
    life.drain();
    life.finish().await;
    log::info!("stopped");
    ended
}

/// Does nothing but say so, until it is told to stop.
pub async fn idle(
    why: String,
    control: Option<PathBuf>,
    ready_fd: Option<i32>,
    life: Life,
) -> Result<(), Failure> {
    let _ignored = usr1()?;
    log::warn!(why; "snapshots are off: nothing is restored, stored or deleted");
    let off = Arc::new(Off { why: why.clone(), life: life.clone() });
    spawn_control(control, "off", off, &life)?;
    life.ready(&why, ready_fd);
    life.draining().await;
    life.finish().await;
    Ok(())
}

/// Asks for a snapshot. Taken first of all: without a handler it would end the process.
fn usr1() -> Result<Signal, Failure> {
    signal(SignalKind::user_defined1()).map_err(|error| Failure::new(Exit::Bug, &error))
}

/// How a start ends that failed because nobody can tell whether there is a snapshot: trying again may help, unless the
/// settings are wrong.
pub fn cannot_tell(error: &EngineError) -> Exit {
    match error.exit() {
        Exit::Config => Exit::Config,
        Exit::Bug | Exit::TryAgain | Exit::Unavailable | Exit::Usage => Exit::TryAgain,
    }
}

/// The first look at the store, while the service manager hears that it goes on.
async fn start(actor: &mut Actor, state: &State, life: &Life) -> Result<Result<(), EngineError>, Over> {
    let mut started = std::pin::pin!(actor.start());
    let mut report = interval(STILL_STARTING);
    loop {
        tokio::select! {
            done = &mut started => return done,
            _ = report.tick() => {
                let status = state.to_json();
                let doing = status["working"]["progress"]["step"].as_str().unwrap_or("asking the store");
                life.still_starting(doing, STILL_STARTING * 4);
            }
        }
    }
}

fn ready_text(state: &State) -> String {
    match state.known().standing {
        Some(Standing::Diverged | Standing::Fenced) => "this home goes to forks only".to_owned(),
        Some(Standing::Current | Standing::Empty | Standing::Fresh) => "keeping snapshots".to_owned(),
        None => "the store has not been read yet".to_owned(),
    }
}

fn stopped_too_early() -> Failure {
    Failure { line: "stopped while the home was being restored".to_owned(), exit: Exit::TryAgain }
}

fn spawn_control(
    at: Option<PathBuf>,
    name: &str,
    what: Arc<dyn Controlled>,
    life: &Life,
) -> Result<PathBuf, Failure> {
    match at {
        Some(path) => {
            control::spawn(&path, what, life.clone()).map_err(|error| Failure::unavailable(&error))?;
            Ok(path)
        }
        None => control::spawn_named(DAEMON, name, what, life.clone())
            .map_err(|error| Failure::unavailable(&error)),
    }
}
