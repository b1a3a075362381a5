//! The daemon: settings that can be made again, the log, and a runtime until it is told to stop.

use std::process::ExitCode;
use std::sync::Arc;

use mcp_daemon::exit::{Exit, Failure};
use mcp_daemon::life::{self, Life};
use mcp_daemon::log;
use snapshotd::config::{Config, Env, Flags};
use snapshotd::daemon::{self, Serving, Source};
use tokio::time::Duration;

use crate::args::Run;
use crate::commands::{Done, wrong};
use snapshotd::config::DAEMON;

/// After the last snapshot there is little to do.
const GRACE: Duration = Duration::from_secs(5);
/// How long reading and packing on other threads may take to notice that it is called off.
const LAST_THREADS: Duration = Duration::from_secs(2);

/// Serves until it is told to stop.
pub fn serve(run: Run) -> Done {
    let mut flags = run.flags();
    flags.interval = run.interval;
    flags.observe = run.observe.clone();
    let env = Env::of_process().map_err(|problem| wrong(&problem))?;
    let config = Config::load(flags.config.as_deref()).map_err(|problem| wrong(&problem))?;
    log::init(DAEMON);
    let runtime = life::runtime().map_err(|error| Failure::new(Exit::Bug, &error))?;
    let control = flags.control.clone();
    let done = runtime.block_on(async {
        if let Some(why) = config.off(&flags, &env).or_else(|| config.lacks_key(&flags, &env)) {
            let life = Life::with_signals(GRACE).map_err(|error| Failure::new(Exit::Bug, &error))?;
            return daemon::idle(why, control, run.ready_fd, life).await;
        }
        let plan = config.plan(&flags, &env).map_err(|problem| wrong(&problem))?;
        let grace = plan.shutdown_deadline + GRACE;
        let life = Life::with_signals(grace).map_err(|error| Failure::new(Exit::Bug, &error))?;
        let source = source(flags.clone(), env.clone());
        daemon::run(Serving { plan, source, control, ready_fd: run.ready_fd }, life).await
    });
    runtime.shutdown_timeout(LAST_THREADS);
    done.map(|()| ExitCode::SUCCESS)
}

fn source(flags: Flags, env: Env) -> Source {
    Arc::new(move || Config::load(flags.config.as_deref())?.plan(&flags, &env))
}
