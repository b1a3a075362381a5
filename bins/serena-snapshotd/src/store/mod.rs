//! A store: a local directory or a bucket, with the few operations that snapshots need, each a whole or nothing.
//! Keys are relative to the partition. Nothing here knows what an object means.

mod directory;
mod error;
mod location;
mod s3;

use std::fmt;

use bytes::Bytes;
use serde::{Deserialize, Serialize};

pub use self::directory::Directory;
pub use self::error::{StoreError, Trouble};
pub use self::location::{Location, LocationError};
pub use self::s3::{S3, S3Problem, S3Settings};
use crate::digest::Digest;
use crate::layout::Partition;

/// Where snapshots are kept.
#[derive(Clone, Debug)]
pub enum Store {
    /// A directory of this machine.
    Directory(Directory),
    /// A bucket of an S3-compatible store.
    S3(S3),
}

/// What tells two contents of one key apart; compared, never interpreted.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
pub struct Etag(pub String);

/// An object that was read whole.
#[derive(Clone, Debug)]
pub struct Object {
    /// Its bytes.
    pub bytes: Bytes,
    /// What to expect when it is replaced.
    pub etag: Etag,
}

/// What a store says about an object.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Stored {
    /// Its length in bytes.
    pub size: u64,
    /// Its content, in the store's words.
    pub etag: Etag,
}

/// One object of a listing.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Listed {
    /// Its key.
    pub key: String,
    /// Its length in bytes.
    pub size: u64,
}

/// What is to be stored.
#[derive(Debug)]
pub enum Source<'a> {
    /// Bytes in memory.
    Bytes(Bytes),
    /// A whole file, which nobody else changes.
    File {
        /// Open for reading; only ever read at an offset.
        file: &'a std::fs::File,
        /// Its length in bytes.
        size: u64,
        /// SHA-256 of its bytes.
        sha256: Digest,
    },
}

/// How a replacement ended.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum Replaced {
    /// It is there now.
    Done(Etag),
    /// The key holds something else than was expected; nothing was changed.
    Moved,
}

/// Whether a store keeps its word about conditions, found out by trying.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Conditions {
    /// A replacement under a condition that does not hold is refused.
    Honest,
    /// It is answered with success and done: `HEAD` must not be trusted, and is not written.
    Ignored,
}

/// Bytes of an object that come one after another.
pub struct Reading {
    /// Its length in bytes.
    pub size: u64,
    pub(crate) chunks: Chunks,
}

pub(crate) enum Chunks {
    Directory(directory::FileChunks),
    S3(Box<s3::BodyChunks>),
}

impl Reading {
    /// The next bytes, in pieces of at most some 256 KiB; `None` at the end. An end before `size` is an error.
    pub async fn next(&mut self) -> Result<Option<Bytes>, StoreError> {
        match &mut self.chunks {
            Chunks::Directory(chunks) => chunks.next().await,
            Chunks::S3(chunks) => chunks.next().await,
        }
    }
}

impl Store {
    /// The place of one home. Asks the store nothing and makes nothing; `s3` is looked at only for a bucket.
    pub fn at(location: &Location, partition: &Partition, s3: &S3Settings) -> Result<Store, StoreError> {
        Ok(match location {
            Location::Directory(root) => Store::Directory(Directory::new(root, partition)),
            Location::S3 { bucket, prefix } => Store::S3(S3::new(bucket, prefix, partition, s3)?),
        })
    }

    /// Reads a small object whole; `None` only if the store says, authenticated, that there is none. More than `limit`
    /// bytes are an error.
    pub async fn get(&self, key: &str, limit: u64) -> Result<Option<Object>, StoreError> {
        match self {
            Store::Directory(store) => store.get(key, limit).await,
            Store::S3(store) => store.get(key, limit).await,
        }
    }

    /// Begins to read an object of any size.
    pub async fn open(&self, key: &str) -> Result<Option<Reading>, StoreError> {
        match self {
            Store::Directory(store) => store.open(key).await,
            Store::S3(store) => store.open(key).await,
        }
    }

    /// Stores an object under a key that nobody else uses; whole, and on disk, once this returns. May be repeated.
    pub async fn put(&self, key: &str, source: Source<'_>) -> Result<Stored, StoreError> {
        match self {
            Store::Directory(store) => store.put(key, source).await,
            Store::S3(store) => store.put(key, source).await,
        }
    }

    /// Asks for length and content of an object.
    pub async fn stat(&self, key: &str) -> Result<Option<Stored>, StoreError> {
        match self {
            Store::Directory(store) => store.stat(key).await,
            Store::S3(store) => store.stat(key).await,
        }
    }

    /// Replaces an object if it is still what was expected (`None`: not there). After an error it may or may not be done.
    pub async fn replace(
        &self,
        key: &str,
        bytes: Bytes,
        expected: Option<&Etag>,
    ) -> Result<Replaced, StoreError> {
        match self {
            Store::Directory(store) => store.replace(key, bytes, expected).await,
            Store::S3(store) => store.replace(key, bytes, expected).await,
        }
    }

    /// Everything whose key begins so, in order of keys: all of it, or an error.
    pub async fn list(&self, prefix: &str) -> Result<Vec<Listed>, StoreError> {
        match self {
            Store::Directory(store) => store.list(prefix).await,
            Store::S3(store) => store.list(prefix).await,
        }
    }

    /// Deletes an object; one that is not there is no error.
    pub async fn delete(&self, key: &str) -> Result<(), StoreError> {
        match self {
            Store::Directory(store) => store.delete(key).await,
            Store::S3(store) => store.delete(key).await,
        }
    }

    /// Tries whether conditions are honoured, with objects below [`crate::layout::PROBES`] that are removed again.
    pub async fn conditions(&self) -> Result<Conditions, StoreError> {
        match self {
            // A lock of the operating system makes them so.
            Store::Directory(_) => Ok(Conditions::Honest),
            Store::S3(store) => store.conditions().await,
        }
    }

    /// Gives up uploads of ours that a crash left half done; how many. `keys` are those that were begun.
    pub async fn sweep(&self, keys: &[String]) -> Result<usize, StoreError> {
        match self {
            Store::Directory(store) => store.sweep().await,
            Store::S3(store) => store.sweep(keys).await,
        }
    }

    /// The names of the partitions beside this one, to help somebody who mistyped one.
    pub async fn partitions(&self) -> Result<Vec<String>, StoreError> {
        match self {
            Store::Directory(store) => store.partitions().await,
            Store::S3(store) => store.partitions().await,
        }
    }
}

impl fmt::Display for Store {
    /// As people know it: the location, then the partition.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Store::Directory(store) => store.fmt(f),
            Store::S3(store) => store.fmt(f),
        }
    }
}

/// Whether a key is one of ours: names of letters, digits, `.`, `_` and `-`, of which none begins with a dot, so that what
/// a manifest says can never lead out of a partition or to a temporary file.
fn is_key(key: &str) -> bool {
    key.split('/').all(|name| {
        name.starts_with(|char: char| char.is_ascii_alphanumeric())
            && name.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"._-".contains(&byte))
    })
}
