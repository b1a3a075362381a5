//! Descriptors that somebody else opened for us: inherited sockets (`LISTEN_FDS`) and the one of `--ready-fd`.
//! The only module with `unsafe`, because a number in the environment is all the proof there is that a descriptor is ours.
#![allow(unsafe_code, reason = "a descriptor's number becomes an owned descriptor here and nowhere else")]

use std::collections::BTreeSet;
use std::fs::File;
use std::io::{self, Write};
use std::os::fd::{BorrowedFd, FromRawFd, OwnedFd, RawFd};
use std::sync::{Mutex, OnceLock, PoisonError};

use nix::fcntl::{FcntlArg, FdFlag, fcntl};
use nix::sys::resource::{Resource, getrlimit, setrlimit};

/// Descriptors handed out already: each one can be owned once only.
static TAKEN: Mutex<BTreeSet<RawFd>> = Mutex::new(BTreeSet::new());

/// The soft limit of open descriptors before [`raise_limit`].
static GIVEN_LIMIT: OnceLock<u64> = OnceLock::new();

/// Raises the limit of open descriptors as far as we may: a connection needs one or two. What we start should get back
/// what we were given ([`given_limit`]), because some programs walk through all descriptors they might have.
pub fn raise_limit() {
    let Ok((soft, hard)) = getrlimit(Resource::RLIMIT_NOFILE) else { return };
    if soft < hard && setrlimit(Resource::RLIMIT_NOFILE, hard, hard).is_ok() {
        let _ = GIVEN_LIMIT.set(soft);
    }
}

/// The limit of open descriptors that we were started with, if it was raised.
pub fn given_limit() -> Option<u64> {
    GIVEN_LIMIT.get().copied()
}

/// All inherited sockets of this name, each of which is handed out once in the life of the process.
pub fn take_named(name: &str) -> io::Result<Vec<OwnedFd>> {
    let inherited = inherited()?;
    let numbers: Vec<RawFd> = inherited.iter().filter(|(_, n)| n == name).map(|(fd, _)| *fd).collect();
    if numbers.is_empty() {
        let mut names: Vec<String> = inherited.iter().map(|(_, name)| format!("fd:{name}")).collect();
        names.sort();
        names.dedup();
        let found = if names.is_empty() {
            "LISTEN_FDS passes none to this process".to_owned()
        } else {
            format!("inherited are {}", names.join(", "))
        };
        return Err(io::Error::new(io::ErrorKind::NotFound, format!("no such inherited socket; {found}")));
    }
    numbers.into_iter().map(take).collect()
}

/// What was passed to us, read once: asking again would touch descriptors that are closed or reused by then.
fn inherited() -> io::Result<&'static [(RawFd, String)]> {
    type Inherited = Result<Vec<(RawFd, String)>, String>;
    static INHERITED: OnceLock<Inherited> = OnceLock::new();
    INHERITED
        .get_or_init(|| {
            sd_notify::listen_fds_with_names().map(Iterator::collect).map_err(|error| error.to_string())
        })
        .as_deref()
        .map_err(|error| io::Error::new(io::ErrorKind::InvalidInput, error.as_str()))
}

/// Writes one newline to an inherited descriptor and closes it, as s6 and others expect it from a ready service.
pub fn write_line_and_close(fd: RawFd) -> io::Result<()> {
    if fd <= 2 {
        return Err(io::Error::new(io::ErrorKind::InvalidInput, "0, 1 and 2 are the standard streams"));
    }
    File::from(take(fd)?).write_all(b"\n")
}

/// Owns a descriptor that is open, was inherited and was not handed out before.
fn take(fd: RawFd) -> io::Result<OwnedFd> {
    let mut taken = TAKEN.lock().unwrap_or_else(PoisonError::into_inner);
    if taken.contains(&fd) {
        return Err(io::Error::new(
            io::ErrorKind::ResourceBusy,
            format!("descriptor {fd} is in use already"),
        ));
    }
    if fd < 0 {
        return Err(io::Error::new(io::ErrorKind::InvalidInput, "a descriptor is not negative"));
    }
    // SAFETY: borrowed only for this call, which fails with EBADF if nothing is open under the number.
    fcntl(unsafe { BorrowedFd::borrow_raw(fd) }, FcntlArg::F_SETFD(FdFlag::FD_CLOEXEC))?;
    taken.insert(fd);
    // SAFETY: open (just asked), passed to us by number through the environment or a flag, and owned by nobody else
    // in this process, because `TAKEN` gives out each number once.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_descriptor_that_is_not_open_is_an_error_and_standard_streams_are_refused() {
        assert_eq!(write_line_and_close(9_999).unwrap_err().raw_os_error(), Some(nix::libc::EBADF));
        assert_eq!(write_line_and_close(1).unwrap_err().kind(), io::ErrorKind::InvalidInput);
        assert_eq!(take(-1).unwrap_err().kind(), io::ErrorKind::InvalidInput);
    }

    #[test]
    fn an_absent_name_says_that_nothing_was_passed() {
        let error = take_named("web").unwrap_err().to_string();
        assert_eq!(error, "no such inherited socket; LISTEN_FDS passes none to this process");
    }
}
