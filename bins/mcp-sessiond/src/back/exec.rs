//! A server that speaks stdio, as a small Streamable HTTP server inside this process: one child per session.
//!
//! The session engine sees an upstream like any other: a child that dies takes its session along, the next request gets
//! 404, and the engine heals with a new `initialize`. Processes are in `pool` and `child`, one request in `call`, who
//! waits for what in `desk`, requests without a session in `shared`.

mod answer;
mod call;
mod child;
mod desk;
mod failures;
mod outlet;
mod pool;
mod shared;

use std::ffi::OsString;
use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::{HeaderMap, Method, Request, Response, StatusCode, header};
use mcp_daemon::addr::Route;
use mcp_daemon::body::Body;
use mcp_daemon::client::SendError;
use mcp_daemon::life::Life;
use tokio::time::timeout;

use crate::mcp::{self, Envelope, Glance, INVALID_REQUEST, Kind, SESSION_HEADER, VERSION_HEADER};
use crate::names::{self, Names};
use call::{Outcome, broken, not_sent};
use child::Child;
use pool::{Pool, Unstarted};

/// How long a server may take to answer a request that was cancelled; many never do, and nobody must wait for it.
const CANCEL_GRACE: Duration = Duration::from_secs(5);

/// How to run the server, and its bounds.
#[derive(Clone, Debug)]
pub struct ExecOptions {
    /// Program and arguments, no shell; `{route}` in an argument is replaced by the route.
    pub command: Vec<OsString>,
    /// A process without traffic and without a waiting request for so long ends (default 30 min).
    pub idle_timeout: Duration,
    /// Processes at once (default 32); the longest idle one makes room.
    pub max_processes: usize,
    /// Failures in a row after which starting pauses, 1 s at first and 60 s at most (default 10).
    pub failure_threshold: u32,
    /// How long the first answer of a new process may take, and the wait for room (default 60 s).
    pub start_timeout: Duration,
    /// Longest wait before SIGTERM and again before SIGKILL (default 5 s).
    pub stop_grace: Duration,
    /// Longest message of the server in bytes (default 64 MiB).
    pub max_message: usize,
    /// Who may end, at its next start, what a sudden death of ours leaves behind (default nobody).
    pub owner: Option<String>,
}

impl ExecOptions {
    /// The defaults for `command`.
    pub fn new(command: Vec<OsString>) -> Self {
        ExecOptions {
            command,
            idle_timeout: Duration::from_secs(30 * 60),
            max_processes: 32,
            failure_threshold: 10,
            start_timeout: Duration::from_secs(60),
            stop_grace: Duration::from_secs(5),
            max_message: 64 << 20,
            owner: None,
        }
    }
}

/// Serves requests by child processes; a clone is one reference count.
#[derive(Clone)]
pub struct ExecBack(Arc<Pool>);

impl ExecBack {
    /// A back without processes; its tasks belong to `life` and end at drain once nothing is in flight.
    pub fn new(options: ExecOptions, life: Life) -> Self {
        ExecBack(Pool::new(options, life))
    }

    /// Answers as a Streamable HTTP server would.
    pub async fn send(
        &self,
        route: Option<&Route>,
        request: Request<Bytes>,
    ) -> Result<Response<Body>, SendError> {
        let (head, body) = request.into_parts();
        let session = head.headers.get(SESSION_HEADER).map(|id| id.to_str().unwrap_or_default());
        if head.method == Method::POST {
            return self.post(route, session, &head.headers, body).await;
        }
        let child = match session {
            None if head.method == Method::GET => return Ok(answer::empty(StatusCode::METHOD_NOT_ALLOWED)),
            None => return Ok(session_missing("null")),
            Some(id) => match self.0.session(id, route) {
                Some(child) => child,
                None => return Ok(answer::session_not_found()),
            },
        };
        Ok(match head.method {
            Method::GET => call::listen(&child, &self.0.life),
            Method::DELETE => {
                self.0.end_session(&child);
                answer::empty(StatusCode::OK)
            }
            _ => answer::empty(StatusCode::METHOD_NOT_ALLOWED),
        })
    }

    /// For `GET /status`: the processes with pid, age, session (hashed) and requests in flight.
    pub fn status(&self) -> serde_json::Value {
        self.0.status()
    }

    /// Ends all processes, within 1 s each before SIGTERM and SIGKILL, and returns when their trees are empty; starts no
    /// more.
    pub async fn shut_down(&self) {
        self.0.shut_down().await;
    }

    async fn post(
        &self,
        route: Option<&Route>,
        session: Option<&str>,
        headers: &HeaderMap,
        body: Bytes,
    ) -> Result<Response<Body>, SendError> {
        let envelope = match Envelope::parse(&body) {
            Ok(envelope) => envelope,
            Err(error) => {
                let text = error.to_string();
                return Ok(answer::error(StatusCode::BAD_REQUEST, "null", error.code(), &text));
            }
        };
        let id = envelope.id.map_or("null", |id| id.get());
        let version = headers.get(VERSION_HEADER).and_then(|version| version.to_str().ok());
        let takes_messages = takes_events(headers);
        match session {
            None if mcp::is_modern(version, Some(&envelope)) => {
                shared::post(&self.0, route, &envelope, &body, takes_messages).await
            }
            None if envelope.id.is_some() && envelope.method() == "initialize" => {
                self.initialize(route, &envelope, &body).await
            }
            None => Ok(session_missing(id)),
            Some(session) => match self.0.session(session, route) {
                Some(child) => self.post_to(&child, &envelope, &body, takes_messages).await,
                None => Ok(answer::session_not_found()),
            },
        }
    }

    /// A new session: a process of its own, known by an id once it has agreed to serve.
    async fn initialize(
        &self,
        route: Option<&Route>,
        envelope: &Envelope<'_>,
        body: &Bytes,
    ) -> Result<Response<Body>, SendError> {
        let id = envelope.id.map_or("null", |id| id.get());
        let child = match self.0.start(route, false).await {
            Ok(child) => child,
            Err(unstarted) => return refuse(id, unstarted),
        };
        // Until then nobody else knows of it: it must not outlive a client that goes away.
        let mut newborn = Newborn(Some(child));
        let Some(child) = newborn.0.clone() else { return Ok(session_missing(id)) };
        let limit = self.0.options.start_timeout;
        let outcome = match timeout(limit, call::call(&child, envelope, body, false)).await {
            Ok(outcome) => outcome?,
            Err(_) => {
                self.0.timed_out(&child);
                return Err(broken(format!("the server did not answer `initialize` within {limit:?}")));
            }
        };
        Ok(match outcome {
            Outcome::Answer(body) if mcp::glance(&body) == Some(Glance::Result) => {
                newborn.0 = None;
                self.0.enter_session(&child);
                answer::initialized(&child.id, body)
            }
            // Refused: no session, and the process ends with `newborn`.
            Outcome::Answer(body) => answer::response(body, false),
            Outcome::Events(response) | Outcome::Duplicate(response) => response,
        })
    }

    async fn post_to(
        &self,
        child: &Arc<Child>,
        envelope: &Envelope<'_>,
        body: &Bytes,
        takes_messages: bool,
    ) -> Result<Response<Body>, SendError> {
        if envelope.kind() != Some(Kind::Request) {
            child.desk().used();
            if !child.write(body, Arc::default()).await {
                return Err(not_sent("the server process has ended"));
            }
            if envelope.method() == "notifications/cancelled" {
                self.expect_no_answer(child, envelope);
            }
            return Ok(answer::empty(StatusCode::ACCEPTED));
        }
        let outcome = call::call(child, envelope, body, takes_messages).await?;
        Ok(self.0.finish(child, outcome))
    }

    /// Ends the wait for a cancelled request: a server need not answer it.
    fn expect_no_answer(&self, child: &Arc<Child>, envelope: &Envelope<'_>) {
        let Some(cancelled) = Names::read(envelope.params).request else { return };
        let key = names::key(cancelled.get());
        let (child, life) = (Arc::clone(child), self.0.life.clone());
        self.0.life.spawn(async move {
            let _ = timeout(CANCEL_GRACE, life.draining()).await;
            child.desk().give_up(&key);
        });
    }
}

/// The program alone: arguments may hold what a log must not.
impl fmt::Display for ExecBack {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        let program = self.0.options.command.first().map(|program| program.display());
        write!(out, "exec:{}", program.unwrap_or_else(|| std::ffi::OsStr::new("").display()))
    }
}

/// A process that nobody knows yet; dropped, it is stopped.
struct Newborn(Option<Arc<Child>>);

impl Drop for Newborn {
    fn drop(&mut self) {
        if let Some(child) = &self.0 {
            child.stop();
        }
    }
}

/// Why there is no process, as the engine wants to hear it: nothing of the request reached a server.
fn refuse(id: &str, unstarted: Unstarted) -> Result<Response<Body>, SendError> {
    let again = Duration::from_secs(1);
    Ok(match unstarted {
        Unstarted::Closed => answer::not_forwarded(id, "mcp-sessiond is shutting down", again),
        Unstarted::Failed(error) => return Err(error),
        Unstarted::Full => {
            answer::not_forwarded(id, "all server processes are busy, none can be started", again)
        }
        Unstarted::Paused(left) => {
            answer::not_forwarded(id, "the server failed too often in a row; starting it again pauses", left)
        }
    })
}

fn session_missing(id: &str) -> Response<Body> {
    answer::error(StatusCode::BAD_REQUEST, id, INVALID_REQUEST, "Bad Request: Missing session ID")
}

/// Whether an answer may be an event stream; without `Accept` anything is acceptable (RFC 9110, section 12.5.1).
fn takes_events(headers: &HeaderMap) -> bool {
    let mut accepts = headers.get_all(header::ACCEPT).iter().peekable();
    accepts.peek().is_none()
        || accepts.any(|accept| {
            accept.to_str().is_ok_and(|accept| accept.contains("text/event-stream") || accept.contains("*/*"))
        })
}

#[cfg(test)]
mod tests;
