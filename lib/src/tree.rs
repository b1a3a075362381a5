//! Owns a process tree: what was started, everything below it, and what was orphaned on the way, gone when we say so.
//!
//! The root gets a session of its own, a tag in its environment and a mark among its limits, all inherited, and a cgroup
//! where the caller could make one; orphans come to us, because this process is their subreaper. Who belongs to a tree is
//! in `census`, how a root is started in `spawn`, what a dead process left in `sweep`.

#[cfg(target_os = "linux")]
mod census;
#[cfg(not(target_os = "linux"))]
#[path = "tree/group.rs"]
mod census;
mod cgroup;
mod child;
mod launch;
mod mark;
#[cfg(target_os = "linux")]
mod procfs;
#[cfg(target_os = "linux")]
mod sockets;
mod spawn;
#[cfg(target_os = "linux")]
mod sweep;
mod tag;

use std::fmt;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::process::ExitStatus;
use std::sync::{Arc, LazyLock, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use tokio::process::{Child, ChildStdin};
use tokio::task::spawn_blocking;
use tokio::time::{Instant, sleep_until, timeout, timeout_at};

use crate::secret::random_id;
use census::Census;
pub use cgroup::Cgroup;
pub use launch::{Launch, Pipes, Stdin};

/// How long SIGKILL may take; only a process in an uninterruptible system call, or one of another user, needs longer.
const KILL_LIMIT: Duration = Duration::from_secs(10);
/// First pause between two looks at the process table.
const FIRST_LOOK: Duration = Duration::from_millis(2);
/// Longest pause between two looks at the process table.
const LAST_LOOK: Duration = Duration::from_millis(50);
/// Longest pause where a look itself takes long.
const LONGEST_REST: Duration = Duration::from_millis(200);

/// A running process and everything it started; dropped without [`Tree::stop`] it is killed as well as one can at once.
pub struct Tree {
    root: Child,
    pid: u32,
    census: Arc<Mutex<Census>>,
    cgroup: Option<Arc<Cgroup>>,
    #[cfg(target_os = "linux")]
    listeners: sockets::Seen,
    gone: bool,
}

/// A second hold on the way into a root, which tells after its death what it never read. While it is held, the root
/// does not see the end of its input.
pub struct Input(OwnedFd);

/// How a tree ended.
#[derive(Debug)]
pub struct Ended {
    /// How the root exited; `None` if it is among `left`.
    pub status: Option<ExitStatus>,
    /// Processes that outlived SIGKILL by ten seconds; empty but for broken hardware and foreign users.
    pub left: Vec<i32>,
}

/// What came of a [`sweep`]; both in ascending order.
#[derive(Debug, Default, Eq, PartialEq)]
pub struct Swept {
    /// Processes that were found and are gone.
    pub ended: Vec<i32>,
    /// Processes that outlived SIGKILL by ten seconds; empty but for broken hardware and foreign users.
    pub left: Vec<i32>,
}

/// What a tree uses.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub struct Usage {
    /// Bytes: of the cgroup where it counts them, else resident memory, shared pages once for each process; 0 where
    /// the system does not tell.
    pub memory: u64,
    /// Processes that are alive.
    pub processes: usize,
}

/// Who takes connections to a port of this machine.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Holder {
    /// Somebody else, who holds a socket there alone or with members; the process where it can be seen.
    Foreign(Option<i32>),
    /// Nobody listens.
    Nobody,
    /// Members of the tree alone.
    Ours,
    /// Somebody listens, and the system does not tell who.
    Unknown,
}

/// What holds a tree together here, the strongest there is.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Mechanism {
    /// A cgroup for each tree, and all of [`Mechanism::Subreaper`].
    Cgroup,
    /// The process group of the root alone: no /proc, or one that is not of our pid namespace.
    Group,
    /// Orphans come to us, and a walk of /proc finds members.
    Subreaper,
}

/// The strongest mechanism that works here; tried out when first asked.
pub fn mechanism() -> Mechanism {
    static TRIED: LazyLock<Mechanism> = LazyLock::new(|| {
        if Cgroup::create(&random_id(), "trial").is_some() {
            Mechanism::Cgroup
        } else if census::can_find_orphans() {
            Mechanism::Subreaper
        } else {
            Mechanism::Group
        }
    });
    *TRIED
}

/// Ends what a dead process left of its trees with these [`Launch::owner`]s, and all below: SIGTERM, `grace`, SIGKILL.
/// The answer is who was found; nobody where the system does not show environments. A process that cleared its environment
/// is found by its parents, its session or its cgroup alone.
///
/// The caller holds locks which prove that the owners are dead. Spared are this process, all above it, and its living
/// trees, whoever their owner is.
pub async fn sweep(owners: &[String], grace: Duration) -> Swept {
    #[cfg(target_os = "linux")]
    return sweep::sweep(owners, grace, KILL_LIMIT).await;
    #[cfg(not(target_os = "linux"))]
    {
        let _ = (owners, grace);
        Swept::default()
    }
}

/// Whom [`sweep`] would find now, under the same condition.
pub fn left_by(owner: &str) -> Vec<i32> {
    #[cfg(target_os = "linux")]
    return sweep::left_by(owner);
    #[cfg(not(target_os = "linux"))]
    {
        let _ = owner;
        Vec::new()
    }
}

/// Kills all living trees of this process, for one that must exit now; blocks for some milliseconds, half a second at
/// most. Where there is no /proc, what took a session of its own escapes.
pub(crate) fn kill_all() {
    #[cfg(target_os = "linux")]
    sweep::kill_all();
    #[cfg(not(target_os = "linux"))]
    for root in census::living_roots() {
        let _ = nix::sys::signal::killpg(Pid::from_raw(root), Signal::SIGKILL);
    }
}

/// Reaps orphans that came to this process and have ended. Looking at a tree does this too; needed where no tree is
/// looked at for long, most of all by the first process of a container, on SIGCHLD.
pub fn reap_orphans() {
    census::reap_orphans();
}

impl Input {
    /// Holds the pipe that `stdin` writes to.
    pub fn of(stdin: &ChildStdin) -> io::Result<Self> {
        Ok(Input(stdin.as_fd().try_clone_to_owned()?))
    }

    /// How many of the last bytes written can never be read by anybody; 0 while anybody could, or where the system
    /// does not tell.
    pub fn never_read(&self) -> u64 {
        if !cfg!(target_os = "linux") {
            return 0;
        }
        child::never_read(self.0.as_fd()).map_or(0, |bytes| bytes as u64)
    }
}

impl Tree {
    /// Starts a command; must be called inside a runtime with I/O and time.
    pub async fn spawn(launch: Launch) -> io::Result<(Tree, Pipes)> {
        spawn::spawn(launch).await
    }

    fn new(root: Child, census: Census, cgroup: Option<Cgroup>) -> Self {
        Tree {
            pid: root.id().unwrap_or_default(),
            root,
            census: Arc::new(Mutex::new(census)),
            cgroup: cgroup.map(Arc::new),
            #[cfg(target_os = "linux")]
            listeners: sockets::Seen::default(),
            gone: false,
        }
    }

    /// The root's process id.
    pub fn pid(&self) -> u32 {
        self.pid
    }

    /// Waits until the root exits by itself; what it started may live on. Cancel safe.
    pub async fn exited(&mut self) -> io::Result<ExitStatus> {
        self.root.wait().await
    }

    /// The processes of the tree that are alive now. A walk of the process table, which holds up this thread: about a
    /// millisecond for each hundred processes of the machine.
    pub fn members(&mut self) -> Vec<i32> {
        members(&self.census, self.cgroup.as_deref())
    }

    /// Sends `signal` to the root, unless it has exited.
    pub fn signal_root(&self, signal: Signal) {
        // Without an id it was waited for, and its number may be somebody else's.
        if let Some(pid) = self.root.id() {
            let _ = kill(Pid::from_raw(pid as i32), signal);
        }
    }

    /// What the tree uses now; holds up this thread like [`Tree::members`].
    pub fn usage(&mut self) -> Usage {
        let certain = self.cgroup.as_deref().map_or_else(Vec::new, Cgroup::members);
        let mut usage = lock(&self.census).usage(certain);
        if let Some(memory) = self.cgroup.as_deref().and_then(Cgroup::memory) {
            usage.memory = memory;
        }
        usage
    }

    /// Who takes connections to 127.0.0.1 at `port`, in the network of the root. Holds up this thread for ten
    /// milliseconds and as long as [`Tree::members`], but once it was [`Holder::Ours`] for as good as nothing.
    pub fn listener_on(&mut self, port: u16) -> Holder {
        #[cfg(target_os = "linux")]
        {
            let (census, cgroup) = (&self.census, self.cgroup.as_deref());
            self.listeners.holder(self.pid as i32, port, || members(census, cgroup))
        }
        #[cfg(not(target_os = "linux"))]
        {
            let _ = port;
            Holder::Unknown
        }
    }

    /// Ends the tree: waits for the root to exit on the end of its input (which the caller has closed), then SIGTERM,
    /// then SIGKILL; `grace` is the longest wait before each of the two. Returns when the tree is verified empty.
    pub async fn stop(&mut self, grace: Duration) -> Ended {
        // Before anything ends: a child that left session and parent behind is known from the time it still had them.
        self.look().await;
        let _ = timeout(grace, self.root.wait()).await;
        let mut left = self.end(Signal::SIGTERM, grace).await;
        if !left.is_empty() {
            left = self.end(Signal::SIGKILL, KILL_LIMIT).await;
        }
        Ended { status: self.root.try_wait().ok().flatten(), left }
    }

    /// Sends `signal` to the whole tree, SIGKILL again and again, and waits up to `limit` for the tree to be empty; who
    /// is left is the answer. Cancel safe.
    pub async fn end(&mut self, signal: Signal, limit: Duration) -> Vec<i32> {
        let deadline = Instant::now() + limit;
        let mut pause = FIRST_LOOK;
        let mut told: Vec<i32> = Vec::new();
        let mut root_lives = true;
        loop {
            // Reaps the root, so that its zombie does not count; tokio's own exit status stays tokio's.
            let _ = self.root.try_wait();
            let began = Instant::now();
            let members = self.look().await;
            // Where a look takes long, no more than every fifth moment goes into it.
            let rest = (4 * began.elapsed()).min(LONGEST_REST);
            if members.is_empty() {
                if let Some(cgroup) = &self.cgroup {
                    cgroup.remove().await;
                }
                self.close();
                return members;
            }
            if !told.is_empty() && Instant::now() >= deadline {
                return members;
            }
            // SIGKILL at every look, for those that were forked in between; anything else once.
            if told.is_empty() || signal == Signal::SIGKILL {
                self.signal(&members, signal);
                // Against a tree that forks on, haste is all there is.
                if members.iter().any(|member| !told.contains(member)) {
                    pause = FIRST_LOOK;
                }
                told = members;
            }
            let rest = if signal == Signal::SIGKILL { pause } else { pause.max(rest) };
            let next = (Instant::now() + rest).min(deadline);
            if root_lives {
                // Its end is news, most often of the end of all.
                root_lives = timeout_at(next, self.root.wait()).await.is_err();
            } else {
                sleep_until(next).await;
            }
            pause = (pause * 2).min(LAST_LOOK);
        }
    }

    /// [`Tree::members`] on another thread, for those who look again and again.
    async fn look(&self) -> Vec<i32> {
        let (census, cgroup) = (Arc::clone(&self.census), self.cgroup.clone());
        let looked = spawn_blocking(move || members(&census, cgroup.as_deref())).await;
        // The runtime ends, and nobody else is held up.
        looked.unwrap_or_else(|_| members(&self.census, self.cgroup.as_deref()))
    }

    fn signal(&self, members: &[i32], signal: Signal) {
        if signal == Signal::SIGKILL
            && let Some(cgroup) = &self.cgroup
        {
            cgroup.kill();
        }
        lock(&self.census).signal(members, signal);
    }

    /// Forgets the tree, once it is empty.
    fn close(&mut self) {
        lock(&self.census).close();
        self.cgroup = None;
        self.gone = true;
    }
}

impl Drop for Tree {
    fn drop(&mut self) {
        if self.gone {
            return;
        }
        // Twice: for what the first round's victims had just forked.
        for _ in 0..2 {
            let members = self.members();
            self.signal(&members, Signal::SIGKILL);
        }
        lock(&self.census).close();
    }
}

fn members(census: &Mutex<Census>, cgroup: Option<&Cgroup>) -> Vec<i32> {
    let certain = cgroup.map_or_else(Vec::new, Cgroup::members);
    lock(census).members(certain)
}

fn lock(census: &Mutex<Census>) -> MutexGuard<'_, Census> {
    census.lock().unwrap_or_else(PoisonError::into_inner)
}

/// `cgroup`, `subreaper` or `process group`.
impl fmt::Display for Mechanism {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str(match self {
            Mechanism::Cgroup => "cgroup",
            Mechanism::Group => "process group",
            Mechanism::Subreaper => "subreaper",
        })
    }
}

// They look into /proc to see what really happened.
#[cfg(test)]
#[cfg(target_os = "linux")]
mod tests;
