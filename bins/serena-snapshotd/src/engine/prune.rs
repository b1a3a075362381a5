//! Deletes what need not be kept. It asks the store for everything that it decides by, and deletes nothing unless all of that
//! came; manifests go first, then the packs and blobs that only they pointed to.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use super::retain::{Kin, dispensable};
use super::{Engine, EngineError, Pruned, Standing};
use crate::layout::{FORKS, Id, MANIFESTS};
use crate::manifest::{Manifest, StoredObject};
use crate::store::Conditions;

/// Most manifests whose objects are remembered.
const MAX_REMEMBERED: usize = 10_000;

impl Engine {
    /// Deletes what the settings do not keep, and what of it nothing else needs.
    pub async fn prune(&mut self, dry_run: bool) -> Result<Pruned, EngineError> {
        self.look().await?;
        self.prune_known(dry_run).await
    }

    /// The same by what the store said last.
    pub(super) async fn prune_known(&mut self, dry_run: bool) -> Result<Pruned, EngineError> {
        match self.compare(false).await? {
            Standing::Current | Standing::Empty | Standing::Fresh => {}
            Standing::Diverged | Standing::Fenced => {
                return Err(EngineError::Refused(
                    "this home does not descend from the newest snapshot, so it deletes nothing; see `serena-snapshotd adopt --help`"
                        .to_owned(),
                ));
            }
        }
        if self.conditions().await? == Conditions::Ignored && !self.settings.single_writer {
            return Err(EngineError::Refused(format!(
                "{} ignores conditional requests: nothing is deleted unless `single_writer = true` says that nobody else writes",
                self.store
            )));
        }
        let Some(newest) = self.known.as_ref().and_then(|known| known.newest.clone()) else {
            return Ok(Pruned::default());
        };
        let manifest = match self.base.as_ref().filter(|base| base.about.id == newest.id) {
            Some(base) => Arc::clone(base),
            None => Arc::new(self.reader.read(&newest.manifest, Some(&newest.manifest_sha256)).await?.0),
        };
        let manifests = self.reader.listed(MANIFESTS).await?;
        let forks = self.reader.listed(FORKS).await?;
        let pins = self.reader.pins().await?;
        self.existing = Some(manifests.iter().filter_map(|key| Id::of_key(key)).collect());
        self.pinned = pins.keys().cloned().collect();
        let gone =
            dispensable(&lineage(&manifest, &manifests, &|id| pins.contains_key(id)), &self.settings.keep);
        if gone.is_empty() {
            return Ok(Pruned::default());
        }
        let keys: HashMap<Id, String> =
            manifests.iter().chain(&forks).filter_map(|key| Some((Id::of_key(key)?, key.clone()))).collect();
        // Whatever a listing lacks, the newest one is needed.
        let mut needed: HashSet<String> =
            manifest.about.objects.iter().map(|object| object.key.clone()).collect();
        let mut candidates: HashMap<String, u64> = HashMap::new();
        for (id, key) in &keys {
            match (self.objects_of(id, key).await, gone.contains(id)) {
                (Ok(objects), true) => {
                    candidates.extend(objects.iter().map(|one| (one.key.clone(), one.size)))
                }
                (Ok(objects), false) => needed.extend(objects.iter().map(|one| one.key.clone())),
                // What a damaged one pointed to stays where it is.
                (Err(EngineError::Damaged(_)), true) => {}
                (Err(EngineError::Damaged(why)), false) => {
                    return Err(EngineError::Damaged(format!(
                        "nothing deleted, because it is not known what {id} needs: {why}"
                    )));
                }
                (Err(error), _) => return Err(error),
            }
        }
        candidates.retain(|key, _| !needed.contains(key));
        let pruned = Pruned {
            objects: candidates.len() as u64,
            bytes: candidates.values().sum(),
            snapshots: gone.clone(),
        };
        if dry_run {
            return Ok(pruned);
        }
        // Written down first: after a crash in between, nobody else knows what to delete.
        let manifests = gone.iter().filter_map(|id| keys.get(id).cloned());
        self.marker.marker.leftovers.extend(manifests.chain(candidates.into_keys()));
        self.marker.write()?;
        self.delete_leftovers().await;
        for id in &gone {
            self.objects.remove(id);
            if let Some(existing) = &mut self.existing {
                existing.remove(id);
            }
        }
        if self.marker.marker.leftovers.is_empty() {
            Ok(pruned)
        } else {
            let left = self.marker.marker.leftovers.len();
            Err(EngineError::Refused(format!(
                "{left} objects could not be deleted; the next prune tries again"
            )))
        }
    }

    /// Whether a prune could find anything, as far as is known without asking.
    pub(super) fn something_may_go(&self) -> bool {
        let Some(base) = &self.base else { return false };
        let mut lineage = vec![kin(&base.about.id, base.about.created, false)];
        let ancestors = base.about.ancestors.iter();
        lineage.extend(
            ancestors.map(|one| kin(&one.pointer.id, one.created, self.pinned.contains(&one.pointer.id))),
        );
        !dispensable(&lineage, &self.settings.keep).is_empty()
    }

    /// Deletes what nothing refers to any more; what cannot be deleted now stays written down.
    pub(super) async fn delete_leftovers(&mut self) {
        if self.marker.marker.leftovers.is_empty() {
            return;
        }
        if self.conditions == Some(Conditions::Ignored) && !self.settings.single_writer {
            return;
        }
        let mut left = Vec::new();
        for key in std::mem::take(&mut self.marker.marker.leftovers) {
            if let Err(error) = self.store.delete(&key).await {
                log::warn!(error:% = error; "could not delete what nothing needs, the next snapshot tries again");
                left.push(key);
            }
        }
        self.marker.marker.leftovers = left;
        if let Err(error) = self.marker.write() {
            log::warn!(error:% = error; "the marker could not be written");
        }
    }

    async fn objects_of(&mut self, id: &Id, key: &str) -> Result<Arc<Vec<StoredObject>>, EngineError> {
        if let Some(objects) = self.objects.get(id) {
            return Ok(Arc::clone(objects));
        }
        let (manifest, _) = match self.reader.read(key, None).await {
            // It may have happened on the way.
            Err(EngineError::Damaged(_)) => self.reader.read(key, None).await?,
            read => read?,
        };
        let objects = Arc::new(manifest.about.objects);
        if self.objects.len() < MAX_REMEMBERED {
            self.objects.insert(id.clone(), Arc::clone(&objects));
        }
        Ok(objects)
    }
}

/// The newest snapshot and those of its ancestors that exist.
fn lineage(newest: &Manifest, existing: &[String], is_pinned: &dyn Fn(&Id) -> bool) -> Vec<Kin> {
    let ancestors = newest.about.ancestors.iter().filter(|one| existing.contains(&one.pointer.manifest));
    let ancestors = ancestors.map(|one| kin(&one.pointer.id, one.created, is_pinned(&one.pointer.id)));
    std::iter::once(kin(&newest.about.id, newest.about.created, true)).chain(ancestors).collect()
}

fn kin(id: &Id, created: jiff::Timestamp, is_pinned: bool) -> Kin {
    Kin { id: id.clone(), created, is_pinned }
}
