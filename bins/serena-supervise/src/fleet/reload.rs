//! Other settings for a fleet that runs: everything that can fail comes first, then what changes is changed.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use mcp_daemon::addr::Route;

use super::claim::Going;
use super::{Fleet, FleetError, fresh};
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

/// What other settings come to.
#[derive(Default)]
struct Change {
    /// Those that stay, and whether their next start will be another one.
    kept: Vec<(Route, Settings, bool)>,
    gone: BTreeSet<Route>,
    going: Going,
    /// Those that are new, or moved.
    new: Vec<(Route, Settings)>,
    /// What needs a restart.
    waiting: Vec<String>,
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
        // All that can fail comes first, while everything still runs as it did.
        let Change { kept, gone, going, new, waiting } = self.compare(&config)?;
        let claimed = self.claim(new, going).await?;
        let mut said = Vec::new();
        for (name, settings, changed) in kept {
            if let Some(member) = self.members().get_mut(&name) {
                member.instance.set(settings.clone(), fresh(&config));
                member.settings = settings;
            }
            if changed {
                said.push(format!("{name}: in force at its next start"));
            }
        }
        for name in &gone {
            let moved = claimed.iter().any(|(claimed, ..)| claimed == name);
            said.push(format!("{name}: {}", if moved { "moved" } else { "removed" }));
        }
        // The next owner of a home may start once nothing of its last one is left.
        self.end(gone.clone()).await;
        for (name, settings, claim) in claimed {
            let member = self.make(&config, &name, settings, claim);
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

    fn compare(&self, config: &Config) -> Result<Change, FleetError> {
        let mut change = Change { waiting: self.waiting(config), ..Change::default() };
        let mut wanted: BTreeMap<Route, Settings> = config.instances()?.into_iter().collect();
        for (name, member) in &*self.members() {
            let now = &member.settings;
            match wanted.remove(name) {
                // Another socket or home is another instance.
                Some(settings) if settings.socket == now.socket && settings.home == now.home => {
                    if settings.socket.is_some() && settings.hold != member.hold {
                        change.waiting.push(format!("{name}.hold"));
                    }
                    let but_for_hold = Settings { hold: settings.hold.clone(), ..now.clone() };
                    let changed = settings != but_for_hold;
                    change.kept.push((name.clone(), settings, changed));
                }
                moved => {
                    change.gone.insert(name.clone());
                    change.going.add(name, now, &member.claim)?;
                    change.new.extend(moved.map(|settings| (name.clone(), settings)));
                }
            }
        }
        change.new.extend(wanted);
        Ok(change)
    }

    /// The keys of what this reload cannot put in force.
    fn waiting(&self, config: &Config) -> Vec<String> {
        let both = self.fixed.iter().zip(fixed(config));
        both.filter(|(now, wanted)| **now != *wanted).map(|(now, _)| now.0.to_owned()).collect()
    }
}
