//! `check`: everything that `serve` reads, without serving.

use authd::config::Config;
use authd::gate::Prepared;
use mcp_daemon::config::ConfigProblem;
use mcp_daemon::exit::{Exit, Failure};

use super::Done;
use crate::args::{Check, Flags};

/// Reads it all; the first mistake is the answer.
pub fn run(args: &Check) -> Done {
    let file = args.config.as_deref();
    let wrong = |problem: ConfigProblem| Failure::new(Exit::Config, &problem.within(file));
    if file.is_none() && args.tokens.is_none() && args.upstream.is_none() && args.listen.is_empty() {
        return Err(Failure::usage("nothing to check; say --config FILE, or the flags of `serve`"));
    }
    let config = Flags::from(args).over(Config::load(file).map_err(wrong)?);
    Prepared::new(config).map_err(wrong)?;
    println!("{}: right", file.map_or_else(|| "flags".to_owned(), |file| file.display().to_string()));
    Ok(())
}
