//! Makes a session whole again: one task per loss, however many requests saw it.
//!
//! If the server may only have been away for a moment, the old session is asked for first. Otherwise: `initialize` with
//! what the client said and the version that was agreed, `notifications/initialized` and its acknowledgement, then the
//! state that was set since. Parked requests go on after that.

use std::sync::Arc;
use std::time::Duration;

use http::{HeaderMap, HeaderValue, Method, Request, StatusCode, header};
use http_body_util::BodyExt;
use mcp_daemon::body::Body;
use mcp_daemon::client::SendError;
use serde::Deserialize;
use serde_json::value::RawValue;
use tokio::time::Instant;

use super::call::{self, ACCEPT_BOTH, Call, collect};
use super::engine::Engine;
use super::memory::{self, Tools};
use super::state::{Death, Event, Generation};
use super::upstream::InFlight;
use super::{Live, Session, listen, reply};
use crate::mcp::{self, Envelope, Kind};
use crate::sse::{self, Splitter};
use crate::verdict::{self, Flavour, Verdict};

/// Pauses between attempts while the server is down: this, doubled each time, up to the last.
const FIRST_PAUSE: Duration = Duration::from_millis(25);
const LAST_PAUSE: Duration = Duration::from_millis(250);
/// Largest answer to a request of our own.
const OWN_ANSWER: usize = 16 << 20;
/// Pages of `tools/list` that are read.
const MAX_PAGES: usize = 100;

/// What the upstream says about a session when it is asked.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Asked {
    /// It knows it.
    Alive,
    /// Nobody could be asked.
    Down,
    /// It does not.
    Lost,
}

/// Why a request of our own has no result.
#[derive(Debug, thiserror::Error)]
enum TalkError {
    #[error("{0}")]
    Down(String),
    #[error("{1}")]
    Lost(Flavour, String),
    #[error("the server answered {method} with {what}")]
    Refused { method: &'static str, what: String },
}

/// Starts the one healer of a loss.
pub fn start(engine: &Arc<Engine>, session: &Arc<Session>, lost: Generation, flavour: Flavour) {
    let (engine, session) = (engine.clone(), session.clone());
    engine.life.clone().spawn(async move { heal(&engine, &session, lost, flavour).await });
}

async fn heal(engine: &Arc<Engine>, session: &Arc<Session>, lost: Generation, flavour: Flavour) {
    let began = Instant::now();
    let bounds = engine.config().heal.clone();
    let (mut attempts, mut refusals, mut pause) = (0u32, 0, FIRST_PAUSE);
    // An explicit "no such session" needs no second question.
    let mut ask_first = matches!(flavour, Flavour::Refused | Flavour::Broken | Flavour::Hang);
    let why = loop {
        if session.death().is_some() {
            return;
        }
        attempts += 1;
        let attempt = tokio::time::timeout(
            bounds.attempt_timeout.duration(),
            attempt(engine, session, lost, ask_first),
        );
        let error = match attempt
            .await
            .unwrap_or_else(|_elapsed| Err(TalkError::Down("no answer within heal.attempt_timeout".into())))
        {
            Ok(event) => {
                let took_ms = began.elapsed().as_millis() as u64;
                engine.metrics.healed(flavour, began.elapsed());
                let upstream = session.upstream.name();
                let outcome = if event == Event::Kept { "kept" } else { "renewed" };
                log::info!(session = session.key.short(), upstream, flavour = flavour.as_str(), outcome, attempts, took_ms; "session healed");
                engine.apply(session, event, flavour);
                listen::ensure(engine, session);
                if event == Event::Healed {
                    compare_tools(engine, session).await;
                }
                return;
            }
            Err(error) => error,
        };
        log::debug!(session = session.key.short(), attempts, error:% = error; "attempt to heal failed");
        match &error {
            TalkError::Refused { method: "initialize", what } if what.starts_with("version") => {
                log::warn!(session = session.key.short(), error:% = error; "session ended, the server does not speak its version any more");
                engine.end(session, Death::Refused);
                return;
            }
            TalkError::Lost(..) if ask_first => {
                ask_first = false;
                continue;
            }
            TalkError::Down(_) => {}
            TalkError::Lost(..) | TalkError::Refused { .. } => {
                refusals += 1;
                if refusals >= bounds.attempts.get() {
                    break error;
                }
            }
        }
        if began.elapsed() + pause > bounds.timeout.duration() {
            break error;
        }
        tokio::time::sleep(pause).await;
        pause = (pause * 2).min(LAST_PAUSE);
    };
    engine.metrics.failed_heals.inc();
    log::warn!(session = session.key.short(), upstream = session.upstream.name(), attempts, error:% = why; "session not healed, the next request tries again");
    session.gave_up(&why.to_string());
    engine.apply(session, Event::GaveUp, flavour);
}

async fn attempt(
    engine: &Arc<Engine>,
    session: &Arc<Session>,
    lost: Generation,
    ask_first: bool,
) -> Result<Event, TalkError> {
    let old = session.way(lost);
    if ask_first && old.id.is_some() {
        return match ask(engine, session, &old).await {
            Asked::Alive => Ok(Event::Kept),
            Asked::Down => Err(TalkError::Down("connection refused".into())),
            Asked::Lost => Err(TalkError::Lost(Flavour::NotFound, "session lost".into())),
        };
    }
    renew(engine, session, lost).await?;
    Ok(Event::Healed)
}

/// Asks the upstream for the session itself. Not by `ping`: the specification lets that pass on a session that never saw
/// `initialize`, which is just what an intermediary makes of an id it does not know.
pub async fn ask(engine: &Arc<Engine>, session: &Arc<Session>, live: &Live) -> Asked {
    let timeout = engine.config().heal.attempt_timeout.duration();
    match tokio::time::timeout(timeout, talk(engine, session, live, "tools/list", None)).await {
        Ok(Ok(_)) => Asked::Alive,
        Ok(Err(TalkError::Refused { what, .. })) if what.contains(&mcp::METHOD_NOT_FOUND.to_string()) => {
            Asked::Alive
        }
        Ok(Err(TalkError::Lost(..) | TalkError::Refused { .. })) => Asked::Lost,
        Ok(Err(TalkError::Down(_))) | Err(_) => Asked::Down,
    }
}

/// A new upstream session in the place of the lost one, with all that was set on it.
async fn renew(engine: &Arc<Engine>, session: &Arc<Session>, lost: Generation) -> Result<(), TalkError> {
    let (params, version) = {
        let inner = session.lock();
        (memory::offer(&inner.memory.params, &inner.memory.version), inner.memory.version.clone())
    };
    let nobody = Live { generation: lost, id: None, version: session.way(lost).version };
    let mut new_id = None;
    let result = exchange(engine, session, &nobody, "initialize", Some(&params), |headers| {
        new_id = headers.get(mcp::SESSION_HEADER).cloned();
    })
    .await?;
    #[derive(Deserialize)]
    #[serde(rename_all = "camelCase")]
    struct Initialized {
        protocol_version: Box<str>,
    }
    let agreed = serde_json::from_str::<Initialized>(result.get()).map(|result| result.protocol_version);
    if agreed.as_deref().ok() != Some(&*version) {
        let what = format!("version {} instead of {version}", agreed.as_deref().unwrap_or("none"));
        return Err(TalkError::Refused { method: "initialize", what });
    }
    let live = Live { generation: lost + 1, id: new_id, version: nobody.version };
    // Its acknowledgement must be awaited: Python mcp 1.12 refuses everything before it.
    say(engine, session, &live, r#"{"jsonrpc":"2.0","method":"notifications/initialized"}"#).await?;
    replay(engine, session, &live).await;
    let saved = {
        let mut inner = session.lock();
        inner.renew(live.id.clone(), live.generation);
        engine.store.save(&session.key, &inner.memory)
    };
    saved.wait().await;
    Ok(())
}

/// Sets again what was set; a server that refuses some of it is told of in the log, the session goes on.
async fn replay(engine: &Arc<Engine>, session: &Arc<Session>, live: &Live) {
    let (level, subscriptions, private, roots) = {
        let mut inner = session.lock();
        let memory = &inner.memory;
        let remembered = (memory.level.clone(), memory.subscriptions.clone(), memory.replay.clone());
        (remembered.0, remembered.1, remembered.2, std::mem::take(&mut inner.roots_changed))
    };
    let mut calls: Vec<(&'static str, Box<RawValue>)> = Vec::new();
    calls.extend(level.map(|level| ("logging/setLevel", level)));
    for uri in subscriptions {
        calls.extend(
            serde_json::value::to_raw_value(&serde_json::json!({ "uri": uri }))
                .ok()
                .map(|params| ("resources/subscribe", params)),
        );
    }
    if engine.back.is_private() {
        calls.extend(private.into_values().map(|params| ("tools/call", params)));
    }
    run_all(engine, session, live, calls).await;
    if !engine.back.is_private() {
        replay_shared(engine, session, live).await;
    }
    if roots {
        let _ =
            say(engine, session, live, r#"{"jsonrpc":"2.0","method":"notifications/roots/list_changed"}"#)
                .await;
    }
}

/// Replays what belongs to the server process: once per loss, though each of its sessions heals for itself.
async fn replay_shared(engine: &Arc<Engine>, session: &Arc<Session>, live: &Live) {
    let calls: Vec<_> =
        session.upstream.replay().into_values().map(|params| ("tools/call", params)).collect();
    if calls.is_empty() {
        return;
    }
    let mut replayed = session.upstream.replayed.lock().await;
    // The session of another healer vouches for the process that it replayed to: no clock could.
    if let Some(witness) = replayed.as_ref().filter(|witness| witness.id.is_some())
        && ask(engine, session, witness).await == Asked::Alive
    {
        return;
    }
    if run_all(engine, session, live, calls).await {
        *replayed = Some(live.clone());
    }
}

async fn run_all(
    engine: &Arc<Engine>,
    session: &Arc<Session>,
    live: &Live,
    calls: Vec<(&'static str, Box<RawValue>)>,
) -> bool {
    let mut all = true;
    for (method, params) in calls {
        if let Err(error) = talk(engine, session, live, method, Some(&params)).await {
            all = false;
            log::warn!(session = session.key.short(), method, error:% = error; "state not restored");
        }
    }
    all
}

/// Tells a client that was promised so when the tools are others than before.
async fn compare_tools(engine: &Arc<Engine>, session: &Arc<Session>) {
    let before = {
        let inner = session.lock();
        if !inner.memory.told_of_changes {
            None
        } else {
            inner.memory.tools.clone().filter(|tools| tools.complete)
        }
    };
    let (Some(before), Some(live)) = (before, session.live()) else { return };
    if learn_tools(engine, session, &live).await.is_some_and(|now| now.digest != before.digest) {
        let changed = br#"{"jsonrpc":"2.0","method":"notifications/tools/list_changed"}"#;
        session.unasked(&engine.config().stream).push(|id| sse::message(id, changed));
        log::info!(session = session.key.short(); "tools changed, client told");
    }
}

/// Reads all tools and remembers what they say of themselves.
pub async fn learn_tools(engine: &Arc<Engine>, session: &Arc<Session>, live: &Live) -> Option<Tools> {
    let mut tools = Tools::default();
    let mut cursor: Option<Box<str>> = None;
    for page in 0..MAX_PAGES {
        let params = cursor.as_ref().and_then(|cursor| {
            serde_json::value::to_raw_value(&serde_json::json!({ "cursor": cursor })).ok()
        });
        let result = talk(engine, session, live, "tools/list", params.as_deref()).await.ok()?;
        cursor = tools.learn(&result, page == 0);
        if cursor.is_none() {
            break;
        }
    }
    session.lock().memory.tools = Some(tools.clone());
    Some(tools)
}

/// Goes on reading a stream that the server ended on purpose.
pub async fn resume(
    engine: &Arc<Engine>,
    call: &Call,
    live: &Live,
    last_id: Option<HeaderValue>,
) -> Result<(Body, InFlight), Flavour> {
    let flight = call.session.upstream.enter(engine);
    let mut request = Request::new(bytes::Bytes::new());
    *request.method_mut() = Method::GET;
    *request.headers_mut() = (*call.headers).clone();
    let headers = request.headers_mut();
    live.mark(headers);
    headers.remove(header::CONTENT_TYPE);
    headers.insert(header::ACCEPT, HeaderValue::from_static("text/event-stream"));
    if let Some(last_id) = last_id {
        headers.insert("last-event-id", last_id);
    }
    match engine.back.send(call.session.upstream.route.as_ref(), request).await {
        Ok(answer) if answer.status().is_success() && reply::is_stream(answer.headers()) => {
            Ok((answer.into_body(), flight))
        }
        Ok(_) | Err(SendError::Broken(_)) => Err(Flavour::Broken),
        Err(SendError::NotSent(_)) => Err(Flavour::Broken),
    }
}

/// A request of our own; the result, unread.
async fn talk(
    engine: &Arc<Engine>,
    session: &Arc<Session>,
    live: &Live,
    method: &'static str,
    params: Option<&RawValue>,
) -> Result<Box<RawValue>, TalkError> {
    exchange(engine, session, live, method, params, |_| {}).await
}

async fn exchange(
    engine: &Arc<Engine>,
    session: &Arc<Session>,
    live: &Live,
    method: &'static str,
    params: Option<&RawValue>,
    look: impl FnOnce(&HeaderMap),
) -> Result<Box<RawValue>, TalkError> {
    let id = format!("\"{}\"", mcp_daemon::secret::random_id());
    let params = params.map(|params| format!(r#","params":{}"#, params.get())).unwrap_or_default();
    let body = format!(r#"{{"jsonrpc":"2.0","id":{id},"method":"{method}"{params}}}"#);
    let answer = send(engine, session, live, body, method == "initialize").await?;
    let (head, body) = answer.into_parts();
    if head.status.is_success() {
        look(&head.headers);
    }
    let message = if head.status.is_success() && reply::is_stream(&head.headers) {
        response_in(body, &id).await
    } else {
        collect(body, OWN_ANSWER).await.ok().and_then(|body| body.joined())
    };
    let broken = || TalkError::Down(format!("the answer to {method} broke off"));
    let message = message.ok_or_else(broken)?;
    let refused = |what| Err(TalkError::Refused { method, what });
    match verdict::judge(head.status, &head.headers, &message) {
        Verdict::Lost(flavour) => {
            return Err(TalkError::Lost(
                flavour,
                format!("the server answered {method} with {}", head.status),
            ));
        }
        Verdict::NotForwarded => return Err(TalkError::Down(head.status.to_string())),
        Verdict::Doubtful(_) | Verdict::Answer if !head.status.is_success() => {
            return if head.status.is_server_error() {
                Err(TalkError::Down(head.status.to_string()))
            } else {
                refused(head.status.to_string())
            };
        }
        Verdict::Doubtful(_) | Verdict::Answer => {}
    }
    let envelope =
        Envelope::parse(&message).map_err(|error| TalkError::Refused { method, what: error.to_string() })?;
    match (envelope.result, envelope.error) {
        (Some(result), _) => Ok(result.to_owned()),
        (None, error) => {
            let error = error.and_then(|error| serde_json::from_str::<mcp::RpcError>(error.get()).ok());
            refused(error.map_or_else(
                || "no result".into(),
                |error| format!("error {}: {}", error.code, error.message),
            ))
        }
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

/// A notification of our own, with its acknowledgement.
async fn say(engine: &Arc<Engine>, session: &Arc<Session>, live: &Live, body: &str) -> Result<(), TalkError> {
    let answer = send(engine, session, live, body.to_owned(), false).await?;
    let (head, body) = answer.into_parts();
    let _acknowledged = collect(body, OWN_ANSWER).await;
    if head.status.is_success() {
        Ok(())
    } else {
        Err(TalkError::Refused { method: "notifications/initialized", what: head.status.to_string() })
    }
}

async fn send(
    engine: &Arc<Engine>,
    session: &Arc<Session>,
    live: &Live,
    body: String,
    first: bool,
) -> Result<http::Response<Body>, TalkError> {
    let mut headers = session.lock().headers.as_deref().cloned().unwrap_or_default();
    for name in ["mcp-method", "mcp-name", "last-event-id", mcp::VERSION_HEADER] {
        headers.remove(name);
    }
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
    headers.insert(header::ACCEPT, ACCEPT_BOTH);
    engine.add_own_headers(&mut headers);
    let mut request = call::post(&headers, live, body.into());
    if first {
        request.headers_mut().remove(mcp::VERSION_HEADER);
    }
    engine
        .back
        .send(session.upstream.route.as_ref(), request)
        .await
        .map_err(|error| TalkError::Down(error.to_string()))
}

impl Session {
    /// The way to the upstream session that was lost, should it still be there.
    fn way(&self, generation: Generation) -> Live {
        let inner = self.lock();
        Live { generation, id: inner.upstream_id.clone(), version: inner.version.clone() }
    }

    fn gave_up(&self, why: &str) {
        let mut inner = self.lock();
        inner.failures += 1;
        inner.failure = Some(why.into());
    }
}

/// Whether a status is one that a server gives to who asks for a stream it does not have.
pub fn has_no_stream(status: StatusCode) -> bool {
    matches!(
        status,
        StatusCode::METHOD_NOT_ALLOWED | StatusCode::NOT_IMPLEMENTED | StatusCode::NOT_ACCEPTABLE
    )
}
