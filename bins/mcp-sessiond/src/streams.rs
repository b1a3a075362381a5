//! Streams towards the client: event ids of our own, a bounded ring per stream, and `Last-Event-ID` answered from it.
//!
//! An event id is `<stream>-<number>`, both hexadecimal. The ring holds slices of what came and is memory only.

use std::collections::VecDeque;
use std::pin::Pin;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, LazyLock, Mutex, MutexGuard};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::Bytes;
use http_body::Frame;
use mcp_daemon::body::BodyError;
use tokio::sync::Notify;
use tokio::sync::futures::OwnedNotified;
use tokio::time::{Instant, Sleep};

use crate::config;
use crate::sse;

/// A future that resolves when the daemon drains.
pub type Draining = Pin<Box<dyn Future<Output = ()> + Send>>;

/// One stream's name, unique in this process and most likely beyond it.
#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
pub struct StreamId(u64);

impl StreamId {
    /// A new one.
    pub fn mint() -> Self {
        // A random start, so that an id from before a restart is not mistaken for one of ours.
        // Of 48 bits, so that counting on from there never overflows.
        static NEXT: LazyLock<AtomicU64> =
            LazyLock::new(|| AtomicU64::new(mcp_daemon::secret::random_u64() >> 16));
        Self(NEXT.fetch_add(1, Ordering::Relaxed))
    }

    /// The id of this stream's event `number`.
    pub fn event(self, number: u64) -> String {
        format!("{:x}-{number:x}", self.0)
    }

    /// Reads an event id.
    pub fn parse(event: &str) -> Option<(Self, u64)> {
        let (stream, number) = event.split_once('-')?;
        Some((Self(u64::from_str_radix(stream, 16).ok()?), u64::from_str_radix(number, 16).ok()?))
    }
}

/// Bytes that streams hold after their end, all together; a clone counts in the same sum.
#[derive(Clone, Debug, Default)]
pub struct Kept(Arc<AtomicUsize>);

impl Kept {
    /// The sum.
    pub fn bytes(&self) -> usize {
        self.0.load(Ordering::Relaxed)
    }
}

/// The newest events of one stream, for the client that reads it and for one that comes back.
#[derive(Debug)]
pub struct Ring {
    id: StreamId,
    max_events: usize,
    max_bytes: usize,
    state: Mutex<State>,
    grown: Arc<Notify>,
}

#[derive(Debug)]
struct State {
    kept: VecDeque<Bytes>,
    kept_bytes: usize,
    /// Number of the oldest event kept; numbers start at 1.
    first: u64,
    /// Number of the next event that no reader was given.
    unread: u64,
    /// The reader that gets new events; older ones stay open and silent, since a message goes to one stream only.
    reader: u64,
    readers: usize,
    ended: Option<Instant>,
    /// Where its bytes are counted since its end, and as how many.
    counted: Option<(Kept, usize)>,
}

impl State {
    fn next(&self) -> u64 {
        self.first + self.kept.len() as u64
    }
}

impl Ring {
    /// An empty ring.
    pub fn new(bounds: &config::Stream) -> Arc<Self> {
        let state = State {
            kept: VecDeque::new(),
            kept_bytes: 0,
            first: 1,
            unread: 1,
            reader: 0,
            readers: 0,
            ended: None,
            counted: None,
        };
        Arc::new(Self {
            id: StreamId::mint(),
            max_events: bounds.ring_events.get(),
            max_bytes: bounds.ring_bytes.bytes(),
            state: Mutex::new(state),
            grown: Arc::default(),
        })
    }

    /// The stream's name.
    pub fn id(&self) -> StreamId {
        self.id
    }

    /// Appends the event that `make` builds around the id it is given, and returns it.
    pub fn push(&self, make: impl FnOnce(&str) -> Bytes) -> Bytes {
        let mut state = self.lock();
        let event = make(&self.id.event(state.next()));
        state.kept_bytes += event.len();
        state.kept.push_back(event.clone());
        // The newest event stays, however large: somebody has yet to read it.
        while state.kept.len() > 1
            && (state.kept.len() > self.max_events || state.kept_bytes > self.max_bytes)
        {
            if let Some(oldest) = state.kept.pop_front() {
                state.kept_bytes -= oldest.len();
                state.first += 1;
            }
        }
        drop(state);
        self.grown.notify_waiters();
        event
    }

    /// No more events will come; readers end once they have read what is there.
    pub fn end(&self) {
        self.lock().ended.get_or_insert_with(Instant::now);
        self.grown.notify_waiters();
    }

    /// The same; what it holds from now on counts in `kept` until it is dropped.
    pub fn end_in(&self, kept: &Kept) {
        self.end();
        let mut state = self.lock();
        if state.counted.is_none() {
            kept.0.fetch_add(state.kept_bytes, Ordering::Relaxed);
            state.counted = Some((kept.clone(), state.kept_bytes));
        }
    }

    /// Since when it has ended.
    pub fn ended(&self) -> Option<Instant> {
        self.lock().ended
    }

    /// Whether it ended longer ago than an answer is kept.
    pub fn is_over(&self, bounds: &config::Stream) -> bool {
        self.ended().is_some_and(|ended| ended.elapsed() >= bounds.keep_answer.duration())
    }

    /// Bytes of the events that it holds.
    pub fn bytes(&self) -> usize {
        self.lock().kept_bytes
    }

    /// Whether somebody reads it now.
    pub fn is_read(&self) -> bool {
        self.lock().readers > 0
    }

    /// A body that sends what comes after event `after`, or what nobody was given yet.
    pub fn read(self: &Arc<Self>, after: Option<u64>, keep_alive: Duration, draining: Draining) -> Reader {
        let mut state = self.lock();
        state.reader += 1;
        state.readers += 1;
        let next =
            after.map_or(state.unread, |after| after.saturating_add(1)).clamp(state.first, state.next());
        let number = state.reader;
        drop(state);
        // The one before has to notice that it is not the reader any more.
        self.grown.notify_waiters();
        Reader {
            ring: self.clone(),
            number,
            next,
            keep_alive: KeepAlive::new(keep_alive),
            grown: None,
            draining,
            done: false,
        }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().expect("no panic while locked")
    }
}

impl Drop for Ring {
    fn drop(&mut self) {
        if let Some((kept, bytes)) = self.lock().counted.take() {
            kept.0.fetch_sub(bytes, Ordering::Relaxed);
        }
    }
}

/// The body of a stream: events of a [`Ring`] as they come, comments in between, an end at drain.
pub struct Reader {
    ring: Arc<Ring>,
    number: u64,
    next: u64,
    keep_alive: KeepAlive,
    grown: Option<Pin<Box<OwnedNotified>>>,
    draining: Draining,
    done: bool,
}

impl Reader {
    /// The next event for this reader; `Err(true)`: none will ever come.
    fn take(&mut self) -> Result<Bytes, bool> {
        let mut state = self.ring.lock();
        if state.reader != self.number {
            return Err(state.ended.is_some());
        }
        self.next = self.next.max(state.first);
        let Some(event) = state.kept.get((self.next - state.first) as usize).cloned() else {
            return Err(state.ended.is_some());
        };
        self.next += 1;
        state.unread = state.unread.max(self.next);
        Ok(event)
    }
}

impl http_body::Body for Reader {
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
        loop {
            if this.grown.is_none() {
                let mut grown = Box::pin(this.ring.grown.clone().notified_owned());
                // Registered before the look below, so that nothing that comes in between is missed.
                grown.as_mut().enable();
                this.grown = Some(grown);
            }
            match this.take() {
                Ok(event) => {
                    this.keep_alive.spoke();
                    return Poll::Ready(Some(Ok(Frame::data(event))));
                }
                Err(true) => break,
                Err(false) => {}
            }
            // Events first: what was said already is delivered before we hang up.
            if this.draining.as_mut().poll(cx).is_ready() {
                break;
            }
            match this.grown.as_mut().map(|grown| grown.as_mut().poll(cx)) {
                Some(Poll::Ready(())) => this.grown = None,
                _ => {
                    ready!(this.keep_alive.poll(cx));
                    return Poll::Ready(Some(Ok(Frame::data(sse::KEEP_ALIVE))));
                }
            }
        }
        this.done = true;
        Poll::Ready(None)
    }
}

impl Drop for Reader {
    fn drop(&mut self) {
        self.ring.lock().readers -= 1;
    }
}

/// Says when a stream was silent for so long that it needs a comment.
#[derive(Debug)]
pub struct KeepAlive {
    every: Duration,
    timer: Option<Pin<Box<Sleep>>>,
}

impl KeepAlive {
    /// A comment after each `every` of silence.
    pub fn new(every: Duration) -> Self {
        Self { every, timer: None }
    }

    /// Something else was sent.
    pub fn spoke(&mut self) {
        if let Some(timer) = &mut self.timer {
            timer.as_mut().reset(Instant::now() + self.every);
        }
    }

    /// Ready when a comment is due; starts to count at the first call.
    pub fn poll(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        let every = self.every;
        let timer = self.timer.get_or_insert_with(|| Box::pin(tokio::time::sleep(every)));
        ready!(timer.as_mut().poll(cx));
        timer.as_mut().reset(Instant::now() + every);
        Poll::Ready(())
    }
}

#[cfg(test)]
mod tests {
    use std::num::NonZeroUsize;

    use http_body_util::BodyExt;
    use proptest::prelude::*;

    use super::*;

    const KEEP_ALIVE: Duration = Duration::from_secs(15);

    fn bounds(events: usize, bytes: usize) -> config::Stream {
        config::Stream {
            ring_events: NonZeroUsize::new(events).unwrap(),
            ring_bytes: mcp_daemon::config::Size(bytes),
            ..config::Stream::default()
        }
    }

    fn never() -> Draining {
        Box::pin(std::future::pending())
    }

    async fn next(reader: &mut Reader) -> Option<String> {
        let frame = reader.frame().await?.unwrap();
        Some(String::from_utf8(frame.into_data().unwrap().to_vec()).unwrap())
    }

    fn say(ring: &Ring, text: &'static str) {
        ring.push(|_id| Bytes::from_static(text.as_bytes()));
    }

    #[tokio::test(start_paused = true)]
    async fn a_silent_stream_gets_comments_and_a_said_word_is_delivered_before_the_end() {
        let ring = Ring::new(&bounds(8, 1000));
        let mut reader = ring.read(None, KEEP_ALIVE, never());
        assert_eq!(next(&mut reader).await.unwrap(), ": keep-alive\n\n");
        say(&ring, "a");
        ring.end();
        assert_eq!(next(&mut reader).await.unwrap(), "a");
        assert_eq!(next(&mut reader).await, None);
    }

    #[tokio::test(start_paused = true)]
    async fn drain_ends_a_stream_after_what_was_said() {
        let ring = Ring::new(&bounds(8, 1000));
        say(&ring, "a");
        let mut reader = ring.read(None, KEEP_ALIVE, Box::pin(std::future::ready(())));
        assert_eq!(next(&mut reader).await.unwrap(), "a");
        assert_eq!(next(&mut reader).await, None);
    }

    #[tokio::test(start_paused = true)]
    async fn who_comes_back_gets_what_it_missed_and_who_is_new_what_nobody_had() {
        let ring = Ring::new(&bounds(8, 1000));
        for text in ["a", "b", "c"] {
            say(&ring, text);
        }
        let mut first = ring.read(None, KEEP_ALIVE, never());
        assert_eq!(next(&mut first).await.unwrap(), "a");
        assert_eq!(next(&mut first).await.unwrap(), "b");
        let mut back = ring.read(Some(1), KEEP_ALIVE, never());
        assert_eq!(next(&mut back).await.unwrap(), "b");
        assert_eq!(next(&mut first).await.unwrap(), ": keep-alive\n\n");
        let mut new = ring.read(None, KEEP_ALIVE, never());
        assert_eq!(next(&mut new).await.unwrap(), "c");
    }

    #[test]
    fn event_ids_round_trip() {
        let id = StreamId::mint();
        assert_eq!(StreamId::parse(&id.event(300)), Some((id, 300)));
        assert_eq!(StreamId::parse("server-1"), None);
        assert_eq!(StreamId::parse("7"), None);
    }

    proptest! {
        #[test]
        fn a_ring_stays_within_its_bounds(sizes in proptest::collection::vec(0usize..50, 0..60), events in 1usize..10, bytes in 1usize..100) {
            let ring = Ring::new(&bounds(events, bytes));
            for size in &sizes {
                ring.push(|_id| Bytes::from(vec![b'x'; *size]));
            }
            let state = ring.lock();
            prop_assert_eq!(state.next(), sizes.len() as u64 + 1);
            prop_assert!(state.kept.len() <= events.max(1));
            prop_assert!(state.kept_bytes <= bytes || state.kept.len() == 1);
            prop_assert_eq!(state.kept_bytes, state.kept.iter().map(Bytes::len).sum::<usize>());
        }
    }
}
