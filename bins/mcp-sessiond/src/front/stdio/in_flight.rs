//! The requests of a stdio client that have no answer yet, and how they end.

use std::collections::HashMap;

use serde::Deserialize;
use serde_json::value::RawValue;
use tokio::sync::oneshot;
use tokio::task::{AbortHandle, JoinSet};
use tokio::time::{Instant, timeout_at};

use crate::mcp::Envelope;

/// Everything that runs for one client; dropped, all of it ends.
#[derive(Default)]
pub(super) struct InFlight {
    /// One task a request, and one for the stream of server messages.
    pub(super) tasks: JoinSet<()>,
    /// The stream of server messages.
    pub(super) listener: Option<AbortHandle>,
    /// Requests of the stateless era by raw id, where ending one is how it is cancelled; and whether it has no end.
    modern: HashMap<String, (AbortHandle, bool)>,
    /// What has to end before the next message of the client is taken.
    pub(super) turn: Turn,
}

/// Something that later messages wait for, if there is any.
#[derive(Default)]
pub(super) struct Turn(Option<oneshot::Receiver<()>>);

impl Turn {
    /// Begins one, which lasts until what is returned is dropped.
    pub(super) fn begin(&mut self) -> oneshot::Sender<()> {
        let (running, over) = oneshot::channel();
        self.0 = Some(over);
        running
    }

    /// Whether the next message has to wait.
    pub(super) fn is_on(&self) -> bool {
        self.0.is_some()
    }

    /// Resolves when the next message may be taken. Cancel safe.
    pub(super) async fn over(&mut self) {
        if let Some(turn) = &mut self.0 {
            let _dropped = turn.await;
        }
        self.0 = None;
    }
}

impl InFlight {
    /// Runs what has to end before the next message of the client is taken.
    pub(super) fn in_turn(&mut self, task: impl Future<Output = ()> + Send + 'static) {
        let turn = self.turn.begin();
        self.tasks.spawn(async move {
            task.await;
            drop(turn);
        });
    }

    /// Notes a request of the stateless era; `is_endless` if its answer comes only when it is ended.
    pub(super) fn enter_modern(&mut self, id: String, task: AbortHandle, is_endless: bool) {
        self.modern.retain(|_, (task, _)| !task.is_finished());
        self.modern.insert(id, (task, is_endless));
    }

    /// Ends the request that a `notifications/cancelled` names, if it is one of the stateless era.
    pub(super) fn cancel(&mut self, envelope: &Envelope<'_>) -> bool {
        #[derive(Deserialize)]
        struct Cancelled<'a> {
            #[serde(borrow, rename = "requestId")]
            request: &'a RawValue,
        }
        let params =
            envelope.params.and_then(|params| serde_json::from_str::<Cancelled<'_>>(params.get()).ok());
        let Some((task, _)) = params.and_then(|params| self.modern.remove(params.request.get())) else {
            return false;
        };
        task.abort();
        true
    }

    /// Waits for the last answers until `deadline`, not for what has no end.
    pub(super) async fn finish(mut self, deadline: Instant) {
        let endless = self.modern.values().filter(|(_, is_endless)| *is_endless).map(|(task, _)| task);
        for task in endless.chain(&self.listener) {
            task.abort();
        }
        let all = async { while self.tasks.join_next().await.is_some() {} };
        if timeout_at(deadline, all).await.is_err() {
            log::warn!(left = self.tasks.len(); "ended before the last answers came");
        }
    }
}
