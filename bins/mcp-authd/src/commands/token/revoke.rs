//! `token revoke`: switches a token off for good.

use authd::config::Config;
use authd::credentials::tokens::{Tokens, write};
use mcp_daemon::exit::{Exit, Failure, chain};

use super::{Done, not_written, place};
use crate::args::Revoke;

/// Says on standard error what was done.
pub fn run(args: Revoke) -> Done {
    let path = place(args.config.as_deref(), args.tokens)?;
    let was_on = write::disable(&path, &args.name).map_err(not_written)?;
    // A mistake elsewhere in the file keeps a running daemon with the tokens that it read before.
    let alone = Config { tokens: Some(path.clone()), environment_tokens: false, ..Config::default() };
    if let Err(problem) = Tokens::load(&alone) {
        let line = format!(
            "{} is disabled, but a running daemon goes on with the tokens it has until this is right: {}",
            args.name,
            chain(&problem)
        );
        return Err(Failure { line, exit: Exit::Config });
    }
    let done = if was_on { "is disabled in" } else { "was disabled before in" };
    eprintln!("{} {done} {}; a running daemon takes notice within 2 s", args.name, path.display());
    Ok(())
}
