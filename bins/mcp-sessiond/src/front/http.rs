//! The HTTP front: paths, `Host` and `Origin` on TCP (DNS rebinding), sizes and patience; then the engine.

use std::sync::Arc;

use bytes::{Bytes, BytesMut};
use http::{HeaderMap, HeaderValue, Method, Request, Response, StatusCode, header, request};
use http_body_util::BodyExt;
use hyper::body::{Body as _, Incoming};
use mcp_daemon::body::Body;
use mcp_daemon::serve::Peer;

use crate::config::Config;
use crate::mcp;
use crate::session::engine::{Caller, Engine, ROUTE, SUBJECT};
use crate::session::reply;

/// Answers one HTTP request.
pub async fn answer(engine: Arc<Engine>, request: Request<Incoming>, peer: Peer) -> Response<Body> {
    let (head, body) = request.into_parts();
    let caller = match admit(&engine.config(), &head, peer) {
        Ok(caller) => caller,
        Err(refusal) => return refusal,
    };
    let body = match head.method {
        Method::POST => match read(&engine.config(), body).await {
            Ok(body) => body,
            Err(refusal) => return refusal,
        },
        _ => Bytes::new(),
    };
    engine.handle(caller, Request::from_parts(head, body)).await
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
    if !peer.trusted {
        return Ok(Caller { subject: Arc::default(), route: None });
    }
    let text = |name| head.headers.get(name).map(|value: &HeaderValue| value.to_str().unwrap_or_default());
    let route = text(ROUTE).map(str::parse).transpose().map_err(|_| {
        reply::refused(StatusCode::BAD_REQUEST, "null", mcp::INVALID_REQUEST, "Mcp-Route is not a route name")
    })?;
    Ok(Caller { subject: text(SUBJECT).unwrap_or_default().into(), route })
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
    let host = headers.get(header::HOST).and_then(|host| host.to_str().ok()).unwrap_or_default();
    let fits = |allowed: &String| allowed == host || allowed == name_of(host);
    if is_loopback(name_of(host)) || config.allowed_hosts.iter().any(fits) {
        return Ok(());
    }
    let message = format!("Host `{}` is not allowed here; add it to allowed_hosts", printable(host));
    Err(reply::refused(StatusCode::MISDIRECTED_REQUEST, "null", mcp::INVALID_REQUEST, &message))
}

fn check_origin(config: &Config, headers: &HeaderMap) -> Result<(), Response<Body>> {
    let Some(origin) = headers.get(header::ORIGIN) else { return Ok(()) };
    let origin = origin.to_str().unwrap_or_default();
    let local = origin.split_once("://").is_some_and(|(_, host)| is_loopback(name_of(host)));
    if local || config.allowed_origins.iter().any(|allowed| allowed == origin || allowed == "*") {
        return Ok(());
    }
    let message = format!("Origin `{}` is not allowed here; add it to allowed_origins", printable(origin));
    Err(reply::refused(StatusCode::FORBIDDEN, "null", mcp::INVALID_REQUEST, &message))
}

/// `host` without its port.
fn name_of(host: &str) -> &str {
    let port = host.rsplit_once(':').filter(|(name, port)| {
        port.bytes().all(|byte| byte.is_ascii_digit()) && (!name.contains(':') || name.ends_with(']'))
    });
    port.map_or(host, |(name, _)| name)
}

fn is_loopback(name: &str) -> bool {
    let name = name.trim_end_matches('.');
    name.eq_ignore_ascii_case("localhost")
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
    let collected = async {
        let mut first: Option<Bytes> = None;
        let mut all = BytesMut::new();
        while let Some(frame) = body.frame().await {
            let Ok(chunk) = frame.map_err(|_| broken())?.into_data() else { continue };
            match first.take() {
                None if all.is_empty() => first = Some(chunk),
                None => all.extend_from_slice(&chunk),
                Some(first) => {
                    all.extend_from_slice(&first);
                    all.extend_from_slice(&chunk);
                }
            }
            if all.len().max(first.as_ref().map_or(0, Bytes::len)) > bound {
                return Err(too_large());
            }
        }
        Ok(first.unwrap_or_else(|| all.freeze()))
    };
    match tokio::time::timeout(config.limits.body_timeout.duration(), collected).await {
        Ok(body) => body,
        Err(_elapsed) => {
            let message =
                format!("the body did not come within limits.body_timeout ({})", config.limits.body_timeout);
            Err(reply::refused(StatusCode::REQUEST_TIMEOUT, "null", mcp::INVALID_REQUEST, &message))
        }
    }
}

fn broken() -> Response<Body> {
    reply::refused(StatusCode::BAD_REQUEST, "null", mcp::PARSE_ERROR, "the body broke off")
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
