//! What each subcommand does: it asks the daemon where one serves this home, and works alone where none does.

mod around;
mod change;
mod import;
mod read;

use std::future::Future;
use std::io::Write;
use std::process::ExitCode;

use mcp_daemon::exit::{Exit, Failure};
use mcp_daemon::{life, log};
use serde_json::Value;
use snapshotd::config::{ConfigProblem, DAEMON, Flags};

use self::around::Around;
use crate::args::Command;
use crate::{asking, render, serving};

/// What a subcommand comes to.
pub type Done = Result<ExitCode, Failure>;

/// Does what the command line says.
pub fn run(command: Command) -> Done {
    match command {
        Command::Adopt(adopt) => on(adopt.flags(), async |around| change::adopt(around, &adopt).await),
        Command::Cat(cat) => on(cat.flags(), async |around| read::cat(around, &cat).await),
        Command::Check(check) => {
            let around = Around::of(check.flags())?;
            if around.off().is_none() {
                around.plan()?;
            }
            say(&match &check.config {
                Some(file) => format!("{}: right", file.display()),
                None => "right".to_owned(),
            });
            Ok(ExitCode::SUCCESS)
        }
        Command::Diff(diff) => on(diff.flags(), async |around| read::diff(around, &diff).await),
        Command::Import(import) => on(import.flags(), async |around| import::import(around, &import).await),
        Command::List(list) => on(list.flags(), async |around| read::list(around, &list).await),
        Command::Pin(pin) => {
            on(pin.flags(), async |around| change::pin(around, &pin.id, true, pin.json).await)
        }
        Command::Prune(prune) => on(prune.flags(), async |around| change::prune(around, &prune).await),
        Command::Restore(restore) => {
            on(restore.flags(), async |around| change::restore(around, &restore).await)
        }
        Command::Run(run) => serving::serve(run),
        Command::Show(show) => on(show.flags(), async |around| read::show(around, &show).await),
        Command::Snapshot(snapshot) => {
            on(snapshot.flags(), async |around| change::snapshot(around, &snapshot).await)
        }
        Command::Status(status) => on(status.flags(), async |around| {
            let answer = asking::any_status(&around.flags, &around.named).await?;
            tell(&answer, status.json, render::status);
            Ok(ExitCode::SUCCESS)
        }),
        Command::Unpin(unpin) => {
            on(unpin.flags(), async |around| change::pin(around, &unpin.id, false, unpin.json).await)
        }
        Command::Verify(verify) => on(verify.flags(), async |around| read::verify(around, &verify).await),
    }
}

/// Runs a command that may ask a store or a daemon.
fn on(flags: Flags, work: impl AsyncFnOnce(Around) -> Done) -> Done {
    // Whoever is at the terminal reads the answer; the log is for what goes wrong besides.
    log::init_through(DAEMON, "warn", Box::new(std::io::stderr()));
    let around = Around::of(flags)?;
    let runtime = life::runtime().map_err(|error| Failure::new(Exit::Bug, &error))?;
    let done = runtime.block_on(work(around));
    runtime.shutdown_background();
    done
}

/// A wrong setting.
pub fn wrong(problem: &ConfigProblem) -> Failure {
    Failure::new(Exit::Config, problem)
}

/// Prints JSON, or what a person reads of it.
fn tell(value: &Value, json: bool, text: impl Fn(&Value) -> String) {
    say(&if json { format!("{value:#}") } else { text(value) });
}

/// Prints lines. Whoever pipes them into `head` has read enough.
fn say(text: &str) {
    let _ = writeln!(std::io::stdout(), "{}", text.trim_end());
}

/// Boxed: the futures of the engine are large, and there is one.
fn boxed<'a, T>(work: impl Future<Output = T> + 'a) -> std::pin::Pin<Box<dyn Future<Output = T> + 'a>> {
    Box::pin(work)
}
