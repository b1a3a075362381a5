//! Paths in settings: whole, as the system spells them, and none within another where that would do harm.

use std::path::{Path, PathBuf};

use super::ConfigProblem;
use crate::settings::Root;

/// A flag's path is meant from the working directory; that of a file or variable has none.
pub(super) fn absolute(key: &str, path: &Path) -> Result<PathBuf, ConfigProblem> {
    if key.starts_with("--") {
        return std::path::absolute(path)
            .map_err(|error| ConfigProblem::key(key, format!("`{}`: {error}", path.display())));
    }
    if path.is_absolute() {
        return Ok(path.to_owned());
    }
    Err(ConfigProblem::key(
        key,
        format!("`{}` is not an absolute path; write /var/lib/serena", path.display()),
    ))
}

/// A directory of ours within what it keeps would grow with every snapshot.
pub(super) fn apart(roots: &[Root], key: &str, directory: &Path) -> Result<(), ConfigProblem> {
    match roots.iter().find(|root| nested(directory, &root.path)) {
        None => Ok(()),
        Some(root) => {
            let text = format!(
                "{} and {}, which is to be kept safe, are one within the other",
                directory.display(),
                root.path.display()
            );
            Err(ConfigProblem::key(key, text))
        }
    }
}

/// Whether one of the two is within the other, or they are one.
pub(super) fn nested(one: &Path, other: &Path) -> bool {
    one.starts_with(other) || other.starts_with(one)
}
