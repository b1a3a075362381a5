//! Deletes what need not be kept. It asks the store for everything that it decides by, and deletes nothing unless all of that
//! came; manifests go first, then the packs and blobs that only they pointed to.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use super::pins::{Pinned, SHRUNK};
use super::retain::{Kin, dispensable};
use super::{Engine, EngineError, Pruned, Standing};
use crate::layout::{FORKS, Id, MANIFESTS};
use crate::manifest::{Ancestor, MAX_STORED, Manifest, StoredObject};
use crate::store::{Conditions, Source};

/// Most snapshots that stay pinned because much was gone after them. A home that shrinks and grows all the time would keep
/// everything; the largest of them hold the most, and stay.
pub(super) const MAX_SHRUNK: usize = 16;
/// Most manifests whose objects are remembered.
const MAX_REMEMBERED: usize = 10_000;

impl Engine {
    /// Deletes what the settings do not keep, or only this fork, and what of it nothing else needs.
    pub async fn prune(&mut self, fork: Option<&Id>, dry_run: bool) -> Result<Pruned, EngineError> {
        self.look().await?;
        self.prune_known(fork, dry_run).await
    }

    /// The same by what the store said last.
    pub(super) async fn prune_known(
        &mut self,
        fork: Option<&Id>,
        dry_run: bool,
    ) -> Result<Pruned, EngineError> {
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
        let mut pins = self.reader.pins().await?;
        self.existing = Some(manifests.iter().filter_map(|key| Id::of_key(key)).collect());
        for id in surplus(&manifest, &pins) {
            pins.remove(&id);
            if !dry_run {
                self.reader.let_go(&id).await?;
                log::info!(snapshot:% = id; "of the snapshots pinned before a shrink this was the smallest of too many, and is pinned no more");
            }
        }
        self.pinned = pins.keys().cloned().collect();
        let lineage = lineage(&manifest, &manifests, &|id| pins.contains_key(id));
        let keys: HashMap<Id, String> =
            manifests.iter().chain(&forks).filter_map(|key| Some((Id::of_key(key)?, key.clone()))).collect();
        let gone = match fork {
            None => dispensable(&lineage, &self.settings.keep),
            Some(id) if keys.contains_key(id) && lineage.iter().all(|kin| kin.id != *id) => vec![id.clone()],
            Some(id) => {
                let why = format!("{id} is no fork; `serena-snapshotd list` shows which there are");
                return Err(EngineError::NoSuchSnapshot(why));
            }
        };
        if gone.is_empty() {
            return Ok(Pruned::default());
        }
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
        let mut pruned = Pruned {
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
        let pinned = self.delete_leftovers().await;
        pruned.snapshots.retain(|id| !pinned.contains(id));
        for id in &pruned.snapshots {
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

    /// Deletes what nothing refers to any more; what cannot be deleted now stays written down. The snapshots that somebody
    /// has pinned since that was decided: they stay, with all that they need.
    pub(super) async fn delete_leftovers(&mut self) -> HashSet<Id> {
        let mut pinned = HashSet::new();
        if self.marker.marker.leftovers.is_empty() {
            return pinned;
        }
        if self.conditions == Some(Conditions::Ignored) && !self.settings.single_writer {
            return pinned;
        }
        // Manifests first: what a pinned one needs must be known before the first pack goes.
        let (manifests, others): (Vec<String>, Vec<String>) =
            std::mem::take(&mut self.marker.marker.leftovers)
                .into_iter()
                .partition(|key| key.starts_with(MANIFESTS));
        let (mut left, mut needed, mut is_known) = (Vec::new(), HashSet::new(), true);
        for key in manifests {
            match self.delete_unless_pinned(&key).await {
                Ok(None) => {}
                Ok(Some((id, objects))) => {
                    pinned.insert(id);
                    needed.extend(objects);
                }
                Err(error) => {
                    log::warn!(error:% = error; "could not delete what nothing needs, the next snapshot tries again");
                    is_known = false;
                    left.push(key);
                }
            }
        }
        for key in others.into_iter().filter(|key| !needed.contains(key)) {
            if !is_known {
                left.push(key);
            } else if let Err(error) = self.store.delete(&key).await {
                log::warn!(error:% = error; "could not delete what nothing needs, the next snapshot tries again");
                left.push(key);
            }
        }
        self.marker.marker.leftovers = left;
        if let Err(error) = self.marker.write() {
            log::warn!(error:% = error; "the marker could not be written");
        }
        pinned
    }

    /// Deletes a manifest, unless it is pinned by now: then which it is, and the keys that it needs. Whoever pins looks whether
    /// the manifest is there after that; so we look for a pin once more after it is gone, and put it back then.
    async fn delete_unless_pinned(&self, key: &str) -> Result<Option<(Id, Vec<String>)>, EngineError> {
        let Some(id) = Id::of_key(key) else { return Ok(self.store.delete(key).await.map(|()| None)?) };
        let Some(object) = self.store.get(key, MAX_STORED).await? else { return Ok(None) };
        if !self.reader.is_pinned(&id).await? {
            self.store.delete(key).await?;
            if !self.reader.is_pinned(&id).await? {
                return Ok(None);
            }
            self.store.put(key, Source::Bytes(object.bytes)).await?;
        }
        let (manifest, _) = self.reader.read(key, None).await?;
        log::info!(snapshot:% = id; "somebody has just pinned this snapshot, which stays");
        Ok(Some((id, manifest.about.objects.into_iter().map(|object| object.key).collect())))
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

/// The snapshots that are pinned no more because too many are for a shrink: the smallest first.
fn surplus(newest: &Manifest, pins: &HashMap<Id, Pinned>) -> Vec<Id> {
    let is_ours = |one: &&Ancestor| pins.get(&one.pointer.id).is_some_and(|pin| pin.why == SHRUNK);
    let mut ours: Vec<&Ancestor> = newest.about.ancestors.iter().filter(is_ours).collect();
    // Of equals the older one goes first.
    ours.sort_by_key(|one| (one.bytes, one.files, one.pointer.id.seq));
    let surplus = ours.len().saturating_sub(MAX_SHRUNK);
    ours.into_iter().take(surplus).map(|one| one.pointer.id.clone()).collect()
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
