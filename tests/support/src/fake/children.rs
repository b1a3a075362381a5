//! The fake backend's children: real processes that are hard to find and hard to end.
//!
//! Each is this binary again, as `fake-backend --sleep-as-child FLAGS`, and needs neither a runtime nor its arguments parsed.

use std::{
    ffi::OsString,
    io,
    os::unix::process::CommandExt as _,
    path::{Path, PathBuf},
    process::{Command, Stdio},
    thread::sleep,
    time::Duration,
};

use nix::{
    sys::signal::{SigSet, SigmaskHow, Signal, pthread_sigmask},
    unistd::setsid,
};
use serde_json::json;

use super::journal::Writer;

/// The argument that makes this process a child.
pub(crate) const CHILD: &str = "--sleep-as-child";
/// Longer than any story: whoever is forgotten ends by himself.
pub(crate) const LIFE: Duration = Duration::from_secs(600);
/// How long one process of a storm lives: 200 of them start 800 processes a second, which two cores can bear.
const HOP: Duration = Duration::from_millis(250);
/// How often a storm goes on when nobody ends it.
const HOPS: u32 = 240;

/// How many children, and what they do to stay.
#[derive(Clone, Debug, Default)]
pub struct Children {
    /// How many.
    pub count: usize,
    /// The process that started each is gone at once, so that its parent is init or a subreaper.
    pub double_fork: bool,
    /// Each has a session, and so a process group, of its own.
    pub setsid: bool,
    /// Each survives SIGTERM, SIGINT and SIGHUP.
    pub ignore_term: bool,
    /// Each has an empty environment.
    pub clear_environment: bool,
    /// Each keeps the root's stdout and stderr open.
    pub on_pipe: bool,
    /// None stays: each starts its own successor and ends, so many times.
    pub storm: Option<u32>,
}

impl Children {
    /// What [`Children::storm`] is when it is on.
    pub const STORM: u32 = HOPS;

    /// Starts them; those that do not fork twice stay this process's own children.
    pub(crate) fn start(&self, log: &Path) -> io::Result<()> {
        for _ in 0..self.count {
            let child = self.command(log, self.double_fork)?.spawn()?;
            if self.double_fork {
                let mut child = child;
                child.wait()?;
            }
        }
        Ok(())
    }

    fn command(&self, log: &Path, fork_again: bool) -> io::Result<Command> {
        let mut command = Command::new(std::env::current_exe()?);
        command.arg0("fake-backend").arg(CHILD).arg(log);
        let flags = [
            (fork_again, "fork"),
            (self.setsid, "setsid"),
            (self.ignore_term, "ignore-term"),
            (self.clear_environment, "clear"),
            (self.on_pipe, "on-pipe"),
        ];
        command.args(flags.iter().filter(|(on, _)| *on).map(|(_, flag)| flag));
        if let Some(hops) = self.storm {
            command.arg(format!("storm={hops}"));
        }
        if self.clear_environment {
            command.env_clear();
        }
        command.stdin(Stdio::null());
        if !self.on_pipe {
            command.stdout(Stdio::null()).stderr(Stdio::null());
        }
        Ok(command)
    }
}

/// Becomes a child; `arguments` are those after the word that asks for one.
pub fn be_child(arguments: &[OsString]) -> io::Result<()> {
    let has = |flag: &str| arguments.iter().skip(1).any(|argument| argument == flag);
    let log = PathBuf::from(arguments.first().ok_or(io::ErrorKind::InvalidInput)?);
    let children = Children {
        count: 1,
        double_fork: false,
        setsid: has("setsid"),
        ignore_term: has("ignore-term"),
        clear_environment: has("clear"),
        on_pipe: has("on-pipe"),
        storm: arguments.iter().find_map(|word| word.to_str()?.strip_prefix("storm=")?.parse().ok()),
    };
    if has("fork") {
        // The child of a child: nobody who knew its parent knows it.
        return children.command(&log, false)?.spawn().map(drop);
    }
    if children.setsid {
        setsid()?;
    }
    if children.ignore_term {
        let signals = [Signal::SIGTERM, Signal::SIGINT, Signal::SIGHUP];
        pthread_sigmask(SigmaskHow::SIG_BLOCK, Some(&signals.into_iter().collect::<SigSet>()), None)?;
    }
    if let Some(hops) = children.storm {
        sleep(HOP);
        let Some(left) = hops.checked_sub(1) else { return Ok(()) };
        return Children { storm: Some(left), ..children }.command(&log, false)?.spawn().map(drop);
    }
    Writer::open(&log)?.write("child", json!({}));
    sleep(LIFE);
    Ok(())
}
