//! One request as an upstream gets it, what came of sending it, and the head of its answer as the client gets it. Which
//! upstream, and what where that one cannot be reached, is in `search`.
//!
//! It is sent again only where the first sending provably came to nothing: not a byte was written, or a neighbour on a
//! Unix socket says so. Whatever else happens to it, a second sending could run it twice.

use std::hash::{BuildHasher, DefaultHasher, Hash, Hasher, RandomState};
use std::sync::LazyLock;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

use bytes::Bytes;
use http::{HeaderValue, Method, Request, Response, StatusCode, header, request};
use mcp_daemon::body::Body;
use mcp_daemon::client::{Client, SendError};
use mcp_daemon::exit::chain;
use mcp_daemon::mcp;
use tokio::time::Instant;

use super::affinity;
use super::lane::Lane;
use super::member::{Errand, Member};
use crate::front::headers;
use crate::identity::Identity;

/// What is to be sent.
pub(super) struct Letter<'a> {
    identity: &'a Identity,
    head: request::Parts,
    body: Bytes,
    /// The client's session, as it came.
    session: Option<HeaderValue>,
}

/// What came of one sending.
pub(super) enum Sent {
    /// The head of an answer.
    Answered(Response<Body>, Errand),
    /// Its effect is unknown.
    Lost(String),
    /// It provably did not run.
    NotRun(String),
}

impl<'a> Letter<'a> {
    pub fn new(identity: &'a Identity, request: Request<Bytes>) -> Self {
        let (mut head, body) = request.into_parts();
        headers::inward(&mut head.headers);
        let session = head.headers.get(mcp::SESSION).cloned();
        Self { identity, head, body, session }
    }

    /// The session that the client believes it has.
    pub fn session(&self) -> Option<&str> {
        self.session.as_ref()?.to_str().ok()
    }

    /// Decides among upstreams: chance, or for a session that has no home its id, so that it stays where it went.
    pub fn draw(&self) -> u64 {
        match self.session() {
            // The same for everybody who asks: neither a restart nor a second mcp-authd takes a session elsewhere.
            Some(session) => {
                let mut hash = DefaultHasher::new();
                affinity::split(session).map_or(session, |(_, id)| id).hash(&mut hash);
                hash.finish()
            }
            None => chance(),
        }
    }

    /// The request as one upstream gets it.
    fn to(&mut self, lane: &Lane, member: &Member) -> Request<Bytes> {
        // A copy has no room for more headers: it stays here for another try, and what came goes.
        let copy = self.head.headers.clone();
        let mut headers = std::mem::replace(&mut self.head.headers, copy);
        if let Some(session) = self.session() {
            let (_, id) = lane.home(session);
            if id.len() < session.len()
                && let Ok(id) = HeaderValue::from_str(id)
            {
                headers.insert(mcp::SESSION, id);
            }
        }
        if member.endpoint.is_unix() || member.goal().identity_headers {
            let subject = HeaderValue::from_str(self.identity.subject.as_str());
            headers.insert(mcp::SUBJECT, subject.expect("a subject is visible ASCII"));
            headers.insert(mcp::ROUTE, lane.name.clone());
        }
        if let Some(authorization) = &member.goal().authorization {
            headers.insert(header::AUTHORIZATION, authorization.clone());
        }
        let mut request = Request::new(self.body.clone());
        *request.method_mut() = self.head.method.clone();
        *request.headers_mut() = headers;
        request
    }

    /// Sends it to one upstream of its lane.
    pub async fn send(&mut self, client: &Client, lane: &Lane, at: usize) -> Sent {
        let member = &lane.members[at];
        let mut errand = Errand::begin(member.clone());
        let answer = client.send(&member.endpoint, self.to(lane, member)).await;
        let mut failed = |why: String, was_reached| {
            errand.failed(&why, was_reached, lane.is_last(at, Instant::now()));
            why
        };
        match answer {
            Err(SendError::Broken(why)) => Sent::Lost(failed(chain(&*why), false)),
            Err(SendError::NotSent(why)) => Sent::NotRun(failed(chain(&*why), false)),
            Ok(answer) if was_not_forwarded(member, &answer) => {
                Sent::NotRun(failed(format!("answered {}, not forwarded", answer.status()), false))
            }
            Ok(answer) => {
                if is_a_gateways(answer.status()) {
                    failed(format!("answered {}", answer.status()), true);
                } else {
                    errand.answered();
                }
                Sent::Answered(self.returned(answer, lane, &mut errand), errand)
            }
        }
    }

    /// The answer as the client gets it.
    fn returned(&self, mut answer: Response<Body>, lane: &Lane, errand: &mut Errand) -> Response<Body> {
        let is_stream = headers::outward(answer.headers_mut());
        let is_success = answer.status().is_success();
        if is_stream || (self.head.method == Method::GET && is_success) {
            errand.goes_on();
        }
        if let Some(id) = answer.headers_mut().get_mut(mcp::SESSION) {
            if is_success && self.session.is_none() {
                errand.member.session_began();
            }
            if lane.has_several()
                && let Some(joined) = affinity::join(&errand.member.goal().name, id)
            {
                *id = joined;
            }
        }
        answer
    }
}

/// A neighbour's word that nothing of the request went further; anybody else's would be no proof.
fn was_not_forwarded(member: &Member, answer: &Response<Body>) -> bool {
    let status = answer.status();
    (status.is_client_error() || status.is_server_error())
        && member.endpoint.is_unix()
        && answer.headers().contains_key(mcp::NOT_FORWARDED_HEADER)
}

/// Whether it says that somebody on the way could not reach the server.
fn is_a_gateways(status: StatusCode) -> bool {
    matches!(status, StatusCode::BAD_GATEWAY | StatusCode::SERVICE_UNAVAILABLE | StatusCode::GATEWAY_TIMEOUT)
}

/// Random enough to spread load.
fn chance() -> u64 {
    static CHANCE: LazyLock<RandomState> = LazyLock::new(RandomState::new);
    static DRAWN: AtomicU64 = AtomicU64::new(0);
    CHANCE.hash_one(DRAWN.fetch_add(1, Relaxed))
}
