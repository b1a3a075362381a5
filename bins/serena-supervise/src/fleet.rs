//! All instances of one supervisor: each behind its lock, with what a dead predecessor left cleared away before its
//! socket is bound; started and stopped in the order in which they need each other. Other settings are put in force in
//! `reload`.

mod reload;

use std::collections::{BTreeMap, BTreeSet};
use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use mcp_daemon::addr::{Listen, Route};
use mcp_daemon::files::{Lock, LockError};
use mcp_daemon::life::Life;
use mcp_daemon::serve::{BindError, BindOptions, Listener};
use mcp_daemon::tree::{self, Swept};
use tokio::sync::Notify;
use tokio::task::JoinHandle;

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
    /// With the name by which what it leaves is found.
    lock: Option<(Lock, String)>,
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
        let mut locked = Vec::new();
        for (name, settings) in config.instances()? {
            let (lock, owner) = fleet.lock(&name, &settings)?;
            locked.push((name, settings, lock, owner));
        }
        sweep(locked.iter().map(|(_, _, _, owner)| owner.clone()).collect()).await;
        for (name, settings, lock, owner) in locked {
            let listeners = fleet.bind(&name, settings.socket.as_ref())?;
            let member = fleet.make(&config, &name, settings, (lock, owner), listeners);
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

    /// Where an instance's lock is, in a directory that exists: before it does, a link on the way there goes unnoticed.
    fn lock_path(&self, name: &Route, settings: &Settings) -> Result<PathBuf, FleetError> {
        if let Some(home) = &settings.home {
            make_parent(name, home)?;
        }
        Ok(lock_path(&self.runtime, name, settings))
    }

    /// An instance's lock, and by which name what a dead predecessor left is found.
    fn lock(&self, name: &Route, settings: &Settings) -> Result<(Lock, String), FleetError> {
        let path = self.lock_path(name, settings)?;
        let lock = Lock::take(&path).map_err(|source| FleetError::Lock { name: name.clone(), source })?;
        Ok((lock, owner(&path)))
    }

    fn bind(&self, name: &Route, socket: Option<&Listen>) -> Result<Vec<Listener>, FleetError> {
        let Some(socket) = socket else { return Ok(Vec::new()) };
        if let Listen::Unix(path) = socket {
            make_parent(name, path)?;
        }
        let failed = |source| FleetError::Bind { name: name.clone(), source };
        let Listen::Inherited(passed) = socket else {
            return Listener::bind(socket, BindOptions::default()).map_err(failed);
        };
        let mut inherited = self.inherited.lock().expect("no panic while locked");
        if !inherited.contains_key(passed) {
            let listeners = Listener::bind(socket, BindOptions::default()).map_err(failed)?;
            inherited.insert(passed.clone(), listeners);
        }
        let again = inherited[passed].iter().map(Listener::again).collect::<Result<_, _>>();
        again.map_err(|cause| failed(BindError::System { listen: socket.clone(), cause }))
    }

    fn make(
        &self,
        config: &Config,
        name: &Route,
        settings: Settings,
        (lock, owner): (Lock, String),
        listeners: Vec<Listener>,
    ) -> Member {
        let places = (!config.instance.contains_key(name.as_str())).then(|| self.places.clone());
        let quiet = places.as_ref().map_or_else(|| Arc::new(Notify::new()), |places| places.quiet());
        let bound = listeners.iter().map(Listener::local).collect();
        let roots = Roots { owner: owner.clone(), runtime: self.runtime.clone(), bound };
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
        let lock = Some((lock, owner));
        Member { instance, settings, hold, doors, actor: Some(actor), lock }
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
            for needed in &instance.settings().after {
                if let Some(needed) = fleet.find(needed).filter(|needed| needed.settings().starts_at_boot()) {
                    tokio::select! {
                        // What has failed for good does not keep others from serving.
                        () = needed.until_state(|state| state.serves() || state.phase() == Phase::Failed) => {}
                        () = fleet.life.draining() => return,
                    }
                }
            }
            // Whoever was stopped meanwhile, or is gone, was not told to start.
            if instance.state().rest() != Some(Rest::Asked) {
                instance.tell(Event::Wake);
            }
        });
    }

    /// Why not everything is as it should be: what starts with the supervisor is not up, or something failed.
    pub fn complaints(&self) -> Vec<String> {
        self.all().iter().filter_map(|instance| instance.complaint()).collect()
    }

    /// Waits until everything that starts with the supervisor is up; `progress` hears, at every change and every
    /// second, what is waited for.
    pub async fn until_up(&self, progress: impl Fn(&Instance)) {
        loop {
            let mut missing: Vec<Arc<Instance>> = self
                .all()
                .into_iter()
                .filter(|one| one.settings().starts_at_boot() && !one.state().serves())
                .filter(|one| one.state().rest() != Some(Rest::Asked))
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
        loop {
            let needed: BTreeSet<String> =
                self.members().values().flat_map(|member| member.settings.after.iter().cloned()).collect();
            let all: Vec<Route> = self.members().keys().cloned().collect();
            let free: Vec<Route> =
                all.iter().filter(|name| !needed.contains(name.as_str())).cloned().collect();
            // Who needs each other in a circle stops together.
            let layer = if free.is_empty() { all } else { free };
            if layer.is_empty() {
                return;
            }
            let _free_now = self.end(&layer).await;
        }
    }

    /// Stops these, at once; returns when no process of theirs is left and no connection. Until then they are listed. The
    /// lock of the last one, for whoever takes its place.
    async fn end(&self, names: &[Route]) -> Option<(Lock, String)> {
        let mut actors = Vec::new();
        {
            let mut members = self.members();
            for name in names {
                let Some(member) = members.get_mut(name) else { continue };
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
        let mut lock = None;
        for name in names {
            let Some(member) = self.members().remove(name) else { continue };
            let _ = tokio::time::timeout(LAST_BYTES, member.doors.finish()).await;
            lock = member.lock;
        }
        lock
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

/// The lock of an instance: beside its home, never in it, because a restored home is swapped in whole.
pub fn lock_path(runtime: &Path, name: &Route, settings: &Settings) -> PathBuf {
    let beside = |home: &Path| {
        // By whichever way it is named, it is one home.
        let home = real(home);
        let mut file = home.file_name()?.to_owned();
        file.push(".supervise.lock");
        Some(home.with_file_name(file))
    };
    let home = settings.home.as_deref().and_then(beside);
    home.unwrap_or_else(|| runtime.join(format!("{name}.supervise.lock")))
}

/// A path as the system spells it; all but its last part must be there.
pub(crate) fn real(path: &Path) -> PathBuf {
    let beside = || Some(path.parent()?.canonicalize().ok()?.join(path.file_name()?));
    path.canonicalize().ok().or_else(beside).unwrap_or_else(|| path.to_owned())
}

/// By which name what is left of the instance with this lock is found.
fn owner(lock: &Path) -> String {
    lock.display().to_string()
}

fn fresh(config: &Config) -> Fresh {
    Fresh {
        generation: config.generation.clone().unwrap_or_default(),
        deadline: config.generation_deadline.duration(),
    }
}

/// Clears away what dead predecessors left; all at once, because each may be stubborn.
async fn sweep(owners: Vec<String>) {
    let Swept { ended, left } = tree::sweep(&owners, SWEEP_GRACE).await;
    if !ended.is_empty() {
        log::warn!(pids:? = ended; "a predecessor had left processes, they are gone now");
    }
    if !left.is_empty() {
        // To wait on would keep the others from being served.
        log::error!(pids:? = left; "a predecessor had left processes that outlive SIGKILL, they may still use its home");
    }
}

fn make_parent(name: &Route, path: &Path) -> Result<(), FleetError> {
    let Some(parent) = path.parent() else { return Ok(()) };
    std::fs::create_dir_all(parent).map_err(|source| FleetError::Directory {
        name: name.clone(),
        path: parent.to_owned(),
        source,
    })
}
