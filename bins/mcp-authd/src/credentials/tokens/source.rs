//! Where static tokens come from: `tokens` of the settings, `API_TOKEN` and `API_TOKENS_JSON` of the environment.

use std::ffi::OsString;
use std::fs;
use std::io;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use mcp_daemon::config::{ConfigError, ConfigProblem};
use mcp_daemon::tokens::{self, Item};

use crate::config::Config;

/// One token that everybody shares.
const SHARED: &str = "API_TOKEN";
/// Its name, subject and route.
const SHARED_NAME: &str = "default";
/// A token for each: `{"name": "token"}` or `["token"]`.
const EACH: &str = "API_TOKENS_JSON";

/// Everything that the settings and `environment` hold; an empty variable counts as none.
pub(super) fn read(
    config: &Config,
    environment: impl Fn(&str) -> Option<OsString>,
) -> Result<Vec<Item>, ConfigProblem> {
    let mut items = Vec::new();
    if let Some(path) = &config.tokens {
        items = tokens::read(path)?;
        refuse_if_open(path)?;
        if path.is_dir() {
            items.iter().try_for_each(|item| refuse_if_open(item.path()))?;
        }
    }
    if config.environment_tokens {
        let text = |variable: &str| {
            let text = environment(variable).map(OsString::into_string).transpose();
            let text = text.map_err(|_| ConfigProblem::key(variable, "not UTF-8 text"))?.unwrap_or_default();
            Ok::<_, ConfigProblem>(Some(text.trim().to_owned()).filter(|text| !text.is_empty()))
        };
        if let Some(token) = text(SHARED)? {
            items.push(Item::alone(Path::new(SHARED), SHARED_NAME, &token));
        }
        if let Some(json) = text(EACH)? {
            if !tokens::is_json(&json) {
                return Err(ConfigProblem::key(EACH, "expected {\"name\": \"token\"} or [\"token\"]"));
            }
            items.extend(tokens::parse(Path::new(EACH), &json)?);
        }
    }
    Ok(items)
}

/// Everybody on the machine could read the tokens, or add one.
fn refuse_if_open(path: &Path) -> Result<(), ConfigError> {
    let unreadable = |cause| ConfigError::Unreadable { path: path.to_owned(), cause };
    let metadata = fs::metadata(path).map_err(unreadable)?;
    let mode = metadata.permissions().mode() & 0o7777;
    let (open, fix) = if metadata.is_dir() { (0o002, "go-w") } else { (0o006, "600") };
    if mode & open == 0 {
        return Ok(());
    }
    let deed = if mode & 0o002 == 0 { "read these tokens" } else { "write tokens here" };
    let what = format!("everybody can {deed} (mode {mode:04o}); run chmod {fix} on it");
    Err(unreadable(io::Error::new(io::ErrorKind::PermissionDenied, what)))
}
