//! The stdio front: a client's messages, one a line, become requests to the engine, and what comes back becomes lines.
//!
//! A small Streamable HTTP client, so that the engine serves it like any other. How an answer becomes lines is in
//! `reply`, which headers the stateless era wants in `headers`, what has not ended in `in_flight`.

mod headers;
mod in_flight;
mod reply;

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use http::{HeaderValue, Method, Request, Response, StatusCode, header};
use mcp_daemon::body::Body;
use mcp_daemon::life::Life;
use serde::Deserialize;
use tokio::io::{AsyncRead, AsyncWrite, AsyncWriteExt};
use tokio::sync::mpsc;
use tokio::task::AbortHandle;
use tokio::time::{Instant, sleep, sleep_until, timeout};

use crate::lines::{Line, Lines, one_line};
use crate::mcp::{self, Envelope, Kind, SESSION_HEADER, VERSION_HEADER};
use in_flight::InFlight;
use reply::Ended;

/// Longest message of the client in bytes.
const MAX_MESSAGE: usize = 64 << 20;
/// Lines that wait for a client that does not read; more make the answers wait.
const MAX_WAITING_LINES: usize = 64;
/// Messages that wait while `initialize` or a notification is under way; behind more of them the client waits.
const MAX_HELD: usize = 1024;
/// How long the engine may take to end the session when we end.
const GOODBYE: Duration = Duration::from_secs(2);
/// First pause before the stream of server messages is opened again.
const FIRST_REOPEN: Duration = Duration::from_millis(250);
/// Longest such pause.
const LAST_REOPEN: Duration = Duration::from_secs(10);

/// Serves one client until it closes its end, does not read any more, or `life` drains; then requests under way have
/// `grace` to be answered.
pub async fn run<R, W, F, Fut>(reader: R, writer: W, life: Life, grace: Duration, call: F)
where
    R: AsyncRead + Unpin,
    W: AsyncWrite + Unpin,
    F: Fn(Request<Bytes>) -> Fut + Clone + Send + Sync + 'static,
    Fut: Future<Output = Response<Body>> + Send + 'static,
{
    let (lines, queue) = mpsc::channel(MAX_WAITING_LINES);
    let front = Front { call, lines, session: Arc::default() };
    let mut serving = std::pin::pin!(serve(front.clone(), Lines::new(reader, MAX_MESSAGE), life, grace));
    let mut writing = std::pin::pin!(write_lines(writer, queue));
    let goodbye = front.goodbye();
    drop(front);
    tokio::select! {
        () = &mut writing => log::info!("the client does not read any more"),
        () = &mut serving => writing.await,
    }
    goodbye.await;
}

/// What every request of the client needs; a clone is cheap.
#[derive(Clone)]
struct Front<F> {
    call: F,
    lines: mpsc::Sender<Bytes>,
    session: Arc<Mutex<Session>>,
}

/// What the answer to `initialize` said.
#[derive(Default)]
struct Session {
    id: Option<HeaderValue>,
    version: Option<HeaderValue>,
}

async fn serve<R, F, Fut>(front: Front<F>, mut input: Lines<R>, life: Life, grace: Duration)
where
    R: AsyncRead + Unpin,
    F: Fn(Request<Bytes>) -> Fut + Clone + Send + Sync + 'static,
    Fut: Future<Output = Response<Body>> + Send + 'static,
{
    let mut in_flight = InFlight::default();
    let mut held = Held::default();
    // From the end of the input on: when we end.
    let mut deadline = None;
    let deadline = loop {
        while !in_flight.turn.is_on()
            && let Some(line) = held.pop()
        {
            front.take(line, &mut in_flight).await;
        }
        if let Some(deadline) = deadline.filter(|_| !in_flight.turn.is_on()) {
            break deadline;
        }
        let line = tokio::select! {
            biased;
            () = life.draining() => break Instant::now() + grace,
            () = sleep_until(deadline.unwrap_or_else(Instant::now)), if deadline.is_some() => {
                break Instant::now();
            }
            () = in_flight.turn.over(), if in_flight.turn.is_on() => continue,
            // The set forgets what has ended.
            Some(_) = in_flight.tasks.join_next() => continue,
            // Read on while an earlier message is under way: how else would the end of the input be seen?
            line = input.next(), if deadline.is_none() && held.has_room() => line,
        };
        match line {
            Ok(Some(line)) => held.push(line),
            Ok(None) => deadline = Some(Instant::now() + grace),
            Err(error) => {
                log::warn!(error:%; "cannot read from the client");
                deadline = Some(Instant::now() + grace);
            }
        }
    };
    in_flight.finish(deadline).await;
}

/// Lines that wait until an earlier one has had its effect.
#[derive(Default)]
struct Held {
    lines: VecDeque<Line>,
    bytes: usize,
}

impl Held {
    fn push(&mut self, line: Line) {
        self.bytes += line.text.len();
        self.lines.push_back(line);
    }

    fn pop(&mut self) -> Option<Line> {
        let line = self.lines.pop_front()?;
        self.bytes -= line.text.len();
        Some(line)
    }

    fn has_room(&self) -> bool {
        self.lines.len() < MAX_HELD && self.bytes < MAX_MESSAGE
    }
}

impl<F, Fut> Front<F>
where
    F: Fn(Request<Bytes>) -> Fut + Clone + Send + Sync + 'static,
    Fut: Future<Output = Response<Body>> + Send + 'static,
{
    /// Takes one line of the client: requests run beside each other, everything else keeps its order.
    async fn take(&self, line: Line, in_flight: &mut InFlight) {
        if line.cut {
            return self
                .refuse(mcp::INVALID_REQUEST, &format!("a message of more than {MAX_MESSAGE} bytes"))
                .await;
        }
        let line = line.text;
        let envelope = match Envelope::parse(&line) {
            Ok(envelope) => envelope,
            Err(error) => return self.refuse(error.code(), &error.to_string()).await,
        };
        let Some(request) = self.post(&envelope, &line) else {
            return self.refuse(mcp::INVALID_REQUEST, "it has a member that no header can carry").await;
        };
        let is_modern = mcp::is_modern(None, Some(&envelope));
        let id = envelope.id.map(|id| id.get().to_owned());
        match (envelope.kind(), envelope.method(), id) {
            (Some(Kind::Request), "initialize", Some(id)) => {
                // Everything after it needs the id of the session.
                in_flight.listener.take().inspect(AbortHandle::abort);
                let front = self.clone();
                in_flight.in_turn(async move { front.initialize(request, &id).await });
            }
            (Some(Kind::Request), method, Some(id)) => {
                let (front, key, is_endless) = (self.clone(), id.clone(), method == "subscriptions/listen");
                let task = in_flight.tasks.spawn(async move { front.ask(request, &id).await });
                if is_modern {
                    in_flight.enter_modern(key, task, is_endless);
                }
                // Once around, so that it is under way before a later message, which may cancel it.
                tokio::task::yield_now().await;
            }
            (_, "notifications/cancelled", _) if in_flight.cancel(&envelope) => {}
            (_, "notifications/initialized", _) => {
                let (front, turn) = (self.clone(), in_flight.turn.begin());
                in_flight.listener = Some(in_flight.tasks.spawn(async move {
                    front.tell(request).await;
                    drop(turn);
                    front.listen().await;
                }));
            }
            _ => {
                let front = self.clone();
                in_flight.in_turn(async move { front.tell(request).await });
            }
        }
    }

    /// A request whose answer starts the session.
    async fn initialize(&self, request: Request<Bytes>, id: &str) {
        let response = (self.call)(request).await;
        let session = response.headers().get(SESSION_HEADER).cloned();
        let is_success = response.status().is_success();
        let answer = reply::pass_on(response, Some(id), &self.lines).await;
        if is_success {
            let version = answer.answer.as_deref().and_then(agreed_version);
            *self.session() = Session { id: session, version };
        }
    }

    /// A request: all of its answer becomes lines.
    async fn ask(&self, request: Request<Bytes>, id: &str) {
        let response = (self.call)(request).await;
        reply::pass_on(response, Some(id), &self.lines).await;
    }

    /// A notification, or an answer to the server: nothing comes back.
    async fn tell(&self, request: Request<Bytes>) {
        let response = (self.call)(request).await;
        let status = response.status();
        if !status.is_success() {
            log::warn!(status = status.as_u16(); "a message of the client was not taken");
        }
        reply::pass_on(response, None, &self.lines).await;
    }

    /// Keeps the stream of server messages open.
    async fn listen(&self) {
        let mut last_event: Option<HeaderValue> = None;
        let mut pause = FIRST_REOPEN;
        loop {
            let mut request = self.request(Method::GET, Bytes::new());
            request.headers_mut().insert(header::ACCEPT, HeaderValue::from_static("text/event-stream"));
            if let Some(id) = &last_event {
                request.headers_mut().insert("last-event-id", id.clone());
            }
            let response = (self.call)(request).await;
            match response.status() {
                StatusCode::OK => {}
                // The server has no such stream, or does not know us: asking again changes nothing.
                status if status.is_client_error() => return,
                _ => log::debug!("the stream of server messages was refused"),
            }
            let Ended { last_event: seen, lines, .. } = reply::pass_on(response, None, &self.lines).await;
            last_event = seen.or(last_event);
            pause = if lines > 0 { FIRST_REOPEN } else { (pause * 2).min(LAST_REOPEN) };
            sleep(pause).await;
        }
    }

    /// Ends the session; made before serving, used after it.
    fn goodbye(&self) -> impl Future<Output = ()> + use<F, Fut> {
        let (call, session) = (self.call.clone(), Arc::clone(&self.session));
        async move {
            let session = std::mem::take(&mut *lock(&session));
            if session.id.is_none() {
                return;
            }
            if timeout(GOODBYE, call(request(&session, Method::DELETE, Bytes::new()))).await.is_err() {
                log::warn!("the session could not be ended in time");
            }
        }
    }

    /// The POST for a message; `None` if its era wants a header that cannot be written.
    fn post(&self, envelope: &Envelope<'_>, line: &Bytes) -> Option<Request<Bytes>> {
        if mcp::is_modern(None, Some(envelope)) {
            let mut request = request(&Session::default(), Method::POST, line.clone());
            headers::modern(request.headers_mut(), envelope)?;
            return Some(request);
        }
        Some(self.request(Method::POST, line.clone()))
    }

    fn request(&self, method: Method, body: Bytes) -> Request<Bytes> {
        request(&self.session(), method, body)
    }

    /// Says why a line was not taken; nobody knows which request it was to be.
    async fn refuse(&self, code: i32, why: &str) {
        let _ = self.lines.send(one_line(mcp::error_body("null", code, why).as_bytes())).await;
    }

    fn session(&self) -> MutexGuard<'_, Session> {
        lock(&self.session)
    }
}

fn lock(session: &Mutex<Session>) -> MutexGuard<'_, Session> {
    session.lock().unwrap_or_else(PoisonError::into_inner)
}

fn request(session: &Session, method: Method, body: Bytes) -> Request<Bytes> {
    let mut request = Request::new(body);
    *request.method_mut() = method;
    *request.uri_mut() = http::Uri::from_static("/mcp");
    let headers = request.headers_mut();
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
    headers.insert(header::ACCEPT, HeaderValue::from_static("application/json, text/event-stream"));
    if let Some(id) = &session.id {
        headers.insert(SESSION_HEADER, id.clone());
    }
    if let Some(version) = &session.version {
        headers.insert(VERSION_HEADER, version.clone());
    }
    request
}

/// `result.protocolVersion` of the answer to `initialize`.
fn agreed_version(answer: &[u8]) -> Option<HeaderValue> {
    #[derive(Deserialize)]
    struct Answer {
        result: Agreed,
    }
    #[derive(Deserialize)]
    struct Agreed {
        #[serde(rename = "protocolVersion")]
        version: String,
    }
    let answer: Answer = serde_json::from_slice(answer).ok()?;
    HeaderValue::from_str(&answer.result.version).ok()
}

/// Writes lines until nobody has any more to say; ends early if the client does not read.
async fn write_lines(mut writer: impl AsyncWrite + Unpin, mut queue: mpsc::Receiver<Bytes>) {
    while let Some(line) = queue.recv().await {
        let mut written = writer.write_all(&line).await;
        if written.is_ok() && queue.is_empty() {
            written = writer.flush().await;
        }
        if written.is_err() {
            return;
        }
    }
}

#[cfg(test)]
mod tests;
