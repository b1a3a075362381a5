//! What the actor does when it is asked for something else than a snapshot.

use std::sync::Arc;

use mcp_daemon::exit::{Failure, chain};
use mcp_daemon::heap;
use serde_json::json;
use tokio::time::Instant;

use super::actor::{Actor, Over};
use super::jobs::{Answer, Job};
use super::settle::claim_if_it_may;
use crate::engine::{RestoreOutcome, RestoreRequest, Side, Standing};
use crate::progress::Progress;
use crate::report;

impl Actor {
    /// Does one thing that was asked for.
    pub(super) async fn perform(&mut self, job: Job) -> Result<Answer, Over> {
        let progress = Arc::new(Progress::default());
        let done = match job {
            Job::Snapshot => return self.take("asked").await,
            Job::Apply(interval, keep) => {
                self.schedule.set_interval(interval.duration(), Instant::now());
                self.engine.set_keep(keep);
                Ok(json!({}))
            }
            Job::Adopt(side) => {
                let _working = self.working("adopt", &progress);
                let adopted = self.bounded(async |engine| engine.adopt(side, &progress).await).await?;
                if adopted.is_ok() {
                    self.is_settled = true;
                    self.stands(Some(Standing::Current));
                    log::info!(side = side_name(side); "a side was adopted, this home is published again");
                }
                adopted.map(|()| json!({ "adopted": side_name(side) }))
            }
            Job::Pin(which) => {
                let pinned = self.bounded(async |engine| engine.reader().pin(&which).await).await?;
                pinned.map(|id| json!({ "pinned": id }))
            }
            Job::Prune { fork, dry_run } => {
                let _working = self.working("prune", &progress);
                let pruned = self.bounded(async |engine| engine.prune(fork.as_ref(), dry_run).await).await?;
                pruned.map(|pruned| report::pruned(&pruned, dry_run))
            }
            Job::Restore(request) => return self.restore(&request).await,
            Job::Unpin(which) => {
                let unpinned = self.bounded(async |engine| engine.reader().unpin(&which).await).await?;
                unpinned.map(|id| json!({ "unpinned": id }))
            }
        };
        Ok(done.map_err(|error| {
            self.metrics.failed(&error);
            Failure::from(&error)
        }))
    }

    async fn restore(&mut self, request: &RestoreRequest) -> Result<Answer, Over> {
        if !self.is_settled {
            match self.settle().await? {
                // That was the restore.
                Ok(outcome @ RestoreOutcome::Restored { .. }) if request.which.is_none() => {
                    return Ok(Ok(report::restored(&outcome)));
                }
                Ok(_) => {}
                Err(error) => return Ok(Err(Failure::from(&error))),
            }
        }
        let progress = Arc::new(Progress::default());
        let _working = self.working("restore", &progress);
        let done = self.bounded(async |engine| engine.restore(request, &progress).await).await?;
        heap::give_back();
        let outcome = match done {
            Ok(outcome) => outcome,
            Err(error) => {
                self.metrics.failed(&error);
                return Ok(Err(Failure::from(&error)));
            }
        };
        match self.bounded(async |engine| claim_if_it_may(engine).await).await? {
            Ok(standing) => self.was_restored(&outcome, standing),
            // The home is restored all the same; who is the writer is found out before the next snapshot.
            Err(error) => {
                log::warn!(error = chain(&error); "restored, but the store did not say who may publish now");
                self.metrics.failed(&error);
                self.is_settled = false;
                self.stands(None);
            }
        }
        Ok(Ok(report::restored(&outcome)))
    }
}

fn side_name(side: Side) -> &'static str {
    match side {
        Side::Local => "local",
        Side::Remote => "remote",
    }
}
