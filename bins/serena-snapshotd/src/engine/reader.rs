//! Reads a store: what is the newest, what there is besides, and what is in it. Three-valued: there is one, there is none
//! (the store said so, authenticated), or an error, which means that nobody can tell.

use std::sync::Arc;

use bytes::Bytes;

use super::{EngineError, Selector};
use crate::digest::Digest;
use crate::head::{Head, HeadError, MAX_HEAD, Pointer};
use crate::layout::{FORKS, HEAD, Id, MANIFESTS};
use crate::manifest::{MAX_STORED, Manifest, ManifestError};
use crate::seal::{self, Seal};
use crate::store::{Etag, Store};
use crate::threads::blocking;

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
    pub newest: Option<Pointer>,
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

impl Reader {
    /// For a partition of a store.
    pub fn new(store: Store, seal: Option<Arc<Seal>>) -> Self {
        Reader { store, seal }
    }

    /// Asks for the newest snapshot: what `HEAD` says, and only where there is no `HEAD` what the list of manifests says.
    pub(super) async fn newest(&self) -> Result<Known, EngineError> {
        if let Some(object) = self.store.get(HEAD, MAX_HEAD).await? {
            let head = Head::parse(&object.bytes).map_err(|error| {
                let line = mcp_daemon::exit::chain(&error);
                match error {
                    HeadError::Version(_) => EngineError::Unreadable(line),
                    HeadError::Json(_) | HeadError::Manifest(_) | HeadError::TooLarge => {
                        EngineError::Damaged(line)
                    }
                }
            })?;
            return Ok(Known { newest: Some(head.newest.clone()), head: Some((head, object.etag)) });
        }
        let newest = match self.listed(MANIFESTS).await?.into_iter().next() {
            Some(key) => Some(self.newest_at(key).await?),
            None => None,
        };
        Ok(Known { newest, head: None })
    }

    /// What names the manifest at a key; a damaged one is named too, and is found to be damaged by whoever reads it.
    async fn newest_at(&self, key: String) -> Result<Pointer, EngineError> {
        match (self.read(&key, None).await, Id::of_key(&key)) {
            (Err(EngineError::Damaged(_)), Some(id)) => {
                Ok(Pointer { id, manifest: key, manifest_sha256: Digest::of(b""), tree: Digest::of(b"") })
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
    ) -> Result<(Manifest, Pointer), EngineError> {
        let missing = || EngineError::Damaged(format!("{key}: not there"));
        self.read_if_there(key, expected).await?.ok_or_else(missing)
    }

    /// The same; `None` if the store says that it is not there.
    pub(super) async fn read_if_there(
        &self,
        key: &str,
        expected: Option<&Digest>,
    ) -> Result<Option<(Manifest, Pointer)>, EngineError> {
        let Some(object) = self.store.get(key, MAX_STORED).await? else { return Ok(None) };
        let stored = Digest::of(&object.bytes);
        if expected.is_some_and(|expected| *expected != stored) {
            return Err(EngineError::Damaged(format!("{key}: not what was stored, its SHA-256 is {stored}")));
        }
        let manifest = self.decode(key, object.bytes).await?;
        if Id::of_key(key).as_ref() != Some(&manifest.about.id) {
            return Err(EngineError::Damaged(format!("{key}: is the manifest of {}", manifest.about.id)));
        }
        let pointer = manifest.pointer(key.to_owned(), stored);
        Ok(Some((manifest, pointer)))
    }

    async fn decode(&self, key: &str, bytes: Bytes) -> Result<Manifest, EngineError> {
        let seal = self.seal.clone();
        let name = key.to_owned();
        let decoded = blocking(move || {
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

    /// Finds and reads a manifest, checked against the digest that its successor or `HEAD` has for it.
    pub async fn manifest(&self, which: &Selector) -> Result<Manifest, EngineError> {
        Ok(self.find(which).await?.0)
    }

    /// The same, with what names it.
    pub(super) async fn find(&self, which: &Selector) -> Result<(Manifest, Pointer), EngineError> {
        let known = self.newest().await?;
        let wanted = |id: &Id| match which {
            Selector::Latest => false,
            Selector::Seq(seq) => id.seq == *seq,
            Selector::Id(wanted) => id == wanted,
        };
        let lineage = match &known.newest {
            Some(newest) => match self.read(&newest.manifest, Some(&newest.manifest_sha256)).await {
                // A damaged newest must not stand between a person and the older ones.
                Err(EngineError::Damaged(_) | EngineError::Unreadable(_))
                    if *which != Selector::Latest && !wanted(&newest.id) =>
                {
                    None
                }
                read => Some(read?),
            },
            None => None,
        };
        if let Some((manifest, newest)) = lineage {
            if *which == Selector::Latest || wanted(&newest.id) {
                return Ok((manifest, newest));
            }
            if let Some(ancestor) = manifest.about.ancestors.iter().find(|one| wanted(&one.pointer.id)) {
                return self.read(&ancestor.pointer.manifest, Some(&ancestor.pointer.manifest_sha256)).await;
            }
        }
        let mut keys = self.listed(MANIFESTS).await?;
        keys.extend(self.listed(FORKS).await?);
        keys.retain(|key| Id::of_key(key).is_some_and(|id| wanted(&id)));
        match keys.as_slice() {
            [] => Err(EngineError::NoSuchSnapshot(format!("there is no snapshot {which} in {}", self.store))),
            [key] => self.read(key, None).await,
            several => Err(ambiguous(which, several.iter().filter_map(|key| Id::of_key(key)))),
        }
    }
}

/// Several snapshots have one number: a person must say which is meant.
pub(super) fn ambiguous(which: &Selector, candidates: impl Iterator<Item = Id>) -> EngineError {
    let mut ids: Vec<String> = candidates.map(|id| id.to_string()).collect();
    ids.sort();
    EngineError::NoSuchSnapshot(format!(
        "several snapshots have the number {which}; write one of {}",
        ids.join(", ")
    ))
}
