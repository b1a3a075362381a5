//! The client: sessions that call `echo` and check every answer. A closed loop finds how much the thing under test can
//! do; an open loop at a fixed rate finds how long it takes, and a call that waits for its turn counts from its turn.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};
use std::time::Duration;

use tokio::net::TcpStream;
use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tokio::time::{Instant, MissedTickBehavior, interval, sleep};

use crate::wire::{Answer, Connection};

/// Ids start here so that all have the same length, and a call is written once.
const FIRST_ID: u64 = 1_000_000_000;
/// How long a closed loop runs before it counts.
const WARM_UP: Duration = Duration::from_millis(100);
/// Sessions that share an open loop's calls: each has 40 ms at 200 calls a second.
const OPEN_SESSIONS: u64 = 8;
/// Calls of an open loop that are not counted: first use of connections and pages.
const OPEN_WARM_UP: u64 = 40;

/// Where calls go, and the credential that they carry.
#[derive(Clone, Copy, Debug)]
pub struct Target {
    /// The server or proxy.
    pub address: SocketAddr,
    /// The bearer token, where there is one.
    pub token: Option<&'static str>,
    /// Whether TLS is spoken there.
    pub is_secure: bool,
}

impl From<SocketAddr> for Target {
    fn from(address: SocketAddr) -> Self {
        Self { address, token: None, is_secure: false }
    }
}

/// What a call asks `echo` for.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Shape {
    /// Length of the text in the answer, in bytes: one of `echo::SIZES`.
    pub bytes: usize,
    /// Whether the answer is an event stream instead of JSON.
    pub sse: bool,
}

/// An initialised session with a connection of its own.
pub struct Session {
    connection: Connection,
    target: Target,
    id: String,
}

impl Session {
    /// Connects to `target`, initialises a session and announces it.
    pub async fn open(target: impl Into<Target>) -> io::Result<Self> {
        let target = target.into();
        Self::open_on(Connection::open(target.address, target.is_secure).await?, target).await
    }

    async fn open_on(mut connection: Connection, target: Target) -> io::Result<Self> {
        let initialize = concat!(
            r#"{"jsonrpc":"2.0","id":0,"method":"initialize","params":{"protocolVersion":"2025-11-25","#,
            r#""capabilities":{},"clientInfo":{"name":"bench","version":"1"}}}"#
        );
        let answer = connection.exchange(&request("POST", target, None, initialize)).await?;
        let id = answer.session.clone().ok_or_else(|| unexpected("initialize", &answer))?;
        let initialized = r#"{"jsonrpc":"2.0","method":"notifications/initialized"}"#;
        let answer = connection.exchange(&request("POST", target, Some(&id), initialized)).await?;
        if answer.status != 202 {
            return Err(unexpected("notifications/initialized", &answer));
        }
        Ok(Self { connection, target, id })
    }

    /// Initialises one more session on the connection of this one, which is left open on the other side.
    pub async fn another(self) -> io::Result<(String, Self)> {
        let next = Self::open_on(self.connection, self.target).await?;
        Ok((self.id, next))
    }

    /// Opens the GET stream of session `id` on a new connection.
    pub async fn stream(target: impl Into<Target>, id: &str) -> io::Result<TcpStream> {
        let target = target.into();
        Connection::open(target.address, target.is_secure)
            .await?
            .stream(&request("GET", target, Some(id), ""))
            .await
    }

    /// Prepares calls of this session.
    pub fn caller(self, shape: Shape) -> Caller {
        let form = if shape.sse { "sse" } else { "json" };
        let body = format!(
            r#"{{"jsonrpc":"2.0","id":{FIRST_ID},"method":"tools/call","params":{{"name":"echo","arguments":{{"bytes":{},"form":"{form}"}}}}}}"#,
            shape.bytes
        );
        let request = request("POST", self.target, Some(&self.id), &body);
        let id_at = request.len() - body.len() + r#"{"jsonrpc":"2.0","#.len();
        Caller { session: self, shape, request, id_at, next: FIRST_ID }
    }

    async fn close(mut self) -> io::Result<()> {
        let answer = self.connection.exchange(&request("DELETE", self.target, Some(&self.id), "")).await?;
        match answer.status {
            200..=299 => Ok(()),
            _ => Err(unexpected("DELETE", &answer)),
        }
    }
}

/// A session with a call that is ready to be sent.
pub struct Caller {
    session: Session,
    shape: Shape,
    request: Vec<u8>,
    /// Where `"id":1000000000` stands in `request`.
    id_at: usize,
    next: u64,
}

impl Caller {
    /// Calls `echo` and checks status, id and length of the answer.
    pub async fn call(&mut self) -> io::Result<()> {
        let id = format!("\"id\":{}", self.next);
        self.next += 1;
        self.request[self.id_at..self.id_at + id.len()].copy_from_slice(id.as_bytes());
        let answer = self.session.connection.exchange(&self.request).await?;
        if answer.status == 200
            && answer.length >= self.shape.bytes as u64
            && answer.opens_with(id.as_bytes())
        {
            return Ok(());
        }
        Err(unexpected("tools/call", &answer))
    }
}

/// What a closed loop found.
#[derive(Clone, Copy, Debug)]
pub struct Throughput {
    /// Calls per second.
    pub rate: f64,
    /// CPU time per call of the process that `cpu` reads, in microseconds.
    pub cpu_micros: f64,
}

/// Lets `sessions` sessions call as fast as they can for `span`; `cpu` reads the CPU time used so far.
pub async fn closed_loop(
    target: Target,
    sessions: usize,
    shape: Shape,
    span: Duration,
    cpu: impl Fn() -> io::Result<Duration>,
) -> io::Result<Throughput> {
    let tally = Arc::new((AtomicU64::new(0), AtomicBool::new(false)));
    let mut callers = JoinSet::new();
    for _ in 0..sessions {
        let mut caller = Session::open(target).await?.caller(shape);
        let tally = Arc::clone(&tally);
        callers.spawn(async move {
            while !tally.1.load(Relaxed) {
                caller.call().await?;
                tally.0.fetch_add(1, Relaxed);
            }
            caller.session.close().await
        });
    }
    let now = || io::Result::Ok((Instant::now(), tally.0.load(Relaxed), cpu()?));
    sleep(WARM_UP).await;
    let before = now()?;
    sleep(span).await;
    let after = now()?;
    tally.1.store(true, Relaxed);
    for ended in callers.join_all().await {
        ended?;
    }
    let calls = (after.1 - before.1) as f64;
    let cpu_micros = after.2.saturating_sub(before.2).as_secs_f64() * 1e6 / calls;
    Ok(Throughput { rate: calls / (after.0 - before.0).as_secs_f64(), cpu_micros })
}

/// Calls `rate` times a second for `span`; returns how long each call took, in microseconds.
pub async fn open_loop(target: Target, shape: Shape, rate: u32, span: Duration) -> io::Result<Vec<f64>> {
    let mut callers = JoinSet::new();
    let mut turns = Vec::new();
    for _ in 0..OPEN_SESSIONS {
        let mut caller = Session::open(target).await?.caller(shape);
        let (turn, mut due) = mpsc::unbounded_channel::<Instant>();
        turns.push(turn);
        callers.spawn(async move {
            let mut took = Vec::new();
            while let Some(due) = due.recv().await {
                caller.call().await?;
                took.push(due.elapsed().as_secs_f64() * 1e6);
            }
            caller.session.close().await?;
            io::Result::Ok(took)
        });
    }
    // The timer fires up to 1 ms late; a turn begins when it fires, so this shifts arrivals and adds no latency.
    let mut ticks = interval(Duration::from_secs(1) / rate);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Burst);
    for number in 0..OPEN_WARM_UP + u64::from(rate) * span.as_secs() {
        ticks.tick().await;
        // A closed channel means that a caller failed; its error is reported below.
        let _closed = turns[(number % OPEN_SESSIONS) as usize].send(Instant::now());
    }
    drop(turns);
    let mut all = Vec::new();
    for took in callers.join_all().await {
        all.extend_from_slice(&took?[(OPEN_WARM_UP / OPEN_SESSIONS) as usize..]);
    }
    Ok(all)
}

/// A request as the SDKs' clients send it.
fn request(method: &str, target: Target, session: Option<&str>, body: &str) -> Vec<u8> {
    let session = session.map(|id| format!("mcp-protocol-version: 2025-11-25\r\nmcp-session-id: {id}\r\n"));
    let token = target.token.map(|token| format!("authorization: Bearer {token}\r\n"));
    let length = (method == "POST").then(|| format!("content-length: {}\r\n", body.len()));
    let accept = if method == "GET" { "text/event-stream" } else { "application/json, text/event-stream" };
    format!(
        "{method} /mcp HTTP/1.1\r\nhost: {}\r\naccept: {accept}\r\ncontent-type: application/json\r\n{}{}{}\r\n{body}",
        target.address,
        token.unwrap_or_default(),
        session.unwrap_or_default(),
        length.unwrap_or_default()
    )
    .into_bytes()
}

fn unexpected(what: &str, answer: &Answer) -> io::Error {
    io::Error::other(format!(
        "{what} was answered with status {}, {} bytes and {} session id; is this an MCP server?",
        answer.status,
        answer.length,
        if answer.session.is_some() { "a" } else { "no" }
    ))
}

#[cfg(test)]
mod tests {
    use std::net::TcpListener;

    use argh::FromArgs;
    use tokio::task::yield_now;

    use super::*;
    use crate::{echo, hop};

    /// Runs `test(echo, hop)` beside the two servers.
    async fn beside_servers<F: Future<Output = ()>>(test: impl FnOnce(SocketAddr, SocketAddr) -> F) {
        let free = || TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
        let (behind, front) = (free(), free());
        let (listen, url) = (behind.to_string(), format!("http://{behind}/mcp"));
        let echo = echo::Options::from_args(&["echo"], &["--listen", &listen]).unwrap();
        let listen = front.to_string();
        let hop = hop::Options::from_args(&["hop"], &["--listen", &listen, "--upstream", &url]).unwrap();
        let test = async {
            for address in [behind, front] {
                while TcpStream::connect(address).await.is_err() {
                    yield_now().await;
                }
            }
            test(behind, front).await;
        };
        tokio::select! {
            ended = echo::run(&echo) => panic!("echo ended: {ended:?}"),
            ended = hop::run(&hop) => panic!("the hop ended: {ended:?}"),
            () = test => {}
        }
    }

    #[tokio::test]
    async fn every_shape_is_answered_directly_and_through_the_hop() {
        beside_servers(|echo, hop| async move {
            for address in [echo, hop] {
                for bytes in echo::SIZES {
                    for sse in [false, true] {
                        let mut caller = Session::open(address).await.unwrap().caller(Shape { bytes, sse });
                        for _ in 0..3 {
                            caller.call().await.unwrap();
                        }
                    }
                }
            }
        })
        .await;
    }

    #[tokio::test]
    async fn the_hop_maps_ids_and_forgets_them_on_delete() {
        beside_servers(|echo, hop| async move {
            let session = Session::open(hop).await.unwrap();
            let id = session.id.clone();
            // The client's id means nothing to the server, and the hop's stream is the server's.
            assert!(Session::stream(echo, &id).await.is_err());
            let _stream = Session::stream(hop, &id).await.unwrap();
            session.close().await.unwrap();
            assert!(Session::stream(hop, &id).await.is_err());
        })
        .await;
    }

    #[tokio::test]
    async fn an_answer_that_is_too_short_is_an_error() {
        beside_servers(|echo, _| async move {
            let mut caller = Session::open(echo).await.unwrap().caller(Shape { bytes: 1024, sse: false });
            caller.shape.bytes = 2048;
            assert!(caller.call().await.is_err());
        })
        .await;
    }
}
