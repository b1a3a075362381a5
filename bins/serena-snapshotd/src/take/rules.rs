//! Which paths of a root are taken. Asked in this order: what is never taken, the user's `exclude`, the user's `include`,
//! the profile. What none of them names is taken: an unknown file may be somebody's work.
//!
//! A glob is matched against the whole path below the root, and what it matches is matched with everything below. `*` and
//! `?` stop at a slash, `**` does not: `*.bak` is one at the top, `**/*.bak` one anywhere.

mod globs;
#[cfg(test)]
mod tests;

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Deserializer, de};

use self::globs::Globs;

/// Where a home says which snapshot it descends from; below the home. No dot in front: whoever empties a home by
/// `rm -rf HOME/*` takes this away, too.
pub const DESCENT: &str = "serena-snapshotd.json";
/// Where a restore stages a home that is a mount point; below the home.
pub const STAGING: &str = ".serena-snapshotd-restore";
/// Between the name of a root and the nonce of its staging directory, beside it.
const STAGED: &[u8] = b".restore-";
/// What Serena calls the folder of a project.
const FOLDER: &[u8] = b"/.serena/";

/// What to do with one path.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Verdict {
    /// Leave out this file.
    Skip,
    /// Leave out this directory and everything below it: nothing there is taken.
    SkipTree,
    /// Take it; a directory is then looked into.
    Take,
}

/// What of a root is worth keeping, as far as we know the program that writes it.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Profile {
    /// Whatever it is.
    Everything,
    /// `<project>/.serena`: settings and memories, without caches and logs.
    Project,
    /// A home of Serena, without logs, news and the language servers that it can fetch again.
    Serena,
}

/// Which paths of a root are taken.
#[derive(Clone, Debug)]
pub struct Rules {
    profile: Profile,
    cache: bool,
    exclude: Globs,
    include: Globs,
}

/// Why there are no rules.
#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
pub enum RulesError {
    /// A glob that means nothing, or that nothing could match.
    #[error("glob `{glob}`: {why}")]
    Glob {
        /// As it was given.
        glob: String,
        /// What is wrong, and what is right.
        why: String,
    },
    /// Not a profile.
    #[error("`{0}` is not a profile; write serena, project or everything")]
    Profile(String),
}

impl Rules {
    /// The rules of a profile, changed by globs of paths below the root.
    pub fn new(profile: Profile, include: &[String], exclude: &[String]) -> Result<Self, RulesError> {
        Ok(Rules { profile, cache: false, exclude: Globs::new(exclude)?, include: Globs::new(include)? })
    }

    /// Whether the language servers that Serena has fetched are taken too; only [`Profile::Serena`] knows of them.
    pub fn with_cache(self, cache: bool) -> Self {
        Rules { cache, ..self }
    }

    /// What to do with a path below the root, without a slash at its ends. A directory is taken or skipped with all below.
    pub fn takes(&self, path: &[u8], is_dir: bool) -> Verdict {
        if path.is_empty() || self.wants(path, is_dir) {
            Verdict::Take
        } else if is_dir {
            Verdict::SkipTree
        } else {
            Verdict::Skip
        }
    }

    fn wants(&self, path: &[u8], is_dir: bool) -> bool {
        if is_never_taken(path) || self.exclude.is_match(path) {
            return false;
        }
        let of_profile = match self.profile {
            Profile::Everything => true,
            Profile::Project => is_of_project(path, is_dir),
            Profile::Serena => is_of_home(path, is_dir, self.cache),
        };
        // A directory that is left out may still lead to something that is wanted.
        of_profile || self.include.is_match(path) || (is_dir && self.include.may_match_below(path))
    }
}

/// What is ours, and the indexes that only their one writer can use.
fn is_never_taken(path: &[u8]) -> bool {
    if path == DESCENT.as_bytes() {
        return true;
    }
    let mut before: &[u8] = b"";
    for part in parts(path) {
        if part == STAGING.as_bytes()
            || is_staging(part)
            || (before == b"EclipseJDTLS" && part == b"workspaces")
        {
            return true;
        }
        before = part;
    }
    false
}

/// `<root>.restore-<nonce>`.
fn is_staging(name: &[u8]) -> bool {
    let Some((root, nonce)) = name.len().checked_sub(16).map(|at| name.split_at(at)) else { return false };
    root.ends_with(STAGED) && nonce.iter().all(|byte| byte.is_ascii_digit() || (b'a'..=b'f').contains(byte))
}

fn is_of_home(path: &[u8], is_dir: bool, cache: bool) -> bool {
    let mut rest = parts(path);
    match (rest.next(), rest.next()) {
        (Some(b"hook_data" | b"logs"), _) => return false,
        (Some(b"news.json" | b"news_etag.txt"), None) if !is_dir => return false,
        (Some(b"language_servers"), Some(b"static")) => return cache,
        _ => {}
    }
    // Serena can be told to keep the folders of its projects here.
    match path.windows(FOLDER.len()).position(|part| part == FOLDER) {
        Some(at) => is_of_project(&path[at + FOLDER.len()..], is_dir),
        None => is_dir || !is_temporary(path),
    }
}

fn is_of_project(path: &[u8], is_dir: bool) -> bool {
    !matches!(parts(path).next(), Some(b"cache" | b"logs")) && (is_dir || !is_temporary(path))
}

/// Whether it is a file that Serena writes before it renames it: `project.yml.k3_9xz1q.tmp`.
fn is_temporary(path: &[u8]) -> bool {
    let Some((file, random)) =
        path.strip_suffix(b".tmp").and_then(|path| path.split_at_checked(path.len().wrapping_sub(9)))
    else {
        return false;
    };
    let is_random = |byte: &u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || *byte == b'_';
    random.starts_with(b".")
        && random[1..].iter().all(is_random)
        && [&b".yml"[..], b".md"].iter().any(|end| file.ends_with(end))
}

fn parts(path: &[u8]) -> impl Iterator<Item = &[u8]> {
    path.split(|byte| *byte == b'/')
}

impl fmt::Display for Profile {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Profile::Everything => "everything",
            Profile::Project => "project",
            Profile::Serena => "serena",
        })
    }
}

impl FromStr for Profile {
    type Err = RulesError;

    fn from_str(text: &str) -> Result<Self, RulesError> {
        match text {
            "everything" => Ok(Profile::Everything),
            "project" => Ok(Profile::Project),
            "serena" => Ok(Profile::Serena),
            _ => Err(RulesError::Profile(text.to_owned())),
        }
    }
}

impl<'de> Deserialize<'de> for Profile {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer)?.parse().map_err(de::Error::custom)
    }
}
