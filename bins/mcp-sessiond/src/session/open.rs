//! How a session begins: the client's `initialize`, an id nobody knows, or a hidden session for those without ids.

use std::sync::Arc;

use bytes::Bytes;
use http::{HeaderMap, HeaderValue, Method, Request, Response, StatusCode, header, response};
use http_body_util::BodyExt;
use mcp_daemon::body::Body;
use mcp_daemon::client::SendError;
use mcp_daemon::exit::chain;
use serde::Deserialize;
use serde_json::value::RawValue;
use tokio::time::Instant;

use super::collect::collect;
use super::engine::{Caller, Engine};
use super::headers::Letterhead;
use super::memory::{Memory, Replay, anonymous_params};
use super::state::State;
use super::upstream::Upstream;
use super::{Key, Session, reply};
use crate::mcp::{self, Envelope, Kind};
use crate::sse::{self, Splitter};
use crate::verdict;

/// Largest answer to `initialize`.
const MAX_ANSWER: usize = 1 << 20;

/// Passes a client's `initialize` on and keeps what it takes to say it again.
pub async fn open(
    engine: &Arc<Engine>,
    caller: &Caller,
    envelope: &Envelope<'_>,
    body: Bytes,
    letterhead: &Letterhead,
    takes_stream: bool,
) -> Response<Body> {
    let id = envelope.id.map_or("null", RawValue::get);
    let upstream = engine.upstream(caller.route.as_ref());
    let answer = send_until_up(engine, &upstream, caller, &body, &letterhead.with_version(), id).await;
    let (mut head, message, whole) = match answer {
        Ok(answer) => answer,
        Err(refusal) => return refusal,
    };
    let upstream_id = head.headers.get(mcp::SESSION).cloned();
    reply::outward(&mut head.headers);
    let whole = if takes_stream { whole } else { message.clone() };
    let result = Envelope::parse(&message).ok().and_then(|answer| answer.result.map(ToOwned::to_owned));
    let Some(result) = result.filter(|_| head.status.is_success()) else {
        // The client sees why; whatever id came with it is dead already.
        return Response::from_parts(head, Body::from(whole));
    };
    let Ok(agreed) = serde_json::from_str::<Agreed>(result.get()) else {
        return Response::from_parts(head, Body::from(whole));
    };
    let session_id = mcp_daemon::secret::random_id();
    let memory = Memory {
        id: session_id.as_str().into(),
        subject: (&*caller.subject).into(),
        route: caller.route.as_ref().map(|route| route.as_str().into()),
        version: agreed.protocol_version,
        params: envelope
            .params
            .map(ToOwned::to_owned)
            .unwrap_or_else(|| anonymous_params(mcp::DEFAULT_VERSION)),
        upstream: upstream_id.and_then(|id| id.to_str().ok().map(Into::into)),
        generation: 1,
        level: None,
        subscriptions: Default::default(),
        told_of_changes: agreed.capabilities.tools.list_changed,
        tools: None,
        replay: Replay::new(),
    };
    let key = Key::new(&caller.subject, &session_id);
    // On disk before the client has the id: from then on it can rely on it.
    engine.store.save(&key, &memory).wait().await;
    let session = Session::new(key, memory, upstream, State::Live(1));
    session.lock().keep(letterhead);
    engine.insert(session);
    log::debug!(session = key.short(); "session opened");
    if !takes_stream {
        head.headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
    }
    if let Ok(value) = HeaderValue::from_str(&session_id) {
        head.headers.insert(mcp::SESSION_HEADER, value);
    }
    Response::from_parts(head, Body::from(whole))
}

/// What matters of the result of `initialize`.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Agreed {
    protocol_version: Box<str>,
    #[serde(default)]
    capabilities: Capabilities,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct Capabilities {
    tools: ToolsCapability,
}

#[derive(Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
struct ToolsCapability {
    list_changed: bool,
}

/// Sends `initialize` as soon as there is somebody to send it to. It has no effect of its own, so it may be sent again.
async fn send_until_up(
    engine: &Arc<Engine>,
    upstream: &Arc<Upstream>,
    caller: &Caller,
    body: &Bytes,
    headers: &HeaderMap,
    id: &str,
) -> Result<(response::Parts, Bytes, Bytes), Response<Body>> {
    let config = engine.config();
    let deadline = Instant::now() + config.limits.parked_time.duration();
    let flight = upstream.enter(engine);
    let mut place = None;
    let mut pause = std::time::Duration::from_millis(25);
    let mut broken = 0;
    loop {
        let mut request = Request::new(body.clone());
        *request.method_mut() = Method::POST;
        *request.headers_mut() = headers.clone();
        let hung = upstream.hung.notified();
        let sent = tokio::select! {
            biased;
            answer = engine.back.send(caller.route.as_ref(), request) => answer,
            () = hung => Err(SendError::Broken("it does not answer".into())),
        };
        let why = match sent {
            Ok(answer)
                if answer.headers().contains_key(verdict::NOT_FORWARDED) && !answer.status().is_success() =>
            {
                format!("a neighbour answered {}", answer.status())
            }
            Ok(answer) => {
                flight.heard();
                let (head, body) = answer.into_parts();
                let read = read(reply::is_stream(&head.headers), body);
                let read = tokio::select! {
                    biased;
                    read = read => read,
                    () = upstream.hung.notified() => None,
                };
                if let Some((message, whole)) = read {
                    return Ok((head, message, whole));
                }
                broken += 1;
                if broken > 3 {
                    return Err(reply::failed(
                        id,
                        "the server breaks off while it answers initialize; try again",
                    ));
                }
                "its answer broke off".into()
            }
            Err(SendError::NotSent(error)) => chain(&*error),
            Err(SendError::Broken(error)) => {
                broken += 1;
                if broken > 3 {
                    return Err(reply::failed(
                        id,
                        &format!("the server breaks off when it is asked to initialize: {error}"),
                    ));
                }
                chain(&*error)
            }
        };
        if place.is_none() {
            log::info!(error:% = why; "server not there yet, initialize waits for it");
            let entered = engine.parking.enter(&config.limits, &caller.subject, body.len());
            place = Some(entered.map_err(|bound| reply::failed(id, &format!("the server is away and no more requests can wait for it ({bound} reached); try again later")))?);
        }
        let over = match engine.life.is_draining() {
            true => Some("mcp-sessiond is stopping"),
            false => (Instant::now() + pause > deadline).then_some("limits.parked_time is reached"),
        };
        if let Some(over) = over {
            return Err(reply::failed(
                id,
                &format!("the server cannot be reached ({why}) and {over}; try again"),
            ));
        }
        tokio::time::sleep(pause).await;
        pause = (pause * 2).min(std::time::Duration::from_secs(1));
    }
}

/// The response to `initialize`, and the whole body that it came in.
async fn read(is_stream: bool, body: Body) -> Option<(Bytes, Bytes)> {
    if is_stream {
        return read_stream(body).await;
    }
    let message = collect(body, MAX_ANSWER).await.ok()?.joined()?;
    Some((message.clone(), message))
}

/// The response in a stream, and the stream up to it, without ids that are not ours.
async fn read_stream(mut body: Body) -> Option<(Bytes, Bytes)> {
    let mut splitter = Splitter::default();
    let mut whole = Vec::new();
    while let Some(Ok(frame)) = body.frame().await {
        splitter.push(frame.into_data().ok()?).ok()?;
        while let Some(block) = splitter.next_block() {
            let data = sse::data(&block).filter(|data| !data.is_empty());
            // A priming event is of no use without its id.
            if let Some(data) = data {
                whole.extend_from_slice(&sse::without_id(&block));
                if Envelope::parse(&data).is_ok_and(|message| message.kind() == Some(Kind::Response)) {
                    return Some((data, whole.into()));
                }
            }
        }
        if whole.len() > MAX_ANSWER {
            return None;
        }
    }
    None
}

/// Whether an id is one that a client can have: 1 to 128 visible ASCII characters, as MCP says of session ids.
pub fn can_be_adopted(id: &str) -> bool {
    (1..=128).contains(&id.len()) && id.bytes().all(|byte| byte.is_ascii_graphic())
}

/// Takes over an id that nobody knows: of a client from before sessiond, one that never initialises again.
pub async fn adopt(
    engine: &Arc<Engine>,
    caller: &Caller,
    id: &str,
    letterhead: &Letterhead,
) -> Option<Arc<Session>> {
    if !can_be_adopted(id) {
        return None;
    }
    // It may be an upstream id that is still good, but never one that belongs to a session we keep.
    let upstream = (!engine.is_upstream_id(id)).then(|| id.into());
    Some(anonymous(engine, caller, id, upstream, letterhead, "unknown session adopted").await)
}

/// The one hidden session of a subject and route whose gateway treats each POST as new; what is special about it is in
/// `hidden`.
pub async fn hidden(engine: &Arc<Engine>, caller: &Caller, letterhead: &Letterhead) -> Arc<Session> {
    // No client can present a line end.
    let id = format!("\n{}", caller.route.as_ref().map_or("", |route| route.as_str()));
    match engine.find(&caller.subject, &id) {
        Some(session) => session,
        None => anonymous(engine, caller, &id, None, letterhead, "hidden session made").await,
    }
}

async fn anonymous(
    engine: &Arc<Engine>,
    caller: &Caller,
    id: &str,
    upstream: Option<Box<str>>,
    letterhead: &Letterhead,
    what: &'static str,
) -> Arc<Session> {
    let version = letterhead.version.as_ref().and_then(|version| version.to_str().ok());
    let version = version.unwrap_or(mcp::DEFAULT_VERSION);
    let memory = Memory {
        id: id.into(),
        subject: (&*caller.subject).into(),
        route: caller.route.as_ref().map(|route| route.as_str().into()),
        version: version.into(),
        params: anonymous_params(version),
        upstream,
        generation: 1,
        level: None,
        subscriptions: Default::default(),
        told_of_changes: false,
        tools: None,
        replay: Replay::new(),
    };
    let key = Key::new(&caller.subject, id);
    let saved = engine.store.save(&key, &memory);
    let session =
        engine.insert(Session::new(key, memory, engine.upstream(caller.route.as_ref()), State::Dormant(1)));
    saved.wait().await;
    log::info!(session = key.short(); "{what}");
    session
}

/// The refusal of a request that has no session id and needs one.
pub fn without_id(id: &str) -> Response<Body> {
    reply::refused(
        StatusCode::BAD_REQUEST,
        id,
        mcp::INVALID_REQUEST,
        "Bad Request: Mcp-Session-Id is missing; send initialize first",
    )
}
