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

const ID: &str = "AWS_ACCESS_KEY_ID";
const SECRET: &str = "AWS_SECRET_ACCESS_KEY";
/// Names of the files in `$CREDENTIALS_DIRECTORY`.
const CREDENTIALS: [&str; 3] = ["aws_access_key_id", "aws_secret_access_key", "aws_session_token"];

/// Finds the key; the three parts come from one place, so that no two keys are mixed.
pub(super) fn access_key(bucket: &Bucket, env: &Env) -> Result<AccessKey, ConfigProblem> {
    if names_files(bucket) {
        return from_files(bucket);
    }
    if let Some([id, secret, token]) = credentials(env) {
        return read(&id, &secret, Some(token.as_path()).filter(|path| path.exists()));
    }
    match (&env.access_key_id, &env.secret_access_key) {
        (Some(id), Some(secret)) => {
            Ok(AccessKey { id: id.clone(), secret: secret.clone(), token: env.session_token.clone() })
        }
        (None, _) => Err(missing(ID)),
        (_, None) => Err(missing(SECRET)),
    }
}

/// The variable that would have to be set, where the key can come from nowhere else; nothing is read.
pub(super) fn missing_key(bucket: &Bucket, env: &Env) -> Option<&'static str> {
    if names_files(bucket) || credentials(env).is_some() {
        return None;
    }
    match (&env.access_key_id, &env.secret_access_key) {
        (None, _) => Some(ID),
        (_, None) => Some(SECRET),
        (Some(_), Some(_)) => None,
    }
}

fn names_files(bucket: &Bucket) -> bool {
    [&bucket.access_key_file, &bucket.secret_key_file, &bucket.session_token_file]
        .into_iter()
        .any(Option::is_some)
}

/// The files of the service manager, where it gives a key.
fn credentials(env: &Env) -> Option<[PathBuf; 3]> {
    let directory = env.credentials_directory.as_ref()?;
    let files = CREDENTIALS.map(|name| directory.join(name));
    (files[0].exists() && files[1].exists()).then_some(files)
}

fn missing(variable: &str) -> ConfigProblem {
    ConfigProblem::key(
        variable,
        "is not set, so the bucket has no access key; set it, or name files: s3.access_key_file and s3.secret_key_file",
    )
}

fn from_files(bucket: &Bucket) -> Result<AccessKey, ConfigProblem> {
    let named = |file: &Option<PathBuf>, key: &str| {
        file.clone().ok_or_else(|| {
            ConfigProblem::key(
                key,
                "is missing; s3.access_key_file and s3.secret_key_file go together, s3.session_token_file goes with both",
            )
        })
    };
    let id = named(&bucket.access_key_file, "s3.access_key_file")?;
    let secret = named(&bucket.secret_key_file, "s3.secret_key_file")?;
    read(&id, &secret, bucket.session_token_file.as_deref())
}

fn read(id: &Path, secret: &Path, token: Option<&Path>) -> Result<AccessKey, ConfigProblem> {
    let wrong = |error: io::Error| ConfigProblem::key("access key", error);
    let id = Secret::read(id).map_err(wrong)?;
    let secret = Secret::read(secret).map_err(wrong)?;
    let token = token.map(Secret::read).transpose().map_err(wrong)?;
    Ok(AccessKey { id: id.expose().to_owned(), secret, token })
}
