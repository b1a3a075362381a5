//! Other settings for a fleet that runs: everything that can fail comes first, then what changes is changed.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use mcp_daemon::addr::{Listen, Route};
use mcp_daemon::files::Lock;
use mcp_daemon::serve::Listener;

use super::{Fleet, FleetError, fresh, owner, sweep};
use crate::config::{Config, Settings};

/// Settings that are read at the start alone, by their keys.
pub(super) type Fixed = [(&'static str, String); 3];

/// Those of these settings.
pub(super) fn fixed(config: &Config) -> Fixed {
    [
        ("max_instances", config.max_instances.to_string()),
        ("observe", format!("{:?}", config.observe)),
        ("grace", config.grace.to_string()),
    ]
}

/// What a new instance needs and might not get; `None` is what one that goes has until it is gone.
struct Reserved {
    lock: Option<(Lock, String)>,
    listeners: Option<Vec<Listener>>,
}

/// What instances that go have until they are gone.
#[derive(Default)]
struct Going {
    owners: BTreeSet<String>,
    sockets: Vec<Listen>,
}

impl Fleet {
    /// Reads the settings again and puts them in force, all or nothing; says what has changed.
    pub async fn reload(self: &Arc<Self>) -> Result<String, FleetError> {
        let _one = self.reloading.lock().await;
        if self.life.is_draining() {
            return Err(FleetError::Stopping);
        }
        let config = (self.source)()?;
        config.check()?;
        let mut wanted: BTreeMap<Route, Settings> = config.instances()?.into_iter().collect();
        let (mut kept, mut gone, mut going) = (Vec::new(), Vec::new(), Going::default());
        let mut waiting = self.waiting(&config);
        for (name, member) in &*self.members() {
            match wanted.get(name) {
                // Another socket or home is another instance.
                Some(settings)
                    if settings.socket == member.settings.socket && settings.home == member.settings.home =>
                {
                    if settings.socket.is_some() && settings.hold != member.hold {
                        waiting.push(format!("{name}.hold"));
                    }
                    let but_for_hold = Settings { hold: settings.hold.clone(), ..member.settings.clone() };
                    kept.push((name.clone(), *settings != but_for_hold));
                }
                _ => {
                    gone.push(name.clone());
                    going.owners.extend(member.lock.iter().map(|(_, owner)| owner.clone()));
                    going.sockets.extend(member.settings.socket.clone());
                }
            }
        }
        // All that can fail comes first, while everything still runs as it did.
        let mut reserved = Vec::new();
        for (name, settings) in &wanted {
            if !kept.iter().any(|(one, _)| one == name) {
                reserved.push((name.clone(), self.reserve(name, settings, &going).await?));
            }
        }
        let mut said = Vec::new();
        for (name, changed) in kept {
            let Some(settings) = wanted.remove(&name) else { continue };
            if let Some(member) = self.members().get_mut(&name) {
                member.instance.set(settings.clone(), fresh(&config));
                member.settings = settings;
            }
            if changed {
                said.push(format!("{name}: in force at its next start"));
            }
        }
        // A home is free, and its next owner may start, once nothing of its last one is left.
        let mut locks = BTreeMap::new();
        for name in &gone {
            let freed = self.end(std::slice::from_ref(name)).await;
            locks.extend(freed.map(|(lock, owner)| (owner, lock)));
            said.push(format!("{name}: {}", if wanted.contains_key(name) { "moved" } else { "removed" }));
        }
        for (name, Reserved { lock, listeners }) in reserved {
            let Some(settings) = wanted.remove(&name) else { continue };
            let lock = match lock {
                Some(lock) => lock,
                None => self.inherit(&name, &settings, &mut locks)?,
            };
            let listeners = match listeners {
                Some(listeners) => listeners,
                None => self.bind(&name, settings.socket.as_ref())?,
            };
            let member = self.make(&config, &name, settings, lock, listeners);
            let instance = member.instance.clone();
            self.members().insert(name.clone(), member);
            if instance.settings().starts_at_boot() {
                self.boot_one(instance);
            }
            if !gone.contains(&name) {
                said.push(format!("{name}: added"));
            }
        }
        let waiting =
            (!waiting.is_empty()).then(|| format!("in force after a restart: {}", waiting.join(", ")));
        let said = (!said.is_empty()).then(|| said.join(", "));
        let all: Vec<String> = said.into_iter().chain(waiting).collect();
        Ok(if all.is_empty() { "nothing has changed".into() } else { all.join("; ") })
    }

    /// The keys of what this reload cannot put in force.
    fn waiting(&self, config: &Config) -> Vec<String> {
        let both = self.fixed.iter().zip(fixed(config));
        both.filter(|(now, wanted)| **now != *wanted).map(|(now, _)| now.0.to_owned()).collect()
    }

    /// What a new or moved instance needs, as far as nobody has it who goes.
    async fn reserve(
        &self,
        name: &Route,
        settings: &Settings,
        going: &Going,
    ) -> Result<Reserved, FleetError> {
        let lock = if going.owners.contains(&owner(&self.lock_path(name, settings)?)) {
            None
        } else {
            let (lock, owner) = self.lock(name, settings)?;
            sweep(vec![owner.clone()]).await;
            Some((lock, owner))
        };
        let listeners = match &settings.socket {
            // An inherited one is open as long as we are.
            Some(socket) if going.sockets.contains(socket) && !matches!(socket, Listen::Inherited(_)) => None,
            socket => Some(self.bind(name, socket.as_ref())?),
        };
        Ok(Reserved { lock, listeners })
    }

    /// The lock that one which is gone has left.
    fn inherit(
        &self,
        name: &Route,
        settings: &Settings,
        locks: &mut BTreeMap<String, Lock>,
    ) -> Result<(Lock, String), FleetError> {
        let owner = owner(&self.lock_path(name, settings)?);
        match locks.remove(&owner) {
            Some(lock) => Ok((lock, owner)),
            None => self.lock(name, settings),
        }
    }
}
