//! The settings, from one TOML file plus flags for the common case.
//!
//! What each part means stands in its own module; [`check`] refuses what parsing alone cannot see.

pub mod check;
pub mod jwt;
pub mod limits;
pub mod network;
pub mod policy;
pub mod route;
pub mod tls;

use std::collections::BTreeMap;
use std::num::NonZeroUsize;
use std::path::{Path, PathBuf};

use mcp_daemon::addr::{Listen, Route};
use mcp_daemon::config::{ConfigProblem, Span};
use serde::Deserialize;

use self::jwt::Issuer;
use self::limits::{Limits, Rate, Wrong};
use self::network::Network;
use self::policy::{Metadata, Rule};
use self::route::{Health, RouteSettings, Upstreams};
use self::tls::Tls;

/// The program's name, in logs, sockets and directories.
pub const DAEMON: &str = "mcp-authd";
/// Where it listens unless told otherwise.
pub const DEFAULT_LISTEN: &str = "127.0.0.1:9120";

/// Everything that `mcp-authd` can be told; unknown keys are errors.
#[derive(Clone, Debug, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Config {
    /// Addresses to serve MCP on; beyond loopback and Unix sockets they need `[tls]` or `allow_plaintext`.
    pub listen: Vec<Listen>,
    /// Serve plain HTTP on addresses that others can reach, because something before us speaks TLS.
    pub allow_plaintext: bool,
    /// Path at which MCP is served.
    pub path: String,
    /// The URL under which clients know us, for the OAuth metadata; default: made of each request's `Host`.
    pub public_url: Option<String>,
    /// `Host` values accepted on TCP besides loopback names and those of the certificate.
    pub allowed_hosts: Vec<String>,
    /// `Origin` values accepted on TCP besides those of loopback hosts, and answered by CORS; `"*"` accepts every one.
    pub allowed_origins: Vec<String>,
    /// Reverse proxies whose `Forwarded` or `X-Forwarded-For` is believed, as addresses or networks.
    pub trusted_proxies: Vec<Network>,
    /// Static tokens: a TOML or JSON file, or a directory with one file per subject.
    pub tokens: Option<PathBuf>,
    /// Take `API_TOKEN` and `API_TOKENS_JSON` from the environment where they are set.
    pub environment_tokens: bool,
    /// Issuers of JWTs.
    pub jwt: Vec<Issuer>,
    /// OAuth protected resource metadata (RFC 9728).
    pub metadata: Option<Metadata>,
    /// Scopes that requests need.
    pub require: Vec<Rule>,
    /// Where routes lead that have no `[route.NAME]` of their own, such as `unix:/run/serena/{route}/mcp.sock`.
    pub upstream: Upstreams,
    /// Requests of one route with their answers under way at once, where `[route.NAME]` says nothing else; more wait. A
    /// stream counts up to its head. Default: no bound but that of connections.
    pub concurrency: Option<NonZeroUsize>,
    /// Requests of one route that may wait for `concurrency`, likewise. Default 128.
    pub queue: Option<usize>,
    /// Their longest wait, likewise; default 30s.
    pub queue_timeout: Option<Span>,
    /// Routes with settings of their own.
    pub route: BTreeMap<Route, RouteSettings>,
    /// How upstreams are found to be unwell.
    pub health: Health,
    /// Certificates; without it plain HTTP is served.
    pub tls: Option<Tls>,
    /// The generation of the instances, told to whoever asks; default `$MCP_CONTAINER_ROUTE_GENERATION`.
    pub generation: Option<String>,
    /// Control socket of serena-snapshotd, for the age of the last snapshot in `GET /health`.
    pub snapshots: Option<PathBuf>,
    /// Where the audit goes.
    pub audit: Audit,
    /// Address for `GET /ready` and `GET /metrics` alone, for Kubernetes and Prometheus.
    pub observe: Option<Listen>,
    /// Where the last use of each token and fetched keys are kept; default `$STATE_DIRECTORY`, else `$XDG_STATE_HOME/mcp-authd`.
    pub state_dir: Option<PathBuf>,
    /// Bounds.
    pub limits: Limits,
    /// Requests per time.
    pub rate: Rate,
    /// What wrong credentials cost.
    pub wrong: Wrong,
    /// How long requests in flight may take once we are told to stop.
    pub grace: Span,
}

/// `[audit]`.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Audit {
    /// No audit at all.
    pub off: bool,
    /// The file to append to, opened anew at SIGHUP; default: standard output.
    pub file: Option<PathBuf>,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            listen: Vec::new(),
            allow_plaintext: false,
            path: "/mcp".into(),
            public_url: None,
            allowed_hosts: Vec::new(),
            allowed_origins: Vec::new(),
            trusted_proxies: Vec::new(),
            tokens: None,
            environment_tokens: true,
            jwt: Vec::new(),
            metadata: None,
            require: Vec::new(),
            upstream: Upstreams::default(),
            concurrency: None,
            queue: None,
            queue_timeout: None,
            route: BTreeMap::new(),
            health: Health::default(),
            tls: None,
            generation: None,
            snapshots: None,
            audit: Audit::default(),
            observe: None,
            state_dir: None,
            limits: Limits::default(),
            rate: Rate::default(),
            wrong: Wrong::default(),
            grace: Span::seconds(10),
        }
    }
}

impl Config {
    /// Reads `path`, or takes the defaults; nothing is checked yet (see [`check`]).
    pub fn load(path: Option<&Path>) -> Result<Self, ConfigProblem> {
        Ok(path.map(mcp_daemon::config::load).transpose()?.unwrap_or_default())
    }

    /// Every file that credentials are read from; a directory stands for the files in it.
    pub fn credential_files(&self) -> Vec<PathBuf> {
        let of_issuers = self.jwt.iter().flat_map(|issuer| [&issuer.keys, &issuer.secret_file]);
        let listed = std::iter::once(&self.tokens).chain(of_issuers).flatten();
        let client = self.tls.as_ref().and_then(|tls| tls.client.as_ref()).filter(|client| client.identify);
        listed.chain(client.map(|client| &client.authorities)).cloned().collect()
    }

    /// The files that TLS is made of: certificate, key, and the authorities of clients.
    pub fn certificate_files(&self) -> Vec<PathBuf> {
        let Some(tls) = &self.tls else { return Vec::new() };
        let authorities = tls.client.as_ref().map(|client| &client.authorities);
        [&tls.certificate, &tls.key].into_iter().chain(authorities).cloned().collect()
    }

    /// Where to listen: what is set, else [`DEFAULT_LISTEN`].
    pub fn listeners(&self) -> Vec<Listen> {
        if self.listen.is_empty() {
            return vec![DEFAULT_LISTEN.parse().expect("a literal address")];
        }
        self.listen.clone()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const EXAMPLE: &str = include_str!("../../../../docs/mcp-authd.toml");

    fn load(toml: &str) -> Result<Config, mcp_daemon::config::ConfigError> {
        mcp_daemon::config::parse(Path::new("x.toml"), toml)
    }

    #[test]
    fn the_documented_settings_are_the_defaults() {
        let documented = load(EXAMPLE).unwrap();
        assert_eq!(format!("{documented:#?}"), format!("{:#?}", Config::default()));
    }

    #[test]
    fn every_documented_example_loads() {
        // `#key` is a key without a default, `# word` is prose.
        let is_key =
            |rest: &&str| rest.starts_with(|first: char| first.is_ascii_alphabetic() || first == '[');
        let all: Vec<&str> = EXAMPLE
            .lines()
            .map(|line| line.strip_prefix('#').filter(is_key).unwrap_or(line))
            // Of these three an issuer has one.
            .filter(|line| !line.starts_with("keys =") && !line.starts_with("secret_file ="))
            .collect();
        let loaded = load(&all.join("\n")).unwrap();
        assert!(loaded.tls.is_some_and(|tls| tls.client.is_some()) && loaded.jwt.len() == 1);
        assert!(loaded.route.values().all(|route| route.upstream.0.len() == 1) && loaded.require.len() == 1);
    }
}
