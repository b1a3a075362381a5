//! `[[require]]` and `[metadata]`: which scopes a request needs, and where clients get them.

use http::Uri;
use mcp_daemon::config::ConfigProblem;
use serde::Deserialize;

use super::Config;
use super::jwt::KeyUrl;
use crate::policy::LISTEN;
use crate::policy::uri::{is_normal, is_scheme};

/// Scopes that matching requests need, all of them. Every rule that matches counts.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Rule {
    /// The routes it is about; a `*` stands for any text.
    #[serde(default = "any")]
    pub route: String,
    /// The JSON-RPC methods it is about, such as `tools/call`; likewise. A rule for any method is about GET and DELETE too.
    #[serde(default = "any")]
    pub method: String,
    /// The tools, prompts or resources (by URI) it is about, such as `execute_shell_command`; likewise. A URI that is not in
    /// its normal form, which a server may take for another one, falls under every rule for its method.
    #[serde(default = "any")]
    pub name: String,
    /// What the credential must be good for.
    pub scopes: Vec<String>,
}

fn any() -> String {
    "*".into()
}

/// `[metadata]`: what an OAuth client is told (RFC 9728).
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Metadata {
    /// Where clients log in: the URLs of authorization servers.
    pub authorization_servers: Vec<String>,
    /// Scopes that a client may ask for; default: those of `[[require]]`.
    #[serde(default)]
    pub scopes: Vec<String>,
    /// A name for people.
    pub name: Option<String>,
}

/// Refuses rules and metadata that cannot work, by key.
pub fn check(config: &Config) -> Result<(), ConfigProblem> {
    let refuse = |key: String, what: &str| Err(ConfigProblem::key(key, what));
    for (at, rule) in config.require.iter().enumerate() {
        if rule.scopes.is_empty() || !rule.scopes.iter().all(|scope| is_scope(scope)) {
            let what = "expected at least one scope, without spaces, `\"` and `\\`";
            return refuse(format!("require[{at}].scopes"), what);
        }
        if fits_no_resource(rule) {
            let what = "no URI of a resource is compared in this form; write it in small letters up to its path, without a usual port, `..`, `#` and a slash at the end, and encoded only where it must be";
            return refuse(format!("require[{at}].name"), what);
        }
    }
    if config.public_url.as_ref().is_some_and(|url| public_url(url).is_none()) {
        return refuse("public_url".into(), "expected an http:// or https:// URL without `?` and `#`");
    }
    let Some(metadata) = &config.metadata else { return Ok(()) };
    if !metadata.scopes.iter().all(|scope| is_scope(scope)) {
        return refuse("metadata.scopes".into(), "expected scopes without spaces, `\"` and `\\`");
    }
    let servers = &metadata.authorization_servers;
    if servers.is_empty() || !servers.iter().all(|server| is_server(server)) {
        let what = "expected at least one https:// URL without `?` and `#`, or http:// on this machine";
        return refuse("metadata.authorization_servers".into(), what);
    }
    if config.jwt.is_empty() {
        let what = "clients would get tokens there that no [[jwt]] believes; add [[jwt]] for its issuer";
        return refuse("metadata.authorization_servers".into(), what);
    }
    Ok(())
}

/// Whether a rule for resources names what is never compared with it (see [`crate::policy::uri`]).
fn fits_no_resource(rule: &Rule) -> bool {
    let is_for_resources = rule.method.starts_with("resources/") || rule.method == LISTEN;
    let fits = if rule.name.contains('*') {
        rule.name.split_once(':').is_none_or(|(scheme, _)| scheme.contains('*') || is_scheme(scheme))
    } else {
        is_normal(&rule.name)
    };
    is_for_resources && !fits
}

/// `public_url`, taken apart: scheme, host and path.
pub fn public_url(text: &str) -> Option<Uri> {
    let url: Uri = text.parse().ok()?;
    let is_web = matches!(url.scheme_str(), Some("http" | "https"));
    let authority = url.authority()?.as_str();
    (is_web && !authority.contains('@') && !text.contains(['?', '#'])).then_some(url)
}

/// RFC 6749, 3.3.
pub(super) fn is_scope(text: &str) -> bool {
    !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_graphic() && byte != b'"' && byte != b'\\')
}

/// An issuer's identifier (RFC 8414, 2) may do without a path; the rest is as for the URL of a key set.
fn is_server(text: &str) -> bool {
    let with_path = format!("{text}/");
    !text.contains(['?', '#']) && with_path.parse::<KeyUrl>().is_ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    const ISSUER: &str =
        "[[jwt]]\nissuer = 'https://i'\naudience = ['a']\nalgorithms = ['RS256']\nkeys = 'k'\n";

    fn checked(text: &str) -> String {
        let config: Config =
            mcp_daemon::config::parse("x.toml".as_ref(), &format!("{ISSUER}{text}")).unwrap();
        check(&config).map_or_else(|problem| problem.to_string(), |()| String::new())
    }

    #[test]
    fn what_cannot_work_is_refused_by_key() {
        for good in [
            "[[require]]\nscopes = ['a:b', 'c/d']",
            "[[require]]\nmethod = 'resources/*'\nname = 'file:///etc/*'\nscopes = ['a']",
            "[[require]]\nmethod = 'resources/read'\nname = '*passwd'\nscopes = ['a']",
            "[metadata]\nauthorization_servers = ['https://login.example.org', 'http://localhost:8080/realm']",
        ] {
            assert_eq!(checked(good), "", "{good}");
        }
        for (bad, expected) in [
            ("[[require]]\nscopes = []", "require[0].scopes: "),
            ("[[require]]\nscopes = ['a b']", "require[0].scopes: "),
            ("[[require]]\nscopes = ['a\"']", "require[0].scopes: "),
            (
                "[[require]]\nmethod = 'resources/*'\nname = 'FILE:///etc/*'\nscopes = ['a']",
                "require[0].name: ",
            ),
            (
                "[[require]]\nmethod = 'resources/read'\nname = 'file:///etc/'\nscopes = ['a']",
                "require[0].name: ",
            ),
            ("[metadata]\nauthorization_servers = []", "metadata.authorization_servers: "),
            ("[metadata]\nauthorization_servers = ['http://h']", "metadata.authorization_servers: "),
            ("[metadata]\nauthorization_servers = ['https://h']\nscopes = ['']", "metadata.scopes: "),
        ] {
            let problem = checked(bad);
            assert!(problem.starts_with(expected), "{bad}: {problem}");
        }
        let alone = Config {
            jwt: Vec::new(),
            ..mcp_daemon::config::parse(
                "x.toml".as_ref(),
                "[metadata]\nauthorization_servers = ['https://h']",
            )
            .unwrap()
        };
        assert!(check(&alone).unwrap_err().to_string().contains("add [[jwt]]"));
    }
}
