//! One server's settings, `[instance.NAME]`, with their defaults.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::num::{NonZeroU16, NonZeroU32, NonZeroUsize};
use std::path::PathBuf;

use mcp_daemon::addr::Listen;
use mcp_daemon::config::{Size, Span};
use serde::{Deserialize, Deserializer, de};

use super::probe::Probe;
use super::sleep::SleepAfter;
use crate::placeholders::{UnknownPlaceholder, Values};

/// Where Serena keeps what it has; other servers ignore it.
const HOME: &str = "SERENA_HOME";
/// Keys of snapshots and tokens of clients, which a server's tools could show to anybody who may call them.
const SECRETS: [&str; 5] =
    ["API_TOKEN", "API_TOKENS_JSON", "AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN"];

/// One server: `[instance.NAME]`.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq)]
#[serde(default, deny_unknown_fields)]
pub struct Settings {
    /// Program and arguments, no shell; `{port}`, `{home}`, `{name}`, `{socket}` and `{fd}` are replaced at each start.
    pub command: Vec<String>,
    /// Its `SERENA_HOME`, an absolute path, made if missing; `{home}`. `{name}` is replaced.
    pub home: Option<PathBuf>,
    /// Its working directory, an absolute path; that of the supervisor unless given. `{name}` and `{home}` are replaced.
    pub directory: Option<PathBuf>,
    /// Environment variables besides those of the supervisor, but for `withhold`; placeholders as in `command`, see [`Settings::environment`].
    pub env: BTreeMap<String, String>,
    /// Environment variables of the supervisor that it does not get, unless they are in `env`; its hooks and probes do.
    pub withhold: Vec<String>,
    /// Where clients connect; a connection wakes the instance. `{name}` and `{home}` are replaced.
    #[serde(deserialize_with = "socket")]
    pub socket: Option<Listen>,
    /// The port the server listens on, on 127.0.0.1; a free one that no outgoing connection gets unless given.
    pub port: Option<NonZeroU16>,
    /// When it is started.
    pub start: Start,
    /// Instances that it needs: started before it, stopped after it.
    pub after: Vec<String>,
    /// Without a connection for this long it is put to sleep; `"never"` leaves it awake. Without a `socket` nobody could
    /// wake it, so it stays awake whatever stands here.
    pub sleep_after: SleepAfter,
    /// How long starting may take, from the process to readiness.
    pub start_timeout: Span,
    /// Pause between the first successful probe and Ready.
    pub settle: Option<Span>,
    /// How readiness is seen.
    pub probe: Probe,
    /// Whether Serena's dashboard is asked for the state of its language server.
    pub language_server: bool,
    /// Connections held while it starts.
    pub hold: Hold,
    /// Whether it is still alive.
    pub liveness: Liveness,
    /// How it is stopped.
    pub stop: Stop,
    /// What it may use.
    pub limits: Limits,
    /// What happens after a failure.
    pub backoff: Backoff,
    /// Commands beside it.
    pub hooks: Hooks,
}

/// `start`.
#[derive(Clone, Copy, Debug, Default, Deserialize, Eq, PartialEq)]
#[serde(rename_all = "lowercase")]
pub enum Start {
    /// With the supervisor, if it has no `socket`; else on the first connection.
    #[default]
    Auto,
    /// With the supervisor.
    Boot,
    /// On the first connection, or when asked.
    Wake,
}

/// `hold`: bounds of the connections that wait for a start.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq)]
#[serde(default, deny_unknown_fields)]
pub struct Hold {
    /// At most this many at once; more get the 503.
    pub connections: NonZeroUsize,
    /// Open connections altogether; more wait in the kernel.
    pub open: NonZeroUsize,
    /// Longest wait of one; then it gets the 503.
    pub timeout: Span,
}

/// `liveness`: probes of a running server, each on a new connection.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq)]
#[serde(default, deny_unknown_fields)]
pub struct Liveness {
    /// Pause between two probes.
    pub interval: Span,
    /// How long one may take.
    pub timeout: Span,
    /// This many failures in a row mean that it hangs.
    pub failures: NonZeroU32,
}

/// `stop`: the rungs of the ladder, in order, with the longest wait on each.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq)]
#[serde(default, deny_unknown_fields)]
pub struct Stop {
    /// Open connections may end by themselves.
    pub drain: Span,
    /// Path that is asked to shut down by `PUT`, before any signal.
    pub http: Option<String>,
    /// After that request.
    pub http_wait: Span,
    /// After SIGTERM to the main process.
    pub term: Span,
    /// After SIGINT to it.
    pub int: Span,
    /// After SIGTERM to the whole tree; then SIGKILL until it is empty.
    pub tree: Span,
}

/// `limits` of a process tree.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq)]
#[serde(default, deny_unknown_fields)]
pub struct Limits {
    /// Memory of the tree beyond which it is restarted when idle.
    pub memory_soft: Option<Size>,
    /// Memory of the tree beyond which it is restarted at once.
    pub memory_hard: Option<Size>,
    /// Processes of the tree; more mean a restart at once.
    pub processes: Option<NonZeroUsize>,
    /// Open files of each process (`RLIMIT_NOFILE`).
    pub open_files: Option<NonZeroU32>,
    /// Age at which it is restarted when idle.
    pub max_age: Option<Span>,
    /// How often the tree is measured.
    pub interval: Span,
}

/// `backoff`: pauses after failures, doubled each time, with full jitter.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq)]
#[serde(default, deny_unknown_fields)]
pub struct Backoff {
    /// Upper bound of the first pause.
    pub first: Span,
    /// Upper bound of all pauses.
    pub longest: Span,
    /// Ready for this long, it starts from the beginning.
    pub stable: Span,
    /// This many failures within `within` and it has failed.
    pub starts: NonZeroU32,
    /// See `starts`.
    pub within: Span,
    /// A failed instance is tried once more after this long.
    pub retry: Span,
}

/// `hooks`.
#[derive(Clone, Debug, Default, Deserialize, Eq, PartialEq)]
#[serde(default, deny_unknown_fields)]
pub struct Hooks {
    /// Before each start.
    pub before_start: Option<Hook>,
    /// After each stop, once no process is left.
    pub after_stop: Option<Hook>,
}

/// A command beside the server.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq)]
#[serde(deny_unknown_fields)]
pub struct Hook {
    /// Program and arguments, no shell; placeholders as in `command`.
    pub command: Vec<String>,
    /// How long it may take; then its process tree is killed.
    #[serde(default = "hook_timeout")]
    pub timeout: Span,
    /// Whether a failure stops the start; otherwise it is a warning.
    #[serde(default)]
    pub strict: bool,
}

fn hook_timeout() -> Span {
    Span::seconds(300)
}

fn count(value: usize) -> NonZeroUsize {
    NonZeroUsize::new(value).unwrap_or(NonZeroUsize::MIN)
}

fn number(value: u32) -> NonZeroU32 {
    NonZeroU32::new(value).unwrap_or(NonZeroU32::MIN)
}

/// A path with placeholders is looked at once they are replaced.
fn socket<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<Listen>, D::Error> {
    let text = String::deserialize(deserializer)?;
    match text.strip_prefix("unix:").filter(|path| path.contains('{')) {
        Some(path) => Ok(Some(Listen::Unix(path.into()))),
        None => text.parse().map(Some).map_err(de::Error::custom),
    }
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            command: Vec::new(),
            home: None,
            directory: None,
            env: BTreeMap::new(),
            withhold: SECRETS.map(Into::into).into(),
            socket: None,
            port: None,
            start: Start::default(),
            after: Vec::new(),
            sleep_after: SleepAfter::Idle(Span::seconds(15 * 60)),
            start_timeout: Span::seconds(120),
            settle: None,
            probe: Probe::default(),
            language_server: false,
            hold: Hold::default(),
            liveness: Liveness::default(),
            stop: Stop::default(),
            limits: Limits::default(),
            backoff: Backoff::default(),
            hooks: Hooks::default(),
        }
    }
}

impl Default for Hold {
    fn default() -> Self {
        Self { connections: count(128), open: count(1_024), timeout: Span::seconds(300) }
    }
}

impl Default for Liveness {
    fn default() -> Self {
        Self { interval: Span::seconds(5), timeout: Span::seconds(5), failures: number(3) }
    }
}

impl Default for Stop {
    fn default() -> Self {
        Self {
            drain: Span::seconds(10),
            http: None,
            http_wait: Span::seconds(5),
            term: Span::seconds(10),
            int: Span::seconds(5),
            tree: Span::seconds(5),
        }
    }
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            memory_soft: None,
            memory_hard: None,
            processes: None,
            open_files: None,
            max_age: None,
            interval: Span::seconds(5),
        }
    }
}

impl Default for Backoff {
    fn default() -> Self {
        Self {
            first: Span::milliseconds(500),
            longest: Span::seconds(60),
            stable: Span::seconds(60),
            starts: number(5),
            within: Span::seconds(300),
            retry: Span::seconds(300),
        }
    }
}

impl Limits {
    /// Whether there is one that ends a tree at once.
    pub fn can_cut(&self) -> bool {
        self.memory_hard.is_some() || self.processes.is_some()
    }

    /// Whether there is one that a tree has to be measured for.
    pub fn any(&self) -> bool {
        self.can_cut() || self.memory_soft.is_some() || self.max_age.is_some()
    }
}

impl Settings {
    /// The command line of one start.
    pub fn command_line(&self, values: &Values) -> Result<Vec<OsString>, UnknownPlaceholder> {
        self.command.iter().map(|argument| values.fill(argument).map(OsString::from)).collect()
    }

    /// The variables that the server would have but for `withhold`.
    pub fn withheld(&self) -> impl Iterator<Item = &str> {
        let ours = |name: &&str| std::env::var_os(name).is_some() && !self.env.contains_key(*name);
        self.withhold.iter().map(String::as_str).filter(ours)
    }

    /// The environment of one start besides the supervisor's own: `env`, filled in, and `SERENA_HOME` unless it is there.
    pub fn environment(&self, values: &Values) -> Result<Vec<(OsString, OsString)>, UnknownPlaceholder> {
        let mut environment = Vec::with_capacity(self.env.len() + 1);
        if let Some(home) = self.home.as_ref().filter(|_| !self.env.contains_key(HOME)) {
            environment.push((HOME.into(), home.into()));
        }
        for (name, value) in &self.env {
            environment.push((name.into(), values.fill(value)?.into()));
        }
        Ok(environment)
    }

    /// Whether it listens on a port that the supervisor knows.
    pub fn has_port(&self) -> bool {
        let told = |argument: &String| argument.contains("{port}");
        self.port.is_some()
            || self.probe.asks_port()
            || self.command.iter().any(told)
            || self.env.values().any(told)
    }

    /// Whether it runs from the start of the supervisor on.
    pub fn starts_at_boot(&self) -> bool {
        match self.start {
            Start::Auto => self.socket.is_none(),
            Start::Boot => true,
            Start::Wake => false,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn values() -> Values {
        Values { name: "a".into(), port: 4711, home: Some("/srv/a".into()), socket: None, fd: None }
    }

    #[test]
    fn a_start_gets_its_port_and_its_home() {
        let mut settings = Settings {
            command: vec!["serena".into(), "--port={port}".into()],
            home: Some("/srv/a".into()),
            env: BTreeMap::from([("CACHE".into(), "{home}/cache".into())]),
            ..Settings::default()
        };
        assert_eq!(settings.command_line(&values()).unwrap(), ["serena", "--port=4711"]);
        let environment = |settings: &Settings| settings.environment(&values()).unwrap();
        let pair = |name: &str, value: &str| (name.into(), value.into());
        assert_eq!(environment(&settings), [pair(HOME, "/srv/a"), pair("CACHE", "/srv/a/cache")]);
        settings.env = BTreeMap::from([(HOME.into(), "/elsewhere".into())]);
        assert_eq!(environment(&settings), [pair(HOME, "/elsewhere")]);
    }

    #[test]
    fn what_nobody_can_wake_starts_at_once() {
        let mut settings = Settings::default();
        assert!(settings.starts_at_boot());
        settings.socket = Some("unix:/run/a.sock".parse().unwrap());
        assert!(!settings.starts_at_boot());
        settings.start = Start::Boot;
        assert!(settings.starts_at_boot());
    }
}
