//! The `mcp-sessiond` command: reads flags and settings, then serves, or asks a running daemon.

mod args;
mod commands;
mod render;

use std::process::ExitCode;

fn main() -> ExitCode {
    mcp_daemon::heap::keep_freed();
    let (own, command) = mcp_daemon::args::split(std::env::args_os());
    let parsed = match args::parse(&own, command.is_some()) {
        Ok(parsed) => parsed,
        Err(early) => return early.tell("mcp-sessiond"),
    };
    match commands::run(parsed, command) {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => failure.report("mcp-sessiond"),
    }
}
