//! `check`: everything that `serve` reads, without serving.

use std::path::Path;
use std::sync::Arc;

use authd::config::check::check;
use authd::config::{Config, DAEMON};
use authd::prepared::Prepared;
use authd::route::Table;
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
    if args.without_files {
        settings_alone(config).map_err(wrong)?;
        return right(file);
    }
    let prepared = Prepared::new(config).map_err(wrong)?;
    if let Some(problem) = prepared.leads_nowhere() {
        return Err(wrong(problem));
    }
    for complaint in prepared.face.iter().flat_map(|face| face.complaints()) {
        if complaint.is_fatal() {
            return Err(wrong(ConfigProblem::key("tls.certificate", complaint)));
        }
        eprintln!("{DAEMON}: tls.certificate: {complaint}");
    }
    right(file)
}

/// What can be seen of settings where the files that they name are not.
fn settings_alone(mut config: Config) -> Result<(), ConfigProblem> {
    check(&config)?;
    let own = config.route.values_mut().flat_map(|route| &mut route.upstream.0);
    for upstream in config.upstream.0.iter_mut().chain(own) {
        upstream.token_file = None;
    }
    Table::load(&Arc::new(config)).map(drop)
}

fn right(file: Option<&Path>) -> Done {
    println!("{}: right", file.map_or_else(|| "flags".to_owned(), |file| file.display().to_string()));
    Ok(())
}
