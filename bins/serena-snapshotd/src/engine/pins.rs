//! Pins: the snapshots that `prune` must keep, because a person said so or because much was gone after them.

use std::collections::HashMap;

use serde::{Deserialize, Serialize};

use super::reader::ambiguous;
use super::{EngineError, Reader, Selector};
use crate::layout::{self, FORKS, Id, PINS};

/// Largest pin in bytes.
const MAX_PIN: u64 = 4096;

/// What a pin says.
#[derive(Debug, Deserialize, Serialize)]
struct Pin {
    id: Id,
    why: String,
}

/// A pin, and where it is.
pub(super) struct Pinned {
    pub why: String,
    key: String,
}

/// Why a snapshot is pinned by us rather than by a person.
pub(super) const SHRUNK: &str = "before a shrink";
/// Why it is pinned by a person.
pub(super) const ASKED: &str = "pin";

impl Reader {
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

    /// Pins a snapshot, and says where; one that is pinned already stays so for its own reason, but a person's is the stronger.
    pub(super) async fn put_pin(&self, id: &Id, why: &str) -> Result<String, EngineError> {
        let mut key = layout::pin(id);
        if let Some(object) = self.store.get(&key, MAX_PIN).await? {
            match serde_json::from_slice::<Pin>(&object.bytes) {
                Ok(pin) if pin.id == *id && (pin.why == why || why == SHRUNK) => return Ok(key),
                Ok(pin) if pin.id == *id => {}
                Ok(_) => key = layout::other_pin(id),
                Err(_) => {}
            }
        }
        let pin = Pin { id: id.clone(), why: why.to_owned() };
        let bytes = serde_json::to_vec(&pin).expect("strings are JSON");
        self.store.put(&key, crate::store::Source::Bytes(bytes.into())).await?;
        Ok(key)
    }

    /// Whether a snapshot is pinned at this moment.
    pub(super) async fn is_pinned(&self, id: &Id) -> Result<bool, EngineError> {
        Ok(self.pin_of(id).await?.is_some())
    }

    /// Lets a snapshot go that was pinned because much was gone after it; one that a person has pinned by now stays so.
    pub(super) async fn let_go(&self, id: &Id) -> Result<(), EngineError> {
        match self.pin_of(id).await? {
            Some((key, pin)) if pin.why == SHRUNK => Ok(self.store.delete(&key).await?),
            Some(_) | None => Ok(()),
        }
    }

    async fn pin_of(&self, id: &Id) -> Result<Option<(String, Pin)>, EngineError> {
        for key in [layout::pin(id), layout::other_pin(id)] {
            let Some(object) = self.store.get(&key, MAX_PIN).await? else { continue };
            let pin: Pin = serde_json::from_slice(&object.bytes)
                .map_err(|error| EngineError::Damaged(format!("{key}: {error}")))?;
            if pin.id == *id {
                return Ok(Some((key, pin)));
            }
        }
        Ok(None)
    }

    /// Lets it go again.
    pub async fn unpin(&self, which: &Selector) -> Result<Id, EngineError> {
        let pins = self.pins().await?;
        let id = match which {
            Selector::Latest => self.find(which).await?.1.id,
            Selector::Id(id) => id.clone(),
            Selector::Seq(seq) => {
                let mut several = pins.keys().filter(|id| id.seq == *seq).cloned();
                match (several.next(), several.next()) {
                    (None, _) => return Err(not_pinned(which)),
                    (Some(id), None) => id,
                    (Some(one), Some(other)) => {
                        return Err(ambiguous(which, [one, other].into_iter().chain(several)));
                    }
                }
            }
        };
        let pin = pins.get(&id).ok_or_else(|| not_pinned(which))?;
        self.store.delete(&pin.key).await?;
        Ok(id)
    }
}

fn not_pinned(which: &Selector) -> EngineError {
    EngineError::NoSuchSnapshot(format!("snapshot {which} is not pinned"))
}
