//! Ends the answer of an identity that is no longer good: revoked, expired, or gone with its key.
//!
//! An answer whose bytes are all there is never asked. One that waits for its next byte waits for more: the credentials
//! being read anew, and, where it has no end of its own, the end of the identity's time and the drain. One that always has a
//! next byte, because its client is slower than its server, is asked at every piece; one whose head has not come waits for
//! [`Leash::taken_back`]. An answer that has an end is that of a request which came in time: it is cut when the credential
//! is taken back, not when it expires, or a call that outlives a token of five minutes would be lost.

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

/// Nobody is believed for longer without a look: a certificate beside a token has an end of its own.
const LOOK: Duration = Duration::from_secs(60);

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
    /// When it was let in, in seconds since 1970.
    pub since: u64,
    /// The reading of the credentials by which it was.
    pub reading: u64,
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

    /// Ends when the credential would not let in any more whom it let in.
    pub async fn taken_back(&self) {
        let mut changes = self.credentials.changes();
        while self.credentials.reading() == self.reading || self.is_let_in() {
            changes.next().await;
        }
    }

    async fn pulled(self) {
        if !self.is_listening {
            self.taken_back().await;
            return self.tell();
        }
        tokio::select! {
            () = self.no_longer_good() => self.tell(),
            () = self.life.draining() => {}
        }
    }

    async fn no_longer_good(&self) {
        let mut changes = self.credentials.changes();
        loop {
            let now = now();
            if !self.is_good(now) {
                return;
            }
            let left = self.identity.expires.map(|expires| Duration::from_secs(expires.saturating_sub(now)));
            // A moment more, so that the clock has passed the second when it is read.
            let left = left.map_or(LOOK, |left| LOOK.min(left + Duration::from_millis(10)));
            tokio::select! {
                () = changes.next() => {}
                () = tokio::time::sleep(left) => {}
            }
        }
    }

    fn is_let_in(&self) -> bool {
        self.credentials.load().lets_in(&self.identity, self.secure.as_deref(), self.since)
    }

    fn is_good(&self, now: u64) -> bool {
        self.credentials.load().still(&self.identity, self.secure.as_deref(), now)
    }

    fn tell(&self) {
        log::info!(subject:% = self.identity.subject, route:% = self.identity.route; "a stream is cut, its credential is no longer good");
    }
}

impl Leashed {
    /// Whether the credential is found to be no longer good, which costs a look only when something may be different.
    fn is_over(&mut self) -> bool {
        let leash = &mut self.leash;
        let (newest, now) = (leash.credentials.reading(), now());
        let is_new = newest != std::mem::replace(&mut leash.reading, newest);
        let is_over = if leash.is_listening {
            let is_expired = leash.identity.expires.is_some_and(|expires| now >= expires);
            (is_new || is_expired) && !leash.is_good(now)
        } else {
            is_new && !leash.is_let_in()
        };
        if is_over {
            leash.tell();
        }
        is_over
    }

    fn end(&self) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        Poll::Ready((!self.is_stream).then(|| Err("cut, its credential is no longer good".into())))
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
        // What the upstream already said is delivered before a drain ends the rest, but not to who may not have it.
        if let Poll::Ready(frame) = Pin::new(&mut this.body).poll_frame(cx) {
            match &frame {
                Some(Ok(_)) if this.is_over() => return this.end(),
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
        this.end()
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}
