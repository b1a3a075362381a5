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
use crate::accept::{Place, Stream, accept_loop};
use crate::body::{Body, BodyError};
use crate::life::Life;
pub use crate::listener::{BindError, BindOptions, Listener, Trust};
use crate::progress::{Progress, Tracked, Watched};

/// Bounds of one listener. Idle connections have no time limit: a client that finds its connection closed may take
/// its session for lost. `connections` bounds them instead.
#[derive(Clone, Copy, Debug)]
pub struct ServeLimits {
    /// Open connections; further ones wait in the kernel until one ends.
    pub connections: usize,
    /// Time from the first byte of a request's head (for the first request: from the accept) to its last.
    pub header_timeout: Duration,
    /// Size of a request's head in bytes; a larger one is answered with 431.
    pub max_header_bytes: usize,
}

impl Default for ServeLimits {
    fn default() -> Self {
        ServeLimits {
            connections: 10_000,
            header_timeout: Duration::from_secs(30),
            max_header_bytes: 64 * 1024,
        }
    }
}

/// Serves one listener until the drain begins; connections then end by themselves, as tasks of `life`.
pub async fn serve<S, F>(listener: Listener, limits: ServeLimits, life: Life, service: S)
where
    S: Fn(Request<Incoming>, Peer) -> F + Clone + Send + 'static,
    F: Future<Output = Response<Body>> + Send + 'static,
{
    let mut http = http1::Builder::new();
    http.half_close(false).max_header_size(limits.max_header_bytes);
    let (limit, until) = (limits.connections, life.clone());
    let handle = move |stream, peer, place, ()| {
        let held = Held { limits, life: life.clone(), peer, _place: place };
        // Each kind has code of its own, so that no read or write asks which it is.
        match stream {
            Stream::Tcp(stream) => life.spawn(connection(&http, stream, held, service.clone())),
            Stream::Unix(stream) => life.spawn(connection(&http, stream, held, service.clone())),
        };
    };
    accept_loop(listener, limit, &until, || Ok(()), handle).await;
}

/// What a connection holds on to while it lasts.
struct Held {
    limits: ServeLimits,
    life: Life,
    peer: Peer,
    _place: Place,
}

/// One connection from its first byte to its end. Not an `async fn`, so that hyper's part is built before the future
/// is and held once only.
fn connection<I, S, F>(
    http: &http1::Builder,
    stream: I,
    held: Held,
    service: S,
) -> impl Future<Output = ()> + Send + use<I, S, F>
where
    I: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    S: Fn(Request<Incoming>, Peer) -> F + Send + 'static,
    F: Future<Output = Response<Body>> + Send + 'static,
{
    let progress = Arc::new(Progress::default());
    let io = TokioIo::new(Watched::new(stream, Arc::clone(&progress)));
    let (answering, peer) = (Arc::clone(&progress), held.peer);
    let service = service_fn(move |request| {
        let flight = Progress::begin(&answering);
        let answer = service(request, peer);
        async move { Ok::<_, Infallible>(answer.await.map(|body| Tracked::new(body, flight))) }
    });
    let mut connection = Box::pin(http.serve_connection(io, service));
    async move { drive(connection.as_mut(), &held, &progress).await }
}

/// Polls a connection until it ends, is late with a head, or has ended gracefully in a drain.
async fn drive<C: Drive>(mut connection: Pin<&mut C>, held: &Held, progress: &Progress) {
    let life = &held.life;
    let mut draining = pin!(life.draining());
    let (mut registered, mut told) = (false, false);
    let mut deadline: Option<Pin<Box<Sleep>>> = None;
    poll_fn(|cx| {
        // A task has one waker for life: registering once is enough, later a look at the flag is.
        if !told && (life.is_draining() || (!registered && draining.as_mut().poll(cx).is_ready())) {
            told = true;
            connection.as_mut().begin_shutdown();
        }
        registered = true;
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
        let late =
            deadline.get_or_insert_with(|| Box::pin(sleep(held.limits.header_timeout))).as_mut().poll(cx);
        if late.is_ready() {
            log::debug!("connection closed, its request did not come in time");
        }
        late
    })
    .await;
}

/// hyper's connection by what is needed of it, whatever its long type.
trait Drive: Future<Output = hyper::Result<()>> {
    fn begin_shutdown(self: Pin<&mut Self>);
}

impl<I, S> Drive for http1::Connection<I, S>
where
    S: hyper::service::HttpService<Incoming, ResBody = Tracked>,
    S::Error: Into<BodyError>,
    I: hyper::rt::Read + hyper::rt::Write + Unpin,
{
    fn begin_shutdown(self: Pin<&mut Self>) {
        self.graceful_shutdown();
    }
}
