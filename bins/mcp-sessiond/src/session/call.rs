//! One request of a session, from the client's POST to its answer, whatever happens to the server meanwhile.
//!
//! The first try is the fast path. Whatever is not simply an answer goes on in [`mend`]: wait for the heal, send again
//! where that is safe, say so where it is not.

use std::pin::{Pin, pin};
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::{HeaderMap, Method, Request, Response, StatusCode};
use mcp_daemon::body::Body;
use mcp_daemon::client::SendError;
use tokio::sync::futures::Notified;
use tokio::time::Instant;

use super::collect::{Chain, collect};
use super::engine::Engine;
use super::headers::Letterhead;
use super::heal::{self, Asked};
use super::learn::learn;
use super::park::park;
use super::resend::{self, Twice};
use super::stream::CallStream;
use super::talk;
use super::upstream::InFlight;
use super::{Live, Session, reply};
use crate::mcp::{self, Glance};
use crate::verdict::{self, Flavour, Verdict};

/// Times that one request is sent again after losses; a server that loses every session must not be asked for ever.
const MAX_RESENDS: u32 = 3;
/// How soon a lost server must be back to be asked whether a tool may be called twice.
const ASK_WITHIN: Duration = Duration::from_secs(15);
/// Largest error body that is looked at and passed on whole.
pub const ERROR_BODY: usize = 256 << 10;

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
    pub letterhead: Letterhead,
    /// Whether the client takes a stream for an answer.
    pub takes_stream: bool,
}

/// What was tried for one request so far.
#[derive(Clone, Copy, Debug, Default)]
pub struct Progress {
    resends: u32,
    doubted: bool,
    /// Whether a try was lost that may have run; what is sent again after that does no harm.
    pub(super) may_have_run: bool,
    pub(super) deadline: Option<Instant>,
    /// Whether the client has a stream for this call already, into which all that follows goes.
    pub in_stream: bool,
}

/// How one try ended.
pub enum Outcome {
    /// With an answer for the client.
    Answer(Response<Body>),
    /// With an answer that may be about a lost session.
    Doubtful {
        /// How the loss would show.
        flavour: Flavour,
        /// The answer.
        answer: Response<Body>,
        /// Whether it is the server's own refusal, and so a proof that the request did not run, should the server say the
        /// same when it is asked for the session. A 5xx is said of what ran as well.
        did_not_run: bool,
    },
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
    let live = call.session.begin(engine, &call.letterhead);
    let outcome = match &live {
        Some(live) => match try_once(engine, &call, live, Progress::default()).await {
            Outcome::Answer(answer) => return answer,
            outcome => Some(outcome),
        },
        None => None,
    };
    let first = live.zip(outcome);
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
    let (flavour, did_not_run, answer, is_refusal) = match outcome {
        Outcome::Answer(answer) => return Some(answer),
        Outcome::Lost { flavour, did_not_run } => (flavour, did_not_run, None, false),
        // Healed once for this request already: the same again is the answer.
        Outcome::Doubtful { answer, .. } if progress.doubted => return Some(answer),
        Outcome::Doubtful { flavour, answer, did_not_run: is_refusal } => {
            progress.doubted = true;
            let (flavour, did_not_run) = match heal::ask(engine, &call.session, live).await {
                // Silence is no loss: the server is busy, or it hangs, which probes find out.
                Asked::Alive | Asked::Silent => return Some(answer),
                // What runs nothing is refused in the same way: so was this. In another way: the session was lost since.
                Asked::Lost(how) => (flavour, is_refusal && how == flavour),
                Asked::Down(_) => (Flavour::Refused, false),
                // What broke, broke after a server's own answer.
                Asked::Unsure if is_refusal => (Flavour::Broken, false),
                Asked::Unsure => (flavour, false),
            };
            (flavour, did_not_run, Some(answer), is_refusal)
        }
    };
    engine.lost(&call.session, live.generation, flavour);
    if !did_not_run {
        progress.may_have_run = true;
        if !may_run_twice(engine, call, progress).await {
            // The server has answered this call, whatever became of the session since.
            if is_refusal {
                return answer;
            }
            engine.metrics.lost_calls.inc();
            log::warn!(session = call.session.key.short(), method = &*call.method, flavour = flavour.as_str(); "call lost, its effect is unknown");
            return Some(reply::failed(&call.id, unknown_effect(flavour)));
        }
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
        Flavour::ServerError | Flavour::Unavailable => {
            "the server lost this session while this call ran; its effect is unknown, so it was not sent again"
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
    // A client that is only to be told that nobody knows should not wait long for it.
    let Ok(Ok(live)) = tokio::time::timeout(ASK_WITHIN, park(engine, call, progress)).await else {
        return false;
    };
    heal::learn_tools(engine, &call.session, &live).await;
    judge(call) == Twice::Harmless
}

/// Sends the request once.
async fn try_once(engine: &Arc<Engine>, call: &Arc<Call>, live: &Live, progress: Progress) -> Outcome {
    let upstream = &call.session.upstream;
    let flight = upstream.enter(engine);
    let mut hung = pin!(upstream.hung.notified());
    let request = post(call.letterhead.to_map(), live, call.body.clone());
    let lost = |flavour, did_not_run| Outcome::Lost { flavour, did_not_run };
    let answer = tokio::select! {
        biased;
        answer = engine.back.send(upstream.route.as_ref(), request) => match answer {
            Ok(answer) => answer,
            Err(SendError::NotSent(error)) => {
                log::debug!(session = call.session.key.short(), error:% = error; "upstream not reached");
                return lost(Flavour::Refused, true);
            }
            Err(SendError::Broken(error)) => {
                log::debug!(session = call.session.key.short(), error:% = error; "upstream connection broke");
                return lost(Flavour::Broken, false);
            }
        },
        () = &mut hung => return lost(Flavour::Hang, false),
    };
    receive(engine, call, live, answer, flight, hung, progress).await
}

/// An upstream POST with the session's own headers.
pub fn post(headers: HeaderMap, live: &Live, body: Bytes) -> Request<Bytes> {
    let mut request = Request::new(body);
    *request.method_mut() = Method::POST;
    *request.headers_mut() = headers;
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
    hung: Pin<&mut Notified<'_>>,
    progress: Progress,
) -> Outcome {
    let (mut head, body) = answer.into_parts();
    if head.status.is_success() && reply::is_stream(&head.headers) {
        flight.heard();
        reply::outward(&mut head.headers);
        let body = Box::pin(Chain::look_ahead(body)).await;
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
    let (bound, teaches) = {
        let settings = engine.config();
        let bound = if head.status.is_success() { settings.limits.answer.bytes() } else { ERROR_BODY };
        (bound, call.teaches(&settings))
    };
    let collected = tokio::select! {
        biased;
        collected = collect(body, bound) => collected,
        () = hung => Err(Flavour::Hang),
    };
    let whole = match collected {
        Err(flavour) => return Outcome::Lost { flavour, did_not_run: false },
        Ok(whole) => whole,
    };
    flight.heard();
    reply::outward(&mut head.headers);
    if head.status == StatusCode::OK && whole.glance() != Some(Glance::Error) {
        if teaches
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
        Verdict::Claimed(flavour) | Verdict::Doubtful(flavour) => {
            let did_not_run = matches!(flavour, Flavour::BadRequest | Flavour::RpcError);
            Outcome::Doubtful { flavour, answer: answer(), did_not_run }
        }
        Verdict::Lost(flavour) => Outcome::Lost { flavour, did_not_run: true },
        Verdict::NotForwarded => Outcome::Lost { flavour: Flavour::Refused, did_not_run: true },
    }
}

impl Session {
    /// A message of the client came: counts as use. The way upstream, if there is one.
    pub(super) fn begin(self: &Arc<Self>, engine: &Arc<Engine>, letterhead: &Letterhead) -> Option<Live> {
        let mut inner = self.lock();
        inner.used = Instant::now();
        inner.keep(letterhead);
        let live = inner.live();
        let listen =
            live.is_some() && inner.streams.as_ref().is_some_and(|streams| streams.listener.is_parked());
        drop(inner);
        if listen {
            super::listen::ensure(engine, self);
        }
        live
    }
}
