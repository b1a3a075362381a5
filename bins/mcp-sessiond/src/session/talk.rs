//! Requests and notifications of our own to the upstream: what a heal says, and what the server answers.

use std::sync::Arc;

use bytes::Bytes;
use http::{HeaderMap, HeaderValue, StatusCode};
use http_body_util::BodyExt;
use mcp_daemon::body::Body;
use mcp_daemon::client::SendError;
use mcp_daemon::exit::chain;
use serde_json::value::RawValue;

use super::call;
use super::collect::collect;
use super::engine::Engine;
use super::{Live, Session, reply};
use crate::mcp::{self, Envelope, Kind};
use crate::sse::{self, Splitter};
use crate::verdict::{self, Flavour, Verdict};

/// Largest answer to a request of our own.
const MAX_ANSWER: usize = 16 << 20;

/// Why a request of our own has no result.
#[derive(Debug, thiserror::Error)]
pub enum TalkError {
    /// The server does not know the session.
    #[error("{what}")]
    Lost {
        /// What was asked, and the status.
        what: String,
        /// How the loss shows.
        flavour: Flavour,
    },
    /// The server agrees to another version than before.
    #[error("{0}")]
    OtherVersion(String),
    /// The server refuses by its status.
    #[error("{what}")]
    Refused {
        /// What was asked, and the status, or what is wrong with the answer.
        what: String,
        /// How a loss would show, if this may be about the session.
        doubtful: Option<Flavour>,
    },
    /// The server refuses with a JSON-RPC error.
    #[error("the server answered {method} with error {code}: {message}")]
    Rpc {
        /// What was asked.
        method: &'static str,
        /// The code.
        code: i64,
        /// The sentence.
        message: String,
        /// Whether it may be about the session.
        doubtful: bool,
    },
    /// Somebody between us and the server could not do it, or the answer broke off.
    #[error("{0}")]
    Unable(String),
    /// Nobody is there.
    #[error("{0}")]
    Unreachable(String),
}

impl TalkError {
    /// Whether the server, or somebody before it, will not; asked at once again, it says the same.
    pub fn is_refusal(&self) -> bool {
        matches!(self, TalkError::Refused { .. } | TalkError::Rpc { .. })
    }
}

/// A request; its result, unread.
pub async fn request(
    engine: &Arc<Engine>,
    session: &Arc<Session>,
    live: &Live,
    method: &'static str,
    params: Option<&RawValue>,
) -> Result<Box<RawValue>, TalkError> {
    Ok(watched(engine, session, exchange(engine, session, live, method, params)).await?.0)
}

/// `initialize`; its result, and the id of the session that it made. Who has no session yet cannot have lost it: a 404 comes
/// from somebody in between whose server is away, and is waited for like a 5xx.
pub async fn initialize(
    engine: &Arc<Engine>,
    session: &Arc<Session>,
    nobody: &Live,
    params: &RawValue,
) -> Result<(Box<RawValue>, Option<HeaderValue>), TalkError> {
    let said = watched(engine, session, exchange(engine, session, nobody, "initialize", Some(params))).await;
    let (result, headers) = said.map_err(|error| match error {
        TalkError::Lost { what, .. } => TalkError::Unable(what),
        other => other,
    })?;
    Ok((result, headers.get(mcp::SESSION).cloned()))
}

/// A notification, with its acknowledgement.
pub async fn notify(
    engine: &Arc<Engine>,
    session: &Arc<Session>,
    live: &Live,
    method: &'static str,
) -> Result<(), TalkError> {
    let body = format!(r#"{{"jsonrpc":"2.0","method":"{method}"}}"#);
    watched(engine, session, async {
        let (head, body) = send(engine, session, live, body, false).await?.into_parts();
        let body = collect(body, MAX_ANSWER).await.ok().and_then(|body| body.joined()).unwrap_or_default();
        if head.status.is_success() {
            Ok(())
        } else {
            Err(refusal(method, head.status, &head.headers, &body))
        }
    })
    .await
}

/// Our own requests count as in flight, so that a server that hangs on them is found; then we do not wait any longer.
async fn watched<T>(
    engine: &Arc<Engine>,
    session: &Session,
    talk: impl Future<Output = Result<T, TalkError>>,
) -> Result<T, TalkError> {
    let _flight = session.upstream.enter(engine);
    tokio::select! {
        biased;
        result = talk => result,
        () = session.upstream.hung.notified() => Err(TalkError::Unable("the server hangs".into())),
    }
}

async fn exchange(
    engine: &Arc<Engine>,
    session: &Arc<Session>,
    live: &Live,
    method: &'static str,
    params: Option<&RawValue>,
) -> Result<(Box<RawValue>, HeaderMap), TalkError> {
    let id = format!("\"{}\"", mcp_daemon::secret::random_id());
    let params = params.map(|params| format!(r#","params":{}"#, params.get())).unwrap_or_default();
    let body = format!(r#"{{"jsonrpc":"2.0","id":{id},"method":"{method}"{params}}}"#);
    let (head, body) = send(engine, session, live, body, method == "initialize").await?.into_parts();
    let message = if head.status.is_success() && reply::is_stream(&head.headers) {
        response_in(body, &id).await
    } else {
        collect(body, MAX_ANSWER).await.ok().and_then(|body| body.joined())
    };
    let message = message.ok_or_else(|| TalkError::Unable(format!("the answer to {method} broke off")))?;
    if !head.status.is_success() {
        return Err(refusal(method, head.status, &head.headers, &message));
    }
    let envelope = Envelope::parse(&message)
        .map_err(|error| TalkError::Refused { what: error.to_string(), doubtful: None })?;
    if let Some(result) = envelope.result {
        return Ok((result.to_owned(), head.headers));
    }
    let verdict = verdict::judge(head.status, &head.headers, &message);
    let error = envelope.error.and_then(|error| serde_json::from_str::<mcp::RpcError>(error.get()).ok());
    let mcp::RpcError { code, message } =
        error.unwrap_or(mcp::RpcError { code: 0, message: "no result".into() });
    Err(TalkError::Rpc { method, code, message, doubtful: verdict != Verdict::Answer })
}

/// What a status that is no success means for a request of our own.
fn refusal(method: &'static str, status: StatusCode, headers: &HeaderMap, body: &[u8]) -> TalkError {
    let what = format!("the server answered {method} with {status}");
    match verdict::judge(status, headers, body) {
        Verdict::Claimed(flavour) | Verdict::Lost(flavour) => TalkError::Lost { what, flavour },
        Verdict::NotForwarded => TalkError::Unreachable(what),
        Verdict::Answer | Verdict::Doubtful(_) if status.is_server_error() => TalkError::Unable(what),
        Verdict::Doubtful(flavour) => TalkError::Refused { what, doubtful: Some(flavour) },
        Verdict::Answer => TalkError::Refused { what, doubtful: None },
    }
}

/// The response with our id in a stream; what else comes there is not for us.
pub async fn response_in(mut body: Body, id: &str) -> Option<bytes::Bytes> {
    let mut splitter = Splitter::default();
    while let Some(Ok(frame)) = body.frame().await {
        splitter.push(frame.into_data().ok()?).ok()?;
        while let Some(block) = splitter.next_block() {
            let Some(data) = sse::data(&block) else { continue };
            let ours = Envelope::parse(&data).is_ok_and(|message| {
                message.kind() == Some(Kind::Response)
                    && message.id.is_some_and(|found| found.get() == id || found.get() == "null")
            });
            if ours {
                return Some(data);
            }
        }
    }
    None
}

async fn send(
    engine: &Arc<Engine>,
    session: &Arc<Session>,
    live: &Live,
    body: String,
    is_first: bool,
) -> Result<http::Response<Body>, TalkError> {
    let mut headers = session.lock().letterhead().to_map();
    for name in ["mcp-method", "mcp-name"] {
        headers.remove(name);
    }
    engine.add_own_headers(&mut headers);
    let mut request = call::post(headers, live, Bytes::from(body));
    if is_first {
        // Nothing is agreed yet.
        request.headers_mut().remove(mcp::VERSION);
    }
    engine.back.send(session.upstream.route.as_ref(), request).await.map_err(|error| match error {
        SendError::NotSent(error) => TalkError::Unreachable(chain(&*error)),
        SendError::Broken(error) => TalkError::Unable(chain(&*error)),
    })
}
