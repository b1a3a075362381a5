//! Messages of the client that want no answer: notifications, and answers to what the server asked.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::Response;
use mcp_daemon::body::Body;
use mcp_daemon::client::SendError;

use super::call::{ERROR_BODY, post};
use super::collect::collect;
use super::engine::Engine;
use super::headers::Letterhead;
use super::{Session, reply};
use crate::mcp::{self, Envelope};
use crate::verdict::{self, Flavour, Verdict};

/// A notification of the client. It never waits: while nobody can take it, it is answered here.
pub async fn notify(
    engine: &Arc<Engine>,
    session: &Arc<Session>,
    envelope: &Envelope<'_>,
    body: Bytes,
    letterhead: &Letterhead,
) -> Response<Body> {
    if envelope.method() == "notifications/cancelled" && session.cancel_parked(envelope) {
        return reply::accepted();
    }
    let Some(live) = session.begin(engine, letterhead) else {
        if envelope.method() == "notifications/roots/list_changed" {
            session.lock().roots_changed = true;
        }
        return reply::accepted();
    };
    let flight = session.upstream.enter(engine);
    let sent = engine.back.send(session.upstream.route.as_ref(), post(letterhead.to_map(), &live, body));
    // A notification has no answer to wait for: a server that does not even acknowledge it is a matter for the next request.
    let answer = match tokio::time::timeout(Duration::from_secs(10), sent).await {
        Err(_elapsed) => return reply::accepted(),
        Ok(answer) => answer,
    };
    drop(flight);
    let lost = match answer {
        Err(SendError::NotSent(_)) => Some(Flavour::Refused),
        Err(SendError::Broken(_)) => Some(Flavour::Broken),
        Ok(answer) if answer.status().is_success() => return passed_on(answer).await,
        Ok(answer) => {
            let (head, body) = answer.into_parts();
            let body =
                collect(body, ERROR_BODY).await.ok().and_then(|body| body.joined()).unwrap_or_default();
            match verdict::judge(head.status, &head.headers, &body) {
                Verdict::Claimed(flavour) | Verdict::Lost(flavour) => Some(flavour),
                Verdict::NotForwarded => Some(Flavour::Refused),
                Verdict::Answer | Verdict::Doubtful(_) => {
                    log::debug!(session = session.key.short(), status = head.status.as_u16(), method = envelope.method(); "notification refused by the server");
                    None
                }
            }
        }
    };
    if let Some(flavour) = lost {
        if envelope.method() == "notifications/roots/list_changed" {
            session.lock().roots_changed = true;
        }
        engine.lost(session, live.generation, flavour);
    }
    reply::accepted()
}

/// The client answers a request of the server. An answer to a question from before a loss is dropped.
pub async fn answer(
    engine: &Arc<Engine>,
    session: &Arc<Session>,
    envelope: &Envelope<'_>,
    body: &Bytes,
    letterhead: &Letterhead,
) -> Response<Body> {
    let (Some(id), Some(live)) = (envelope.id, session.begin(engine, letterhead)) else {
        return reply::accepted();
    };
    let Some(theirs) = session.answered(id) else {
        log::debug!(session = session.key.short(); "answer dropped, the server that asked is gone");
        return reply::accepted();
    };
    let _flight = session.upstream.enter(engine);
    let request = post(letterhead.to_map(), &live, mcp::splice_id(body, id, theirs.get()));
    match engine.back.send(session.upstream.route.as_ref(), request).await {
        Ok(answer) if answer.status().is_success() => passed_on(answer).await,
        Ok(_) | Err(_) => reply::accepted(),
    }
}

/// A short successful answer, without what is not for the client.
async fn passed_on(answer: Response<Body>) -> Response<Body> {
    let (mut head, body) = answer.into_parts();
    reply::outward(&mut head.headers);
    match collect(body, ERROR_BODY).await {
        Ok(whole) => Response::from_parts(head, whole.into_body()),
        Err(_broken) => reply::accepted(),
    }
}
