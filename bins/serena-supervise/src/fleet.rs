//! All instances of one supervisor: each behind its lock, with what a dead predecessor left cleared away before its
//! socket is bound (`claim`); started and stopped in the order in which they need each other. Other settings are put in
//! force in `reload`.

mod claim;
mod reload;

use std::collections::{BTreeMap, BTreeSet};
use std::os::unix::process::ExitStatusExt;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use mcp_daemon::addr::Route;
use mcp_daemon::files::LockError;
use mcp_daemon::life::Life;
use mcp_daemon::serve::{BindError, Listener};
use tokio::sync::Notify;
use tokio::task::JoinHandle;
use tokio::time::Instant;

pub use self::claim::lock_path;
use self::claim::{Claim, Going};
use crate::config::{Config, ConfigProblem, Hold, Settings};
use crate::instance::state::{Event, Phase, Rest};
use crate::instance::{Door, Fresh, Instance, Roots, actor};
use crate::places::Places;
use crate::wake;

/// What a dead predecessor left gets this long to end by itself.
const SWEEP_GRACE: Duration = Duration::from_secs(2);
/// Connections that still copy get this long once their server is gone.
const LAST_BYTES: Duration = Duration::from_secs(5);
/// Nothing is cut while its server lives.
const AS_LONG_AS_IT_TAKES: Duration = Duration::from_secs(24 * 3600);

/// How often somebody who waits hears how it goes on.
const PROGRESS: Duration = Duration::from_secs(1);

/// Why an instance cannot be had.
#[derive(Debug, thiserror::Error)]
pub enum FleetError {
    /// Its socket cannot be bound.
    #[error("instance {name}: {source}")]
    Bind {
        /// Which.
        name: Route,
        /// Why.
        source: BindError,
    },
    /// A directory it needs cannot be made.
    #[error("instance {name}: {}: {source}", path.display())]
    Directory {
        /// Which.
        name: Route,
        /// The directory.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// Another supervisor has it.
    #[error("instance {name}: {source}")]
    Lock {
        /// Which.
        name: Route,
        /// Who.
        source: LockError,
    },
    /// The settings are wrong.
    #[error(transparent)]
    Problem(#[from] ConfigProblem),
    /// Too late for a reload.
    #[error("the supervisor is stopping")]
    Stopping,
}

/// Where settings come from, at the start and at every reload.
pub type Source = Box<dyn Fn() -> Result<Config, ConfigProblem> + Send + Sync>;

/// All instances.
pub struct Fleet {
    life: Life,
    places: Arc<Places>,
    runtime: PathBuf,
    source: Source,
    /// What a reload cannot put in force, as it was at the start.
    fixed: reload::Fixed,
    members: Mutex<BTreeMap<Route, Member>>,
    /// Inherited sockets, which a process can take only once: for whichever instance has them next.
    inherited: Mutex<BTreeMap<String, Vec<Listener>>>,
    /// One reload at a time.
    reloading: tokio::sync::Mutex<()>,
}

struct Member {
    instance: Arc<Instance>,
    settings: Settings,
    /// That of its socket, as long as there is this socket.
    hold: Hold,
    /// Ends the accepting, and waits for the copying.
    doors: Life,
    actor: Option<JoinHandle<()>>,
    claim: Claim,
}

impl Fleet {
    /// Locks, sweeps and binds everything; nothing is started yet. `source` gives the settings anew at a reload; `runtime`
    /// is where instances without a home are locked.
    pub async fn new(
        config: Config,
        source: Source,
        runtime: PathBuf,
        life: Life,
    ) -> Result<Arc<Self>, FleetError> {
        let fleet = Arc::new(Self {
            life,
            places: Places::new(config.max_instances.get()),
            runtime,
            source,
            fixed: reload::fixed(&config),
            members: Mutex::default(),
            inherited: Mutex::default(),
            reloading: tokio::sync::Mutex::default(),
        });
        let instances = config.instances()?;
        for (name, settings, claim) in fleet.claim(instances, Going::default()).await? {
            let member = fleet.make(&config, &name, settings, claim);
            fleet.members().insert(name, member);
        }
        Ok(fleet)
    }

    fn members(&self) -> MutexGuard<'_, BTreeMap<Route, Member>> {
        self.members.lock().expect("no panic while locked")
    }

    /// The instance of this name.
    pub fn find(&self, name: &str) -> Option<Arc<Instance>> {
        self.members().iter().find(|(known, _)| known.as_str() == name).map(|(_, one)| one.instance.clone())
    }

    /// All instances by name.
    pub fn all(&self) -> Vec<Arc<Instance>> {
        self.members().values().map(|member| member.instance.clone()).collect()
    }

    fn make(&self, config: &Config, name: &Route, settings: Settings, mut claim: Claim) -> Member {
        let places = (!config.instance.contains_key(name.as_str())).then(|| self.places.clone());
        let quiet = places.as_ref().map_or_else(|| Arc::new(Notify::new()), |places| places.quiet());
        let listeners = std::mem::take(&mut claim.served);
        let bound = listeners.iter().map(Listener::local).collect();
        let roots = Roots { owner: claim.owner.clone(), runtime: self.runtime.clone(), bound };
        let instance = Instance::new(name.clone(), roots, settings.clone(), fresh(config), quiet);
        if let Some(places) = &places {
            places.enter(&instance);
        }
        let doors = Life::new(AS_LONG_AS_IT_TAKES);
        let hold = settings.hold.clone();
        for listener in listeners {
            let (door, hold, life) = (Arc::new(Door(instance.clone())), hold.clone(), doors.clone());
            doors.spawn(async move { wake::serve(listener, door, &hold, life).await });
        }
        let actor = self.life.spawn(actor::run(instance.clone(), places, self.life.clone()));
        Member { instance, settings, hold, doors, actor: Some(actor), claim }
    }

    /// Starts what starts with the supervisor, each after those it needs.
    pub fn boot(self: &Arc<Self>) {
        for instance in self.all() {
            if instance.settings().starts_at_boot() {
                self.boot_one(instance);
            }
        }
    }

    fn boot_one(self: &Arc<Self>, instance: Arc<Instance>) {
        let fleet = self.clone();
        self.life.spawn(async move {
            tokio::select! {
                () = fleet.until_needed_serve(&instance) => {}
                () = fleet.life.draining() => return,
            }
            // Whoever was stopped meanwhile, or is gone, was not told to start.
            if instance.state().rest() != Some(Rest::Asked) {
                instance.tell(Event::Wake);
            }
        });
    }

    /// Waits for all that the instance needs, as far as they start with the supervisor: each until it serves for the first
    /// time, or until it is clear that it will not.
    async fn until_needed_serve(&self, instance: &Instance) {
        let mut waited: Vec<Arc<Instance>> = Vec::new();
        loop {
            // A reload may put another one in the place of one that goes: it is looked for anew, and not half-way.
            drop(self.reloading.lock().await);
            let after = &instance.settings().after;
            let mut needed = after.iter().filter_map(|name| self.find(name));
            let next = needed.find(|one| {
                one.settings().starts_at_boot() && !waited.iter().any(|known| Arc::ptr_eq(known, one))
            });
            let Some(next) = next else { return };
            next.until_state(|state| {
                // What has failed for good, or is not to run, does not keep others from serving.
                state.serves() || state.phase() == Phase::Failed || state.rest() == Some(Rest::Asked)
            })
            .await;
            waited.push(next);
        }
    }

    /// Why not everything is as it should be: what starts with the supervisor is not up, or something failed.
    pub fn complaints(&self) -> Vec<String> {
        self.all().iter().filter_map(|instance| instance.complaint()).collect()
    }

    /// Waits until everything that starts with the supervisor is up, or has failed too often and is none of `needed`;
    /// `progress` hears, at every change and every second, what is waited for.
    pub async fn until_up(&self, needed: &[&str], progress: impl Fn(&Instance)) {
        let is_spared =
            |one: &Instance| one.state().phase() == Phase::Failed && !needed.contains(&one.name.as_str());
        loop {
            let mut missing: Vec<Arc<Instance>> = self
                .all()
                .into_iter()
                .filter(|one| one.settings().starts_at_boot() && !one.state().serves())
                .filter(|one| one.state().rest() != Some(Rest::Asked) && !is_spared(one))
                .collect();
            // Those first that others wait for.
            missing.sort_by_key(|instance| instance.settings().after.len());
            let Some(instance) = missing.first() else { return };
            let before = instance.state();
            progress(instance);
            let _every_second =
                tokio::time::timeout(PROGRESS, instance.until_state(|state| state != before)).await;
            progress(instance);
        }
    }

    /// Stops everything, what needs others first.
    pub async fn stop(&self) {
        // A reload that goes on is waited for, and a later one is refused.
        let _last = self.reloading.lock().await;
        let all = self.members().keys().cloned().collect();
        self.end(all).await;
    }

    /// Stops these, what needs others of them first; returns when no process of theirs is left and no connection. Until then
    /// they are listed.
    async fn end(&self, names: BTreeSet<Route>) {
        let mut left = names;
        while !left.is_empty() {
            let needed: BTreeSet<String> = {
                let members = self.members();
                let needs = left.iter().filter_map(|name| members.get(name));
                needs.flat_map(|member| member.settings.after.iter().cloned()).collect()
            };
            let (mut layer, mut rest): (BTreeSet<Route>, BTreeSet<Route>) =
                left.into_iter().partition(|name| !needed.contains(name.as_str()));
            if layer.is_empty() {
                // Who needs each other in a circle stops together.
                std::mem::swap(&mut layer, &mut rest);
            }
            self.end_at_once(&layer).await;
            left = rest;
        }
    }

    async fn end_at_once(&self, names: &BTreeSet<Route>) {
        let mut actors = Vec::new();
        {
            let mut members = self.members();
            for name in names {
                let Some(member) = members.get_mut(name) else { continue };
                // Nobody must find a file behind which nothing listens.
                member.claim.close();
                member.doors.drain();
                member.instance.leave();
                actors.extend(member.actor.take().map(|actor| (name.clone(), actor)));
            }
        }
        for (name, actor) in actors {
            if let Err(error) = actor.await {
                log::error!(instance = name.as_str(), error:% = error; "an actor did not end by itself");
            }
        }
        let deadline = Instant::now() + LAST_BYTES;
        for name in names {
            let Some(member) = self.members().remove(name) else { continue };
            member.doors.finish_by(deadline).await;
        }
    }

    /// What the only instance's main process ended with, as a shell would say it; a stop on request is 0.
    pub fn exit_code(instance: &Instance) -> Option<u8> {
        const ASKED: [i32; 2] = [nix::libc::SIGINT, nix::libc::SIGTERM];
        let exit = instance.exit()?;
        match (exit.code(), exit.signal()) {
            (Some(code), _) => u8::try_from(code).ok(),
            (None, Some(signal)) if ASKED.contains(&signal) => Some(0),
            (None, signal) => u8::try_from(128 + signal?).ok(),
        }
    }
}

fn fresh(config: &Config) -> Fresh {
    Fresh {
        generation: config.generation.clone().unwrap_or_default(),
        deadline: config.generation_deadline.duration(),
    }
}
