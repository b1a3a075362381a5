//! A store in a local directory: `<root>/<partition>/<key>`, owner-only, each object a file.
//!
//! Objects appear by a rename, whole, and once they are on disk; `HEAD` is compared and replaced under a lock of the
//! operating system. A root that is not there holds nothing, if the directory that it would be in can be read: a disk
//! that is not mounted cannot be told from one that is empty, so give it a root *below* its mount point that others have
//! no reason to make, and mount it before.

mod content;
mod temporary;
mod trouble;

use std::fmt;
use std::fs::{self, File};
use std::io;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use nix::errno::Errno;
use nix::fcntl::{Flock, FlockArg};

use self::content::{etag_of_bytes, etag_of_file};
use self::temporary::Temporary;
use self::trouble::meaning;
use super::{Chunks, Etag, Listed, Object, Reading, Replaced, Source, StoreError, Stored, Trouble, is_key};
use crate::layout::Partition;
use crate::threads;

/// Most bytes of a piece that a reading gives.
const PIECE: u64 = 256 << 10;
/// The lock of a partition; no key begins with a dot.
const LOCK: &str = ".lock";
/// How long a replacement waits for others; each holds the lock for the time of two small writes.
const LOCK_WAIT: Duration = Duration::from_secs(30);
/// Pause between two looks at the lock.
const LOCK_LOOK: Duration = Duration::from_millis(5);

/// A store in a local directory.
#[derive(Clone, Debug)]
pub struct Directory {
    root: Arc<Path>,
    /// The partition's directory.
    base: Arc<Path>,
}

/// A file that is read from its begin to its end.
pub(crate) struct FileChunks {
    what: String,
    file: Arc<File>,
    at: u64,
    size: u64,
}

impl FileChunks {
    pub(super) async fn next(&mut self) -> Result<Option<Bytes>, StoreError> {
        if self.at == self.size {
            return Ok(None);
        }
        let (file, at, wanted) = (Arc::clone(&self.file), self.at, PIECE.min(self.size - self.at));
        let piece = blocking(&self.what, move || {
            let mut piece = vec![0; wanted as usize];
            file.read_exact_at(&mut piece, at)?;
            Ok(piece)
        })
        .await?;
        self.at += wanted;
        Ok(Some(piece.into()))
    }
}

impl Directory {
    pub(super) fn new(root: &Path, partition: &Partition) -> Self {
        Directory { root: root.into(), base: root.join(partition.as_str()).into() }
    }

    pub(super) async fn get(&self, key: &str, limit: u64) -> Result<Option<Object>, StoreError> {
        let what = self.what("read", key);
        let Some((file, size)) = self.find(&what, key).await? else { return Ok(None) };
        if size > limit {
            return Err(StoreError::new(
                what,
                Trouble::Damaged,
                format!("{size} bytes long, expected at most {limit}"),
            ));
        }
        let bytes = blocking(&what, move || {
            let mut bytes = vec![0; size as usize];
            file.read_exact_at(&mut bytes, 0)?;
            Ok(bytes)
        })
        .await?;
        Ok(Some(Object { etag: etag_of_bytes(&bytes), bytes: bytes.into() }))
    }

    pub(super) async fn open(&self, key: &str) -> Result<Option<Reading>, StoreError> {
        let what = self.what("read", key);
        let Some((file, size)) = self.find(&what, key).await? else { return Ok(None) };
        let chunks = FileChunks { what, file: Arc::new(file), at: 0, size };
        Ok(Some(Reading { size, chunks: Chunks::Directory(chunks) }))
    }

    pub(super) async fn put(&self, key: &str, source: Source<'_>) -> Result<Stored, StoreError> {
        let what = self.what("write", key);
        let path = self.place(&what, key).await?;
        match source {
            Source::Bytes(bytes) => {
                blocking(&what, move || {
                    let mut temporary = Temporary::beside(&path)?;
                    temporary.write(&bytes)?;
                    temporary.publish(&path)?;
                    Ok(Stored { size: bytes.len() as u64, etag: etag_of_bytes(&bytes) })
                })
                .await
            }
            Source::File { file, size, .. } => {
                let file = file.try_clone().map_err(|error| system(&what, &error))?;
                blocking(&what, move || {
                    let mut temporary = Temporary::beside(&path)?;
                    temporary.copy(&file, size)?;
                    temporary.publish(&path)?;
                    Ok(Stored { size, etag: etag_of_file(&file, size)? })
                })
                .await
            }
        }
    }

    pub(super) async fn stat(&self, key: &str) -> Result<Option<Stored>, StoreError> {
        let what = self.what("look at", key);
        let Some((file, size)) = self.find(&what, key).await? else { return Ok(None) };
        let etag = blocking(&what, move || etag_of_file(&file, size)).await?;
        Ok(Some(Stored { size, etag }))
    }

    pub(super) async fn replace(
        &self,
        key: &str,
        bytes: Bytes,
        expected: Option<&Etag>,
    ) -> Result<Replaced, StoreError> {
        let what = self.what("replace", key);
        let path = self.place(&what, key).await?;
        let lock = self.lock(&what).await?;
        let expected = expected.cloned();
        blocking(&what, move || {
            let _held = lock;
            let found = match fs::read(&path) {
                Ok(bytes) => Some(etag_of_bytes(&bytes)),
                Err(error) if error.kind() == io::ErrorKind::NotFound => None,
                Err(error) => return Err(error),
            };
            if found != expected {
                return Ok(Replaced::Moved);
            }
            let mut temporary = Temporary::beside(&path)?;
            temporary.write(&bytes)?;
            temporary.publish(&path)?;
            Ok(Replaced::Done(etag_of_bytes(&bytes)))
        })
        .await
    }

    pub(super) async fn list(&self, prefix: &str) -> Result<Vec<Listed>, StoreError> {
        let what = self.what("list", prefix);
        let (base, wanted) = (Arc::clone(&self.base), prefix.to_owned());
        let found = blocking(&what, move || {
            let mut found = Vec::new();
            let is_there = list_into(&mut found, &base, "", &wanted)?;
            found.sort_by(|one: &Listed, other| one.key.cmp(&other.key));
            Ok(is_there.then_some(found))
        })
        .await?;
        match found {
            Some(found) => Ok(found),
            None => self.nothing(&what, self.base.to_path_buf()).await.map(|()| Vec::new()),
        }
    }

    pub(super) async fn delete(&self, key: &str) -> Result<(), StoreError> {
        let what = self.what("delete", key);
        let path = self.path(&what, key)?;
        blocking(&what, move || {
            match fs::remove_file(&path) {
                // On disk before what it referred to is deleted next.
                Ok(()) => temporary::sync_directory(&path),
                Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
                Err(error) => Err(error),
            }
        })
        .await
    }

    pub(super) async fn sweep(&self) -> Result<usize, StoreError> {
        let base = Arc::clone(&self.base);
        blocking(&self.what("tidy up", ""), move || temporary::sweep(&base)).await
    }

    pub(super) async fn partitions(&self) -> Result<Vec<String>, StoreError> {
        let what = format!("list the partitions of file://{}", self.root.display());
        let root = Arc::clone(&self.root);
        let names = blocking(&what, move || {
            let entries = match fs::read_dir(&root) {
                Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
                entries => entries?,
            };
            let mut names = Vec::new();
            for entry in entries {
                let entry = entry?;
                if let Some(name) = entry.file_name().to_str()
                    && name.parse::<Partition>().is_ok()
                    && entry.file_type()?.is_dir()
                {
                    names.push(name.to_owned());
                }
            }
            names.sort();
            Ok(Some(names))
        })
        .await?;
        match names {
            Some(names) => Ok(names),
            None => self.nothing(&what, self.root.to_path_buf()).await.map(|()| Vec::new()),
        }
    }

    /// Opens an object; `None` if it is certain that there is none.
    async fn find(&self, what: &str, key: &str) -> Result<Option<(File, u64)>, StoreError> {
        let path = self.path(what, key)?;
        let found = blocking(what, move || {
            let file = match File::open(&path) {
                Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
                file => file?,
            };
            let found = file.metadata()?;
            if found.is_file() { Ok(Some((file, found.len()))) } else { Err(Errno::EISDIR.into()) }
        })
        .await?;
        if found.is_none() {
            self.nothing(what, self.path(what, key)?).await?;
        }
        Ok(found)
    }

    /// After a path was not there: an error unless the root, or the directory that it would be in, can be read, and no link on
    /// the way leads nowhere, as one to a disk that is not mounted does.
    async fn nothing(&self, what: &str, path: PathBuf) -> Result<(), StoreError> {
        let root = Arc::clone(&self.root);
        let (is_certain, lost) = blocking(what, move || {
            let parent = root.parent().unwrap_or(&root);
            let is_certain = fs::read_dir(&root).is_ok() || (!root.exists() && fs::read_dir(parent).is_ok());
            let lost =
                path.ancestors().take_while(|path| path.starts_with(&root)).find(|path| leads_nowhere(path));
            Ok((is_certain, lost.map(Path::to_owned)))
        })
        .await?;
        match lost {
            Some(link) => {
                let detail = format!(
                    "{} is a link to what is not there; mount that or make it, or correct --store",
                    link.display()
                );
                Err(StoreError::new(what, Trouble::NoStore, detail))
            }
            None if is_certain => Ok(()),
            None => Err(self.no_root(what)),
        }
    }

    /// The path of an object, its directory made where it is missing.
    async fn place(&self, what: &str, key: &str) -> Result<PathBuf, StoreError> {
        let path = self.path(what, key)?;
        let (root, directory) = (Arc::clone(&self.root), path.parent().unwrap_or(&self.base).to_owned());
        let parent_is_there = blocking(what, move || {
            if !root.parent().is_none_or(Path::is_dir) {
                return Ok(false);
            }
            // The parent of the root is never made: where a disk is not mounted, nothing must be written in its place.
            let missing = directory.ancestors().take_while(|path| path.starts_with(&root) && !path.is_dir());
            for path in missing.collect::<Vec<_>>().into_iter().rev() {
                temporary::make_directory(path)?;
            }
            Ok(true)
        })
        .await?;
        if parent_is_there { Ok(path) } else { Err(self.no_root(what)) }
    }

    fn no_root(&self, what: &str) -> StoreError {
        let parent = self.root.parent().unwrap_or(&self.root).display();
        let detail =
            format!("{parent} is not there or cannot be read; mount it or make it, or correct --store");
        StoreError::new(what, Trouble::NoStore, detail)
    }

    fn path(&self, what: &str, key: &str) -> Result<PathBuf, StoreError> {
        if is_key(key) {
            Ok(self.base.join(key))
        } else {
            Err(StoreError::new(what, Trouble::Damaged, "not the key of an object"))
        }
    }

    /// The lock under which this partition's objects are compared and replaced.
    async fn lock(&self, what: &str) -> Result<Flock<File>, StoreError> {
        let path = self.base.join(LOCK);
        let mut file = Some(blocking(what, move || temporary::open_private(&path)).await?);
        let deadline = tokio::time::Instant::now() + LOCK_WAIT;
        while let Some(unlocked) = file.take() {
            match Flock::lock(unlocked, FlockArg::LockExclusiveNonblock) {
                Ok(lock) => return Ok(lock),
                Err((unlocked, Errno::EWOULDBLOCK)) if tokio::time::Instant::now() < deadline => {
                    file = Some(unlocked);
                    tokio::time::sleep(LOCK_LOOK).await;
                }
                Err((_, Errno::EWOULDBLOCK)) => break,
                Err((_, errno)) => return Err(system(what, &errno.into())),
            }
        }
        let detail = format!("another process holds {}/{LOCK}; end it if it hangs", self.base.display());
        Err(StoreError::new(what, Trouble::Busy, detail))
    }

    fn what(&self, verb: &str, key: &str) -> String {
        format!("{verb} {}/{}", self, key.escape_debug())
    }
}

impl fmt::Display for Directory {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "file://{}", self.base.display())
    }
}

fn leads_nowhere(path: &Path) -> bool {
    path.symlink_metadata().is_ok_and(|found| found.is_symlink()) && !path.exists()
}

/// Collects what is below a directory and begins with `wanted`; whether the directory is there at all.
fn list_into(found: &mut Vec<Listed>, directory: &Path, begin: &str, wanted: &str) -> io::Result<bool> {
    let entries = match fs::read_dir(directory) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(false),
        entries => entries?,
    };
    for entry in entries {
        let entry = entry?;
        let Some(name) = entry.file_name().to_str().map(str::to_owned) else { continue };
        let key = format!("{begin}{name}");
        let kind = entry.file_type()?;
        // Temporary files, the lock, and what somebody else has put here are no objects.
        if !is_key(&name) {
            continue;
        }
        if kind.is_dir() {
            let below = format!("{key}/");
            if below.starts_with(wanted) || wanted.starts_with(&below) {
                list_into(found, &entry.path(), &below, wanted)?;
            }
        } else if kind.is_file() && key.starts_with(wanted) {
            match entry.metadata() {
                Ok(metadata) => found.push(Listed { key, size: metadata.len() }),
                // Deleted since.
                Err(error) if error.kind() == io::ErrorKind::NotFound => {}
                Err(error) => return Err(error),
            }
        }
    }
    Ok(true)
}

/// Does file work where it does not hold up the one thread that everybody shares.
async fn blocking<T: Send + 'static>(
    what: &str,
    work: impl FnOnce() -> io::Result<T> + Send + 'static,
) -> Result<T, StoreError> {
    threads::blocking(work).await.map_err(|error| system(what, &error))
}

fn system(what: &str, error: &io::Error) -> StoreError {
    let (trouble, advice) = meaning(error);
    StoreError::new(what, trouble, format!("{error}{advice}"))
}

#[cfg(test)]
mod tests;
