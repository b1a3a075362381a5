//! The settings: one TOML file, flags over it, and the environment below it.
//!
//! ```toml
//! partition = "laptop"
//! store = "s3://serena-state/homes"
//! home = "/var/lib/serena/home"
//!
//! [s3]
//! endpoint = "https://s3.example.org"
//! access_key_file = "/run/keys/id"
//! secret_key_file = "/run/keys/secret"
//! ```
//!
//! [`Config`] is the file, [`Flags`] the command line, [`Env`] the environment, with the names of the Cloudflare wrapper
//! too. [`Config::plan`] makes one [`Plan`] of the three: what a flag says wins over the file, that over the environment,
//! that over the default. Nothing here asks a store, and no secret is read before [`Plan::connect`].

mod choose;
mod env;
mod flags;
mod interval;
mod paths;
mod plan;
mod secrets;
#[cfg(test)]
mod tests;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use mcp_daemon::addr::{Listen, Route};
pub use mcp_daemon::config::ConfigProblem;
use mcp_daemon::config::{Size, Span};
use serde::Deserialize;

pub use self::choose::Named;
pub use self::env::Env;
pub use self::flags::{Flags, NamedRoot};
pub use self::interval::Interval;
pub use self::plan::Plan;
use crate::layout::Partition;
use crate::settings::{Keep, Takeover, Verify};
use crate::store::Location;
use crate::take::Profile;

/// Our name on the command line, in logs and in directories.
pub const DAEMON: &str = "serena-snapshotd";

/// Everything that a file can say; unknown keys are errors.
#[derive(Clone, Debug, Default, Deserialize, Eq, PartialEq)]
#[serde(default, deny_unknown_fields)]
pub struct Config {
    /// Whether snapshots are taken and restored at all; yes unless the environment says otherwise.
    pub enabled: Option<bool>,
    /// The name of this home in the store; there is no default.
    pub partition: Option<Partition>,
    /// Where snapshots are kept; a directory in the state directory unless given.
    pub store: Option<Location>,
    /// What is kept safe; `$SERENA_HOME` or `~/.serena` unless given.
    pub home: Option<PathBuf>,
    /// Whether nobody may start while nobody can tell whether there is a snapshot.
    pub strict: Option<bool>,
    /// Time from the end of a snapshot to the next; 3 minutes unless given.
    pub interval: Option<Interval>,
    /// How long the last snapshot at a stop may take; 25 seconds unless given.
    pub shutdown_deadline: Option<Span>,
    /// Address for `GET /ready` and `GET /metrics` alone.
    pub observe: Option<Listen>,
    /// Where the default store and what waits for its upload are.
    pub state_dir: Option<PathBuf>,
    /// What of the home is worth keeping; `serena` unless given.
    pub profile: Option<Profile>,
    /// Globs of paths below the home that are taken, whatever the profile says.
    pub include: Vec<String>,
    /// Globs of paths below the home that are left out.
    pub exclude: Vec<String>,
    /// Whether language servers that Serena has fetched are taken too.
    pub language_servers: bool,
    /// More directories, each by its name in the snapshot.
    pub root: BTreeMap<Route, Root>,
    /// What `prune` keeps.
    pub keep: Kept,
    /// How a bucket is reached.
    pub s3: Bucket,
    /// Keys that encrypt what is stored.
    pub encryption: Option<Encryption>,
    /// How an upload is checked before the snapshot counts.
    pub verify: Verify,
    /// What a daemon does while another writer is alive.
    pub takeover: Takeover,
    /// Somebody's promise that there is one writer: retention works on a store that ignores conditions, too.
    pub single_writer: bool,
    /// Files from this size on are stored alone; 8 MiB unless given.
    pub blob_from: Option<Size>,
}

/// One more directory of a snapshot.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq)]
#[serde(deny_unknown_fields)]
pub struct Root {
    /// Where it is, an absolute path.
    pub path: PathBuf,
    /// What of it is worth keeping; `project` unless given.
    pub profile: Option<Profile>,
    /// Globs of paths below it that are taken, whatever the profile says.
    #[serde(default)]
    pub include: Vec<String>,
    /// Globs of paths below it that are left out.
    #[serde(default)]
    pub exclude: Vec<String>,
}

/// What is kept besides the newest snapshot, the one before it, and what is pinned.
#[derive(Clone, Debug, Default, Deserialize, Eq, PartialEq)]
#[serde(default, deny_unknown_fields)]
pub struct Kept {
    /// The newest so many; 5 unless given.
    pub last: Option<u32>,
    /// Everything younger than this.
    pub within: Option<Span>,
    /// The newest of each of so many days; 7 unless given.
    pub daily: Option<u32>,
    /// The same by weeks; 4 unless given.
    pub weekly: Option<u32>,
    /// The same by months; none unless given.
    pub monthly: Option<u32>,
}

impl Kept {
    /// The rule, with `last` from the environment where the file has none. A `last` of 0 keeps all, as the Cloudflare
    /// wrapper has it.
    fn keep(&self, last: Option<u32>) -> Keep {
        let default = Keep::default();
        Keep {
            last: match self.last.or(last) {
                Some(0) => u32::MAX,
                last => last.unwrap_or(default.last),
            },
            within: self.within.map_or(default.within, |within| within.duration().as_secs()),
            daily: self.daily.unwrap_or(default.daily),
            weekly: self.weekly.unwrap_or(default.weekly),
            monthly: self.monthly.unwrap_or(default.monthly),
        }
    }
}

/// How a bucket is reached. Secrets stand in files of their own, or in the environment.
#[derive(Clone, Debug, Default, Deserialize, Eq, PartialEq)]
#[serde(default, deny_unknown_fields)]
pub struct Bucket {
    /// URL of the service; that of AWS unless given.
    pub endpoint: Option<String>,
    /// Region; `auto` for Cloudflare R2.
    pub region: Option<String>,
    /// Whether the bucket stands in the path of URLs; with an endpoint it does unless given.
    pub path_style: Option<bool>,
    /// File with the id of the access key.
    pub access_key_file: Option<PathBuf>,
    /// File with the secret access key.
    pub secret_key_file: Option<PathBuf>,
    /// File with the token of a temporary key.
    pub session_token_file: Option<PathBuf>,
    /// How often one request is tried.
    pub attempts: Option<u32>,
    /// How long one try may take, beyond what its bytes need.
    pub timeout: Option<Span>,
    /// Longest pause before the second try; it doubles from one to the next.
    pub backoff: Option<Span>,
}

/// Keys of age: what is stored is encrypted.
#[derive(Clone, Debug, Default, Deserialize, Eq, PartialEq)]
#[serde(default, deny_unknown_fields)]
pub struct Encryption {
    /// Public keys, `age1…`, that can read it; that of the identity unless given.
    pub recipients: Vec<String>,
    /// File with the private key, as `age-keygen` writes it.
    pub identity_file: Option<PathBuf>,
    /// File with a passphrase, instead of keys.
    pub passphrase_file: Option<PathBuf>,
}

impl Config {
    /// Reads the file of the flags, or takes what is said without one.
    pub fn load(path: Option<&Path>) -> Result<Self, ConfigProblem> {
        Ok(path.map(mcp_daemon::config::load).transpose()?.unwrap_or_default())
    }
}
