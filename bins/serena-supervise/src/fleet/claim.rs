//! What one instance alone has: its home, by a lock, and its socket. An instance that goes still has both while they are
//! handed on to the one that takes its place: so nothing can fail any more once the first is being stopped, nobody comes in
//! between, and whoever connects meanwhile waits.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use mcp_daemon::addr::{Listen, Route};
use mcp_daemon::files::{Lock, beside, real};
use mcp_daemon::serve::{BindError, BindOptions, Listener};
use mcp_daemon::tree::{self, Swept};

use super::{Fleet, FleetError, SWEEP_GRACE};
use crate::config::Settings;

/// What an instance has.
pub(super) struct Claim {
    /// By which name what it leaves behind is found.
    pub(super) owner: String,
    lock: Arc<Lock>,
    /// Its socket, for whoever takes its place.
    sockets: Vec<Listener>,
    /// The same to be served, until it is.
    pub(super) served: Vec<Listener>,
}

impl Claim {
    /// Lets the socket go, as far as it was not handed on.
    pub(super) fn close(&mut self) {
        self.sockets.clear();
        self.served.clear();
    }
}

/// What those have who are going: by its owner and by its address, and for one newcomer each.
#[derive(Default)]
pub(super) struct Going {
    locks: BTreeMap<String, Arc<Lock>>,
    sockets: BTreeMap<String, Vec<Listener>>,
}

impl Going {
    /// What this one has, too.
    pub(super) fn add(&mut self, name: &Route, settings: &Settings, claim: &Claim) -> Result<(), FleetError> {
        self.locks.insert(claim.owner.clone(), claim.lock.clone());
        if let Some(socket) = &settings.socket {
            self.sockets.insert(socket.to_string(), again(name, socket, &claim.sockets)?);
        }
        Ok(())
    }
}

impl Fleet {
    /// Locks, sweeps and binds for all of these or, with an error, for none.
    pub(super) async fn claim(
        &self,
        wanted: Vec<(Route, Settings)>,
        mut going: Going,
    ) -> Result<Vec<(Route, Settings, Claim)>, FleetError> {
        let (mut locked, mut new) = (Vec::new(), Vec::new());
        for (name, settings) in wanted {
            let path = self.lock_path(&name, &settings)?;
            let owner = path.display().to_string();
            let lock = match going.locks.remove(&owner) {
                Some(lock) => lock,
                None => {
                    let failed = |source| FleetError::Lock { name: name.clone(), source };
                    let lock = Lock::take_meanwhile(&path).await.map_err(failed)?;
                    new.push(owner.clone());
                    Arc::new(lock)
                }
            };
            locked.push((name, settings, owner, lock));
        }
        sweep(&new).await;
        let mut claimed = Vec::new();
        for (name, settings, owner, lock) in locked {
            let mut claim = Claim { owner, lock, sockets: Vec::new(), served: Vec::new() };
            if let Some(socket) = &settings.socket {
                claim.sockets = match going.sockets.remove(&socket.to_string()) {
                    Some(sockets) => sockets,
                    None => self.bind(&name, socket)?,
                };
                claim.served = again(&name, socket, &claim.sockets)?;
            }
            claimed.push((name, settings, claim));
        }
        Ok(claimed)
    }

    /// Where an instance's lock is, in a directory that exists.
    fn lock_path(&self, name: &Route, settings: &Settings) -> Result<PathBuf, FleetError> {
        if let Some(home) = &settings.home {
            make_parent(name, home)?;
        }
        Ok(lock_path(&self.runtime, name, settings))
    }

    fn bind(&self, name: &Route, socket: &Listen) -> Result<Vec<Listener>, FleetError> {
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
        again(name, socket, &inherited[passed])
    }
}

fn again(name: &Route, socket: &Listen, sockets: &[Listener]) -> Result<Vec<Listener>, FleetError> {
    let again = sockets.iter().map(Listener::again).collect::<Result<_, _>>();
    again.map_err(|cause| FleetError::Bind {
        name: name.clone(),
        source: BindError::System { listen: socket.clone(), cause },
    })
}

/// The lock of an instance: beside its home, by whichever way that is named.
pub fn lock_path(runtime: &Path, name: &Route, settings: &Settings) -> PathBuf {
    match &settings.home {
        Some(home) => beside(&real(home), "supervise.lock"),
        None => runtime.join(format!("{name}.supervise.lock")),
    }
}

/// Clears away what dead predecessors left; all at once, because each may be stubborn.
async fn sweep(owners: &[String]) {
    if owners.is_empty() {
        return;
    }
    let Swept { ended, left } = tree::sweep(owners, SWEEP_GRACE).await;
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
