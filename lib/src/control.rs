//! The control socket: the same few questions for every daemon, as HTTP and JSON, so that `curl --unix-socket` works.

use std::future::Future;
use std::io;
use std::path::{Path, PathBuf};
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::{Method, Request, Response, StatusCode, Uri, header};
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use hyper_util::rt::TokioIo;
use serde_json::{Value, json};
use tokio::net::UnixStream;

use crate::addr::Listen;
use crate::body::Body;
use crate::exit::{Exit, Failure, chain};
use crate::files;
use crate::life::{self, Life};
use crate::metrics::CONTENT_TYPE;
use crate::serve::{BindError, BindOptions, Listener, ServeLimits, serve};

/// Connections to the control socket; it serves people and scripts.
const CONNECTIONS: usize = 64;
/// How long [`ask`] waits for an answer; a reload may have to read files, nothing may take longer.
const PATIENCE: Duration = Duration::from_secs(30);
/// Largest answer in bytes that [`ask`] takes: some 100,000 sessions.
const MAX_ANSWER: usize = 64 * 1024 * 1024;

/// What a daemon answers on its control socket.
pub trait Controlled: Send + Sync + 'static {
    /// `GET /status`.
    fn status(&self) -> Value;

    /// `GET /ready`: or the reasons why not.
    fn ready(&self) -> Result<(), Vec<String>>;

    /// `GET /metrics`: OpenMetrics text.
    fn metrics(&self) -> String;

    /// `POST /reload`: what has changed, or why nothing has.
    fn reload(&self) -> Pin<Box<dyn Future<Output = Result<String, String>> + Send + '_>>;

    /// What this daemon answers besides; `None` for what it does not know. The answer is awaited as long as the caller
    /// stays, because some take their time, such as an upload.
    fn act(&self, _method: &Method, _uri: &Uri) -> Option<Acting<'_>> {
        None
    }
}

/// An answer that may take its time.
pub type Acting<'a> = Pin<Box<dyn Future<Output = (StatusCode, Value)> + Send + 'a>>;

/// An answer that takes none.
pub fn at_once<'a>(status: StatusCode, value: Value) -> Acting<'a> {
    Box::pin(std::future::ready((status, value)))
}

/// Serves all of it on a Unix socket for the owner alone (0600), until everything else has ended.
pub fn spawn(path: &Path, what: Arc<dyn Controlled>, life: Life) -> Result<(), BindError> {
    let listen = Listen::Unix(path.to_owned());
    serve_on(&listen, what, life, true)
}

/// The control socket of this user's `daemon`.
fn path(daemon: &str) -> io::Result<PathBuf> {
    Ok(files::runtime_dir(daemon)?.join("control.sock"))
}

/// The control socket that a flag names, else that of this user's `daemon`.
pub fn socket(flag: Option<PathBuf>, daemon: &str) -> Result<PathBuf, Failure> {
    flag.map_or_else(|| path(daemon), Ok).map_err(|error| Failure::new(Exit::Config, &error))
}

/// The same as [`spawn`] at the usual place, or, where another daemon of this user has that, at `control-<name>.sock` beside
/// it; where it is now. Characters that a file name should not have become `_`.
pub fn spawn_named(
    daemon: &str,
    name: &str,
    what: Arc<dyn Controlled>,
    life: Life,
) -> Result<PathBuf, SpawnError> {
    let usual = path(daemon)?;
    match spawn(&usual, what.clone(), life.clone()) {
        Err(BindError::InUse(_)) => {
            let named = usual.with_file_name(format!("control-{}.sock", files::name_of(name)));
            spawn(&named, what, life)?;
            Ok(named)
        }
        bound => Ok(bound.map(|()| usual)?),
    }
}

/// Why there is no control socket.
#[derive(Debug, thiserror::Error)]
pub enum SpawnError {
    /// It cannot be bound.
    #[error(transparent)]
    Bind(#[from] BindError),
    /// There is no directory for it.
    #[error(transparent)]
    Directory(#[from] io::Error),
}

/// Reloads at every SIGHUP until the drain begins.
pub async fn reload_on_signal(what: Arc<dyn Controlled>, life: Life) {
    loop {
        tokio::select! {
            () = life.reload_requested() => {
                let _told_in_the_log = what.reload().await;
            }
            () = life.draining() => return,
        }
    }
}

/// Serves `GET /ready` and `GET /metrics` alone, for Kubernetes and Prometheus, as long as [`spawn`] does.
pub fn spawn_observe(listen: &Listen, what: Arc<dyn Controlled>, life: Life) -> Result<(), BindError> {
    serve_on(listen, what, life, false)
}

fn serve_on(listen: &Listen, what: Arc<dyn Controlled>, life: Life, all: bool) -> Result<(), BindError> {
    let options = BindOptions { mode: if all { 0o600 } else { 0o660 }, ..BindOptions::default() };
    let limits = ServeLimits { connections: CONNECTIONS, ..ServeLimits::default() };
    for listener in Listener::bind(listen, options)? {
        let (what, drained) = (Arc::clone(&what), life.clone());
        let service = move |request: Request<Incoming>, _| {
            let (what, life) = (Arc::clone(&what), drained.clone());
            async move { answer(&*what, &life, request.method(), request.uri(), all).await }
        };
        // Whoever asks during the drain must get an answer, so this ends last.
        let last = life.last();
        last.spawn(serve(listener, limits, last.clone(), service));
    }
    Ok(())
}

async fn answer(what: &dyn Controlled, life: &Life, method: &Method, uri: &Uri, all: bool) -> Response<Body> {
    match (method.as_str(), uri.path()) {
        ("GET" | "HEAD", "/ready") => ready(what, life),
        ("GET" | "HEAD", "/metrics") => {
            let mut response = Response::new(Body::from(what.metrics()));
            response
                .headers_mut()
                .insert(header::CONTENT_TYPE, header::HeaderValue::from_static(CONTENT_TYPE));
            response
        }
        ("GET" | "HEAD", "/status") if all => json_response(StatusCode::OK, &what.status()),
        ("POST", "/reload") if all => match what.reload().await {
            Ok(changed) => json_response(StatusCode::OK, &json!({ "reloaded": changed })),
            Err(error) => json_response(StatusCode::UNPROCESSABLE_ENTITY, &json!({ "error": error })),
        },
        ("POST", "/drain") if all => {
            log::info!("asked to drain");
            life.drain();
            json_response(StatusCode::ACCEPTED, &json!({ "draining": true }))
        }
        _ => {
            // To be asked is to act.
            let acting = if all { what.act(method, uri) } else { None };
            let (status, value) = match acting {
                Some(acting) => acting.await,
                None => (StatusCode::NOT_FOUND, json!({ "error": paths(all) })),
            };
            json_response(status, &value)
        }
    }
}

fn ready(what: &dyn Controlled, life: &Life) -> Response<Body> {
    let mut reasons = what.ready().err().unwrap_or_default();
    if !life.is_ready() {
        reasons.push("starting".to_owned());
    }
    if life.is_draining() {
        reasons.push("draining".to_owned());
    }
    if reasons.is_empty() {
        json_response(StatusCode::OK, &json!({ "ready": true }))
    } else {
        json_response(StatusCode::SERVICE_UNAVAILABLE, &json!({ "ready": false, "reasons": reasons }))
    }
}

fn paths(all: bool) -> &'static str {
    if all {
        "no such path or method; try GET /status, GET /ready, GET /metrics, POST /reload or POST /drain"
    } else {
        "no such path or method; try GET /ready or GET /metrics"
    }
}

fn json_response(status: StatusCode, value: &Value) -> Response<Body> {
    let mut response = Response::new(Body::from(format!("{value}\n")));
    *response.status_mut() = status;
    response.headers_mut().insert(header::CONTENT_TYPE, header::HeaderValue::from_static("application/json"));
    response
}

/// Why a daemon did not answer.
#[derive(Debug, thiserror::Error)]
pub enum AskError {
    /// Something listens, but its answer did not come whole.
    #[error("no answer from {socket}: {cause}")]
    NoAnswer {
        /// The control socket.
        socket: String,
        /// Why.
        cause: String,
    },
    /// Nothing listens.
    #[error("no {daemon} is running ({socket}: {cause})")]
    NotRunning {
        /// The program that asks, which is the daemon itself under another command.
        daemon: String,
        /// The control socket.
        socket: String,
        /// Why.
        cause: String,
    },
}

/// Asks a running daemon for JSON, in a runtime of its own; an error answer is a failure that says why.
pub fn ask_json(socket: &Path, method: &str, path: &str) -> Result<Value, Failure> {
    let answer =
        life::runtime().map_err(|error| Failure::new(Exit::Bug, &error))?.block_on(ask(socket, method, path));
    let (status, body) = answer.map_err(|error| Failure::unavailable(&error))?;
    let value: Value = serde_json::from_slice(&body).unwrap_or_default();
    if status.is_success() {
        return Ok(value);
    }
    let why = value["error"].as_str().map_or_else(|| status.to_string(), str::to_owned);
    Err(Failure { line: why, exit: Exit::Unavailable })
}

/// Asks a running daemon; [`ask_json`] is made of it. No answer within 30 s is an error.
pub async fn ask(socket: &Path, method: &str, path: &str) -> Result<(StatusCode, Bytes), AskError> {
    match tokio::time::timeout(PATIENCE, ask_patiently(socket, method, path)).await {
        Ok(answer) => answer,
        Err(_) => Err(AskError::NoAnswer {
            socket: socket.display().to_string(),
            cause: format!("nothing within {} s", PATIENCE.as_secs()),
        }),
    }
}

/// The same for what [`Controlled::act`] answers: waits as long as the daemon lives.
pub async fn ask_patiently(socket: &Path, method: &str, path: &str) -> Result<(StatusCode, Bytes), AskError> {
    let name = socket.display().to_string();
    let stream = UnixStream::connect(socket).await.map_err(|error| AskError::NotRunning {
        daemon: own_name(),
        socket: name.clone(),
        cause: plain(&error),
    })?;
    exchange(stream, method, path).await.map_err(|cause| AskError::NoAnswer { socket: name, cause })
}

async fn exchange(stream: UnixStream, method: &str, path: &str) -> Result<(StatusCode, Bytes), String> {
    let told = |error: hyper::Error| chain(&error);
    let request = Request::builder()
        .method(method)
        .uri(path)
        .header(header::HOST, "localhost")
        .body(Full::<Bytes>::default())
        .map_err(|error| error.to_string())?;
    let (mut sender, connection) =
        hyper::client::conn::http1::handshake(TokioIo::new(stream)).await.map_err(told)?;
    let mut connection = std::pin::pin!(connection);
    let mut answer = std::pin::pin!(async move {
        let response = sender.send_request(request).await.map_err(told)?;
        let status = response.status();
        let body = http_body_util::Limited::new(response.into_body(), MAX_ANSWER);
        let body = body.collect().await.map_err(|error| chain(&*error))?;
        Ok((status, body.to_bytes()))
    });
    // The connection is driven here rather than in a task of its own; the answer ends first.
    tokio::select! {
        biased;
        answer = &mut answer => answer,
        end = &mut connection => match end {
            Ok(()) => answer.await,
            Err(error) => Err(chain(&error)),
        }
    }
}

fn own_name() -> String {
    let own = std::env::current_exe().ok();
    own.and_then(|path| Some(path.file_name()?.to_str()?.to_owned())).unwrap_or_else(|| "daemon".to_owned())
}

/// The usual two causes in plain words.
fn plain(error: &io::Error) -> String {
    match error.kind() {
        io::ErrorKind::ConnectionRefused => "connection refused".to_owned(),
        io::ErrorKind::NotFound => "no such socket".to_owned(),
        _ => error.to_string(),
    }
}
