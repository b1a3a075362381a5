//! What a command has to go by: flags, settings, environment, and the daemon if one serves this home.

use std::future::Future;
use std::sync::Arc;

use mcp_daemon::exit::{Exit, Failure};
use mcp_daemon::terminal;
use snapshotd::config::{Config, Env, Flags, Named, Plan};
use snapshotd::engine::{Engine, EngineError, Reader};
use snapshotd::progress::Progress;
use snapshotd::report;
use snapshotd::settings::Settings;
use snapshotd::store::Store;
use tokio::time::{Duration, interval};

use super::{boxed, wrong};
use crate::asking::{self, Daemon};
use crate::render;

/// How often progress is shown.
const LOOK: Duration = Duration::from_millis(250);

/// What a command has to go by.
pub struct Around {
    /// The command line.
    pub flags: Flags,
    /// What was named on purpose.
    pub named: Named,
    config: Config,
    env: Env,
}

/// What a command needs to work alone.
pub struct Alone {
    /// For the engine.
    pub settings: Settings,
    /// Where snapshots are kept.
    pub store: Store,
    /// All the rest.
    pub plan: Plan,
}

impl Around {
    /// Reads the settings and the environment.
    pub fn of(flags: Flags) -> Result<Self, Failure> {
        let env = Env::of_process().map_err(|problem| wrong(&problem))?;
        let config = Config::load(flags.config.as_deref()).map_err(|problem| wrong(&problem))?;
        let named = config.named(&flags, &env);
        Ok(Around { flags, named, config, env })
    }

    /// Why nothing is to be done.
    pub fn off(&self) -> Option<String> {
        self.config.off(&self.flags, &self.env)
    }

    /// Whether not to know what is in the store is worth another try: by a flag, the file or the environment.
    pub fn is_strict(&self) -> bool {
        self.config.is_strict(&self.flags, &self.env)
    }

    /// Why nothing is to be done without a daemon.
    pub fn off_alone(&self) -> Option<String> {
        self.config.lacks_key(&self.flags, &self.env)
    }

    /// A failure where nothing is to be done.
    pub fn must_be_on(&self) -> Result<(), Failure> {
        match self.off() {
            None => Ok(()),
            Some(why) => Err(Failure { line: format!("snapshots are off: {why}"), exit: Exit::Config }),
        }
    }

    /// The daemon that serves this home.
    pub async fn daemon(&self) -> Result<Option<Daemon>, Failure> {
        asking::find(&self.flags, &self.named).await
    }

    /// The settings, put together.
    pub fn plan(&self) -> Result<Plan, Failure> {
        self.config.plan(&self.flags, &self.env).map_err(|problem| wrong(&problem))
    }

    /// All that is needed without a daemon.
    pub fn alone(&self) -> Result<Alone, Failure> {
        let plan = self.plan()?;
        let (settings, store) = plan.connect().map_err(|problem| wrong(&problem))?;
        Ok(Alone { settings, store, plan })
    }

    /// The same, for a command that only reads: what was not named is taken from the daemon that runs.
    pub async fn reading(mut self) -> Result<Alone, Failure> {
        self.must_be_on()?;
        if self.named.partition.is_none()
            && let Some(daemon) = self.daemon().await?
        {
            self.flags.partition = daemon.status["partition"].as_str().and_then(|name| name.parse().ok());
            if self.named.store.is_none() {
                self.flags.store = daemon.status["store"].as_str().and_then(|store| store.parse().ok());
            }
        }
        self.alone()
    }
}

impl Alone {
    /// The home's engine, with its lock.
    pub fn engine(&self) -> Result<Engine, Failure> {
        self.plan.make_directories().map_err(|problem| wrong(&problem))?;
        Engine::open(self.settings.clone(), self.store.clone()).map_err(|error| Failure::from(&error))
    }

    /// For what only reads.
    pub fn reader(&self) -> Reader {
        Reader::new(self.store.clone(), self.settings.seal.clone())
    }

    /// A failure that names the partitions there are, where this one is not among them; else the error itself.
    pub async fn explain(&self, error: &EngineError) -> Failure {
        if matches!(error, EngineError::NoSuchSnapshot(_))
            && let Some(failure) = self.is_unknown().await
        {
            return failure;
        }
        Failure::from(error)
    }

    /// A failure that names the partitions there are, if this one is not among them.
    pub async fn is_unknown(&self) -> Option<Failure> {
        let partition = &self.settings.partition;
        let all = self.store.partitions().await.ok()?;
        if all.iter().any(|name| name == partition.as_str()) {
            return None;
        }
        let there = match all.is_empty() {
            true => "there is none at all".to_owned(),
            false => format!("there are: {}", all.join(", ")),
        };
        let line = format!("there is no partition `{partition}` in {}; {there}", self.plan.location);
        Some(Failure { line, exit: Exit::Unavailable })
    }
}

/// Shows how far it is until the work is done.
pub async fn shown<T>(progress: &Arc<Progress>, work: impl Future<Output = T>) -> T {
    let mut line = terminal::Progress::stderr();
    let mut work = boxed(work);
    let mut looks = interval(LOOK);
    loop {
        tokio::select! {
            biased;
            done = &mut work => {
                line.clear();
                return done;
            }
            _ = looks.tick() => render::show_progress(&mut line, &report::progress(progress)),
        }
    }
}
