//! `[[jwt]]`: whose tokens are believed, with which keys, and what in them names subject and route.

use std::collections::BTreeSet;
use std::fmt;
use std::net::IpAddr;
use std::path::PathBuf;
use std::str::FromStr;
use std::time::Duration;

use jsonwebtoken::{Algorithm, AlgorithmFamily};
use mcp_daemon::addr::{Endpoint, Route, Upstream};
use mcp_daemon::config::{ConfigProblem, Span};
use serde::{Deserialize, Deserializer, de};

/// Clocks that differ by more than this are wrong, and a leeway as long makes every token live longer.
pub const MAX_LEEWAY: Duration = Duration::from_secs(600);
/// A key server is not asked more often than this without a reason.
pub const MIN_REFRESH: Duration = Duration::from_secs(10);
/// Longest `subject_prefix` in bytes: most of a subject is left for the claim.
const MAX_PREFIX: usize = 64;

/// One issuer. Exactly one of `keys`, `jwks` and `secret_file` is set.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Issuer {
    /// The `iss` claim that its tokens must carry.
    pub issuer: String,
    /// The `aud` claim, one of which its tokens must carry.
    pub audience: Vec<String>,
    /// The algorithms that may be used, such as `RS256`; what a token's header says is compared with these and never
    /// decides alone. All must be of one family: HMAC, RSA, elliptic curves or EdDSA.
    pub algorithms: Vec<Algorithm>,
    /// File with public keys: PEM, or a JWK set as JSON.
    pub keys: Option<PathBuf>,
    /// URL of a JWK set, `https://`, or `http://` to a loopback address.
    pub jwks: Option<KeyUrl>,
    /// File with the secret of the HMAC algorithms, at least 32 bytes.
    pub secret_file: Option<PathBuf>,
    /// Clocks may differ by this much, at most 10 minutes.
    #[serde(default = "leeway")]
    pub leeway: Span,
    /// How often a JWK set is fetched anew, 10 seconds or more.
    #[serde(default = "refresh")]
    pub refresh: Span,
    /// The claim that names the subject, a text. A claim of exactly this name comes first (some have dots, such as
    /// `https://example.org/name`), else a dot leads into an object.
    #[serde(default = "subject_claim")]
    pub subject_claim: String,
    /// Put before the claim's value, such as `corp:`, so that two issuers cannot name the same subject. Where several name
    /// people, issuers or authorities of certificates, no prefix is another's beginning.
    #[serde(default)]
    pub subject_prefix: String,
    /// Who has the same name elsewhere, by a static token, a certificate or another issuer, is the same: its subjects and
    /// the routes made of them may be theirs. Without it a token that would get somebody else's name is refused.
    #[serde(default)]
    pub shares_names: bool,
    /// The claim that names the route.
    pub route_claim: Option<String>,
    /// The route of all its tokens, instead of a claim; with neither the subject is the route, or `j-` and 32
    /// hexadecimal digits of its SHA-256 where it is none. So many because people may choose their names at an issuer, and
    /// with 12 somebody could look for one that leads to another's instance.
    pub route: Option<Route>,
    /// The claim with the scopes: a list, or one text with spaces. A token without it has none.
    #[serde(default = "scope_claim")]
    pub scope_claim: String,
}

/// Where a JWK set is fetched.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct KeyUrl(Endpoint);

/// A text that is no such URL.
#[derive(Debug, thiserror::Error)]
#[error(
    "`{0}` is no URL of a key set; write https://host/path, or http://127.0.0.1:8080/path on this machine"
)]
pub struct NotAKeyUrl(String);

impl KeyUrl {
    /// Where to connect.
    pub fn endpoint(&self) -> &Endpoint {
        &self.0
    }
}

impl FromStr for KeyUrl {
    type Err = NotAKeyUrl;

    fn from_str(text: &str) -> Result<Self, NotAKeyUrl> {
        // What stands before an `@` may be a password.
        let wrong = || NotAKeyUrl(text.rsplit('@').next().unwrap_or_default().to_owned());
        let (scheme, rest) = text.split_once("://").ok_or_else(wrong)?;
        let upstream: Upstream = text.parse().map_err(|_| wrong())?;
        let endpoint = upstream.endpoint(None).map_err(|_| wrong())?;
        let host = endpoint.uri().host().unwrap_or_default().trim_matches(['[', ']']);
        let is_here = host == "localhost" || host.parse().is_ok_and(|address: IpAddr| address.is_loopback());
        if rest.contains('/') && (scheme == "https" || is_here) { Ok(Self(endpoint)) } else { Err(wrong()) }
    }
}

impl fmt::Display for KeyUrl {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(out)
    }
}

impl<'de> Deserialize<'de> for KeyUrl {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer)?.parse().map_err(de::Error::custom)
    }
}

fn leeway() -> Span {
    Span::seconds(30)
}

fn refresh() -> Span {
    Span::seconds(900)
}

fn subject_claim() -> String {
    "sub".into()
}

fn scope_claim() -> String {
    "scope".into()
}

/// Refuses issuers that cannot work, by key.
pub fn check(issuers: &[Issuer]) -> Result<(), ConfigProblem> {
    let mut names = BTreeSet::new();
    for (at, issuer) in issuers.iter().enumerate() {
        let refuse = |key: &str, what: &str| Err(ConfigProblem::key(format!("jwt[{at}].{key}"), what));
        if issuer.issuer.is_empty() || !names.insert(&issuer.issuer) {
            return refuse("issuer", "expected the `iss` claim of its tokens, each issuer once");
        }
        if issuer.audience.is_empty() || issuer.audience.iter().any(String::is_empty) {
            return refuse(
                "audience",
                "expected at least one: without it tokens for others would be good here",
            );
        }
        let mut families = issuer.algorithms.iter().map(|algorithm| algorithm.family());
        let Some(family) = families.next() else {
            return refuse("algorithms", "expected at least one, such as [\"RS256\"]");
        };
        if families.any(|other| other != family) {
            return refuse("algorithms", "all must be of one family: HS*, RS* and PS*, ES*, or EdDSA");
        }
        let public = [issuer.keys.is_some(), issuer.jwks.is_some()];
        match (family, public, issuer.secret_file.is_some()) {
            (AlgorithmFamily::Hmac, [false, false], true) => {}
            (AlgorithmFamily::Hmac, ..) => {
                return refuse("secret_file", "HS* needs this, and no keys or jwks: its key is a secret");
            }
            (_, [true, false] | [false, true], false) => {}
            _ => {
                return refuse(
                    "keys",
                    "expected exactly one of keys and jwks, and secret_file for HS* alone",
                );
            }
        }
        if issuer.leeway.duration() > MAX_LEEWAY {
            return refuse("leeway", "expected at most 10m; set the clocks");
        }
        if issuer.refresh.duration() < MIN_REFRESH {
            return refuse("refresh", "expected at least 10s; a key nobody knows yet is fetched at once");
        }
        if !is_prefix(&issuer.subject_prefix) {
            return refuse("subject_prefix", NO_PREFIX);
        }
        if issuer.route.is_some() && issuer.route_claim.is_some() {
            return refuse("route", "expected route or route_claim, not both");
        }
    }
    Ok(())
}

/// What is told of a text that can be no prefix.
pub(super) const NO_PREFIX: &str = "expected at most 64 visible ASCII characters";

/// Whether a text can stand before a subject.
pub(super) fn is_prefix(prefix: &str) -> bool {
    prefix.len() <= MAX_PREFIX && prefix.bytes().all(|byte| byte.is_ascii_graphic())
}

#[cfg(test)]
mod tests {
    use super::*;

    const GOOD: &str =
        "issuer = 'https://i'\naudience = ['a']\nalgorithms = ['RS256']\njwks = 'https://i/keys'";

    fn checked(text: &str) -> String {
        #[derive(Deserialize)]
        struct File {
            jwt: Vec<Issuer>,
        }
        let file: Result<File, _> = mcp_daemon::config::parse("x.toml".as_ref(), text);
        match file.map(|file| check(&file.jwt)) {
            Ok(Ok(())) => String::new(),
            Ok(Err(problem)) => problem.to_string(),
            Err(error) => error.to_string(),
        }
    }

    #[test]
    fn what_cannot_work_is_refused_by_key() {
        let with = |from: &str, to: &str| {
            assert!(GOOD.contains(from), "{from}");
            checked(&format!("[[jwt]]\n{}", GOOD.replace(from, to)))
        };
        assert_eq!(with("", ""), "");
        let twice = checked(&format!("[[jwt]]\n{GOOD}\n[[jwt]]\n{GOOD}"));
        assert!(twice.starts_with("jwt[1].issuer: "), "{twice}");
        for (from, to, expected) in [
            ("'a'", "", "jwt[0].audience: "),
            ("'RS256'", "", "jwt[0].algorithms: "),
            ("'RS256'", "'RS256', 'HS256'", "jwt[0].algorithms: all must be of one family"),
            ("'RS256'", "'RS256', 'ES256'", "jwt[0].algorithms: all must be of one family"),
            ("'RS256'", "'none'", "x.toml:4: jwt[0].algorithms[0]: unknown variant `none`, expected one of"),
            ("RS256", "HS256", "jwt[0].secret_file: "),
            ("jwks = 'https://i/keys'", "", "jwt[0].keys: expected exactly one"),
            ("jwks", "secret_file = 's'\njwks", "jwt[0].keys: expected exactly one"),
            ("jwks", "keys = 'k'\njwks", "jwt[0].keys: expected exactly one"),
            ("jwks", "leeway = '1h'\njwks", "jwt[0].leeway: expected at most 10m"),
            ("jwks", "refresh = '1s'\njwks", "jwt[0].refresh: expected at least 10s"),
            ("jwks", "subject_prefix = 'a b'\njwks", "jwt[0].subject_prefix: "),
            ("jwks", "route = 'a'\nroute_claim = 'r'\njwks", "jwt[0].route: "),
        ] {
            let problem = with(from, to);
            assert!(problem.starts_with(expected), "{problem}");
        }
    }

    #[test]
    fn keys_come_over_tls_or_from_this_machine() {
        for good in ["https://h/keys", "http://127.0.0.1:8/k?x=1", "http://[::1]:8/k", "http://localhost/k"] {
            assert_eq!(good.parse::<KeyUrl>().unwrap().to_string(), good);
        }
        for bad in
            ["http://h/keys", "https://h", "h:8/k", "unix:/run/x:/k", "ftp://h/k", "https://{route}/k", ""]
        {
            assert!(bad.parse::<KeyUrl>().is_err(), "{bad}");
        }
        let error = "http://me:hunter2@h/k".parse::<KeyUrl>().unwrap_err().to_string();
        assert!(error.starts_with("`h/k` is no URL"), "{error}");
    }
}
