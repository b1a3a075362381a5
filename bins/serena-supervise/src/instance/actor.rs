//! The one task that owns an instance's process tree. It does what the state asks for, one job at a time, and feeds
//! back what came of it; what the jobs do is in `jobs`.

use std::future::{Future, pending};
use std::pin::Pin;
use std::sync::Arc;

use mcp_daemon::life::Life;

use super::Instance;
use super::jobs::Work;
use super::state::{Action, Event, Phase};
use crate::places::Places;

type Job = Pin<Box<dyn Future<Output = Event> + Send>>;

/// Lives as long as its instance: ends when that was told to leave and nothing of it is left.
pub async fn run(instance: Arc<Instance>, places: Option<Arc<Places>>, life: Life) {
    let work = Arc::new(Work::new(instance.clone(), places, life));
    let mut job: Job = Box::pin(pending());
    loop {
        tokio::select! {
            // First: what came of a job that nobody wants any more does not count.
            biased;
            () = instance.todo.notified() => {}
            event = &mut job => {
                job = Box::pin(pending());
                instance.update(|board| board.apply(event));
            }
        }
        let (todo, gone) = {
            let mut board = instance.board();
            (board.todo.take(), board.leaving && board.state.phase() == Phase::Stopped)
        };
        if let Some(action) = todo {
            job = begin(work.clone(), action);
        }
        if gone {
            work.rest();
            return;
        }
    }
}

/// The job for an action. A job that is replaced is dropped where it waits; those of phases that only they themselves
/// can end (`Spawn`, `Stop`, `Kill`, `Finish`) never are.
fn begin(work: Arc<Work>, action: Action) -> Job {
    match action {
        Action::Prepare => Box::pin(async move { work.prepare().await }),
        Action::Spawn => Box::pin(async move { work.spawn().await }),
        Action::Probe => Box::pin(async move { work.probe().await }),
        Action::Watch => Box::pin(async move { work.watch().await }),
        Action::Drain => Box::pin(async move { work.drain().await }),
        Action::Stop => Box::pin(async move { work.stop().await }),
        Action::Kill => Box::pin(async move { work.clear().await }),
        Action::Finish => Box::pin(async move { work.finish().await }),
        Action::Pause => Box::pin(async move { work.pause().await }),
        Action::PauseLong => Box::pin(async move { work.pause_long().await }),
        Action::Nothing => {
            work.rest();
            Box::pin(pending())
        }
    }
}
