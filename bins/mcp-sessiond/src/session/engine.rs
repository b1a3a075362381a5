//! Finds the session of a request and sends it on its way; owns everything that sessions share.

use std::collections::HashMap;
use std::ops::Deref;
use std::sync::{Arc, Mutex, RwLock};

use arc_swap::{ArcSwap, Guard};
use bytes::Bytes;
use http::{HeaderMap, HeaderName, HeaderValue, Method, Response, StatusCode, header};
use mcp_daemon::addr::Route;
use mcp_daemon::body::Body;
use mcp_daemon::life::Life;
use memchr::memmem::Finder;
use tokio::time::Instant;

use super::call::{self, Call};
use super::headers::{Letterhead, takes_stream};
use super::memory::Replay;
use super::parking::Parking;
use super::state::{Action, Death, Event, Generation, State};
use super::store::{Found, Store};
use super::table::Sessions;
use super::upstream::Upstream;
use super::{Key, Session, heal, hidden, listen, messages, open, reply};
use crate::back::Back;
use crate::config::{Config, SessionFrom, UnknownIds};
use crate::mcp::{self, Envelope, Kind};
use crate::metrics::Metrics;
use crate::modern;
use crate::streams::{Kept, StreamId};
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
    /// What answers hold that are kept for clients that come back.
    pub kept: Kept,
    settings: ArcSwap<Settings>,
    pub(super) sessions: RwLock<Sessions>,
    upstreams: Mutex<HashMap<Option<Route>, Arc<Upstream>>>,
}

/// The settings in force, and what is worked out from them once.
#[derive(Debug)]
pub struct Settings {
    config: Config,
    /// What the operator wants on every upstream request.
    pub(super) own_headers: OwnHeaders,
    replay_tools: Vec<(String, Finder<'static>)>,
}

impl Deref for Settings {
    type Target = Config;
    fn deref(&self) -> &Config {
        &self.config
    }
}

impl Settings {
    fn new(config: Config, own_headers: OwnHeaders) -> Self {
        let finder = |name: &String| (name.clone(), Finder::new(name).into_owned());
        Self { replay_tools: config.replay_tools.iter().map(finder).collect(), config, own_headers }
    }

    /// The tools to replay that `body` may name; a cheap look that every call gets.
    pub fn replay_tools_in(&self, body: &[u8]) -> impl Iterator<Item = &str> {
        self.replay_tools
            .iter()
            .filter(move |(_, finder)| finder.find(body).is_some())
            .map(|(name, _)| name.as_str())
    }
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
            kept: Kept::default(),
            settings: ArcSwap::from_pointee(Settings::new(config, own_headers)),
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
    pub fn config(&self) -> Guard<Arc<Settings>> {
        self.settings.load()
    }

    /// Puts other settings in force.
    pub fn reload(&self, config: Config, own_headers: OwnHeaders) {
        self.settings.store(Arc::new(Settings::new(config, own_headers)));
    }

    /// Adds the headers that the operator wants on every upstream request.
    pub fn add_own_headers(&self, headers: &mut HeaderMap) {
        for (name, value) in &self.config().own_headers {
            headers.insert(name.clone(), value.clone());
        }
    }

    /// Answers one request of a client; of its head only what is asked for here. The front has checked path, `Host`,
    /// `Origin` and sizes.
    pub async fn handle(
        self: &Arc<Self>,
        caller: Caller,
        method: Method,
        headers: HeaderMap,
        body: Bytes,
    ) -> Response<Body> {
        let began = Instant::now();
        if caller.route.is_none() && self.back.needs_route() {
            return reply::refused(
                StatusCode::BAD_REQUEST,
                "null",
                mcp::INVALID_REQUEST,
                "Mcp-Route is missing, and the upstream has {route}",
            );
        }
        let answer = match method {
            Method::POST => self.post(caller, headers, body).await,
            Method::GET => self.get(caller, headers).await,
            Method::DELETE => self.delete(caller, &headers).await,
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
    async fn post(self: &Arc<Self>, caller: Caller, headers: HeaderMap, body: Bytes) -> Response<Body> {
        // A block of its own: what only tells where a message goes is not kept until its answer comes.
        let (id, method, takes_stream, session, letterhead) = {
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
            let version = headers.get(mcp::VERSION).and_then(|version| version.to_str().ok());
            let modern = mcp::is_modern(version, Some(&envelope));
            let session_id = headers.get(mcp::SESSION).cloned();
            let takes_stream = takes_stream(&headers);
            let letterhead = self.letterhead(headers);
            if modern && session_id.is_none() {
                return Box::pin(modern::pass(self, &caller, &envelope, &body, &letterhead)).await;
            }
            let id = envelope.id.map_or("null", serde_json::value::RawValue::get);
            if envelope.method() == "initialize" && kind == Kind::Request {
                let opened = open::open(self, &caller, &envelope, body.clone(), &letterhead, takes_stream);
                return Box::pin(opened).await;
            }
            let session = match &session_id {
                Some(session_id) => match self.find_or_adopt(&caller, session_id, kind, &letterhead).await {
                    Some(session) => session,
                    None => return reply::not_found(),
                },
                None if self.config().session_from == SessionFrom::Subject => {
                    Box::pin(open::hidden(self, &caller, &letterhead)).await
                }
                None => return open::without_id(id),
            };
            let is_hidden = session_id.is_none();
            match kind {
                Kind::Request if is_hidden => {
                    let called = hidden::call(self, session, &envelope, &body, letterhead, takes_stream);
                    return Box::pin(called).await;
                }
                Kind::Notification if is_hidden && envelope.method() == "notifications/cancelled" => {
                    return Box::pin(hidden::cancel(self, &session, &envelope, &body, &letterhead)).await;
                }
                Kind::Request => (id.into(), envelope.method().into(), takes_stream, session, letterhead),
                Kind::Notification => {
                    return Box::pin(messages::notify(self, &session, &envelope, body.clone(), &letterhead))
                        .await;
                }
                Kind::Response => {
                    return Box::pin(messages::answer(self, &session, &envelope, &body, &letterhead)).await;
                }
            }
        };
        let call = Call { session, id, method, body, letterhead, takes_stream };
        call::run(self, Arc::new(call)).await
    }

    /// The client's stream for what the server says unasked, or the rest of an earlier stream.
    async fn get(self: &Arc<Self>, caller: Caller, headers: HeaderMap) -> Response<Body> {
        let session = match self.named(&caller, &headers) {
            Ok(session) => session,
            Err(refusal) => return refusal,
        };
        let resumed = headers.get("last-event-id").and_then(|id| StreamId::parse(id.to_str().ok()?));
        {
            let mut inner = session.lock();
            inner.used = Instant::now();
            if inner.letterhead.is_none() {
                inner.keep(&self.letterhead(headers));
            }
        }
        let config = self.config();
        let earlier =
            resumed.and_then(|(stream, number)| Some((session.find_stream(stream, &config.stream)?, number)));
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
                // Once the client is told, it stays deleted, whatever happens to us.
                self.end(&session, Death::Deleted).wait().await;
                Response::new(Body::empty())
            }
            Err(refusal) => refusal,
        }
    }

    /// The session that a GET or a DELETE names.
    fn named(&self, caller: &Caller, headers: &HeaderMap) -> Result<Arc<Session>, Response<Body>> {
        let id = headers.get(mcp::SESSION_HEADER).ok_or_else(|| open::without_id("null"))?;
        let session = id.to_str().ok().and_then(|id| self.find(&caller.subject, id));
        session.filter(|session| session.upstream.route == caller.route).ok_or_else(reply::not_found)
    }

    async fn find_or_adopt(
        self: &Arc<Self>,
        caller: &Caller,
        id: &HeaderValue,
        kind: Kind,
        letterhead: &Letterhead,
    ) -> Option<Arc<Session>> {
        let id = id.to_str().ok()?;
        if let Some(session) = self.find(&caller.subject, id) {
            // Whoever sends a subject elsewhere means its old sessions, too.
            return (session.upstream.route == caller.route).then_some(session);
        }
        if self
            .sessions
            .read()
            .expect("no panic while locked")
            .deleted
            .contains(&Key::new(&caller.subject, id))
        {
            return None;
        }
        if kind != Kind::Request || self.config().unknown_ids == UnknownIds::Refuse {
            return None;
        }
        Box::pin(open::adopt(self, caller, id, letterhead)).await
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

    /// Feeds a session's state machine and does what it says; whether there was something to do.
    pub fn apply(self: &Arc<Self>, session: &Arc<Session>, event: Event, flavour: Flavour) -> bool {
        let action = session.on(event);
        match action {
            Some(Action::Heal) => {
                let generation = session.lock().memory.generation;
                heal::start(self, session, generation, flavour);
            }
            // Those who wait look for themselves: `on` has rung.
            Some(Action::ReleaseParked | Action::FailParked | Action::TearDown { .. }) | None => {}
        }
        action.is_some()
    }
}
