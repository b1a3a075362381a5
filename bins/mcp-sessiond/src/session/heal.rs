//! Makes a session whole again: one task per loss, however many requests saw it.
//!
//! If the server may only have been away for a moment, the old session is asked for first. Otherwise: `initialize` with
//! what the client said and the version that was agreed, `notifications/initialized` and its acknowledgement, then the
//! state that was set since. Parked requests go on after that.

use std::sync::Arc;
use std::time::Duration;

use http::{HeaderValue, Method, Request, StatusCode};
use mcp_daemon::body::Body;
use mcp_daemon::client::SendError;
use serde::Deserialize;
use tokio::time::Instant;

use super::call::Call;
use super::engine::Engine;
use super::fresh::Fresh;
use super::memory::{self, Tools};
use super::state::{Death, Event, Generation};
use super::talk::{self, TalkError};
use super::upstream::InFlight;
use super::{Live, Session, listen, replay, reply};
use crate::sse;
use crate::verdict::Flavour;

/// Pauses between attempts while the server is down: this, doubled each time, up to the last.
const FIRST_PAUSE: Duration = Duration::from_millis(25);
const LAST_PAUSE: Duration = Duration::from_millis(250);
/// The same after the server has refused: a neighbour that is starting, or a credential that is being exchanged, needs
/// seconds. With the default of `heal.attempts` these are 7.5 s in all.
const REFUSED_PAUSE: Duration = Duration::from_millis(500);
const LAST_REFUSED_PAUSE: Duration = Duration::from_secs(4);
/// How long a server that was silent, and has answered since, may take to say that it still has the session.
const SECOND_THOUGHT: Duration = Duration::from_secs(2);
/// Pages of `tools/list` that are read.
const MAX_PAGES: usize = 100;

/// What the upstream says about a session when it is asked.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum Asked {
    /// It knows it.
    Alive,
    /// Nobody could be asked, for this reason.
    Down(String),
    /// It does not, and says so in this way.
    Lost(Flavour),
    /// It took the question and said nothing, or, as with 401, 403 and 429, nothing of the session.
    Silent,
    /// Somebody answered who could not ask it, or the answer broke off.
    Unsure,
}

/// Starts the one healer of a loss.
pub fn start(engine: &Arc<Engine>, session: &Arc<Session>, lost: Generation, flavour: Flavour) {
    let (engine, session) = (engine.clone(), session.clone());
    engine.life.clone().spawn(async move {
        tokio::select! {
            () = heal(&engine, &session, lost, flavour) => {}
            () = abandoned(&engine, &session) => {}
        }
    });
}

/// Resolves when we are told to stop and nobody waits for this heal (any more).
async fn abandoned(engine: &Engine, session: &Session) {
    engine.life.draining().await;
    while session.has_parked() {
        tokio::time::sleep(FIRST_PAUSE).await;
    }
}

async fn heal(engine: &Arc<Engine>, session: &Arc<Session>, lost: Generation, flavour: Flavour) {
    let began = Instant::now();
    let bounds = engine.config().heal.clone();
    let (mut attempts, mut refusals) = (0u32, 0);
    let (mut pause, mut refused_pause) = (FIRST_PAUSE, REFUSED_PAUSE);
    let why = loop {
        if session.death().is_some() {
            return;
        }
        attempts += 1;
        let error = match attempt(engine, session, lost, flavour).await {
            Ok((event, found)) => {
                if !engine.apply(session, event, flavour) {
                    log::debug!(session = session.key.short(); "session ended while it was healed");
                    return;
                }
                found.keep();
                let took_ms = began.elapsed().as_millis() as u64;
                engine.metrics.healed(flavour, began.elapsed());
                let outcome = if event == Event::Kept { "kept" } else { "renewed" };
                log::info!(session = session.key.short(), route = session.upstream.name(), flavour = flavour.as_str(), outcome, attempts, took_ms; "session healed");
                listen::ensure(engine, session);
                tell_changed_roots(engine, session).await;
                if event == Event::Healed {
                    compare_tools(engine, session).await;
                }
                return;
            }
            Err(error) => error,
        };
        // The first one says what is wrong while calls wait; clients are not told.
        let level = if attempts == 1 { log::Level::Info } else { log::Level::Debug };
        log::log!(level, session = session.key.short(), route = session.upstream.name(), attempts, error:% = error; "attempt to heal failed");
        match &error {
            TalkError::OtherVersion(_) => {
                log::warn!(session = session.key.short(), error:% = error; "session ended, the server does not speak its version any more");
                engine.end(session, Death::Refused).wait().await;
                return;
            }
            TalkError::Unreachable(_) | TalkError::Unable(_) => {}
            TalkError::Lost { .. } | TalkError::Refused { .. } | TalkError::Rpc { .. } => {
                refusals += 1;
                if refusals >= bounds.attempts.get() {
                    break error;
                }
            }
        }
        let (wait, last) = match error.is_refusal() {
            true => (&mut refused_pause, LAST_REFUSED_PAUSE),
            false => (&mut pause, LAST_PAUSE),
        };
        if began.elapsed() + *wait > bounds.timeout.duration() {
            break error;
        }
        tokio::time::sleep(*wait).await;
        *wait = (*wait * 2).min(last);
    };
    engine.metrics.failed_heals.inc();
    log::warn!(session = session.key.short(), route = session.upstream.name(), attempts, error:% = why; "session not healed, the next request tries again");
    {
        let mut inner = session.lock();
        inner.failures += 1;
        inner.is_refused = why.is_refusal();
    }
    engine.apply(session, Event::GaveUp, flavour);
}

/// Finds the old upstream session again, or makes a new one as complete as it was.
async fn attempt(
    engine: &Arc<Engine>,
    session: &Arc<Session>,
    lost: Generation,
    flavour: Flavour,
) -> Result<(Event, Fresh), TalkError> {
    let old = session.way(lost);
    let asked = match flavour.leaves_doubt() && old.id.is_some() {
        true => ask(engine, session, &old).await,
        false => Asked::Lost(flavour),
    };
    let is_lost = match asked {
        Asked::Alive => return Ok((Event::Kept, Fresh::new(engine, session, old))),
        Asked::Down(why) => return Err(TalkError::Unreachable(why)),
        Asked::Lost(_) => true,
        // A gateway's error to a stale id says little, and silence may be a server's way to say "lost": what is said to
        // `initialize` decides.
        Asked::Silent | Asked::Unsure => false,
    };
    let bounds = engine.config().heal.clone();
    let shaken = tokio::time::timeout(bounds.attempt_timeout.duration(), shake_hands(engine, session, lost));
    let fresh = shaken.await.unwrap_or_else(|_elapsed| {
        Err(TalkError::Unable("no answer to initialize within heal.attempt_timeout".into()))
    })?;
    if !is_lost
        && let Ok(Asked::Alive) = tokio::time::timeout(SECOND_THOUGHT, ask(engine, session, &old)).await
    {
        // It was frozen or out of reach, and still has the old one: the new one is closed.
        return Ok((Event::Kept, Fresh::new(engine, session, old)));
    }
    // Not part of the bound above: activating a project may take as long as a language server does.
    match tokio::time::timeout(bounds.timeout.duration(), replay::replay(engine, session, fresh.live())).await
    {
        Ok(replayed) => replayed?,
        Err(_elapsed) => {
            log::warn!(session = session.key.short(); "state not restored within heal.timeout, going on without");
        }
    }
    let saved = {
        let mut inner = session.lock();
        let live = fresh.live();
        inner.renew(live.id.clone(), live.generation);
        inner.save(&engine.store, &session.key)
    };
    saved.wait().await;
    Ok((Event::Healed, fresh))
}

/// Asks the upstream for the session itself. Not by `ping`: the specification lets that pass on a session that never saw
/// `initialize`, which is just what an intermediary makes of an id it does not know.
pub async fn ask(engine: &Arc<Engine>, session: &Arc<Session>, live: &Live) -> Asked {
    let timeout = engine.config().hang.timeout.duration();
    match tokio::time::timeout(timeout, talk::request(engine, session, live, "tools/list", None)).await {
        Ok(Ok(_)) | Ok(Err(TalkError::Rpc { doubtful: false, .. })) => Asked::Alive,
        Ok(Err(TalkError::Unreachable(why))) => Asked::Down(why),
        Ok(Err(TalkError::Rpc { doubtful: true, .. })) => Asked::Lost(Flavour::RpcError),
        Ok(Err(TalkError::Lost { flavour, .. } | TalkError::Refused { doubtful: Some(flavour), .. })) => {
            Asked::Lost(flavour)
        }
        Ok(Err(TalkError::OtherVersion(_) | TalkError::Unable(_))) => Asked::Unsure,
        Ok(Err(TalkError::Refused { doubtful: None, .. })) => Asked::Silent,
        Err(_elapsed) => Asked::Silent,
    }
}

/// A new upstream session in the place of the lost one.
async fn shake_hands(
    engine: &Arc<Engine>,
    session: &Arc<Session>,
    lost: Generation,
) -> Result<Fresh, TalkError> {
    let (params, version) = {
        let inner = session.lock();
        (memory::offer(&inner.memory.params, &inner.memory.version), inner.memory.version.clone())
    };
    let nobody = Live { generation: lost, id: None, version: session.way(lost).version };
    let (result, id) = talk::initialize(engine, session, &nobody, &params).await?;
    let live = Live { generation: lost + 1, id, version: nobody.version };
    let fresh = Fresh::new(engine, session, live);
    #[derive(Deserialize)]
    #[serde(rename_all = "camelCase")]
    struct Initialized {
        protocol_version: Box<str>,
    }
    let agreed = serde_json::from_str::<Initialized>(result.get()).map(|result| result.protocol_version);
    if agreed.as_deref().ok() != Some(&*version) {
        let agreed = agreed.as_deref().unwrap_or("nothing");
        return Err(TalkError::OtherVersion(format!("it speaks {agreed} instead of {version}")));
    }
    // Its acknowledgement must be awaited: Python mcp 1.12 refuses everything before it.
    talk::notify(engine, session, fresh.live(), "notifications/initialized").await?;
    Ok(fresh)
}

/// Passes on a client's `roots/list_changed` that came while nobody could take it.
async fn tell_changed_roots(engine: &Arc<Engine>, session: &Arc<Session>) {
    let changed = std::mem::take(&mut session.lock().roots_changed);
    let Some(live) = session.live().filter(|_| changed) else { return };
    if talk::notify(engine, session, &live, "notifications/roots/list_changed").await.is_err() {
        session.lock().roots_changed = true;
    }
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
        let result = talk::request(engine, session, live, "tools/list", params.as_deref()).await.ok()?;
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
    *request.headers_mut() = call.letterhead.for_stream();
    let headers = request.headers_mut();
    live.mark(headers);
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

impl Session {
    /// The way to the upstream session that was lost, should it still be there.
    fn way(&self, generation: Generation) -> Live {
        let inner = self.lock();
        Live { generation, id: inner.upstream_id.clone(), version: inner.version.clone() }
    }

    fn has_parked(&self) -> bool {
        self.lock().streams.as_ref().is_some_and(|streams| !streams.parked.is_empty())
    }
}

/// Whether a status is one that a server gives to who asks for a stream it does not have.
pub fn has_no_stream(status: StatusCode) -> bool {
    matches!(
        status,
        StatusCode::METHOD_NOT_ALLOWED | StatusCode::NOT_IMPLEMENTED | StatusCode::NOT_ACCEPTABLE
    )
}
