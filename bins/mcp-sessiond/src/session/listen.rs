//! What the server says unasked: the upstream's GET stream, read into the session's ring while the client listens.
//!
//! It is closed when the session is idle, so that an idle client does not keep a server awake, and opened again by the
//! next message of the client. A cut stream alone neither wakes nor heals an idle session.

use std::sync::Arc;
use std::time::Duration;

use http::{HeaderValue, Method, Request};
use http_body_util::BodyExt;
use mcp_daemon::body::Body;
use tokio::time::Instant;

use super::collect::collect;
use super::engine::Engine;
use super::state::{Event, Generation};
use super::{Session, heal, reply};
use crate::mcp::{self, Envelope, Kind};
use crate::sse::{self, Splitter};
use crate::streams::Ring;
use crate::verdict::{self, Flavour, Verdict};

/// Pause before a stream that ended is opened again.
const REOPEN: Duration = Duration::from_millis(500);
/// Streams in a row that end at once before the server is taken not to have any.
const SHORT_STREAMS: u32 = 5;

/// Who reads the upstream's stream.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub enum Listener {
    /// Nobody yet.
    #[default]
    Idle,
    /// Nobody, until the client says something.
    Parked,
    /// A task, for this generation.
    Running(Generation),
    /// Nobody: the server has no such stream.
    Unsupported(Generation),
}

impl Listener {
    /// Whether a task reads it.
    pub fn is_running(self) -> bool {
        matches!(self, Listener::Running(_))
    }

    /// Whether the next message of the client is to open the stream again.
    pub fn is_parked(self) -> bool {
        self == Listener::Parked
    }
}

/// Why reading ended.
enum End {
    /// The session is not what it was, or we are told to stop.
    Over,
    Idle,
    Unsupported,
    Lost(Flavour),
    /// Ended by the server; open it again.
    Again,
}

/// Sees to it that a live session with a listening client has its stream upstream.
pub fn ensure(engine: &Arc<Engine>, session: &Arc<Session>) {
    let mut inner = session.lock();
    let Some(live) = inner.live() else { return };
    let Some(streams) = inner.streams.as_deref_mut() else { return };
    let Some(ring) = streams.unasked.clone().filter(|ring| ring.is_read()) else { return };
    match streams.listener {
        Listener::Running(generation) | Listener::Unsupported(generation)
            if generation == live.generation =>
        {
            return;
        }
        _ => streams.listener = Listener::Running(live.generation),
    }
    drop(inner);
    let (engine, session) = (engine.clone(), session.clone());
    engine.life.clone().spawn(async move { listen(&engine, &session, live.generation, &ring).await });
}

async fn listen(engine: &Arc<Engine>, session: &Arc<Session>, generation: Generation, ring: &Arc<Ring>) {
    let mut last_id = None;
    let mut short = 0;
    let then = loop {
        let began = Instant::now();
        let end = tokio::select! {
            end = read(engine, session, generation, ring, &mut last_id) => end,
            () = idle(engine, session, ring) => End::Idle,
            () = no_longer(session, generation) => End::Over,
            () = engine.life.draining() => End::Over,
        };
        short = if began.elapsed() > REOPEN { 0 } else { short + 1 };
        match end {
            // Should the server have kept the session after all, this generation is read again.
            End::Over => break Listener::Idle,
            End::Idle => break Listener::Parked,
            End::Unsupported => break Listener::Unsupported(generation),
            End::Again if short > SHORT_STREAMS => break Listener::Unsupported(generation),
            End::Again => tokio::time::sleep(REOPEN).await,
            End::Lost(flavour) => {
                log::debug!(session = session.key.short(), flavour = flavour.as_str(); "upstream's stream was cut");
                session.set_listener(generation, Listener::Idle);
                if is_idle(engine, session) {
                    engine.apply(session, Event::Cut(generation), flavour);
                } else {
                    engine.lost(session, generation, flavour);
                }
                return;
            }
        }
    };
    session.set_listener(generation, then);
}

/// Opens the stream and reads it to its end.
async fn read(
    engine: &Arc<Engine>,
    session: &Arc<Session>,
    generation: Generation,
    ring: &Ring,
    last_id: &mut Option<HeaderValue>,
) -> End {
    let Some(live) = session.live().filter(|live| live.generation == generation) else { return End::Over };
    let mut request = Request::new(bytes::Bytes::new());
    *request.method_mut() = Method::GET;
    let headers = request.headers_mut();
    *headers = session.lock().letterhead().for_stream();
    live.mark(headers);
    if let Some(last_id) = last_id {
        headers.insert("last-event-id", last_id.clone());
    }
    // Boxed, because this task lives long: what it needs for the start is not kept.
    let answer = match Box::pin(engine.back.send(session.upstream.route.as_ref(), request)).await {
        Ok(answer) => answer,
        Err(_) => return End::Lost(Flavour::Refused),
    };
    let (head, mut body) = answer.into_parts();
    if !head.status.is_success() || !reply::is_stream(&head.headers) {
        if heal::has_no_stream(head.status) || head.status.is_success() {
            return End::Unsupported;
        }
        let said =
            Box::pin(collect(body, 1 << 16)).await.ok().and_then(|body| body.joined()).unwrap_or_default();
        return match verdict::judge(head.status, &head.headers, &said) {
            Verdict::Claimed(flavour) | Verdict::Doubtful(flavour) | Verdict::Lost(flavour) => {
                End::Lost(flavour)
            }
            Verdict::NotForwarded => End::Lost(Flavour::Refused),
            Verdict::Answer => End::Unsupported,
        };
    }
    // Its values are slices of the connection's first read buffer.
    drop(head);
    let mut splitter = Splitter::default();
    while let Some(Ok(frame)) = body.frame().await {
        let Ok(chunk) = frame.into_data() else { continue };
        if splitter.push(chunk).is_err() {
            break;
        }
        while let Some(block) = splitter.next_block() {
            if let Some(id) = sse::look(&block).id {
                *last_id = HeaderValue::from_bytes(&id).ok();
            }
            hear(session, generation, ring, &block);
        }
    }
    drop::<Body>(body);
    End::Again
}

/// One event of the upstream's stream.
fn hear(session: &Session, generation: Generation, ring: &Ring, block: &bytes::Bytes) {
    let Some(data) = sse::data(block).filter(|data| !data.is_empty()) else { return };
    match Envelope::parse(&data) {
        Ok(message) if message.kind() == Some(Kind::Request) => {
            let theirs = message.id.expect("a request has an id");
            let ours = session.ask_client(generation, theirs);
            let question = mcp::splice_id(&data, theirs, &ours);
            ring.push(|id| sse::with_data(block, id, &question));
        }
        _ => drop(ring.push(|id| sse::with_id(block, id))),
    }
}

/// Resolves once the session is idle, or nobody listens any more.
async fn idle(engine: &Arc<Engine>, session: &Session, ring: &Ring) {
    let park_after = engine.config().stream.park_after.duration();
    loop {
        let due = session.lock().used + park_after;
        tokio::time::sleep_until(due.max(Instant::now() + Duration::from_millis(100))).await;
        if is_idle(engine, session) || !ring.is_read() {
            return;
        }
    }
}

fn is_idle(engine: &Engine, session: &Session) -> bool {
    let used = session.lock().used;
    used.elapsed() >= engine.config().stream.park_after.duration() && session.upstream.in_flight() == 0
}

/// Resolves once the session is not live with this generation any more.
async fn no_longer(session: &Session, generation: Generation) {
    loop {
        let changed = session.changed.notified();
        tokio::pin!(changed);
        changed.as_mut().enable();
        if session.live().is_none_or(|live| live.generation != generation) {
            return;
        }
        changed.await;
    }
}

impl Session {
    fn set_listener(&self, generation: Generation, listener: Listener) {
        if let Some(streams) = &mut self.lock().streams
            && streams.listener == Listener::Running(generation)
        {
            streams.listener = listener;
        }
    }
}
