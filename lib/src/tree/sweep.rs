//! What a dead process left behind: found by its owner's tag in the environment, by descent, session and cgroup.

use std::collections::HashSet;
use std::time::Duration;

use nix::sys::signal::{Signal, kill};
use nix::unistd::{Pid, getpid, getsid};
use tokio::task::spawn_blocking;
use tokio::time::{Instant, sleep};

use super::cgroup::{self, Leftovers};
use super::procfs::{self, Environment, Process, Table};
use super::{FIRST_LOOK, LAST_LOOK, Swept};
use super::{census, tag};

/// Looks of [`kill_all`]: what is forked while we kill is seen at the next one.
const KILL_ROUNDS: usize = 250;
/// Looks at most for somebody who may have been forked behind the back of the one before.
const TORN_LOOKS: usize = 20;
/// Tries of [`kill_all`] to remove what is empty then.
const REMOVE_ROUNDS: usize = 50;

/// What is known of what some owners left.
struct Search {
    owners: Vec<String>,
    cgroups: Vec<Leftovers>,
    /// Processes as (pid, start) that have been looked into and are nobody's business of ours.
    strangers: HashSet<(i32, u64)>,
    found: HashSet<(i32, u64)>,
    sessions: HashSet<i32>,
    /// Whether the last look may have missed somebody: a process ended before it was looked into, or was in exec.
    is_torn: bool,
}

/// See [`super::sweep`]; SIGKILL may take up to `limit`.
pub(super) async fn sweep(owners: &[String], grace: Duration, limit: Duration) -> Swept {
    let mut search = Search::of(owners);
    let patient_until = Instant::now() + grace;
    let given_up_at = patient_until + limit;
    let mut told = HashSet::new();
    let mut pause = FIRST_LOOK;
    let mut torn_looks = 0;
    let mut left = loop {
        // On another thread: to look into every environment takes even longer than to walk.
        let looked = spawn_blocking(move || {
            let left = search.look();
            (search, left)
        });
        // The runtime ends, and whoever waits for us with it.
        let Ok((searched, left)) = looked.await else { return Swept::default() };
        search = searched;
        let now = Instant::now();
        torn_looks += usize::from(search.is_torn);
        let may_hide = search.is_torn && torn_looks < TORN_LOOKS;
        if (left.is_empty() && !may_hide) || now >= given_up_at {
            break left;
        }
        for pid in left {
            if now >= patient_until {
                let _ = kill(Pid::from_raw(pid), Signal::SIGKILL);
            } else if told.insert(pid) {
                let _ = kill(Pid::from_raw(pid), Signal::SIGTERM);
            }
        }
        sleep(pause).await;
        pause = (pause * 2).min(LAST_LOOK);
    };
    for cgroups in &search.cgroups {
        cgroups.removed().await;
    }
    let mut ended: Vec<i32> =
        search.found.into_iter().map(|(pid, _)| pid).filter(|pid| !left.contains(pid)).collect();
    ended.sort_unstable();
    left.sort_unstable();
    Swept { ended, left }
}

/// See [`super::left_by`].
pub(super) fn left_by(owner: &str) -> Vec<i32> {
    Search::of(&[owner.to_owned()]).look()
}

/// See [`super::kill_all`].
pub(super) fn kill_all() {
    let mut torn_looks = 0;
    for _ in 0..KILL_ROUNDS {
        let Table { processes: table, mut is_torn } = procfs::table();
        let untouchable = ourselves(&table);
        cgroup::kill_living();
        let mut ours: HashSet<i32> = census::living_roots().into_iter().collect();
        // Whoever is in one, whatever leads to it; for systems that cannot kill it whole.
        ours.extend(cgroup::living_members());
        // Orphans, whatever became of their environment.
        let (us, our_session) = (getpid().as_raw(), getsid(None).map_or(0, Pid::as_raw));
        ours.extend(
            table.iter().filter(|one| one.parent == us && one.session != our_session).map(|one| one.pid),
        );
        for one in table.iter().filter(|one| !one.zombie) {
            match procfs::environment(one.pid) {
                Environment::Unknown => is_torn = true,
                Environment::Read(read) if census::is_any_alive(tag::tags_in(&read)) => {
                    ours.insert(one.pid);
                }
                Environment::Read(_) => {}
            }
        }
        procfs::add_descendants(&table, &mut ours);
        let alive = table.iter().filter(|one| !one.zombie && ours.contains(&one.pid));
        let mut alive = alive.filter(|one| !untouchable.contains(&one.pid)).peekable();
        torn_looks += usize::from(is_torn);
        if alive.peek().is_none() && (!is_torn || torn_looks >= TORN_LOOKS) {
            break;
        }
        for one in alive {
            let _ = kill(Pid::from_raw(one.pid), Signal::SIGKILL);
        }
        block();
    }
    for _ in 0..REMOVE_ROUNDS {
        // The dead are in a cgroup until the system has forgotten them.
        if cgroup::remove_living() {
            return;
        }
        block();
    }
}

/// A pause of a thread that does nothing else, in a process that ends after it.
fn block() {
    #[allow(clippy::disallowed_methods, reason = "there may be no runtime that turns any more")]
    std::thread::sleep(FIRST_LOOK);
}

impl Search {
    fn of(owners: &[String]) -> Self {
        let owners: Vec<String> = owners.iter().map(|owner| tag::owner_digest(owner)).collect();
        let cgroups = owners.iter().map(|owner| Leftovers::of(owner)).collect();
        Search {
            owners,
            cgroups,
            strangers: HashSet::new(),
            found: HashSet::new(),
            sessions: HashSet::new(),
            is_torn: false,
        }
    }

    /// Who is left now.
    fn look(&mut self) -> Vec<i32> {
        let Table { processes: table, is_torn } = procfs::table();
        self.is_torn = is_torn;
        let untouchable = ourselves(&table);
        let our_session = getsid(None).map_or(0, Pid::as_raw);
        let in_cgroups: HashSet<i32> = self.cgroups.iter().flat_map(Leftovers::members).collect();
        let mut theirs = HashSet::new();
        for one in table.iter().filter(|one| !one.zombie && !untouchable.contains(&one.pid)) {
            let who = (one.pid, one.start);
            if self.found.contains(&who)
                || self.sessions.contains(&one.session)
                || in_cgroups.contains(&one.pid)
                || self.is_tagged(who)
            {
                theirs.insert(one.pid);
            }
        }
        procfs::add_descendants(&table, &mut theirs);
        let left = table
            .iter()
            .filter(|one| theirs.contains(&one.pid) && !one.zombie && !untouchable.contains(&one.pid));
        self.found.extend(left.clone().map(|one| (one.pid, one.start)));
        // A terminal from which we and they were started is not theirs alone.
        self.sessions.extend(left.clone().map(|one| one.session).filter(|session| *session != our_session));
        left.map(|one| one.pid).collect()
    }

    fn is_tagged(&mut self, who: (i32, u64)) -> bool {
        if self.strangers.contains(&who) {
            return false;
        }
        let Environment::Read(environment) = procfs::environment(who.0) else {
            self.is_torn = true;
            return false;
        };
        let is_theirs = tag::tags_in(&environment)
            .any(|one| self.owners.iter().any(|owner| tag::is_of(one, owner)))
            && !census::is_any_alive(tag::tags_in(&environment));
        // Between fork and exec a child has its parent's environment, and may lose it.
        if !is_theirs {
            self.strangers.insert(who);
        }
        is_theirs
    }
}

/// This process and all above it.
fn ourselves(table: &[Process]) -> HashSet<i32> {
    let mut ours = HashSet::new();
    let mut next = Some(getpid().as_raw());
    while let Some(pid) = next.filter(|pid| *pid > 0 && ours.insert(*pid)) {
        next = table.iter().find(|one| one.pid == pid).map(|one| one.parent);
    }
    ours
}
