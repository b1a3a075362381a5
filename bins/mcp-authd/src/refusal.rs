//! What somebody is told who is not let in or not served: by what it waits for, so that its client survives the answer.

use std::time::Duration;

use http::{HeaderValue, Response, StatusCode, header, request};
use mcp_daemon::body::Body;
use mcp_daemon::mcp;
use serde_json::value::RawValue;

use crate::answer;
use crate::config::Config;
use crate::credentials::Refused;
use crate::front::metadata;
use crate::policy::Read;
use crate::route::Unserved;

/// What a client may try again after.
const TRY_AGAIN: Duration = Duration::from_secs(1);

/// 401, and how to do better.
pub fn challenge(config: &Config, head: &request::Parts, refused: &Refused) -> Response<Body> {
    let mut answer =
        answer::refused(StatusCode::UNAUTHORIZED, "null", mcp::INVALID_REQUEST, refused.sentence());
    let error = refused.is_wrong().then_some("invalid_token");
    let challenge = metadata::challenge(config, head, error, &metadata::basic_scopes(config));
    answer.headers_mut().insert(header::WWW_AUTHENTICATE, challenge);
    answer
}

/// 403, and which scopes would do.
pub fn insufficient(config: &Config, head: &request::Parts, id: &str, needed: &[&str]) -> Response<Body> {
    let said = "this token is not allowed to do that";
    let mut answer = answer::refused(StatusCode::FORBIDDEN, id, mcp::INVALID_REQUEST, said);
    let challenge = metadata::challenge(config, head, Some("insufficient_scope"), needed);
    answer.headers_mut().insert(header::WWW_AUTHENTICATE, challenge);
    answer
}

/// What the sender of a request waits for, and so what it can be told when it is not served.
pub enum Awaited {
    /// The answer to the request with this raw id: 200 with an error that carries it, the only answer that every client
    /// measured survives.
    Id(String),
    /// The answers to the requests of a batch (MCP 2025-03-26) with these raw ids: 200 with an array of such errors.
    Ids(Vec<String>),
    /// Nothing: a notification, or an answer to the server. 202, because some clients end at a 4xx or 5xx.
    Nothing,
    /// The status: GET, DELETE, and whatever is refused before it was read.
    Status,
}

impl Awaited {
    /// By a body.
    pub fn of(read: &Read<'_>) -> Self {
        let raw = |id: &RawValue| id.get().to_owned();
        match (read.id, &*read.ids) {
            (Some(id), _) => Awaited::Id(raw(id)),
            (None, []) => Awaited::Nothing,
            (None, ids) => Awaited::Ids(ids.iter().copied().map(raw).collect()),
        }
    }

    /// The raw id, `null` where there is none.
    pub fn id(&self) -> &str {
        match self {
            Awaited::Id(id) => id,
            Awaited::Ids(_) | Awaited::Nothing | Awaited::Status => "null",
        }
    }

    /// The answer to what is not served.
    fn told(&self, status: StatusCode, again_after: Duration, message: &str) -> Response<Body> {
        match self {
            Awaited::Id(id) => answer::later(StatusCode::OK, id, again_after, message),
            Awaited::Ids(ids) => answer::all_later(ids, again_after, message),
            Awaited::Nothing => answer::accepted(),
            Awaited::Status => answer::later(status, "null", again_after, message),
        }
    }
}

/// 429, where a status is what it can be told.
pub fn too_many(awaited: &Awaited, wait: Duration) -> Response<Body> {
    awaited.told(StatusCode::TOO_MANY_REQUESTS, wait, "too many requests, try again later")
}

/// What became of a request that no upstream answered.
pub fn unserved(awaited: &Awaited, why: &Unserved) -> Response<Body> {
    let (status, message) = match why {
        Unserved::Busy(_) => (StatusCode::SERVICE_UNAVAILABLE, "too many requests are under way, try again"),
        Unserved::Down { .. } => (StatusCode::SERVICE_UNAVAILABLE, "the server cannot be reached, try again"),
        Unserved::Lost { .. } => {
            (StatusCode::BAD_GATEWAY, "the server was lost while this ran; its effect is unknown")
        }
        Unserved::NoLongerGood => (StatusCode::UNAUTHORIZED, "this token is no longer valid here"),
        Unserved::NoUpstream(_) => (StatusCode::NOT_FOUND, "no server is set up for this token"),
        Unserved::Stopping(_) => (
            StatusCode::SERVICE_UNAVAILABLE,
            "mcp-authd is being stopped before this could be sent, try again",
        ),
    };
    // What is wrong with an upstream is said once, where that is found out.
    log::debug!(error:% = why; "a request was not served");
    let mut answer = awaited.told(status, TRY_AGAIN, message);
    if answer.status() == StatusCode::SERVICE_UNAVAILABLE {
        // Each of them says that nothing was sent; mcp-sessiond before us sends it again then.
        answer.headers_mut().insert(mcp::NOT_FORWARDED_HEADER, HeaderValue::from_static("1"));
    }
    answer
}
