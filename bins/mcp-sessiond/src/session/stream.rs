//! A server's stream of events as the answer to one request: looked at event by event, and mended when it breaks.
//!
//! Events get ids of ours once there is something to come back for, that is from the first event before the answer on;
//! such a stream is kept in a ring and read to its end even if the client goes away.

mod source;

use std::collections::VecDeque;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::Bytes;
use http::{HeaderValue, StatusCode};
use http_body::{Body as HttpBody, Frame};
use mcp_daemon::body::{Body, BodyError};

use self::source::{Framed, Mending, Reading, Source, framed, passing};
use super::call::{self, Call, Outcome, Progress};
use super::collect::{Chain, Rest};
use super::engine::Engine;
use super::learn::learn;
use super::upstream::InFlight;
use super::{Live, heal, reply};
use crate::mcp::{self, Envelope, Glance, Kind};
use crate::sse::{self, Splitter};
use crate::streams::{KeepAlive, Ring, StreamId};
use crate::verdict::{self, Flavour, Verdict};

/// Pause before a stream that the server ended on purpose is taken up again.
const RESUME_PAUSE: Duration = Duration::from_millis(250);

type Event = Result<Frame<Bytes>, BodyError>;

/// The body of an answer that is a stream.
pub struct CallStream(Option<Box<Pump>>);

struct Pump {
    engine: Arc<Engine>,
    call: Arc<Call>,
    source: Source,
    keep_alive: KeepAlive,
    ring: Option<Arc<Ring>>,
    /// Whether the server sent the client away, to come back for the rest.
    is_left: bool,
}

impl CallStream {
    /// Follows the stream that `live` answers `call` with.
    pub fn new(
        engine: Arc<Engine>,
        call: Arc<Call>,
        live: Live,
        body: Chain,
        flight: InFlight,
        progress: Progress,
    ) -> Self {
        Self::resumed(engine, call, live, body, flight, progress, None)
    }

    /// The same, of a stream that goes on after the upstream's event `last_id`.
    fn resumed(
        engine: Arc<Engine>,
        call: Arc<Call>,
        live: Live,
        body: Chain,
        flight: InFlight,
        progress: Progress,
        last_id: Option<HeaderValue>,
    ) -> Self {
        let reading = Reading {
            body,
            splitter: Splitter::default(),
            live,
            flight,
            progress,
            hung: None,
            answered: false,
            is_resumed: last_id.is_some(),
            last_id,
        };
        Self::from_source(engine, call, Source::Upstream(Box::new(reading)))
    }

    /// Comments until `mending` has an answer.
    pub fn mending(engine: Arc<Engine>, call: Arc<Call>, mending: Mending) -> Self {
        Self::from_source(engine, call, Source::Mending(mending))
    }

    fn from_source(engine: Arc<Engine>, call: Arc<Call>, source: Source) -> Self {
        let keep_alive = KeepAlive::new(engine.config().stream.keep_alive.duration());
        Self(Some(Box::new(Pump { engine, call, source, keep_alive, ring: None, is_left: false })))
    }
}

impl HttpBody for CallStream {
    type Data = Bytes;
    type Error = BodyError;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Event>> {
        let Some(pump) = &mut self.0 else { return Poll::Ready(None) };
        let event = pump.poll(cx);
        if pump.is_left {
            self.read_on();
            return Poll::Ready(None);
        }
        event
    }

    fn is_end_stream(&self) -> bool {
        self.0.as_ref().is_none_or(|pump| matches!(pump.source, Source::Done))
    }
}

impl Drop for CallStream {
    fn drop(&mut self) {
        self.read_on();
    }
}

impl CallStream {
    /// Reads to the end without the client, if it can come back for the rest: it has seen an event of ours.
    fn read_on(&mut self) {
        let Some(mut pump) = self.0.take() else { return };
        if pump.ring.is_none() || matches!(pump.source, Source::Done) {
            return;
        }
        let engine = pump.engine.clone();
        let patience = engine.config().stream.keep_answer.duration();
        engine.life.clone().spawn(async move {
            let to_the_end = async { while std::future::poll_fn(|cx| pump.poll(cx)).await.is_some() {} };
            tokio::select! {
                _ = tokio::time::timeout(patience, to_the_end) => {}
                () = engine.life.draining() => {}
            }
        });
    }
}

impl Pump {
    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<Option<Event>> {
        loop {
            let next = match self.poll_source(cx) {
                Poll::Ready(next) => next,
                Poll::Pending => {
                    ready!(self.keep_alive.poll(cx));
                    return Poll::Ready(Some(Ok(Frame::data(sse::KEEP_ALIVE))));
                }
            };
            match next {
                Some(event) if event.is_empty() => {}
                Some(event) => {
                    self.keep_alive.spoke();
                    return Poll::Ready(Some(Ok(Frame::data(event))));
                }
                None => {
                    self.finish();
                    return Poll::Ready(None);
                }
            }
        }
    }

    fn finish(&mut self) {
        self.source = Source::Done;
        if let Some(ring) = &self.ring {
            self.engine.keep_ended(ring);
        }
    }

    /// Sees whether the upstream's stream ends with its answer, so that both leave in one write.
    fn end_with_answer(&mut self, cx: &mut Context<'_>) {
        let Source::Upstream(reading) = &mut self.source else { return };
        if !reading.answered || !reading.splitter.rest().is_empty() {
            return;
        }
        if reading.is_resumed {
            return self.finish();
        }
        match Pin::new(&mut reading.body).poll_frame(cx) {
            Poll::Ready(Some(Ok(frame))) => {
                let more = reading.splitter.push(frame.into_data().unwrap_or_default());
                more.unwrap_or_else(|_too_large| self.finish());
            }
            Poll::Ready(None | Some(Err(_))) => self.finish(),
            Poll::Pending => {}
        }
    }

    /// The next bytes for the client; empty ones mean "ask again".
    fn poll_source(&mut self, cx: &mut Context<'_>) -> Poll<Option<Bytes>> {
        match &mut self.source {
            Source::Done => Poll::Ready(None),
            Source::Mending(mending) => {
                let mut answer = ready!(mending.as_mut().poll(cx));
                if let Some(Framed(block)) = answer.extensions_mut().remove() {
                    self.finish();
                    return Poll::Ready(Some(self.answer(block)));
                }
                self.source = passing(answer, &self.call.id);
                Poll::Ready(Some(Bytes::new()))
            }
            Source::Passing { body, wrap, splitter } => {
                if let Some(block) = splitter.next_block() {
                    let has_data = sse::data(&block).is_some();
                    let event =
                        if has_data { self.emit(|id| sse::with_id(&block, id), false) } else { block };
                    return Poll::Ready(Some(event));
                }
                match ready!(Pin::new(body).poll_frame(cx)) {
                    Some(Ok(frame)) => {
                        let chunk = frame.into_data().unwrap_or_default();
                        match wrap {
                            Some(message) => message.extend_from_slice(&chunk),
                            // A client that has ids of this stream comes back to this one, whatever the other calls them.
                            None if self.ring.is_some() => drop(splitter.push(chunk)),
                            None => return Poll::Ready(Some(chunk)),
                        }
                        Poll::Ready(Some(Bytes::new()))
                    }
                    // A message that broke while it was read was judged complete before; only its memory can be gone.
                    Some(Err(_)) | None => {
                        let message = wrap.take();
                        self.finish();
                        Poll::Ready(message.map(|message| self.emit(|id| sse::message(id, &message), true)))
                    }
                }
            }
            Source::Saving { saved, event, then: _ } => {
                ready!(saved.as_mut().poll(cx));
                let event = event.take();
                if let Source::Saving { then, .. } = std::mem::replace(&mut self.source, Source::Done) {
                    self.source = Source::Upstream(then);
                }
                Poll::Ready(event)
            }
            Source::Upstream(_) => self.poll_upstream(cx),
        }
    }

    fn poll_upstream(&mut self, cx: &mut Context<'_>) -> Poll<Option<Bytes>> {
        let Source::Upstream(reading) = &mut self.source else { return Poll::Ready(None) };
        if let Some(block) = reading.splitter.next_block() {
            let event = self.on_block(block);
            self.end_with_answer(cx);
            return Poll::Ready(event);
        }
        match Pin::new(&mut reading.body).poll_frame(cx) {
            Poll::Ready(Some(Ok(frame))) => {
                reading.flight.heard();
                let Ok(chunk) = frame.into_data() else { return Poll::Ready(Some(Bytes::new())) };
                if let Err(too_large) = reading.splitter.push(chunk) {
                    log::warn!(session = self.call.session.key.short(), error:% = too_large; "answer cut off");
                    return Poll::Ready(self.fail(&too_large.to_string()));
                }
                Poll::Ready(Some(Bytes::new()))
            }
            Poll::Ready(Some(Err(_)) | None) if reading.answered => Poll::Ready(None),
            Poll::Ready(None) if reading.last_id.is_some() => Poll::Ready(self.resume()),
            Poll::Ready(Some(Err(_)) | None) => Poll::Ready(self.mend(Flavour::Broken, false)),
            Poll::Pending => {
                let hung = &reading.flight.upstream().hung;
                let hung = reading.hung.get_or_insert_with(|| Box::pin(hung.clone().notified_owned()));
                ready!(hung.as_mut().poll(cx));
                Poll::Ready(self.mend(Flavour::Hang, false))
            }
        }
    }

    /// Looks at one whole event of the upstream.
    fn on_block(&mut self, block: Bytes) -> Option<Bytes> {
        let Source::Upstream(reading) = &mut self.source else { return None };
        let look = sse::look(&block);
        let has_id = look.id.is_some();
        if let Some(id) = look.id {
            reading.last_id = HeaderValue::from_bytes(&id).ok();
        }
        // Large answers mostly have no lines of ours: their bytes are not looked at again then.
        let bare = |block: Bytes| if has_id { sse::without_id(&block) } else { block };
        let Some(data) = look.data else { return Some(bare(block)) };
        if data.is_empty() {
            // A priming event: it exists to give the client an id to come back with.
            return Some(self.emit(|id| sse::with_id(&block, id), false));
        }
        match mcp::glance(&data) {
            Some(Glance::Method) => {
                let generation = reading.live.generation;
                Some(match Envelope::parse(&data) {
                    Ok(message) if message.kind() == Some(Kind::Request) => {
                        let theirs = message.id.expect("a request has an id");
                        let ours = self.call.session.ask_client(generation, theirs);
                        let question = mcp::splice_id(&data, theirs, &ours);
                        self.emit(|id| sse::with_data(&block, id, &question), false)
                    }
                    _ => self.emit(|id| sse::with_id(&block, id), false),
                })
            }
            Some(Glance::Error) => match verdict::judge(StatusCode::OK, &http::HeaderMap::new(), &data) {
                Verdict::Lost(flavour) => self.mend(flavour, true),
                Verdict::Claimed(flavour) | Verdict::Doubtful(flavour) => {
                    let answer = framed(data, bare(block));
                    self.go_on(Outcome::Doubtful { flavour, answer, did_not_run: true })
                }
                Verdict::Answer | Verdict::NotForwarded => Some(self.answer(bare(block))),
            },
            Some(Glance::Result) if self.call.teaches(&self.engine.config()) => {
                let saved = learn(&self.engine, &self.call, &data);
                let event = self.answer(bare(block));
                match (saved, std::mem::replace(&mut self.source, Source::Done)) {
                    (Some(saved), Source::Upstream(then)) => {
                        self.source =
                            Source::Saving { saved: Box::pin(saved.wait()), event: Some(event), then };
                        Some(Bytes::new())
                    }
                    (_, source) => {
                        self.source = source;
                        Some(event)
                    }
                }
            }
            Some(Glance::Result) => Some(self.answer(bare(block))),
            None => Some(self.emit(|id| sse::with_id(&block, id), false)),
        }
    }

    /// The answer itself. Without a ring nobody can come back for it, so it needs no id and its bytes stay as they are.
    fn answer(&mut self, block: Bytes) -> Bytes {
        if let Source::Upstream(reading) = &mut self.source {
            reading.answered = true;
        }
        if self.ring.is_some() {
            self.emit(|id| sse::with_id(&block, id), true)
        } else {
            sse::without_id(&block)
        }
    }

    /// Gives an event an id of ours and keeps it for a client that comes back.
    fn emit(&mut self, make: impl FnOnce(&str) -> Bytes, last: bool) -> Bytes {
        if self.ring.is_none() && last {
            return make(&StreamId::mint().event(1));
        }
        let bounds = &self.engine.config().stream;
        let ring = self.ring.get_or_insert_with(|| {
            let ring = Ring::new(bounds);
            self.call.session.keep_answer(&ring, bounds);
            ring
        });
        ring.push(make)
    }

    fn fail(&mut self, message: &str) -> Option<Bytes> {
        self.finish();
        let error = mcp::error_body(&self.call.id, mcp::INTERNAL_ERROR, message);
        Some(self.emit(|id| sse::message(id, error.as_bytes()), true))
    }

    fn mend(&mut self, flavour: Flavour, did_not_run: bool) -> Option<Bytes> {
        self.go_on(Outcome::Lost { flavour, did_not_run })
    }

    fn go_on(&mut self, outcome: Outcome) -> Option<Bytes> {
        let Source::Upstream(reading) = std::mem::replace(&mut self.source, Source::Done) else {
            return None;
        };
        let Reading { live, mut progress, .. } = *reading;
        progress.in_stream = true;
        let mending = call::mend(self.engine.clone(), self.call.clone(), progress, Some((live, outcome)));
        self.source = Source::Mending(Box::pin(mending));
        Some(Bytes::new())
    }

    /// The server ended the stream before its answer but gave ids to come back with (MCP 2025-11-25, resumability).
    fn resume(&mut self) -> Option<Bytes> {
        let Source::Upstream(reading) = std::mem::replace(&mut self.source, Source::Done) else {
            return None;
        };
        let Reading { live, mut progress, last_id, .. } = *reading;
        // What the server asks of its client it gets: ours comes back to us.
        self.is_left = self.ring.is_some() && !progress.in_stream;
        progress.in_stream = true;
        let (engine, call) = (self.engine.clone(), self.call.clone());
        self.source = Source::Mending(Box::pin(async move {
            tokio::time::sleep(RESUME_PAUSE).await;
            let lost = match heal::resume(&engine, &call, &live, last_id.clone()).await {
                Ok((body, flight)) => {
                    let body = Chain::new(VecDeque::new(), Rest::Body(body));
                    let stream = CallStream::resumed(engine, call, live, body, flight, progress, last_id);
                    return reply::stream(Body::stream(stream));
                }
                Err(flavour) => Outcome::Lost { flavour, did_not_run: false },
            };
            call::mend(engine, call, progress, Some((live, lost))).await
        }));
        Some(Bytes::new())
    }
}
