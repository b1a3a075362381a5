//! The marker beside a home: what this machine was about to publish and to delete. What the home descends from it says
//! itself, see `descent`: the two can be parted.

use std::io;
use std::path::PathBuf;

use mcp_daemon::files::write_atomic;
use serde::{Deserialize, Serialize};

use super::EngineError;
use crate::head::Versioned;
use crate::layout::Id;

/// The only version there is.
const VERSION: u32 = 1;
/// Most attempts to publish that are remembered until one works.
const MAX_INTENTS: usize = 64;

/// What the marker says.
#[derive(Clone, Debug, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Marker {
    version: u32,
    /// Where its snapshots were last, for people.
    pub store: String,
    /// The nonce of the last `HEAD` that was written from here.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub head_nonce: Option<String>,
    /// Attempts to publish, of which each may have worked: the answer was lost, or we were killed.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub intents: Vec<Intent>,
    /// Keys that nothing refers to any more, and that only we know.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub leftovers: Vec<String>,
}

/// An attempt to publish.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Intent {
    /// As what.
    pub id: Id,
    /// What the home was known by: the snapshot that it descended from, or its first attempt.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub after: Option<Id>,
    /// Everything that is stored for it, its manifest included.
    pub keys: Vec<String>,
}

impl Default for Marker {
    fn default() -> Self {
        Marker {
            version: VERSION,
            store: String::new(),
            head_nonce: None,
            intents: Vec::new(),
            leftovers: Vec::new(),
        }
    }
}

impl Marker {
    /// Begins an attempt; one too many forgets the oldest, whose objects then stay in the store.
    pub fn intend(&mut self, id: Id, after: Option<Id>, key: String) {
        if self.intents.len() == MAX_INTENTS {
            self.intents.remove(0);
        }
        self.intents.push(Intent { id, after, keys: vec![key] });
    }

    /// This is published now. The attempt that did it is done; all others have failed, because each could only have replaced
    /// a `HEAD` that is gone. Where it is not known what came before, one of them may be part of that, and they stay.
    pub fn is_published(&mut self, newest: &Id, lineage_is_known: bool) {
        self.intents.retain(|intent| intent.id != *newest);
        if lineage_is_known {
            self.leftovers.extend(self.intents.drain(..).flat_map(|intent| intent.keys));
        }
    }
}

/// The marker, and its file.
#[derive(Debug)]
pub(super) struct MarkerFile {
    path: PathBuf,
    /// What it says.
    pub marker: Marker,
}

impl MarkerFile {
    /// Reads it; where there is none, nothing was attempted.
    pub fn open(path: PathBuf) -> Result<Self, EngineError> {
        let marker = match std::fs::read(&path) {
            Ok(bytes) => parse(&bytes).map_err(|why| EngineError::Home {
                path: path.display().to_string(),
                cause: io::Error::new(io::ErrorKind::InvalidData, why),
            })?,
            Err(error) if error.kind() == io::ErrorKind::NotFound => Marker::default(),
            Err(cause) => return Err(EngineError::Home { path: path.display().to_string(), cause }),
        };
        Ok(MarkerFile { path, marker })
    }

    /// Writes it; on disk once this returns.
    pub fn write(&self) -> Result<(), EngineError> {
        let mut bytes = serde_json::to_vec_pretty(&self.marker).expect("strings and numbers are JSON");
        bytes.push(b'\n');
        write_atomic(&self.path, &bytes)
            .map_err(|cause| EngineError::Home { path: self.path.display().to_string(), cause })
    }
}

fn parse(bytes: &[u8]) -> Result<Marker, String> {
    let unreadable = |error: serde_json::Error| {
        format!(
            "not readable as the marker of a home ({error}); once it is moved away, what was attempted is looked for in the store no more"
        )
    };
    // Before the rest, which may look otherwise in a later version.
    let Versioned { version } = serde_json::from_slice(bytes).map_err(unreadable)?;
    if version != VERSION {
        return Err(format!(
            "written by a newer serena-snapshotd (version {version}, expected {VERSION}); update this one"
        ));
    }
    serde_json::from_slice(bytes).map_err(unreadable)
}

#[cfg(test)]
mod tests {
    use mcp_daemon::files::beside;

    use super::*;

    #[test]
    fn what_failed_is_left_over_once_something_else_is_published() {
        let [one, two, three] = [1, 2, 3].map(|seq| Id::new(seq, 1));
        let mut marker = Marker::default();
        for (id, key) in [(&one, "a"), (&two, "b"), (&three, "c")] {
            marker.intend(id.clone(), None, key.to_owned());
        }
        marker.is_published(&two, false);
        assert_eq!((marker.leftovers.len(), marker.intents.len()), (0, 2));
        marker.is_published(&two, true);
        assert_eq!((marker.leftovers, marker.intents.len()), (vec!["a".to_owned(), "c".to_owned()], 0));
    }

    #[test]
    fn a_marker_is_read_as_it_was_written_and_a_broken_one_is_no_empty_one() {
        let directory = tempfile::tempdir().unwrap();
        let path = beside(&directory.path().join("home"), "snapshotd.json");
        let mut file = MarkerFile::open(path.clone()).unwrap();
        file.marker.intend(Id::new(1, 1), Some(Id::new(7, 1)), "a".to_owned());
        file.write().unwrap();
        let again = MarkerFile::open(path.clone()).unwrap();
        assert_eq!(again.marker.intents, file.marker.intents);
        std::fs::write(&path, "{}").unwrap();
        let error = MarkerFile::open(path.clone()).unwrap_err().to_string();
        assert!(
            error.contains("home.snapshotd.json") && error.contains("missing field `version`"),
            "{error}"
        );
        std::fs::write(&path, r#"{"version": 2, "descends_from": "something new"}"#).unwrap();
        let error = MarkerFile::open(path).unwrap_err().to_string();
        assert!(error.contains("a newer serena-snapshotd (version 2, expected 1)"), "{error}");
    }
}
