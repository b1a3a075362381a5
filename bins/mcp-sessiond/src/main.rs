//! The `mcp-sessiond` command: reads flags and settings, then serves, or asks a running daemon.

mod args;
mod commands;
mod render;

use std::process::ExitCode;

use mcp_daemon::exit::Exit;

fn main() -> ExitCode {
    mcp_daemon::heap::keep_freed();
    let (own, command) = args::split(std::env::args_os());
    let parsed = match args::parse(&own, command.is_some()) {
        Ok(parsed) => parsed,
        Err(args::Early::Help(text)) => {
            print!("{text}");
            return ExitCode::SUCCESS;
        }
        Err(args::Early::Usage(line)) => {
            eprintln!("mcp-sessiond: {line}");
            return Exit::Usage.into();
        }
    };
    match commands::run(parsed, command) {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => {
            eprintln!("mcp-sessiond: {}", failure.line);
            failure.exit.into()
        }
    }
}
