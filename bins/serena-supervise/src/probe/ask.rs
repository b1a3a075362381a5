//! One question to a server, on a connection of its own; and the same question until the answer is yes.

use std::error::Error;
use std::ffi::OsString;
use std::io;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::{HeaderValue, Method, Request, StatusCode, header};
use http_body_util::BodyExt;
use mcp_daemon::addr::{Endpoint, Upstream};
use mcp_daemon::body::Body;
use mcp_daemon::client::{Client, ClientOptions, SendError};
use mcp_daemon::exit::chain;
use nix::errno::Errno;
use tokio::net::TcpStream;
use tokio::time::{Instant, sleep, timeout};

use super::{Echo, ProbeError, exec, verdict};
use crate::config::Probe;

/// The session that every MCP probe claims to be in. No server gives out such an id, so none is found, none is made,
/// and whoever reads the server's log sees who asked. Always the same one: a server that would make a session for any
/// id makes one, not one for every probe.
pub const SESSION: &str = "serena-supervise-probe-0-session";
/// The question of an MCP probe. `ping` is in every revision up to 2025-11-25; a server of a later one refuses it in
/// words of MCP, which is an answer too.
const PING: &[u8] = br#"{"jsonrpc":"2.0","id":1,"method":"ping"}"#;
/// Bytes of an answer that are read: the longest refusal on record has 230.
const MAX_ANSWER: usize = 4096;
/// First pause between two questions of [`Prober::until_ready`].
const FIRST_PAUSE: Duration = Duration::from_millis(10);
/// Longest pause. A connection that is held is to cost at most 50 ms more than the server's own start, and the question
/// itself takes up to 10: with Serena 2.1.0 readiness was seen 14 to 41 ms after the fact when this was 40. A connect
/// that is refused costs 57 us of CPU, so 40 a second cost 0.2 % of a core.
const LAST_PAUSE: Duration = Duration::from_millis(25);
/// Longest pause between two runs of a command, which costs a process each.
const LAST_EXEC_PAUSE: Duration = Duration::from_millis(400);

/// Environment and directory in which the command of an `exec` probe runs: those of the server.
#[derive(Clone, Debug, Default)]
pub struct Surroundings {
    /// Variables besides those of the supervisor.
    pub env: Vec<(OsString, OsString)>,
    /// Its working directory.
    pub directory: Option<PathBuf>,
    /// Whoever finds what is left of it after our death.
    pub owner: Option<String>,
}

/// Asks one server how it is; made for each start, because the port changes.
pub struct Prober {
    question: Question,
    client: Client,
    echo: Option<Arc<Echo>>,
}

/// What is asked.
enum Question {
    Exec(Vec<String>, Surroundings),
    Http(Endpoint),
    Mcp(Endpoint),
    /// Nothing: a process that runs is ready, and one that tells by itself is not asked.
    Nothing,
    Tcp(SocketAddr),
}

impl Prober {
    /// The prober for readiness. Placeholders in `probe` are replaced already. A server that tells by itself
    /// (`fd`, `notify`) is not asked: for it every answer is yes.
    pub fn new(probe: &Probe, target: SocketAddr, surroundings: Surroundings) -> Result<Self, ProbeError> {
        let question = match probe {
            Probe::Exec(command) => Question::Exec(command.clone(), surroundings),
            Probe::Http(path) => Question::Http(endpoint(target, path)?),
            Probe::Mcp(path) => Question::Mcp(endpoint(target, path)?),
            Probe::Fd | Probe::None | Probe::Notify => Question::Nothing,
            Probe::Tcp => Question::Tcp(target),
        };
        Ok(Prober::asking(question))
    }

    /// The prober for liveness: the same question, but the port alone for servers that were not asked over it before;
    /// `None` if they have no port either (`target`), so that only the process itself can be looked at.
    pub fn for_liveness(probe: &Probe, target: Option<SocketAddr>) -> Result<Option<Self>, ProbeError> {
        let Some(target) = target else { return Ok(None) };
        let question = match probe {
            Probe::Http(path) => Question::Http(endpoint(target, path)?),
            Probe::Mcp(path) => Question::Mcp(endpoint(target, path)?),
            Probe::Exec(_) | Probe::Fd | Probe::None | Probe::Notify | Probe::Tcp => Question::Tcp(target),
        };
        Ok(Some(Prober::asking(question)))
    }

    fn asking(question: Question) -> Self {
        let echo = match &question {
            Question::Http(to) => Some(Arc::new(Echo::of(&Method::GET, &to.target().to_string()))),
            Question::Mcp(to) => Some(Arc::new(Echo::of(&Method::POST, &to.target().to_string()))),
            Question::Exec(..) | Question::Nothing | Question::Tcp(_) => None,
        };
        // One connection for each question: nothing is kept.
        let client = Client::new(ClientOptions { max_idle: 0, ..ClientOptions::default() });
        Prober { question, client, echo }
    }

    /// Knows what the questions leave in the server's log; `None` if that is nothing.
    pub fn echo(&self) -> Option<Arc<Echo>> {
        self.echo.clone()
    }

    /// Asks once, on a new connection; the answer has to be there within `limit`.
    pub async fn ask(&self, limit: Duration) -> Result<(), ProbeError> {
        if let Some(echo) = &self.echo {
            echo.expect(Instant::now() + limit);
        }
        let asked = async {
            match &self.question {
                Question::Exec(command, surroundings) => exec::run(command, surroundings).await,
                Question::Http(to) => self.get(to).await,
                Question::Mcp(to) => self.ping(to).await,
                Question::Nothing => Ok(()),
                Question::Tcp(target) => connect(*target).await,
            }
        };
        timeout(limit, asked).await.unwrap_or(Err(ProbeError::Silent(limit)))
    }

    /// Asks until the answer is yes, with `limit` for each; `heard` gets every other answer. The caller bounds it all.
    pub async fn until_ready(&self, limit: Duration, mut heard: impl FnMut(&ProbeError)) {
        let longest = if matches!(self.question, Question::Exec(..)) { LAST_EXEC_PAUSE } else { LAST_PAUSE };
        let mut pauses = pauses(longest);
        while let Err(error) = self.ask(limit).await {
            heard(&error);
            sleep(pauses.next().unwrap_or(longest)).await;
        }
    }

    async fn get(&self, to: &Endpoint) -> Result<(), ProbeError> {
        let request = request(Method::GET, Bytes::new());
        let answer = self.client.send_on_new_connection(to, request).await.map_err(gone)?;
        if answer.status().is_success() {
            Ok(())
        } else {
            Err(ProbeError::Wrong(answer.status().to_string()))
        }
    }

    async fn ping(&self, to: &Endpoint) -> Result<(), ProbeError> {
        let mut request = request(Method::POST, Bytes::from_static(PING));
        let headers = request.headers_mut();
        // Both, or Python's servers answer 406.
        headers.insert(header::ACCEPT, HeaderValue::from_static("application/json, text/event-stream"));
        headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
        headers.insert("mcp-session-id", HeaderValue::from_static(SESSION));
        let answer = self.client.send_on_new_connection(to, request).await.map_err(gone)?;
        let (head, body) = answer.into_parts();
        let kind =
            head.headers.get(header::CONTENT_TYPE).and_then(|kind| kind.to_str().ok()).unwrap_or_default();
        // The body of a good answer is not waited for: it may be a stream.
        let body = if needs_body(head.status) { beginning(body).await? } else { Vec::new() };
        verdict::of_mcp(head.status, kind, &body).map_err(ProbeError::Wrong)
    }
}

/// Growing from [`FIRST_PAUSE`] by a quarter each, without an end.
fn pauses(longest: Duration) -> impl Iterator<Item = Duration> {
    std::iter::successors(Some(FIRST_PAUSE), move |pause| Some((*pause * 5 / 4).min(longest)))
}

fn endpoint(target: SocketAddr, path: &str) -> Result<Endpoint, ProbeError> {
    let upstream: Result<Upstream, _> = format!("http://{target}{path}").parse();
    let endpoint = upstream.and_then(|upstream| upstream.endpoint(None));
    endpoint.map_err(|error| ProbeError::Wrong(format!("nothing can be asked at {path}: {error}")))
}

fn request(method: Method, body: Bytes) -> Request<Bytes> {
    let mut request = Request::new(body);
    *request.method_mut() = method;
    let headers = request.headers_mut();
    headers.insert(header::USER_AGENT, HeaderValue::from_static("serena-supervise"));
    // Tells the server, too, that it need not keep the connection.
    headers.insert(header::CONNECTION, HeaderValue::from_static("close"));
    request
}

fn needs_body(status: StatusCode) -> bool {
    !status.is_success() && !status.is_server_error()
}

/// The first bytes of an answer; the rest tells nothing more.
async fn beginning(mut body: Body) -> Result<Vec<u8>, ProbeError> {
    let mut bytes = Vec::new();
    while bytes.len() < MAX_ANSWER {
        match body.frame().await {
            Some(Ok(frame)) => bytes.extend_from_slice(frame.data_ref().map_or(&[], |data| data)),
            Some(Err(error)) => return Err(ProbeError::Gone(chain(&*error))),
            None => break,
        }
    }
    Ok(bytes)
}

async fn connect(target: SocketAddr) -> Result<(), ProbeError> {
    TcpStream::connect(target).await.map(drop).map_err(|error| {
        if is_ours(&error) {
            ProbeError::Ours(error.to_string())
        } else {
            ProbeError::Gone(error.to_string())
        }
    })
}

fn gone(error: SendError) -> ProbeError {
    let mut cause: Option<&(dyn Error + 'static)> = Some(&error);
    while let Some(one) = cause {
        if one.downcast_ref::<io::Error>().is_some_and(is_ours) {
            return ProbeError::Ours(chain(&error));
        }
        cause = one.source();
    }
    ProbeError::Gone(chain(&error))
}

/// Whether an error of the system is about this process and not about whom it asks.
fn is_ours(error: &io::Error) -> bool {
    const OURS: [Errno; 5] =
        [Errno::EADDRNOTAVAIL, Errno::EAGAIN, Errno::EMFILE, Errno::ENFILE, Errno::ENOMEM];
    error.raw_os_error().is_some_and(|number| OURS.contains(&Errno::from_raw(number)))
}

#[cfg(test)]
mod tests;
