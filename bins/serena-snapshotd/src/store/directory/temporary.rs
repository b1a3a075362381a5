//! Files in the making. Each is locked by its writer as long as he lives, so that [`sweep`] removes only what a crash left.

use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::{DirBuilderExt, FileExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use nix::fcntl::{Flock, FlockArg};

use crate::layout::nonce;

/// How the names of temporary files begin; no key begins with a dot.
const BEGIN: &str = ".tmp-";
/// Bytes copied at once.
const STEP: u64 = 1 << 20;

/// A file in the making; dropped unpublished, it is removed.
pub(super) struct Temporary {
    path: Option<PathBuf>,
    file: Flock<File>,
}

impl Temporary {
    /// An empty one in the directory of `target`.
    pub(super) fn beside(target: &Path) -> io::Result<Self> {
        loop {
            let path = target.with_file_name(format!("{BEGIN}{}", nonce()));
            let file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(&path)?;
            let file =
                Flock::lock(file, FlockArg::LockExclusive).map_err(|(_, errno)| io::Error::from(errno))?;
            let temporary = Temporary { path: Some(path), file };
            // A sweep may have come between the two calls and removed it.
            if temporary.file.metadata()?.nlink() > 0 {
                return Ok(temporary);
            }
        }
    }

    /// Adds bytes.
    pub(super) fn write(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.file.write_all(bytes)
    }

    /// Adds the first `size` bytes of a file.
    pub(super) fn copy(&mut self, from: &File, size: u64) -> io::Result<()> {
        let mut buffer = vec![0; STEP.min(size) as usize];
        let mut at = 0;
        while at < size {
            let piece = &mut buffer[..STEP.min(size - at) as usize];
            from.read_exact_at(piece, at)?;
            self.file.write_all(piece)?;
            at += piece.len() as u64;
        }
        Ok(())
    }

    /// Gives it its name, in place of what had that name; on disk once this returns.
    pub(super) fn publish(mut self, target: &Path) -> io::Result<()> {
        self.file.sync_all()?;
        if let Some(path) = self.path.take() {
            fs::rename(&path, target).inspect_err(|_| drop(fs::remove_file(&path)))?;
        }
        sync_directory(target)
    }
}

impl Drop for Temporary {
    fn drop(&mut self) {
        if let Some(path) = self.path.take() {
            let _ = fs::remove_file(path);
        }
    }
}

/// Makes the names in the directory of `path` durable.
pub(super) fn sync_directory(path: &Path) -> io::Result<()> {
    File::open(path.parent().unwrap_or(path))?.sync_all()
}

/// Makes one directory, owner-only and durable; somebody else may have been faster.
pub(super) fn make_directory(path: &Path) -> io::Result<()> {
    match DirBuilder::new().mode(0o700).create(path) {
        Err(error) if error.kind() != io::ErrorKind::AlreadyExists => Err(error),
        _ => sync_directory(path),
    }
}

/// Opens a file that is only locked, made owner-only where it is missing.
pub(super) fn open_private(path: &Path) -> io::Result<File> {
    OpenOptions::new().read(true).write(true).create(true).truncate(false).mode(0o600).open(path)
}

/// Removes temporary files whose writers are gone, in a directory and those below it; how many.
pub(super) fn sweep(directory: &Path) -> io::Result<usize> {
    let entries = match fs::read_dir(directory) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(0),
        entries => entries?,
    };
    let mut removed = 0;
    for entry in entries {
        let entry = entry?;
        let kind = entry.file_type()?;
        if kind.is_dir() {
            removed += sweep(&entry.path())?;
        } else if kind.is_file() && entry.file_name().to_str().is_some_and(|name| name.starts_with(BEGIN)) {
            removed += usize::from(remove_if_left(&entry.path())?);
        }
    }
    Ok(removed)
}

fn remove_if_left(path: &Path) -> io::Result<bool> {
    let file = match File::open(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(false),
        file => file?,
    };
    // If its writer has just published it, only the old name is tried here, and that is gone.
    let Ok(_lock) = Flock::lock(file, FlockArg::LockExclusiveNonblock) else { return Ok(false) };
    match fs::remove_file(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(false),
        removed => removed.map(|()| true),
    }
}
