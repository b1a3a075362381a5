//! What tells that a file was not touched since it was read: its size, its times, its inode. Times that are too young to
//! tell are not believed, because a change in the same tick of the clock leaves no trace.

use std::time::{SystemTime, UNIX_EPOCH};

use nix::sys::stat::FileStat;

use crate::digest::Digest;
use crate::manifest::MODE_MASK;

/// How old a change must be when a file is read, in nanoseconds: the coarsest file systems count whole or even seconds.
const RACY: i64 = 2_000_000_000;

/// What a reading saw, by which the next one tells what was touched since.
pub struct Seen {
    /// Of the tree that `stamps` belong to, so that they are never taken for those of another one.
    pub(super) tree: Digest,
    /// One for each entry of that tree, in its order.
    pub(super) stamps: Vec<Stamp>,
}

/// When a file was touched last, and which file that was.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) struct Stamp {
    pub(super) mtime: i64,
    ctime: i64,
    inode: u64,
}

impl Stamp {
    /// Of what must be read again, or is no file; see [`Stamp::vouches_for`].
    pub(super) const NONE: Stamp = Stamp { mtime: i64::MIN, ctime: i64::MIN, inode: 0 };

    /// Whether a file with the other stamp, and the same size, is surely the one that was read.
    pub(super) fn vouches_for(&self, now: &Stamp) -> bool {
        *self != Stamp::NONE && self == now
    }
}

/// What the system says about a path, as far as it matters here.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) struct Stat {
    pub(super) size: u64,
    pub(super) mode: u32,
    pub(super) stamp: Stamp,
}

impl Stat {
    pub(super) fn of(stat: &FileStat) -> Self {
        Stat {
            size: u64::try_from(stat.st_size).unwrap_or(0),
            mode: mode(stat) & MODE_MASK,
            stamp: Stamp {
                mtime: nanoseconds(stat.st_mtime, stat.st_mtime_nsec),
                ctime: nanoseconds(stat.st_ctime, stat.st_ctime_nsec),
                inode: stat.st_ino,
            },
        }
    }

    /// The stamp to remember for a file that was read at that time: none if a later change could look the same.
    pub(super) fn stamp_read_at(&self, read: i64) -> Stamp {
        if self.is_young_at(read) { Stamp::NONE } else { self.stamp }
    }

    /// Whether it was touched less than two seconds before that time, or after it.
    pub(super) fn is_young_at(&self, read: i64) -> bool {
        self.stamp.mtime.max(self.stamp.ctime) > read.saturating_sub(RACY)
    }
}

/// The kind and permissions of a path.
#[allow(clippy::useless_conversion, reason = "the type differs from system to system")]
pub(super) fn mode(stat: &FileStat) -> u32 {
    u32::from(stat.st_mode)
}

/// The time in nanoseconds since 1970, as file systems have it.
pub(super) fn now() -> i64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH);
    since.ok().and_then(|since| i64::try_from(since.as_nanos()).ok()).unwrap_or(0)
}

fn nanoseconds(seconds: i64, rest: i64) -> i64 {
    seconds.saturating_mul(1_000_000_000).saturating_add(rest)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn a_stamp_is_remembered_only_if_any_later_change_shows(mtime: i32, ctime: i32, read: i32) {
            let [mtime, ctime, read] = [mtime, ctime, read].map(|seconds| i64::from(seconds) * 500_000_000);
            let stat = Stat { size: 1, mode: 0o600, stamp: Stamp { mtime, ctime, inode: 7 } };
            let kept = stat.stamp_read_at(read);
            let is_old = mtime <= read - RACY && ctime <= read - RACY;
            prop_assert_eq!(kept.vouches_for(&stat.stamp), is_old);
        }
    }

    #[test]
    fn nothing_vouches_for_what_has_no_stamp() {
        assert!(!Stamp::NONE.vouches_for(&Stamp::NONE));
    }
}
