//! The settings, from one TOML file plus flags for the common case.
//!
//! ```toml
//! observe = "127.0.0.1:9465"
//!
//! [instance.docs]
//! command = ["serena", "start-mcp-server", "--transport", "streamable-http", "--port", "{port}"]
//! home = "/var/lib/serena/docs"
//! socket = "unix:/run/serena/docs/mcp.sock"
//!
//! [template]
//! names = ["alice", "bob"]
//! command = ["serena", "start-mcp-server", "--transport", "streamable-http", "--port", "{port}"]
//! home = "/var/lib/serena/{name}"
//! socket = "unix:/run/serena/{name}/mcp.sock"
//! sleep_after = "30m"
//! ```
//!
//! `settings` is one instance, `template` makes many of one, `names` reads a file of tokens for that, `expand` gives
//! each instance its own paths, and `check` refuses what parsing alone cannot see.

mod check;
mod expand;
mod names;
mod order;
mod probe;
mod settings;
mod sleep;
mod template;
#[cfg(test)]
mod tests;

use std::collections::BTreeMap;
use std::num::NonZeroUsize;
use std::path::Path;

use mcp_daemon::addr::Listen;
pub use mcp_daemon::config::ConfigProblem;
use mcp_daemon::config::Span;
use serde::Deserialize;

pub use self::probe::{Probe, ProbeError};
pub use self::settings::{Backoff, Hold, Hook, Hooks, Limits, Liveness, Settings, Start, Stop};
pub use self::sleep::{SleepAfter, SleepError};
pub use self::template::Template;

/// Names the generation where the settings do not; the variable that users of the container deployment know.
const GENERATION: &str = "MCP_CONTAINER_ROUTE_GENERATION";

/// Everything that `serena-supervise` can be told; unknown keys are errors.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq)]
#[serde(default, deny_unknown_fields)]
pub struct Config {
    /// Servers, each by its name.
    pub instance: BTreeMap<String, Settings>,
    /// One server for each of a list of names.
    pub template: Option<Template>,
    /// Instances of the template that run at once; the one idle longest makes room.
    pub max_instances: NonZeroUsize,
    /// When this changes, every instance gets a fresh process tree at its next quiet moment; `$MCP_CONTAINER_ROUTE_GENERATION` unless given.
    pub generation: Option<String>,
    /// How long an instance may stay busy before a new generation replaces it all the same.
    pub generation_deadline: Span,
    /// Address for `GET /ready` and `GET /metrics` alone.
    pub observe: Option<Listen>,
    /// How long stopping everything may take, beyond the instances' own stop times.
    pub grace: Span,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            instance: BTreeMap::new(),
            template: None,
            max_instances: NonZeroUsize::MIN.saturating_add(7),
            generation: None,
            generation_deadline: Span::seconds(30 * 60),
            observe: None,
            grace: Span::seconds(30),
        }
    }
}

impl Config {
    /// Reads `path`, or takes the defaults; the environment says what neither says. Flags go over it, then [`Config::check`].
    pub fn load(path: Option<&Path>) -> Result<Self, ConfigProblem> {
        let mut config: Config = path.map(mcp_daemon::config::load).transpose()?.unwrap_or_default();
        let named = || std::env::var(GENERATION).ok().filter(|name| !name.is_empty());
        config.generation = config.generation.or_else(named);
        Ok(config)
    }
}
