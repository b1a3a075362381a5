//! Reads a file that others may be writing: it counts only if size, times and inode are the same before and after.

use std::os::fd::{BorrowedFd, OwnedFd};

use nix::errno::Errno;
use nix::fcntl::{AtFlags, OFlag, openat};
use nix::sys::stat::{Mode, SFlag, fstat, fstatat};
use nix::unistd::read;

use super::below::is_gone;
use super::content::Facts;
use super::stamp::{Stat, mode, now};

/// Pauses in milliseconds before a small file is read again; so often that it is read once more.
const PAUSES: [u64; 4] = [5, 10, 25, 50];
/// Pause in milliseconds before an empty file that was not empty is looked at again: Serena truncates, then writes.
const EMPTY: u64 = 50;

/// A file between its first and its last look.
pub(super) struct Steady<'a> {
    directory: BorrowedFd<'a>,
    name: &'a [u8],
    file: OwnedFd,
    /// What it was like when it was opened.
    stat: Stat,
    /// When it was opened, in nanoseconds since 1970.
    opened: i64,
    /// Bytes that were read; never more than its size when it was opened.
    done: u64,
}

impl<'a> Steady<'a> {
    /// Opens a file; `None` if there is no file of that name any more.
    pub(super) fn open(directory: BorrowedFd<'a>, name: &'a [u8]) -> nix::Result<Option<Self>> {
        // Not blocking: a pipe that took its place has nobody at its other end.
        let flags =
            OFlag::O_RDONLY | OFlag::O_NOFOLLOW | OFlag::O_NONBLOCK | OFlag::O_NOCTTY | OFlag::O_CLOEXEC;
        let opened = now();
        let file = match openat(directory, name, flags, Mode::empty()) {
            Err(errno) if is_gone(errno) || errno == Errno::ENXIO => return Ok(None),
            file => file?,
        };
        let stat = fstat(&file)?;
        let is_file = SFlag::from_bits_truncate(mode(&stat)) & SFlag::S_IFMT == SFlag::S_IFREG;
        Ok(is_file.then(|| Steady { directory, name, file, stat: Stat::of(&stat), opened, done: 0 }))
    }

    /// Reads on; 0 at the end, or where the end was when the file was opened.
    pub(super) fn next(&mut self, buffer: &mut [u8]) -> nix::Result<usize> {
        let left = usize::try_from(self.stat.size - self.done).unwrap_or(usize::MAX).min(buffer.len());
        let count = loop {
            match read(&self.file, &mut buffer[..left]) {
                Err(Errno::EINTR) => {}
                count => break count?,
            }
        };
        self.done += count as u64;
        Ok(count)
    }

    /// What is known about it, after it was read.
    pub(super) fn facts(&self) -> nix::Result<Facts> {
        let settled = self.is_settled()?;
        Ok(Facts { length: self.done, stat: self.stat, opened: self.opened, settled })
    }

    /// Whether what was read is the file as it was and still is.
    fn is_settled(&self) -> nix::Result<bool> {
        #[cfg(test)]
        hook::run(self.name);
        if self.done != self.stat.size || Stat::of(&fstat(&self.file)?) != self.stat {
            return Ok(false);
        }
        match fstatat(self.directory, self.name, AtFlags::AT_SYMLINK_NOFOLLOW) {
            Err(errno) if is_gone(errno) => Ok(false),
            stat => Ok(Stat::of(&stat?) == self.stat),
        }
    }
}

/// How the reading of a small file ended.
pub(super) enum Small {
    /// There is no such file any more.
    Gone,
    /// It has grown beyond what is a small file.
    Large,
    /// It is in the buffer.
    Read(Facts),
}

/// Reads a file of less than `limit` bytes, again and again until it stands still, but not for ever. `expected`: it had
/// bytes the last time, so an empty one may be about to be written.
pub(super) fn read_small(
    directory: BorrowedFd<'_>,
    name: &[u8],
    limit: u64,
    mut expected: bool,
    buffer: &mut Vec<u8>,
) -> nix::Result<Small> {
    let mut pauses = PAUSES.into_iter();
    loop {
        let Some(mut file) = Steady::open(directory, name)? else { return Ok(Small::Gone) };
        let size = match usize::try_from(file.stat.size) {
            Ok(size) if file.stat.size < limit => size,
            _ => return Ok(Small::Large),
        };
        if buffer.len() < size {
            buffer.resize(size, 0);
        }
        let mut length = 0;
        while length < size {
            match file.next(&mut buffer[length..size])? {
                0 => break,
                count => length += count,
            }
        }
        let facts = file.facts()?;
        let settled = facts.settled;
        if settled && size == 0 && expected && facts.stat.is_young_at(facts.opened) {
            expected = false;
            pause(EMPTY);
            continue;
        }
        match pauses.next() {
            Some(milliseconds) if !settled => pause(milliseconds),
            _ => return Ok(Small::Read(facts)),
        }
    }
}

#[cfg(not(test))]
#[allow(clippy::disallowed_methods, reason = "reading has a thread of its own; nobody is served by it")]
fn pause(milliseconds: u64) {
    std::thread::sleep(std::time::Duration::from_millis(milliseconds));
}

#[cfg(test)]
fn pause(_milliseconds: u64) {
    hook::run(b"");
}

/// What a test does to a file between its two looks, and, with an empty name, instead of a pause.
#[cfg(test)]
pub(super) mod hook {
    use std::cell::RefCell;

    type Hook = Box<dyn FnMut(&[u8])>;
    thread_local!(static HOOK: RefCell<Option<Hook>> = const { RefCell::new(None) });

    pub(in super::super) fn set(hook: impl FnMut(&[u8]) + 'static) {
        HOOK.with(|place| *place.borrow_mut() = Some(Box::new(hook)));
    }

    pub(in super::super) fn clear() {
        HOOK.with(|place| *place.borrow_mut() = None);
    }

    pub(super) fn run(name: &[u8]) {
        HOOK.with(|place| {
            if let Some(hook) = &mut *place.borrow_mut() {
                hook(name);
            }
        });
    }
}
