//! Paths in settings: whole, as the system spells them, and none within another where that would do harm.

use std::path::{Path, PathBuf};

use super::ConfigProblem;
use crate::settings::Root;
use crate::store::Location;

/// A flag's path is meant from the working directory; that of a file or variable has none.
pub(super) fn absolute(key: &str, path: &Path, is_flag: bool) -> Result<PathBuf, ConfigProblem> {
    if is_flag {
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

/// A store within what it stores would grow with every snapshot, and a root within another is stored twice.
pub(super) fn apart(roots: &[Root], location: &Location, state_dir: &Path) -> Result<(), ConfigProblem> {
    for (at, root) in roots.iter().enumerate() {
        if let Some(other) = roots[at + 1..]
            .iter()
            .find(|other| within(&root.path, &other.path) || within(&other.path, &root.path))
        {
            let text =
                format!("{} and {} are one within the other", root.path.display(), other.path.display());
            return Err(ConfigProblem::key(format!("root.{}", other.name), text));
        }
        let store = match location {
            Location::Directory(directory) => Some(directory.as_path()),
            Location::S3 { .. } => None,
        };
        let ours = [("--state-dir", Some(state_dir)), ("--store", store)];
        for (key, directory) in ours {
            if let Some(directory) =
                directory.filter(|directory| within(directory, &root.path) || within(&root.path, directory))
            {
                let text = format!(
                    "{} and {}, which is to be kept safe, are one within the other",
                    directory.display(),
                    root.path.display()
                );
                return Err(ConfigProblem::key(key, text));
            }
        }
    }
    Ok(())
}

fn within(inner: &Path, outer: &Path) -> bool {
    inner.starts_with(outer)
}
