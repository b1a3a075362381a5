//! `token new`: makes a token, prints it once and keeps its hash.

use authd::credentials::tokens::write::{self, New};
use authd::credentials::{moment, now};
use mcp_daemon::config::Span;
use mcp_daemon::exit::Failure;

use super::{Done, not_written, place, print};
use crate::args;

/// The token goes to standard output, everything else to standard error.
pub fn run(args: args::New) -> Done {
    let expires = args.expires.as_deref().map(end).transpose()?;
    let path = place(args.config.as_deref(), args.tokens)?;
    let new = New {
        name: args.name.to_string(),
        subject: args.subject,
        route: args.route,
        scopes: args.scope,
        expires,
        note: args.note,
    };
    let token = write::mint();
    let added = write::add(&path, &new, &token).map_err(not_written)?;
    eprintln!(
        "{} is kept in {} for subject {}, route {}{}; the token itself is shown here alone:",
        new.name,
        added.file.display(),
        added.subject,
        added.route,
        expires.map(|at| format!(", until {}", moment::spell(at))).unwrap_or_default()
    );
    print(&token)
}

/// A duration from now on, or a moment to come.
fn end(text: &str) -> Result<u64, Failure> {
    let at = match text.parse::<Span>() {
        Ok(span) => now().saturating_add(span.duration().as_secs()),
        Err(_) => moment::parse(text).ok_or_else(|| {
            Failure::usage(format!("--expires: {}, or a duration such as 30d", moment::EXPECTED))
        })?,
    };
    if at <= now() {
        return Err(Failure::usage(format!("--expires: {} is over", moment::spell(at))));
    }
    Ok(at)
}
