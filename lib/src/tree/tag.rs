//! What everything below a root inherits in its environment: whose tree it is in, and in whose tree that is.
//!
//! `MCP_DAEMON_TREE=<owner>:<random>[,<owner>:<random>...]`, the innermost tree first. The owner is the beginning of a
//! SHA-256, so that no path is told to a child and the length is bounded; `-` stands for nobody.
#![cfg_attr(not(target_os = "linux"), allow(dead_code, reason = "what is not there is not used"))]

use crate::secret::{random_id, sha256_hex};

/// The environment variable.
const NAME: &str = "MCP_DAEMON_TREE";
/// Trees in trees that are told; what is deeper is known by its parents alone.
const MAX_DEPTH: usize = 8;
/// Hexadecimal digits of an owner's digest: 64 bits, and nobody chooses owners to collide.
const OWNER_DIGITS: usize = 16;

/// The tag of one tree.
pub(super) struct Tag {
    /// This tree alone.
    pub(super) own: String,
    /// The trees that this process is in, innermost first.
    outer: Option<String>,
}

impl Tag {
    /// A fresh one.
    pub(super) fn new(owner: Option<&str>) -> Self {
        Tag::inside(std::env::var(NAME).ok().as_deref(), owner)
    }

    fn inside(outer: Option<&str>, owner: Option<&str>) -> Self {
        let owner = owner.map_or_else(|| "-".to_owned(), owner_digest);
        let outer: Vec<&str> =
            outer.map_or_else(Vec::new, |outer| outer.split(',').take(MAX_DEPTH - 1).collect());
        Tag { own: format!("{owner}:{}", random_id()), outer: (!outer.is_empty()).then(|| outer.join(",")) }
    }

    /// The variable's name and what a root gets in it.
    pub(super) fn variable(&self) -> (&'static str, String) {
        let value = match &self.outer {
            Some(outer) => format!("{},{outer}", self.own),
            None => self.own.clone(),
        };
        (NAME, value)
    }
}

/// An owner as tags and names of cgroups show it.
pub(super) fn owner_digest(owner: &str) -> String {
    let mut digest = sha256_hex(owner.as_bytes());
    digest.truncate(OWNER_DIGITS);
    digest
}

/// Whether `tag` belongs to the owner of this digest.
pub(super) fn is_of(tag: &str, owner_digest: &str) -> bool {
    tag.split_once(':').is_some_and(|(owner, _)| owner == owner_digest)
}

/// The tags in an environment as /proc shows it, innermost first.
pub(super) fn tags_in(environment: &[u8]) -> impl Iterator<Item = &str> {
    environment
        .split(|byte| *byte == 0)
        .filter_map(|one| one.strip_prefix(NAME.as_bytes())?.strip_prefix(b"="))
        .filter_map(|value| std::str::from_utf8(value).ok())
        .flat_map(|value| value.split(','))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_tag_says_its_owner_without_naming_it_and_nobody_elses() {
        let tag = Tag::inside(None, Some("/home/me/.serena"));
        let (name, value) = tag.variable();
        assert_eq!((name, value.as_str(), value.len()), ("MCP_DAEMON_TREE", tag.own.as_str(), 16 + 1 + 32));
        assert!(
            is_of(&value, &owner_digest("/home/me/.serena")) && !is_of(&value, &owner_digest("/home/me"))
        );
        let nobodys = Tag::inside(None, None);
        assert!(nobodys.own.starts_with("-:") && !is_of(&nobodys.own, &owner_digest("")));
    }

    #[test]
    fn a_tree_in_a_tree_tells_both_and_ever_deeper_ones_not_for_ever() {
        let mut value = String::new();
        let mut all = Vec::new();
        for depth in 0..20 {
            let tag = Tag::inside((depth > 0).then_some(value.as_str()), Some("me"));
            value = tag.variable().1;
            all.insert(0, tag.own);
        }
        let environment = format!("A=1\0MCP_DAEMON_TREE={value}\0MCP_DAEMON_TREES=no:1\0");
        assert_eq!(tags_in(environment.as_bytes()).collect::<Vec<_>>(), all[..MAX_DEPTH]);
    }
}
