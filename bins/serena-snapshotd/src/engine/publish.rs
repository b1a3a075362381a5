//! A snapshot, from the reading of the home to `HEAD`: objects first, each checked; then the manifest; then `HEAD`. Whatever
//! fails on the way, `HEAD` still names the snapshot before, and nothing that it needs has been touched.

use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use super::descent::Descent;
use super::gather::{Work, made, summary};
use super::retain::{Extent, has_shrunk};
use super::{Engine, EngineError, Known, Outcome, Standing};
use crate::head::Pointer;
use crate::layout::Id;
use crate::manifest::{About, Ancestor, Manifest, tree_digest};
use crate::progress::Progress;
use crate::store::Conditions;
use crate::take::{Draft, Taken};

/// Most ancestors that a manifest tells.
const MAX_ANCESTORS: usize = 1000;
/// Attempts to publish while `HEAD` changes under us without becoming somebody else's.
const ATTEMPTS: u32 = 5;

impl Engine {
    /// Takes a snapshot, and prunes after it. `reason` is `periodic`, `shutdown`, `asked` or `import`.
    pub async fn snapshot(
        &mut self,
        reason: &str,
        progress: &Arc<Progress>,
        cancelled: &Arc<AtomicBool>,
    ) -> Result<Outcome, EngineError> {
        let outcome = self.snapshot_alone(reason, progress, cancelled).await?;
        if matches!(outcome, Outcome::Published(_)) {
            self.tidy().await;
        }
        Ok(outcome)
    }

    /// The same without the prune, for which nobody who has asked for a snapshot need wait; [`Engine::tidy`] makes up for it.
    pub async fn snapshot_alone(
        &mut self,
        reason: &str,
        progress: &Arc<Progress>,
        cancelled: &Arc<AtomicBool>,
    ) -> Result<Outcome, EngineError> {
        let work = Work {
            reason: reason.to_owned(),
            progress: Arc::clone(progress),
            cancelled: Arc::clone(cancelled),
        };
        if self.known.is_none() {
            self.look().await?;
        }
        match self.compare(false).await? {
            Standing::Current | Standing::Empty | Standing::Fresh => self.publish(&work).await,
            standing @ (Standing::Diverged | Standing::Fenced) => self.fork(&work, standing).await,
        }
    }

    async fn publish(&mut self, work: &Work) -> Result<Outcome, EngineError> {
        for _ in 0..ATTEMPTS {
            let base = self.base().await?;
            if self.known.as_ref().is_some_and(|known| known.newest.is_none())
                && self.settings.roots.iter().all(|root| super::is_empty(&root.path))
            {
                return Ok(Outcome::Nothing);
            }
            let id = self.next_id()?;
            let key = id.manifest(self.settings.seal.is_some());
            let gathered = self.gather(&id, &key, base.clone(), work).await?;
            let (draft, sent) = match gathered.taken {
                Taken::Same(seen) => {
                    let of = base.as_ref().map_or(id, |base| base.about.id.clone());
                    self.seen = Some((of.clone(), seen));
                    return Ok(Outcome::Unchanged(of));
                }
                Taken::New(draft) => (draft, gathered.sent),
            };
            if self.conditions().await? == Conditions::Ignored {
                match self.nobody_else().await? {
                    Claimed::Newest => {}
                    Claimed::Again => continue,
                    Claimed::Refused(standing) => return self.fork(work, standing).await,
                }
            }
            let ancestors = self.ancestors(base.as_deref());
            let Draft { entries, objects, seen, skipped } = draft;
            if let Some(base) = base.as_ref().filter(|base| base.about.tree == tree_digest(&entries)) {
                // Only files that never stand still, whose bytes of before were kept.
                self.withdraw(&id)?;
                self.seen = Some((base.about.id.clone(), seen));
                return Ok(Outcome::Unchanged(base.about.id.clone()));
            }
            let manifest = Arc::new(made(&self.settings, id.clone(), work, entries, objects, ancestors));
            if let Some(base) = &base {
                self.pin_before_shrink(base, &manifest).await?;
            }
            let newest = self.put_manifest(key, &manifest).await?;
            match self.make_newest(newest).await? {
                Claimed::Newest => {}
                Claimed::Again => continue,
                Claimed::Refused(standing) => return self.fork(work, standing).await,
            }
            let summary = summary(&manifest, sent, skipped);
            log::info!(snapshot:% = id, files = summary.files, bytes = summary.bytes, sent, reason = work.reason.as_str(); "snapshot published");
            self.objects.insert(id.clone(), Arc::new(manifest.about.objects.clone()));
            if let Some(existing) = &mut self.existing {
                existing.insert(id.clone());
            }
            self.base = Some(manifest);
            self.seen = Some((id, seen));
            return Ok(Outcome::Published(summary));
        }
        Err(EngineError::Refused("HEAD kept changing; the next snapshot tries again".to_owned()))
    }

    /// On a store without conditions: looks once more whether the newest snapshot still is the one that ours follows.
    async fn nobody_else(&mut self) -> Result<Claimed, EngineError> {
        let newest = |engine: &Engine| Some(engine.known.as_ref()?.newest.as_ref()?.id.clone());
        let before = newest(self);
        self.look().await?;
        match self.compare(false).await? {
            standing @ (Standing::Diverged | Standing::Fenced) => Ok(Claimed::Refused(standing)),
            Standing::Current | Standing::Empty | Standing::Fresh if newest(self) == before => {
                Ok(Claimed::Newest)
            }
            Standing::Current | Standing::Empty | Standing::Fresh => Ok(Claimed::Again),
        }
    }

    /// Replaces `HEAD`, where the store keeps its word about conditions; elsewhere the manifest alone counts.
    pub(super) async fn make_newest(&mut self, newest: Pointer) -> Result<Claimed, EngineError> {
        if self.conditions().await? == Conditions::Ignored {
            self.home_is(newest.clone())?;
            self.known = Some(Known { newest: Some(newest), head: None });
            return Ok(Claimed::Newest);
        }
        // What was heard while we worked counts: somebody else may have published.
        if let standing @ (Standing::Diverged | Standing::Fenced) = self.compare(false).await? {
            return Ok(Claimed::Refused(standing));
        }
        for _ in 0..ATTEMPTS {
            let known = self.known.as_ref().ok_or_else(super::cannot_tell)?;
            let epoch = self.epoch.unwrap_or_else(|| known.epoch().max(1));
            let etag = known.head.as_ref().map(|(_, etag)| etag.clone());
            if self.replace_head(epoch, newest.clone(), false, etag.as_ref()).await? {
                self.home_is(newest)?;
                return Ok(Claimed::Newest);
            }
            let attempted = self.marker.marker.intents.iter().any(|intent| intent.id == newest.id);
            match self.compare(false).await? {
                // An earlier attempt of ours has arrived after all: this one must follow it.
                Standing::Current if !attempted => return Ok(Claimed::Again),
                // `HEAD` was renewed, and still names the snapshot that ours follows.
                Standing::Current | Standing::Empty | Standing::Fresh => {}
                standing @ (Standing::Diverged | Standing::Fenced) => return Ok(Claimed::Refused(standing)),
            }
        }
        Ok(Claimed::Again)
    }

    /// The home is what was just published, unless another one has taken its place since it was read.
    fn home_is(&mut self, newest: Pointer) -> Result<(), EngineError> {
        let says = Descent::read(super::home(&self.settings))?;
        let intents = &self.marker.marker.intents;
        match intents.iter().find(|intent| intent.id == newest.id) {
            Some(intent) if !says.made(intent) => {
                log::error!(snapshot:% = newest.id; "the home was replaced while this snapshot of it was published; what is there now is another one");
                self.has_published(&newest.id)
            }
            Some(_) | None => self.descend_from(newest),
        }
    }

    /// The manifest that the next snapshot follows; `None` for the first, and where it cannot be read: then everything is
    /// stored anew.
    async fn base(&mut self) -> Result<Option<Arc<Manifest>>, EngineError> {
        let known = self.known.as_ref().ok_or_else(super::cannot_tell)?;
        self.is_cut = false;
        let Some(newest) = known.newest.clone() else { return Ok(None) };
        if let Some(base) = self.base.as_ref().filter(|base| base.about.id == newest.id) {
            return Ok(Some(Arc::clone(base)));
        }
        match self.reader.read(&newest.manifest, Some(&newest.manifest_sha256)).await {
            Ok((manifest, _)) => {
                let manifest = Arc::new(manifest);
                self.base = Some(Arc::clone(&manifest));
                Ok(Some(manifest))
            }
            Err(EngineError::Damaged(why)) => {
                self.is_cut = true;
                log::error!(snapshot:% = newest.id, why; "the newest snapshot is damaged, the next one is stored whole");
                Ok(None)
            }
            Err(error) => Err(error),
        }
    }

    fn next_id(&self) -> Result<Id, EngineError> {
        let known = self.known.as_ref().ok_or_else(super::cannot_tell)?;
        let newest = known.newest.as_ref().map(|newest| newest.id.seq);
        let base = Descent::read(super::home(&self.settings))?.base.map(|base| base.id.seq);
        let epoch = self.epoch.unwrap_or_else(|| known.epoch().max(1));
        Ok(Id::new(newest.or(base).unwrap_or(0) + 1, epoch))
    }

    /// The lineage that a snapshot after `base` tells.
    fn ancestors(&self, base: Option<&Manifest>) -> Vec<Ancestor> {
        let newest = self.known.as_ref().and_then(|known| known.newest.clone());
        let (Some(base), Some(newest)) = (base, newest) else { return Vec::new() };
        let exists = |ancestor: &&Ancestor| {
            self.existing.as_ref().is_none_or(|existing| existing.contains(&ancestor.pointer.id))
        };
        let older = base.about.ancestors.iter().filter(exists).cloned();
        std::iter::once(base.as_ancestor(newest)).chain(older).take(MAX_ANCESTORS).collect()
    }

    /// Pins what the home was before much of it was gone, at once or little by little.
    async fn pin_before_shrink(&mut self, base: &Manifest, now: &Manifest) -> Result<(), EngineError> {
        let About { files, bytes, projects, .. } = now.about;
        let now = Extent { files, bytes, projects };
        let before =
            Extent { files: base.about.files, bytes: base.about.bytes, projects: base.about.projects };
        let exists = |ancestor: &&Ancestor| {
            self.existing.as_ref().is_none_or(|existing| existing.contains(&ancestor.pointer.id))
        };
        let largest = base.about.ancestors.iter().filter(exists).max_by_key(|one| (one.bytes, one.files));
        let mut pinned = Vec::new();
        if has_shrunk(before, now) {
            pinned.push((base.about.id.clone(), before.files));
        }
        if let Some(largest) = largest {
            let was = Extent { files: largest.files, bytes: largest.bytes, projects: None };
            if (was.bytes, was.files) > (before.bytes, before.files) && has_shrunk(was, now) {
                pinned.push((largest.pointer.id.clone(), was.files));
            }
        }
        for (id, files_before) in pinned {
            if self.shrunk.contains(&id) {
                continue;
            }
            self.reader.put_pin(&id, super::pins::SHRUNK).await?;
            log::warn!(files_before, files, pinned:% = id; "much is gone since this snapshot, which is pinned");
            // Not before it is pinned: the next attempt must try again.
            self.shrunk.insert(id);
        }
        Ok(())
    }

    /// Takes back an attempt that stored nothing that counts.
    fn withdraw(&mut self, id: &Id) -> Result<(), EngineError> {
        let marker = &mut self.marker.marker;
        let Some(at) = marker.intents.iter().position(|intent| intent.id == *id) else { return Ok(()) };
        let intent = marker.intents.remove(at);
        // Its manifest was never written, so nothing can ever refer to the others.
        marker.leftovers.extend(intent.keys);
        self.marker.write()
    }

    /// After a snapshot was published: deletes what failed attempts have left, and what need not be kept. It only saves room,
    /// so a failure is for the log.
    pub async fn tidy(&mut self) {
        let _stay_and_are_no_leftovers = self.delete_leftovers().await;
        if !self.something_may_go() {
            return;
        }
        match self.prune_known(None, false).await {
            Ok(pruned) if pruned.snapshots.is_empty() => {}
            Ok(pruned) => {
                log::info!(snapshots = pruned.snapshots.len(), objects = pruned.objects, bytes = pruned.bytes; "old snapshots deleted");
            }
            Err(EngineError::Refused(why)) => log::debug!(why; "nothing pruned"),
            Err(error) => {
                log::warn!(error:% = error; "old snapshots not deleted, the next snapshot tries again")
            }
        }
    }
}

/// How an attempt to publish stands.
pub(super) enum Claimed {
    /// Ours is the newest, or may become it.
    Newest,
    /// The home must be compared with a newer base of our own.
    Again,
    /// Somebody else has published.
    Refused(Standing),
}
