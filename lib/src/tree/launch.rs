//! What a tree is started from.

use std::ffi::OsString;
use std::os::fd::{OwnedFd, RawFd};
use std::path::PathBuf;

use tokio::process::{ChildStderr, ChildStdin, ChildStdout};

use super::Cgroup;

/// How to start the root of a tree; [`Launch::new`] has a default for everything but the command.
#[derive(Debug)]
pub struct Launch {
    /// Program and arguments, no shell.
    pub command: Vec<OsString>,
    /// Environment variables besides ours.
    pub env: Vec<(OsString, OsString)>,
    /// Variables of ours that it does not get, unless they are in `env`.
    pub withhold: Vec<OsString>,
    /// Its working directory; ours if there is none.
    pub directory: Option<PathBuf>,
    /// Where its input comes from.
    pub stdin: Stdin,
    /// Who may remove what is left after our sudden death, see [`super::sweep`]; a path, a name.
    pub owner: Option<String>,
    /// Files that each of its processes may have open (`RLIMIT_NOFILE`); never more than we may.
    pub open_files: Option<u64>,
    /// Descriptors that it inherits, each with the number that it gets there.
    pub pass: Vec<(OwnedFd, RawFd)>,
    /// The cgroup that all of it runs in.
    pub cgroup: Option<Cgroup>,
}

/// Where the input of a root comes from.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub enum Stdin {
    /// It ends at once.
    Null,
    /// From [`Pipes::stdin`].
    #[default]
    Piped,
}

/// The standard streams of a root.
pub struct Pipes {
    /// Closing it asks a server on stdio to end; none with [`Stdin::Null`].
    pub stdin: Option<ChildStdin>,
    /// What the root (or anything below it) prints.
    pub stdout: ChildStdout,
    /// What it complains about.
    pub stderr: ChildStderr,
}

impl Launch {
    /// Runs `command` (argv) with our environment, directory and limits, and a pipe as its input.
    pub fn new(command: Vec<OsString>) -> Self {
        Launch {
            command,
            env: Vec::new(),
            withhold: Vec::new(),
            directory: None,
            stdin: Stdin::default(),
            owner: None,
            open_files: None,
            pass: Vec::new(),
            cgroup: None,
        }
    }
}
