//! OAuth for clients that log in elsewhere: protected resource metadata (RFC 9728) and the challenge that leads to it
//! (MCP 2025-11-25 and 2026-07-28, authorization).

use http::{HeaderValue, Method, Response, StatusCode, header, request, uri};
use mcp_daemon::body::Body;
use mcp_daemon::hosts;
use serde_json::json;

use crate::answer;
use crate::config::Config;
use crate::config::policy::{Metadata, public_url};

/// Where metadata is found; the resource's own path may follow.
const WELL_KNOWN: &str = "/.well-known/oauth-protected-resource";

/// How clients know us: what stands before the path, and the path.
struct Resource {
    origin: String,
    path: String,
}

/// Whether the metadata is found at this path.
pub fn is_at(config: &Config, path: &str) -> bool {
    let Some(suffix) = path.strip_prefix(WELL_KNOWN).filter(|_| config.metadata.is_some()) else {
        return false;
    };
    // A proxy may show us under a path of its own, and hand the rest on as it came.
    suffix.is_empty() || suffix == config.path || public(config).is_some_and(|known| known.path == suffix)
}

/// Answers a request for the metadata. Which pages may read it is decided as for everything else
/// ([`manners`](super::manners)).
pub fn answer(config: &Config, head: &request::Parts) -> Response<Body> {
    let Some(metadata) = &config.metadata else { return answer::text(StatusCode::NOT_FOUND, String::new()) };
    if !matches!(head.method, Method::GET | Method::HEAD) {
        let mut answer = answer::text(StatusCode::METHOD_NOT_ALLOWED, "GET this.\n".into());
        answer.headers_mut().insert(header::ALLOW, HeaderValue::from_static("GET, HEAD"));
        return answer;
    }
    match resource(config, head) {
        Some(resource) => document(config, metadata, &resource),
        None => answer::text(StatusCode::BAD_REQUEST, "This needs a Host header.\n".into()),
    }
}

/// `WWW-Authenticate` (RFC 6750, 3; RFC 9728, 5.1): an error where the client made one, the scopes that would do where they
/// are known, and where to log in.
pub fn challenge(
    config: &Config,
    head: &request::Parts,
    error: Option<&str>,
    scopes: &[&str],
) -> HeaderValue {
    let mut parameters = Vec::new();
    if let Some(error) = error {
        parameters.push(format!("error=\"{error}\""));
    }
    if !scopes.is_empty() {
        parameters.push(format!("scope=\"{}\"", scopes.join(" ")));
    }
    if config.metadata.is_some()
        && let Some(Resource { origin, path }) = resource(config, head)
    {
        parameters.push(format!("resource_metadata=\"{origin}{WELL_KNOWN}{path}\""));
    }
    let value = match parameters.is_empty() {
        true => "Bearer".to_owned(),
        false => format!("Bearer {}", parameters.join(", ")),
    };
    // The settings' scopes and URLs are visible ASCII, and so is what was read as an authority.
    HeaderValue::from_str(&value).unwrap_or_else(|_| HeaderValue::from_static("Bearer"))
}

/// The scopes that everything needs: all that is known to help somebody who showed no credential yet.
pub fn basic_scopes(config: &Config) -> Vec<&str> {
    let is_about_all = |patterns: [&String; 3]| patterns.iter().all(|pattern| *pattern == "*");
    let basic = config.require.iter().filter(|rule| is_about_all([&rule.route, &rule.method, &rule.name]));
    once(basic.flat_map(|rule| &rule.scopes))
}

fn document(config: &Config, metadata: &Metadata, resource: &Resource) -> Response<Body> {
    let scopes = match metadata.scopes.is_empty() {
        true => once(config.require.iter().flat_map(|rule| &rule.scopes)),
        false => once(&metadata.scopes),
    };
    let mut document = json!({
        "resource": format!("{}{}", resource.origin, resource.path),
        "authorization_servers": metadata.authorization_servers,
        "bearer_methods_supported": ["header"],
    });
    if !scopes.is_empty() {
        document["scopes_supported"] = json!(scopes);
    }
    if let Some(name) = &metadata.name {
        document["resource_name"] = json!(name);
    }
    let mut answer = Response::new(Body::from(document.to_string()));
    answer.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
    answer
}

fn once<'a>(scopes: impl IntoIterator<Item = &'a String>) -> Vec<&'a str> {
    let mut all: Vec<&str> = Vec::new();
    for scope in scopes {
        if !all.contains(&scope.as_str()) {
            all.push(scope);
        }
    }
    all
}

/// As the settings say, else as this request found us.
fn resource(config: &Config, head: &request::Parts) -> Option<Resource> {
    if let Some(known) = public(config) {
        return Some(known);
    }
    let scheme = if config.tls.is_some() { "https" } else { "http" };
    let host = hosts::host_of(head).ok()?;
    // Parsed, because it goes back into a header and a document.
    let authority: uri::Authority = host.parse().ok()?;
    let is_plain = !authority.as_str().contains(['@', '"', '\\']);
    let origin = format!("{scheme}://{}", authority.as_str().to_ascii_lowercase());
    is_plain.then(|| Resource { origin, path: config.path.clone() })
}

fn public(config: &Config) -> Option<Resource> {
    let url = public_url(config.public_url.as_ref()?)?;
    let origin = format!("{}://{}", url.scheme()?, url.authority()?);
    let path = match url.path() {
        "" | "/" => config.path.clone(),
        path => path.to_owned(),
    };
    Some(Resource { origin, path })
}

#[cfg(test)]
mod tests {
    use http::Request;
    use http_body_util::BodyExt as _;
    use serde_json::Value;

    use super::*;

    const LOGIN: &str = "[metadata]\nauthorization_servers = ['https://login.example.org']\n";

    fn config(text: &str) -> Config {
        mcp_daemon::config::parse("x.toml".as_ref(), text).unwrap()
    }

    fn head(method: &str, host: &str) -> request::Parts {
        Request::builder().method(method).uri("/mcp").header("host", host).body(()).unwrap().into_parts().0
    }

    async fn told(text: &str, host: &str) -> Value {
        let answer = answer(&config(text), &head("GET", host));
        assert_eq!(answer.status(), StatusCode::OK);
        serde_json::from_slice(&answer.into_body().collect().await.unwrap().to_bytes()).unwrap()
    }

    #[tokio::test]
    async fn the_document_says_where_to_log_in_and_for_what() {
        let rules =
            "[[require]]\nscopes = ['mcp']\n[[require]]\nmethod = 'tools/call'\nscopes = ['tools', 'mcp']\n";
        let document = told(&format!("{LOGIN}name = 'Serena'\n{rules}"), "127.0.0.1:9120").await;
        assert_eq!(
            document,
            json!({
                "resource": "http://127.0.0.1:9120/mcp",
                "authorization_servers": ["https://login.example.org"],
                "bearer_methods_supported": ["header"],
                "scopes_supported": ["mcp", "tools"],
                "resource_name": "Serena",
            })
        );
        let other =
            told(&format!("public_url = 'https://mcp.example.org'\n{LOGIN}scopes = ['a']\n"), "evil").await;
        assert_eq!(
            (&other["resource"], &other["scopes_supported"]),
            (&json!("https://mcp.example.org/mcp"), &json!(["a"]))
        );
        assert_eq!(told(LOGIN, "MCP.example.org").await.get("scopes_supported"), None);
    }

    #[test]
    fn the_paths_are_those_of_the_resource() {
        let base = config(LOGIN);
        for (path, is) in [
            (WELL_KNOWN, true),
            ("/.well-known/oauth-protected-resource/mcp", true),
            ("/.well-known/oauth-protected-resource/", false),
            ("/.well-known/oauth-protected-resource/mcp/x", false),
            ("/.well-known/oauth-authorization-server", false),
        ] {
            assert_eq!(is_at(&base, path), is, "{path}");
        }
        let behind = config(&format!("public_url = 'https://h/serena/mcp'\n{LOGIN}"));
        assert!(is_at(&behind, "/.well-known/oauth-protected-resource/serena/mcp"));
        assert!(!is_at(&config(""), WELL_KNOWN), "without [metadata] there is none");
    }

    #[test]
    fn the_challenge_leads_to_the_document_of_the_url_that_was_asked() {
        let told = |text: &str, host: &str, error, scopes: &[&str]| {
            let value = challenge(&config(text), &head("POST", host), error, scopes);
            value.to_str().unwrap().to_owned()
        };
        assert_eq!(told("", "h:1", None, &[]), "Bearer");
        assert_eq!(told("", "h:1", Some("invalid_token"), &[]), "Bearer error=\"invalid_token\"");
        assert_eq!(
            told(LOGIN, "h:1", Some("insufficient_scope"), &["a", "b"]),
            "Bearer error=\"insufficient_scope\", scope=\"a b\", resource_metadata=\"http://h:1/.well-known/oauth-protected-resource/mcp\""
        );
        let behind = format!("public_url = 'https://h/serena/mcp'\n{LOGIN}");
        assert_eq!(
            told(&behind, "evil", None, &[]),
            "Bearer resource_metadata=\"https://h/.well-known/oauth-protected-resource/serena/mcp\""
        );
        for odd in ["a\"b", "me@h", "h h", "", "h/x"] {
            assert_eq!(told(LOGIN, odd, None, &[]), "Bearer", "{odd}");
        }
    }

    #[test]
    fn it_is_there_to_be_read() {
        let told = |method: &str| answer(&config(LOGIN), &head(method, "h")).status();
        assert_eq!((told("HEAD"), told("POST")), (StatusCode::OK, StatusCode::METHOD_NOT_ALLOWED));
    }

    #[test]
    fn scopes_that_everything_needs_are_told_to_strangers() {
        let config = config(
            "[[require]]\nscopes = ['a', 'b']\n[[require]]\nroute = 'r'\nscopes = ['c']\n[[require]]\nscopes = ['a']",
        );
        assert_eq!(basic_scopes(&config), ["a", "b"]);
    }
}
