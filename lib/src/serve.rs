//! The HTTP server side: HTTP/1.1 on every connection that [`crate::accept`] takes, and a clean end for each.
//!
//! This is the hot path. Per connection there is one task and one small shared allocation; per request there is
//! no timer and no allocation beyond hyper's. Binding is in [`crate::listener`], re-exported here.

use std::convert::Infallible;
use std::future::{Future, poll_fn};
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::task::Poll;
use std::time::Duration;

use http::{Request, Response};
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::time::{Sleep, sleep};

pub use crate::accept::Peer;
use crate::accept::{Stream, accept_loop};
use crate::body::Body;
use crate::life::Life;
pub use crate::listener::{BindError, BindOptions, Listener, Trust};
use crate::patience::{GivenUp, Patience};
use crate::progress::{Progress, Tracked, Watched};

/// Bounds of one listener.
#[derive(Clone, Copy, Debug)]
pub struct ServeLimits {
    /// Open connections; further ones wait in the kernel until one ends.
    pub connections: usize,
    /// Time from the first byte of a request's head (for the first request: from the accept) to its last.
    pub header_timeout: Duration,
    /// Size of a request's head in bytes; a larger one is answered with 431.
    pub max_header_bytes: usize,
    /// How long a connection may be quiet. `None`: for ever; where clients may take their session for lost when they find
    /// their connection closed, `connections` is the better bound.
    pub quiet: Option<Quiet>,
}

/// How long a connection may do nothing. It may take twice as long until that is noticed.
#[derive(Clone, Copy, Debug)]
pub struct Quiet {
    /// Without a request.
    pub idle: Duration,
    /// With bytes of an answer that the peer does not take.
    pub stall: Duration,
}

impl Default for ServeLimits {
    fn default() -> Self {
        ServeLimits {
            connections: 10_000,
            header_timeout: Duration::from_secs(30),
            max_header_bytes: 64 * 1024,
            quiet: None,
        }
    }
}

/// Serves one listener until the drain begins; connections then end by themselves, as tasks of `life`.
pub async fn serve<S, F>(listener: Listener, limits: ServeLimits, life: Life, service: S)
where
    S: Fn(Request<Incoming>, Peer) -> F + Clone + Send + 'static,
    F: Future<Output = Response<Body>> + Send + 'static,
{
    let (limit, until) = (limits.connections, life.clone());
    let handle = move |stream, peer, place, ()| {
        let service = service.clone();
        let service = move |request| {
            // Held for as long as the connection lasts.
            let _place = &place;
            service(request, peer)
        };
        // Each kind has code of its own, so that no read or write asks which it is.
        match stream {
            Stream::Tcp(stream) => life.spawn(connection(stream, limits, life.clone(), service)),
            Stream::Unix(stream) => life.spawn(connection(stream, limits, life.clone(), service)),
        };
    };
    accept_loop(listener, limit, &until, || Ok(()), handle).await;
}

/// One connection, over whatever carries it, from its first byte to its end; `service` is dropped with it.
///
/// Not an `async fn`, so that hyper's part is built before the future is and held once only.
pub fn connection<I, S, F>(
    stream: I,
    limits: ServeLimits,
    life: Life,
    service: S,
) -> impl Future<Output = ()> + Send + use<I, S, F>
where
    I: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    S: Fn(Request<Incoming>) -> F + Send + 'static,
    F: Future<Output = Response<Body>> + Send + 'static,
{
    let progress = Arc::new(Progress::default());
    let io = TokioIo::new(Watched::new(stream, Arc::clone(&progress)));
    let answering = Arc::clone(&progress);
    let service = service_fn(move |request| {
        let flight = Progress::begin(&answering);
        let answer = service(request);
        async move { Ok::<_, Infallible>(answer.await.map(|body| Tracked::new(body, flight))) }
    });
    let mut http = http1::Builder::new();
    http.half_close(false).max_header_size(limits.max_header_bytes);
    let mut connection = Box::pin(http.serve_connection(io, service));
    async move {
        let end = |connection: Pin<&mut http1::Connection<_, _>>| connection.graceful_shutdown();
        drive(connection.as_mut(), end, &limits, &life, &progress).await;
    }
}

/// Polls a connection of hyper's until it ends, is late with a head, is quiet for too long, or has ended gracefully in a
/// drain, which `shut_down` begins.
pub async fn drive<C>(
    mut connection: Pin<&mut C>,
    shut_down: impl Fn(Pin<&mut C>),
    limits: &ServeLimits,
    life: &Life,
    progress: &Progress,
) where
    C: Future<Output = hyper::Result<()>>,
{
    let mut draining = pin!(life.draining());
    let (mut registered, mut told) = (false, false);
    let mut deadline: Option<Pin<Box<Sleep>>> = None;
    let mut patience = limits.quiet.map(|Quiet { idle, stall }| Box::new(Patience::new(idle, stall)));
    poll_fn(|cx| {
        // A task has one waker for life: registering once is enough, later a look at the flag is.
        if !told && (life.is_draining() || (!registered && draining.as_mut().poll(cx).is_ready())) {
            told = true;
            shut_down(connection.as_mut());
        }
        registered = true;
        match patience.as_mut().and_then(|patience| patience.poll(cx, progress)) {
            None => {}
            // A client that still lives sees a clean end.
            Some(GivenUp::Idle) if !told => {
                log::debug!("connection closed, no request came for too long");
                told = true;
                shut_down(connection.as_mut());
            }
            Some(given_up) => {
                log::debug!(why:? = given_up; "connection cut");
                return Poll::Ready(());
            }
        }
        if let Poll::Ready(end) = connection.as_mut().poll(cx) {
            if let Err(error) = end {
                log::debug!(error:% = crate::exit::chain(&error); "connection ended early");
            }
            return Poll::Ready(());
        }
        if !progress.owes_a_head() {
            deadline = None;
            return Poll::Pending;
        }
        // Reached only with a head that came in pieces, so the usual request never sees a timer.
        let late = deadline.get_or_insert_with(|| Box::pin(sleep(limits.header_timeout))).as_mut().poll(cx);
        if late.is_ready() {
            log::debug!("connection closed, its request did not come in time");
        }
        late
    })
    .await;
}
