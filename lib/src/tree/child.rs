//! What happens between fork and exec, the descriptors that are passed on there, and a look into the pipe to the child.
//!
//! The only `unsafe` code of the process trees is here.
#![allow(unsafe_code, reason = "code between fork and exec, and an ioctl: there is no safe way to either")]

use std::fs::File;
use std::io::{self, Write};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};
use std::sync::Arc;

use nix::errno::Errno;
use nix::fcntl::{FcntlArg, fcntl};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::resource::{Resource, getrlimit, setrlimit};
use nix::sys::signal::{SigHandler, Signal, signal};
use nix::unistd::{Pid, getpid, setsid};
use tokio::process::Command;

/// Descriptors for a child, held by us under numbers above those that they get there.
#[derive(Clone)]
pub(super) struct Inherited(Arc<Vec<(OwnedFd, RawFd)>>);

impl Inherited {
    /// Takes them with their places: numbers from 3 on, each once.
    pub(super) fn new(pass: Vec<(OwnedFd, RawFd)>) -> io::Result<Self> {
        let mut places: Vec<RawFd> = pass.iter().map(|(_, place)| *place).collect();
        places.sort_unstable();
        if places.windows(2).any(|two| two[0] == two[1]) || places.first().is_some_and(|first| *first < 3) {
            let text = format!("descriptors are passed as 3 and more, each once, not as {places:?}");
            return Err(io::Error::new(io::ErrorKind::InvalidInput, text));
        }
        let above = places.last().map_or(3, |last| last.saturating_add(1));
        let moved =
            pass.into_iter().map(|(descriptor, place)| Ok((duplicate(descriptor.as_fd(), above)?, place)));
        Ok(Inherited(Arc::new(moved.collect::<io::Result<_>>()?)))
    }

    /// Occupies the places here until dropped, so that no pipe of the start itself gets such a number, to be
    /// overwritten in the child.
    pub(super) fn occupy_places(&self) -> io::Result<Vec<OwnedFd>> {
        // Where a place is taken already this is a higher number, which does no harm.
        self.0.iter().map(|(descriptor, place)| duplicate(descriptor.as_fd(), *place)).collect()
    }

    fn put_into_places(&self) -> io::Result<()> {
        for (descriptor, place) in &*self.0 {
            // SAFETY: a system call on two numbers; what was at `place` belongs to nobody who runs after the fork.
            Errno::result(unsafe { nix::libc::dup2(descriptor.as_raw_fd(), *place) })?;
        }
        Ok(())
    }
}

/// The same file under the lowest free number from `lowest` on, closed at exec.
fn duplicate(descriptor: BorrowedFd<'_>, lowest: RawFd) -> io::Result<OwnedFd> {
    let number = fcntl(descriptor, FcntlArg::F_DUPFD_CLOEXEC(lowest))?;
    // SAFETY: fcntl has just opened it, so nobody else owns it.
    Ok(unsafe { OwnedFd::from_raw_fd(number) })
}

/// Lets the child begin with a session of its own, our death as its signal, in its cgroup, with its descriptors, limits
/// and mark. Without a limit of open files of its own it gets the one that we were given.
pub(super) fn prepare(
    command: &mut Command,
    entrance: Option<File>,
    inherited: &Inherited,
    open_files: Option<u64>,
    mark: Option<u64>,
) {
    let given = crate::fds::given_limit();
    let (parent, inherited) = (getpid(), inherited.clone());
    let in_child = move || {
        setsid()?;
        // Until exec the handlers are ours: our death would be told to one that swallows it, and the child live on.
        // SAFETY: the default has no code of ours that could do harm.
        unsafe { signal(Signal::SIGTERM, SigHandler::SigDfl) }?;
        end_with(parent)?;
        if let Some(mut entrance) = entrance.as_ref() {
            // Looked at afterwards, by whoever started us: a tree without cgroup is better than none.
            let _ = entrance.write(b"0");
        }
        inherited.put_into_places()?;
        let (_, most) = getrlimit(Resource::RLIMIT_NOFILE)?;
        if let Some(files) = open_files {
            let files = files.min(most);
            setrlimit(Resource::RLIMIT_NOFILE, files, files)?;
        } else if let Some(files) = given {
            setrlimit(Resource::RLIMIT_NOFILE, files, most)?;
        }
        if let Some(mark) = mark {
            put_on(mark)?;
        }
        Ok(())
    };
    // SAFETY: the closure makes system calls alone; it neither allocates, locks nor touches memory of the parent.
    unsafe { command.pre_exec(in_child) };
}

#[cfg(target_os = "linux")]
fn end_with(parent: Pid) -> io::Result<()> {
    // SIGTERM, not SIGKILL: a wrapper such as `uvx` passes it on to what it wraps.
    nix::sys::prctl::set_pdeathsig(nix::sys::signal::Signal::SIGTERM)?;
    // The parent may have died before the line above; nobody would tell us then.
    if nix::unistd::getppid() != parent {
        return Err(Errno::ESRCH.into());
    }
    Ok(())
}

#[cfg(target_os = "linux")]
fn put_on(mark: u64) -> io::Result<()> {
    let (_, most) = getrlimit(Resource::RLIMIT_MSGQUEUE)?;
    Ok(setrlimit(Resource::RLIMIT_MSGQUEUE, mark, most)?)
}

#[cfg(not(target_os = "linux"))]
fn put_on(_mark: u64) -> io::Result<()> {
    Ok(())
}

#[cfg(not(target_os = "linux"))]
fn end_with(_parent: Pid) -> io::Result<()> {
    Ok(())
}

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
