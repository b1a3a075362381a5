//! Opens what is below the roots without ever following a link: one directory after another, each by its name in the one
//! above. So nobody who changes the tree meanwhile can make us read something else.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::Path;

use nix::errno::Errno;
use nix::fcntl::{OFlag, open, openat};
use nix::sys::stat::Mode;

use super::TakeError;
use crate::settings::Root;

/// Directories that are held open on the way to the current one; above that the uppermost are opened again when needed.
const MAX_OPEN: usize = 32;

/// All roots, opened.
pub(super) struct Places(Vec<Place>);

struct Place {
    name: Vec<u8>,
    below: Below,
}

/// A root, and the directories from it to the one that was asked for last.
struct Below {
    root: OwnedFd,
    /// The path of the last one, below the root.
    at: Vec<u8>,
    /// Those that are open: how much of `at` is the path of each.
    open: Vec<(usize, OwnedFd)>,
}

impl Places {
    pub(super) fn open(roots: &[Root]) -> Result<Self, TakeError> {
        let place = |root: &Root| {
            let flags = OFlag::O_RDONLY | OFlag::O_DIRECTORY | OFlag::O_CLOEXEC;
            let opened = open(&root.path, flags, Mode::empty());
            let root_fd = opened.map_err(|errno| TakeError::system(&root.path, errno))?;
            let below = Below { root: root_fd, at: Vec::new(), open: Vec::new() };
            Ok(Place { name: root.name.as_bytes().to_vec(), below })
        };
        roots.iter().map(place).collect::<Result<_, _>>().map(Places)
    }

    /// The directory at the path of an entry.
    pub(super) fn directory(&mut self, path: &[u8]) -> nix::Result<BorrowedFd<'_>> {
        let (root, rest) = split_root(path);
        let place = self.0.iter_mut().find(|place| place.name == root).ok_or(Errno::ENOENT)?;
        place.below.directory(rest)
    }
}

impl Below {
    fn directory(&mut self, path: &[u8]) -> nix::Result<BorrowedFd<'_>> {
        let is_above = |length: usize, at: &[u8]| {
            path.get(..length) == at.get(..length) && matches!(path.get(length), None | Some(b'/'))
        };
        while self.open.last().is_some_and(|(length, _)| !is_above(*length, &self.at)) {
            self.open.pop();
        }
        let mut length = self.open.last().map_or(0, |(length, _)| *length);
        self.at.truncate(length);
        while length < path.len() {
            let begin = if length == 0 { 0 } else { length + 1 };
            let rest = path.get(begin..).unwrap_or_default();
            let name = rest.split(|byte| *byte == b'/').next().unwrap_or_default();
            let flags = OFlag::O_RDONLY | OFlag::O_DIRECTORY | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC;
            let opened = openat(self.last(), name, flags, Mode::empty())?;
            length = begin + name.len();
            self.at.clear();
            self.at.extend_from_slice(&path[..length]);
            if self.open.len() == MAX_OPEN {
                self.open.remove(0);
            }
            self.open.push((length, opened));
        }
        Ok(self.last())
    }

    fn last(&self) -> BorrowedFd<'_> {
        self.open.last().map_or(self.root.as_fd(), |(_, fd)| fd.as_fd())
    }
}

/// The name of the root, and what is below it; nothing for the root itself.
pub(super) fn split_root(path: &[u8]) -> (&[u8], &[u8]) {
    match path.iter().position(|byte| *byte == b'/') {
        Some(slash) => (&path[..slash], &path[slash + 1..]),
        None => (path, b""),
    }
}

/// The directory a path is in, and its name there.
pub(super) fn split_name(path: &[u8]) -> (&[u8], &[u8]) {
    match path.iter().rposition(|byte| *byte == b'/') {
        Some(slash) => (&path[..slash], &path[slash + 1..]),
        None => (b"", path),
    }
}

/// What was found, unless it is not there any more or is something else now.
pub(super) fn unless_gone<T>(found: nix::Result<T>) -> nix::Result<Option<T>> {
    match found {
        Err(errno) if is_gone(errno) => Ok(None),
        found => found.map(Some),
    }
}

/// Whether an error says that what was there a moment ago is not there any more, or is something else now.
pub(super) fn is_gone(errno: Errno) -> bool {
    matches!(errno, Errno::ENOENT | Errno::ENOTDIR | Errno::ELOOP | Errno::ESTALE)
}

/// A path in one line, whatever bytes are in it.
pub(super) fn shown(path: &Path) -> String {
    let mut text = String::new();
    for char in path.to_string_lossy().chars() {
        if char.is_control() { text.extend(char.escape_default()) } else { text.push(char) }
    }
    text
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::sync::Arc;

    use nix::fcntl::AtFlags;
    use nix::sys::stat::fstatat;

    use super::super::{Profile, Rules};
    use super::*;

    fn places(path: &Path) -> Places {
        let rules = Arc::new(Rules::new(Profile::Everything, &[], &[]).unwrap());
        Places::open(&[Root { name: "home".to_owned(), path: path.to_owned(), rules }]).unwrap()
    }

    #[test]
    fn a_directory_deeper_than_what_is_held_open_is_reached_and_left_again() {
        let home = tempfile::tempdir().unwrap();
        let mut places = places(home.path());
        let mut path = b"home".to_vec();
        for depth in 0..(3 * MAX_OPEN) {
            let above = places.directory(&path).unwrap();
            nix::sys::stat::mkdirat(above, "d", Mode::from_bits_truncate(0o700)).unwrap();
            path.extend(b"/d");
            places.directory(&path).unwrap();
            assert!(places.0[0].below.open.len() <= MAX_OPEN, "{depth}");
        }
        fs::write(home.path().join("d/f"), "x").unwrap();
        let above = places.directory(b"home/d").unwrap();
        assert_eq!(fstatat(above, "f", AtFlags::empty()).unwrap().st_size, 1);
        places.directory(&path).unwrap();
    }

    #[test]
    fn a_directory_that_became_a_link_is_gone() {
        let home = tempfile::tempdir().unwrap();
        fs::create_dir_all(home.path().join("a/b")).unwrap();
        let mut places = places(home.path());
        places.directory(b"home/a/b").unwrap();
        places.directory(b"home").unwrap();
        fs::rename(home.path().join("a"), home.path().join("c")).unwrap();
        std::os::unix::fs::symlink("c", home.path().join("a")).unwrap();
        assert!(is_gone(places.directory(b"home/a/b").unwrap_err()));
        places.directory(b"home/c/b").unwrap();
    }

    #[test]
    fn a_path_is_shown_in_one_line() {
        assert_eq!(shown(Path::new("/a\nb\u{e4}")), "/a\\nb\u{e4}");
    }
}
