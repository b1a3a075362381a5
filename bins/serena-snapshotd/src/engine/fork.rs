//! What a home keeps when it may not be published: one fork, complete in itself, in `forks/`. A new one replaces the one
//! before it of the same home, as a snapshot follows another, and nobody else's.

use std::sync::Arc;

use super::descent::Descent;
use super::gather::{Work, made, summary};
use super::retain::{Extent, has_shrunk};
use super::{Engine, EngineError, Outcome, Standing};
use crate::layout::Id;
use crate::manifest::{About, Manifest};
use crate::take::{Draft, Taken};

impl Engine {
    pub(super) async fn fork(&mut self, work: &Work, standing: Standing) -> Result<Outcome, EngineError> {
        let newest =
            self.known.as_ref().and_then(|known| known.newest.as_ref()).map(|newest| newest.id.clone());
        let home = super::home(&self.settings);
        let says = Descent::read(home)?;
        if says.base.is_none() && super::is_empty(home) {
            return Err(EngineError::Refused(format!(
                "{} is empty, and there is a snapshot: `serena-snapshotd restore` first",
                home.display()
            )));
        }
        let last = self.last_fork(&says).await?;
        let seq = says.base.as_ref().map_or(0, |base| base.id.seq) + 1;
        let epoch = self.epoch.or(says.base.as_ref().map(|base| base.id.epoch)).unwrap_or(1);
        let id = Id::new(seq, epoch);
        let key = id.fork(self.settings.seal.is_some());
        let gathered = self.gather(&id, &key, last.clone(), work).await?;
        let (draft, sent) = match gathered.taken {
            Taken::Same(seen) => {
                let last = last.expect("only what there is can be the same");
                self.seen = Some((last.about.id.clone(), seen));
                // Kept already, and no more published than before.
                return Ok(Outcome::Forked(summary(&last, 0, Vec::new()), standing));
            }
            Taken::New(draft) => (draft, gathered.sent),
        };
        let Draft { entries, objects, seen, skipped } = draft;
        let manifest = Arc::new(made(&self.settings, id.clone(), work, entries, objects, Vec::new()));
        let fork = self.put_manifest(key, &manifest).await?;
        let home = super::home(&self.settings);
        let mut says = Descent::read(home)?;
        let before = says.fork.replace(fork);
        let marker = &mut self.marker.marker;
        marker.intents.retain(|intent| intent.id != id);
        if let (Some(before), Some(last)) = (before, &last)
            && !has_shrunk(extent(last), extent(&manifest))
        {
            marker.leftovers.push(before.manifest);
            let gone = last.about.objects.iter().filter(|object| !manifest.about.objects.contains(object));
            marker.leftovers.extend(gone.map(|object| object.key.clone()));
        }
        self.marker.write()?;
        says.write(home)?;
        let summary = summary(&manifest, sent, skipped);
        let newest = newest.map(|id| id.to_string());
        log::error!(
            fork:% = id, newest, why = why(standing);
            "this home may not be published: it is kept as a fork until `serena-snapshotd adopt --local` or `adopt --remote`"
        );
        self.seen = Some((id, seen));
        let _none_of_a_lineage = self.delete_leftovers().await;
        Ok(Outcome::Forked(summary, standing))
    }

    /// The fork that this home has, with which the next one is compared; its objects are ours alone.
    async fn last_fork(&self, says: &Descent) -> Result<Option<Arc<Manifest>>, EngineError> {
        let Some(fork) = &says.fork else { return Ok(None) };
        match self.reader.read(&fork.manifest, Some(&fork.manifest_sha256)).await {
            Ok((manifest, _)) => Ok(Some(Arc::new(manifest))),
            Err(EngineError::Damaged(_) | EngineError::Unreadable(_)) => Ok(None),
            Err(error) => Err(error),
        }
    }
}

fn extent(manifest: &Manifest) -> Extent {
    let About { files, bytes, projects, .. } = manifest.about;
    Extent { files, bytes, projects }
}

fn why(standing: Standing) -> &'static str {
    match standing {
        Standing::Fenced => "another daemon has taken over this partition",
        Standing::Current | Standing::Diverged | Standing::Empty | Standing::Fresh => {
            "the newest snapshot is not one that this home descends from"
        }
    }
}
