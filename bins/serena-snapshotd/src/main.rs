//! The `serena-snapshotd` command: reads flags and settings, then works alone, asks a running daemon, or is the daemon.

mod args;
mod asking;
mod commands;
mod render;
mod serving;

use std::process::ExitCode;

use snapshotd::config::DAEMON;

fn main() -> ExitCode {
    mcp_daemon::heap::stay_small();
    let words: Vec<_> = std::env::args_os().collect();
    let command = match args::parse(&words) {
        Ok(command) => command,
        Err(early) => return early.tell(DAEMON),
    };
    match commands::run(command) {
        Ok(code) => code,
        Err(failure) => failure.report(DAEMON),
    }
}
