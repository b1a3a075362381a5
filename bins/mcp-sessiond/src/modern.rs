//! Requests of the stateless era (2026-07-28 on): they pass untouched, and wait while the server is away.
//!
//! There is no session to heal. What is left to do: hold a request until somebody can take it, never send twice what may
//! have run, and keep a `subscriptions/listen` open across restarts.

use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::Bytes;
use http::{HeaderMap, Method, Request, Response};
use http_body::{Body as HttpBody, Frame};
use http_body_util::BodyExt;
use mcp_daemon::body::{Body, BodyError};
use mcp_daemon::client::SendError;
use tokio::sync::futures::OwnedNotified;
use tokio::time::Instant;

use crate::mcp::{self, Envelope, Glance};
use crate::session::collect::collect;
use crate::session::engine::{Caller, Engine};
use crate::session::headers::Letterhead;
use crate::session::park::what_became;
use crate::session::parking::Place;
use crate::session::upstream::{InFlight, Upstream};
use crate::session::{reply, resend};
use crate::sse::{self, Splitter};
use crate::streams::{KeepAlive, Ring};
use crate::verdict;

const FIRST_PAUSE: Duration = Duration::from_millis(25);
const LAST_PAUSE: Duration = Duration::from_secs(1);
/// Times that a request without effect is sent again after its connection broke.
const MAX_RESENDS: u32 = 3;

/// One request of a client, ready to be sent as often as it takes.
struct Sending<'a> {
    engine: &'a Arc<Engine>,
    caller: &'a Caller,
    upstream: Arc<Upstream>,
    body: Bytes,
    headers: HeaderMap,
    /// Raw JSON.
    id: Box<str>,
    harmless: bool,
}

/// Passes one message on.
pub async fn pass(
    engine: &Arc<Engine>,
    caller: &Caller,
    envelope: &Envelope<'_>,
    body: &Bytes,
    letterhead: &Letterhead,
) -> Response<Body> {
    let sending = Sending {
        engine,
        caller,
        upstream: engine.upstream(caller.route.as_ref()),
        body: body.clone(),
        headers: letterhead.with_version(),
        id: envelope.id.map_or("null", serde_json::value::RawValue::get).into(),
        harmless: resend::is_harmless_method(envelope.method())
            || envelope.method() == "subscriptions/listen",
    };
    sending.upstream.used();
    let (answer, flight) = match sending.until_answered().await {
        Ok(answered) => answered,
        Err(refusal) => return refusal,
    };
    let (mut head, body) = answer.into_parts();
    reply::outward(&mut head.headers);
    if !head.status.is_success() || !reply::is_stream(&head.headers) {
        // Whole or not at all: a body that breaks off half-way is worse than an error.
        return match collect(body, engine.config().limits.answer.bytes()).await {
            Ok(whole) => Response::from_parts(head, whole.into_body()),
            Err(_broken) => sending.effect_unknown(),
        };
    }
    reply::unbuffered(&mut head.headers);
    if envelope.method() == "subscriptions/listen" {
        let ring = Ring::new(&engine.config().stream);
        let reader = ring.read(
            None,
            engine.config().stream.keep_alive.duration(),
            Box::pin(engine.life.draining_owned()),
        );
        let held = Held {
            engine: engine.clone(),
            caller: caller.clone(),
            upstream: sending.upstream.clone(),
            body: sending.body,
            headers: sending.headers,
            ring,
        };
        engine.life.spawn(held.hold(body, flight));
        return Response::from_parts(head, Body::stream(reader));
    }
    let stream = Watched {
        engine: engine.clone(),
        body,
        splitter: Splitter::default(),
        answered: false,
        done: false,
        id: sending.id,
        hung: Box::pin(sending.upstream.hung.clone().notified_owned()),
        keep_alive: KeepAlive::new(engine.config().stream.keep_alive.duration()),
        flight,
    };
    Response::from_parts(head, Body::stream(stream))
}

impl Sending<'_> {
    /// Sends until there is an answer; `Err` is what to tell the client instead.
    async fn until_answered(&self) -> Result<(Response<Body>, InFlight), Response<Body>> {
        let config = self.engine.config();
        let deadline = Instant::now() + config.limits.parked_time.duration();
        let (mut pause, mut resends) = (FIRST_PAUSE, 0);
        let mut place: Option<Place> = None;
        loop {
            let flight = self.upstream.enter(self.engine);
            let why =
                match send_once(self.engine, &self.upstream, self.caller, &self.headers, &self.body).await {
                    Ok(answer) => {
                        flight.heard();
                        return Ok((answer, flight));
                    }
                    Err(SendError::NotSent(why)) => why,
                    Err(SendError::Broken(why)) => {
                        resends += 1;
                        if !self.harmless || resends > MAX_RESENDS {
                            return Err(self.effect_unknown());
                        }
                        why
                    }
                };
            drop(flight);
            if place.is_none() {
                let entered =
                    self.engine.parking.enter(&config.limits, &self.caller.subject, self.body.len());
                place = Some(entered.map_err(|bound| {
                    reply::failed(&self.id, &format!("the server is away and no more requests can wait for it ({bound} reached); try again later"))
                })?);
            }
            if Instant::now() + pause > deadline || self.engine.life.is_draining() {
                let then = what_became(resends > 0);
                return Err(reply::failed(&self.id, &format!("the server cannot be reached: {why}; {then}")));
            }
            tokio::time::sleep(pause).await;
            pause = (pause * 2).min(LAST_PAUSE);
        }
    }

    fn effect_unknown(&self) -> Response<Body> {
        reply::message(effect_unknown(self.engine, &self.id).into())
    }
}

/// The error for a call that was cut while it may have run.
fn effect_unknown(engine: &Engine, id: &str) -> String {
    engine.metrics.lost_calls.inc();
    log::warn!("call lost, its effect is unknown");
    mcp::error_body(id, mcp::INTERNAL_ERROR, EFFECT_UNKNOWN)
}

const EFFECT_UNKNOWN: &str =
    "the server restarted while this call ran; its effect is unknown, so it was not sent again";

/// One try; what a neighbour says it did not forward counts as not sent, a hang as broken.
async fn send_once(
    engine: &Engine,
    upstream: &Upstream,
    caller: &Caller,
    headers: &HeaderMap,
    body: &Bytes,
) -> Result<Response<Body>, SendError> {
    let mut request = Request::new(body.clone());
    *request.method_mut() = Method::POST;
    *request.headers_mut() = headers.clone();
    let hung = upstream.hung.notified();
    tokio::select! {
        biased;
        answer = engine.back.send(caller.route.as_ref(), request) => match answer {
            Ok(answer) if !answer.status().is_success() && answer.headers().contains_key(verdict::NOT_FORWARDED) => {
                Err(SendError::NotSent(format!("a neighbour answered {}", answer.status()).into()))
            }
            answer => answer,
        },
        () = hung => Err(SendError::Broken("the server stopped answering".into())),
    }
}

/// A stream that passes byte for byte, and gets an error as its last event if it ends without an answer.
struct Watched {
    engine: Arc<Engine>,
    body: Body,
    splitter: Splitter,
    answered: bool,
    done: bool,
    id: Box<str>,
    hung: Pin<Box<OwnedNotified>>,
    keep_alive: KeepAlive,
    flight: InFlight,
}

impl HttpBody for Watched {
    type Data = Bytes;
    type Error = BodyError;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        let this = &mut *self;
        if this.done {
            return Poll::Ready(None);
        }
        match Pin::new(&mut this.body).poll_frame(cx) {
            Poll::Ready(Some(Ok(frame))) => {
                this.flight.heard();
                this.keep_alive.spoke();
                if let Some(chunk) = frame.data_ref() {
                    this.look(chunk.clone());
                }
                return Poll::Ready(Some(Ok(frame)));
            }
            Poll::Ready(Some(Err(_)) | None) => {}
            Poll::Pending => {
                if this.hung.as_mut().poll(cx).is_pending() {
                    // A comment between two events only: half an event must not be cut in two.
                    if !this.splitter.rest().is_empty() {
                        return Poll::Pending;
                    }
                    ready!(this.keep_alive.poll(cx));
                    return Poll::Ready(Some(Ok(Frame::data(sse::KEEP_ALIVE))));
                }
            }
        }
        this.done = true;
        if this.answered {
            return Poll::Ready(None);
        }
        let mut last = Vec::new();
        if !this.splitter.rest().is_empty() {
            // Half an event must not swallow ours.
            last.extend_from_slice(b"\n\n");
        }
        let error = effect_unknown(&this.engine, &this.id);
        last.extend_from_slice(format!("event: message\ndata: {error}\n\n").as_bytes());
        Poll::Ready(Some(Ok(Frame::data(last.into()))))
    }
}

impl Watched {
    fn look(&mut self, chunk: Bytes) {
        if self.answered || self.splitter.push(chunk).is_err() {
            return;
        }
        while let Some(block) = self.splitter.next_block() {
            let seen = sse::data(&block).and_then(|data| mcp::glance(&data));
            self.answered |= matches!(seen, Some(Glance::Result | Glance::Error));
        }
    }
}

/// A `subscriptions/listen` that is kept open towards the client while it comes and goes upstream.
struct Held {
    engine: Arc<Engine>,
    caller: Caller,
    upstream: Arc<Upstream>,
    body: Bytes,
    headers: HeaderMap,
    ring: Arc<Ring>,
}

impl Held {
    async fn hold(self, first: Body, flight: InFlight) {
        // An open subscription waits for nothing: it is no reason to probe.
        drop(flight);
        let mut stream = Some(first);
        let mut is_first = true;
        let mut pause = FIRST_PAUSE;
        while self.ring.is_read() && !self.engine.life.is_draining() {
            if let Some(body) = stream.take() {
                let began = Instant::now();
                tokio::select! {
                    () = self.follow(body, is_first) => {}
                    () = self.idle() => {}
                    () = self.engine.life.draining() => break,
                }
                is_first = false;
                if began.elapsed() > LAST_PAUSE {
                    pause = FIRST_PAUSE;
                }
            }
            if self.is_idle() {
                tokio::select! {
                    () = self.upstream.in_use() => {}
                    () = self.unread() => break,
                    () = self.engine.life.draining() => break,
                }
            }
            tokio::time::sleep(pause).await;
            pause = (pause * 2).min(LAST_PAUSE);
            let answer =
                send_once(&self.engine, &self.upstream, &self.caller, &self.headers, &self.body).await;
            stream = answer
                .ok()
                .filter(|answer| answer.status().is_success() && reply::is_stream(answer.headers()))
                .map(Response::into_body);
        }
        self.ring.end();
    }

    /// Copies one upstream stream; the acknowledgement only once, and never its end: the client's stream has none.
    async fn follow(&self, mut body: Body, is_first: bool) {
        let mut splitter = Splitter::default();
        let mut acknowledged = is_first;
        while let Some(Ok(frame)) = body.frame().await {
            let Ok(chunk) = frame.into_data() else { continue };
            if splitter.push(chunk).is_err() {
                return;
            }
            while let Some(block) = splitter.next_block() {
                let Some(data) = sse::data(&block).filter(|data| !data.is_empty()) else { continue };
                match mcp::glance(&data) {
                    Some(Glance::Method) if !std::mem::replace(&mut acknowledged, true) => {}
                    Some(Glance::Method) => drop(self.ring.push(|_id| block)),
                    // A refusal of the very first subscription is the client's; a completion is the server going down.
                    Some(Glance::Error) if is_first => {
                        self.ring.push(|_id| block);
                        self.ring.end();
                        return;
                    }
                    _ => return,
                }
            }
        }
    }

    fn is_idle(&self) -> bool {
        self.upstream.last_used().elapsed() >= self.engine.config().stream.park_after.duration()
            && self.upstream.in_flight() == 0
    }

    async fn idle(&self) {
        while !self.is_idle() && self.ring.is_read() {
            let due = self.upstream.last_used() + self.engine.config().stream.park_after.duration();
            tokio::time::sleep_until(
                due.max(Instant::now() + Duration::from_millis(100)).min(Instant::now() + LAST_PAUSE),
            )
            .await;
        }
    }

    async fn unread(&self) {
        while self.ring.is_read() {
            tokio::time::sleep(LAST_PAUSE).await;
        }
    }
}
