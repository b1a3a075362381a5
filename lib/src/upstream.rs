//! What one may connect to: an upstream as configured, possibly with `{route}` in it, and the concrete endpoint that
//! a route makes of it.

use std::fmt;
use std::hash::{BuildHasher, Hash, Hasher, RandomState};
use std::path::{Path, PathBuf};
use std::str::FromStr;
use std::sync::{Arc, LazyLock};

use http::uri::{Authority, PathAndQuery, Scheme};
use http::{HeaderValue, Uri};
use serde::{Deserialize, Deserializer, Serialize, Serializer, de};

use crate::addr::{AddrError, Route, unix_path};
use crate::secret::hex;

/// Stands for the route in an upstream's host, path or socket path.
const PLACEHOLDER: &str = "{route}";
/// What MCP servers use unless told otherwise.
const DEFAULT_PATH: &str = "/mcp";
/// Marks an authority as the hexadecimal path of a Unix socket; no host may end so.
const UNIX_SUFFIX: &str = ".unix";
/// The `Host` for a server behind a Unix socket: one that servers with a check of their own accept.
const UNIX_HOST: HeaderValue = HeaderValue::from_static("127.0.0.1:9121");

/// Something to connect to, as configured; `{route}` may stand in host, path or socket path.
#[derive(Clone, Debug, Eq, Hash, PartialEq)]
pub struct Upstream {
    target: Target,
    /// Always starts with a slash.
    path: String,
}

#[derive(Clone, Debug, Eq, Hash, PartialEq)]
enum Target {
    Http { scheme: Scheme, authority: String },
    Unix { socket: String },
}

impl Upstream {
    /// Whether an endpoint depends on the route of a request.
    pub fn needs_route(&self) -> bool {
        let place = match &self.target {
            Target::Http { authority, .. } => authority,
            Target::Unix { socket } => socket,
        };
        place.contains(PLACEHOLDER) || self.path.contains(PLACEHOLDER)
    }

    /// The Unix socket as configured, where it is one.
    pub fn socket(&self) -> Option<&str> {
        match &self.target {
            Target::Http { .. } => None,
            Target::Unix { socket } => Some(socket),
        }
    }

    /// Whether both are the same socket, or the same scheme, host and port, whatever their paths.
    pub fn is_beside(&self, other: &Self) -> bool {
        self.target == other.target
    }

    /// Another path at the same place, such as `/ready`.
    #[must_use]
    pub fn with_path(&self, path: &'static str) -> Self {
        Upstream { target: self.target.clone(), path: path.to_owned() }
    }

    /// The concrete endpoint for a route; the route is ignored where there is no `{route}`.
    pub fn endpoint(&self, route: Option<&Route>) -> Result<Endpoint, AddrError> {
        if route.is_none() && self.needs_route() {
            return Err(AddrError::NoRoute(self.to_string()));
        }
        let fill = |text: &str| match route {
            Some(route) => text.replace(PLACEHOLDER, route.as_str()),
            None => text.to_owned(),
        };
        let path = fill(&self.path);
        let wrong = |reason| AddrError::Upstream { found: self.to_string(), reason };
        let path: PathAndQuery = path.parse().map_err(|_| wrong("its path is no URL path"))?;
        match &self.target {
            Target::Http { scheme, authority } => {
                let authority = fill(authority);
                let host = HeaderValue::from_str(&authority).map_err(|_| wrong("its host is no host"))?;
                let authority: Authority = authority.parse().map_err(|_| wrong("its host is no host"))?;
                Endpoint::new(scheme.clone(), authority, path, host, None)
            }
            Target::Unix { socket } => {
                let socket = unix_path(&fill(socket))?;
                let name = hex(socket.as_os_str().as_encoded_bytes()) + UNIX_SUFFIX;
                let authority = name.parse().map_err(|_| wrong("its socket path is unusable"))?;
                Endpoint::new(Scheme::HTTP, authority, path, UNIX_HOST, Some(socket))
            }
        }
        .map_err(|_| wrong("no URL can be made of it"))
    }
}

impl FromStr for Upstream {
    type Err = AddrError;

    fn from_str(text: &str) -> Result<Self, AddrError> {
        let (target, path) =
            split(text).map_err(|reason| AddrError::Upstream { found: censored(text), reason })?;
        let upstream = Upstream { target, path: path.unwrap_or(DEFAULT_PATH).to_owned() };
        // The shortest route shows whether the rest is well-formed; only the length of a path can still go wrong.
        let shortest = "r".parse()?;
        upstream.endpoint(Some(&shortest))?;
        Ok(upstream)
    }
}

impl fmt::Display for Upstream {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.target {
            Target::Http { scheme, authority } => write!(f, "{scheme}://{authority}{}", self.path),
            Target::Unix { socket } => write!(f, "unix:{socket}:{}", self.path),
        }
    }
}

impl<'de> Deserialize<'de> for Upstream {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer)?.parse().map_err(de::Error::custom)
    }
}

impl Serialize for Upstream {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

/// Splits into target and path, and refuses what a URL may contain but an upstream must not.
fn split(text: &str) -> Result<(Target, Option<&str>), &'static str> {
    if text.bytes().any(|b| !b.is_ascii_graphic()) {
        return Err("only printable ASCII without spaces");
    }
    if text.replace(PLACEHOLDER, "").contains(['{', '}']) {
        return Err("the only placeholder is {route}");
    }
    if text.contains('#') {
        return Err("a fragment means nothing here");
    }
    if let Some(rest) = text.strip_prefix("unix:") {
        let (socket, path) = match rest.find(":/") {
            Some(colon) => (&rest[..colon], Some(&rest[colon + 1..])),
            None => (rest, None),
        };
        if socket.ends_with(':') {
            return Err("nothing follows the last colon");
        }
        return Ok((Target::Unix { socket: socket.to_owned() }, path));
    }
    let (scheme, rest) = match text.split_once("://") {
        Some(("http", rest)) => (Scheme::HTTP, rest),
        Some(("https", rest)) => (Scheme::HTTPS, rest),
        Some(_) => return Err("its scheme is neither http nor https"),
        None if text.contains(':') => (Scheme::HTTP, text),
        None => return Err("it has neither scheme nor port"),
    };
    let (authority, path) = match rest.find(['/', '?']) {
        Some(at) if rest.as_bytes()[at] == b'/' => (&rest[..at], Some(&rest[at..])),
        Some(_) => return Err("a query needs a path before it"),
        None => (rest, None),
    };
    if authority.contains('@') {
        return Err("credentials do not belong into an address");
    }
    let (host, port) = match authority.rsplit_once(':') {
        Some((host, port)) if !port.contains(']') => (host, Some(port)),
        _ => (authority, None),
    };
    if port.is_some_and(|port| port.parse::<u16>().is_err() || port == "0") {
        return Err("its port is not a number from 1 to 65535");
    }
    if host.is_empty() {
        return Err("it has no host");
    }
    if host.ends_with(UNIX_SUFFIX) {
        return Err("hosts that end in .unix stand for Unix sockets");
    }
    Ok((Target::Http { scheme, authority: authority.to_owned() }, path))
}

/// The text for an error message, without what stands before an `@`: that may be a password.
fn censored(text: &str) -> String {
    match text.rsplit_once('@') {
        Some((_, rest)) => format!("...@{rest}"),
        None => text.to_owned(),
    }
}

/// For [`Inner::digest`]: random, because a request may have a say in the route.
static KEYS: LazyLock<RandomState> = LazyLock::new(RandomState::new);

/// A concrete place to send a request to; a clone is one reference count.
#[derive(Clone, Debug)]
pub struct Endpoint(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    uri: Uri,
    /// The URI without scheme and authority, as it stands in a request.
    target: Uri,
    host: HeaderValue,
    socket: Option<PathBuf>,
    /// Of URI and host, worked out once: the pool looks an endpoint up twice a request.
    digest: u64,
}

impl Endpoint {
    fn new(
        scheme: Scheme,
        authority: Authority,
        path: PathAndQuery,
        host: HeaderValue,
        socket: Option<PathBuf>,
    ) -> Result<Self, http::Error> {
        let uri = Uri::builder().scheme(scheme).authority(authority).path_and_query(path.clone()).build()?;
        let target = Uri::builder().path_and_query(path).build()?;
        Ok(Endpoint::of(uri, target, host, socket))
    }

    fn of(uri: Uri, target: Uri, host: HeaderValue, socket: Option<PathBuf>) -> Self {
        let digest = KEYS.hash_one((&uri, &host));
        Endpoint(Arc::new(Inner { uri, target, host, socket, digest }))
    }

    /// The same place, spoken to with another `Host` header.
    pub fn with_host(&self, host: HeaderValue) -> Self {
        let Inner { uri, target, socket, .. } = &*self.0;
        Endpoint::of(uri.clone(), target.clone(), host, socket.clone())
    }

    /// The URI of the request; for a Unix socket its authority is the hexadecimal path of the socket and `.unix`.
    pub fn uri(&self) -> &Uri {
        &self.0.uri
    }

    /// What stands in the first line of a request: path and query.
    pub fn target(&self) -> &Uri {
        &self.0.target
    }

    /// The `Host` header: the authority as configured, with its port; `127.0.0.1:9121` for a Unix socket.
    pub fn host(&self) -> &HeaderValue {
        &self.0.host
    }

    /// Whether it is reached through a Unix socket.
    pub fn is_unix(&self) -> bool {
        self.0.socket.is_some()
    }

    /// The Unix socket, where it is one.
    pub fn socket(&self) -> Option<&Path> {
        self.0.socket.as_deref()
    }
}

impl PartialEq for Endpoint {
    fn eq(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.0, &other.0) || (self.0.uri == other.0.uri && self.0.host == other.0.host)
    }
}

impl Eq for Endpoint {}

impl Hash for Endpoint {
    fn hash<H: Hasher>(&self, state: &mut H) {
        state.write_u64(self.0.digest);
    }
}

impl fmt::Display for Endpoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.0.socket {
            Some(socket) => {
                write!(
                    f,
                    "unix:{}:{}",
                    socket.display(),
                    self.0.uri.path_and_query().map_or("/", |p| p.as_str())
                )
            }
            None => self.0.uri.fmt(f),
        }
    }
}

/// The path of the Unix socket that an [`Endpoint`]'s authority stands for, if it does.
pub fn socket_of(uri: &Uri) -> Option<PathBuf> {
    let digits = uri.host()?.strip_suffix(UNIX_SUFFIX)?.as_bytes();
    let mut path = String::with_capacity(digits.len() / 2);
    for pair in digits.chunks(2) {
        let byte = u8::from_str_radix(str::from_utf8(pair).ok()?, 16).ok()?;
        path.push(char::from(byte).is_ascii().then_some(char::from(byte))?);
    }
    Some(PathBuf::from(path))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn endpoint(text: &str, route: &str) -> Endpoint {
        text.parse::<Upstream>().unwrap().endpoint(Some(&route.parse().unwrap())).unwrap()
    }

    #[test]
    fn every_documented_form_is_read_and_shown_whole() {
        for (text, shown, host) in [
            ("127.0.0.1:8080", "http://127.0.0.1:8080/mcp", "127.0.0.1:8080"),
            ("[::1]:8080", "http://[::1]:8080/mcp", "[::1]:8080"),
            ("http://host", "http://host/mcp", "host"),
            ("http://host:81/", "http://host:81/", "host:81"),
            ("https://h.example/a/mcp?x=1", "https://h.example/a/mcp?x=1", "h.example"),
            ("unix:/run/x.sock", "unix:/run/x.sock:/mcp", "127.0.0.1:9121"),
            ("unix:/run/x.sock:/other", "unix:/run/x.sock:/other", "127.0.0.1:9121"),
        ] {
            let upstream: Upstream = text.parse().unwrap();
            assert_eq!(upstream.to_string(), shown);
            let endpoint = upstream.endpoint(None).unwrap();
            assert_eq!(endpoint.to_string(), shown);
            assert_eq!(endpoint.host(), host);
            assert_eq!(endpoint.is_unix(), text.starts_with("unix:"));
        }
    }

    #[test]
    fn the_route_is_filled_in_everywhere() {
        assert_eq!(endpoint("unix:/run/{route}/x.sock", "a").socket(), Some(Path::new("/run/a/x.sock")));
        assert_eq!(endpoint("http://{route}.local:80/{route}", "a").to_string(), "http://a.local:80/a");
        let upstream: Upstream = "unix:/run/{route}/x.sock".parse().unwrap();
        assert!(upstream.needs_route());
        assert!(matches!(upstream.endpoint(None), Err(AddrError::NoRoute(_))));
    }

    #[test]
    fn a_route_that_makes_the_path_too_long_is_an_error_when_it_comes() {
        let upstream: Upstream = format!("unix:/{}/{{route}}", "d".repeat(100)).parse().unwrap();
        assert!(upstream.endpoint(Some(&"r".parse().unwrap())).is_ok());
        let long = "r".repeat(63).parse().unwrap();
        assert!(matches!(upstream.endpoint(Some(&long)), Err(AddrError::PathTooLong { found: 165, .. })));
    }

    #[test]
    fn what_is_wrong_is_said_without_a_password() {
        for (text, reason) in [
            ("ftp://host/", "scheme"),
            ("host", "neither scheme nor port"),
            ("http://", "no host"),
            ("http://host:0/mcp", "port"),
            ("http://host:http/mcp", "port"),
            ("http://me:hunter2@host/mcp", "credentials"),
            ("http://host/mcp#x", "fragment"),
            ("http://host/{name}", "{route}"),
            ("http://2f.unix/mcp", ".unix"),
            ("http://a b/", "ASCII"),
        ] {
            let error = text.parse::<Upstream>().unwrap_err().to_string();
            assert!(error.contains(reason) && error.contains("write http://127.0.0.1:8080/mcp"), "{error}");
            assert!(!error.contains("hunter2"), "{error}");
        }
        assert!(matches!("unix:x.sock".parse::<Upstream>(), Err(AddrError::RelativePath(_))));
    }

    #[test]
    fn endpoints_with_different_hosts_are_different() {
        let one = endpoint("127.0.0.1:1", "r");
        let other = one.with_host(HeaderValue::from_static("other:1"));
        assert_ne!(one, other);
        assert_eq!(one, one.clone());
        assert_eq!((other.host(), other.uri()), (&HeaderValue::from_static("other:1"), one.uri()));
    }

    #[test]
    fn another_path_is_beside_the_first() {
        for text in ["unix:/run/{route}/x.sock", "https://host:1/mcp"] {
            let upstream: Upstream = text.parse().unwrap();
            let beside = upstream.with_path("/ready");
            assert!(beside.is_beside(&upstream) && beside != upstream);
            assert!(beside.to_string().ends_with("/ready"), "{beside}");
        }
        let upstream: Upstream = "http://host:1/mcp".parse().unwrap();
        assert!(!upstream.is_beside(&"https://host:1/mcp".parse().unwrap()));
        assert!(!upstream.is_beside(&"http://host:2/mcp".parse().unwrap()));
        assert_eq!(
            "unix:/run/{route}/x.sock:/a".parse::<Upstream>().unwrap().socket(),
            Some("/run/{route}/x.sock")
        );
    }

    proptest! {
        #[test]
        fn whatever_parses_is_shown_so_that_it_parses_back(text in "(unix:/|https?://|)[a-z0-9.:/?{}-]{0,12}(\\{route\\})?[ -~]{0,20}") {
            if let Ok(upstream) = text.parse::<Upstream>() {
                prop_assert_eq!(upstream.to_string().parse::<Upstream>().unwrap(), upstream);
            }
        }

        #[test]
        fn the_connector_decodes_every_socket_path(path in "/[!-9;-~]{1,60}[a-z]") {
            prop_assume!(!path.contains(['{', '}', '#']));
            let endpoint = format!("unix:{path}").parse::<Upstream>().unwrap().endpoint(None).unwrap();
            prop_assert_eq!(socket_of(endpoint.uri()), Some(PathBuf::from(path)));
        }
    }
}
