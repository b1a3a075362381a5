//! How a daemon ends: an exit code per cause (sysexits.h), and an error as one line with its causes.

use std::error::Error;
use std::io;
use std::process::ExitCode;

/// Why a process ends other than well, as the number that tells a supervisor whether to retry.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
#[repr(u8)]
pub enum Exit {
    /// The command line is wrong (`EX_USAGE`).
    Usage = 64,
    /// Something we depend on is not there (`EX_UNAVAILABLE`).
    Unavailable = 69,
    /// Our own bug (`EX_SOFTWARE`).
    Bug = 70,
    /// It may work later, unchanged (`EX_TEMPFAIL`).
    TryAgain = 75,
    /// The configuration is wrong (`EX_CONFIG`).
    Config = 78,
}

impl Exit {
    /// What to tell a supervisor where the system failed so at a file: room can be made; a place that may not be written, or
    /// is not there, is a mistake in the settings.
    pub fn of_system(cause: &io::Error) -> Exit {
        match cause.kind() {
            io::ErrorKind::NotFound
            | io::ErrorKind::PermissionDenied
            | io::ErrorKind::ReadOnlyFilesystem
            | io::ErrorKind::NotADirectory
            | io::ErrorKind::InvalidData => Exit::Config,
            _ => Exit::TryAgain,
        }
    }
}

impl From<Exit> for ExitCode {
    fn from(exit: Exit) -> Self {
        ExitCode::from(exit as u8)
    }
}

/// Why a command did not do what it should: one line for a person, and what to tell a supervisor.
#[derive(Clone, Debug)]
pub struct Failure {
    /// The line.
    pub line: String,
    /// The exit code.
    pub exit: Exit,
}

impl Failure {
    /// An error with its causes.
    pub fn new(exit: Exit, error: &dyn Error) -> Self {
        Self { line: chain(error), exit }
    }

    /// The command line is wrong.
    pub fn usage(line: impl Into<String>) -> Self {
        Self { line: line.into(), exit: Exit::Usage }
    }

    /// The configuration is wrong.
    pub fn config(line: impl Into<String>) -> Self {
        Self { line: line.into(), exit: Exit::Config }
    }

    /// Something we depend on is not there.
    pub fn unavailable(error: &dyn Error) -> Self {
        Self::new(Exit::Unavailable, error)
    }

    /// Says the line on stderr in the name of `daemon`.
    pub fn report(self, daemon: &str) -> ExitCode {
        eprintln!("{daemon}: {}", self.line);
        self.exit.into()
    }
}

/// An error and its causes as one line, `a: b: c`; a cause whose text was just said is not said again.
pub fn chain(error: &dyn Error) -> String {
    let mut line = one_line(&error.to_string());
    let mut cause = error.source();
    while let Some(error) = cause {
        let text = one_line(&error.to_string());
        if !text.is_empty() && !line.ends_with(&text) {
            if !line.is_empty() {
                line.push_str(": ");
            }
            line.push_str(&text);
        }
        cause = error.source();
    }
    line
}

/// Some libraries write several lines; a log line or stderr line is one.
fn one_line(text: &str) -> String {
    text.lines().map(str::trim).filter(|line| !line.is_empty()).collect::<Vec<_>>().join(" ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Debug, thiserror::Error)]
    #[error("{text}")]
    struct Link {
        text: &'static str,
        source: Option<Box<Link>>,
    }

    fn link(texts: &[&'static str]) -> Link {
        let source = (texts.len() > 1).then(|| Box::new(link(&texts[1..])));
        Link { text: texts[0], source }
    }

    #[test]
    fn causes_follow_in_one_line_without_repetition() {
        assert_eq!(chain(&link(&["a", "b", "c"])), "a: b: c");
        assert_eq!(chain(&link(&["a: b", "b", "c"])), "a: b: c");
        assert_eq!(chain(&link(&["a\n  more", "", "c\n"])), "a more: c");
    }

    #[test]
    fn what_trying_again_cannot_mend_is_a_mistake_in_the_settings() {
        for (errno, exit) in [
            (nix::errno::Errno::EACCES, Exit::Config),
            (nix::errno::Errno::ENOENT, Exit::Config),
            (nix::errno::Errno::EROFS, Exit::Config),
            (nix::errno::Errno::ENOSPC, Exit::TryAgain),
            (nix::errno::Errno::EIO, Exit::TryAgain),
        ] {
            assert_eq!(Exit::of_system(&errno.into()), exit, "{errno}");
        }
    }

    #[test]
    fn exit_codes_are_those_of_sysexits() {
        for (exit, code) in [
            (Exit::Usage, 64),
            (Exit::Unavailable, 69),
            (Exit::Bug, 70),
            (Exit::TryAgain, 75),
            (Exit::Config, 78),
        ] {
            assert_eq!(ExitCode::from(exit), ExitCode::from(code));
        }
    }
}
