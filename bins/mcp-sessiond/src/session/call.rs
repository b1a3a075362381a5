//! One request of a session, from the client's POST to its answer, whatever happens to the server meanwhile.
//!
//! The first try is the fast path. Whatever is not simply an answer goes on in [`mend`]: wait for the heal, send again
//! where that is safe, say so where it is not.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::{HeaderMap, HeaderValue, Method, Request, Response, StatusCode};
use http_body_util::BodyExt;
use mcp_daemon::body::Body;
use mcp_daemon::client::SendError;
use serde_json::value::RawValue;
use tokio::sync::Notify;
use tokio::time::Instant;

use super::engine::Engine;
use super::heal::{self, Asked};
use super::resend::{self, Twice};
use super::state::{Event, State};
use super::stream::{CallStream, Chain, Rest};
use super::talk;
use super::upstream::InFlight;
use super::{Live, Session, reply};
use crate::mcp::{self, Envelope, Glance};
use crate::verdict::{self, Flavour, Verdict};

/// Times that one request is sent again after losses; a server that loses every session must not be asked for ever.
const MAX_RESENDS: u32 = 3;
/// Largest error body that is looked at and passed on whole.
const ERROR_BODY: usize = 256 << 10;

/// A request of the client.
pub struct Call {
    /// Whose.
    pub session: Arc<Session>,
    /// Raw JSON: `1`, `1.0` and `"1"` are three different ids.
    pub id: Box<str>,
    /// The method.
    pub method: Box<str>,
    /// The message, byte for byte.
    pub body: Bytes,
    /// The headers that go upstream, without those of the session.
    pub headers: Arc<HeaderMap>,
    /// Whether the client takes a stream for an answer.
    pub takes_stream: bool,
}

/// What was tried for one request so far.
#[derive(Clone, Copy, Debug, Default)]
pub struct Progress {
    resends: u32,
    doubted: bool,
    deadline: Option<Instant>,
    /// Whether the client has a stream for this call already, into which all that follows goes.
    pub in_stream: bool,
}

/// How one try ended.
pub enum Outcome {
    /// With an answer for the client.
    Answer(Response<Body>),
    /// With an answer that may be about a lost session.
    Doubtful(Flavour, Response<Body>),
    /// With a loss.
    Lost {
        /// How it shows.
        flavour: Flavour,
        /// Whether it is proven that the request did not run.
        did_not_run: bool,
    },
}

/// Carries a request to its answer.
pub async fn run(engine: &Arc<Engine>, call: Arc<Call>) -> Response<Body> {
    let first = match call.session.begin(engine, &call.headers) {
        Some(live) => match try_once(engine, &call, &live, Progress::default()).await {
            Outcome::Answer(answer) => return answer,
            outcome => Some((live, outcome)),
        },
        None => None,
    };
    let mut mending = Box::pin(mend(engine.clone(), call.clone(), Progress::default(), first));
    if !call.takes_stream {
        return mending.await;
    }
    // The client may have a short patience for silence: comments keep it waiting.
    match tokio::time::timeout(engine.config().stream.comment_after.duration(), &mut mending).await {
        Ok(answer) => answer,
        Err(_elapsed) => reply::stream(Body::stream(CallStream::mending(engine.clone(), call, mending))),
    }
}

/// Goes on after a try that was not simply answered, until there is an answer to give.
pub async fn mend(
    engine: Arc<Engine>,
    call: Arc<Call>,
    mut progress: Progress,
    mut tried: Option<(Live, Outcome)>,
) -> Response<Body> {
    loop {
        if let Some((live, outcome)) = tried.take()
            && let Some(answer) = settle(&engine, &call, &mut progress, &live, outcome).await
        {
            return answer;
        }
        let live = match park(&engine, &call, &mut progress).await {
            Ok(live) => live,
            Err(answer) => return answer,
        };
        let outcome = try_once(&engine, &call, &live, progress).await;
        tried = Some((live, outcome));
    }
}

/// Decides what one try means: the answer to give, or `None` to try again.
async fn settle(
    engine: &Arc<Engine>,
    call: &Call,
    progress: &mut Progress,
    live: &Live,
    outcome: Outcome,
) -> Option<Response<Body>> {
    let (flavour, did_not_run, answer) = match outcome {
        Outcome::Answer(answer) => return Some(answer),
        Outcome::Lost { flavour, did_not_run } => (flavour, did_not_run, None),
        // Healed once for this request already: the same again is the answer.
        Outcome::Doubtful(_, answer) if progress.doubted => return Some(answer),
        Outcome::Doubtful(flavour, answer) => {
            progress.doubted = true;
            if heal::ask(engine, &call.session, live).await == Asked::Alive {
                return Some(answer);
            }
            // A refusal did not run; what an intermediary swallowed may have.
            (flavour, matches!(flavour, Flavour::BadRequest | Flavour::RpcError), Some(answer))
        }
    };
    engine.lost(&call.session, live.generation, flavour);
    if !did_not_run && !may_run_twice(engine, call, progress).await {
        engine.metrics.lost_calls.inc();
        log::warn!(session = call.session.key.short(), method = &*call.method, flavour = flavour.as_str(); "call lost, its effect is unknown");
        return Some(reply::failed(&call.id, unknown_effect(flavour)));
    }
    // Waiting for a server that is down is bounded by time; being lost again and again by a count.
    if flavour != Flavour::Refused {
        progress.resends += 1;
        if progress.resends > MAX_RESENDS {
            return Some(answer.unwrap_or_else(|| {
                reply::failed(&call.id, "the server lost this session again and again while it was healed")
            }));
        }
    }
    None
}

fn unknown_effect(flavour: Flavour) -> &'static str {
    match flavour {
        Flavour::Hang => {
            "the server stopped answering while this call ran; its effect is unknown, so it was not sent again"
        }
        _ => "the server restarted while this call ran; its effect is unknown, so it was not sent again",
    }
}

/// Whether a request that may have run can be sent again; asks the healed server for its annotations if need be.
async fn may_run_twice(engine: &Arc<Engine>, call: &Call, progress: &mut Progress) -> bool {
    let tool = call.tool();
    let judge = |call: &Call| {
        let inner = call.session.lock();
        resend::judge(
            &call.method,
            tool.as_deref(),
            inner.memory.tools.as_ref(),
            engine.config().trust_annotations,
        )
    };
    match judge(call) {
        Twice::Harmless => return true,
        Twice::Harmful => return false,
        Twice::Unknown => {}
    }
    let Ok(live) = park(engine, call, progress).await else { return false };
    heal::learn_tools(engine, &call.session, &live).await;
    judge(call) == Twice::Harmless
}

/// Waits until the session is live; `Err` is the answer for a request that cannot wait any longer.
async fn park(engine: &Arc<Engine>, call: &Call, progress: &mut Progress) -> Result<Live, Response<Body>> {
    let session = &call.session;
    if let Some(live) = session.live() {
        return Ok(live);
    }
    let config = engine.config();
    let _place = engine.parking.enter(&config.limits, &session.subject, call.body.len()).map_err(|bound| {
        reply::failed(&call.id, &format!("the server is away and no more requests can wait for it ({bound} reached); try again later"))
    })?;
    let parked = session.register_parked(&call.id);
    let deadline =
        *progress.deadline.get_or_insert_with(|| Instant::now() + config.limits.parked_time.duration());
    let failures = session.lock().failures;
    let mut leaving = None;
    loop {
        let changed = session.changed.notified();
        tokio::pin!(changed);
        changed.as_mut().enable();
        let (state, failure) = {
            let inner = session.lock();
            (inner.state, (inner.failures > failures).then(|| inner.failure.clone()).flatten())
        };
        match state {
            State::Live(_) => {
                if let Some(live) = session.live() {
                    return Ok(live);
                }
            }
            State::Dead(_) => return Err(reply::not_found()),
            State::Dormant(_) => match failure {
                Some(why) => {
                    return Err(reply::failed(
                        &call.id,
                        &format!("the server cannot be reached: {why}; this call did not run, try again"),
                    ));
                }
                None => engine.apply(session, Event::Wanted, Flavour::Refused),
            },
            State::Healing(_) => {}
        }
        tokio::select! {
            () = &mut changed => {}
            () = parked.cancelled.notified() => return Err(reply::failed(&call.id, "cancelled before it was sent")),
            () = tokio::time::sleep_until(leaving.unwrap_or(deadline)) => {
                let waited = if leaving.is_some() { "mcp-sessiond is stopping" } else { "limits.parked_time is reached" };
                return Err(reply::failed(&call.id, &format!("the server is still away and {waited}; this call did not run, try again")));
            }
            // Half of the grace is for the server to come back, the rest for the answer.
            () = engine.life.draining(), if leaving.is_none() => {
                leaving = Some(deadline.min(Instant::now() + config.grace.duration() / 2));
            }
        }
    }
}

/// Sends the request once.
async fn try_once(engine: &Arc<Engine>, call: &Arc<Call>, live: &Live, progress: Progress) -> Outcome {
    let upstream = &call.session.upstream;
    if !resend::is_harmless_method(&call.method) {
        // Connections that broke while nobody looked are noticed first: none of them may turn this call into a doubt.
        tokio::task::yield_now().await;
    }
    let flight = upstream.enter(engine);
    let hung = upstream.hung.notified();
    let request = post(&call.headers, live, call.body.clone());
    let lost = |flavour, did_not_run| Outcome::Lost { flavour, did_not_run };
    let answer = tokio::select! {
        biased;
        answer = engine.back.send(upstream.route.as_ref(), request) => answer,
        () = hung => return lost(Flavour::Hang, false),
    };
    match answer {
        Ok(answer) => receive(engine, call, live, answer, flight, progress).await,
        Err(SendError::NotSent(error)) => {
            log::debug!(session = call.session.key.short(), error:% = error; "upstream not reached");
            lost(Flavour::Refused, true)
        }
        Err(SendError::Broken(error)) => {
            log::debug!(session = call.session.key.short(), error:% = error; "upstream connection broke");
            lost(Flavour::Broken, false)
        }
    }
}

/// An upstream POST with the session's own headers.
pub fn post(headers: &HeaderMap, live: &Live, body: Bytes) -> Request<Bytes> {
    let mut request = Request::new(body);
    *request.method_mut() = Method::POST;
    *request.headers_mut() = headers.clone();
    live.mark(request.headers_mut());
    request
}

impl Live {
    /// Puts the upstream session's id and the agreed version on a request.
    pub fn mark(&self, headers: &mut HeaderMap) {
        if let Some(id) = &self.id {
            headers.insert(mcp::SESSION, id.clone());
        }
        // Known to servers from 2025-06-18 on; older ones ignore it.
        headers.insert(mcp::VERSION, self.version.clone());
    }
}

/// Reads an answer as far as it takes to know what it is.
async fn receive(
    engine: &Arc<Engine>,
    call: &Arc<Call>,
    live: &Live,
    answer: Response<Body>,
    flight: InFlight,
    progress: Progress,
) -> Outcome {
    flight.heard();
    let (mut head, body) = answer.into_parts();
    if head.status.is_success() && reply::is_stream(&head.headers) {
        reply::outward(&mut head.headers);
        let body = Chain::look_ahead(body).await;
        let stream = CallStream::new(engine.clone(), call.clone(), live.clone(), body, flight, progress);
        if !call.takes_stream {
            // Its answer alone; what the server says besides has nowhere to go.
            let message = Box::pin(talk::response_in(Body::stream(stream), &call.id)).await;
            let answer =
                message.map_or_else(|| reply::failed(&call.id, "the server gave no answer"), reply::message);
            return Outcome::Answer(answer);
        }
        reply::unbuffered(&mut head.headers);
        return Outcome::Answer(Response::from_parts(head, Body::stream(stream)));
    }
    let bound = if head.status.is_success() { engine.config().limits.answer.bytes() } else { ERROR_BODY };
    let collected = tokio::select! {
        biased;
        collected = collect(body, bound) => collected,
        () = flight.upstream().hung.notified() => Err(Flavour::Hang),
    };
    let whole = match collected {
        Err(flavour) => return Outcome::Lost { flavour, did_not_run: false },
        Ok(whole) => whole,
    };
    flight.heard();
    reply::outward(&mut head.headers);
    if head.status == StatusCode::OK && whole.glance() != Some(Glance::Error) {
        if call.teaches(engine)
            && let Some(body) = whole.joined()
            && let Some(saved) = learn(engine, call, &body)
        {
            saved.wait().await;
        }
        return Outcome::Answer(Response::from_parts(head, whole.into_body()));
    }
    let Some(body) = whole.joined() else {
        // An error answer beyond all bounds: not about a session.
        return Outcome::Answer(Response::from_parts(head, whole.into_body()));
    };
    let verdict = verdict::judge(head.status, &head.headers, &body);
    let answer = || reply::error_answer(head.status, head.headers.clone(), body.clone(), &call.id);
    match verdict {
        Verdict::Answer => Outcome::Answer(answer()),
        Verdict::Doubtful(flavour) => Outcome::Doubtful(flavour, answer()),
        Verdict::Lost(flavour) => Outcome::Lost { flavour, did_not_run: true },
        Verdict::NotForwarded => Outcome::Lost { flavour: Flavour::Refused, did_not_run: true },
    }
}

/// A body that was read until its end or until a bound.
pub struct Collected {
    chunks: std::collections::VecDeque<Bytes>,
    rest: Option<Body>,
}

/// Reads `body` up to `bound` bytes, without copying.
pub async fn collect(mut body: Body, bound: usize) -> Result<Collected, Flavour> {
    let mut chunks = std::collections::VecDeque::new();
    let mut size = 0;
    while let Some(frame) = body.frame().await {
        let Ok(chunk) = frame.map_err(|_broken| Flavour::Broken)?.into_data() else { continue };
        size += chunk.len();
        chunks.push_back(chunk);
        if size > bound {
            return Ok(Collected { chunks, rest: Some(body) });
        }
    }
    Ok(Collected { chunks, rest: None })
}

impl Collected {
    fn glance(&self) -> Option<Glance> {
        mcp::glance(self.chunks.front()?)
    }

    /// All of it in one piece; `None` if it went beyond the bound.
    pub fn joined(&self) -> Option<Bytes> {
        if self.rest.is_some() {
            return None;
        }
        match self.chunks.len() {
            0 => Some(Bytes::new()),
            1 => self.chunks.front().cloned(),
            _ => Some(self.chunks.iter().flatten().copied().collect()),
        }
    }

    /// As a body again.
    pub fn into_body(mut self) -> Body {
        match self.rest {
            None if self.chunks.len() <= 1 => Body::Full(self.chunks.pop_front()),
            None => Body::Chunks(self.chunks),
            Some(rest) => Body::stream(Chain::new(self.chunks, Rest::Body(rest))),
        }
    }
}

impl Call {
    /// Whether its answer changes what the session remembers.
    pub fn teaches(&self, engine: &Engine) -> bool {
        match &*self.method {
            "tools/list" | "logging/setLevel" | "resources/subscribe" | "resources/unsubscribe" => true,
            "tools/call" => {
                let settings = engine.config();
                let mut named = settings.replay_tools_in(&self.body).peekable();
                named.peek().is_some() && self.tool().is_some_and(|tool| named.any(|name| *name == *tool))
            }
            _ => false,
        }
    }

    /// The tool, of a `tools/call`.
    fn tool(&self) -> Option<Box<str>> {
        resend::tool_of(&Envelope::parse(&self.body).ok()?)
    }
}

/// Remembers what a successful answer teaches; the returned promise is to be awaited before the client has the answer.
pub fn learn(engine: &Engine, call: &Call, message: &[u8]) -> Option<super::store::Saved> {
    let result = Envelope::parse(message).ok()?.result?;
    let request = Envelope::parse(&call.body).ok()?;
    let params = request.params;
    let mut inner = call.session.lock();
    let memory = &mut inner.memory;
    match &*call.method {
        "tools/list" => {
            let first = params.is_none_or(|params| !params.get().contains("\"cursor\""));
            memory.tools.get_or_insert_default().learn(result, first);
        }
        "logging/setLevel" => memory.level = params.map(ToOwned::to_owned),
        "resources/subscribe" => {
            memory.subscriptions.insert(uri_of(params?)?);
        }
        "resources/unsubscribe" => {
            memory.subscriptions.remove(&uri_of(params?)?);
        }
        _ if failed_tool(result) => return None,
        _ if engine.back.is_private() => {
            memory.replay.insert(call.tool()?, params?.to_owned());
        }
        _ => {
            drop(inner);
            return call.session.upstream.learn(&call.tool()?, params?, engine);
        }
    }
    Some(engine.store.save(&call.session.key, memory))
}

fn uri_of(params: &RawValue) -> Option<Box<str>> {
    #[derive(serde::Deserialize)]
    struct Params {
        uri: Box<str>,
    }
    serde_json::from_str::<Params>(params.get()).ok().map(|params| params.uri)
}

fn failed_tool(result: &RawValue) -> bool {
    #[derive(serde::Deserialize)]
    struct ToolResult {
        #[serde(default, rename = "isError")]
        is_error: bool,
    }
    serde_json::from_str::<ToolResult>(result.get()).is_ok_and(|result| result.is_error)
}

/// A notification of the client. It never waits: while nobody can take it, it is answered here.
pub async fn notify(
    engine: &Arc<Engine>,
    session: &Arc<Session>,
    envelope: &Envelope<'_>,
    body: Bytes,
    headers: Arc<HeaderMap>,
) -> Response<Body> {
    if envelope.method() == "notifications/cancelled" && session.cancel_parked(envelope) {
        return reply::accepted();
    }
    let Some(live) = session.begin(engine, &headers) else {
        if envelope.method() == "notifications/roots/list_changed" {
            session.lock().roots_changed = true;
        }
        return reply::accepted();
    };
    let flight = session.upstream.enter(engine);
    let sent = engine.back.send(session.upstream.route.as_ref(), post(&headers, &live, body));
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
                Verdict::Lost(flavour) => Some(flavour),
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
    headers: Arc<HeaderMap>,
) -> Response<Body> {
    let (Some(id), Some(live)) = (envelope.id, session.begin(engine, &headers)) else {
        return reply::accepted();
    };
    let Some(theirs) = session.answered(id) else {
        log::debug!(session = session.key.short(); "answer dropped, the server that asked is gone");
        return reply::accepted();
    };
    let _flight = session.upstream.enter(engine);
    let request = post(&headers, &live, mcp::splice_id(body, id, theirs.get()));
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

/// A parked request, to be found by its id.
struct Parked<'s> {
    session: &'s Session,
    cancelled: Arc<Notify>,
}

impl Session {
    /// A message of the client came: counts as use. The way upstream, if there is one.
    fn begin(self: &Arc<Self>, engine: &Arc<Engine>, headers: &HeaderMap) -> Option<Live> {
        let mut inner = self.lock();
        inner.used = Instant::now();
        inner.keep_headers(headers);
        let live = inner.live();
        let listen =
            live.is_some() && inner.streams.as_ref().is_some_and(|streams| streams.listener.is_parked());
        drop(inner);
        if listen {
            super::listen::ensure(engine, self);
        }
        live
    }

    fn register_parked(&self, id: &str) -> Parked<'_> {
        let cancelled = Arc::new(Notify::new());
        self.lock().streams().parked.push((id.into(), cancelled.clone()));
        Parked { session: self, cancelled }
    }

    /// Takes the request that a `notifications/cancelled` names out of the parking; `false` if it is not parked.
    fn cancel_parked(&self, envelope: &Envelope<'_>) -> bool {
        #[derive(serde::Deserialize)]
        #[serde(rename_all = "camelCase")]
        struct Params<'a> {
            #[serde(borrow)]
            request_id: &'a RawValue,
        }
        let params = envelope.params.and_then(|params| serde_json::from_str::<Params<'_>>(params.get()).ok());
        let (Some(params), Some(streams)) = (params, &self.lock().streams) else { return false };
        let found = streams.parked.iter().find(|(id, _)| **id == *params.request_id.get());
        // A permit is kept, should the request not be waiting yet.
        found.inspect(|(_, cancelled)| cancelled.notify_one()).is_some()
    }
}

impl Drop for Parked<'_> {
    fn drop(&mut self) {
        if let Some(streams) = &mut self.session.lock().streams {
            streams.parked.retain(|(_, cancelled)| !Arc::ptr_eq(cancelled, &self.cancelled));
        }
    }
}

/// The header that says what a client takes, in the form every server accepts.
pub const ACCEPT_BOTH: HeaderValue = HeaderValue::from_static("application/json, text/event-stream");
