//! A manifest: one snapshot, every path of it, and where its bytes are. Immutable; JSON, one entry a line, compressed.
//! `zstd -dc manifests/… | jq` reads it.

mod check;
#[cfg(test)]
mod tests;
mod text;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

pub use self::check::{MAX_ENTRIES, PathError, check_path};
pub use self::text::{MAX_STORED, ManifestError};
use crate::digest::{Digest, Hasher};
use crate::head::Pointer;
use crate::layout::Id;

/// The name of the home among the roots, and so the first component of its paths.
pub const HOME: &str = "home";
/// Permissions that are kept; set-user-id and its like are not.
pub const MODE_MASK: u32 = 0o777;

/// One snapshot.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Manifest {
    /// What it says about itself.
    pub about: About,
    /// Every path, in byte order, so that a directory comes before what is in it.
    pub entries: Vec<Entry>,
}

/// A snapshot but for its paths.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
pub struct About {
    /// Its name.
    pub id: Id,
    /// When it was made, by the clock of who made it: for people, and never to decide which one is newer.
    pub created: Timestamp,
    /// Who made it: host and process.
    pub writer: String,
    /// Why: `periodic`, `shutdown`, `asked`, `import`.
    pub reason: String,
    /// Digest of everything but times.
    pub tree: Digest,
    /// Files in it.
    pub files: u64,
    /// Their bytes.
    pub bytes: u64,
    /// Files that changed whenever they were read: their previous content was kept, or, without one, what could be read.
    pub unsettled: u64,
    /// Projects that Serena had registered, where its configuration is in it and says so.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub projects: Option<u64>,
    /// Packs and blobs with the bytes, as keys below the partition; entries name them by their place here, from 0.
    pub objects: Vec<StoredObject>,
    /// The ancestors that still existed when this was made, newest first; the first is what this one was made from.
    pub ancestors: Vec<Ancestor>,
}

/// A pack or a blob.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
pub struct StoredObject {
    /// Its key below the partition.
    pub key: String,
    /// Its length in bytes, as stored.
    pub size: u64,
}

/// An earlier snapshot of the same lineage.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
pub struct Ancestor {
    /// Which, and its manifest.
    #[serde(flatten)]
    pub pointer: Pointer,
    /// When it was made, by the clock of who made it.
    pub created: Timestamp,
    /// Files in it.
    pub files: u64,
    /// Their bytes.
    pub bytes: u64,
}

/// One path.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Entry {
    /// The name of a root, `/`, and the path below it; any bytes. A root itself has no slash.
    pub path: Box<[u8]>,
    /// Permissions, within [`MODE_MASK`].
    pub mode: u32,
    /// Last change in nanoseconds since 1970.
    pub mtime: i64,
    /// What it is.
    pub kind: Kind,
}

/// What a path is.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum Kind {
    /// A directory.
    Directory,
    /// A file.
    File(Content),
    /// A symbolic link, and what it says; any bytes.
    Link(Box<[u8]>),
}

/// The bytes of a file.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Content {
    /// How many.
    pub size: u64,
    /// Their digest.
    pub sha256: Digest,
    /// Which of [`About::objects`] has them: in a pack below the same path, in a blob alone.
    pub object: u32,
    /// They are those of the snapshot before, or the best that could be read, because the file never stood still.
    pub unsettled: bool,
}

/// The digest of everything in a tree but times and where its bytes are: content, permissions and names decide.
pub fn tree_digest(entries: &[Entry]) -> Digest {
    let mut hasher = Hasher::new();
    let mut line = Vec::with_capacity(256);
    for entry in entries {
        line.clear();
        let (kind, rest): (u8, &[u8]) = match &entry.kind {
            Kind::Directory => (b'd', &[]),
            Kind::File(content) => (b'f', content.sha256.bytes()),
            Kind::Link(target) => (b'l', target),
        };
        line.push(kind);
        line.extend_from_slice(&entry.mode.to_le_bytes());
        // Lengths before texts, so that no two trees have one line.
        for text in [&entry.path[..], rest] {
            line.extend_from_slice(&(text.len() as u64).to_le_bytes());
            line.extend_from_slice(text);
        }
        hasher.update(&line);
    }
    hasher.finish()
}

impl Manifest {
    /// What names this snapshot, given how its manifest is stored.
    pub fn pointer(&self, key: String, stored: Digest) -> Pointer {
        Pointer { id: self.about.id.clone(), manifest: key, manifest_sha256: stored, tree: self.about.tree }
    }

    /// This snapshot as an ancestor of the next.
    pub fn as_ancestor(&self, pointer: Pointer) -> Ancestor {
        let About { created, files, bytes, .. } = self.about;
        Ancestor { pointer, created, files, bytes }
    }

    /// The entry of a path, root included.
    pub fn find(&self, path: &[u8]) -> Option<&Entry> {
        let at = self.entries.binary_search_by(|entry| entry.path[..].cmp(path)).ok()?;
        self.entries.get(at)
    }
}

/// How many files, how many bytes in them, and how many of them unsettled.
pub fn count(entries: &[Entry]) -> (u64, u64, u64) {
    let contents = entries.iter().filter_map(|entry| match &entry.kind {
        Kind::File(content) => Some(content),
        Kind::Directory | Kind::Link(_) => None,
    });
    contents.fold((0, 0, 0), |(files, bytes, unsettled), content| {
        (files + 1, bytes.saturating_add(content.size), unsettled + u64::from(content.unsettled))
    })
}
