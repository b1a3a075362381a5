//! Other settings for a fleet that runs: everything that can fail comes first, then what changes is changed.

use std::collections::BTreeMap;
use std::sync::Arc;

use mcp_daemon::addr::Route;
use mcp_daemon::files::Lock;
use mcp_daemon::serve::Listener;

use super::{Fleet, FleetError, bind, fresh, sweep};
use crate::config::Settings;

/// What a new instance needs and might not get.
struct Reserved {
    lock: Option<(Lock, String)>,
    listeners: Option<Vec<Listener>>,
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
        let (mut kept, mut gone) = (Vec::new(), Vec::new());
        for (name, member) in &*self.members() {
            match wanted.get(name) {
                // Another socket or home is another instance.
                Some(settings)
                    if settings.socket == member.settings.socket && settings.home == member.settings.home =>
                {
                    kept.push((name.clone(), *settings != member.settings));
                }
                _ => gone.push(name.clone()),
            }
        }
        // All that can fail comes first, while everything still runs as it did.
        let mut reserved = BTreeMap::new();
        for (name, settings) in &wanted {
            let old = self.members().get(name).map(|member| member.settings.clone());
            if !kept.iter().any(|(one, _)| one == name) {
                reserved.insert(name.clone(), self.reserve(name, settings, old.as_ref()).await?);
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
        let mut locks = BTreeMap::new();
        for name in gone {
            locks.extend(self.end(std::slice::from_ref(&name)).await.map(|lock| (name.clone(), lock)));
            said.push(format!("{name}: {}", if wanted.contains_key(&name) { "moved" } else { "removed" }));
        }
        for (name, Reserved { lock, listeners }) in reserved {
            let Some(settings) = wanted.remove(&name) else { continue };
            let is_moved = locks.contains_key(&name);
            let lock = match lock.or(locks.remove(&name)) {
                Some(lock) => lock,
                None => self.lock(&name, &settings)?,
            };
            let listeners = match listeners {
                Some(listeners) => listeners,
                None => bind(&name, settings.socket.as_ref())?,
            };
            let member = self.make(&config, &name, settings, lock, listeners);
            let instance = member.instance.clone();
            self.members().insert(name.clone(), member);
            if instance.settings().starts_at_boot() {
                self.boot_one(instance);
            }
            if !is_moved {
                said.push(format!("{name}: added"));
            }
        }
        Ok(if said.is_empty() { "nothing has changed".into() } else { said.join(", ") })
    }

    /// What a new or moved instance needs, as far as it is not the same as `old` had.
    async fn reserve(
        &self,
        name: &Route,
        settings: &Settings,
        old: Option<&Settings>,
    ) -> Result<Reserved, FleetError> {
        let lock = if old.is_some_and(|old| old.home == settings.home) {
            None
        } else {
            let (lock, owner) = self.lock(name, settings)?;
            sweep(vec![owner.clone()]).await;
            Some((lock, owner))
        };
        let is_same = old.is_some_and(|old| old.socket == settings.socket);
        let listeners = if is_same { None } else { Some(bind(name, settings.socket.as_ref())?) };
        Ok(Reserved { lock, listeners })
    }
}
