//! `token`: makes, lists and revokes tokens.

mod jwt;
mod list;
mod new;
mod revoke;

use std::io::Write;
use std::path::{Path, PathBuf};

use authd::config::Config;
use authd::credentials::tokens::write::WriteError;
use mcp_daemon::config::ConfigProblem;
use mcp_daemon::exit::{Exit, Failure};

use super::Done;
use crate::args::{Token, TokenCommand};

/// Does what is asked.
pub fn run(args: Token) -> Done {
    match args.command {
        TokenCommand::Jwt(args) => jwt::run(&args),
        TokenCommand::List(args) => list::run(args),
        TokenCommand::New(args) => new::run(args),
        TokenCommand::Revoke(args) => revoke::run(args),
    }
}

/// The settings, with the flag over them.
fn settings(config: Option<&Path>, tokens: Option<PathBuf>) -> Result<Config, Failure> {
    let mut settings = Config::load(config).map_err(wrong)?;
    settings.tokens = tokens.or(settings.tokens);
    Ok(settings)
}

/// Where tokens are kept, to be changed there.
fn place(config: Option<&Path>, tokens: Option<PathBuf>) -> Result<PathBuf, Failure> {
    settings(config, tokens)?.tokens.ok_or_else(|| {
        Failure::usage("say where tokens are kept: --tokens FILE, or --config FILE with `tokens` in it")
    })
}

fn wrong(problem: ConfigProblem) -> Failure {
    Failure::new(Exit::Config, &problem)
}

fn not_written(error: WriteError) -> Failure {
    let exit = match error {
        WriteError::Exists { .. } | WriteError::NoFileName(_) | WriteError::Unknown { .. } => Exit::Usage,
        WriteError::Invalid(_) | WriteError::NotChanged { .. } => Exit::Config,
        WriteError::System { .. } => Exit::Unavailable,
    };
    Failure::new(exit, &error)
}

/// Prints a secret, whose only reader must not miss it.
fn print(secret: &str) -> Done {
    writeln!(std::io::stdout(), "{secret}")
        .map_err(|error| Failure { line: format!("standard output: {error}"), exit: Exit::Unavailable })
}
