//! `HEAD`: which snapshot is the newest, and who may replace it. Readable JSON, and never larger than 4 KiB.

use serde::{Deserialize, Serialize};

use crate::digest::Digest;
use crate::layout::{Id, nonce};

/// Largest `HEAD` in bytes.
pub const MAX_HEAD: u64 = 4096;
/// The only version there is; a reader that finds another must not guess.
const VERSION: u32 = 1;
/// Longest name of a writer in bytes.
const MAX_WRITER: usize = 256;

/// What `HEAD` says.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
pub struct Head {
    version: u32,
    /// Raised by every daemon that takes over: a writer that finds a higher one than its own has been replaced.
    pub epoch: u64,
    /// Who wrote this `HEAD`, for people: host and process.
    pub writer: String,
    /// Random for every writing of `HEAD`: by it a writer whose answer was lost finds out whether it was he.
    pub nonce: String,
    /// The writer has ended, and nobody need wait for it.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub released: bool,
    /// The newest snapshot.
    #[serde(flatten)]
    pub newest: Pointer,
}

/// What `HEAD` and a marker say in every version.
#[derive(Deserialize)]
pub(crate) struct Versioned {
    pub(crate) version: u32,
}

/// A snapshot, as far as it can be said in a few words.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
pub struct Pointer {
    /// Which.
    pub id: Id,
    /// Where its manifest is, below the partition.
    pub manifest: String,
    /// SHA-256 of the manifest as it is stored.
    pub manifest_sha256: Digest,
    /// Digest of everything in it but times: two snapshots with one digest hold the same.
    pub tree: Digest,
}

impl Head {
    /// A `HEAD` to be written.
    pub fn new(epoch: u64, writer: &str, newest: Pointer) -> Self {
        let mut end = writer.len().min(MAX_WRITER);
        while !writer.is_char_boundary(end) {
            end -= 1;
        }
        Head {
            version: VERSION,
            epoch,
            writer: writer[..end].to_owned(),
            nonce: nonce(),
            released: false,
            newest,
        }
    }

    /// As it is stored.
    pub fn to_bytes(&self) -> Vec<u8> {
        let mut bytes = serde_json::to_vec_pretty(self).expect("strings and numbers are JSON");
        bytes.push(b'\n');
        bytes
    }

    /// From what is stored.
    pub fn parse(bytes: &[u8]) -> Result<Self, HeadError> {
        if bytes.len() as u64 > MAX_HEAD {
            return Err(HeadError::TooLarge);
        }
        // Before the rest, which may look otherwise in a later version.
        let Versioned { version } = serde_json::from_slice(bytes)?;
        if version != VERSION {
            return Err(HeadError::Version(version));
        }
        let head: Head = serde_json::from_slice(bytes)?;
        if Id::of_key(&head.newest.manifest).as_ref() != Some(&head.newest.id) {
            return Err(HeadError::Manifest(head.newest.manifest.chars().take(80).collect()));
        }
        Ok(head)
    }
}

/// Why `HEAD` says nothing.
#[derive(Debug, thiserror::Error)]
pub enum HeadError {
    /// It is not what we write.
    #[error("HEAD is not readable")]
    Json(#[from] serde_json::Error),
    /// It contradicts itself.
    #[error("HEAD names `{0}`, which is not the manifest of its snapshot")]
    Manifest(String),
    /// It is no `HEAD`.
    #[error("HEAD is larger than {MAX_HEAD} bytes")]
    TooLarge,
    /// Written by a later version of this program.
    #[error(
        "HEAD was written by a newer serena-snapshotd (version {0}, expected {VERSION}); update this one"
    )]
    Version(u32),
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_written_is_read_and_small() {
        let id = Id::new(u64::MAX, u64::MAX);
        let newest = Pointer {
            manifest: id.manifest(true),
            id,
            manifest_sha256: Digest::of(b"m"),
            tree: Digest::of(b"t"),
        };
        let head = Head::new(7, &"\u{e4}".repeat(1000), newest);
        let bytes = head.to_bytes();
        assert!(bytes.len() as u64 <= MAX_HEAD / 4, "{}", bytes.len());
        assert_eq!(Head::parse(&bytes).unwrap(), head);
        let text = String::from_utf8(bytes).unwrap();
        for (from, to, why) in [
            ("\"version\": 1", "\"version\": 2", "a newer serena-snapshotd (version 2, expected 1)"),
            ("\"epoch\"", "\"epok\"", "HEAD is not readable"),
            ("manifests/", "elsewhere/", "which is not the manifest of its snapshot"),
        ] {
            let error = Head::parse(text.replace(from, to).as_bytes()).unwrap_err().to_string();
            assert!(error.contains(why), "{error}");
        }
        let later = Head::parse(br#"{ "version": 3, "newest": { "by": "another name" } }"#);
        assert!(matches!(later, Err(HeadError::Version(3))), "{later:?}");
    }
}
