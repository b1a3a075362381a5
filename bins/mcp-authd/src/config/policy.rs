//! `[[require]]` and `[metadata]`: which scopes a request needs, and where clients get them.

use serde::Deserialize;

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
    /// The tools, prompts or resources it is about, such as `execute_shell_command`; likewise.
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
