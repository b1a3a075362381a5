//! What may be published, restored and deleted: the one place that writes `HEAD`, manifests, pins and forks.
//!
//! One [`Engine`] owns one home, from [`Engine::open`] (a lock beside the home) to its end. It changes nothing in the store
//! that it has not read first, and nothing in the home but by a restore. Two rules make it safe:
//!
//! - A snapshot follows the one that its home descends from (the home says which, see `descent`), and `HEAD` is replaced only
//!   while it still names that one.
//! - A manifest points to objects that were stored for it, or that its predecessor points to. Nothing else is shared, so
//!   deleting what the deleted snapshots alone point to can hit nobody.

mod claim;
mod descent;
mod fork;
mod gather;
mod list;
mod marker;
mod pins;
mod prune;
mod publish;
mod reader;
mod recover;
mod retain;
mod said;
mod standing;
#[cfg(test)]
mod tests;

use std::collections::{HashMap, HashSet};
use std::path::Path;
use std::sync::Arc;

use mcp_daemon::files::{Lock, beside, snapshots_lock};
use tokio::time::Instant;

pub use self::claim::RENEW;
use self::descent::Descent;
use self::marker::MarkerFile;
use self::reader::Known;
pub use self::reader::Reader;
pub use self::said::{
    EngineError, Held, Outcome, Place, Pruned, RestoreOutcome, RestoreRequest, Row, Selector, Side, Summary,
};
pub use self::standing::Standing;
use self::standing::{Compared, standing};
use crate::head::Pointer;
use crate::layout::Id;
use crate::manifest::{Manifest, StoredObject};
use crate::settings::Settings;
use crate::store::{Conditions, Store};
use crate::take::Seen;

/// One home and its store.
pub struct Engine {
    settings: Arc<Settings>,
    store: Store,
    reader: Reader,
    marker: MarkerFile,
    /// What the store said last; `None`: nobody can tell, so nothing may be published or deleted.
    known: Option<Known>,
    conditions: Option<Conditions>,
    /// What this process has claimed; a command that works alone never claims.
    epoch: Option<u64>,
    is_fenced: bool,
    /// When newcomers were last told that we are alive.
    said_alive: Instant,
    /// It claims, so that it has to claim again once a person has settled a divergence.
    is_daemon: bool,
    /// The manifest that the next reading is compared with.
    base: Option<Arc<Manifest>>,
    /// The newest manifest is damaged, so nobody knows what came before it.
    is_cut: bool,
    /// What the last reading saw, against which manifest.
    seen: Option<(Id, Seen)>,
    /// Packs and blobs by manifest, for `prune`.
    objects: HashMap<Id, Arc<Vec<StoredObject>>>,
    /// What was pinned at the last prune.
    pinned: HashSet<Id>,
    /// Ancestors that were pinned because much was gone since; a person may unpin them.
    shrunk: HashSet<Id>,
    /// The newest snapshot when the home was last found to hold something else.
    differs: Option<Id>,
    /// Manifests that existed at the last look; what is not among them is no longer told as an ancestor.
    existing: Option<HashSet<Id>>,
    _lock: Lock,
}

impl Engine {
    /// Takes the lock beside the home, reads the marker there, and ends a restore that a crash interrupted. Asks the store
    /// nothing.
    pub fn open(settings: Settings, store: Store) -> Result<Engine, EngineError> {
        let home = home(&settings).to_owned();
        let lock = Lock::take(&snapshots_lock(&home))?;
        if crate::restore::resume(&journal(&home))? {
            log::warn!(home:% = home.display(); "a restore was interrupted, ended it");
        }
        let marker = MarkerFile::open(beside(&home, "snapshotd.json"))?;
        forget_if_empty(&home)?;
        let reader = Reader::new(store.clone(), settings.seal.clone());
        Ok(Engine {
            settings: Arc::new(settings),
            store,
            reader,
            marker,
            known: None,
            conditions: None,
            epoch: None,
            is_fenced: false,
            said_alive: Instant::now(),
            is_daemon: false,
            base: None,
            is_cut: false,
            seen: None,
            objects: HashMap::new(),
            pinned: HashSet::new(),
            shrunk: HashSet::new(),
            differs: None,
            existing: None,
            _lock: lock,
        })
    }

    /// Asks the store, and compares. An error means that nobody can tell.
    pub async fn standing(&mut self) -> Result<Standing, EngineError> {
        self.look().await?;
        let is_empty = is_empty(home(&self.settings));
        self.compare(is_empty).await
    }

    /// Changes what is kept, from the next prune on.
    pub fn set_keep(&mut self, keep: crate::settings::Keep) {
        Arc::make_mut(&mut self.settings).keep = keep;
    }

    /// The store itself, for what only reads; needs neither a home nor its lock.
    pub fn reader(&self) -> Reader {
        self.reader.clone()
    }

    /// Asks the store for the newest snapshot, and settles which of our own attempts to publish have worked.
    async fn look(&mut self) -> Result<(), EngineError> {
        // Whatever was known before may be wrong now.
        self.known = None;
        let known = self.reader.newest().await?;
        if let Some(newest) = &known.newest {
            self.settle_intents(newest).await?;
        }
        self.known = Some(known);
        Ok(())
    }

    /// Finds out which attempts whose end nobody has heard are snapshots now, be it one that others have followed already: the
    /// home descends from the last of them. Where the lineage cannot be read they stay unsettled.
    async fn settle_intents(&mut self, newest: &Pointer) -> Result<(), EngineError> {
        if self.marker.marker.intents.is_empty() {
            return Ok(());
        }
        let lineage: Vec<Pointer> =
            match self.reader.read(&newest.manifest, Some(&newest.manifest_sha256)).await {
                Ok((manifest, _)) => {
                    let ancestors = manifest.about.ancestors.into_iter().map(|ancestor| ancestor.pointer);
                    std::iter::once(newest.clone()).chain(ancestors).collect()
                }
                Err(EngineError::Damaged(_) | EngineError::Unreadable(_)) => vec![newest.clone()],
                Err(error) => return Err(error),
            };
        let says = Descent::read(home(&self.settings))?;
        let intents = &mut self.marker.marker.intents;
        let is_intended = |one: &&Pointer| intents.iter().any(|intent| intent.id == one.id);
        let Some(published) = lineage.iter().find(is_intended).cloned() else { return Ok(()) };
        // An attempt of a home that is not here any more says nothing about the one that is.
        let is_ours = |one: &&Pointer| intents.iter().any(|intent| intent.id == one.id && says.made(intent));
        let ours = lineage.iter().find(is_ours).cloned();
        log::info!(snapshot:% = published.id; "a snapshot had been published though nobody heard of it");
        intents.retain(|intent| lineage.iter().all(|one| one.id != intent.id));
        match ours {
            Some(ours) => self.descend_from(ours),
            None => self.marker.write(),
        }
    }

    /// Compares the home with what the store said last.
    async fn compare(&mut self, home_is_empty: bool) -> Result<Standing, EngineError> {
        let known = self.known.as_ref().ok_or_else(cannot_tell)?;
        if self.is_fenced {
            return Ok(Standing::Fenced);
        }
        let says = Descent::read(home(&self.settings))?;
        let mut compared = Compared {
            newest: known.newest.as_ref().map(|newest| (&newest.id, known.epoch())),
            base: says.base.as_ref().map(|base| &base.id),
            base_ancestors: &[],
            epoch: self.epoch,
            home_is_empty,
        };
        let mut found = standing(compared);
        if let (Standing::Diverged, Some(base)) = (found, &says.base) {
            // The store may have been put back to an earlier state: then the home has all of it, and more.
            match self.reader.read(&base.manifest, Some(&base.manifest_sha256)).await {
                Ok((manifest, _)) => {
                    let ancestors = manifest.about.ancestors.into_iter();
                    let ancestors: Vec<Id> = ancestors.map(|ancestor| ancestor.pointer.id).collect();
                    compared.base_ancestors = &ancestors;
                    found = standing(compared);
                }
                Err(EngineError::Damaged(_) | EngineError::Unreadable(_)) => {}
                Err(error) => return Err(error),
            }
        }
        if found == Standing::Diverged && self.holds_the_newest().await? {
            found = Standing::Current;
        }
        self.is_fenced = found == Standing::Fenced;
        Ok(found)
    }

    /// Whether the home holds exactly what the newest snapshot holds, whatever it says of itself: then that was lost, such as
    /// in a copy of all that is known by name, and the home descends from it. Asked once for each newest one.
    async fn holds_the_newest(&mut self) -> Result<bool, EngineError> {
        let newest = self.known.as_ref().and_then(|known| known.newest.clone());
        let Some(newest) = newest.filter(|newest| self.differs.as_ref() != Some(&newest.id)) else {
            return Ok(false);
        };
        let is_same = match self.reader.read(&newest.manifest, Some(&newest.manifest_sha256)).await {
            Ok((manifest, _)) => gather::holds(Arc::clone(&self.settings), manifest).await,
            Err(EngineError::Damaged(_) | EngineError::Unreadable(_)) => false,
            Err(error) => return Err(error),
        };
        if is_same {
            log::info!(snapshot:% = newest.id; "the home holds the newest snapshot, and follows it from now on");
            self.descend_from(newest)?;
        } else {
            self.differs = Some(newest.id);
        }
        Ok(is_same)
    }

    /// The home descends from this one from now on, and says so.
    fn descend_from(&mut self, newest: Pointer) -> Result<(), EngineError> {
        let home = home(&self.settings);
        let says = Descent::read(home)?;
        if says.base.as_ref() != Some(&newest) {
            Descent { base: Some(newest.clone()), attempt: None, ..says }.write(home)?;
        }
        self.has_published(&newest.id)
    }

    /// Settles what was attempted, now that this is published.
    fn has_published(&mut self, newest: &Id) -> Result<(), EngineError> {
        let store = self.store.to_string();
        if self.marker.marker.store != store || !self.marker.marker.intents.is_empty() {
            self.marker.marker.store = store;
            self.marker.marker.is_published(newest, !self.is_cut);
            self.marker.write()?;
        }
        Ok(())
    }

    /// Whether the store keeps its word, asked once.
    async fn conditions(&mut self) -> Result<Conditions, EngineError> {
        if let Some(conditions) = self.conditions {
            return Ok(conditions);
        }
        let conditions = self.store.conditions().await?;
        if conditions == Conditions::Ignored {
            if self.known.as_ref().is_some_and(|known| known.head.is_some()) {
                return Err(EngineError::Refused(format!(
                    "{} ignores conditional requests, but has a HEAD from a store that did not; delete HEAD there once, then \
                     the newest manifest counts",
                    self.store
                )));
            }
            log::warn!(store:% = self.store; "this store ignores conditional requests: HEAD is not written, and nothing is pruned unless single_writer is set");
        }
        self.conditions = Some(conditions);
        Ok(conditions)
    }
}

fn home(settings: &Settings) -> &Path {
    settings.roots.first().map_or(Path::new(""), |root| &root.path)
}

/// Where a restore that is under way says so.
fn journal(home: &Path) -> std::path::PathBuf {
    beside(home, "snapshotd.restore.json")
}

fn cannot_tell() -> EngineError {
    EngineError::Refused("the store has not been read yet".to_owned())
}

/// A home that was emptied is not the one that it was: what is written into it next descends from nothing. On disk before
/// any store is asked, because that may fail.
fn forget_if_empty(home: &Path) -> Result<(), EngineError> {
    if is_empty(home) { Descent::forget(home) } else { Ok(()) }
}

/// Whether there is nothing in a directory but directories, or no directory at all; what is ours in it is not counted.
fn is_empty(directory: &Path) -> bool {
    use crate::take::{DESCENT, STAGING};

    let Ok(entries) = std::fs::read_dir(directory) else { return !directory.exists() };
    let mut others =
        entries.flatten().filter(|entry| entry.file_name() != STAGING && entry.file_name() != DESCENT);
    others.all(|entry| entry.file_type().is_ok_and(|kind| kind.is_dir()) && is_empty(&entry.path()))
}
