//! Owns a process tree: what was started, everything below it, and what was orphaned on the way, gone when we say so.
//!
//! The root gets a session of its own and a tag in its environment, both inherited; orphans come to us, because this
//! process is their subreaper. Who belongs to a tree is in `census`, how a root is started in `spawn`. Limit: a process
//! that forked twice, took a new session *and* cleared its environment is found only while no other tree lives.

#[cfg(target_os = "linux")]
mod census;
#[cfg(not(target_os = "linux"))]
#[path = "tree/group.rs"]
mod census;
mod spawn;

use std::ffi::OsString;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::process::ExitStatus;
use std::time::Duration;

use nix::sys::signal::Signal;
use tokio::process::{Child, ChildStderr, ChildStdin, ChildStdout};
use tokio::time::{Instant, sleep, timeout};

use census::Census;

/// How long SIGKILL may take; only a process in an uninterruptible system call, or one of another user, needs longer.
const KILL_LIMIT: Duration = Duration::from_secs(10);
/// First pause between two looks at the process table.
const FIRST_LOOK: Duration = Duration::from_millis(2);
/// Longest pause between two looks at the process table.
const LAST_LOOK: Duration = Duration::from_millis(50);

/// A running process and everything it started; dropped without [`Tree::stop`] it is killed as well as one can at once.
pub struct Tree {
    root: Child,
    pid: u32,
    census: Census,
    gone: bool,
}

/// The three standard streams of a root, each a pipe.
pub struct Pipes {
    /// Closing it asks a server on stdio to end.
    pub stdin: ChildStdin,
    /// What the root (or anything below it) prints.
    pub stdout: ChildStdout,
    /// What it complains about.
    pub stderr: ChildStderr,
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
        spawn::never_read(self.0.as_fd()).map_or(0, |bytes| bytes as u64)
    }
}

impl Tree {
    /// Starts `command` (argv, no shell); must be called inside a runtime with I/O and time.
    pub async fn spawn(command: &[OsString]) -> io::Result<(Tree, Pipes)> {
        spawn::spawn(command).await
    }

    /// The root's process id.
    pub fn pid(&self) -> u32 {
        self.pid
    }

    /// Waits until the root exits by itself; what it started may live on. Cancel safe.
    pub async fn exited(&mut self) -> io::Result<ExitStatus> {
        self.root.wait().await
    }

    /// Ends the tree: waits for the root to exit on the end of its input (which the caller has closed), then SIGTERM,
    /// then SIGKILL; `grace` is the longest wait before each of the two. Returns when the tree is verified empty.
    pub async fn stop(&mut self, grace: Duration) -> Ended {
        // Before anything ends: a child that left session and parent behind is known from the time it still had them.
        self.census.members();
        let _ = timeout(grace, self.root.wait()).await;
        let mut left = self.end(Signal::SIGTERM, grace).await;
        if !left.is_empty() {
            left = self.end(Signal::SIGKILL, KILL_LIMIT).await;
        }
        if left.is_empty() {
            self.census.close();
            self.gone = true;
        }
        Ended { status: self.root.try_wait().ok().flatten(), left }
    }

    /// Sends `signal` to all members and waits up to `limit` for the tree to be empty; who is left is the answer.
    async fn end(&mut self, signal: Signal, limit: Duration) -> Vec<i32> {
        let deadline = Instant::now() + limit;
        let mut pause = FIRST_LOOK;
        let mut told = false;
        loop {
            // Reaps the root, so that its zombie does not count; tokio's own exit status stays tokio's.
            let _ = self.root.try_wait();
            let members = self.census.members();
            if members.is_empty() || (told && Instant::now() >= deadline) {
                return members;
            }
            // SIGTERM once; SIGKILL at every look, for those that were forked in between.
            if !told || signal == Signal::SIGKILL {
                self.census.signal(&members, signal);
                told = true;
            }
            sleep(pause).await;
            pause = (pause * 2).min(LAST_LOOK);
        }
    }
}

impl Drop for Tree {
    fn drop(&mut self) {
        if self.gone {
            return;
        }
        // Twice: for what the first round's victims had just forked.
        for _ in 0..2 {
            let members = self.census.members();
            self.census.signal(&members, Signal::SIGKILL);
        }
        self.census.close();
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader, Lines};

    use super::*;

    async fn start(script: &str) -> (Tree, ChildStdin, Lines<BufReader<ChildStdout>>) {
        let command: Vec<OsString> = ["sh", "-c", script].map(OsString::from).into();
        let (tree, pipes) = Tree::spawn(&command).await.unwrap();
        (tree, pipes.stdin, BufReader::new(pipes.stdout).lines())
    }

    async fn pid(lines: &mut Lines<BufReader<ChildStdout>>) -> i32 {
        lines.next_line().await.unwrap().unwrap().parse().unwrap()
    }

    fn is_alive(pid: i32) -> bool {
        let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
        !stat.is_empty() && !stat.contains(") Z ")
    }

    #[tokio::test]
    async fn the_end_of_input_is_enough_for_a_polite_root() {
        let (mut tree, stdin, mut lines) = start("echo $$; cat; exit 3").await;
        assert_eq!(pid(&mut lines).await as u32, tree.pid());
        drop(stdin);
        let ended = tree.stop(Duration::from_secs(20)).await;
        assert_eq!((ended.status.unwrap().code(), ended.left), (Some(3), vec![]));
    }

    #[tokio::test]
    async fn a_grandchild_in_its_own_session_that_ignores_sigterm_is_gone_after_stop() {
        let (mut tree, stdin, mut lines) =
            start("setsid sh -c 'trap \"\" TERM; echo $$; while :; do sleep 1; done' & wait").await;
        let grandchild = pid(&mut lines).await;
        assert!(is_alive(grandchild));
        drop(stdin);
        let ended = tree.stop(Duration::from_millis(50)).await;
        assert!(ended.left.is_empty() && !is_alive(grandchild), "{ended:?}");
    }

    #[tokio::test]
    async fn an_orphan_that_forked_twice_is_found_after_its_root_died() {
        let (mut tree, _stdin, mut lines) =
            start("(setsid sh -c 'trap \"\" TERM; echo $$; while :; do sleep 1; done' >&1 &) ; exit 0").await;
        let orphan = pid(&mut lines).await;
        assert!(tree.exited().await.unwrap().success());
        assert!(is_alive(orphan));
        let ended = tree.stop(Duration::from_millis(50)).await;
        assert!(ended.status.unwrap().success() && !is_alive(orphan), "{ended:?}");
    }

    #[tokio::test]
    async fn an_orphan_without_tag_is_found_by_what_it_was_before() {
        let (mut tree, _stdin, mut lines) =
            start("env -i setsid sh -c 'trap \"\" TERM; echo $$; while :; do sleep 1; done' & wait").await;
        let (mut other, _stdin_too, _lines) = start("cat").await;
        let stripped = pid(&mut lines).await;
        let ended = tree.stop(Duration::from_millis(20)).await;
        assert!(ended.left.is_empty() && !is_alive(stripped), "{ended:?}");
        assert!(is_alive(other.pid() as i32), "a neighbour is not touched");
        other.stop(Duration::ZERO).await;
    }

    #[tokio::test]
    async fn a_dropped_tree_is_killed() {
        let (tree, _stdin, mut lines) = start("sh -c 'echo $$; exec sleep 1000' & wait").await;
        let child = pid(&mut lines).await;
        drop(tree);
        // The pipe ends when its last writer is dying, which is a moment before it is dead.
        assert_eq!(lines.next_line().await.unwrap(), None);
        while is_alive(child) {
            tokio::task::yield_now().await;
        }
    }

    #[tokio::test]
    async fn a_stopped_process_cannot_hide() {
        let (mut tree, _stdin, mut lines) = start("echo $$; kill -STOP $$").await;
        let root = pid(&mut lines).await;
        let ended = tree.stop(Duration::from_millis(20)).await;
        assert!(ended.left.is_empty() && ended.status.is_some() && !is_alive(root), "{ended:?}");
    }

    #[tokio::test]
    async fn adopted_zombies_are_reaped_and_exit_statuses_are_not_stolen() {
        for round in 0..20 {
            let (mut one, _in1, mut lines) = start("(sh -c 'echo $$' &) ; read never").await;
            let (mut two, _in2, _lines2) = start(&format!("exit {round}")).await;
            let zombie = pid(&mut lines).await;
            one.stop(Duration::ZERO).await;
            assert!(!std::path::Path::new(&format!("/proc/{zombie}")).exists(), "round {round}");
            assert_eq!(two.exited().await.unwrap().code(), Some(round));
            two.stop(Duration::ZERO).await;
        }
    }

    #[tokio::test]
    async fn what_a_dead_root_never_read_is_known_and_what_others_may_read_is_not() {
        for (script, expected) in
            [("read line; echo $$; exec sleep 1000", 6), ("read line; echo $$; sleep 1000", 0)]
        {
            let (mut tree, mut stdin, mut lines) = start(script).await;
            let input = Input::of(&stdin).unwrap();
            stdin.write_all(b"first\nsecond").await.unwrap();
            pid(&mut lines).await;
            assert_eq!(input.never_read(), 0, "it lives, it may read on");
            if expected == 0 {
                // The second reader exists once the shell has a child.
                let children = format!("/proc/{0}/task/{0}/children", tree.pid());
                while std::fs::read_to_string(&children).unwrap().is_empty() {
                    tokio::task::yield_now().await;
                }
            }
            nix::sys::signal::kill(nix::unistd::Pid::from_raw(tree.pid() as i32), Signal::SIGKILL).unwrap();
            tree.exited().await.unwrap();
            assert_eq!(input.never_read(), expected, "{script}");
            drop((input, stdin));
            tree.stop(Duration::ZERO).await;
        }
    }

    #[tokio::test]
    async fn a_missing_command_says_so() {
        let error = Tree::spawn(&["/nonexistent/command".into()]).await.err().unwrap();
        assert_eq!(error.kind(), io::ErrorKind::NotFound);
    }
}
