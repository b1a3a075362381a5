//! One session: the pure state of `state`, what is remembered in `memory`, and the shell that lets requests wait for both.
//!
//! `engine` finds the session of a request; `open` makes one, `call` carries requests, `heal` mends, `listen` reads what
//! the server says unasked.

mod answers;
pub mod call;
pub mod collect;
pub mod engine;
pub mod fresh;
pub mod headers;
pub mod heal;
pub mod hidden;
pub mod learn;
pub mod listen;
pub mod memory;
pub mod messages;
pub mod open;
pub mod park;
pub mod parking;
pub mod replay;
pub mod reply;
pub mod resend;
pub mod state;
pub mod store;
pub mod stream;
pub mod table;
pub mod talk;
pub mod upstream;

use std::collections::{HashMap, VecDeque};
use std::fmt;
use std::str::FromStr;
use std::sync::{Arc, Mutex, MutexGuard};

use http::HeaderValue;
use serde_json::value::RawValue;
use tokio::sync::Notify;
use tokio::time::Instant;

use self::headers::Letterhead;
use self::memory::Memory;
use self::state::{Action, Death, Event, Generation, State};
use self::store::{Saved, Store};
use self::upstream::Upstream;
use crate::config;
use crate::streams::{Ring, StreamId};

/// Finished streams of calls that one session keeps for clients that come back.
const KEPT_ANSWERS: usize = 8;
/// Requests of the server that one session waits for an answer to.
const OPEN_QUESTIONS: usize = 64;

/// Names a session: a hash over subject and id, so that one subject can never name another's.
#[derive(Clone, Copy, Eq, Hash, PartialEq, PartialOrd, Ord)]
pub struct Key([u8; 16]);

impl Key {
    /// The key of `subject`'s session `id`.
    pub fn new(subject: &str, id: &str) -> Self {
        let mut context = aws_lc_rs::digest::Context::new(&aws_lc_rs::digest::SHA256);
        context.update(&(subject.len() as u64).to_be_bytes());
        context.update(subject.as_bytes());
        context.update(id.as_bytes());
        let mut key = [0; 16];
        key.copy_from_slice(&context.finish().as_ref()[..16]);
        Self(key)
    }

    /// How logs name it: the first 8 hex digits.
    pub fn short(&self) -> String {
        self.to_string()[..8].to_owned()
    }
}

impl fmt::Display for Key {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|byte| write!(out, "{byte:02x}"))
    }
}

impl fmt::Debug for Key {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, out)
    }
}

impl FromStr for Key {
    type Err = ();
    fn from_str(text: &str) -> Result<Self, ()> {
        if text.len() != 32 || !text.is_ascii() {
            return Err(());
        }
        let mut key = [0; 16];
        for (at, byte) in key.iter_mut().enumerate() {
            *byte = u8::from_str_radix(&text[2 * at..2 * at + 2], 16).map_err(|_| ())?;
        }
        Ok(Self(key))
    }
}

/// One session.
#[derive(Debug)]
pub struct Session {
    /// Its name.
    pub key: Key,
    /// Whose it is.
    pub subject: Arc<str>,
    /// Where its requests go.
    pub upstream: Arc<Upstream>,
    inner: Mutex<Inner>,
    /// Rung at every change of state.
    changed: Notify,
}

/// What changes in a session.
#[derive(Debug)]
pub struct Inner {
    /// Where it stands.
    pub state: State,
    /// What it remembers.
    pub memory: Memory,
    /// `memory.upstream` and `memory.version` as headers.
    upstream_id: Option<HeaderValue>,
    version: HeaderValue,
    /// When the client last sent something.
    pub used: Instant,
    /// The headers that came with the client's newest credential: a heal comes with the same. Memory only.
    letterhead: Option<Box<Letterhead>>,
    /// When it was last written to disk.
    saved: Instant,
    /// Heals that failed, so that a parked request can tell the one it waited for.
    failures: u64,
    /// Whether the newest of them failed because the server refused it.
    is_refused: bool,
    /// A client's `roots/list_changed` that came while nobody could take it.
    roots_changed: bool,
    streams: Option<Box<Streams>>,
}

/// The parts that only sessions with streams need.
#[derive(Debug, Default)]
struct Streams {
    /// What the server says unasked, once the client has asked for it.
    unasked: Option<Arc<Ring>>,
    listener: listen::Listener,
    /// Streams of calls, for clients that come back.
    answers: VecDeque<Arc<Ring>>,
    /// Our id of each request of the server -> its generation and the server's id.
    questions: HashMap<Box<str>, (Generation, Box<RawValue>)>,
    asked: u64,
    /// Parked requests by their raw id, to be found by `notifications/cancelled`.
    parked: Vec<(Box<str>, Arc<Notify>)>,
    /// Of a hidden session: our id of each request under way -> its client's, both raw.
    exchanged: HashMap<Box<str>, Box<str>>,
}

/// A way to the upstream session, as of now.
#[derive(Clone, Debug)]
pub struct Live {
    /// Which upstream session.
    pub generation: Generation,
    /// Its id; none for a stateless upstream.
    pub id: Option<HeaderValue>,
    /// The agreed version.
    pub version: HeaderValue,
}

impl Session {
    /// A session that starts in `state`.
    pub fn new(key: Key, memory: Memory, upstream: Arc<Upstream>, state: State) -> Arc<Self> {
        let header = |text: &str| HeaderValue::from_str(text).ok();
        let inner = Inner {
            state,
            upstream_id: memory.upstream.as_deref().and_then(header),
            version: header(&memory.version).unwrap_or(HeaderValue::from_static(crate::mcp::DEFAULT_VERSION)),
            used: Instant::now(),
            letterhead: None,
            saved: Instant::now(),
            failures: 0,
            is_refused: false,
            roots_changed: false,
            streams: None,
            memory,
        };
        let subject = Arc::from(&*inner.memory.subject);
        Arc::new(Self { key, subject, upstream, inner: Mutex::new(inner), changed: Notify::new() })
    }

    /// What changes; never held across an await.
    pub fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().expect("no panic while locked")
    }

    /// Feeds the state machine and tells those who wait; the action is the caller's to carry out.
    fn on(&self, event: Event) -> Option<Action> {
        let mut inner = self.lock();
        let (state, action) = inner.state.on(event);
        inner.state = state;
        drop(inner);
        if action.is_some() {
            self.changed.notify_waiters();
        }
        action
    }

    /// The way to the upstream session, if it is believed to be alive.
    pub fn live(&self) -> Option<Live> {
        self.lock().live()
    }

    /// How it ended, if it has.
    pub fn death(&self) -> Option<Death> {
        match self.lock().state {
            State::Dead(death) => Some(death),
            _ => None,
        }
    }

    /// Makes the upstream session look lost, for the doctor: the next request meets a server that does not know it.
    pub fn play_stale(&self) {
        let mut inner = self.lock();
        if inner.upstream_id.is_some() {
            inner.upstream_id = Some(HeaderValue::from_static("0000000000000000doctor0000000000"));
        }
    }

    /// The ring of what the server says unasked; made at the first call.
    fn unasked(&self, bounds: &config::Stream) -> Arc<Ring> {
        self.lock().streams().unasked.get_or_insert_with(|| Ring::new(bounds)).clone()
    }

    /// The stream of that name, if it is still kept.
    fn find_stream(&self, id: StreamId, bounds: &config::Stream) -> Option<Arc<Ring>> {
        let inner = self.lock();
        let streams = inner.streams.as_deref()?;
        let found = streams.unasked.iter().chain(&streams.answers).find(|ring| ring.id() == id);
        found.filter(|ring| !ring.is_over(bounds)).cloned()
    }

    /// Keeps the stream of a call for a client that comes back; bounded by [`KEPT_ANSWERS`] and `stream.keep_answer`.
    fn keep_answer(&self, ring: &Arc<Ring>, bounds: &config::Stream) {
        let mut inner = self.lock();
        let answers = &mut inner.streams().answers;
        answers.retain(|kept| !kept.is_over(bounds));
        answers.push_back(ring.clone());
        while answers.len() > KEPT_ANSWERS {
            // Those that ended first: the others are still being written to.
            let oldest = answers.iter().position(|kept| kept.ended().is_some()).unwrap_or(0);
            answers.remove(oldest);
        }
    }

    /// A request of the server: the id we give it, raw JSON. It is unique over all generations, so an answer to a
    /// question from before a loss can never consent to a new one.
    fn ask_client(&self, generation: Generation, id: &RawValue) -> String {
        let mut inner = self.lock();
        let streams = inner.streams();
        streams.asked += 1;
        if streams.questions.len() >= OPEN_QUESTIONS {
            let oldest = streams
                .questions
                .keys()
                .min_by_key(|key| key.rsplit('-').next().and_then(|n| n.parse::<u64>().ok()))
                .cloned();
            oldest.and_then(|oldest| streams.questions.remove(&oldest));
        }
        let ours = format!("\"{}-{generation}-{}\"", &mcp_daemon::secret::random_id()[..8], streams.asked);
        streams.questions.insert(ours.as_str().into(), (generation, id.to_owned()));
        ours
    }

    /// The server's own id for the question that the client answers, if it was asked by the upstream session of now.
    fn answered(&self, id: &RawValue) -> Option<Box<RawValue>> {
        let mut inner = self.lock();
        let state = inner.state;
        let (generation, theirs) = inner.streams.as_mut()?.questions.remove(id.get())?;
        (state == State::Live(generation)).then_some(theirs)
    }
}

impl Inner {
    fn live(&self) -> Option<Live> {
        match self.state {
            State::Live(generation) => {
                Some(Live { generation, id: self.upstream_id.clone(), version: self.version.clone() })
            }
            _ => None,
        }
    }

    /// Keeps a copy of the client's headers, unless its credential is the one that is known.
    fn keep(&mut self, letterhead: &Letterhead) {
        let known = self.letterhead.as_ref();
        if known.is_none_or(|known| known.credential() != letterhead.credential()) {
            self.letterhead = Some(Box::new(letterhead.to_keep()));
        }
    }

    /// The kept headers.
    fn letterhead(&self) -> Letterhead {
        self.letterhead.as_deref().cloned().unwrap_or_default()
    }

    /// Writes down what is remembered; nothing once the session is over, whose file must not come back.
    fn save(&self, store: &Store, key: &Key) -> Saved {
        match self.state {
            State::Dead(_) => Saved::already(),
            _ => store.save(key, &self.memory),
        }
    }

    fn streams(&mut self) -> &mut Streams {
        self.streams.get_or_insert_default()
    }

    /// Takes over a new upstream session, as complete as the old one was.
    fn renew(&mut self, upstream: Option<HeaderValue>, generation: Generation) {
        self.memory.upstream = upstream.as_ref().and_then(|id| id.to_str().ok()).map(Into::into);
        self.memory.generation = generation;
        // A copy, for the reason given at `Letterhead::to_keep`.
        self.upstream_id = upstream.and_then(|id| HeaderValue::from_bytes(id.as_bytes()).ok());
        if let Some(streams) = &mut self.streams {
            streams.questions.clear();
        }
    }
}
