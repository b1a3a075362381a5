//! Reads a living home: what is there, what has changed, and the bytes of it as packs and blobs.
//!
//! `scan` walks, `reading` compares with the base, `choose` decides what is stored anew (`plan` has the policy), `settle`
//! reads what others may be writing, `storing` makes objects of it (`pack`, `sink`). A file that never stands still keeps the
//! content it had in the base. No file can make a snapshot fail but one that may not be read: to leave it out would lose it.

mod below;
mod choose;
mod content;
mod pack;
mod plan;
mod reading;
mod rules;
mod scan;
mod settle;
mod sink;
mod stamp;
mod storing;
#[cfg(test)]
mod tests;

use std::ffi::OsStr;
use std::fs::File;
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};

use bytes::Bytes;
use nix::errno::Errno;

use self::reading::Reading;
pub use self::rules::{DESCENT, Profile, Rules, RulesError, STAGING, Verdict};
pub use self::stamp::Seen;
use crate::digest::Digest;
use crate::manifest::{Entry, Manifest, StoredObject};
use crate::progress::Progress;
use crate::seal::Seal;
use crate::settings::Root;
use crate::store::StoreError;

/// A file of this size in bytes is always a blob: a smaller one is read into memory whole.
pub const MAX_SMALL: u64 = 8 * 1024 * 1024;

/// What is to be read.
pub struct Job<'a> {
    /// The home, then the other roots.
    pub roots: &'a [Root],
    /// The snapshot that the home descends from: what has not changed since keeps its objects.
    pub base: Option<&'a Manifest>,
    /// What the last reading saw, if it was made against the same base: it spares reading what has not been touched.
    pub seen: Option<&'a Seen>,
    /// Where large objects wait; owner-only, on a disk.
    pub spool: &'a Path,
    /// Encrypts objects.
    pub seal: Option<&'a Seal>,
    /// Files from this size on become blobs; in bytes, at most [`MAX_SMALL`].
    pub blob_from: u64,
    /// Told how far it is.
    pub progress: &'a Progress,
    /// Once set, [`take`] ends soon with [`TakeError::Cancelled`].
    pub cancelled: &'a AtomicBool,
}

/// What was read.
pub enum Taken {
    /// The same as in the base, but perhaps for times.
    Same(Seen),
    /// Something else.
    New(Draft),
}

/// A snapshot without its name.
pub struct Draft {
    /// Every path, in byte order, roots included.
    pub entries: Vec<Entry>,
    /// Objects that `entries` point to: those of the base that are still needed, and those that were delivered.
    pub objects: Vec<StoredObject>,
    /// For the next reading.
    pub seen: Seen,
    /// What was left out, such as a socket, and why; at most 100 of them.
    pub skipped: Vec<(String, String)>,
}

/// A pack or blob that is complete.
pub struct Made {
    /// Its key below the partition.
    pub key: String,
    /// Its length in bytes.
    pub size: u64,
    /// SHA-256 of its bytes.
    pub sha256: Digest,
    /// The bytes themselves.
    pub bytes: MadeBytes,
}

/// Where the bytes of an object are until they are stored.
pub enum MadeBytes {
    /// A small one.
    Memory(Bytes),
    /// A file without a name, gone when it is closed.
    Spooled(File),
}

/// Why a home cannot be read.
#[derive(Debug, thiserror::Error)]
pub enum TakeError {
    /// The work was called off.
    #[error("cancelled")]
    Cancelled,
    /// What was made could not be stored.
    #[error(transparent)]
    Deliver(#[from] StoreError),
    /// Something of the system failed.
    #[error("{path}: {cause}")]
    System {
        /// Where.
        path: String,
        /// Why.
        cause: io::Error,
    },
}

impl TakeError {
    fn system(path: &Path, cause: impl Into<io::Error>) -> Self {
        TakeError::System { path: below::shown(path), cause: cause.into() }
    }
}

impl Job<'_> {
    /// Where the path of an entry is.
    fn place(&self, path: &[u8]) -> PathBuf {
        let (name, rest) = below::split_root(path);
        let root = self.roots.iter().find(|root| root.name.as_bytes() == name);
        let mut place = root.map_or_else(PathBuf::new, |root| root.path.clone());
        if !rest.is_empty() {
            place.push(OsStr::from_bytes(rest));
        }
        place
    }

    /// An error about the path of an entry.
    fn wrong(&self, path: &[u8], errno: Errno) -> TakeError {
        TakeError::system(&self.place(path), errno)
    }

    /// Files of this size in bytes are blobs.
    fn blob_from(&self) -> u64 {
        self.blob_from.clamp(1, MAX_SMALL)
    }

    /// To be asked every now and then.
    fn check(&self) -> Result<(), TakeError> {
        if self.cancelled.load(Ordering::Relaxed) { Err(TakeError::Cancelled) } else { Ok(()) }
    }
}

/// Reads the roots, and hands every object that is made to `deliver`, one at a time; blocks. A pack comes first, then blobs.
pub fn take(
    job: &Job<'_>,
    deliver: &mut dyn FnMut(Made) -> Result<(), StoreError>,
) -> Result<Taken, TakeError> {
    let mut reading = Reading::begin(job)?;
    if reading.is_unchanged()? {
        return Ok(Taken::Same(reading.into_seen()));
    }
    reading.choose()?;
    reading.pack(deliver)?;
    reading.blobs(deliver)?;
    Ok(Taken::New(reading.into_draft()))
}
