//! The settings, from one TOML file plus flags for the common case: [`Flags::settings`] puts both together, for `run`,
//! `check` and a reload alike. Bounds and their defaults are in `bounds`.

mod bounds;
mod flags;

use std::path::PathBuf;

use http::uri::PathAndQuery;
use http::{HeaderName, HeaderValue};
use mcp_daemon::addr::{Listen, Upstream};
use mcp_daemon::config::{ConfigProblem, Span};
use serde::Deserialize;

pub use self::bounds::{Hang, Heal, Limits, Process, Stream};
pub use self::flags::Flags;

/// Everything that `mcp-sessiond` can be told; unknown keys are errors.
#[derive(Clone, Debug, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Config {
    /// Addresses to serve MCP on, loopback unless you say otherwise.
    pub listen: Vec<Listen>,
    /// Listeners with more to say than an address.
    pub listener: Vec<Listener>,
    /// The MCP server, `http://host/mcp`, `https://host/mcp` or `unix:/run/{route}/mcp.sock`.
    pub upstream: Option<Upstream>,
    /// Instead of `upstream`: a stdio MCP server, one process per session.
    pub exec: Vec<String>,
    /// Path at which MCP is served.
    pub path: String,
    /// `Host` values accepted on TCP listeners besides loopback names and the listener's own address.
    pub allowed_hosts: Vec<String>,
    /// `Origin` values accepted on TCP listeners besides those of loopback hosts; `"*"` accepts every one.
    pub allowed_origins: Vec<String>,
    /// Headers added to every upstream request, `"Name: value"`.
    pub headers: Vec<String>,
    /// File with a bearer token for the upstream; replaces the client's own `Authorization`.
    pub token_file: Option<PathBuf>,
    /// Where sessions are kept; default `$STATE_DIRECTORY`, else `$XDG_STATE_HOME/mcp-sessiond`.
    pub state_dir: Option<PathBuf>,
    /// Address for `GET /ready` and `GET /metrics` alone, for Kubernetes and Prometheus.
    pub observe: Option<Listen>,
    /// What to do with a request without a session id.
    pub session_from: SessionFrom,
    /// What to do with a session id that nobody knows.
    pub unknown_ids: UnknownIds,
    /// Believe `readOnlyHint` and `idempotentHint` of tools when deciding what may be sent again.
    pub trust_annotations: bool,
    /// Tools whose newest successful call is made again after the server was lost.
    pub replay_tools: Vec<String>,
    /// How long requests in flight may take once we are told to stop.
    pub grace: Span,
    /// Bounds.
    pub limits: Limits,
    /// When a silent server counts as hung.
    pub hang: Hang,
    /// How hard to try to heal.
    pub heal: Heal,
    /// Streams.
    pub stream: Stream,
    /// For `exec`.
    pub process: Process,
}

/// One listener in full.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Listener {
    /// The address.
    pub address: Listen,
    /// Whether `Mcp-Auth-Subject` and `Mcp-Route` are believed here; Unix sockets only.
    #[serde(default)]
    pub trusted: bool,
    /// User names whose processes may connect to a trusted socket; empty means whoever the file mode lets in.
    #[serde(default)]
    pub users: Vec<String>,
}

/// `session_from`.
#[derive(Clone, Copy, Debug, Default, Deserialize, Eq, PartialEq)]
#[serde(rename_all = "lowercase")]
pub enum SessionFrom {
    /// Only from `Mcp-Session-Id`; a request without one gets 400.
    #[default]
    Header,
    /// One hidden session per subject, for gateways that treat each POST as new.
    Subject,
}

/// `unknown_ids`.
#[derive(Clone, Copy, Debug, Default, Deserialize, Eq, PartialEq)]
#[serde(rename_all = "lowercase")]
pub enum UnknownIds {
    /// Take the session over, for clients from before sessiond that never initialise again.
    #[default]
    Adopt,
    /// Answer 404, for clients that do.
    Refuse,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            listen: Vec::new(),
            listener: Vec::new(),
            upstream: None,
            exec: Vec::new(),
            path: "/mcp".into(),
            allowed_hosts: Vec::new(),
            allowed_origins: Vec::new(),
            headers: Vec::new(),
            token_file: None,
            state_dir: None,
            observe: None,
            session_from: SessionFrom::default(),
            unknown_ids: UnknownIds::default(),
            trust_annotations: true,
            replay_tools: vec!["activate_project".into(), "switch_modes".into()],
            grace: Span::seconds(10),
            limits: Limits::default(),
            hang: Hang::default(),
            heal: Heal::default(),
            stream: Stream::default(),
            process: Process::default(),
        }
    }
}

impl Config {
    /// All listeners, short and long form together.
    pub fn listeners(&self) -> Vec<Listener> {
        let plain = self.listen.iter().map(|address| Listener {
            address: address.clone(),
            trusted: false,
            users: Vec::new(),
        });
        plain.chain(self.listener.iter().cloned()).collect()
    }

    /// Refuses what parsing alone cannot see.
    pub fn check(&self) -> Result<(), ConfigProblem> {
        let refuse = |key, what: &str| Err(ConfigProblem::key(key, what));
        match (&self.upstream, self.exec.is_empty()) {
            (None, true) => {
                return refuse(
                    "upstream",
                    "missing; say --upstream http://127.0.0.1:8080/mcp, or -- COMMAND for a stdio server",
                );
            }
            (Some(_), false) => {
                return refuse(
                    "exec",
                    "given beside `upstream`; a session has one server, remove one of the two",
                );
            }
            _ => {}
        }
        if !self.path.starts_with('/') {
            return refuse("path", "must start with `/`, like /mcp");
        }
        if self.path.parse::<PathAndQuery>().ok().is_none_or(|path| path.path() != self.path) {
            return refuse(
                "path",
                "no request can have it: only the path of a URL, as it is sent, like /mcp",
            );
        }
        for listener in &self.listeners() {
            if listener.trusted && matches!(listener.address, Listen::Tcp(_)) {
                return refuse(
                    "listener.trusted",
                    "only a Unix socket can be trusted: anybody can write headers over TCP",
                );
            }
        }
        if self.upstream.as_ref().is_some_and(Upstream::needs_route)
            && !self.listeners().iter().any(|listener| listener.trusted)
        {
            return refuse(
                "upstream",
                "has {route}, but no listener is `trusted`, so no route can ever arrive",
            );
        }
        self.header_pairs()?;
        Ok(())
    }

    /// `headers`, parsed.
    pub fn header_pairs(&self) -> Result<Vec<(HeaderName, HeaderValue)>, ConfigProblem> {
        let parse = |line: &String| {
            let (name, value) = line.split_once(':')?;
            Some((name.trim().parse().ok()?, value.trim().parse().ok()?))
        };
        let found = |line: &String| match line.split_once(':') {
            // The value may be a secret.
            Some((name, _)) => format!("`{name}: …` is not a header; write \"Name: value\""),
            None => "a header without a colon; write \"Name: value\"".into(),
        };
        let pair = |line| parse(line).ok_or_else(|| ConfigProblem::key("headers", found(line)));
        self.headers.iter().map(pair).collect()
    }
}

#[cfg(test)]
mod tests;
