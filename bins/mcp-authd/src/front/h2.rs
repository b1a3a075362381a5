//! HTTP/2 on a connection that agreed on it (ALPN), within bounds.
//!
//! The limits that hold for HTTP/1.1 hold here as well; one is counted in another way: here a client that does not read keeps
//! no write waiting but one of its streams.

use std::convert::Infallible;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use http::{Request, Response};
use http_body::{Body as HttpBody, Frame, SizeHint};
use hyper::body::Incoming;
use hyper::rt::Executor;
use hyper::server::conn::http2;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use mcp_daemon::body::{Body, BodyError};
use mcp_daemon::life::Life;
use mcp_daemon::progress::{Progress, Tracked, Watched};
use mcp_daemon::serve::{ServeLimits, drive};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::time::sleep;

/// Streams that a client may open and reset before we have looked at them; more end the connection (CVE-2023-44487).
const PENDING_RESETS: usize = 20;
/// Streams that may be wrong on one connection, likewise (CVE-2025-8671).
const OWN_RESETS: usize = 64;
/// Bytes of a request's body that a client may send before we have read what came before: of one stream.
const STREAM_WINDOW: u32 = 256 * 1024;
/// And of all together.
const CONNECTION_WINDOW: u32 = 1024 * 1024;
/// Bytes of an answer that wait for the client, of one stream.
const SEND_BUFFER: usize = 64 * 1024;
/// A connection on which nothing comes for so long is asked whether it still lives.
const ASK_AFTER: Duration = Duration::from_secs(60);
/// And is dead if it has not answered within this.
const ANSWER_WITHIN: Duration = Duration::from_secs(20);

/// One connection from its first byte to its end; at most `streams` requests at once.
pub async fn connection<I, S, F>(stream: I, limits: ServeLimits, streams: u32, life: Life, service: S)
where
    I: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    S: Fn(Request<Incoming>) -> F + Send + 'static,
    F: Future<Output = Response<Body>> + Send + 'static,
{
    let (progress, turns) = (Arc::new(Progress::multiplexed()), Arc::new(Turns::default()));
    let io = TokioIo::new(Watched::new(stream, progress.clone()));
    let (answering, taking) = (progress.clone(), turns.clone());
    let service = service_fn(move |request| {
        let (flight, turns) = (Progress::begin(&answering), taking.clone());
        let answer = service(request);
        async move {
            let answer = answer.await;
            Ok::<_, Infallible>(answer.map(|body| Turned::new(Tracked::new(body, flight), turns)))
        }
    });
    let mut http = http2::Builder::new(Tasks(life.clone()));
    http.timer(TokioTimer::new())
        .keep_alive_interval(ASK_AFTER)
        .keep_alive_timeout(ANSWER_WITHIN)
        .max_concurrent_streams(streams)
        .max_header_list_size(u32::try_from(limits.max_header_bytes).unwrap_or(u32::MAX))
        .max_pending_accept_reset_streams(PENDING_RESETS)
        .max_local_error_reset_streams(OWN_RESETS)
        .initial_stream_window_size(STREAM_WINDOW)
        .initial_connection_window_size(CONNECTION_WINDOW)
        .max_send_buf_size(SEND_BUFFER);
    let mut connection = Box::pin(http.serve_connection(io, service));
    let end = |connection: Pin<&mut http2::Connection<_, _, _>>| connection.graceful_shutdown();
    let stall = limits.quiet.map_or(Duration::MAX, |quiet| quiet.stall);
    tokio::select! {
        () = drive(connection.as_mut(), end, &limits, &life, &progress) => {}
        () = turns.stalled(stall) => log::debug!("connection cut, its client does not read an answer"),
    }
}

/// Where hyper's tasks run: each is one request, counted and waited for.
#[derive(Clone)]
struct Tasks(Life);

impl<T: Future<Output = ()> + Send + 'static> Executor<T> for Tasks {
    fn execute(&self, task: T) {
        self.0.spawn(task);
    }
}

/// Answers of which it is the client's turn to take something: hyper asks a body for its next piece only when the client
/// has made room for the last one.
///
/// Counted by the look (modulo 3) at which they were last seen to move, so that one look finds whether any has stood still
/// since the one before, however many others move.
#[derive(Default)]
struct Turns {
    look: AtomicUsize,
    waiting: [AtomicUsize; 3],
}

impl Turns {
    /// Ends when an answer has stood still for `stall` at least, and at most for twice as long.
    async fn stalled(&self, stall: Duration) {
        loop {
            sleep(stall).await;
            let look = self.look.fetch_add(1, Ordering::Relaxed) + 1;
            // Since before the last look; those of the look before that have been found then.
            if self.waiting[(look + 1) % 3].load(Ordering::Relaxed) > 0 {
                return;
            }
        }
    }
}

/// An answer's body that tells whose turn it is.
struct Turned {
    body: Tracked,
    turns: Arc<Turns>,
    /// The look at which it became the client's turn.
    since: Option<usize>,
}

impl Turned {
    fn new(body: Tracked, turns: Arc<Turns>) -> Self {
        Self { body, turns, since: None }
    }

    fn our_turn(&mut self) {
        if let Some(look) = self.since.take() {
            self.turns.waiting[look % 3].fetch_sub(1, Ordering::Relaxed);
        }
    }

    fn clients_turn(&mut self) {
        let look = self.turns.look.load(Ordering::Relaxed);
        self.turns.waiting[look % 3].fetch_add(1, Ordering::Relaxed);
        self.since = Some(look);
    }
}

impl HttpBody for Turned {
    type Data = Bytes;
    type Error = BodyError;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        let this = self.get_mut();
        this.our_turn();
        let polled = Pin::new(&mut this.body).poll_frame(cx);
        if matches!(polled, Poll::Ready(Some(Ok(_)))) {
            this.clients_turn();
        }
        polled
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

impl Drop for Turned {
    fn drop(&mut self) {
        self.our_turn();
    }
}
