//! `Host` and `Origin` on TCP: a web page must not reach us through a name of its own (DNS rebinding).
//!
//! Loopback names always pass; what else does, the settings say.

use http::{HeaderMap, StatusCode, header, request};

/// Longest part of a foreign name that an answer repeats, in characters.
const MAX_SHOWN: usize = 100;

/// Why a request is not for us, in a sentence for its sender.
#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
pub enum Foreign {
    /// It is for somebody else.
    #[error("Host `{0}` is not allowed here; add it to allowed_hosts")]
    Host(String),
    /// It comes from a page of somebody else.
    #[error("Origin `{0}` is not allowed here; add it to allowed_origins")]
    Origin(String),
    /// It names no host, or two: somebody before us may have looked at the other one (RFC 9112, 3.2).
    #[error("a request names one host")]
    Unclear,
}

impl Foreign {
    /// A host that nobody allowed.
    pub fn host(host: &str) -> Self {
        Foreign::Host(printable(host))
    }

    /// The status of the answer.
    pub fn status(&self) -> StatusCode {
        match self {
            Foreign::Host(_) => StatusCode::MISDIRECTED_REQUEST,
            Foreign::Origin(_) => StatusCode::FORBIDDEN,
            Foreign::Unclear => StatusCode::BAD_REQUEST,
        }
    }
}

/// Refuses a request whose `Host` or `Origin` is neither loopback nor allowed: hosts with or without their port, origins as
/// browsers write them, `*` for every origin.
pub fn check(head: &request::Parts, hosts: &[String], origins: &[String]) -> Result<(), Foreign> {
    let host = host_of(head)?;
    if !is_allowed_host(host, hosts) {
        return Err(Foreign::host(host));
    }
    check_origins(&head.headers, origins)
}

/// The second half of [`check`].
pub fn check_origins(headers: &HeaderMap, allowed: &[String]) -> Result<(), Foreign> {
    for origin in headers.get_all(header::ORIGIN) {
        let origin = origin.to_str().unwrap_or_default();
        if !is_allowed_origin(origin, allowed) {
            return Err(Foreign::Origin(printable(origin)));
        }
    }
    Ok(())
}

/// The one host that a request is for, with its port: `Host`, and what stands in the request line (HTTP/2: `:authority`)
/// where that names one, which then has to be the same.
pub fn host_of(head: &request::Parts) -> Result<&str, Foreign> {
    let target = head.uri.authority().map(http::uri::Authority::as_str);
    let mut lines = head.headers.get_all(header::HOST).iter();
    let host = match lines.next() {
        Some(line) => Some(line.to_str().map_err(|_| Foreign::Unclear)?),
        None => None,
    };
    match (target, host) {
        _ if lines.next().is_some() => Err(Foreign::Unclear),
        (Some(target), Some(host)) if !target.eq_ignore_ascii_case(host) => Err(Foreign::Unclear),
        (None, None) => Err(Foreign::Unclear),
        (Some(host), _) | (None, Some(host)) => Ok(host),
    }
}

/// Whether a host is loopback or one of `allowed`.
pub fn is_allowed_host(host: &str, allowed: &[String]) -> bool {
    let name = name_of(host);
    let fits = |allowed: &String| allowed.eq_ignore_ascii_case(host) || allowed.eq_ignore_ascii_case(name);
    is_loopback(name) || allowed.iter().any(fits)
}

/// Whether an origin is that of a loopback host or one of `allowed`.
pub fn is_allowed_origin(origin: &str, allowed: &[String]) -> bool {
    let is_local = origin.split_once("://").is_some_and(|(_, host)| is_loopback(name_of(host)));
    is_local || allowed.iter().any(|allowed| allowed == origin || allowed == "*")
}

/// `host` without its port.
pub fn name_of(host: &str) -> &str {
    let colon = host.bytes().rposition(|byte| byte == b':');
    let parts = colon.map(|colon| (&host[..colon], &host[colon + 1..]));
    let port = parts.filter(|(name, port)| {
        port.bytes().all(|byte| byte.is_ascii_digit()) && (!name.contains(':') || name.ends_with(']'))
    });
    port.map_or(host, |(name, _)| name)
}

/// Whether a name, without its port, leads to this machine alone.
pub fn is_loopback(name: &str) -> bool {
    let name = name.trim_end_matches('.');
    // What nearly everybody says comes first: parsing costs more.
    name == "127.0.0.1"
        || name.eq_ignore_ascii_case("localhost")
        || name == "[::1]"
        || name.parse::<std::net::Ipv4Addr>().is_ok_and(|address| address.is_loopback())
}

fn printable(text: &str) -> String {
    text.chars().filter(|char| char.is_ascii_graphic()).take(MAX_SHOWN).collect()
}

#[cfg(test)]
mod tests {
    use http::Request;

    use super::*;

    fn head(target: &str, headers: &[(&str, &str)]) -> request::Parts {
        let mut request = Request::builder().uri(target);
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        request.body(()).unwrap().into_parts().0
    }

    #[test]
    fn loopback_hosts_pass_and_others_have_to_be_named() {
        let hosts = ["serena.example".to_owned(), "10.0.0.1:9121".to_owned()];
        let check = |host: &str| check(&head("/mcp", &[("host", host)]), &hosts, &[]);
        for host in [
            "localhost",
            "localhost:9121",
            "127.0.0.1:80",
            "[::1]:9121",
            "127.1.2.3",
            "serena.example:443",
            "Serena.Example",
            "10.0.0.1:9121",
        ] {
            assert_eq!(check(host), Ok(()), "{host}");
        }
        for host in
            ["evil.example", "localhost.evil.example", "127.0.0.1.evil.example", "10.0.0.1:1", "", "::1"]
        {
            assert_eq!(check(host), Err(Foreign::Host(host.into())), "{host}");
        }
    }

    #[test]
    fn a_request_that_names_no_host_or_two_is_refused() {
        let unclear = Err(Foreign::Unclear);
        assert_eq!(host_of(&head("/mcp", &[])), unclear);
        assert_eq!(host_of(&head("/mcp", &[("host", "a"), ("host", "a")])), unclear);
        assert_eq!(host_of(&head("http://a/mcp", &[("host", "b")])), unclear);
        assert_eq!(host_of(&head("http://me@a/mcp", &[("host", "a")])), unclear);
        assert_eq!(host_of(&head("http://a:1/mcp", &[("host", "A:1")])), Ok("a:1"));
        assert_eq!(host_of(&head("https://a/mcp", &[])), Ok("a"));
        assert_eq!(host_of(&head("/mcp", &[("host", "b:1")])), Ok("b:1"));
    }

    #[test]
    fn foreign_origins_are_refused() {
        let origins = ["https://ide.example".to_owned()];
        let check =
            |origin: &str| check(&head("/", &[("host", "localhost"), ("origin", origin)]), &[], &origins);
        for origin in ["http://localhost:3000", "https://ide.example", "http://127.0.0.1"] {
            assert_eq!(check(origin), Ok(()), "{origin}");
        }
        for origin in ["https://evil.example", "null", "http://localhost.evil.example"] {
            assert_eq!(check(origin), Err(Foreign::Origin(origin.into())), "{origin}");
        }
    }
}
