//! The HTTP front: paths, `Host` and `Origin` on TCP (DNS rebinding), sizes and patience; then the engine.

use std::future::ready;
use std::pin::Pin;
use std::sync::Arc;

use bytes::Bytes;
use http::header::AsHeaderName;
use http::{HeaderMap, HeaderValue, Method, Request, Response, StatusCode, header, request};
use hyper::body::Incoming;
use mcp_daemon::body::Body;
use mcp_daemon::hosts;
use mcp_daemon::inbound::{self, Unread};
use mcp_daemon::serve::Peer;

use crate::config::Config;
use crate::mcp;
use crate::session::engine::{Caller, Engine};
use crate::session::headers::{ROUTE, SUBJECT};
use crate::session::reply;

/// Answers one HTTP request.
///
/// Boxed as a whole: a connection keeps room for what this returns for as long as it is open.
pub fn answer(
    engine: Arc<Engine>,
    request: Request<Incoming>,
    peer: Peer,
) -> Pin<Box<dyn Future<Output = Response<Body>> + Send>> {
    let (head, body) = request.into_parts();
    let admitted = admit(&engine.config(), &head, peer);
    let caller = match admitted {
        Ok(caller) => caller,
        Err(refusal) => return Box::pin(ready(refusal)),
    };
    let request::Parts { method, headers, .. } = head;
    Box::pin(async move {
        let body = match method {
            Method::POST => match read(&engine.config(), body).await {
                Ok(body) => body,
                Err(refusal) => return refusal,
            },
            _ => Bytes::new(),
        };
        engine.handle(caller, method, headers, body).await
    })
}

/// Lets a request in, and says whose it is.
fn admit(config: &Config, head: &request::Parts, peer: Peer) -> Result<Caller, Response<Body>> {
    if peer.tcp {
        hosts::check(head, &config.allowed_hosts, &config.allowed_origins).map_err(|foreign| {
            reply::refused(foreign.status(), "null", mcp::INVALID_REQUEST, &foreign.to_string())
        })?;
    }
    if head.uri.path() != config.path {
        return Err(signpost(config, &head.headers, peer));
    }
    if head.headers.get_all(mcp::SESSION).iter().nth(1).is_some() {
        return Err(reply::refused(
            StatusCode::BAD_REQUEST,
            "null",
            mcp::INVALID_REQUEST,
            "Mcp-Session-Id came twice",
        ));
    }
    if !peer.trusted {
        return Ok(Caller { subject: Arc::default(), route: None });
    }
    let wrong = |message| reply::refused(StatusCode::BAD_REQUEST, "null", mcp::INVALID_REQUEST, message);
    let subject = only(&head.headers, SUBJECT)
        .map_err(|()| wrong("Mcp-Auth-Subject must be one line of visible ASCII"))?;
    let route = only(&head.headers, ROUTE).and_then(|route| route.map(str::parse).transpose().map_err(drop));
    let route = route.map_err(|()| wrong("Mcp-Route is not one route name"))?;
    Ok(Caller { subject: subject.unwrap_or_default().into(), route })
}

/// The value of a header that must not come twice: somebody before us may have looked at the other one.
fn only(headers: &HeaderMap, name: impl AsHeaderName) -> Result<Option<&str>, ()> {
    let mut values = headers.get_all(name).iter();
    match (values.next(), values.next()) {
        (None, _) => Ok(None),
        (Some(value), None) => value.to_str().map(Some).map_err(drop),
        (Some(_), Some(_)) => Err(()),
    }
}

/// People spend days on a bare 404 for a URL that ends in `/sse` or nothing: name the right one.
fn signpost(config: &Config, headers: &HeaderMap, peer: Peer) -> Response<Body> {
    let host = headers.get(header::HOST).and_then(|host| host.to_str().ok()).filter(|_| peer.tcp);
    let url = host.map_or_else(|| config.path.clone(), |host| format!("http://{host}{}", config.path));
    let mut answer = Response::new(Body::from(format!(
        "MCP is served at {url} (Streamable HTTP); put this URL into your client.\n"
    )));
    *answer.status_mut() = StatusCode::NOT_FOUND;
    answer.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static("text/plain; charset=utf-8"));
    answer
}

/// Reads a request's body within `limits.body` and `limits.body_timeout`.
async fn read(config: &Config, body: Incoming) -> Result<Bytes, Response<Body>> {
    let limits = &config.limits;
    let refused = |status, code, message: &str| reply::refused(status, "null", code, message);
    inbound::read(body, limits.body.bytes(), limits.body_timeout.duration()).await.map_err(|unread| {
        match unread {
            Unread::Broken => refused(StatusCode::BAD_REQUEST, mcp::PARSE_ERROR, "the body broke off"),
            Unread::Late => {
                let message =
                    format!("the body did not come within limits.body_timeout ({})", limits.body_timeout);
                refused(StatusCode::REQUEST_TIMEOUT, mcp::INVALID_REQUEST, &message)
            }
            Unread::TooLarge => {
                let message = format!("the body is larger than limits.body ({})", limits.body);
                refused(StatusCode::PAYLOAD_TOO_LARGE, mcp::INVALID_REQUEST, &message)
            }
        }
    })
}
