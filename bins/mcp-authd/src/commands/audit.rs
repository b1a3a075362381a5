//! `audit`: who did what, for people.

use std::fs::File;
use std::io::{self, Write};
use std::path::{Path, PathBuf};

use authd::audit::read::{self, Filter};
use authd::config::Config;
use mcp_daemon::exit::{Exit, Failure};
use mcp_daemon::life;

use super::Done;
use crate::args::Audit;

/// Shows what fits.
pub fn run(args: Audit) -> Done {
    let path = file(&args)?;
    let filter = Filter { subject: args.subject, route: args.route, refused: args.refused };
    let mut out = io::BufWriter::new(io::stdout().lock());
    let shown = if path == Path::new("-") {
        read::show(io::stdin().lock(), &filter, args.json, &mut out)
    } else if args.follow {
        let runtime = life::runtime().map_err(|error| Failure::new(Exit::Bug, &error))?;
        runtime.block_on(read::follow(&path, &filter, args.json, &mut out))
    } else {
        File::open(&path).and_then(|file| read::show(file, &filter, args.json, &mut out))
    };
    match shown.and_then(|()| out.flush()) {
        // Whoever reads it has seen enough.
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => Ok(()),
        Err(error) => Err(Failure { line: format!("{}: {error}", path.display()), exit: Exit::Unavailable }),
        Ok(()) => Ok(()),
    }
}

fn file(args: &Audit) -> Result<PathBuf, Failure> {
    if let Some(file) = &args.file {
        return Ok(file.clone());
    }
    let unnamed = "say --file FILE, --config FILE with audit.file, or pipe a journal into --file -";
    let Some(path) = &args.config else { return Err(Failure::usage(unnamed)) };
    let config = Config::load(Some(path)).map_err(|problem| Failure::new(Exit::Config, &problem))?;
    config
        .audit
        .file
        .ok_or_else(|| Failure::usage(format!("{} has no audit.file; {unnamed}", path.display())))
}
