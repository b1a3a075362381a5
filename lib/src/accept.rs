//! Accepting until the drain, for whatever is spoken on a connection: HTTP in [`crate::serve`], or bytes that are passed
//! on unread. A bound on open connections, a pause where accepting fails for a reason that lasts, few warnings, and a
//! socket file that is gone before its socket is.

use std::io::{self, IoSlice};
use std::net::IpAddr;
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::{TcpListener, TcpStream, UnixListener, UnixStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::{Instant, sleep};

use crate::keepalive;
use crate::life::Life;
use crate::listener::{Bound, Listener, Trust};

/// Pause after an accept that failed for a reason that lasts, such as no free descriptor.
const ACCEPT_BACK_OFF: Duration = Duration::from_millis(100);
/// At most one warning of a kind per listener in this time.
const WARN_EVERY: Duration = Duration::from_secs(60);

/// What is known of whoever connected.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Peer {
    /// Whether its identity headers are to be believed.
    pub trusted: bool,
    /// Whether it came over TCP, where `Host` and `Origin` have to be checked.
    pub tcp: bool,
    /// From where it came over TCP; a reverse proxy's own address where there is one in between.
    pub address: Option<IpAddr>,
}

/// A connection that was accepted; TCP has `TCP_NODELAY` and `SO_KEEPALIVE`.
#[derive(Debug)]
pub enum Stream {
    /// Over TCP.
    Tcp(TcpStream),
    /// Over a Unix socket.
    Unix(UnixStream),
}

/// A connection's place among the open ones of its listener, free again when this is dropped.
#[derive(Debug)]
pub struct Place(#[expect(dead_code, reason = "it is held, not used")] OwnedSemaphorePermit);

/// Accepts until the drain of `life` begins, at most `connections` at once; more wait in the kernel.
///
/// `admit` is asked before each accept for what the next connection needs besides its own descriptor; its error is
/// taken for that of an accept, so the connection waits in the kernel too. `handle` must not block: it spawns.
pub async fn accept_loop<A>(
    listener: Listener,
    connections: usize,
    life: &Life,
    mut admit: impl FnMut() -> io::Result<A>,
    mut handle: impl FnMut(Stream, Peer, Place, A),
) {
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
    let door = Arc::new(Semaphore::new(connections));
    let (mut full, mut failed, mut refused) = (Seldom::default(), Seldom::default(), Seldom::default());
    let mut draining = pin!(life.draining());
    loop {
        if door.available_permits() == 0 && full.may_warn() {
            log::warn!(listen, connections; "all connections are in use, new ones wait");
        }
        let accepted = tokio::select! {
            biased;
            () = &mut draining => break,
            accepted = accept(&socket, &door, &mut admit) => accepted,
        };
        match accepted {
            Ok((stream, place, admitted)) => {
                let peer = stream.peer(&trust, |uid| {
                    if refused.may_warn() {
                        log::warn!(listen, uid:? = uid; "a user who is not trusted connects, its identity is not believed");
                    }
                });
                handle(stream, peer, place, admitted);
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

/// Waits for a free place, then for somebody to take it.
async fn accept<A>(
    socket: &Socket,
    door: &Arc<Semaphore>,
    admit: &mut impl FnMut() -> io::Result<A>,
) -> io::Result<(Stream, Place, A)> {
    let place = Place(Arc::clone(door).acquire_owned().await.expect("the semaphore is never closed"));
    let admitted = admit()?;
    let stream = match socket {
        Socket::Tcp(socket) => {
            let (stream, _) = socket.accept().await?;
            // Without it an answer written in two pieces waits 40 ms for the peer's acknowledgement.
            let _ = stream.set_nodelay(true);
            keepalive::ask(&stream);
            Stream::Tcp(stream)
        }
        Socket::Unix(socket) => Stream::Unix(socket.accept().await?.0),
    };
    Ok((stream, place, admitted))
}

/// The peer gave up while it waited in the kernel; the next one may be fine.
fn is_about_one_connection(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::ConnectionAborted | io::ErrorKind::ConnectionReset | io::ErrorKind::Interrupted
    )
}

enum Socket {
    Tcp(TcpListener),
    Unix(UnixListener),
}

impl Socket {
    fn register(bound: Bound) -> io::Result<Self> {
        match bound {
            Bound::Tcp(socket) => TcpListener::from_std(socket).map(Socket::Tcp),
            Bound::Unix(socket) => UnixListener::from_std(socket).map(Socket::Unix),
        }
    }
}

impl Stream {
    /// Who it is; `refused` hears of a peer that is not trusted where others are.
    fn peer(&self, trust: &Trust, refused: impl FnOnce(Option<u32>)) -> Peer {
        let stream = match self {
            Stream::Tcp(stream) => {
                let address = stream.peer_addr().ok().map(|address| address.ip().to_canonical());
                return Peer { trusted: false, tcp: true, address };
            }
            Stream::Unix(stream) => stream,
        };
        if !trust.is_some() {
            return Peer { trusted: false, tcp: false, address: None };
        }
        let uid = stream.peer_cred().ok().map(|cred| cred.uid());
        let trusted = trust.allows(uid);
        if !trusted {
            refused(uid);
        }
        Peer { trusted, tcp: false, address: None }
    }
}

impl AsyncRead for Stream {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Stream::Tcp(stream) => Pin::new(stream).poll_read(cx, buffer),
            Stream::Unix(stream) => Pin::new(stream).poll_read(cx, buffer),
        }
    }
}

impl AsyncWrite for Stream {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        match self.get_mut() {
            Stream::Tcp(stream) => Pin::new(stream).poll_write(cx, bytes),
            Stream::Unix(stream) => Pin::new(stream).poll_write(cx, bytes),
        }
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        slices: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        match self.get_mut() {
            Stream::Tcp(stream) => Pin::new(stream).poll_write_vectored(cx, slices),
            Stream::Unix(stream) => Pin::new(stream).poll_write_vectored(cx, slices),
        }
    }

    fn is_write_vectored(&self) -> bool {
        true
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        // A socket keeps nothing back.
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Stream::Tcp(stream) => Pin::new(stream).poll_shutdown(cx),
            Stream::Unix(stream) => Pin::new(stream).poll_shutdown(cx),
        }
    }
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
