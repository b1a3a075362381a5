//! What flags, file and environment come to: everything a command or the daemon must be told, checked, without a secret.
//! [`Config::plan`] makes one.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use mcp_daemon::addr::Listen;
use mcp_daemon::config::Span;
use mcp_daemon::files;
use serde_json::{Map, Value, json};

use super::secrets::access_key;
use super::{Bucket, Config, ConfigProblem, DAEMON, Encryption, Env, Interval};
use crate::layout::Partition;
use crate::seal::Seal;
use crate::settings::Settings;
use crate::store::{Location, S3Settings, Store};

/// What is to be done, and how.
pub struct Plan {
    /// For the engine, but for the keys of an encryption.
    pub settings: Settings,
    /// Where snapshots are kept.
    pub location: Location,
    /// Whether the daemon may not start while nobody can tell whether there is a snapshot.
    pub strict: bool,
    /// How often snapshots are taken.
    pub interval: Interval,
    /// How long the last one may take at a stop.
    pub shutdown_deadline: Duration,
    /// Address for `GET /ready` and `GET /metrics` alone.
    pub observe: Option<Listen>,
    pub(super) state_dir: PathBuf,
    /// With flags and environment in it.
    pub(super) bucket: Bucket,
    pub(super) told: Config,
    pub(super) is_off: bool,
    pub(super) env: Env,
}

impl Plan {
    /// Where the home is.
    pub fn home(&self) -> &Path {
        self.settings.roots.first().map_or(Path::new(""), |home| &home.path)
    }

    /// What a status says of it; no secret.
    pub fn to_json(&self) -> Value {
        let roots = self.settings.roots.iter().skip(1);
        let roots: Map<String, Value> =
            roots.map(|root| (root.name.clone(), root.path.display().to_string().into())).collect();
        json!({
            "partition": self.settings.partition.as_str(),
            "home": self.home().display().to_string(),
            "roots": roots,
            "store": self.location.to_string(),
            "strict": self.strict,
            "encrypted": self.told.encryption.is_some(),
        })
    }

    /// What differs in another plan and cannot change while a daemon runs.
    pub fn needs_restart(&self, other: &Plan) -> Vec<&'static str> {
        let places = |plan: &Plan| {
            let roots = plan.settings.roots.iter().map(|root| (root.name.clone(), root.path.clone()));
            (roots.collect::<Vec<_>>(), plan.told.root.clone())
        };
        let globs = |plan: &Plan| {
            let Config { profile, include, exclude, language_servers, .. } = plan.told.clone();
            (profile, include, exclude, language_servers)
        };
        let (one, two) = (&self.settings, &other.settings);
        [
            ("partition", one.partition == two.partition),
            ("store", self.location == other.location),
            ("home or roots", places(self) == places(other)),
            ("profile, include or exclude", globs(self) == globs(other)),
            ("s3", self.bucket == other.bucket),
            ("encryption", self.told.encryption == other.told.encryption),
            ("verify", one.verify == two.verify),
            ("takeover", one.takeover == two.takeover),
            ("single_writer", one.single_writer == two.single_writer),
            ("blob_from", one.blob_from == two.blob_from),
            ("state_dir", self.state_dir == other.state_dir),
            ("observe", self.observe == other.observe),
            ("enabled", self.is_off == other.is_off),
            ("strict", self.strict == other.strict),
            ("shutdown_deadline", self.shutdown_deadline == other.shutdown_deadline),
        ]
        .into_iter()
        .filter_map(|(name, is_same)| (!is_same).then_some(name))
        .collect()
    }

    /// Makes the directories that are ours, for whoever takes snapshots.
    pub fn make_directories(&self) -> Result<(), ConfigProblem> {
        for directory in [&self.state_dir, &self.settings.spool] {
            let made = files::state_dir(Some(directory), DAEMON);
            made.map_err(|error| {
                ConfigProblem::key("--state-dir", format!("{}: {error}", directory.display()))
            })?;
        }
        Ok(())
    }

    /// Reads the secrets, and gives the engine's settings and the store. The store itself is not asked yet.
    pub fn connect(&self) -> Result<(Settings, Store), ConfigProblem> {
        let mut settings = self.settings.clone();
        settings.seal = self.seal()?.map(Arc::new);
        let store = self.store(&self.location, &settings.partition)?;
        Ok((settings, store))
    }

    /// Another store, reached with the same keys.
    pub fn store(&self, location: &Location, partition: &Partition) -> Result<Store, ConfigProblem> {
        let s3 = match location {
            Location::Directory(_) => S3Settings::default(),
            Location::S3 { .. } => self.s3()?,
        };
        Store::at(location, partition, &s3).map_err(|error| ConfigProblem::key("--store", error))
    }

    fn s3(&self) -> Result<S3Settings, ConfigProblem> {
        let key = access_key(&self.bucket, &self.env)?;
        let default = S3Settings::default();
        let settings = S3Settings {
            endpoint: self.bucket.endpoint.clone(),
            region: self.bucket.region.clone(),
            path_style: self.bucket.path_style,
            access_key_id: key.id,
            secret_access_key: key.secret,
            session_token: key.token,
            attempts: self.bucket.attempts.unwrap_or(default.attempts),
            timeout: self.bucket.timeout.map_or(default.timeout, Span::duration),
            backoff: self.bucket.backoff.map_or(default.backoff, Span::duration),
            ..default
        };
        settings.check().map_err(|problem| ConfigProblem::key("--store", problem))?;
        Ok(settings)
    }

    fn seal(&self) -> Result<Option<Seal>, ConfigProblem> {
        let Some(encryption) = &self.told.encryption else { return Ok(None) };
        let Encryption { recipients, identity_file, passphrase_file } = encryption;
        let seal = Seal::from_files(recipients, identity_file.as_deref(), passphrase_file.as_deref());
        seal.map(Some).map_err(|error| ConfigProblem::key("encryption", error))
    }
}
