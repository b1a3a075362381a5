//! The reading of a home and the storing of what it makes: packs and blobs, then the manifest, each checked, and every key
//! written down in the marker before it is used.

use std::ops::ControlFlow;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use bytes::Bytes;
use jiff::Timestamp;
use tokio::sync::{mpsc, oneshot};

use super::descent::Descent;
use super::{Engine, EngineError, Summary, home};
use crate::digest::{Digest, Hasher};
use crate::head::Pointer;
use crate::layout::Id;
use crate::manifest::{About, Ancestor, Manifest, StoredObject, count, tree_digest};
use crate::progress::{Progress, Step};
use crate::settings::{Settings, Verify};
use crate::store::{Source, Store, StoreError, Trouble};
use crate::take::{Job, Made, MadeBytes, TakeError, Taken, take};
use crate::threads::blocking;

/// Serena's own configuration, which lists its projects.
const SERENA_CONFIG: &str = "serena_config.yml";

/// What a long work is told, and can be told.
#[derive(Clone)]
pub(super) struct Work {
    pub reason: String,
    pub progress: Arc<Progress>,
    pub cancelled: Arc<AtomicBool>,
}

/// What was read and stored, but for the manifest.
pub(super) struct Gathered {
    pub taken: Taken,
    /// Bytes that were sent.
    pub sent: u64,
}

impl Engine {
    /// Reads the home on a thread of its own, and stores what it makes; every key is written down before it is used.
    pub(super) async fn gather(
        &mut self,
        id: &Id,
        manifest_key: &str,
        base: Option<Arc<Manifest>>,
        work: &Work,
    ) -> Result<Gathered, EngineError> {
        let (send, mut made) = mpsc::channel::<(Made, oneshot::Sender<Result<(), StoreError>>)>(1);
        let seen = self.seen.take().filter(|(of, _)| base.as_ref().is_some_and(|base| base.about.id == *of));
        let (settings, told) = (Arc::clone(&self.settings), work.clone());
        let mut reading = std::pin::pin!(blocking(move || {
            let job = Job {
                roots: &settings.roots,
                base: base.as_deref(),
                seen: seen.as_ref().map(|(_, seen)| seen),
                spool: &settings.spool,
                seal: settings.seal.as_deref(),
                blob_from: settings.blob_from,
                progress: &told.progress,
                cancelled: &told.cancelled,
            };
            let taken = take(&job, &mut |made| {
                let (answer, stored) = oneshot::channel();
                send.blocking_send((made, answer)).map_err(|_| called_off())?;
                stored.blocking_recv().unwrap_or_else(|_| Err(called_off()))
            });
            // Ends the loop below.
            drop(send);
            (taken, seen)
        }));
        let mut sent = 0;
        let mut failed = None;
        let mut intended = false;
        let (taken, seen) = loop {
            let next = self.alive(async {
                tokio::select! {
                    biased;
                    Some(made) = made.recv() => ControlFlow::Continue(made),
                    done = &mut reading => ControlFlow::Break(done),
                }
            });
            let (made, answer) = match next.await {
                ControlFlow::Continue(made) => made,
                ControlFlow::Break(done) => break done,
            };
            let size = made.size;
            work.progress.begin(Step::Sending, size, 0);
            let begun = if intended { Ok(()) } else { self.begin(id, manifest_key) };
            intended = true;
            let stored = match begun {
                Ok(()) => self.store_made(made).await,
                Err(error) => Err(error),
            };
            sent += size;
            let told = match stored {
                Ok(()) => Ok(()),
                Err(error) => {
                    failed = Some(error);
                    Err(called_off())
                }
            };
            let _gone_if_cancelled = answer.send(told);
        };
        match (taken, failed) {
            (Ok(taken), None) => {
                if !intended && matches!(taken, Taken::New(_)) {
                    self.begin(id, manifest_key)?;
                    self.marker.write()?;
                }
                Ok(Gathered { taken, sent })
            }
            (taken, failed) => {
                self.seen = seen;
                Err(failed
                    .or(taken.err().map(EngineError::from))
                    .unwrap_or_else(|| TakeError::Cancelled.into()))
            }
        }
    }

    /// Begins an attempt, which the marker has to be told before anything is stored. A home that descends from nothing says
    /// which one it is: so it is known again, if nobody hears that it was published.
    fn begin(&mut self, id: &Id, manifest_key: &str) -> Result<(), EngineError> {
        let mut says = Descent::read(home(&self.settings))?;
        if says.known_by().is_none() {
            says.attempt = Some(id.clone());
            says.write(home(&self.settings))?;
        }
        self.marker.marker.intend(id.clone(), says.known_by().cloned(), manifest_key.to_owned());
        Ok(())
    }

    async fn store_made(&mut self, made: Made) -> Result<(), EngineError> {
        let Made { key, size, sha256, bytes } = made;
        if let Some(intent) = self.marker.marker.intents.last_mut() {
            intent.keys.push(key.clone());
        }
        self.marker.write()?;
        let source = match &bytes {
            MadeBytes::Memory(bytes) => Source::Bytes(bytes.clone()),
            MadeBytes::Spooled(file) => Source::File { file, size, sha256 },
        };
        let (store, verify) = (self.store.clone(), self.settings.verify);
        self.alive(put_checked(&store, &key, source, size, &sha256, verify)).await?;
        Ok(())
    }

    /// Stores a manifest; what names it.
    pub(super) async fn put_manifest(
        &self,
        key: String,
        manifest: &Arc<Manifest>,
    ) -> Result<Pointer, EngineError> {
        let (seal, encoded) = (self.settings.seal.clone(), Arc::clone(manifest));
        let bytes = blocking(move || {
            let mut bytes = Vec::new();
            match seal {
                None => encoded.write(&mut bytes)?,
                Some(seal) => {
                    let mut sealed = seal.writer(&mut bytes)?;
                    encoded.write(&mut sealed)?;
                    sealed.finish()?;
                }
            }
            Ok::<Bytes, std::io::Error>(bytes.into())
        });
        let bytes = bytes.await.map_err(|cause| EngineError::Home { path: key.clone(), cause })?;
        let (size, stored) = (bytes.len() as u64, Digest::of(&bytes));
        put_checked(&self.store, &key, Source::Bytes(bytes), size, &stored, self.settings.verify).await?;
        Ok(manifest.pointer(key, stored))
    }
}

/// Whether the roots hold exactly what a manifest says.
pub(super) async fn holds(settings: Arc<Settings>, manifest: Manifest) -> bool {
    let taken = blocking(move || {
        let job = Job {
            roots: &settings.roots,
            base: Some(&manifest),
            seen: None,
            spool: &settings.spool,
            seal: settings.seal.as_deref(),
            blob_from: settings.blob_from,
            progress: &Progress::default(),
            cancelled: &AtomicBool::new(false),
        };
        take(&job, &mut |_| Err(called_off()))
    });
    matches!(taken.await, Ok(Taken::Same(_)))
}

pub(super) fn summary(manifest: &Manifest, sent: u64, skipped: Vec<(String, String)>) -> Summary {
    let About { id, files, bytes, unsettled, .. } = &manifest.about;
    Summary { id: id.clone(), files: *files, bytes: *bytes, sent, unsettled: *unsettled, skipped }
}

/// A manifest of what was read just now.
pub(super) fn made(
    settings: &Settings,
    id: Id,
    work: &Work,
    entries: Vec<crate::manifest::Entry>,
    objects: Vec<StoredObject>,
    ancestors: Vec<Ancestor>,
) -> Manifest {
    let (files, bytes, unsettled) = count(&entries);
    let about = About {
        id,
        created: Timestamp::now(),
        writer: settings.writer.clone(),
        reason: work.reason.clone(),
        tree: tree_digest(&entries),
        files,
        bytes,
        unsettled,
        projects: projects(settings),
        objects,
        ancestors,
    };
    Manifest { about, entries }
}

/// Stores an object and makes sure that it is there as it was sent.
async fn put_checked(
    store: &Store,
    key: &str,
    source: Source<'_>,
    size: u64,
    sha256: &Digest,
    verify: Verify,
) -> Result<(), StoreError> {
    let damaged = |detail: &str| StoreError {
        what: format!("store {key} in {store}"),
        detail: detail.to_owned(),
        trouble: Trouble::Damaged,
    };
    let put = store.put(key, source).await?;
    let found = store.stat(key).await?;
    if found.as_ref() != Some(&put) || put.size != size {
        return Err(damaged("it is not there as it was sent"));
    }
    if verify == Verify::Read {
        let mut reading = store.open(key).await?.ok_or_else(|| damaged("it is gone at once"))?;
        let mut hasher = Hasher::new();
        while let Some(chunk) = reading.next().await? {
            hasher.update(&chunk);
        }
        if hasher.finish() != *sha256 {
            return Err(damaged("read back, it has other bytes"));
        }
    }
    Ok(())
}

fn called_off() -> StoreError {
    StoreError { what: "store".to_owned(), detail: "called off".to_owned(), trouble: Trouble::Busy }
}

/// How many projects Serena has registered: the items of the list `projects:` in its configuration. Serena drops a project
/// whose directory is missing when it next saves, so a restore before the checkouts exist shows here.
fn projects(settings: &Settings) -> Option<u64> {
    let text = std::fs::read_to_string(home(settings).join(SERENA_CONFIG)).ok()?;
    count_projects(&text)
}

fn count_projects(text: &str) -> Option<u64> {
    let mut lines = text.lines().skip_while(|line| !line.starts_with("projects:"));
    let rest = lines.next()?.strip_prefix("projects:")?.split('#').next().unwrap_or_default().trim();
    if let Some(inline) = rest.strip_prefix('[').and_then(|rest| rest.strip_suffix(']')) {
        return Some(inline.split(',').filter(|item| !item.trim().is_empty()).count() as u64);
    }
    let in_list = |line: &&str| line.is_empty() || line.starts_with([' ', '-', '#']);
    Some(lines.take_while(in_list).filter(|line| line.trim_start().starts_with('-')).count() as u64)
}

#[cfg(test)]
mod tests {
    use super::count_projects;

    #[test]
    fn projects_are_counted_as_serena_writes_them() {
        for (text, expected) in [
            ("a: 1\nprojects:\n- /one\n- /two\n# c\nb: 2\n- x", Some(2)),
            ("projects: []\n", Some(0)),
            ("projects:\n  - /one\n  - /two\n", Some(2)),
            ("projects: [/one, /two] # two\n", Some(2)),
            ("projects:\n", Some(0)),
            ("no_projects: 1\n", None),
        ] {
            assert_eq!(count_projects(text), expected, "{text}");
        }
    }
}
