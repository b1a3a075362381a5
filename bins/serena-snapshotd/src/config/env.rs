//! What the environment says: Serena's own variable, those of AWS, and those of the Cloudflare wrapper, whose settings
//! work here unchanged. An empty variable says nothing.

use std::ffi::OsString;
use std::path::PathBuf;
use std::str::FromStr;

use mcp_daemon::config::QuantityError;
use mcp_daemon::files::usual_state_dir;
use mcp_daemon::secret::Secret;

use super::{ConfigProblem, DAEMON, Interval};
use crate::layout::Partition;
use crate::store::Location;

/// Our own variable for the partition.
pub(super) const PARTITION: &str = "SERENA_SNAPSHOTD_PARTITION";
/// Turns snapshots on and off.
pub(super) const ENABLED: &str = "SERENA_R2_STATE_ENABLED";
/// The wrapper's bucket.
pub(super) const BUCKET: &str = "R2_BUCKET_NAME";
/// Where in it.
const PREFIX: &str = "SERENA_R2_STATE_PREFIX";
/// Where the wrapper keeps snapshots unless it is told.
const DEFAULT_PREFIX: &str = "serena-mcp/default/serena-home-snapshots-v1";
/// How the wrapper tells containers apart.
const MODE: &str = "SERENA_R2_STATE_PARTITION_MODE";
/// What Cloudflare calls a container, inside it.
const OBJECT_ID: &str = "CLOUDFLARE_DURABLE_OBJECT_ID";
const ACCOUNT: &str = "R2_ACCOUNT_ID";
const INTERVAL: &str = "SERENA_R2_SNAPSHOT_INTERVAL_SECONDS";
const LAST: &str = "SERENA_R2_SNAPSHOT_RETENTION_COUNT";
const STRICT: &str = "SERENA_R2_STATE_STRICT";

/// The environment, read once.
#[derive(Clone, Default)]
pub struct Env {
    pub(super) home: Option<PathBuf>,
    pub(super) serena_home: Option<PathBuf>,
    pub(super) enabled: Option<bool>,
    pub(super) strict: Option<bool>,
    pub(super) interval: Option<Interval>,
    pub(super) last: Option<u32>,
    pub(super) store: Option<Location>,
    pub(super) partition: Option<Partition>,
    /// Why the wrapper's settings give no partition.
    pub(super) no_partition: Option<String>,
    /// With the variable that says it, as the region.
    pub(super) endpoint: Option<(&'static str, String)>,
    pub(super) region: Option<(&'static str, String)>,
    pub(super) access_key_id: Option<String>,
    pub(super) secret_access_key: Option<Secret>,
    pub(super) session_token: Option<Secret>,
    pub(super) credentials_directory: Option<PathBuf>,
    /// Where state goes unless somebody says otherwise.
    pub(super) state_dir: Option<PathBuf>,
}

impl Env {
    /// That of this process.
    pub fn of_process() -> Result<Self, ConfigProblem> {
        Env::read(|name| std::env::var_os(name))
    }

    /// The same from anywhere.
    pub fn read(variable: impl Fn(&str) -> Option<OsString>) -> Result<Self, ConfigProblem> {
        let set = |name: &str| variable(name).filter(|value| !value.is_empty());
        let path = |name| set(name).map(PathBuf::from);
        let text = |name: &str| match set(name).map(OsString::into_string) {
            None => Ok(None),
            Some(Ok(text)) => Ok(Some(text)),
            Some(Err(_)) => Err(ConfigProblem::key(name, "its value is not UTF-8")),
        };
        let account = text(ACCOUNT)?;
        if account.as_ref().is_some_and(|id| !id.bytes().all(|byte| byte.is_ascii_alphanumeric())) {
            let what = "not the id of a Cloudflare account; write its 32 hexadecimal digits";
            return Err(ConfigProblem::key(ACCOUNT, what));
        }
        let on_r2 = account.map(|id| (ACCOUNT, format!("https://{id}.r2.cloudflarestorage.com")));
        let named = |name: &'static str| text(name).map(|value| value.map(|value| (name, value)));
        let own = text(PARTITION)?.map(|name| parsed(PARTITION, &name)).transpose()?;
        let (object, no_partition) = match object_partition(text(MODE)?.as_deref(), text(OBJECT_ID)?)? {
            Ok(partition) => (Some(partition), None),
            Err(why) => (None, Some(why).filter(|why| !why.is_empty())),
        };
        Ok(Env {
            home: path("HOME"),
            serena_home: path("SERENA_HOME"),
            enabled: text(ENABLED)?.map(|value| is_on(&value)),
            strict: text(STRICT)?.map(|value| is_on(&value)),
            interval: text(INTERVAL)?.map(|value| interval(&value)).transpose()?,
            last: text(LAST)?.map(|value| number(LAST, &value)).transpose()?,
            store: text(BUCKET)?.map(|bucket| location(&bucket, text(PREFIX)?)).transpose()?,
            partition: own.or(object),
            no_partition,
            region: named("AWS_REGION")?
                .or(named("AWS_DEFAULT_REGION")?)
                .or(on_r2.is_some().then(|| (ACCOUNT, "auto".to_owned()))),
            endpoint: on_r2.or(named("AWS_ENDPOINT_URL_S3")?).or(named("AWS_ENDPOINT_URL")?),
            access_key_id: text("AWS_ACCESS_KEY_ID")?,
            secret_access_key: text("AWS_SECRET_ACCESS_KEY")?.map(Secret::new),
            session_token: text("AWS_SESSION_TOKEN")?.map(Secret::new),
            credentials_directory: path("CREDENTIALS_DIRECTORY"),
            state_dir: usual_state_dir(set, DAEMON),
        })
    }
}

/// What the wrapper takes for yes.
fn is_on(value: &str) -> bool {
    ["1", "true", "TRUE", "yes", "YES", "on", "ON"].contains(&value)
}

fn number<T: FromStr>(name: &str, value: &str) -> Result<T, ConfigProblem> {
    let is_plain = value.bytes().all(|byte| byte.is_ascii_digit());
    let wrong = || ConfigProblem::key(name, format!("`{value}` is not a whole number; write 0, 5 or 180"));
    value.parse().ok().filter(|_| is_plain).ok_or_else(wrong)
}

fn interval(value: &str) -> Result<Interval, ConfigProblem> {
    match number::<u64>(INTERVAL, value)? {
        0 => Ok(Interval::Off),
        // By the one parser that knows how long a span may be.
        seconds => format!("{seconds}s").parse().map(Interval::Every).map_err(|_: QuantityError| {
            ConfigProblem::key(INTERVAL, format!("`{value}` seconds are too many; write 180"))
        }),
    }
}

fn parsed<T: FromStr<Err: ToString>>(name: &str, value: &str) -> Result<T, ConfigProblem> {
    value.parse().map_err(|error: T::Err| ConfigProblem::key(name, error))
}

fn location(bucket: &str, prefix: Option<String>) -> Result<Location, ConfigProblem> {
    let prefix = prefix.as_deref().unwrap_or(DEFAULT_PREFIX).trim_matches('/');
    let end = if prefix.is_empty() { String::new() } else { format!("/{prefix}") };
    parsed(BUCKET, &format!("s3://{bucket}{end}"))
}

/// The partition of a container on Cloudflare, or why there is none. The wrapper goes on without one, and all containers
/// then write over one state; here nobody gets that without asking.
fn object_partition(
    mode: Option<&str>,
    id: Option<String>,
) -> Result<Result<Partition, String>, ConfigProblem> {
    match (mode.unwrap_or("durable-object"), id) {
        ("durable-object", Some(id)) => {
            // As the wrapper spells it.
            let plain =
                |char: char| if char.is_ascii_alphanumeric() || "._-".contains(char) { char } else { '_' };
            parsed(OBJECT_ID, &id.chars().map(plain).collect::<String>()).map(Ok)
        }
        ("durable-object", None) => Ok(Err(match mode {
            Some(_) => format!("{MODE} is durable-object, but {OBJECT_ID} is not set"),
            None => String::new(),
        })),
        ("none", _) => Ok(Err(format!("{MODE} is none, which shares one state between all containers"))),
        (other, _) => {
            Err(ConfigProblem::key(MODE, format!("`{other}` is not a mode; write durable-object or none")))
        }
    }
}
