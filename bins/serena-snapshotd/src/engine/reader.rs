//! Reads a store: what is the newest, what there is besides, and what is in it. Three-valued: there is one, there is none
//! (the store said so, authenticated), or an error, which means that nobody can tell.

use std::collections::HashMap;
use std::sync::Arc;

use bytes::Bytes;
use serde::{Deserialize, Serialize};

use super::{EngineError, Place, Row, Selector};
use crate::digest::Digest;
use crate::head::{Head, MAX_HEAD, Newest};
use crate::layout::{self, FORKS, HEAD, Id, MANIFESTS, PINS};
use crate::manifest::{MAX_STORED, Manifest, ManifestError};
use crate::seal::{self, Seal};
use crate::store::{Etag, Store};

/// Largest pin in bytes.
const MAX_PIN: u64 = 4096;

/// Reads a store: what there is, and what is in it. Needs no home.
#[derive(Clone)]
pub struct Reader {
    pub(super) store: Store,
    seal: Option<Arc<Seal>>,
}

/// What the store says about the newest snapshot.
#[derive(Clone, Debug)]
pub(super) struct Known {
    /// The newest snapshot; `None`: there is none at all.
    pub newest: Option<Newest>,
    /// `HEAD` and what to expect when it is replaced; `None`: there is no `HEAD`.
    pub head: Option<(Head, Etag)>,
}

impl Known {
    /// The highest epoch that was seen.
    pub fn epoch(&self) -> u64 {
        let head = self.head.as_ref().map_or(0, |(head, _)| head.epoch);
        head.max(self.newest.as_ref().map_or(0, |newest| newest.id.epoch))
    }
}

/// What a pin says.
#[derive(Debug, Deserialize, Serialize)]
struct Pin {
    id: Id,
    why: String,
}

/// A pin, and where it is.
pub(super) struct Pinned {
    why: String,
    key: String,
}

/// Why a snapshot is pinned by us rather than by a person.
pub(super) const SHRUNK: &str = "before a shrink";
/// Why it is pinned by a person.
const ASKED: &str = "pin";

impl Reader {
    /// For a partition of a store.
    pub fn new(store: Store, seal: Option<Arc<Seal>>) -> Self {
        Reader { store, seal }
    }

    /// Asks for the newest snapshot: what `HEAD` says, and only where there is no `HEAD` what the list of manifests says.
    pub(super) async fn newest(&self) -> Result<Known, EngineError> {
        if let Some(object) = self.store.get(HEAD, MAX_HEAD).await? {
            let head = Head::parse(&object.bytes)
                .map_err(|error| EngineError::Damaged(mcp_daemon::exit::chain(&error)))?;
            return Ok(Known { newest: Some(head.newest.clone()), head: Some((head, object.etag)) });
        }
        let newest = match self.listed(MANIFESTS).await?.into_iter().next() {
            Some(key) => Some(self.newest_at(key).await?),
            None => None,
        };
        Ok(Known { newest, head: None })
    }

    /// What names the manifest at a key; a damaged one is named too, and is found to be damaged by whoever reads it.
    async fn newest_at(&self, key: String) -> Result<Newest, EngineError> {
        match (self.read(&key, None).await, Id::of_key(&key)) {
            (Err(EngineError::Damaged(_)), Some(id)) => {
                Ok(Newest { id, manifest: key, manifest_sha256: Digest::of(b""), tree: Digest::of(b"") })
            }
            (read, _) => Ok(read?.1),
        }
    }

    /// The keys of manifests below a prefix, the newest first: by epoch, then by number.
    pub(super) async fn listed(&self, prefix: &str) -> Result<Vec<String>, EngineError> {
        let mut found: Vec<(Id, String)> = Vec::new();
        for listed in self.store.list(prefix).await? {
            if let Some(id) = Id::of_key(&listed.key) {
                found.push((id, listed.key));
            }
        }
        found.sort_by(|(one, _), (other, _)| {
            (other.epoch, other.seq, &other.nonce).cmp(&(one.epoch, one.seq, &one.nonce))
        });
        Ok(found.into_iter().map(|(_, key)| key).collect())
    }

    /// Reads a manifest, checked against its digest where that is known.
    pub(super) async fn read(
        &self,
        key: &str,
        expected: Option<&Digest>,
    ) -> Result<(Manifest, Newest), EngineError> {
        let missing = || EngineError::Damaged(format!("{key}: not there"));
        let object = self.store.get(key, MAX_STORED).await?.ok_or_else(missing)?;
        let stored = Digest::of(&object.bytes);
        if expected.is_some_and(|expected| *expected != stored) {
            return Err(EngineError::Damaged(format!("{key}: not what was stored, its SHA-256 is {stored}")));
        }
        let manifest = self.decode(key, object.bytes).await?;
        if Id::of_key(key).as_ref() != Some(&manifest.about.id) {
            return Err(EngineError::Damaged(format!("{key}: is the manifest of {}", manifest.about.id)));
        }
        let newest = manifest.newest(key.to_owned(), stored);
        Ok((manifest, newest))
    }

    async fn decode(&self, key: &str, bytes: Bytes) -> Result<Manifest, EngineError> {
        let seal = self.seal.clone();
        let name = key.to_owned();
        let decoded = super::blocking(move || {
            let plain = seal::open(&name, seal.as_deref(), &bytes[..]).map_err(ManifestError::Zstd)?;
            Manifest::read(plain)
        });
        decoded.await.map_err(|error| {
            let line = format!("{key}: {}", mcp_daemon::exit::chain(&error));
            match error {
                ManifestError::Version(_) => EngineError::Unreadable(line),
                ManifestError::Zstd(cause) if cause.kind() == std::io::ErrorKind::PermissionDenied => {
                    EngineError::Unreadable(line)
                }
                ManifestError::Contradiction(_)
                | ManifestError::Entry { .. }
                | ManifestError::Json(_)
                | ManifestError::Zstd(_) => EngineError::Damaged(line),
            }
        })
    }

    /// Everything there is, the newest first, forks last.
    pub async fn list(&self) -> Result<Vec<Row>, EngineError> {
        let known = self.newest().await?;
        let pins = self.pins().await.unwrap_or_else(|error| {
            log::warn!(error = mcp_daemon::exit::chain(&error); "the pins cannot be read");
            HashMap::new()
        });
        let keys = self.listed(MANIFESTS).await?;
        let mut rows = Vec::new();
        let mut lineage: Vec<Id> = Vec::new();
        if let Some(newest) = &known.newest {
            let ancestors = match self.read(&newest.manifest, Some(&newest.manifest_sha256)).await {
                Ok((manifest, _)) => {
                    rows.push(row(&manifest, Place::Newest));
                    manifest.about.ancestors
                }
                // A person then wants to see the older ones all the more.
                Err(EngineError::Damaged(why)) => {
                    log::error!(why; "the newest snapshot cannot be read");
                    Vec::new()
                }
                Err(error) => return Err(error),
            };
            for ancestor in &ancestors {
                if keys.contains(&ancestor.newest.manifest) {
                    rows.push(Row {
                        id: ancestor.newest.id.clone(),
                        created: ancestor.created,
                        files: ancestor.files,
                        bytes: ancestor.bytes,
                        place: Place::Ancestor,
                        pinned: None,
                    });
                }
            }
            lineage.extend(rows.iter().map(|row| row.id.clone()));
        }
        for row in &mut rows {
            row.pinned = pins.get(&row.id).map(|pin| if pin.why == SHRUNK { SHRUNK } else { ASKED });
        }
        let others = keys.into_iter().filter(|key| Id::of_key(key).is_some_and(|id| !lineage.contains(&id)));
        for key in others.chain(self.listed(FORKS).await?) {
            match self.read(&key, None).await {
                Ok((manifest, _)) => rows.push(row(&manifest, Place::Fork)),
                // One that is damaged, or just gone, must not hide the others.
                Err(EngineError::Damaged(why) | EngineError::Unreadable(why)) => {
                    log::warn!(why; "a manifest cannot be read");
                }
                Err(error) => return Err(error),
            }
        }
        Ok(rows)
    }

    /// Finds and reads a manifest, checked against the digest that its successor or `HEAD` has for it.
    pub async fn manifest(&self, which: &Selector) -> Result<Manifest, EngineError> {
        Ok(self.find(which).await?.0)
    }

    /// The same, with what names it.
    pub(super) async fn find(&self, which: &Selector) -> Result<(Manifest, Newest), EngineError> {
        let known = self.newest().await?;
        let lineage = match &known.newest {
            // A damaged newest must not stand between a person and the older ones.
            Some(newest) => match self.read(&newest.manifest, Some(&newest.manifest_sha256)).await {
                Err(EngineError::Damaged(_) | EngineError::Unreadable(_)) if *which != Selector::Latest => {
                    None
                }
                read => Some(read?),
            },
            None => None,
        };
        let wanted = |id: &Id| match which {
            Selector::Latest => false,
            Selector::Seq(seq) => id.seq == *seq,
            Selector::Id(wanted) => id == wanted,
        };
        if let Some((manifest, newest)) = lineage {
            if *which == Selector::Latest || wanted(&newest.id) {
                return Ok((manifest, newest));
            }
            if let Some(ancestor) = manifest.about.ancestors.iter().find(|one| wanted(&one.newest.id)) {
                return self.read(&ancestor.newest.manifest, Some(&ancestor.newest.manifest_sha256)).await;
            }
        }
        let mut keys = self.listed(MANIFESTS).await?;
        keys.extend(self.listed(FORKS).await?);
        keys.retain(|key| Id::of_key(key).is_some_and(|id| wanted(&id)));
        match keys.as_slice() {
            [] => Err(EngineError::NoSuchSnapshot(format!("there is no snapshot {which} in {}", self.store))),
            [key] => self.read(key, None).await,
            several => {
                let ids: Vec<String> =
                    several.iter().filter_map(|key| Some(Id::of_key(key)?.to_string())).collect();
                Err(EngineError::NoSuchSnapshot(format!(
                    "several snapshots have the number {which}; write one of {}",
                    ids.join(", ")
                )))
            }
        }
    }

    /// What is pinned, and why.
    pub(super) async fn pins(&self) -> Result<HashMap<Id, Pinned>, EngineError> {
        let mut pins = HashMap::new();
        for listed in self.store.list(PINS).await? {
            // Gone in between: then it is no pin any more.
            let Some(object) = self.store.get(&listed.key, MAX_PIN).await? else { continue };
            let pin: Pin = serde_json::from_slice(&object.bytes)
                .map_err(|error| EngineError::Damaged(format!("{}: {error}", listed.key)))?;
            pins.insert(pin.id, Pinned { why: pin.why, key: listed.key });
        }
        Ok(pins)
    }

    /// Keeps a snapshot of the lineage from `prune`.
    pub async fn pin(&self, which: &Selector) -> Result<Id, EngineError> {
        let (_, newest) = self.find(which).await?;
        if newest.manifest.starts_with(FORKS) {
            return Err(EngineError::Refused("a fork needs no pin: `prune` leaves forks alone".to_owned()));
        }
        let key = self.put_pin(&newest.id, ASKED).await?;
        // A prune that had decided before it could see the pin may have taken it away.
        if self.store.stat(&newest.manifest).await?.is_none() {
            self.store.delete(&key).await?;
            return Err(EngineError::NoSuchSnapshot(format!("snapshot {which} was deleted just now")));
        }
        Ok(newest.id)
    }

    /// Pins a snapshot, and says where; one that is pinned already stays so for its own reason.
    pub(super) async fn put_pin(&self, id: &Id, why: &str) -> Result<String, EngineError> {
        let mut key = layout::pin(id);
        if let Some(object) = self.store.get(&key, MAX_PIN).await? {
            match serde_json::from_slice::<Pin>(&object.bytes) {
                Ok(pin) if pin.id == *id => return Ok(key),
                Ok(_) => key = layout::other_pin(id),
                Err(_) => {}
            }
        }
        let pin = Pin { id: id.clone(), why: why.to_owned() };
        let bytes = serde_json::to_vec(&pin).expect("strings are JSON");
        self.store.put(&key, crate::store::Source::Bytes(bytes.into())).await?;
        Ok(key)
    }

    /// Lets it go again.
    pub async fn unpin(&self, which: &Selector) -> Result<Id, EngineError> {
        let pins = self.pins().await?;
        let id = match which {
            Selector::Latest => self.find(which).await?.1.id,
            Selector::Id(id) => id.clone(),
            Selector::Seq(seq) => {
                pins.keys().find(|id| id.seq == *seq).cloned().unwrap_or_else(|| Id::new(*seq, 0))
            }
        };
        let Some(pin) = pins.get(&id) else {
            return Err(EngineError::NoSuchSnapshot(format!("snapshot {which} is not pinned")));
        };
        self.store.delete(&pin.key).await?;
        Ok(id)
    }
}

fn row(manifest: &Manifest, place: Place) -> Row {
    let about = &manifest.about;
    Row {
        id: about.id.clone(),
        created: about.created,
        files: about.files,
        bytes: about.bytes,
        place,
        pinned: None,
    }
}
