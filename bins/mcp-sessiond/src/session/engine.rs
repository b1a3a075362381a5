//! Finds the session of a request and sends it on its way; owns everything that sessions share.

use std::collections::{HashMap, HashSet, VecDeque};
use std::sync::{Arc, Mutex, RwLock};

use arc_swap::{ArcSwap, Guard};
use bytes::Bytes;
use http::{HeaderMap, HeaderName, HeaderValue, Method, Request, Response, StatusCode, header};
use mcp_daemon::addr::Route;
use mcp_daemon::body::Body;
use mcp_daemon::life::Life;
use tokio::time::Instant;

use super::call::{self, ACCEPT_BOTH, Call};
use super::memory::Replay;
use super::parking::Parking;
use super::state::{Action, Death, Event, Generation, State};
use super::store::{Found, Store};
use super::upstream::Upstream;
use super::{Key, Session, heal, listen, open, reply};
use crate::back::Back;
use crate::config::{Config, SessionFrom, UnknownIds};
use crate::mcp::{self, Envelope, Kind};
use crate::metrics::Metrics;
use crate::modern;
use crate::streams::StreamId;
use crate::verdict::Flavour;

/// Who sends a request, as far as a trusted listener says.
#[derive(Clone, Debug)]
pub struct Caller {
    /// The authenticated identity; empty where nobody authenticates.
    pub subject: Arc<str>,
    /// The route, for upstreams with `{route}`.
    pub route: Option<Route>,
}

/// Headers of the credential for the upstream, read anew at reload.
pub type OwnHeaders = Vec<(HeaderName, HeaderValue)>;

/// What all sessions share.
pub struct Engine {
    /// The way to the server.
    pub back: Back,
    /// Start, drain, end.
    pub life: Life,
    /// What is counted.
    pub metrics: Metrics,
    /// Requests that wait for a heal.
    pub parking: Arc<Parking>,
    /// Sessions on disk.
    pub store: Store,
    config: ArcSwap<Config>,
    own_headers: ArcSwap<OwnHeaders>,
    sessions: RwLock<Sessions>,
    upstreams: Mutex<HashMap<Option<Route>, Arc<Upstream>>>,
}

#[derive(Default)]
struct Sessions {
    by_key: HashMap<Key, Arc<Session>>,
    by_subject: HashMap<Arc<str>, usize>,
    deleted: HashSet<Key>,
    deleted_order: VecDeque<Key>,
}

impl Engine {
    /// An engine with the sessions that were found on disk; they sleep until somebody wants them.
    pub fn new(
        config: Config,
        own_headers: OwnHeaders,
        back: Back,
        store: Store,
        found: Found,
        life: Life,
    ) -> Arc<Self> {
        let engine = Arc::new(Self {
            back,
            life,
            metrics: Metrics::new(),
            parking: Arc::default(),
            store,
            config: ArcSwap::from_pointee(config),
            own_headers: ArcSwap::from_pointee(own_headers),
            sessions: RwLock::default(),
            upstreams: Mutex::default(),
        });
        for (name, replay) in found.replays {
            let route: Option<Route> = name.parse().ok();
            engine
                .upstreams
                .lock()
                .expect("no panic while locked")
                .insert(route.clone(), Upstream::new(route, replay));
        }
        for (key, memory, written) in found.sessions {
            let route = memory.route.as_deref().and_then(|route| route.parse().ok());
            let state = State::Dormant(memory.generation);
            let session = Session::new(key, memory, engine.upstream(route.as_ref()), state);
            // `sweep` writes a session that is in use often enough for this.
            let age = written.elapsed().unwrap_or_default();
            if let Some(used) = Instant::now().checked_sub(age) {
                session.lock().used = used;
            }
            engine.insert(session);
        }
        for key in found.deleted {
            engine.remember_deleted(key);
        }
        engine
    }

    /// The settings in force.
    pub fn config(&self) -> Guard<Arc<Config>> {
        self.config.load()
    }

    /// Puts other settings in force.
    pub fn reload(&self, config: Config, own_headers: OwnHeaders) {
        self.config.store(Arc::new(config));
        self.own_headers.store(Arc::new(own_headers));
    }

    /// Adds the headers that the operator wants on every upstream request.
    pub fn add_own_headers(&self, headers: &mut HeaderMap) {
        for (name, value) in self.own_headers.load().iter() {
            headers.insert(name.clone(), value.clone());
        }
    }

    /// Answers one request of a client. The front has checked path, `Host`, `Origin` and sizes.
    pub async fn handle(self: &Arc<Self>, caller: Caller, request: Request<Bytes>) -> Response<Body> {
        let began = Instant::now();
        let (head, body) = request.into_parts();
        if caller.route.is_none() && self.back.needs_route() {
            return reply::refused(
                StatusCode::BAD_REQUEST,
                "null",
                mcp::INVALID_REQUEST,
                "Mcp-Route is missing, and the upstream has {route}",
            );
        }
        let answer = match head.method {
            Method::POST => self.post(caller, head.headers, body).await,
            Method::GET => self.get(caller, &head.headers).await,
            Method::DELETE => self.delete(caller, &head.headers).await,
            _ => {
                let mut answer = reply::refused(
                    StatusCode::METHOD_NOT_ALLOWED,
                    "null",
                    mcp::INVALID_REQUEST,
                    "Method Not Allowed: use POST, GET or DELETE",
                );
                answer.headers_mut().insert(header::ALLOW, HeaderValue::from_static("GET, POST, DELETE"));
                answer
            }
        };
        self.metrics.answered(began.elapsed());
        answer
    }

    /// What every call goes through: the ways that few take are boxed, so that this future stays small.
    async fn post(self: &Arc<Self>, caller: Caller, mut headers: HeaderMap, body: Bytes) -> Response<Body> {
        let envelope = match Envelope::parse(&body) {
            Ok(envelope) => envelope,
            Err(malformed) => {
                return reply::refused(
                    StatusCode::BAD_REQUEST,
                    "null",
                    malformed.code(),
                    &malformed.to_string(),
                );
            }
        };
        let kind = envelope.kind().unwrap_or(Kind::Notification);
        let version = headers.get(mcp::VERSION_HEADER).and_then(|version| version.to_str().ok());
        let modern = mcp::is_modern(version, Some(&envelope));
        let session_id = headers.remove(mcp::SESSION_HEADER);
        let takes_stream = takes_stream(&headers);
        self.inward(&mut headers);
        if modern && session_id.is_none() {
            return Box::pin(modern::pass(self, &caller, &envelope, &body, &headers)).await;
        }
        let id = envelope.id.map_or("null", serde_json::value::RawValue::get);
        let headers = Arc::new(headers);
        if envelope.method() == "initialize" && kind == Kind::Request {
            return Box::pin(open::open(self, &caller, &envelope, body.clone(), headers)).await;
        }
        let session = match &session_id {
            Some(session_id) => match self.find_or_adopt(&caller, session_id, kind, &headers).await {
                Some(session) => session,
                None => return reply::not_found(),
            },
            None if self.config().session_from == SessionFrom::Subject => {
                Box::pin(open::hidden(self, &caller, &headers)).await
            }
            None => return open::without_id(id),
        };
        match kind {
            Kind::Request => {
                let call = Call {
                    id: id.into(),
                    method: envelope.method().into(),
                    body: body.clone(),
                    headers,
                    takes_stream,
                    session,
                };
                call::run(self, Arc::new(call)).await
            }
            Kind::Notification => {
                Box::pin(call::notify(self, &session, &envelope, body.clone(), headers)).await
            }
            Kind::Response => Box::pin(call::answer(self, &session, &envelope, &body, headers)).await,
        }
    }

    /// The client's stream for what the server says unasked, or the rest of an earlier stream.
    async fn get(self: &Arc<Self>, caller: Caller, headers: &HeaderMap) -> Response<Body> {
        let session = match self.named(&caller, headers) {
            Ok(session) => session,
            Err(refusal) => return refusal,
        };
        {
            let mut inner = session.lock();
            inner.used = Instant::now();
            if inner.headers.is_none() {
                let mut headers = headers.clone();
                headers.remove(mcp::SESSION_HEADER);
                self.inward(&mut headers);
                inner.keep_headers(&headers);
            }
        }
        let config = self.config();
        let resumed = headers.get("last-event-id").and_then(|id| StreamId::parse(id.to_str().ok()?));
        let earlier = resumed.and_then(|(stream, number)| Some((session.find_stream(stream)?, number)));
        let (ring, after) = match earlier {
            Some((ring, number)) => (ring, Some(number)),
            None => (session.unasked(&config.stream), None),
        };
        let body =
            ring.read(after, config.stream.keep_alive.duration(), Box::pin(self.life.draining_owned()));
        listen::ensure(self, &session);
        reply::stream(Body::stream(body))
    }

    async fn delete(self: &Arc<Self>, caller: Caller, headers: &HeaderMap) -> Response<Body> {
        match self.named(&caller, headers) {
            Ok(session) => {
                self.end(&session, Death::Deleted);
                Response::new(Body::empty())
            }
            Err(refusal) => refusal,
        }
    }

    /// The session that a GET or a DELETE names.
    fn named(&self, caller: &Caller, headers: &HeaderMap) -> Result<Arc<Session>, Response<Body>> {
        let id = headers.get(mcp::SESSION_HEADER).ok_or_else(|| open::without_id("null"))?;
        let session = id.to_str().ok().and_then(|id| self.find(&Key::new(&caller.subject, id)));
        session.ok_or_else(reply::not_found)
    }

    async fn find_or_adopt(
        self: &Arc<Self>,
        caller: &Caller,
        id: &HeaderValue,
        kind: Kind,
        headers: &HeaderMap,
    ) -> Option<Arc<Session>> {
        let id = id.to_str().ok()?;
        let key = Key::new(&caller.subject, id);
        {
            let sessions = self.sessions.read().expect("no panic while locked");
            if let Some(session) = sessions.by_key.get(&key) {
                return Some(session.clone());
            }
            if sessions.deleted.contains(&key) {
                return None;
            }
        }
        if kind != Kind::Request || self.config().unknown_ids == UnknownIds::Refuse {
            return None;
        }
        Box::pin(open::adopt(self, caller, id, headers)).await
    }

    /// The session of that key.
    pub fn find(&self, key: &Key) -> Option<Arc<Session>> {
        self.sessions.read().expect("no panic while locked").by_key.get(key).cloned()
    }

    /// All sessions.
    pub fn sessions(&self) -> Vec<Arc<Session>> {
        self.sessions.read().expect("no panic while locked").by_key.values().cloned().collect()
    }

    /// Whether some session's upstream id is `id`.
    pub fn is_upstream_id(&self, id: &str) -> bool {
        self.sessions().iter().any(|session| session.lock().memory.upstream.as_deref() == Some(id))
    }

    /// Adds a session, unless there is one of that key already: then that one. The one idle longest makes room.
    pub fn insert(self: &Arc<Self>, session: Arc<Session>) -> Arc<Session> {
        let config = self.config();
        let mut sessions = self.sessions.write().expect("no panic while locked");
        if let Some(known) = sessions.by_key.get(&session.key) {
            return known.clone();
        }
        *sessions.by_subject.entry(session.subject.clone()).or_default() += 1;
        sessions.by_key.insert(session.key, session.clone());
        let of_subject = sessions.by_subject.get(&session.subject).copied().unwrap_or_default();
        let evicted = if of_subject > config.limits.sessions_per_subject.get() {
            sessions.idle_longest(|candidate| {
                candidate.subject == session.subject && candidate.key != session.key
            })
        } else if sessions.by_key.len() > config.limits.sessions.get() {
            sessions.idle_longest(|candidate| candidate.key != session.key)
        } else {
            None
        };
        drop(sessions);
        if let Some(evicted) = evicted {
            log::debug!(session = evicted.key.short(); "session evicted, it was idle longest");
            self.end(&evicted, Death::Expired);
        }
        session
    }

    /// The upstream of a route.
    pub fn upstream(&self, route: Option<&Route>) -> Arc<Upstream> {
        let mut upstreams = self.upstreams.lock().expect("no panic while locked");
        if let Some(known) = upstreams.get(&route.cloned()) {
            return known.clone();
        }
        upstreams
            .entry(route.cloned())
            .or_insert_with(|| Upstream::new(route.cloned(), Replay::new()))
            .clone()
    }

    /// A request saw that the upstream session of this generation is gone.
    pub fn lost(self: &Arc<Self>, session: &Arc<Session>, generation: Generation, flavour: Flavour) {
        self.apply(session, Event::Lost(generation), flavour);
    }

    /// Feeds a session's state machine and does what it says.
    pub fn apply(self: &Arc<Self>, session: &Arc<Session>, event: Event, flavour: Flavour) {
        match session.on(event) {
            Some(Action::Heal) => {
                let generation = session.lock().memory.generation;
                heal::start(self, session, generation, flavour);
            }
            // Those who wait look for themselves: `on` has rung.
            Some(Action::ReleaseParked | Action::FailParked | Action::TearDown { .. }) | None => {}
        }
    }

    /// Ends a session: at the client's wish, the operator's, or for want of use.
    pub fn end(self: &Arc<Self>, session: &Arc<Session>, death: Death) {
        let upstream = session.live();
        let Some(Action::TearDown { upstream_lives }) = session.on(Event::Died(death)) else { return };
        {
            let mut sessions = self.sessions.write().expect("no panic while locked");
            if sessions.by_key.remove(&session.key).is_some()
                && let Some(count) = sessions.by_subject.get_mut(&session.subject)
            {
                *count -= 1;
                if *count == 0 {
                    sessions.by_subject.remove(&session.subject);
                }
            }
        }
        let deleted = death == Death::Deleted;
        if deleted {
            self.remember_deleted(session.key);
        }
        let _written_later = self.store.remove(&session.key, deleted);
        session.end_streams();
        if let Some(live) = upstream.filter(|live| upstream_lives && live.id.is_some()) {
            let mut request = Request::new(Bytes::new());
            *request.method_mut() = Method::DELETE;
            *request.headers_mut() = session.headers();
            live.mark(request.headers_mut());
            log::debug!(session = session.key.short(); "session closed upstream");
            session.close_upstream(self, request);
        }
    }

    fn remember_deleted(&self, key: Key) {
        let bound = self.config().limits.deleted_ids.get();
        let mut sessions = self.sessions.write().expect("no panic while locked");
        if sessions.deleted.insert(key) {
            sessions.deleted_order.push_back(key);
        }
        while sessions.deleted_order.len() > bound {
            if let Some(oldest) = sessions.deleted_order.pop_front() {
                sessions.deleted.remove(&oldest);
                self.store.forget_deleted(&oldest);
            }
        }
    }

    /// Ends the sessions that nobody used for too long; runs until drain.
    pub async fn sweep(self: Arc<Self>) {
        loop {
            let idle = self.config().limits.session_idle.duration();
            let pause =
                (idle / 10).clamp(std::time::Duration::from_millis(100), std::time::Duration::from_secs(60));
            tokio::select! {
                () = tokio::time::sleep(pause) => {}
                () = self.life.draining() => return,
            }
            for session in self.sessions() {
                // Two: the table's and this loop's.
                let in_use = session.is_listening() || Arc::strong_count(&session) > 2;
                let mut inner = session.lock();
                if in_use {
                    inner.used = Instant::now();
                }
                if inner.used.saturating_duration_since(inner.saved) > idle / 10 {
                    // A file's time is all that a restart knows of its use.
                    inner.saved = Instant::now();
                    let _written_later = self.store.save(&session.key, &inner.memory);
                }
                let expired = inner.used.elapsed() > idle;
                drop(inner);
                if expired {
                    log::debug!(session = session.key.short(); "session expired");
                    self.end(&session, Death::Expired);
                }
            }
        }
    }

    /// Makes a client's headers fit for the upstream: without what belongs to the connection, the session and the
    /// identity; with an `Accept` that every server takes.
    fn inward(&self, headers: &mut HeaderMap) {
        // Few of them come at once: looking through those that came is cheaper than looking each of these up.
        while let Some(name) = headers.keys().find(|name| is_not_for_the_upstream(name)).cloned() {
            headers.remove(name);
        }
        headers.insert(header::ACCEPT, ACCEPT_BOTH);
        if !headers.contains_key(header::CONTENT_TYPE) {
            headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
        }
        self.add_own_headers(headers);
    }
}

/// The authenticated identity, believed on trusted listeners only.
pub const SUBJECT: &str = "mcp-auth-subject";
/// The route, believed on trusted listeners only.
pub const ROUTE: &str = "mcp-route";

fn is_not_for_the_upstream(name: &HeaderName) -> bool {
    matches!(
        name.as_str(),
        "accept-encoding"
            | "connection"
            | "content-length"
            | "expect"
            | "host"
            | "keep-alive"
            | "last-event-id"
            | "origin"
            | "proxy-authorization"
            | "proxy-connection"
            | "te"
            | "trailer"
            | "transfer-encoding"
            | "upgrade"
            | SUBJECT
            | ROUTE
    )
}

/// Whether a client takes a stream for an answer; one that does not say takes both.
fn takes_stream(headers: &HeaderMap) -> bool {
    match headers.get(header::ACCEPT).and_then(|accept| accept.to_str().ok()) {
        None => true,
        Some(accept) => {
            accept.contains("text/event-stream") || accept.contains("*/*") || accept.contains("text/*")
        }
    }
}

impl Sessions {
    /// Prefers sessions whose client does not even listen.
    fn idle_longest(&self, fits: impl Fn(&Session) -> bool) -> Option<Arc<Session>> {
        self.by_key
            .values()
            .filter(|session| fits(session))
            .min_by_key(|session| (session.is_listening(), session.lock().used))
            .cloned()
    }
}

impl Session {
    fn is_listening(&self) -> bool {
        let inner = self.lock();
        inner
            .streams
            .as_ref()
            .is_some_and(|streams| streams.unasked.as_ref().is_some_and(|ring| ring.is_read()))
    }

    fn end_streams(&self) {
        if let Some(streams) = &self.lock().streams {
            streams.unasked.iter().chain(&streams.answers).for_each(|ring| ring.end());
        }
    }

    fn headers(&self) -> HeaderMap {
        self.lock().headers.as_deref().cloned().unwrap_or_default()
    }

    fn close_upstream(self: &Arc<Self>, engine: &Arc<Engine>, request: Request<Bytes>) {
        let (session, engine) = (self.clone(), engine.clone());
        engine.life.clone().spawn(async move {
            let sent = engine.back.send(session.upstream.route.as_ref(), request);
            let _answer = tokio::time::timeout(std::time::Duration::from_secs(5), sent).await;
        });
    }
}
