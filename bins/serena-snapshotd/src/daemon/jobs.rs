//! What the daemon can be asked to do, and how it answers.

use mcp_daemon::exit::{Exit, chain};
use serde_json::{Value, json};
use tokio::sync::oneshot;

use crate::config::Interval;
use crate::engine::{EngineError, RestoreRequest, Selector, Side};
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
    /// Delete what is not kept; or only say what.
    Prune {
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
pub type Answer = Result<Value, Refusal>;

/// Why something was not done, for a person and for an exit code.
#[derive(Clone, Debug)]
pub struct Refusal {
    /// The line.
    pub line: String,
    /// How a command ends that gets it.
    pub exit: Exit,
}

impl From<&EngineError> for Refusal {
    fn from(error: &EngineError) -> Self {
        Refusal { line: chain(error), exit: error.exit() }
    }
}

impl Refusal {
    /// As the control socket says it.
    pub fn to_json(&self) -> Value {
        json!({ "error": self.line, "exit": self.exit as u8 })
    }
}
