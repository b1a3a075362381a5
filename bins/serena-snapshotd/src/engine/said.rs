//! What the engine is asked, and what it says.

use std::fmt;
use std::path::PathBuf;
use std::str::FromStr;

use jiff::Timestamp;
use mcp_daemon::exit::{Exit, Failure};
use mcp_daemon::files::LockError;

use super::Standing;
use crate::layout::{Id, NameError};
use crate::restore::RestoreError;
use crate::store::StoreError;
use crate::take::TakeError;

/// How a snapshot ended.
#[derive(Clone, Debug)]
pub enum Outcome {
    /// It is kept in `forks/`, just now or since before, because the home may not be published.
    Forked(Summary, Standing),
    /// It is the newest now.
    Published(Summary),
    /// There is no snapshot yet, and nothing in the home of which one could be.
    Nothing,
    /// The home holds what the newest snapshot holds; nothing was stored.
    Unchanged(Id),
}

/// A snapshot that was just made.
#[derive(Clone, Debug)]
pub struct Summary {
    /// Its name.
    pub id: Id,
    /// Files in it.
    pub files: u64,
    /// Their bytes.
    pub bytes: u64,
    /// Bytes that were sent for it.
    pub sent: u64,
    /// Files that never stood still.
    pub unsettled: u64,
    /// What was left out, and why; at most 100.
    pub skipped: Vec<(String, String)>,
}

/// What is to be restored.
#[derive(Clone, Debug, Default)]
pub struct RestoreRequest {
    /// Which (`None`: the newest that is whole).
    pub which: Option<Selector>,
    /// Also roots that are not empty.
    pub replace: bool,
}

/// How a restore ended.
#[derive(Clone, Debug)]
pub enum RestoreOutcome {
    /// The home is not empty, and nobody asked to replace it.
    LeftAlone(Standing),
    /// The store says, authenticated, that there is no snapshot.
    Nothing,
    /// Put back.
    Restored {
        /// Which.
        id: Id,
        /// Files.
        files: u64,
        /// Their bytes.
        bytes: u64,
        /// The places of what was there before.
        kept: Vec<PathBuf>,
        /// Newer snapshots that are damaged, and why.
        passed_over: Vec<(Id, String)>,
        /// Roots of the snapshot that were not put back, because what is there is not empty.
        left_alone: Vec<PathBuf>,
    },
}

/// A snapshot as people name it; `Display` parses back.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum Selector {
    /// `0000000012-000001-0123456789abcdef`.
    Id(Id),
    /// `latest`.
    Latest,
    /// `12`, in the lineage of `HEAD`.
    Seq(u64),
}

impl FromStr for Selector {
    type Err = NameError;

    fn from_str(text: &str) -> Result<Self, NameError> {
        if text == "latest" {
            return Ok(Selector::Latest);
        }
        match text.parse() {
            Ok(seq) => Ok(Selector::Seq(seq)),
            Err(_) => text.parse().map(Selector::Id),
        }
    }
}

impl fmt::Display for Selector {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Selector::Id(id) => id.fmt(f),
            Selector::Latest => f.write_str("latest"),
            Selector::Seq(seq) => seq.fmt(f),
        }
    }
}

/// One line of a list.
#[derive(Clone, Debug)]
pub struct Row {
    /// Which.
    pub id: Id,
    /// What it holds, or why that cannot be read.
    pub held: Result<Held, String>,
    /// What it is.
    pub place: Place,
    /// Why it is kept whatever `prune` counts: `pin`, `before a shrink`.
    pub pinned: Option<&'static str>,
}

/// What a snapshot of a list holds.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Held {
    /// When it was made, by the clock of who made it.
    pub created: Timestamp,
    /// Files in it.
    pub files: u64,
    /// Their bytes.
    pub bytes: u64,
}

/// What a snapshot in a list is.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Place {
    /// An ancestor of the newest.
    Ancestor,
    /// In `forks/`, or one that a crash, or on a store without conditions another writer, has left behind.
    Fork,
    /// The newest.
    Newest,
}

/// What a `prune` deleted, or would delete.
#[derive(Clone, Debug, Default)]
pub struct Pruned {
    /// Snapshots, the oldest first.
    pub snapshots: Vec<Id>,
    /// Packs and blobs.
    pub objects: u64,
    /// Their bytes.
    pub bytes: u64,
}

/// Which side of a divergence a person chose.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Side {
    /// The home: its next snapshot follows the newest one.
    Local,
    /// The newest snapshot: the home is kept as a fork and beside itself, then replaced.
    Remote,
}

/// Why something was not done.
#[derive(Debug, thiserror::Error)]
pub enum EngineError {
    /// `HEAD` or a manifest is there, but not readable.
    #[error("{0}")]
    Damaged(String),
    /// The home or what is beside it cannot be used.
    #[error("{path}: {cause}")]
    Home {
        /// Which file.
        path: String,
        /// Why.
        cause: std::io::Error,
    },
    /// Another process owns this home, or nobody can tell because its lock cannot be made.
    #[error(transparent)]
    Lock(#[from] LockError),
    /// No snapshot is called so.
    #[error("{0}")]
    NoSuchSnapshot(String),
    /// It may not be done now; the text says why, and what to do.
    #[error("{0}")]
    Refused(String),
    /// The restore did not work.
    #[error(transparent)]
    Restore(#[from] RestoreError),
    /// The store did not do it.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// The home could not be read.
    #[error(transparent)]
    Take(#[from] TakeError),
    /// A manifest that may be whole, but not for us: no key for it, or a later version.
    #[error("{0}")]
    Unreadable(String),
}

impl EngineError {
    /// How a command ends that failed for this reason.
    pub fn exit(&self) -> Exit {
        match self {
            EngineError::Store(error) | EngineError::Take(TakeError::Deliver(error)) => error.exit(),
            EngineError::Home { cause, .. }
            | EngineError::Lock(LockError::System { cause, .. })
            | EngineError::Take(TakeError::System { cause, .. }) => Exit::of_system(cause),
            EngineError::Restore(error) => error.exit(),
            EngineError::Damaged(_)
            | EngineError::Lock(LockError::Held { .. })
            | EngineError::Take(TakeError::Cancelled) => Exit::TryAgain,
            EngineError::Unreadable(_) => Exit::Config,
            EngineError::NoSuchSnapshot(_) | EngineError::Refused(_) => Exit::Unavailable,
        }
    }
}

/// The one answer that an error becomes, whether a command ends with it or the daemon says it.
impl From<&EngineError> for Failure {
    fn from(error: &EngineError) -> Self {
        Failure::new(error.exit(), error)
    }
}
