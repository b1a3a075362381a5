//! What each subcommand does.

mod serve;

use mcp_daemon::exit::Failure;

use crate::args::Command;

/// How a command ends.
pub type Done = Result<(), Failure>;

/// Does what the command line says.
pub fn run(command: Command) -> Done {
    match command {
        Command::Serve(args) => serve::run(args),
    }
}
