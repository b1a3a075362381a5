//! Ends the answer of an identity that is no longer good: revoked, expired, or gone with its key.
//!
//! An answer whose bytes are all there is never asked. One that waits for its next byte waits for more: the credentials
//! being read anew, the end of the identity's time, and, where it has no end of its own, the drain.

use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::Bytes;
use http::{HeaderValue, Response, header};
use http_body::{Body as HttpBody, Frame, SizeHint};
use mcp_daemon::body::{Body, BodyError};
use mcp_daemon::life::Life;

use crate::audit::Entry;
use crate::credentials::{Current, now};
use crate::front::tls::shake::Secure;
use crate::identity::Identity;
use crate::route::Held;

/// What an answer is held by.
#[derive(Clone)]
pub struct Leash {
    /// Whose answer it is.
    pub identity: Arc<Identity>,
    /// What is known by TLS of the connection that it came by.
    pub secure: Option<Arc<Secure>>,
    /// What credentials are good at any moment.
    pub credentials: Arc<Current>,
    /// The daemon's life.
    pub life: Life,
    /// Whether the answer has no end of its own: then it ends when the drain begins. Others have the grace.
    pub is_listening: bool,
}

/// An answer's body on a leash; it ends early when the leash is pulled: a stream of events without an error, anything else
/// with one, so that nobody takes a part for the whole.
pub struct Leashed {
    body: Body,
    leash: Leash,
    /// The request is under way as long as its answer is.
    _held: Held,
    entry: Entry,
    is_stream: bool,
    /// Made when the body first has to wait.
    pulled: Option<Pin<Box<dyn Future<Output = ()> + Send>>>,
}

impl Leash {
    /// Puts an answer on the leash, unless all of it is there already.
    pub fn hold(self, answer: Response<Body>, held: Held, mut entry: Entry) -> Response<Body> {
        if answer.body().is_end_stream() {
            return entry.ends_with(answer);
        }
        entry.begins_with(answer.status());
        let kind = answer.headers().get(header::CONTENT_TYPE).map_or(&b""[..], HeaderValue::as_bytes);
        let is_stream = kind.starts_with(b"text/event-stream");
        answer.map(|body| {
            Body::stream(Leashed { body, leash: self, _held: held, entry, is_stream, pulled: None })
        })
    }

    async fn pulled(self) {
        tokio::select! {
            () = self.no_longer_good() => {
                log::info!(subject:% = self.identity.subject, route:% = self.identity.route; "a stream is cut, its credential is no longer good");
            }
            () = self.life.draining(), if self.is_listening => {}
        }
    }

    async fn no_longer_good(&self) {
        let mut changes = self.credentials.changes();
        loop {
            let now = now();
            if !self.credentials.load().still(&self.identity, self.secure.as_deref(), now) {
                return;
            }
            let left = self.identity.expires.map(|expires| Duration::from_secs(expires.saturating_sub(now)));
            let expired = async {
                match left {
                    // A moment more, so that the clock has passed the second when it is read.
                    Some(left) => tokio::time::sleep(left + Duration::from_millis(10)).await,
                    None => std::future::pending().await,
                }
            };
            tokio::select! {
                () = changes.next() => {}
                () = expired => {}
            }
        }
    }
}

impl HttpBody for Leashed {
    type Data = Bytes;
    type Error = BodyError;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        let this = self.get_mut();
        // What the upstream already said is delivered first.
        if let Poll::Ready(frame) = Pin::new(&mut this.body).poll_frame(cx) {
            match &frame {
                Some(Ok(frame)) => {
                    let bytes = frame.data_ref().map_or(0, Bytes::len);
                    this.entry.goes_on(bytes, this.body.is_end_stream());
                }
                Some(Err(_)) => {}
                None => this.entry.goes_on(0, true),
            }
            return Poll::Ready(frame);
        }
        let pulled = this.pulled.get_or_insert_with(|| Box::pin(this.leash.clone().pulled()));
        ready!(pulled.as_mut().poll(cx));
        Poll::Ready((!this.is_stream).then(|| Err("cut, its credential is no longer good".into())))
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}
