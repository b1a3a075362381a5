//! The `mcp-authd` command: serves, or looks after tokens, or asks a running daemon.

mod args;
mod commands;
mod render;

use std::process::ExitCode;

use authd::config::DAEMON;

fn main() -> ExitCode {
    mcp_daemon::heap::keep_freed();
    let words: Vec<_> = std::env::args_os().collect();
    let command = match args::parse(&words) {
        Ok(command) => command,
        Err(early) => return early.tell(DAEMON),
    };
    match commands::run(command) {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => failure.report(DAEMON),
    }
}
