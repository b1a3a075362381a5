//! The supervisor itself: binds, starts, tells when everything is up, and stops it all again.

use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use mcp_daemon::control;
use mcp_daemon::exit::{Exit, Failure};
use mcp_daemon::life::{self, Life};
use mcp_daemon::log;
use mcp_daemon::{fds, files};
use nix::sys::signal::Signal;
use supervise::config::Config;
use supervise::fleet::{Fleet, FleetError, Source};
use supervise::instance::state::Phase;
use supervise::instance::{Instance, name};
use supervise::ops::Ops;
use supervise::output;

use tokio::signal::unix::{SignalKind, signal};
use tokio::time::{Instant, interval, sleep};

use crate::commands::Done;

/// Our name on the command line, in logs and in directories.
pub const DAEMON: &str = "serena-supervise";
/// How often a start that takes long is reported to the service manager.
const STILL_STARTING: Duration = Duration::from_secs(5);
/// At most one look for ended orphans in this time.
const REAP_EVERY: Duration = Duration::from_millis(200);
/// How long what is to be printed may take to be printed at the end.
const LAST_LINES: Duration = Duration::from_secs(1);

/// What is served.
pub struct Serving {
    /// The settings.
    pub config: Config,
    /// The same again, at a reload.
    pub source: Source,
    /// What the control socket is called where the usual one is another supervisor's; the first instance's name unless given.
    pub name: Option<String>,
    /// Where to say that all is up.
    pub ready_fd: Option<i32>,
    /// Somebody at a terminal.
    pub told: Option<Told>,
}

/// What is said to somebody at a terminal.
pub struct Told {
    /// While things start.
    pub progress: Box<dyn Fn(&Instance) + Send + Sync>,
    /// Instances that are waited for even when they have failed too often.
    pub needed: &'static [&'static str],
    /// Once they are up.
    pub up: Box<dyn Fn(&Fleet) + Send + Sync>,
}

/// Serves until it is told to stop.
pub fn serve(serving: Serving) -> Done {
    fds::raise_limit();
    // Whoever watches a start at a terminal reads the progress, and asks for the rest.
    let default = if serving.told.is_some() { "warn" } else { "info" };
    if serving.told.is_some() {
        output::hide_servers();
    }
    log::init_through(DAEMON, default, output::log_sink());
    let done = run(serving);
    output::flush(LAST_LINES);
    done
}

fn run(serving: Serving) -> Done {
    let runtime = life::runtime().map_err(|error| Failure::new(Exit::Bug, &error))?;
    runtime.block_on(async move {
        let Serving { config, source, name: own_name, ready_fd, told } = serving;
        let life = Life::with_signals(config.grace.duration()).map_err(|error| Failure::new(Exit::Bug, &error))?;
        let runtime_dir = files::runtime_dir(DAEMON).map_err(|error| Failure::new(Exit::Config, &error))?;
        let observe = config.observe.clone();
        let fleet = Fleet::new(config, source, runtime_dir, life.clone()).await.map_err(|error| explain(&error))?;
        let ops = Arc::new(Ops { fleet: fleet.clone(), started: Instant::now(), life: life.clone() });
        let all = fleet.all();
        let first = || all.first().map(|one| one.name.to_string()).unwrap_or_default();
        let control = control::spawn_named(DAEMON, &own_name.unwrap_or_else(first), ops.clone(), life.clone())
            .map_err(|error| Failure::unavailable(&error))?;
        if let Some(observe) = observe {
            control::spawn_observe(&observe, ops.clone(), life.clone())
                .map_err(|error| Failure::unavailable(&error))?;
        }
        life.spawn(control::reload_on_signal(ops, life.clone()));
        // To the end: what is being stopped leaves orphans, too.
        life.last().spawn(reap(life.last()));
        forward(&fleet, &life).map_err(|error| Failure::new(Exit::Bug, &error))?;
        ::log::info!(instances = all.len(), kills_by:% = mcp_daemon::tree::mechanism(), control:% = control.display(); "supervising");
        fleet.boot();
        tokio::select! {
            () = until_up(&fleet, &life, told.as_ref()) => {
                if let Some(told) = &told {
                    (told.up)(&fleet);
                }
                life.ready(&summary(&fleet.all()), ready_fd);
            }
            () = life.draining() => {}
        }
        life.draining().await;
        ::log::info!("stopping everything");
        fleet.stop().await;
        life.finish().await;
        ::log::info!("stopped");
        Ok(exit_code(&all))
    })
}

fn explain(error: &FleetError) -> Failure {
    let exit = match error {
        FleetError::Bind { .. } | FleetError::Lock { .. } | FleetError::Stopping => Exit::Unavailable,
        FleetError::Directory { .. } | FleetError::Problem(_) => Exit::Config,
    };
    Failure::new(exit, error)
}

/// How many there are, and which have failed.
fn summary(all: &[Arc<Instance>]) -> String {
    let failed = all.iter().filter(|one| one.state().phase() == Phase::Failed);
    let failed: Vec<&str> = failed.map(|one| one.name.as_str()).collect();
    let failed = if failed.is_empty() { String::new() } else { format!(", failed: {}", failed.join(", ")) };
    format!("{} instances{failed}", all.len())
}

/// Waits until everything that starts with us is up or has failed too often, which one broken server does not keep the
/// others from; meanwhile tells whoever manages us that we are not stuck.
async fn until_up(fleet: &Arc<Fleet>, life: &Life, told: Option<&Told>) {
    let mut report = interval(STILL_STARTING);
    let needed = told.map_or(&[][..], |told| told.needed);
    let up = fleet.until_up(needed, |instance| {
        if let Some(told) = told {
            (told.progress)(instance);
        }
    });
    tokio::pin!(up);
    loop {
        tokio::select! {
            () = &mut up => return,
            _ = report.tick() => {
                let all = fleet.all();
                let states: Vec<String> =
                    all.iter().map(|one| format!("{} {}", one.name, name(one.state().phase()))).collect();
                life.still_starting(&states.join(", "), STILL_STARTING * 4);
            }
        }
    }
}

/// Reaps what came to us because its parent ended: as the first process of a container, and as a subreaper.
async fn reap(life: Life) {
    let Ok(mut ended) = signal(SignalKind::child()) else { return };
    loop {
        let storm = async {
            ended.recv().await;
            // A storm of exits is one look.
            sleep(REAP_EVERY).await;
        };
        tokio::select! {
            () = storm => mcp_daemon::tree::reap_orphans(),
            () = life.draining() => return,
        }
    }
}

/// Hands on to the servers the signals that mean nothing to us.
fn forward(fleet: &Arc<Fleet>, life: &Life) -> std::io::Result<()> {
    for (kind, number) in
        [(SignalKind::user_defined1(), Signal::SIGUSR1), (SignalKind::user_defined2(), Signal::SIGUSR2)]
    {
        let mut heard = signal(kind)?;
        let (fleet, life) = (fleet.clone(), life.clone());
        life.clone().spawn(async move {
            loop {
                tokio::select! {
                    _ = heard.recv() => {}
                    () = life.draining() => return,
                }
                for instance in fleet.all() {
                    instance.signal(number);
                }
            }
        });
    }
    Ok(())
}

/// As the first process of a container we end as our server did; everywhere else a stop that worked is a success.
fn exit_code(all: &[Arc<Instance>]) -> ExitCode {
    match all {
        [only] if std::process::id() == 1 => Fleet::exit_code(only).map_or(ExitCode::SUCCESS, ExitCode::from),
        _ => ExitCode::SUCCESS,
    }
}
