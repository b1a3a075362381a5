//! The `serena-supervise` command: reads flags and settings, then supervises, or asks a running supervisor.

mod args;
mod commands;
mod render;
mod serving;

use std::process::ExitCode;

fn main() -> ExitCode {
    let (own, rest) = mcp_daemon::args::split(std::env::args_os());
    let command = match args::parse(&own, rest.is_some()) {
        Ok(command) => command,
        Err(early) => return early.tell(serving::DAEMON),
    };
    match commands::run(command, rest) {
        Ok(code) => code,
        Err(failure) => failure.report(serving::DAEMON),
    }
}
