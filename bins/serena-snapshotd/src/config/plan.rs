//! What flags, file and environment come to: everything a command or the daemon must be told, checked, without a secret.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use mcp_daemon::addr::Listen;
use mcp_daemon::config::{Size, Span};
use mcp_daemon::files::{self, real};
use nix::unistd::gethostname;
use serde_json::{Map, Value, json};

use super::env::{BUCKET, ENABLED, PARTITION};
use super::paths::{absolute, apart};
use super::secrets::access_key;
use super::{Bucket, Config, ConfigProblem, DAEMON, Encryption, Env, Flags, Interval};
use crate::layout::Partition;
use crate::manifest::HOME;
use crate::seal::Seal;
use crate::settings::{Root, Settings};
use crate::store::{Location, S3Settings, Store};
use crate::take::{Profile, Rules};

/// Below the state directory: the default store.
const STORE: &str = "store";
/// Below the state directory: where large objects wait.
const SPOOL: &str = "spool";
/// Where a file becomes large.
const BLOB_FROM: Size = Size(8 << 20);
/// Smaller ones are not worth an object of their own.
const LEAST_BLOB: usize = 64 << 10;
/// The final snapshot's time; systemd and Kubernetes give 90 and 30 seconds in all.
const SHUTDOWN_DEADLINE: Span = Span::seconds(25);

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
    state_dir: PathBuf,
    bucket: Bucket,
    told: Config,
    env: Env,
}

/// What somebody named on purpose, to be compared with what a running daemon serves.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct Asked {
    /// The partition.
    pub partition: Option<Partition>,
    /// The home.
    pub home: Option<PathBuf>,
    /// The store.
    pub store: Option<Location>,
}

impl Config {
    /// Why nothing is to be done at all; `None` if there is something to do. A store that is named on purpose is used,
    /// whatever the environment says.
    pub fn off(&self, flags: &Flags, env: &Env) -> Option<String> {
        match self.enabled {
            Some(true) => None,
            Some(false) => Some("enabled is false".to_owned()),
            None if flags.store.is_some() || self.store.is_some() => None,
            None => (env.enabled == Some(false)).then(|| format!("{ENABLED} is off")),
        }
    }

    /// What was named on purpose.
    pub fn asked(&self, flags: &Flags, env: &Env) -> Asked {
        let home = flags.home.as_ref().or(self.home.as_ref()).or(env.serena_home.as_ref());
        Asked {
            partition: flags
                .partition
                .as_ref()
                .or(self.partition.as_ref())
                .or(env.partition.as_ref())
                .cloned(),
            home: home.and_then(|home| std::path::absolute(home).ok()).map(|home| real(&home)),
            store: flags.store.as_ref().or(self.store.as_ref()).or(env.store.as_ref()).cloned(),
        }
    }

    /// Puts the three together. Nothing is made, asked or read but this.
    pub fn plan(&self, flags: &Flags, env: &Env) -> Result<Plan, ConfigProblem> {
        self.put_together(flags, env).map_err(|problem| problem.within(flags.config.as_deref()))
    }

    fn put_together(&self, flags: &Flags, env: &Env) -> Result<Plan, ConfigProblem> {
        let state_dir = match flags.state_dir.as_ref().or(self.state_dir.as_ref()) {
            Some(directory) => absolute("state_dir", directory, flags.state_dir.is_some())?,
            None => env.state_dir().ok_or_else(|| {
                ConfigProblem::key(
                    "--state-dir",
                    "neither STATE_DIRECTORY nor HOME is an absolute path; say --state-dir DIR",
                )
            })?,
        };
        let location = match flags.store.as_ref().or(self.store.as_ref()).or(env.store.as_ref()) {
            Some(location) => location.clone(),
            None if self.off(flags, env).is_none() && env.enabled == Some(true) => {
                return Err(ConfigProblem::key(
                    BUCKET,
                    format!("is not set, but {ENABLED} is on; set it to the name of the bucket"),
                ));
            }
            None => Location::Directory(state_dir.join(STORE)),
        };
        let roots = self.roots(flags, env)?;
        apart(&roots, &location, &state_dir)?;
        let blob_from = self.blob_from.unwrap_or(BLOB_FROM).bytes();
        if blob_from < LEAST_BLOB {
            return Err(ConfigProblem::key(
                "blob_from",
                format!("`{}` is too small; write 64KiB or more", Size(blob_from)),
            ));
        }
        let bucket = self.bucket(flags, env)?;
        if let Some(encryption) = &self.encryption
            && encryption.identity_file.is_some() == encryption.passphrase_file.is_some()
        {
            return Err(ConfigProblem::key(
                "encryption",
                "write either identity_file = \"/path\" or passphrase_file = \"/path\"",
            ));
        }
        let settings = Settings {
            partition: self.partition(flags, env)?,
            roots,
            spool: state_dir.join(SPOOL),
            seal: None,
            verify: self.verify,
            keep: self.keep.keep(env.last),
            single_writer: self.single_writer,
            takeover: self.takeover,
            writer: writer(),
            blob_from: blob_from as u64,
        };
        Ok(Plan {
            settings,
            location,
            strict: flags.strict || self.strict.or(env.strict).unwrap_or(false),
            interval: flags.interval.or(self.interval).or(env.interval).unwrap_or_default(),
            shutdown_deadline: self.shutdown_deadline.unwrap_or(SHUTDOWN_DEADLINE).duration(),
            observe: flags.observe.clone().or_else(|| self.observe.clone()),
            state_dir,
            bucket,
            told: self.clone(),
            env: env.clone(),
        })
    }

    fn partition(&self, flags: &Flags, env: &Env) -> Result<Partition, ConfigProblem> {
        let named = flags.partition.as_ref().or(self.partition.as_ref()).or(env.partition.as_ref());
        named.cloned().ok_or_else(|| {
            let why = env.no_partition.as_ref().map(|why| format!("; {why}")).unwrap_or_default();
            ConfigProblem::key(
                "--partition",
                format!(
                    "the name of this home in the store is missing{why}; say --partition NAME, such as --partition laptop (or \
                     partition in the file, or {PARTITION}); take the name of the instance, and never one name for two homes"
                ),
            )
        })
    }

    fn roots(&self, flags: &Flags, env: &Env) -> Result<Vec<Root>, ConfigProblem> {
        let home = match (&flags.home, &self.home, &env.serena_home, &env.home) {
            (Some(home), ..) => absolute("--home", home, true)?,
            (None, Some(home), ..) => absolute("home", home, false)?,
            (None, None, Some(home), _) => absolute("SERENA_HOME", home, false)?,
            (None, None, None, Some(home)) => absolute("HOME", home, false)?.join(".serena"),
            (None, None, None, None) => {
                return Err(ConfigProblem::key(
                    "--home",
                    "neither SERENA_HOME nor HOME is set; say --home DIR",
                ));
            }
        };
        let rules = |key: &str, profile, include: &[String], exclude: &[String]| {
            Rules::new(profile, include, exclude).map_err(|error| ConfigProblem::key(key, error))
        };
        let own = rules(
            "include or exclude",
            self.profile.unwrap_or(Profile::Serena),
            &self.include,
            &self.exclude,
        )?;
        let own = own.with_cache(self.language_servers);
        let mut roots = vec![Root { name: HOME.to_owned(), path: real(&home), rules: Arc::new(own) }];
        for (name, root) in &self.root {
            // A flag of the same name replaces it.
            if flags.root.iter().any(|flag| flag.name == *name) {
                continue;
            }
            let key = format!("root.{name}");
            let path = absolute(&format!("{key}.path"), &root.path, false)?;
            let rules = rules(&key, root.profile.unwrap_or(Profile::Project), &root.include, &root.exclude)?;
            roots.push(Root { name: name.to_string(), path: real(&path), rules: Arc::new(rules) });
        }
        for root in &flags.root {
            let path = absolute("--root", &root.path, true)?;
            let rules = rules("--root", Profile::Project, &[], &[])?;
            roots.push(Root { name: root.name.to_string(), path: real(&path), rules: Arc::new(rules) });
        }
        let mut names: Vec<&str> = roots.iter().map(|root| root.name.as_str()).collect();
        names.sort_unstable();
        match names.windows(2).find(|pair| pair[0] == pair[1]) {
            Some([HOME, _]) => {
                Err(ConfigProblem::key("root.home", "`home` is the name of the home itself; take another"))
            }
            Some([name, _]) => Err(ConfigProblem::key("--root", format!("`{name}` is given twice"))),
            _ => Ok(roots),
        }
    }

    /// The bucket's settings with flags and environment in them.
    fn bucket(&self, flags: &Flags, env: &Env) -> Result<Bucket, ConfigProblem> {
        let endpoint = flags.endpoint.clone().or(self.s3.endpoint.clone()).or(env.endpoint.clone());
        if let Some(url) = endpoint.as_deref()
            && url
                .parse::<http::Uri>()
                .ok()
                .filter(|uri| matches!(uri.scheme_str(), Some("http" | "https")))
                .is_none()
        {
            return Err(ConfigProblem::key(
                "--endpoint",
                format!("`{url}` is not a URL; write https://s3.example.org"),
            ));
        }
        if self.s3.attempts == Some(0) {
            return Err(ConfigProblem::key("s3.attempts", "`0` tries never; write 1 or more"));
        }
        Ok(Bucket {
            endpoint,
            region: flags.region.clone().or(self.s3.region.clone()).or(env.region.clone()),
            ..self.s3.clone()
        })
    }
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

/// The names of the host and the process, for people.
fn writer() -> String {
    let host =
        gethostname().ok().and_then(|name| name.into_string().ok()).unwrap_or_else(|| "host".to_owned());
    format!("{host}/{}", std::process::id())
}
