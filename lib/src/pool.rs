//! Connections that are kept between requests, one list for each endpoint.
//!
//! Beside hyper-util's pool this one can prove more: hyper hands a request back that it has not begun to write, so a
//! connection that died while it was idle never makes a request's fate unknown. And it costs a call less.

use std::collections::HashMap;
use std::hash::{BuildHasherDefault, Hasher};
use std::os::fd::RawFd;
use std::pin::Pin;
use std::sync::{Arc, Mutex, Weak};
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use http::{Request, Response};
use http_body::{Body as HttpBody, Frame, SizeHint};
use http_body_util::Full;
use hyper::body::Incoming;
use hyper::client::conn::TrySendError;
use hyper::client::conn::http1::SendRequest;
use nix::errno::Errno;
use nix::sys::socket::{MsgFlags, recv};
use tokio::time::Instant;

use crate::body::BodyError;
use crate::life;
use crate::upstream::Endpoint;

/// The sending half of a connection.
#[derive(Debug)]
pub(crate) struct Sender {
    requests: SendRequest<Full<Bytes>>,
    socket: Option<RawFd>,
}

impl Sender {
    /// `socket` is the connection's own, by its number; none where TLS is spoken over it.
    pub(crate) fn new(requests: SendRequest<Full<Bytes>>, socket: Option<RawFd>) -> Self {
        Self { requests, socket }
    }

    /// Sends a request, which comes back with the error if nothing of it was written.
    pub(crate) fn send(
        &mut self,
        request: Request<Full<Bytes>>,
    ) -> impl Future<Output = Result<Response<Incoming>, TrySendError<Request<Full<Bytes>>>>> + use<> {
        self.requests.try_send_request(request)
    }

    /// Whether the idle connection is open and silent at this moment. The peer may have closed it while nobody looked,
    /// however short that was, and the fate of a request written to a dead connection is unknown.
    pub(crate) async fn is_usable(&self) -> bool {
        let Some(socket) = self.socket else {
            // TLS may have something to say of its own. One turn lets the runtime take notice of a close.
            tokio::task::yield_now().await;
            return !self.is_closed();
        };
        // Should the socket be closed and its number another's by now, the look does no harm and its result does not
        // matter: hyper has let go of the connection then, and hands the request back.
        recv(socket, &mut [0], MsgFlags::MSG_PEEK | MsgFlags::MSG_DONTWAIT) == Err(Errno::EAGAIN)
    }

    fn is_closed(&self) -> bool {
        self.requests.is_closed()
    }
}

/// Idle connections.
#[derive(Debug)]
pub(crate) struct Pool {
    idle_timeout: Duration,
    max_idle: usize,
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    /// The one used last is at the end.
    idle: HashMap<Endpoint, Vec<(Instant, Sender)>, BuildHasherDefault<AsItIs>>,
    /// Whether a task closes what is idle for too long.
    is_swept: bool,
}

/// The hash of an [`Endpoint`] is a keyed digest already, worked out once.
#[derive(Default)]
struct AsItIs(u64);

impl Hasher for AsItIs {
    fn write(&mut self, _: &[u8]) {
        unreachable!("an endpoint writes its digest alone");
    }

    fn write_u64(&mut self, digest: u64) {
        self.0 = digest;
    }

    fn finish(&self) -> u64 {
        self.0
    }
}

impl Pool {
    pub(crate) fn new(idle_timeout: Duration, max_idle: usize) -> Arc<Self> {
        Arc::new(Self { idle_timeout, max_idle, state: Mutex::default() })
    }

    /// The connection used last, if it is still open and was used not too long ago.
    pub(crate) fn take(&self, to: &Endpoint) -> Option<Sender> {
        let mut state = self.state.lock().expect("no panic while locked");
        let idle = state.idle.get_mut(to)?;
        while let Some((since, sender)) = idle.pop() {
            if since.elapsed() >= self.idle_timeout {
                // The others are older still.
                idle.clear();
            } else if !sender.is_closed() {
                return Some(sender);
            }
        }
        None
    }

    fn put(self: &Arc<Self>, to: Endpoint, sender: Sender) {
        if sender.is_closed() {
            return;
        }
        let mut state = self.state.lock().expect("no panic while locked");
        let idle = state.idle.entry(to).or_default();
        if idle.len() < self.max_idle {
            idle.push((Instant::now(), sender));
        }
        if !std::mem::replace(&mut state.is_swept, true) {
            life::forever(sweep(Arc::downgrade(self), self.idle_timeout));
        }
    }
}

/// Closes connections that nobody uses; ends with the pool, or when there is nothing left to close.
async fn sweep(pool: Weak<Pool>, idle_timeout: Duration) {
    loop {
        tokio::time::sleep(idle_timeout / 4).await;
        let Some(pool) = pool.upgrade() else { return };
        let mut state = pool.state.lock().expect("no panic while locked");
        state.idle.retain(|_, idle| {
            idle.retain(|(since, sender)| since.elapsed() < idle_timeout && !sender.is_closed());
            !idle.is_empty()
        });
        if state.idle.is_empty() {
            state.is_swept = false;
            return;
        }
    }
}

/// The body of an answer; at its end the connection goes back to the pool. Dropped earlier, the connection is closed.
#[derive(Debug)]
pub struct Leased {
    incoming: Incoming,
    lease: Option<(Sender, Endpoint, Arc<Pool>)>,
}

impl Leased {
    pub(crate) fn new(incoming: Incoming, sender: Sender, to: &Endpoint, pool: Option<&Arc<Pool>>) -> Self {
        let lease = pool.map(|pool| (sender, to.clone(), pool.clone()));
        let mut leased = Self { incoming, lease };
        leased.give_back_at_end();
        leased
    }

    fn give_back_at_end(&mut self) {
        if self.incoming.is_end_stream() {
            self.give_back();
        }
    }

    fn give_back(&mut self) {
        if let Some((sender, to, pool)) = self.lease.take() {
            pool.put(to, sender);
        }
    }
}

impl HttpBody for Leased {
    type Data = Bytes;
    type Error = BodyError;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        let polled = Pin::new(&mut self.incoming).poll_frame(cx);
        match &polled {
            Poll::Ready(Some(Ok(_))) => self.give_back_at_end(),
            Poll::Ready(Some(Err(_))) => self.lease = None,
            Poll::Ready(None) => self.give_back(),
            Poll::Pending => {}
        }
        polled.map(|frame| frame.map(|frame| frame.map_err(Into::into)))
    }

    fn is_end_stream(&self) -> bool {
        self.incoming.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.incoming.size_hint()
    }
}
