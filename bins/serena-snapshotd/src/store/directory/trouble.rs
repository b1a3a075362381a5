//! What an error of the operating system means for a store, and what to do about it.

use std::io;

use nix::errno::Errno;

use crate::store::Trouble;

/// The kind of an error, and advice to be added to its text.
pub(super) fn meaning(error: &io::Error) -> (Trouble, &'static str) {
    if error.kind() == io::ErrorKind::UnexpectedEof {
        return (Trouble::Damaged, "; it is shorter than it was");
    }
    match error.raw_os_error().map(Errno::from_raw) {
        Some(Errno::ENOSPC | Errno::EDQUOT | Errno::EFBIG) => (Trouble::Full, "; make room there"),
        Some(Errno::EACCES | Errno::EPERM | Errno::EROFS) => {
            (Trouble::Denied, "; give this user the right to write there")
        }
        Some(Errno::ENOENT | Errno::ENOTDIR | Errno::EISDIR | Errno::ELOOP | Errno::ENAMETOOLONG) => {
            (Trouble::NoStore, "; what is there is no store of ours")
        }
        Some(Errno::EIO | Errno::EBADMSG | Errno::EUCLEAN) => (Trouble::Damaged, "; the disk may be failing"),
        _ => (Trouble::Busy, ""),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_error_has_a_meaning() {
        for (errno, trouble) in [
            (Errno::ENOSPC, Trouble::Full),
            (Errno::EDQUOT, Trouble::Full),
            (Errno::EROFS, Trouble::Denied),
            (Errno::EACCES, Trouble::Denied),
            (Errno::ENOENT, Trouble::NoStore),
            (Errno::EIO, Trouble::Damaged),
            (Errno::EMFILE, Trouble::Busy),
        ] {
            assert_eq!(meaning(&errno.into()).0, trouble, "{errno}");
        }
    }
}
