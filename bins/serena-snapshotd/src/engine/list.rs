//! What there is: a row for each snapshot, be it damaged, so that nobody takes one that cannot be read for one that is not
//! there.

use std::collections::HashMap;

use super::pins::{ASKED, SHRUNK};
use super::{Engine, EngineError, Held, Place, Reader, Row};
use crate::layout::{FORKS, Id, MANIFESTS};
use crate::manifest::Manifest;

/// Most partitions that are named to who may have mistyped one.
const MAX_NAMED: usize = 20;

impl Reader {
    /// Everything there is, the newest first, forks last.
    pub async fn list(&self) -> Result<Vec<Row>, EngineError> {
        let known = self.newest().await?;
        let pins = self.pins().await.unwrap_or_else(|error| {
            log::warn!(error = mcp_daemon::exit::chain(&error); "the pins cannot be read");
            HashMap::new()
        });
        let keys = self.listed(MANIFESTS).await?;
        let mut rows = Vec::new();
        if let Some(newest) = &known.newest {
            match self.read(&newest.manifest, Some(&newest.manifest_sha256)).await {
                Ok((manifest, _)) => {
                    rows.push(row(&manifest, Place::Newest));
                    for ancestor in manifest.about.ancestors {
                        if keys.contains(&ancestor.pointer.manifest) {
                            let (created, files, bytes) = (ancestor.created, ancestor.files, ancestor.bytes);
                            let held = Ok(Held { created, files, bytes });
                            rows.push(Row {
                                id: ancestor.pointer.id,
                                held,
                                place: Place::Ancestor,
                                pinned: None,
                            });
                        }
                    }
                }
                // A person then wants to see the older ones all the more.
                Err(EngineError::Damaged(why)) => {
                    rows.push(Row {
                        id: newest.id.clone(),
                        held: Err(why),
                        place: Place::Newest,
                        pinned: None,
                    });
                }
                Err(error) => return Err(error),
            }
        }
        let lineage: Vec<Id> = rows.iter().map(|row| row.id.clone()).collect();
        let mut others = Vec::new();
        for key in keys.into_iter().chain(self.listed(FORKS).await?) {
            others.extend(Id::of_key(&key).filter(|id| !lineage.contains(id)).map(|id| (id, key)));
        }
        for (id, key) in others {
            match self.read_if_there(&key, None).await {
                Ok(Some((manifest, _))) => rows.push(row(&manifest, Place::Fork)),
                // Just deleted.
                Ok(None) => {}
                Err(EngineError::Damaged(why) | EngineError::Unreadable(why)) => {
                    rows.push(Row { id, held: Err(why), place: Place::Fork, pinned: None });
                }
                Err(error) => return Err(error),
            }
        }
        for row in &mut rows {
            row.pinned = pins.get(&row.id).map(|pin| if pin.why == SHRUNK { SHRUNK } else { ASKED });
        }
        Ok(rows)
    }
}

impl Engine {
    /// Says which partitions there are besides one that has no snapshot yet: a mistyped name must not pass for a new home
    /// without a word.
    pub async fn name_others(&self) {
        let ours = self.settings.partition.as_str();
        match self.store.partitions().await {
            Ok(mut there) => {
                there.retain(|name| name != ours);
                if !there.is_empty() {
                    let more = there.len().saturating_sub(MAX_NAMED);
                    there.truncate(MAX_NAMED);
                    let there = there.join(", ");
                    log::warn!(partition = ours, there, more; "this partition has no snapshot yet, others have; is its name right?");
                }
            }
            Err(error) => log::debug!(error:% = error; "the partitions beside this one cannot be listed"),
        }
    }
}

fn row(manifest: &Manifest, place: Place) -> Row {
    let about = &manifest.about;
    let held = Held { created: about.created, files: about.files, bytes: about.bytes };
    Row { id: about.id.clone(), held: Ok(held), place, pinned: None }
}
