//! `[[jwt]]`: whose tokens are believed, with which keys, and what in them names subject and route.

use std::path::PathBuf;

use jsonwebtoken::Algorithm;
use mcp_daemon::addr::Route;
use mcp_daemon::config::Span;
use serde::Deserialize;

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
    pub jwks: Option<String>,
    /// File with the secret of the HMAC algorithms, at least 32 bytes.
    pub secret_file: Option<PathBuf>,
    /// Clocks may differ by this much.
    #[serde(default = "leeway")]
    pub leeway: Span,
    /// How often a JWK set is fetched anew.
    #[serde(default = "refresh")]
    pub refresh: Span,
    /// The claim that names the subject; a dot leads into an object.
    #[serde(default = "subject_claim")]
    pub subject_claim: String,
    /// Put before the claim's value, such as `corp:`, so that two issuers cannot name the same subject.
    #[serde(default)]
    pub subject_prefix: String,
    /// The claim that names the route.
    pub route_claim: Option<String>,
    /// The route of all its tokens, instead of a claim; with neither the subject is the route, or `j-` and 12
    /// hexadecimal digits of its SHA-256 where it is none.
    pub route: Option<Route>,
    /// The claim with the scopes: a list, or one text with spaces. A token without it has none.
    #[serde(default = "scope_claim")]
    pub scope_claim: String,
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
