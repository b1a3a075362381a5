//! The key of a bucket: from the files that the settings name, else the service manager's credentials, else the
//! environment. Never from the command line.

use std::io;
use std::path::{Path, PathBuf};

use mcp_daemon::secret::Secret;

use super::{Bucket, ConfigProblem, Env};

/// An access key, whole.
pub(super) struct AccessKey {
    pub(super) id: String,
    pub(super) secret: Secret,
    pub(super) token: Option<Secret>,
}

/// Names of the files in `$CREDENTIALS_DIRECTORY`.
const CREDENTIALS: [&str; 3] = ["aws_access_key_id", "aws_secret_access_key", "aws_session_token"];

/// Finds the key; the three parts come from one place, so that no two keys are mixed.
pub(super) fn access_key(bucket: &Bucket, env: &Env) -> Result<AccessKey, ConfigProblem> {
    if bucket.access_key_file.is_some() || bucket.secret_key_file.is_some() {
        return from_files(bucket);
    }
    let [id, secret, token] = CREDENTIALS.map(|name| Some(env.credentials_directory.as_ref()?.join(name)));
    if let (Some(id), Some(secret)) = (id.filter(|path| path.exists()), secret.filter(|path| path.exists())) {
        return read(&id, &secret, token.filter(|path| path.exists()).as_deref());
    }
    match (&env.access_key_id, &env.secret_access_key) {
        (Some(id), Some(secret)) => {
            Ok(AccessKey { id: id.clone(), secret: secret.clone(), token: env.session_token.clone() })
        }
        (None, _) => Err(missing("AWS_ACCESS_KEY_ID")),
        (_, None) => Err(missing("AWS_SECRET_ACCESS_KEY")),
    }
}

fn missing(variable: &str) -> ConfigProblem {
    ConfigProblem::key(
        variable,
        "is not set, so the bucket has no access key; set it, or name files: s3.access_key_file and s3.secret_key_file",
    )
}

fn from_files(bucket: &Bucket) -> Result<AccessKey, ConfigProblem> {
    let named = |file: &Option<PathBuf>, key: &str, other: &str| {
        file.clone().ok_or_else(|| {
            ConfigProblem::key(key, format!("is missing; {other} is given, the two go together"))
        })
    };
    let id = named(&bucket.access_key_file, "s3.access_key_file", "s3.secret_key_file")?;
    let secret = named(&bucket.secret_key_file, "s3.secret_key_file", "s3.access_key_file")?;
    read(&id, &secret, bucket.session_token_file.as_deref())
}

fn read(id: &Path, secret: &Path, token: Option<&Path>) -> Result<AccessKey, ConfigProblem> {
    let wrong = |error: io::Error| ConfigProblem::key("access key", error);
    let id = Secret::read(id).map_err(wrong)?;
    let secret = Secret::read(secret).map_err(wrong)?;
    let token = token.map(Secret::read).transpose().map_err(wrong)?;
    Ok(AccessKey { id: id.expose().to_owned(), secret, token })
}
