//! Puts a snapshot back into the home, and settles a divergence.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use super::descent::Descent;
use super::gather::Work;
use super::{
    Engine, EngineError, Outcome, RestoreOutcome, RestoreRequest, Selector, Side, Standing, home, is_empty,
    journal,
};
use crate::digest::Digest;
use crate::head::Pointer;
use crate::layout::{Id, MANIFESTS};
use crate::manifest::{HOME, Manifest};
use crate::progress::Progress;
use crate::restore::{Restoration, RestoreError, Restored, Target, restore};
use crate::take::DESCENT;

impl Engine {
    /// Puts a snapshot back. An error means that nobody can tell whether there is one, or that it did not work; the home is as
    /// it was then. Where the newest is damaged, the next older one is tried.
    pub async fn restore(
        &mut self,
        request: &RestoreRequest,
        progress: &Arc<Progress>,
    ) -> Result<RestoreOutcome, EngineError> {
        super::forget_if_empty(home(&self.settings))?;
        self.look().await?;
        let known = self.known.as_ref().ok_or_else(super::cannot_tell)?;
        let Some(newest) = known.newest.clone() else {
            if let Some(which) = &request.which {
                return Err(EngineError::NoSuchSnapshot(format!(
                    "there is no snapshot {which} in {}, nor any other",
                    self.store
                )));
            }
            return Ok(RestoreOutcome::Nothing);
        };
        let home_is_empty = is_empty(home(&self.settings));
        if !home_is_empty && !request.replace {
            return Ok(RestoreOutcome::LeftAlone(self.compare(false).await?));
        }
        // What comes next follows the newest one, whichever is put back: so nothing of the lineage is lost.
        let descent = Descent::from(newest.clone()).to_bytes();
        let says = |name: &str| (name == HOME).then(|| (DESCENT, descent.clone()));
        let targets: Vec<Target> = self
            .settings
            .roots
            .iter()
            .filter(|root| request.replace || is_empty(&root.path))
            .map(|root| Target { name: root.name.clone(), path: root.path.clone(), ours: says(&root.name) })
            .collect();
        let mut passed_over = Vec::new();
        for (id, key) in self.candidates(request.which.as_ref(), &newest).await? {
            let expected = (key == newest.manifest).then_some(&newest.manifest_sha256);
            let why = match self.read_twice(&key, expected).await {
                Ok(manifest) => {
                    let left_alone = self.left_alone(&manifest, &targets);
                    if !(passed_over.is_empty() && left_alone.is_empty()) {
                        // Before the home changes: what it will not hold must outlive the next prune.
                        self.reader.put_pin(&newest.id, super::pins::SHRUNK).await?;
                    }
                    match self.put_back(manifest, &targets, progress).await {
                        Ok(restored) => {
                            self.now_holds(&id, &newest, &passed_over, &left_alone)?;
                            let Restored { files, bytes, kept } = restored;
                            log::info!(snapshot:% = id, files, bytes; "restored");
                            return Ok(RestoreOutcome::Restored {
                                id,
                                files,
                                bytes,
                                kept,
                                passed_over,
                                left_alone,
                            });
                        }
                        Err(RestoreError::Damaged(why)) => why,
                        Err(error) => return Err(error.into()),
                    }
                }
                Err(EngineError::Damaged(why)) => why,
                Err(error) => return Err(error),
            };
            log::error!(snapshot:% = id, why = why.as_str(); "this snapshot is damaged");
            passed_over.push((id, why));
        }
        let whys: Vec<String> = passed_over.into_iter().map(|(id, why)| format!("{id}: {why}")).collect();
        Err(EngineError::Damaged(format!("no snapshot is whole: {}", whys.join("; "))))
    }

    async fn read_twice(&self, key: &str, expected: Option<&Digest>) -> Result<Arc<Manifest>, EngineError> {
        let read = match self.reader.read(key, expected).await {
            // It may have happened on the way.
            Err(EngineError::Damaged(_)) => self.reader.read(key, expected).await,
            read => read,
        };
        Ok(Arc::new(read?.0))
    }

    async fn put_back(
        &mut self,
        manifest: Arc<Manifest>,
        targets: &[Target],
        progress: &Arc<Progress>,
    ) -> Result<Restored, RestoreError> {
        let (settings, store) = (Arc::clone(&self.settings), self.store.clone());
        self.alive(async {
            let seal = settings.seal.as_ref();
            let plan = Restoration { manifest: &manifest, store: &store, seal, targets, progress };
            let journal = journal(home(&settings));
            match restore(&plan, &journal).await {
                // It may have happened on the way.
                Err(RestoreError::Damaged(_)) => restore(&plan, &journal).await,
                restored => restored,
            }
        })
        .await
    }

    /// Says which snapshot the home holds now; which one it follows stands in it already.
    fn now_holds(
        &mut self,
        id: &Id,
        newest: &Pointer,
        passed_over: &[(Id, String)],
        left_alone: &[PathBuf],
    ) -> Result<(), EngineError> {
        if !passed_over.is_empty() {
            log::error!(snapshot:% = id, damaged:% = newest.id; "newer snapshots are damaged, restored an older one");
        }
        for root in left_alone {
            log::error!(root:% = root.display(), pinned:% = newest.id; "this root is not empty and was left alone; the snapshot that has it is pinned");
        }
        self.marker.marker.store = self.store.to_string();
        self.marker.write()?;
        self.seen = None;
        Ok(())
    }

    /// Roots that have files in a snapshot, and do not get them, because what is there is not empty.
    fn left_alone(&self, manifest: &Manifest, targets: &[Target]) -> Vec<PathBuf> {
        let roots = self.settings.roots.iter().map(|root| &root.path);
        let others = roots.filter(|path| targets.iter().all(|target| target.path != **path));
        others.filter(|path| self.is_in(manifest, path)).cloned().collect()
    }

    /// Whether the root at this place has files in a snapshot.
    fn is_in(&self, manifest: &Manifest, place: &Path) -> bool {
        let name =
            self.settings.roots.iter().find(|root| root.path == place).map(|root| root.name.as_bytes());
        let below = |path: &[u8], name: &[u8]| {
            path.strip_prefix(name).is_some_and(|rest| rest.first() == Some(&b'/'))
        };
        name.is_some_and(|name| manifest.entries.iter().any(|entry| below(&entry.path, name)))
    }

    /// The manifests to try in turn: the one that was asked for alone, or the newest and then everything older.
    async fn candidates(
        &self,
        which: Option<&Selector>,
        newest: &Pointer,
    ) -> Result<Vec<(Id, String)>, EngineError> {
        if let Some(which) = which.filter(|which| **which != Selector::Latest) {
            let found = self.reader.find(which).await?.1;
            return Ok(vec![(found.id, found.manifest)]);
        }
        let order = |id: &Id| (id.epoch, id.seq);
        let older = self.reader.listed(MANIFESTS).await?.into_iter();
        let older = older.filter_map(|key| Some((Id::of_key(&key)?, key)));
        // What is not older has never been the newest: an attempt that failed.
        let older = older.filter(|(id, _)| order(id) < order(&newest.id));
        Ok(std::iter::once((newest.id.clone(), newest.manifest.clone())).chain(older).collect())
    }

    /// Chooses a side of a divergence.
    pub async fn adopt(&mut self, side: Side, progress: &Arc<Progress>) -> Result<(), EngineError> {
        self.look().await?;
        let known = self.known.as_ref().ok_or_else(super::cannot_tell)?;
        let Some(newest) = known.newest.clone() else {
            return Err(EngineError::Refused(
                "there is no snapshot yet: the next one publishes this home".to_owned(),
            ));
        };
        match side {
            Side::Local => {
                // The next divergence has a fork of its own.
                Descent::from(newest).write(home(&self.settings))?;
                self.marker.marker.store = self.store.to_string();
                self.marker.write()?;
            }
            Side::Remote => {
                if !is_empty(home(&self.settings)) && self.compare(false).await? != Standing::Current {
                    let work = Work {
                        reason: "asked".to_owned(),
                        progress: Arc::clone(progress),
                        cancelled: Arc::new(AtomicBool::new(false)),
                    };
                    let _kept: Outcome = self.fork(&work, Standing::Diverged).await?;
                }
                let request = RestoreRequest { which: None, replace: true };
                self.restore(&request, progress).await?;
            }
        }
        if self.is_daemon {
            // The writer from now on; a person has said so.
            self.is_fenced = false;
            self.claim().await?;
        }
        Ok(())
    }
}
