//! Flags, file and environment put together: what a flag says wins over the file, that over the environment, that over the
//! default; what cannot work is named where it stands.

use std::path::PathBuf;
use std::sync::Arc;

use mcp_daemon::config::{Size, Span};
use mcp_daemon::files::real;
use nix::unistd::gethostname;

use super::env::{BUCKET, ENABLED, PARTITION};
use super::paths::{absolute, apart, nested};
use super::secrets::missing_key;
use super::{Bucket, Config, ConfigProblem, Encryption, Env, Flags, Plan};
use crate::layout::Partition;
use crate::manifest::HOME;
use crate::seal::Seal;
use crate::settings::{Root, Settings};
use crate::store::{Location, S3Problem, S3Settings};
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

/// What somebody named on purpose, to be compared with what a running daemon serves.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct Named {
    /// The partition.
    pub partition: Option<Partition>,
    /// The home.
    pub home: Option<PathBuf>,
    /// The store.
    pub store: Option<Location>,
}

impl Config {
    /// Why nothing is to be done at all; `None` if there is something to do. A store that is named on purpose is used,
    /// whatever the environment says; the wrapper's bucket is not, unless the wrapper's switch is on.
    pub fn off(&self, flags: &Flags, env: &Env) -> Option<String> {
        match self.enabled {
            Some(true) => None,
            Some(false) => Some("enabled is false".to_owned()),
            None if flags.store.is_some() || self.store.is_some() => None,
            None => match (env.enabled, &env.store) {
                (Some(true), _) | (None, None) => None,
                (Some(false), _) => Some(format!("{ENABLED} is off")),
                (None, Some(_)) => Some(format!(
                    "{BUCKET} is set, but {ENABLED} is not, and off unless it is 1; set it to 1, or name a store"
                )),
            },
        }
    }

    /// Why a process that works alone does nothing, where all comes from the environment of the Cloudflare wrapper and that
    /// has no key: unless it is told to be strict, the wrapper says so and goes on without.
    pub fn lacks_key(&self, flags: &Flags, env: &Env) -> Option<String> {
        let is_of_wrapper = self.store(flags, env).is_some_and(|(key, _)| key == BUCKET);
        if self.is_strict(flags, env) || !is_of_wrapper {
            return None;
        }
        missing_key(&self.s3, env).map(|name| format!("{ENABLED} is on, but {name} is not set"))
    }

    /// Whether nobody may start while nobody can tell whether there is a snapshot: by a flag, the file or the environment.
    pub fn is_strict(&self, flags: &Flags, env: &Env) -> bool {
        flags.strict || self.strict.or(env.strict).unwrap_or(false)
    }

    /// The store that was named, and where.
    fn store<'a>(&'a self, flags: &'a Flags, env: &'a Env) -> Option<(&'static str, &'a Location)> {
        first([
            ("--store", flags.store.as_ref()),
            ("store", self.store.as_ref()),
            (BUCKET, env.store.as_ref()),
        ])
    }

    /// What was named on purpose.
    pub fn named(&self, flags: &Flags, env: &Env) -> Named {
        let home = flags.home.as_ref().or(self.home.as_ref()).or(env.serena_home.as_ref());
        Named {
            partition: flags
                .partition
                .as_ref()
                .or(self.partition.as_ref())
                .or(env.partition.as_ref())
                .cloned(),
            home: home.and_then(|home| std::path::absolute(home).ok()).map(|home| real(&home)),
            store: self.store(flags, env).map(|(_, location)| location.clone()),
        }
    }

    /// Puts the three together. Nothing is made, asked or read but this.
    pub fn plan(&self, flags: &Flags, env: &Env) -> Result<Plan, ConfigProblem> {
        self.put_together(flags, env).map_err(|problem| problem.within(flags.config.as_deref()))
    }

    fn put_together(&self, flags: &Flags, env: &Env) -> Result<Plan, ConfigProblem> {
        let state_dir = [("--state-dir", flags.state_dir.as_ref()), ("state_dir", self.state_dir.as_ref())];
        let (state_key, state_dir) = match first(state_dir) {
            Some((key, directory)) => (key, absolute(key, directory)?),
            None => {
                let usual = env.state_dir.clone().ok_or_else(|| {
                    ConfigProblem::key(
                        "--state-dir",
                        "neither STATE_DIRECTORY nor HOME is an absolute path; say --state-dir DIR",
                    )
                });
                ("--state-dir", usual?)
            }
        };
        let (store_key, location) = match self.store(flags, env) {
            Some((key, location)) => (key, location.clone()),
            None if self.off(flags, env).is_none() && env.enabled == Some(true) => {
                return Err(ConfigProblem::key(
                    BUCKET,
                    format!("is not set, but {ENABLED} is on; set it to the name of the bucket"),
                ));
            }
            None => ("--store", Location::Directory(state_dir.join(STORE))),
        };
        let roots = self.roots(flags, env)?;
        one_within_another(flags, &roots)?;
        apart(&roots, state_key, &state_dir)?;
        if let Location::Directory(directory) = &location {
            apart(&roots, store_key, directory)?;
        }
        let blob_from = self.blob_from.unwrap_or(BLOB_FROM).bytes();
        if blob_from < LEAST_BLOB {
            return Err(ConfigProblem::key(
                "blob_from",
                format!("`{}` is too small; write 64KiB or more", Size(blob_from)),
            ));
        }
        let bucket = self.bucket(flags, env)?;
        if let Some(Encryption { recipients, identity_file, passphrase_file }) = &self.encryption {
            Seal::check(recipients, identity_file.as_deref(), passphrase_file.as_deref())
                .map_err(|error| ConfigProblem::key("encryption", error))?;
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
            strict: self.is_strict(flags, env),
            interval: flags.interval.or(self.interval).or(env.interval).unwrap_or_default(),
            shutdown_deadline: self.shutdown_deadline.unwrap_or(SHUTDOWN_DEADLINE).duration(),
            observe: flags.observe.clone().or_else(|| self.observe.clone()),
            state_dir,
            bucket,
            told: self.clone(),
            is_off: self.off(flags, env).is_some(),
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
        let named = first([
            ("--home", flags.home.as_ref()),
            ("home", self.home.as_ref()),
            ("SERENA_HOME", env.serena_home.as_ref()),
        ]);
        let home = match (named, &env.home) {
            (Some((key, home)), _) => absolute(key, home)?,
            (None, Some(home)) => absolute("HOME", home)?.join(".serena"),
            (None, None) => {
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
            let path = absolute(&format!("{key}.path"), &root.path)?;
            let rules = rules(&key, root.profile.unwrap_or(Profile::Project), &root.include, &root.exclude)?;
            roots.push(Root { name: name.to_string(), path: real(&path), rules: Arc::new(rules) });
        }
        for root in &flags.root {
            let path = absolute("--root", &root.path)?;
            let rules = rules("--root", Profile::Project, &[], &[])?;
            roots.push(Root { name: root.name.to_string(), path: real(&path), rules: Arc::new(rules) });
        }
        let mut names: Vec<&str> = roots.iter().map(|root| root.name.as_str()).collect();
        names.sort_unstable();
        match names.windows(2).find(|pair| pair[0] == pair[1]) {
            Some([HOME, _]) => Err(ConfigProblem::key(
                root_key(flags, HOME),
                "`home` is the name of the home itself; take another",
            )),
            Some([name, _]) => Err(ConfigProblem::key("--root", format!("`{name}` is given twice"))),
            _ => Ok(roots),
        }
    }

    /// The bucket's settings with flags and environment in them.
    fn bucket(&self, flags: &Flags, env: &Env) -> Result<Bucket, ConfigProblem> {
        let endpoint =
            first([("--endpoint", flags.endpoint.as_ref()), ("s3.endpoint", self.s3.endpoint.as_ref())]);
        let endpoint = endpoint.or(env.endpoint.as_ref().map(|(name, url)| (*name, url)));
        let region = first([("--region", flags.region.as_ref()), ("s3.region", self.s3.region.as_ref())]);
        let region = region.or(env.region.as_ref().map(|(name, region)| (*name, region)));
        let place = S3Settings {
            endpoint: endpoint.map(|(_, url)| url.clone()),
            region: region.map(|(_, region)| region.clone()),
            ..S3Settings::default()
        };
        place.check_place().map_err(|problem| {
            let said = match problem {
                S3Problem::Endpoint(_) => endpoint,
                S3Problem::Key(_) | S3Problem::Region(_) => region,
            };
            ConfigProblem::key(said.map_or("s3", |(key, _)| key), problem)
        })?;
        if self.s3.attempts == Some(0) {
            return Err(ConfigProblem::key("s3.attempts", "`0` tries never; write 1 or more"));
        }
        Ok(Bucket { endpoint: place.endpoint, region: place.region, ..self.s3.clone() })
    }
}

/// What was said first, and where: a flag (`--home`), a key of the file (`home`) or a variable (`SERENA_HOME`).
fn first<'a, T, const N: usize>(said: [(&'static str, Option<&'a T>); N]) -> Option<(&'static str, &'a T)> {
    said.into_iter().find_map(|(key, value)| Some((key, value?)))
}

/// Where a root was named.
fn root_key(flags: &Flags, name: &str) -> String {
    match flags.root.iter().any(|flag| flag.name.as_str() == name) {
        true => "--root".to_owned(),
        false => format!("root.{name}"),
    }
}

/// A root within another would be stored twice.
fn one_within_another(flags: &Flags, roots: &[Root]) -> Result<(), ConfigProblem> {
    for (at, root) in roots.iter().enumerate() {
        for other in &roots[at + 1..] {
            if nested(&root.path, &other.path) {
                let text =
                    format!("{} and {} are one within the other", root.path.display(), other.path.display());
                return Err(ConfigProblem::key(root_key(flags, &other.name), text));
            }
        }
    }
    Ok(())
}

/// The names of the host and the process, for people.
fn writer() -> String {
    let host =
        gethostname().ok().and_then(|name| name.into_string().ok()).unwrap_or_else(|| "host".to_owned());
    format!("{host}/{}", std::process::id())
}
