//! Starts the root of a tree, from a thread that lives as long as the process; and looks into the pipe to it.
//!
//! `PR_SET_PDEATHSIG` fires when the *thread* that forked ends, so a root that a worker thread starts dies with that
//! thread. The only `unsafe` code of the process trees is here.
#![allow(unsafe_code, reason = "code between fork and exec, and an ioctl: there is no safe way to either")]

use std::ffi::OsString;
use std::io;
use std::os::fd::{AsRawFd, BorrowedFd};
use std::process::Stdio;
use std::sync::mpsc::{Sender, channel};
use std::sync::{Mutex, PoisonError};

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::unistd::{Pid, getpid, setsid};
use tokio::process::Command;
use tokio::runtime::Handle;
use tokio::sync::oneshot;

use super::census::{self, Census, TAG};
use super::{Pipes, Tree};

/// Meant for this process by its service manager; a child that used them would speak in our name.
const OURS: [&str; 6] =
    ["LISTEN_FDNAMES", "LISTEN_FDS", "LISTEN_PID", "NOTIFY_SOCKET", "WATCHDOG_PID", "WATCHDOG_USEC"];

/// How many bytes of what was written to a pipe nobody has read and nobody ever will; `None` while there are readers.
pub(super) fn never_read(input: BorrowedFd<'_>) -> Option<usize> {
    // The system reports an error on the writing end when the last reader is gone, and then alone keeps the bytes.
    let mut polled = [PollFd::new(input, PollFlags::empty())];
    poll(&mut polled, PollTimeout::ZERO).ok()?;
    if !polled[0].revents()?.contains(PollFlags::POLLERR) {
        return None;
    }
    let mut bytes = 0;
    // SAFETY: FIONREAD writes one int, to which the pointer is valid, and the descriptor is open while borrowed.
    unsafe { bytes_in_pipe(input.as_raw_fd(), &mut bytes) }.ok()?;
    usize::try_from(bytes).ok()
}

nix::ioctl_read_bad!(bytes_in_pipe, nix::libc::FIONREAD, nix::libc::c_int);

struct Job {
    command: Command,
    tag: String,
    runtime: Handle,
    reply: oneshot::Sender<io::Result<(Tree, Pipes)>>,
}

/// Starts `command` with its own session, tag, pipes and parent-death signal.
pub(super) async fn spawn(command: &[OsString]) -> io::Result<(Tree, Pipes)> {
    let (program, arguments) = command
        .split_first()
        .ok_or_else(|| io::Error::new(io::ErrorKind::InvalidInput, "an empty command"))?;
    let tag = mcp_daemon::secret::random_id();
    let mut command = Command::new(program);
    command.args(arguments).env(TAG, &tag).kill_on_drop(true);
    command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    for name in OURS {
        command.env_remove(name);
    }
    let parent = getpid();
    // SAFETY: the closure makes system calls alone; it neither allocates, locks nor touches memory of the parent.
    unsafe { command.pre_exec(move || in_child(parent)) };
    let (reply, answer) = oneshot::channel();
    spawner()?
        .send(Job { command, tag, runtime: Handle::current(), reply })
        .map_err(|_| io::Error::other("the thread that starts processes has ended"))?;
    answer.await.map_err(|_| io::Error::other("the thread that starts processes has panicked"))?
}

/// Runs between fork and exec.
fn in_child(parent: Pid) -> io::Result<()> {
    setsid()?;
    #[cfg(target_os = "linux")]
    {
        // SIGTERM, not SIGKILL: a wrapper such as `uvx` passes it on to what it wraps.
        nix::sys::prctl::set_pdeathsig(nix::sys::signal::Signal::SIGTERM)?;
        // The parent may have died before the line above; nobody would tell us then.
        if nix::unistd::getppid() != parent {
            return Err(nix::errno::Errno::ESRCH.into());
        }
    }
    #[cfg(not(target_os = "linux"))]
    let _ = parent;
    Ok(())
}

/// The thread, started on first use.
fn spawner() -> io::Result<Sender<Job>> {
    static SPAWNER: Mutex<Option<Sender<Job>>> = Mutex::new(None);
    let mut spawner = SPAWNER.lock().unwrap_or_else(PoisonError::into_inner);
    if let Some(sender) = &*spawner {
        return Ok(sender.clone());
    }
    census::adopt_orphans()?;
    let (sender, jobs) = channel::<Job>();
    std::thread::Builder::new().name("spawner".into()).spawn(move || {
        // Never ends: the static above keeps a sender.
        for job in jobs {
            let tree = start(job.command, job.tag, &job.runtime);
            // Nobody waits any more: the tree is dropped, which kills it.
            let _ = job.reply.send(tree);
        }
    })?;
    *spawner = Some(sender.clone());
    Ok(sender)
}

fn start(mut command: Command, tag: String, runtime: &Handle) -> io::Result<(Tree, Pipes)> {
    let _inside = runtime.enter();
    let (mut root, census) = Census::open(tag, || command.spawn())?;
    let pipes = match (root.stdin.take(), root.stdout.take(), root.stderr.take()) {
        (Some(stdin), Some(stdout), Some(stderr)) => Pipes { stdin, stdout, stderr },
        _ => return Err(io::Error::other("a pipe to the child is missing")),
    };
    let pid = root.id().unwrap_or_default();
    Ok((Tree { root, pid, census, gone: false }, pipes))
}
