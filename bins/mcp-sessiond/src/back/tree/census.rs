//! Who belongs to a tree: a walk of /proc, by parent, session, environment tag and the memory of earlier walks.
//!
//! Also reaps the orphans that came to us and died, never a root: those exit statuses are tokio's. A walk reads some
//! hundred small files (about a millisecond) and happens only when a tree ends.

use std::collections::{HashMap, HashSet};
use std::io;
use std::sync::{LazyLock, Mutex, MutexGuard, PoisonError};

use nix::sys::signal::{Signal, kill};
use nix::sys::wait::{Id, WaitPidFlag, waitid};
use nix::unistd::{Pid, getpid, getsid};
use tokio::process::Child;

/// The environment variable that everything below a root inherits.
pub(super) const TAG: &str = "MCP_DAEMON_TREE";

/// The living trees, tag to root. Locked while a root is started, so that no walk takes a newborn for an orphan.
static ROOTS: LazyLock<Mutex<HashMap<String, i32>>> = LazyLock::new(Mutex::default);

/// Makes this process the one that orphans below it come to.
pub(super) fn adopt_orphans() -> io::Result<()> {
    Ok(nix::sys::prctl::set_child_subreaper(true)?)
}

/// What is known of one tree's members.
pub(super) struct Census {
    tag: String,
    root: i32,
    /// Start of the root in clock ticks since boot: nobody older belongs to the tree.
    born: u64,
    /// Members of earlier walks as (pid, start), for those that leave their parent later.
    known: HashSet<(i32, u64)>,
    /// Sessions of members; a process cannot join one from outside.
    sessions: HashSet<i32>,
}

/// What /proc says of one process.
struct Process {
    pid: i32,
    parent: i32,
    session: i32,
    zombie: bool,
    start: u64,
}

impl Census {
    /// Starts a root by `spawn` (which sets `tag` in its environment and gives it a session) and enters it.
    pub(super) fn open(
        tag: String,
        spawn: impl FnOnce() -> io::Result<Child>,
    ) -> io::Result<(Child, Census)> {
        let mut roots = roots();
        let child = spawn()?;
        let root = child.id().map_or(0, |pid| pid as i32);
        roots.insert(tag.clone(), root);
        let born = process(root).map_or(0, |process| process.start);
        Ok((child, Census { tag, root, born, known: HashSet::new(), sessions: HashSet::from([root]) }))
    }

    /// The members that are alive now.
    pub(super) fn members(&mut self) -> Vec<i32> {
        let roots = roots();
        let us = getpid().as_raw();
        let our_session = getsid(None).map_or(0, Pid::as_raw);
        let alone = roots.len() == 1 && roots.contains_key(&self.tag);
        let table = table();
        let mut mine = HashSet::new();
        for one in table.iter().filter(|one| one.start >= self.born) {
            // A child of ours that is no root and left our session was orphaned below one of the roots.
            let adopted = one.parent == us
                && one.session != our_session
                && !roots.values().any(|root| *root == one.pid);
            if adopted && one.zombie {
                reap(one.pid);
            } else if (one.pid == self.root && one.start == self.born)
                || self.known.contains(&(one.pid, one.start))
                || self.sessions.contains(&one.session)
                || (adopted && (alone || is_tagged(one.pid, &self.tag)))
            {
                mine.insert(one.pid);
            }
        }
        drop(roots);
        add_descendants(&table, &mut mine);
        let members = table.iter().filter(|one| mine.contains(&one.pid) && !one.zombie);
        self.known = members.clone().map(|one| (one.pid, one.start)).collect();
        self.sessions
            .extend(members.clone().map(|one| one.session).filter(|session| *session != our_session));
        members.map(|one| one.pid).collect()
    }

    /// Sends `signal` to each of `members`; one that ended meanwhile is no error.
    pub(super) fn signal(&self, members: &[i32], signal: Signal) {
        for pid in members {
            let _ = kill(Pid::from_raw(*pid), signal);
        }
    }

    /// Forgets the tree.
    pub(super) fn close(&self) {
        roots().remove(&self.tag);
    }
}

fn roots() -> MutexGuard<'static, HashMap<String, i32>> {
    ROOTS.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Adds everything below `mine`, however deep and in whatever order the table is.
fn add_descendants(table: &[Process], mine: &mut HashSet<i32>) {
    loop {
        let before = mine.len();
        for one in table {
            if mine.contains(&one.parent) {
                mine.insert(one.pid);
            }
        }
        if mine.len() == before {
            return;
        }
    }
}

fn table() -> Vec<Process> {
    let Ok(entries) = std::fs::read_dir("/proc") else { return Vec::new() };
    entries.flatten().filter_map(|entry| process(entry.file_name().to_str()?.parse().ok()?)).collect()
}

fn process(pid: i32) -> Option<Process> {
    parse(pid, &std::fs::read(format!("/proc/{pid}/stat")).ok()?)
}

/// Reads a line of proc(5) `stat`: the name in parentheses may hold anything, what follows it has fixed places.
fn parse(pid: i32, stat: &[u8]) -> Option<Process> {
    let after_name = stat.iter().rposition(|byte| *byte == b')')? + 1;
    let fields: Vec<&str> = std::str::from_utf8(&stat[after_name..]).ok()?.split_ascii_whitespace().collect();
    let number = |at: usize| fields.get(at)?.parse::<i32>().ok();
    Some(Process {
        pid,
        parent: number(1)?,
        session: number(3)?,
        zombie: matches!(*fields.first()?, "Z" | "X"),
        start: fields.get(19)?.parse().ok()?,
    })
}

/// Whether the process was started with our tag; the environment of another user's process cannot be read.
fn is_tagged(pid: i32, tag: &str) -> bool {
    let Ok(environment) = std::fs::read(format!("/proc/{pid}/environ")) else { return false };
    environment.split(|byte| *byte == 0).any(|one| {
        one.strip_prefix(TAG.as_bytes()).and_then(|rest| rest.strip_prefix(b"=")) == Some(tag.as_bytes())
    })
}

fn reap(pid: i32) {
    let _ = waitid(Id::Pid(Pid::from_raw(pid)), WaitPidFlag::WEXITED | WaitPidFlag::WNOHANG);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_with_parentheses_does_not_move_the_fields() {
        let stat = b"7 (a) R 1 (b) S 4 5 6 0 -1 4194560 1 2 3 4 5 6 7 8 20 0 1 0 4711 9 9\n";
        let one = parse(7, stat).unwrap();
        assert_eq!((one.parent, one.session, one.zombie, one.start), (4, 6, false, 4711));
        assert!(parse(7, b"7 (short) Z 1").is_none());
    }

    #[test]
    fn descendants_are_found_in_any_order() {
        let one = |pid, parent| Process { pid, parent, session: 1, zombie: false, start: 1 };
        let mut mine = HashSet::from([10]);
        add_descendants(&[one(13, 12), one(12, 11), one(11, 10), one(20, 1)], &mut mine);
        assert_eq!(mine, HashSet::from([10, 11, 12, 13]));
    }
}
