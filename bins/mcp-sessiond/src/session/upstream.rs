//! What is remembered of one upstream, shared by all sessions that go to it: whether it is silent, and which calls to replay.
//!
//! Silence alone is never a hang, long tools are normal: session-free probes on new connections decide (DESIGN, verdicts).

use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};

use http::{HeaderValue, Method, Request, header};
use mcp_daemon::addr::Route;
use tokio::sync::Notify;
use tokio::time::Instant;

use super::Live;
use super::engine::Engine;
use super::memory::Replay;
use crate::mcp;

/// One upstream: the one there is, or one per route.
#[derive(Debug)]
pub struct Upstream {
    /// Its route; none where the upstream has no `{route}`.
    pub route: Option<Route>,
    /// Rung when it is found hung: whoever waits for an answer stops waiting.
    pub hung: Arc<Notify>,
    in_flight: AtomicUsize,
    watched: AtomicBool,
    heard: Mutex<Instant>,
    replay: Mutex<Replay>,
    /// When a request without a session last came, and a bell for the next one.
    used: Mutex<Instant>,
    wanted: Notify,
    /// Held while the calls are replayed; a session that was made with it: while the server knows that one, it has them.
    pub replayed: tokio::sync::Mutex<Option<Live>>,
}

/// A request in flight; dropping it says that it is over.
#[derive(Debug)]
pub struct InFlight(Arc<Upstream>);

impl Drop for InFlight {
    fn drop(&mut self) {
        self.0.in_flight.fetch_sub(1, Ordering::Relaxed);
    }
}

impl InFlight {
    /// The upstream said something.
    pub fn heard(&self) {
        self.0.heard();
    }

    /// The upstream.
    pub fn upstream(&self) -> &Arc<Upstream> {
        &self.0
    }
}

impl Upstream {
    /// An upstream of which only the calls to replay are known.
    pub fn new(route: Option<Route>, replay: Replay) -> Arc<Self> {
        Arc::new(Self {
            route,
            hung: Arc::default(),
            in_flight: AtomicUsize::new(0),
            watched: AtomicBool::new(false),
            heard: Mutex::new(Instant::now()),
            replay: Mutex::new(replay),
            used: Mutex::new(Instant::now()),
            wanted: Notify::new(),
            replayed: tokio::sync::Mutex::new(None),
        })
    }

    /// The route's name, `""` for none.
    pub fn name(&self) -> &str {
        self.route.as_ref().map_or("", Route::as_str)
    }

    /// A request without a session came.
    pub fn used(&self) {
        *self.used.lock().expect("no panic while locked") = Instant::now();
        self.wanted.notify_waiters();
    }

    /// When the last one came.
    pub fn last_used(&self) -> Instant {
        *self.used.lock().expect("no panic while locked")
    }

    /// Resolves when the next one comes.
    pub async fn in_use(&self) {
        self.wanted.notified().await;
    }

    /// Requests in flight.
    pub fn in_flight(&self) -> usize {
        self.in_flight.load(Ordering::Relaxed)
    }

    /// Counts a request as in flight, and sees to it that somebody watches for a hang meanwhile.
    pub fn enter(self: &Arc<Self>, engine: &Arc<Engine>) -> InFlight {
        if self.in_flight.fetch_add(1, Ordering::Relaxed) == 0 {
            self.heard();
            if engine.back.can_be_probed() && !self.watched.swap(true, Ordering::Relaxed) {
                let (engine, upstream) = (engine.clone(), self.clone());
                engine.life.clone().spawn(async move { upstream.watch(&engine).await });
            }
        }
        InFlight(self.clone())
    }

    fn heard(&self) {
        *self.heard.lock().expect("no panic while locked") = Instant::now();
    }

    fn silent_since(&self) -> Instant {
        *self.heard.lock().expect("no panic while locked")
    }

    /// Runs while requests are in flight.
    async fn watch(&self, engine: &Arc<Engine>) {
        let bounds = engine.config().hang.clone();
        let mut failures = 0;
        loop {
            let due = if failures == 0 {
                self.silent_since() + bounds.silence.duration()
            } else {
                Instant::now() + bounds.interval.duration()
            };
            // Never in a tight loop, even when a probe was just answered.
            let due = due.max(Instant::now() + bounds.interval.duration());
            tokio::select! {
                () = tokio::time::sleep_until(due) => {}
                () = engine.life.draining() => break,
            }
            if self.in_flight() == 0 {
                break;
            }
            let silent_since = self.silent_since();
            if silent_since.elapsed() < bounds.silence.duration() {
                failures = 0;
                continue;
            }
            if self.probe(engine).await {
                failures = 0;
                self.heard();
                continue;
            }
            failures = if self.silent_since() > silent_since { 0 } else { failures + 1 };
            if failures >= bounds.failures.get() {
                let silent_ms = silent_since.elapsed().as_millis() as u64;
                log::warn!(upstream = self.name(), silent_ms, probes = failures; "upstream hangs");
                self.hung.notify_waiters();
                failures = 0;
                self.heard();
            }
        }
        self.watched.store(false, Ordering::Relaxed);
        // A request may have come in between the last look and the flag.
        if self.in_flight() > 0 && !engine.life.is_draining() {
            self.watched.store(true, Ordering::Relaxed);
            Box::pin(self.watch(engine)).await;
        }
    }

    /// Whether the server answers a request of a session that does not exist; that leaves none behind.
    async fn probe(&self, engine: &Engine) -> bool {
        let timeout = engine.config().hang.timeout.duration();
        let body =
            format!(r#"{{"jsonrpc":"2.0","id":"{}","method":"ping"}}"#, mcp_daemon::secret::random_id());
        let mut request = Request::new(body.into());
        *request.method_mut() = Method::POST;
        let headers = request.headers_mut();
        headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
        headers.insert(header::ACCEPT, HeaderValue::from_static("application/json, text/event-stream"));
        headers.insert(mcp::SESSION_HEADER, HeaderValue::from_static("0000000000000000probe0000000000"));
        engine.add_own_headers(headers);
        let answer = engine.back.send_on_new_connection(self.route.as_ref(), request);
        matches!(tokio::time::timeout(timeout, answer).await, Ok(Ok(_)))
    }

    /// The calls to replay.
    pub fn replay(&self) -> Replay {
        self.replay.lock().expect("no panic while locked").clone()
    }

    /// A replayed tool was called with success: the newest call is the one to replay. `None`: it was known already.
    pub fn learn(
        &self,
        tool: &str,
        params: &serde_json::value::RawValue,
        engine: &Engine,
    ) -> Option<super::store::Saved> {
        let mut replay = self.replay.lock().expect("no panic while locked");
        if replay.get(tool).is_some_and(|known| known.get() == params.get()) {
            return None;
        }
        replay.insert(tool.into(), params.to_owned());
        Some(engine.store.save_replay(self.name(), &replay))
    }
}
