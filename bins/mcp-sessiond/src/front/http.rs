//! The HTTP front: paths, `Host` and `Origin` on TCP (DNS rebinding), sizes and patience; then the engine.

use std::future::ready;
use std::pin::Pin;
use std::sync::Arc;
use std::task::Poll;

use bytes::{Bytes, BytesMut};
use http::header::AsHeaderName;
use http::{HeaderMap, HeaderValue, Method, Request, Response, StatusCode, header, request};
use http_body_util::BodyExt;
use hyper::body::{Body as _, Incoming};
use mcp_daemon::body::Body;
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
        check_host(config, &head.headers)?;
        check_origin(config, &head.headers)?;
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

fn check_host(config: &Config, headers: &HeaderMap) -> Result<(), Response<Body>> {
    let host = only(headers, header::HOST).ok().flatten().unwrap_or_default();
    let fits = |allowed: &String| allowed == host || allowed == name_of(host);
    if is_loopback(name_of(host)) || config.allowed_hosts.iter().any(fits) {
        return Ok(());
    }
    let message = format!("Host `{}` is not allowed here; add it to allowed_hosts", printable(host));
    Err(reply::refused(StatusCode::MISDIRECTED_REQUEST, "null", mcp::INVALID_REQUEST, &message))
}

fn check_origin(config: &Config, headers: &HeaderMap) -> Result<(), Response<Body>> {
    let is_allowed = |origin: &str| {
        let local = origin.split_once("://").is_some_and(|(_, host)| is_loopback(name_of(host)));
        local || config.allowed_origins.iter().any(|allowed| allowed == origin || allowed == "*")
    };
    for origin in headers.get_all(header::ORIGIN) {
        let origin = origin.to_str().unwrap_or_default();
        if !is_allowed(origin) {
            let message =
                format!("Origin `{}` is not allowed here; add it to allowed_origins", printable(origin));
            return Err(reply::refused(StatusCode::FORBIDDEN, "null", mcp::INVALID_REQUEST, &message));
        }
    }
    Ok(())
}

/// `host` without its port.
fn name_of(host: &str) -> &str {
    let colon = host.bytes().rposition(|byte| byte == b':');
    let parts = colon.map(|colon| (&host[..colon], &host[colon + 1..]));
    let port = parts.filter(|(name, port)| {
        port.bytes().all(|byte| byte.is_ascii_digit()) && (!name.contains(':') || name.ends_with(']'))
    });
    port.map_or(host, |(name, _)| name)
}

fn is_loopback(name: &str) -> bool {
    let name = name.trim_end_matches('.');
    // What nearly everybody says comes first: parsing costs more.
    name == "127.0.0.1"
        || name.eq_ignore_ascii_case("localhost")
        || name == "[::1]"
        || name.parse::<std::net::Ipv4Addr>().is_ok_and(|address| address.is_loopback())
}

fn printable(text: &str) -> String {
    text.chars().filter(|char| char.is_ascii_graphic()).take(100).collect()
}

/// Reads a request's body within `limits.body` and `limits.body_timeout`.
async fn read(config: &Config, mut body: Incoming) -> Result<Bytes, Response<Body>> {
    let bound = config.limits.body.bytes();
    let too_large = || {
        let message = format!("the body is larger than limits.body ({})", config.limits.body);
        reply::refused(StatusCode::PAYLOAD_TOO_LARGE, "null", mcp::INVALID_REQUEST, &message)
    };
    if body.size_hint().lower() > bound as u64 {
        return Err(too_large());
    }
    let collected = collect(&mut body, bound);
    tokio::pin!(collected);
    // Most bodies come with their head: those need no timer.
    let at_once = std::future::poll_fn(|cx| Poll::Ready(collected.as_mut().poll(cx))).await;
    let patience = config.limits.body_timeout.duration();
    let collected = match at_once {
        Poll::Ready(collected) => Ok(collected),
        Poll::Pending => tokio::time::timeout(patience, collected).await,
    };
    match collected {
        Ok(Ok(Some(body))) => Ok(body),
        Ok(Ok(None)) => Err(too_large()),
        Ok(Err(_broken)) => {
            Err(reply::refused(StatusCode::BAD_REQUEST, "null", mcp::PARSE_ERROR, "the body broke off"))
        }
        Err(_elapsed) => {
            let message =
                format!("the body did not come within limits.body_timeout ({})", config.limits.body_timeout);
            Err(reply::refused(StatusCode::REQUEST_TIMEOUT, "null", mcp::INVALID_REQUEST, &message))
        }
    }
}

/// All of a body, or none if it is longer than `bound` bytes; one that came in one piece is not copied.
async fn collect(body: &mut Incoming, bound: usize) -> Result<Option<Bytes>, hyper::Error> {
    let mut all = Bytes::new();
    while let Some(frame) = body.frame().await {
        let Ok(chunk) = frame?.into_data() else { continue };
        if all.len() + chunk.len() > bound {
            return Ok(None);
        }
        all = if all.is_empty() {
            chunk
        } else {
            let mut joined = all.try_into_mut().unwrap_or_else(|all| BytesMut::from(&all[..]));
            joined.extend_from_slice(&chunk);
            joined.freeze()
        };
    }
    Ok(Some(all))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn headers(name: http::HeaderName, value: &str) -> HeaderMap {
        HeaderMap::from_iter([(name, value.parse().unwrap())])
    }

    #[test]
    fn loopback_hosts_pass_and_others_have_to_be_named() {
        let config = Config {
            allowed_hosts: vec!["serena.example".into(), "10.0.0.1:9121".into()],
            ..Config::default()
        };
        let check = |host: &str| check_host(&config, &headers(header::HOST, host)).is_ok();
        for host in [
            "localhost",
            "localhost:9121",
            "127.0.0.1:80",
            "[::1]:9121",
            "127.1.2.3",
            "serena.example:443",
            "10.0.0.1:9121",
        ] {
            assert!(check(host), "{host}");
        }
        for host in
            ["evil.example", "localhost.evil.example", "127.0.0.1.evil.example", "10.0.0.1:1", "", "::1"]
        {
            assert!(!check(host), "{host}");
        }
        assert!(check_host(&config, &HeaderMap::new()).is_err());
    }

    #[test]
    fn foreign_origins_are_refused() {
        let config = Config { allowed_origins: vec!["https://ide.example".into()], ..Config::default() };
        let check = |origin: &str| check_origin(&config, &headers(header::ORIGIN, origin)).is_ok();
        assert!(check("http://localhost:3000") && check("https://ide.example") && check("http://127.0.0.1"));
        assert!(!check("https://evil.example") && !check("null") && !check("http://localhost.evil.example"));
        assert!(check_origin(&config, &HeaderMap::new()).is_ok());
    }
}
