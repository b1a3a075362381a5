//! The yardstick: the least a proxy of MCP sessions can do over hyper. It buffers the request body, parses the
//! envelope, maps the session id, forwards, and passes the answer through. It heals, limits and checks nothing.
//! Keep it as fast as an honest expert would write it: every ratio of the bench is a ratio to this file.

use std::cell::RefCell;
use std::collections::HashMap;
use std::collections::hash_map::RandomState;
use std::error::Error;
use std::hash::{BuildHasher, Hasher};
use std::io;
use std::net::SocketAddr;
use std::rc::Rc;

use argh::FromArgs;
use bytes::Bytes;
use http::{HeaderName, HeaderValue, Method, Request, Response, StatusCode, Uri};
use http_body_util::{BodyExt, Either, Full};
use hyper::body::Incoming;
use hyper_util::client::legacy::{Client, connect::HttpConnector};
use hyper_util::rt::TokioExecutor;
use serde::Deserialize;
use serde_json::value::RawValue;

use crate::serve::serve;

const SESSION: HeaderName = HeaderName::from_static("mcp-session-id");

/// a bare hyper proxy that parses the envelope and maps the session id
#[derive(FromArgs)]
#[argh(subcommand, name = "hop")]
pub struct Options {
    /// address to listen on
    #[argh(option)]
    listen: SocketAddr,
    /// URL of the server behind
    #[argh(option)]
    upstream: Uri,
}

struct Hop {
    client: Client<HttpConnector, Full<Bytes>>,
    upstream: Uri,
    /// The id the client holds to the id the server gave.
    sessions: RefCell<HashMap<HeaderValue, HeaderValue>>,
}

#[derive(Deserialize)]
struct Envelope<'a> {
    #[serde(borrow)]
    id: Option<&'a RawValue>,
    #[serde(borrow)]
    method: Option<std::borrow::Cow<'a, str>>,
}

type Answer = Response<Either<Incoming, Full<Bytes>>>;

/// Forwards `listen` to the server behind until the process is stopped.
pub async fn run(options: &Options) -> io::Result<()> {
    let mut connector = HttpConnector::new();
    connector.set_nodelay(true);
    let client = Client::builder(TokioExecutor::new()).build(connector);
    let hop = Hop { client, upstream: options.upstream.clone(), sessions: RefCell::default() };
    serve(options.listen, Rc::new(hop), |hop, request| async move {
        hop.forward(request).await.unwrap_or_else(|error| plain(StatusCode::BAD_GATEWAY, error.to_string()))
    })
    .await
}

impl Hop {
    async fn forward(&self, request: Request<Incoming>) -> Result<Answer, Box<dyn Error>> {
        let (mut parts, body) = request.into_parts();
        let body = body.collect().await?.to_bytes();
        let mut opens = false;
        if parts.method == Method::POST {
            let envelope: Envelope<'_> = serde_json::from_slice(&body)?;
            opens = envelope.id.is_some() && envelope.method.as_deref() == Some("initialize");
        }
        if let Some(id) = parts.headers.get_mut(SESSION) {
            let mut sessions = self.sessions.borrow_mut();
            let known =
                if parts.method == Method::DELETE { sessions.remove(id) } else { sessions.get(id).cloned() };
            let Some(known) = known else {
                return Ok(plain(StatusCode::NOT_FOUND, "session not found".to_owned()));
            };
            *id = known;
        }
        parts.uri = self.upstream.clone();
        let mut answer = self.client.request(Request::from_parts(parts, Full::new(body))).await?;
        if opens && let Some(id) = answer.headers_mut().get_mut(SESSION) {
            let minted = HeaderValue::from_str(&random_id())?;
            // Copied: the value that came is a slice of the connection's read buffer and would keep all of it.
            let theirs = HeaderValue::from_bytes(id.as_bytes())?;
            *id = minted.clone();
            self.sessions.borrow_mut().insert(minted, theirs);
        }
        Ok(answer.map(Either::Left))
    }
}

fn plain(status: StatusCode, text: String) -> Answer {
    let mut answer = Response::new(Either::Right(Full::from(text)));
    *answer.status_mut() = status;
    answer
}

/// 32 hexadecimal digits: unique in this process, not secret.
pub fn random_id() -> String {
    let [high, low] = [(), ()].map(|()| RandomState::new().build_hasher().finish());
    format!("{high:016x}{low:016x}")
}
