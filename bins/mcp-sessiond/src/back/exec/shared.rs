//! Requests of the stateless era: one process for all of a route, started on first use.
//!
//! Clients open with `server/discover` to learn the server's era. A legacy server on stdio may answer it with any error,
//! with silence, or by dying; each is the answer "not known", so that the client goes on with `initialize`.

use std::sync::{Arc, Mutex, PoisonError};

use bytes::Bytes;
use http::{Response, StatusCode};
use mcp_daemon::addr::Route;
use mcp_daemon::body::Body;
use mcp_daemon::client::SendError;
use tokio::time::{Instant, timeout};

use super::call::{self, Outcome, not_sent};
use super::child::Child;
use super::pool::Pool;
use super::{answer, refuse};
use crate::mcp::{self, Envelope, Glance, Kind, METHOD_NOT_FOUND};

/// The process of one route, and what is known of its era.
#[derive(Default)]
pub(super) struct Slot {
    /// Held while the process is started: one start, however many ask.
    starting: tokio::sync::Mutex<()>,
    known: Mutex<Known>,
}

#[derive(Default)]
struct Known {
    child: Option<Arc<Child>>,
    /// Until then the server is taken for a legacy one without asking again.
    legacy_until: Option<Instant>,
}

impl Slot {
    /// The process, if it takes requests.
    pub(super) fn current(&self) -> Option<Arc<Child>> {
        self.known().child.clone().filter(|child| !child.desk().has_ended())
    }

    /// Whether there is nothing to remember.
    pub(super) fn is_vacant(&self) -> bool {
        self.current().is_none() && !self.is_legacy()
    }

    fn is_legacy(&self) -> bool {
        self.known().legacy_until.is_some_and(|until| until > Instant::now())
    }

    fn known(&self) -> std::sync::MutexGuard<'_, Known> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Answers one message that belongs to no session.
pub(super) async fn post(
    pool: &Arc<Pool>,
    route: Option<&Route>,
    envelope: &Envelope<'_>,
    body: &Bytes,
    takes_messages: bool,
) -> Result<Response<Body>, SendError> {
    let id = envelope.id.map_or("null", |id| id.get());
    let slot = pool.slot(route);
    let is_discover = envelope.method() == "server/discover";
    if is_discover && slot.is_legacy() {
        return Ok(not_known(id));
    }
    let is_request = envelope.kind() == Some(Kind::Request);
    if !is_request && envelope.method() == "notifications/cancelled" {
        // It names a request by its client's id, which many clients share; closing the request's stream cancels it.
        return Ok(answer::empty(StatusCode::ACCEPTED));
    }
    let child = {
        let _starting = slot.starting.lock().await;
        match slot.current() {
            Some(child) => child,
            None => match pool.start(route, true).await {
                Ok(child) => {
                    slot.known().child = Some(Arc::clone(&child));
                    child
                }
                Err(unstarted) => return refuse(id, unstarted),
            },
        }
    };
    if !is_request {
        child.desk().used();
        let written = child.write(body, Arc::default()).await;
        return if written {
            Ok(answer::empty(StatusCode::ACCEPTED))
        } else {
            Err(not_sent("the server process has ended"))
        };
    }
    let called = call::call(&child, envelope, body, takes_messages);
    if !is_discover {
        return Ok(pool.finish(&child, called.await?));
    }
    match timeout(pool.options.start_timeout, called).await {
        Ok(Ok(Outcome::Answer(answer))) if is_legacy_error(&answer) => {
            remember(pool, &slot, &child);
            Ok(answer::response(answer, true))
        }
        Ok(Ok(outcome)) => Ok(pool.finish(&child, outcome)),
        Ok(Err(error)) if child.desk().has_answered() => Err(error),
        Ok(Err(_)) | Err(_) => {
            remember(pool, &slot, &child);
            Ok(not_known(id))
        }
    }
}

/// Remembers that the server is a legacy one, for as long as an idle process would live, and ends what was started to
/// find out.
fn remember(pool: &Pool, slot: &Slot, child: &Child) {
    log::info!(pid = child.pid; "the server does not know the stateless era");
    slot.known().legacy_until = Some(Instant::now() + pool.options.idle_timeout);
    if child.desk().end_if_idle() {
        child.stop();
    }
}

/// An error that is none of the modern ones (MCP 2026-07-28, -32020 to -32022).
fn is_legacy_error(answer: &[u8]) -> bool {
    #[derive(serde::Deserialize)]
    struct Message {
        error: mcp::RpcError,
    }
    mcp::glance(answer) == Some(Glance::Error)
        && serde_json::from_slice::<Message>(answer)
            .is_ok_and(|message| !(-32022..=-32020).contains(&message.error.code))
}

fn not_known(id: &str) -> Response<Body> {
    answer::error(StatusCode::NOT_FOUND, id, METHOD_NOT_FOUND, "Method not found: server/discover")
}
