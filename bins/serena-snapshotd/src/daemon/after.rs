//! What is left to do after a snapshot, once whoever asked for it has the answer.

use std::sync::Arc;

use mcp_daemon::heap;
use tokio::time::Duration;

use super::actor::{Actor, Over};
use crate::engine::{EngineError, Outcome};
use crate::progress::Progress;

/// To find a home unchanged, when it took so long, took memory that is not needed until the next time.
const MUCH: Duration = Duration::from_millis(20);

/// What is left to do; each includes the one before it.
#[derive(Clone, Copy, Debug, Eq, Ord, PartialEq, PartialOrd)]
pub(super) enum After {
    Nothing,
    /// Memory is to be given back.
    Rest,
    /// Older snapshots may not be needed any more.
    Tidy,
}

impl After {
    /// After a snapshot that ended so, and took so long.
    pub(super) fn snapshot(done: &Result<Outcome, EngineError>, took: Duration) -> Self {
        match done {
            Ok(Outcome::Published(_)) => After::Tidy,
            Ok(Outcome::Nothing | Outcome::Unchanged(_)) if took < MUCH => After::Nothing,
            Ok(Outcome::Forked(..) | Outcome::Nothing | Outcome::Unchanged(_)) | Err(_) => After::Rest,
        }
    }
}

impl Actor {
    /// Does what is left to do.
    pub(super) async fn tidy(&mut self) -> Result<(), Over> {
        let after = std::mem::replace(&mut self.after, After::Nothing);
        if after == After::Tidy {
            let _working = self.working("prune", &Arc::new(Progress::default()));
            self.bounded(async |engine| engine.tidy().await).await?;
        }
        if after >= After::Rest {
            heap::give_back();
        }
        Ok(())
    }
}
