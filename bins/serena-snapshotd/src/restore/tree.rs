//! Directories by handle: everything is made below one that is open, name by name, never through a link, and never over
//! what is there.

use std::collections::VecDeque;
use std::fs::File;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::Path;

use nix::errno::Errno;
use nix::fcntl::{AT_FDCWD, AtFlags, OFlag, open, openat};
use nix::sys::stat::{Mode, UtimensatFlags, fchmod, futimens, mkdirat, utimensat};
use nix::sys::time::TimeSpec;
use nix::unistd::{Gid, Uid, fchown, fchownat, symlinkat};

use crate::manifest::{MODE_MASK, check_path};

/// Directories that stay open, because what comes next is mostly in one of them.
const RECENT: usize = 32;
const NANOS: i64 = 1_000_000_000;

/// Who everything shall belong to.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) struct Owner {
    pub(crate) uid: u32,
    pub(crate) gid: u32,
}

/// A directory that is open, and some of those below it.
pub(crate) struct Tree {
    root: OwnedFd,
    recent: VecDeque<(Box<[u8]>, OwnedFd)>,
}

impl Tree {
    /// Opens a directory that is not a link.
    pub(crate) fn open(path: &Path) -> io::Result<Tree> {
        let root = open(path, directory_flags(), Mode::empty())?;
        Ok(Tree { root, recent: VecDeque::new() })
    }

    /// The same directory for somebody else.
    pub(crate) fn again(&self) -> io::Result<Tree> {
        Ok(Tree { root: self.root.try_clone()?, recent: VecDeque::new() })
    }

    /// Waits until everything on its file system is on disk; an error that any write had since this was opened is told.
    #[cfg(target_os = "linux")]
    pub(crate) fn sync(&self) -> io::Result<()> {
        Ok(nix::unistd::syncfs(&self.root)?)
    }

    /// Waits until everything is on disk.
    #[cfg(not(target_os = "linux"))]
    pub(crate) fn sync(&self) -> io::Result<()> {
        nix::unistd::sync();
        Ok(())
    }

    /// The handle of a directory below, or of the root for an empty path.
    pub(crate) fn directory(&mut self, path: &[u8]) -> io::Result<BorrowedFd<'_>> {
        if path.is_empty() {
            return Ok(self.root.as_fd());
        }
        // Whoever asks has looked at paths already; a handle's parent is one careless caller away, though.
        check_path(path).map_err(|error| io::Error::new(io::ErrorKind::InvalidInput, error))?;
        if let Some(at) = self.recent.iter().position(|(known, _)| **known == *path) {
            return Ok(self.recent[at].1.as_fd());
        }
        let mut handle: Option<OwnedFd> = None;
        for name in path.split(|byte| *byte == b'/') {
            let above = handle.as_ref().map_or(self.root.as_fd(), AsFd::as_fd);
            handle = Some(openat(above, name, directory_flags(), Mode::empty())?);
        }
        let handle = handle.expect("a path has a name");
        if self.recent.len() == RECENT {
            self.recent.pop_front();
        }
        self.recent.push_back((path.into(), handle));
        Ok(self.recent[self.recent.len() - 1].1.as_fd())
    }

    /// Makes an owner-only directory.
    pub(crate) fn make_directory(&mut self, path: &[u8]) -> io::Result<()> {
        let (above, name) = split(path)?;
        Ok(mkdirat(self.directory(above)?, name, Mode::S_IRWXU)?)
    }

    /// Makes an owner-only file, to be written and read.
    pub(crate) fn create(&mut self, path: &[u8]) -> io::Result<File> {
        let (above, name) = split(path)?;
        let flags = OFlag::O_RDWR | OFlag::O_CREAT | OFlag::O_EXCL | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC;
        Ok(File::from(openat(self.directory(above)?, name, flags, Mode::S_IRUSR | Mode::S_IWUSR)?))
    }

    /// Opens a file that is not a link, to be read.
    pub(crate) fn read(&mut self, path: &[u8]) -> io::Result<File> {
        let (above, name) = split(path)?;
        let flags = OFlag::O_RDONLY | OFlag::O_NOFOLLOW | OFlag::O_NONBLOCK | OFlag::O_CLOEXEC;
        Ok(File::from(openat(self.directory(above)?, name, flags, Mode::empty())?))
    }

    /// Makes a link.
    pub(crate) fn link(
        &mut self,
        path: &[u8],
        target: &[u8],
        mtime: i64,
        owner: Option<Owner>,
    ) -> io::Result<()> {
        let (above, name) = split(path)?;
        let above = self.directory(above)?;
        symlinkat(target, above, name)?;
        if let Some(Owner { uid, gid }) = owner {
            let (uid, gid) = (Some(Uid::from_raw(uid)), Some(Gid::from_raw(gid)));
            fchownat(above, name, uid, gid, AtFlags::AT_SYMLINK_NOFOLLOW)?;
        }
        match utimensat(above, name, &TimeSpec::UTIME_OMIT, &time(mtime), UtimensatFlags::NoFollowSymlink) {
            // Not every file system has times for links.
            Err(Errno::EOPNOTSUPP | Errno::ENOSYS) => Ok(()),
            ended => Ok(ended?),
        }
    }

    /// Gives a directory its permissions, time and owner.
    pub(crate) fn finish(
        &mut self,
        path: &[u8],
        mode: u32,
        mtime: i64,
        owner: Option<Owner>,
    ) -> io::Result<()> {
        // One that is closed to us once this is done need not be open any more.
        self.recent.retain(|(known, _)| **known != *path);
        let handle = if path.is_empty() {
            self.root.try_clone()?
        } else {
            let (above, name) = split(path)?;
            openat(self.directory(above)?, name, directory_flags(), Mode::empty())?
        };
        stamp(handle.as_fd(), mode, mtime, owner)
    }
}

/// Gives what is open its owner, permissions and time.
pub(crate) fn stamp(handle: BorrowedFd<'_>, mode: u32, mtime: i64, owner: Option<Owner>) -> io::Result<()> {
    if let Some(Owner { uid, gid }) = owner {
        fchown(handle, Some(Uid::from_raw(uid)), Some(Gid::from_raw(gid)))?;
    }
    fchmod(handle, Mode::from_bits_truncate(mode & MODE_MASK))?;
    futimens(handle, &TimeSpec::UTIME_OMIT, &time(mtime))?;
    Ok(())
}

/// Whether everything can be given to this owner; not so on some network file systems and in some containers.
pub(crate) fn can_own(path: &Path, Owner { uid, gid }: Owner) -> bool {
    let (uid, gid) = (Some(Uid::from_raw(uid)), Some(Gid::from_raw(gid)));
    fchownat(AT_FDCWD, path, uid, gid, AtFlags::AT_SYMLINK_NOFOLLOW).is_ok()
}

/// The directory that a path is in, empty for the root, and its last name.
fn split(path: &[u8]) -> io::Result<(&[u8], &[u8])> {
    let (above, name) = match path.iter().rposition(|byte| *byte == b'/') {
        // What begins with a slash keeps it, and is refused.
        Some(0) | None => (&[][..], path),
        Some(slash) => (&path[..slash], &path[slash + 1..]),
    };
    check_path(name).map_err(|error| io::Error::new(io::ErrorKind::InvalidInput, error))?;
    Ok((above, name))
}

fn time(nanos: i64) -> TimeSpec {
    TimeSpec::new(nanos.div_euclid(NANOS), nanos.rem_euclid(NANOS))
}

fn directory_flags() -> OFlag {
    OFlag::O_RDONLY | OFlag::O_DIRECTORY | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC
}
