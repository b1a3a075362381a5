//! What each subcommand does.

mod audit;
mod check;
mod explain;
mod serve;
mod status;
mod token;

use mcp_daemon::exit::Failure;

use crate::args::Command;

/// How a command ends.
pub type Done = Result<(), Failure>;

/// Does what the command line says.
pub fn run(command: Command) -> Done {
    match command {
        Command::Audit(args) => audit::run(args),
        Command::Check(args) => check::run(&args),
        Command::Explain(args) => explain::run(&args),
        Command::Serve(args) => serve::run(args),
        Command::Status(args) => status::run(args),
        Command::Token(args) => token::run(args),
    }
}
