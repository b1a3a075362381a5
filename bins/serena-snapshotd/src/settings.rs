//! What a snapshot is taken of, where it goes, and what is kept: everything the engine must be told, already checked.

use std::path::PathBuf;
use std::sync::Arc;

use serde::Deserialize;

use crate::layout::Partition;
use crate::seal::Seal;
use crate::take::Rules;

/// One directory of a snapshot. The home is the root named [`crate::manifest::HOME`], and the first.
#[derive(Clone, Debug)]
pub struct Root {
    /// Its name in the snapshot: the first component of its paths.
    pub name: String,
    /// Where it is.
    pub path: PathBuf,
    /// What of it is taken.
    pub rules: Arc<Rules>,
}

/// Everything the engine must be told.
#[derive(Clone, Debug)]
pub struct Settings {
    /// The name of this home in the store.
    pub partition: Partition,
    /// The home, then the other roots.
    pub roots: Vec<Root>,
    /// Beside the home by default: where large objects wait for their upload, owner-only.
    pub spool: PathBuf,
    /// Encrypts packs, blobs and manifests.
    pub seal: Option<Arc<Seal>>,
    /// How an upload is checked before the snapshot counts.
    pub verify: Verify,
    /// What `prune` keeps.
    pub keep: Keep,
    /// Somebody has promised that there is one writer: retention works on a store that ignores conditions, too.
    pub single_writer: bool,
    /// What a newcomer does while another writer is alive.
    pub takeover: Takeover,
    /// Who we are, for people: host and process.
    pub writer: String,
    /// Files from this size on are stored alone, as blobs; in bytes.
    pub blob_from: u64,
}

/// How an upload is checked.
#[derive(Clone, Copy, Debug, Default, Deserialize, Eq, PartialEq)]
#[serde(rename_all = "lowercase")]
pub enum Verify {
    /// By reading it back.
    Read,
    /// By length and ETag.
    #[default]
    Stat,
}

/// Who wins when a second daemon starts.
#[derive(Clone, Copy, Debug, Default, Deserialize, Eq, PartialEq)]
#[serde(rename_all = "lowercase")]
pub enum Takeover {
    /// The newcomer, at once.
    #[default]
    Now,
    /// The newcomer, once the holder has been silent for three of its renewals.
    Wait,
}

/// What is kept besides the newest snapshot, the one before it, and what is pinned.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Keep {
    /// The newest so many; at least 1.
    pub last: u32,
    /// Everything younger than this, in seconds before the newest.
    pub within: u64,
    /// The newest of each of so many days (UTC) on which there is one.
    pub daily: u32,
    /// The same by weeks, which begin on Monday.
    pub weekly: u32,
    /// The same by months.
    pub monthly: u32,
}

impl Default for Keep {
    fn default() -> Self {
        Keep { last: 5, within: 0, daily: 7, weekly: 4, monthly: 0 }
    }
}
