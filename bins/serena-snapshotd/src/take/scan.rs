//! Walks the roots: every path with what the system says about it; no file is opened.

use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::ffi::OsStringExt;

use nix::dir::Dir;
use nix::errno::Errno;
use nix::fcntl::{AtFlags, readlinkat};
use nix::sys::stat::{FileStat, SFlag, fstat, fstatat};

use super::below::{Places, is_gone, shown, split_root};
use super::stamp::{Stamp, Stat, mode};
use super::{Job, TakeError, Verdict};
use crate::digest::Digest;
use crate::manifest::{Content, Entry, Kind, MAX_ENTRIES};
use crate::settings::Root;

/// Most things that are named as left out.
const MAX_SKIPPED: usize = 100;
/// Longest path in bytes, its root's name included; what a manifest can hold.
const MAX_PATH: usize = 4096;

/// What is there.
pub(super) struct Scan {
    /// Every path, in byte order. Of the contents of files only the sizes are known.
    pub(super) entries: Vec<Entry>,
    /// One for each entry; [`Stamp::NONE`] for what is no file.
    pub(super) stamps: Vec<Stamp>,
    /// What was left out though no rule says so, and why.
    pub(super) skipped: Vec<(String, String)>,
}

struct Walk<'a> {
    job: &'a Job<'a>,
    found: Vec<(Entry, Stamp)>,
    skipped: Vec<(String, String)>,
    /// Directories to look into.
    waiting: Vec<Box<[u8]>>,
    /// Stands for a digest that nobody knows yet.
    unknown: Digest,
}

/// Looks at everything that the rules take.
pub(super) fn scan(job: &Job<'_>, places: &mut Places) -> Result<Scan, TakeError> {
    let mut walk =
        Walk { job, found: Vec::new(), skipped: Vec::new(), waiting: Vec::new(), unknown: Digest::of(b"") };
    for root in job.roots {
        walk.waiting.push(root.name.as_bytes().into());
        while let Some(path) = walk.waiting.pop() {
            job.check()?;
            match places.directory(&path).and_then(|directory| Ok((fstat(directory)?, list(directory)?))) {
                Ok((stat, listing)) => walk.directory(root, places, path, &Stat::of(&stat), listing)?,
                Err(errno) if is_gone(errno) && !split_root(&path).1.is_empty() => {}
                Err(errno) => return Err(job.wrong(&path, errno)),
            }
        }
    }
    let Walk { mut found, skipped, .. } = walk;
    found.sort_unstable_by(|(one, _), (other, _)| one.path.cmp(&other.path));
    let mut stamps = Vec::with_capacity(found.len());
    let strip = |(entry, stamp)| {
        stamps.push(stamp);
        entry
    };
    let entries = found.into_iter().map(strip).collect();
    Ok(Scan { entries, stamps, skipped })
}

impl Walk<'_> {
    fn directory(
        &mut self,
        root: &Root,
        places: &mut Places,
        path: Box<[u8]>,
        stat: &Stat,
        mut listing: Dir,
    ) -> Result<(), TakeError> {
        let mut child = path.to_vec();
        child.push(b'/');
        let above = child.len();
        let before = self.found.len();
        for name in listing.iter() {
            let name = name.map_err(|errno| self.job.wrong(&path, errno))?;
            let name = name.file_name();
            if matches!(name.to_bytes(), b"." | b"..") {
                continue;
            }
            child.truncate(above);
            child.extend_from_slice(name.to_bytes());
            let directory = places.directory(&path);
            match directory.and_then(|directory| self.look(root, directory, name, &child)) {
                Ok(()) => {}
                Err(errno) if is_gone(errno) => {}
                Err(errno) => return Err(self.job.wrong(&child, errno)),
            }
        }
        let count = (self.found.len() - before) as u64;
        self.job.progress.add(0, count);
        self.found.push((
            Entry { path, mode: stat.mode, mtime: stat.stamp.mtime, kind: Kind::Directory },
            Stamp::NONE,
        ));
        if self.found.len() > MAX_ENTRIES {
            let why = format!("more than {MAX_ENTRIES} paths; leave some out with `exclude`");
            return Err(TakeError::system(&root.path, std::io::Error::other(why)));
        }
        Ok(())
    }

    fn look(
        &mut self,
        root: &Root,
        directory: BorrowedFd<'_>,
        name: &std::ffi::CStr,
        path: &[u8],
    ) -> nix::Result<()> {
        let facts = fstatat(directory, name, AtFlags::AT_SYMLINK_NOFOLLOW)?;
        let kind = kind(&facts);
        let is_directory = kind == SFlag::S_IFDIR;
        if root.rules.takes(split_root(path).1, is_directory) != Verdict::Take {
            return Ok(());
        }
        if path.len() > MAX_PATH {
            return Err(Errno::ENAMETOOLONG);
        }
        let stat = Stat::of(&facts);
        let (kind, stamp) = match kind {
            SFlag::S_IFDIR => {
                self.waiting.push(path.into());
                return Ok(());
            }
            SFlag::S_IFREG => {
                let content =
                    Content { size: stat.size, sha256: self.unknown, object: u32::MAX, unsettled: false };
                (Kind::File(content), stat.stamp)
            }
            SFlag::S_IFLNK => match readlinkat(directory, name) {
                // It is something else by now.
                Err(Errno::EINVAL) => return Ok(()),
                target => (Kind::Link(target?.into_vec().into()), Stamp::NONE),
            },
            other => {
                self.skip(path, other);
                return Ok(());
            }
        };
        self.found.push((Entry { path: path.into(), mode: stat.mode, mtime: stat.stamp.mtime, kind }, stamp));
        Ok(())
    }

    fn skip(&mut self, path: &[u8], kind: SFlag) {
        let why = match kind {
            SFlag::S_IFSOCK => "a socket",
            SFlag::S_IFIFO => "a named pipe",
            SFlag::S_IFBLK | SFlag::S_IFCHR => "a device",
            _ => "neither a file, a directory nor a link",
        };
        if self.skipped.len() < MAX_SKIPPED {
            self.skipped.push((shown(&self.job.place(path)), why.to_owned()));
        }
    }
}

/// A listing of its own: it can be read while other directories are opened.
fn list(directory: BorrowedFd<'_>) -> nix::Result<Dir> {
    let own = directory.as_fd().try_clone_to_owned();
    Dir::from_fd(own.map_err(|_| Errno::EMFILE)?)
}

fn kind(stat: &FileStat) -> SFlag {
    SFlag::from_bits_truncate(mode(stat)) & SFlag::S_IFMT
}
