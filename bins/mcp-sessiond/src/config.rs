//! The settings, from one TOML file plus flags for the common case; a `Config` that exists can run.

use std::num::{NonZeroU32, NonZeroUsize};
use std::path::{Path, PathBuf};

use mcp_daemon::addr::{Listen, Upstream};
use mcp_daemon::config::{ConfigError, Size, Span};
use serde::Deserialize;

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

/// `[limits]`.
#[derive(Clone, Debug, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Limits {
    /// Largest request body.
    pub body: Size,
    /// Largest answer that is held back until it is whole; a larger one is passed on as it comes.
    pub answer: Size,
    /// Longest wait for a request's body.
    pub body_timeout: Span,
    /// Largest request head.
    pub head: Size,
    /// Longest wait for a request's head.
    pub head_timeout: Span,
    /// Open connections of one listener.
    pub connections: NonZeroUsize,
    /// Sessions of one subject; the one idle longest makes room.
    pub sessions_per_subject: NonZeroUsize,
    /// Sessions of everybody; the one idle longest makes room.
    pub sessions: NonZeroUsize,
    /// A session that nobody used for this long is closed.
    pub session_idle: Span,
    /// Ids of deleted sessions that are remembered, so that they are not taken for unknown ones.
    pub deleted_ids: NonZeroUsize,
    /// Requests that may wait for a heal at once.
    pub parked_requests: NonZeroUsize,
    /// The same, of one subject.
    pub parked_requests_per_subject: NonZeroUsize,
    /// Bytes of bodies that may wait for a heal at once.
    pub parked_bytes: Size,
    /// Longest wait of one request.
    pub parked_time: Span,
}

/// `[hang]`.
#[derive(Clone, Debug, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Hang {
    /// Silence, with a request in flight, after which the server is probed.
    pub silence: Span,
    /// Pause between two probes.
    pub interval: Span,
    /// How long one probe may take.
    pub timeout: Span,
    /// This many failed probes in a row are a hang.
    pub failures: NonZeroU32,
}

/// `[heal]`.
#[derive(Clone, Debug, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Heal {
    /// How long to go on trying before parked requests are told that it failed.
    pub timeout: Span,
    /// How long one attempt may take.
    pub attempt_timeout: Span,
    /// Attempts that the server answers, but not as it should, before giving up.
    pub attempts: NonZeroU32,
}

/// `[stream]`.
#[derive(Clone, Debug, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Stream {
    /// Events kept per stream for `Last-Event-ID`.
    pub ring_events: NonZeroUsize,
    /// Bytes of events kept per stream.
    pub ring_bytes: Size,
    /// Silence after which a comment keeps a stream alive.
    pub keep_alive: Span,
    /// A parked request answers with a stream of comments after this long, if its client takes streams.
    pub comment_after: Span,
    /// The upstream's stream is closed when its session was idle for this long.
    pub park_after: Span,
    /// How long an answer is kept for a client that went away.
    pub keep_answer: Span,
}

/// `[process]`.
#[derive(Clone, Debug, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Process {
    /// A process without a request for this long is ended; its session heals when it is used again.
    pub idle: Span,
    /// Processes at once.
    pub max: NonZeroUsize,
    /// Failures in a row after which new processes wait.
    pub failures: NonZeroU32,
    /// How long `initialize` may take.
    pub start_timeout: Span,
    /// How long a process may take to end by itself.
    pub stop_grace: Span,
}

fn count(value: usize) -> NonZeroUsize {
    NonZeroUsize::new(value).unwrap_or(NonZeroUsize::MIN)
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

impl Default for Limits {
    fn default() -> Self {
        Self {
            body: Size(16 << 20),
            answer: Size(4 << 20),
            body_timeout: Span::seconds(60),
            head: Size(64 << 10),
            head_timeout: Span::seconds(30),
            connections: count(10_000),
            sessions_per_subject: count(10_000),
            sessions: count(20_000),
            session_idle: Span::seconds(7 * 24 * 3600),
            deleted_ids: count(10_000),
            parked_requests: count(4_096),
            parked_requests_per_subject: count(1_024),
            parked_bytes: Size(64 << 20),
            parked_time: Span::seconds(300),
        }
    }
}

impl Default for Hang {
    fn default() -> Self {
        Self {
            silence: Span::seconds(30),
            interval: Span::seconds(5),
            timeout: Span::seconds(10),
            failures: NonZeroU32::MIN.saturating_add(2),
        }
    }
}

impl Default for Heal {
    fn default() -> Self {
        Self {
            timeout: Span::seconds(300),
            attempt_timeout: Span::seconds(60),
            attempts: NonZeroU32::MIN.saturating_add(4),
        }
    }
}

impl Default for Stream {
    fn default() -> Self {
        Self {
            ring_events: count(256),
            ring_bytes: Size(1 << 20),
            keep_alive: Span::seconds(15),
            comment_after: Span::seconds(2),
            park_after: Span::seconds(300),
            keep_answer: Span::seconds(600),
        }
    }
}

impl Default for Process {
    fn default() -> Self {
        Self {
            idle: Span::seconds(1800),
            max: count(32),
            failures: NonZeroU32::MIN.saturating_add(9),
            start_timeout: Span::seconds(120),
            stop_grace: Span::seconds(5),
        }
    }
}

/// A setting that cannot work.
#[derive(Debug, thiserror::Error)]
pub enum Invalid {
    /// The file itself.
    #[error(transparent)]
    File(#[from] ConfigError),
    /// One key or flag.
    #[error("{key}: {what}")]
    Key {
        /// The key, as written in TOML.
        key: &'static str,
        /// What was found and what is expected.
        what: String,
    },
}

impl Config {
    /// Reads `path`, or takes the defaults.
    pub fn load(path: Option<&Path>) -> Result<Self, Invalid> {
        Ok(path.map(mcp_daemon::config::load).transpose()?.unwrap_or_default())
    }

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
    pub fn check(&self) -> Result<(), Invalid> {
        let refuse = |key, what: &str| Err(Invalid::Key { key, what: what.into() });
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
    pub fn header_pairs(&self) -> Result<Vec<(http::HeaderName, http::HeaderValue)>, Invalid> {
        let parse = |line: &String| {
            let (name, value) = line.split_once(':')?;
            Some((name.trim().parse().ok()?, value.trim().parse().ok()?))
        };
        let found = |line: &String| match line.split_once(':') {
            // The value may be a secret.
            Some((name, _)) => format!("`{name}: …` is not a header; write \"Name: value\""),
            None => "a header without a colon; write \"Name: value\"".into(),
        };
        self.headers
            .iter()
            .map(|line| parse(line).ok_or_else(|| Invalid::Key { key: "headers", what: found(line) }))
            .collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn refusal(toml: &str) -> String {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("x.toml");
        std::fs::write(&path, toml).unwrap();
        let config = Config::load(Some(&path));
        config
            .and_then(|config| config.check())
            .unwrap_err()
            .to_string()
            .replace(&format!("{}/", directory.path().display()), "")
    }

    #[test]
    fn a_refusal_is_one_line_that_names_the_key() {
        for (toml, expected) in [
            ("upsteam = 'x'", "x.toml:1"),
            ("listen = ['127.0.0.1:9121']", "upstream: missing"),
            ("upstream = 'http://127.0.0.1:1/mcp'\nexec = ['serena']", "exec: given beside"),
            (
                "upstream = 'http://127.0.0.1:1/mcp'\n[[listener]]\naddress = '127.0.0.1:1'\ntrusted = true",
                "listener.trusted",
            ),
            ("upstream = 'unix:/run/{route}/mcp.sock'\nlisten = ['127.0.0.1:1']", "upstream: has {route}"),
            ("upstream = 'http://127.0.0.1:1/mcp'\nheaders = ['x']", "headers: a header without a colon"),
            ("[limits]\nparked_time = 'soon'", "limits.parked_time"),
        ] {
            let line = refusal(toml);
            assert!(line.contains(expected), "{toml}: {line}");
            assert!(!line.trim_end().contains('\n'), "{line}");
        }
    }

    #[test]
    fn an_empty_file_is_the_defaults() {
        assert_eq!(toml_defaults().path, "/mcp");
    }

    const EXAMPLE: &str = include_str!("../../../docs/mcp-sessiond.toml");

    fn load(toml: &str) -> Result<Config, ConfigError> {
        mcp_daemon::config::parse(Path::new("x.toml"), toml)
    }

    #[test]
    fn the_documented_settings_are_the_defaults() {
        let documented = load(EXAMPLE).unwrap();
        assert_eq!(format!("{documented:#?}"), format!("{:#?}", Config::default()));
    }

    #[test]
    fn every_key_is_documented_and_those_without_a_default_have_an_example_that_loads() {
        // `#key` is a key without a default, `# word` is prose.
        let is_key =
            |rest: &&str| rest.starts_with(|first: char| first.is_ascii_alphabetic() || first == '[');
        let all: Vec<&str> =
            EXAMPLE.lines().map(|line| line.strip_prefix('#').filter(is_key).unwrap_or(line)).collect();
        let loaded = load(&all.join("\n")).unwrap();
        assert!(loaded.upstream.is_some() && !loaded.exec.is_empty() && loaded.listener[0].trusted);
        for header in ["", "[limits]", "[hang]", "[heal]", "[stream]", "[process]", "[[listener]]"] {
            // An unknown key is answered with all that are known.
            let refusal = load(&format!("{header}\nno_such_key = 1")).unwrap_err().to_string();
            let known = refusal.split_once("expected").unwrap().1.split('`').skip(1).step_by(2);
            let mut section = "";
            let mut documented = std::collections::HashSet::new();
            for line in &all {
                if line.starts_with('[') {
                    section = line;
                } else if let Some((key, _)) = line.split_once(" = ").filter(|_| section == header) {
                    documented.insert(key);
                }
            }
            // The tables document themselves.
            let is_table = |key: &&str| all.iter().any(|line| line.trim_matches(['[', ']']) == *key);
            let missing: Vec<&str> =
                known.filter(|key| !documented.contains(key) && !is_table(key)).collect();
            assert!(missing.is_empty(), "{header} {missing:?}");
            assert!(header == "[[listener]]" || !documented.is_empty());
        }
    }

    fn toml_defaults() -> Config {
        let file = tempfile::NamedTempFile::new().unwrap();
        Config::load(Some(file.path())).unwrap()
    }
}
