//! What the daemon can be asked to do, and how it answers.

use mcp_daemon::exit::Failure;
use serde_json::Value;
use tokio::sync::oneshot;

use crate::config::Interval;
use crate::engine::{RestoreRequest, Selector, Side};
use crate::layout::Id;
use crate::settings::Keep;

/// Requests that wait; a further one is refused.
pub const MAX_WAITING: usize = 64;

/// One thing to do, alone.
#[derive(Debug)]
pub enum Job {
    /// Choose a side of a divergence.
    Adopt(Side),
    /// Other settings are in force from now on.
    Apply(Interval, Keep),
    /// Keep a snapshot from `prune`.
    Pin(Selector),
    /// Delete what is not kept, or one fork; or only say what.
    Prune {
        /// This fork, and nothing else.
        fork: Option<Id>,
        /// Only say.
        dry_run: bool,
    },
    /// Put a snapshot back.
    Restore(RestoreRequest),
    /// Take a snapshot.
    Snapshot,
    /// Let it go again.
    Unpin(Selector),
}

/// A job and who waits for its answer.
pub struct Asked {
    /// What to do.
    pub job: Job,
    /// Whom to tell; nobody may listen any more.
    pub answer: oneshot::Sender<Answer>,
}

/// What was done, or why not.
pub type Answer = Result<Value, Failure>;
