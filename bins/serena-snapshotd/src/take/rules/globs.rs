//! The user's globs, each checked, and one question that a set of globs cannot answer: whether it is worth to look into a
//! directory.

use globset::{Candidate, GlobBuilder, GlobSet, GlobSetBuilder};

use super::{RulesError, parts};

/// Most globs of one list; more are surely made by a mistake.
const MAX_GLOBS: usize = 1000;

/// A list of globs. What one of them matches is matched with everything below it.
#[derive(Clone, Debug)]
pub(super) struct Globs {
    set: GlobSet,
    /// The parts of each glob before its first wildcard: where its matches can be.
    places: Vec<Vec<Vec<u8>>>,
}

impl Globs {
    pub(super) fn new(globs: &[String]) -> Result<Self, RulesError> {
        if let Some(glob) = globs.get(MAX_GLOBS) {
            return Err(wrong(glob, "there are more than 1000 globs"));
        }
        let mut set = GlobSetBuilder::new();
        let mut places = Vec::with_capacity(globs.len());
        for glob in globs {
            let path = checked(glob)?;
            // Itself, and everything below it.
            for pattern in [path.to_owned(), format!("{path}/**")] {
                let mut builder = GlobBuilder::new(&pattern);
                let built = builder.literal_separator(true).backslash_escape(true).build();
                set.add(built.map_err(|error| wrong(glob, &error.kind().to_string()))?);
            }
            let is_literal = |part: &&[u8]| !part.iter().any(|byte| b"*?[]{}\\".contains(byte));
            // A group may hold slashes, but it begins before them.
            places.push(parts(path.as_bytes()).take_while(is_literal).map(<[u8]>::to_vec).collect());
        }
        let set = set
            .build()
            .map_err(|error| wrong(error.glob().unwrap_or_default(), &error.kind().to_string()))?;
        Ok(Globs { set, places })
    }

    pub(super) fn is_match(&self, path: &[u8]) -> bool {
        !self.places.is_empty() && self.set.is_match_candidate(&Candidate::from_bytes(path))
    }

    /// Whether something below this directory may match; it is never wrong when it says no.
    pub(super) fn may_match_below(&self, directory: &[u8]) -> bool {
        self.places.iter().any(|place| parts(directory).zip(place).all(|(part, literal)| part == literal))
    }
}

/// The glob without a slash at its end, if it can match a path below a root.
fn checked(glob: &str) -> Result<&str, RulesError> {
    let path = glob.strip_suffix('/').unwrap_or(glob);
    if path.is_empty() {
        return Err(wrong(glob, "it is empty; write a path below the root, such as logs or **/*.bak"));
    }
    if path.starts_with('!') {
        return Err(wrong(glob, "`!` means nothing here; write what is to be taken into `include`"));
    }
    if path.starts_with('/') {
        return Err(wrong(
            glob,
            "paths are relative to the root; write it without the slash at its beginning",
        ));
    }
    if parts(path.as_bytes()).any(|part| matches!(part, b"" | b"." | b"..")) {
        return Err(wrong(glob, "no path below a root has `.`, `..` or an empty part"));
    }
    Ok(path)
}

fn wrong(glob: &str, why: &str) -> RulesError {
    RulesError::Glob { glob: glob.to_owned(), why: why.to_owned() }
}
