//! The server side: accept until drain, HTTP/1.1 on every connection, and a clean end for each.
//!
//! This is the hot path. Per connection there is one task and one small shared allocation; per request there is
//! no timer and no allocation beyond hyper's. Binding is in [`crate::listener`], re-exported here.

use std::convert::Infallible;
use std::future::{Future, poll_fn};
use std::io;
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
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::{Instant, Sleep, sleep};

use crate::body::{Body, BodyError};
use crate::life::Life;
use crate::listener::Bound;
pub use crate::listener::{BindError, BindOptions, Listener, Trust};
use crate::progress::{Progress, Tracked, Watched};

/// Pause after an accept that failed for a reason that lasts, such as no free descriptor.
const ACCEPT_BACK_OFF: Duration = Duration::from_millis(100);
/// At most one warning of a kind per listener in this time.
const WARN_EVERY: Duration = Duration::from_secs(60);

/// What is known of whoever sent a request.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Peer {
    /// Whether its identity headers are to be believed.
    pub trusted: bool,
    /// Whether it came over TCP, where `Host` and `Origin` have to be checked.
    pub tcp: bool,
}

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
    let Listener { socket, trust, local, file } = listener;
    let listen = local.to_string();
    let socket = match Socket::register(socket) {
        Ok(socket) => socket,
        Err(error) => {
            log::error!(listen, error:% = error; "cannot serve, stopping");
            life.drain();
            return;
        }
    };
    let door = Arc::new(Semaphore::new(limits.connections));
    let mut http = http1::Builder::new();
    http.half_close(false).max_header_size(limits.max_header_bytes);
    let (mut full, mut failed, mut refused) = (Seldom::default(), Seldom::default(), Seldom::default());
    let mut draining = pin!(life.draining());
    loop {
        if door.available_permits() == 0 && full.may_warn() {
            log::warn!(listen, connections = limits.connections; "all connections are in use, new ones wait");
        }
        let accepted = tokio::select! {
            biased;
            () = &mut draining => break,
            accepted = accept(&socket, &door) => accepted,
        };
        match accepted {
            Ok((Stream::Tcp(stream), permit)) => {
                // Without it an answer written in two pieces waits 40 ms for the peer's acknowledgement.
                let _ = stream.set_nodelay(true);
                let peer = Peer { trusted: false, tcp: true };
                let place = Place { limits, life: life.clone(), peer, _permit: permit };
                life.spawn(connection(&http, stream, place, service.clone()));
            }
            Ok((Stream::Unix(stream), permit)) => {
                let uid = trust.is_some().then(|| stream.peer_cred().ok().map(|cred| cred.uid())).flatten();
                let peer = Peer { trusted: trust.allows(uid), tcp: false };
                if trust.is_some() && !peer.trusted && refused.may_warn() {
                    log::warn!(listen, uid:? = uid; "a user who is not trusted connects, its identity is not believed");
                }
                let place = Place { limits, life: life.clone(), peer, _permit: permit };
                life.spawn(connection(&http, stream, place, service.clone()));
            }
            Err(error) if is_about_one_connection(&error) => {}
            Err(error) => {
                if failed.may_warn() {
                    log::warn!(listen, error:% = error; "cannot accept connections, trying on");
                }
                tokio::select! {
                    () = &mut draining => break,
                    () = sleep(ACCEPT_BACK_OFF) => {}
                }
            }
        }
    }
    // The socket first: nobody must find a file behind which nothing listens.
    drop(file);
    drop(socket);
}

/// What a connection holds on to while it lasts.
struct Place {
    limits: ServeLimits,
    life: Life,
    peer: Peer,
    _permit: OwnedSemaphorePermit,
}

/// One connection from its first byte to its end. Not an `async fn`, so that hyper's part is built before the future
/// is and held once only.
fn connection<I, S, F>(
    http: &http1::Builder,
    stream: I,
    place: Place,
    service: S,
) -> impl Future<Output = ()> + Send + use<I, S, F>
where
    I: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    S: Fn(Request<Incoming>, Peer) -> F + Send + 'static,
    F: Future<Output = Response<Body>> + Send + 'static,
{
    let progress = Arc::new(Progress::default());
    let io = TokioIo::new(Watched::new(stream, Arc::clone(&progress)));
    let (answering, peer) = (Arc::clone(&progress), place.peer);
    let service = service_fn(move |request| {
        let flight = Progress::begin(&answering);
        let answer = service(request, peer);
        async move { Ok::<_, Infallible>(answer.await.map(|body| Tracked::new(body, flight))) }
    });
    let mut connection = Box::pin(http.serve_connection(io, service));
    async move { drive(connection.as_mut(), &place, &progress).await }
}

/// Polls a connection until it ends, is late with a head, or has ended gracefully in a drain.
async fn drive<C: Drive>(mut connection: Pin<&mut C>, place: &Place, progress: &Progress) {
    let life = &place.life;
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
            deadline.get_or_insert_with(|| Box::pin(sleep(place.limits.header_timeout))).as_mut().poll(cx);
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

enum Socket {
    Tcp(tokio::net::TcpListener),
    Unix(tokio::net::UnixListener),
}

enum Stream {
    Tcp(tokio::net::TcpStream),
    Unix(tokio::net::UnixStream),
}

impl Socket {
    fn register(bound: Bound) -> io::Result<Self> {
        match bound {
            Bound::Tcp(socket) => tokio::net::TcpListener::from_std(socket).map(Socket::Tcp),
            Bound::Unix(socket) => tokio::net::UnixListener::from_std(socket).map(Socket::Unix),
        }
    }
}

/// Waits for a free place, then for somebody to take it.
async fn accept(socket: &Socket, door: &Arc<Semaphore>) -> io::Result<(Stream, OwnedSemaphorePermit)> {
    let permit = Arc::clone(door).acquire_owned().await.expect("the semaphore is never closed");
    let stream = match socket {
        Socket::Tcp(socket) => Stream::Tcp(socket.accept().await?.0),
        Socket::Unix(socket) => Stream::Unix(socket.accept().await?.0),
    };
    Ok((stream, permit))
}

/// The peer gave up while it waited in the kernel; the next one may be fine.
fn is_about_one_connection(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::ConnectionAborted | io::ErrorKind::ConnectionReset | io::ErrorKind::Interrupted
    )
}

/// Keeps what peers can cause from filling the log.
#[derive(Default)]
struct Seldom(Option<Instant>);

impl Seldom {
    fn may_warn(&mut self) -> bool {
        let due = self.0.is_none_or(|last| last.elapsed() >= WARN_EVERY);
        if due {
            self.0 = Some(Instant::now());
        }
        due
    }
}
