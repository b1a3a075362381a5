//! The requests of a stdio client that have no answer yet, and how they end.

use std::collections::HashMap;
use std::time::Duration;

use serde::Deserialize;
use serde_json::value::RawValue;
use tokio::task::{AbortHandle, JoinSet};
use tokio::time::timeout;

use crate::mcp::Envelope;

/// How long answers are waited for after the client has closed its end.
const LAST_ANSWERS: Duration = Duration::from_secs(30);

/// Everything that runs for one client; dropped, all of it ends.
#[derive(Default)]
pub(super) struct InFlight {
    /// One task a request, and one for the stream of server messages.
    pub(super) tasks: JoinSet<()>,
    /// The stream of server messages.
    pub(super) listener: Option<AbortHandle>,
    /// Requests of the stateless era by raw id, where ending one is how it is cancelled; and whether it has no end.
    modern: HashMap<String, (AbortHandle, bool)>,
}

impl InFlight {
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

    /// Waits for the last answers, not for what has no end.
    pub(super) async fn finish(mut self) {
        let endless = self.modern.values().filter(|(_, is_endless)| *is_endless).map(|(task, _)| task);
        for task in endless.chain(&self.listener) {
            task.abort();
        }
        let all = async { while self.tasks.join_next().await.is_some() {} };
        if timeout(LAST_ANSWERS, all).await.is_err() {
            log::warn!(left = self.tasks.len(); "ended before the last answers came");
        }
    }
}
