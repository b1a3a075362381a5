//! Who belongs to a tree where there is no /proc: the process group of its root, and no more.
//!
//! A process that takes a session of its own escapes. The counterpart with the whole story is `census`.

use std::io;

use nix::errno::Errno;
use nix::sys::signal::{Signal, killpg};
use nix::unistd::Pid;
use tokio::process::Child;

use super::Usage;
use super::mark::Mark;

/// Orphans go to the first process of the system here.
pub(super) fn adopt_orphans() -> io::Result<()> {
    Ok(())
}

/// Nothing shows them.
pub(super) fn can_find_orphans() -> bool {
    false
}

/// Orphans never come to us.
pub(super) fn reap_orphans() {}

/// The process group of one root.
pub(super) struct Census {
    root: i32,
}

impl Census {
    /// Starts a root by `spawn`, which gives it a session and so a group of its own.
    pub(super) fn open(
        _tag: String,
        _mark: Option<Mark>,
        spawn: impl FnOnce() -> io::Result<Child>,
    ) -> io::Result<(Child, Census)> {
        let child = spawn()?;
        let root = child.id().map_or(0, |pid| pid as i32);
        Ok((child, Census { root }))
    }

    /// The root's id while anybody is left in its group.
    pub(super) fn members(&mut self, _certain: Vec<i32>) -> Vec<i32> {
        // 0 would be our own group. A group that holds only a foreign user's processes says EPERM: it is not empty.
        let empty = self.root == 0 || killpg(Pid::from_raw(self.root), None) == Err(Errno::ESRCH);
        if empty { Vec::new() } else { vec![self.root] }
    }

    /// Whether there are any; how many and what they use the system does not tell in passing.
    pub(super) fn usage(&mut self, certain: Vec<i32>) -> Usage {
        Usage { memory: 0, processes: self.members(certain).len() }
    }

    /// Sends `signal` to the whole group; an empty one is no error.
    pub(super) fn signal(&self, _members: &[i32], signal: Signal) {
        if self.root != 0 {
            let _ = killpg(Pid::from_raw(self.root), signal);
        }
    }

    /// Nothing is kept beside the group.
    pub(super) fn close(&self) {}
}
