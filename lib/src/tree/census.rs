//! Who belongs to a tree: a walk of /proc, by parent, session, environment tag and the memory of earlier walks.
//!
//! Also reaps the orphans that came to us and died, never a root: those exit statuses are tokio's. A walk reads a small
//! file of every process of the machine, and happens only when a tree ends or is measured. Where /proc is missing, or has
//! other numbers than we, the process group of the root is all there is, as in `group`.

use std::collections::{HashMap, HashSet};
use std::io;
use std::sync::{LazyLock, Mutex, MutexGuard, PoisonError};

use nix::errno::Errno;
use nix::sys::signal::{Signal, kill, killpg};
use nix::sys::wait::{Id, WaitPidFlag, waitid};
use nix::unistd::{Pid, getpid, getsid};
use tokio::process::Child;

use super::Usage;
use super::mark::Mark;
use super::procfs::{self, Environment, Process, Table};
use super::tag;

/// Walks at most until one that finds nobody could not have missed anybody.
const TORN_WALKS: usize = 20;

/// The living trees, tag to root. Locked while a root is started, so that no walk takes a newborn for an orphan.
static ROOTS: LazyLock<Mutex<HashMap<String, i32>>> = LazyLock::new(Mutex::default);

/// Makes this process the one that orphans below it come to.
pub(super) fn adopt_orphans() -> io::Result<()> {
    Ok(nix::sys::prctl::set_child_subreaper(true)?)
}

/// Whether members are found by a walk of /proc.
pub(super) fn can_find_orphans() -> bool {
    procfs::is_ours()
}

/// What is known of one tree's members.
pub(super) struct Census {
    tag: String,
    /// Found on whoever cleared its environment.
    mark: Option<Mark>,
    root: i32,
    /// Start of the root in clock ticks since boot: nobody older belongs to the tree.
    born: u64,
    /// Members of earlier walks as (pid, start), for those that leave their parent later.
    known: HashSet<(i32, u64)>,
    /// Sessions of members; a process cannot join one from outside.
    sessions: HashSet<i32>,
}

impl Census {
    /// Starts a root by `spawn` (which sets `tag` in its environment and gives it a session) and enters it.
    pub(super) fn open(
        tag: String,
        mark: Option<Mark>,
        spawn: impl FnOnce() -> io::Result<Child>,
    ) -> io::Result<(Child, Census)> {
        let mut roots = roots();
        let child = spawn()?;
        let root = child.id().map_or(0, |pid| pid as i32);
        roots.insert(tag.clone(), root);
        let born = procfs::process(root).map_or(0, |process| process.start);
        Ok((child, Census { tag, mark, root, born, known: HashSet::new(), sessions: HashSet::from([root]) }))
    }

    /// The members that are alive now; `certain` are known to be some.
    pub(super) fn members(&mut self, certain: Vec<i32>) -> Vec<i32> {
        self.walk(certain).iter().map(|one| one.pid).collect()
    }

    /// What the members use now.
    pub(super) fn usage(&mut self, certain: Vec<i32>) -> Usage {
        let members = self.walk(certain);
        Usage { memory: procfs::bytes(members.iter().map(|one| one.pages).sum()), processes: members.len() }
    }

    /// Sends `signal` to each of `members`; one that ended meanwhile is no error.
    pub(super) fn signal(&self, members: &[i32], signal: Signal) {
        if members.contains(&self.root) && !procfs::is_ours() {
            let _ = killpg(Pid::from_raw(self.root), signal);
        }
        for pid in members {
            let _ = kill(Pid::from_raw(*pid), signal);
        }
    }

    /// Forgets the tree.
    pub(super) fn close(&self) {
        roots().remove(&self.tag);
    }

    fn walk(&mut self, certain: Vec<i32>) -> Vec<Process> {
        if !procfs::is_ours() {
            return self.group(&certain);
        }
        let mut torn_walks = 0;
        loop {
            let (members, is_torn) = self.walk_once(&certain);
            torn_walks += 1;
            // Nobody is only what was seen twice, where somebody may have been forked behind our back.
            if !members.is_empty() || !is_torn || torn_walks == TORN_WALKS {
                return members;
            }
        }
    }

    /// The members, and whether one may have been missed: a process ended before it was looked into, or was in exec.
    fn walk_once(&mut self, certain: &[i32]) -> (Vec<Process>, bool) {
        let roots = roots();
        let us = getpid().as_raw();
        let our_session = getsid(None).map_or(0, Pid::as_raw);
        // Orphans of the whole container come to its first process, also those of `docker exec`.
        let alone = us != 1 && roots.len() == 1 && roots.contains_key(&self.tag);
        let Table { processes: mut table, mut is_torn } = procfs::table();
        let mut mine: HashSet<i32> = certain.iter().copied().collect();
        for one in table.iter().filter(|one| one.start >= self.born) {
            let adopted = is_adopted(one, us, our_session, &roots);
            if adopted && one.zombie {
                reap(one.pid);
            } else if (one.pid == self.root && one.start == self.born)
                || self.known.contains(&(one.pid, one.start))
                || self.sessions.contains(&one.session)
                || (adopted && (alone || self.knows(one.pid, &mut is_torn)))
            {
                mine.insert(one.pid);
            }
        }
        procfs::add_descendants(&table, &mut mine);
        // Their parent may have ended while we read on; if it has not, they are not ours to reap, and nothing happens.
        for one in table.iter().filter(|one| one.zombie && mine.contains(&one.pid)) {
            if !roots.values().any(|root| *root == one.pid) {
                reap(one.pid);
            }
        }
        drop(roots);
        table.retain(|one| mine.contains(&one.pid) && !one.zombie);
        self.known = table.iter().map(|one| (one.pid, one.start)).collect();
        // Of an empty session there is nothing left to find, and its number may become somebody else's.
        self.sessions =
            table.iter().map(|one| one.session).filter(|session| *session != our_session).collect();
        (table, is_torn)
    }

    /// Whether an orphan is of this tree; `is_torn` where that is not to be known now.
    fn knows(&self, orphan: i32, is_torn: &mut bool) -> bool {
        if self.mark.as_ref().is_some_and(|mark| mark.is_on(orphan)) {
            return true;
        }
        match procfs::environment(orphan) {
            // Started in this tree, however deep.
            Environment::Read(environment) => tag::tags_in(&environment).any(|one| one == self.tag),
            Environment::Unknown => {
                *is_torn = true;
                false
            }
        }
    }

    /// Without /proc: the process group of the root, told by the root's number, and who is `certain`.
    fn group(&self, certain: &[i32]) -> Vec<Process> {
        let group = Pid::from_raw(self.root);
        let peek = WaitPidFlag::WEXITED | WaitPidFlag::WNOHANG | WaitPidFlag::WNOWAIT;
        while let Ok(Some(ended)) = waitid(Id::PGid(group), peek).map(|status| status.pid()) {
            if ended == group {
                break;
            }
            reap(ended.as_raw());
        }
        // 0 would be our own group.
        let is_empty = self.root == 0 || killpg(group, None) == Err(Errno::ESRCH);
        let members: HashSet<i32> = certain.iter().copied().chain((!is_empty).then_some(self.root)).collect();
        let unknown = |pid| Process { pid, parent: 0, session: 0, zombie: false, start: 0, pages: 0 };
        members.into_iter().map(unknown).collect()
    }
}

/// Reaps every orphan that came to us and has ended, so that none stays as a zombie; never a root.
pub(super) fn reap_orphans() {
    let roots = roots();
    let us = getpid().as_raw();
    let our_session = getsid(None).map_or(0, Pid::as_raw);
    for one in
        procfs::table().processes.iter().filter(|one| one.zombie && is_adopted(one, us, our_session, &roots))
    {
        reap(one.pid);
    }
}

/// The roots of this process's living trees.
pub(super) fn living_roots() -> Vec<i32> {
    roots().values().copied().collect()
}

/// Whether a tree of this process with one of these tags lives.
pub(super) fn is_any_alive<'a>(mut tags: impl Iterator<Item = &'a str>) -> bool {
    let roots = roots();
    tags.any(|tag| roots.contains_key(tag))
}

/// A child of ours that is no root and left our session was orphaned below one of the roots.
fn is_adopted(one: &Process, us: i32, our_session: i32, roots: &HashMap<String, i32>) -> bool {
    one.parent == us && one.session != our_session && !roots.values().any(|root| *root == one.pid)
}

fn roots() -> MutexGuard<'static, HashMap<String, i32>> {
    ROOTS.lock().unwrap_or_else(PoisonError::into_inner)
}

fn reap(pid: i32) {
    let _ = waitid(Id::Pid(Pid::from_raw(pid)), WaitPidFlag::WEXITED | WaitPidFlag::WNOHANG);
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncBufReadExt, BufReader};

    use super::*;
    use crate::tree::{Launch, Tree, lock};

    #[tokio::test]
    async fn what_has_ended_is_forgotten_so_that_its_numbers_may_be_used_again() {
        let script = "exec 3<&0; setsid sh -c 'echo $$; read _' <&3 & wait; echo; read _";
        let command = ["sh", "-c", script].map(Into::into).to_vec();
        let (mut tree, pipes) = Tree::spawn(Launch::new(command)).await.unwrap();
        let mut stdin = pipes.stdin.unwrap();
        let mut lines = BufReader::new(pipes.stdout).lines();
        let child: i32 = lines.next_line().await.unwrap().unwrap().parse().unwrap();
        let root = tree.pid() as i32;
        tree.members();
        assert_eq!(lock(&tree.census).sessions, HashSet::from([root, child]));
        tokio::io::AsyncWriteExt::write_all(&mut stdin, b"\n").await.unwrap();
        assert_eq!(lines.next_line().await.unwrap().unwrap(), "");
        assert_eq!(tree.members(), [root]);
        assert_eq!(lock(&tree.census).sessions, HashSet::from([root]));
        assert_eq!(lock(&tree.census).known.len(), 1);
        drop(stdin);
        tree.stop(std::time::Duration::from_secs(20)).await;
        assert!(lock(&tree.census).known.is_empty() && lock(&tree.census).sessions.is_empty());
    }
}
