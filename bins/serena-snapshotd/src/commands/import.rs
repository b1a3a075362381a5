//! Takes over what the Cloudflare wrapper has stored: its newest archive becomes the first snapshot of a partition.

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use mcp_daemon::exit::{Exit, Failure, chain};
use snapshotd::config::Plan;
use snapshotd::engine::{Engine, Standing};
use snapshotd::import::{self, ImportError, Limits, Unpacked};
use snapshotd::progress::Progress;
use snapshotd::report;
use snapshotd::store::{Location, Store};
use snapshotd::threads::blocking;

use super::around::{Alone, Around, shown};
use super::change::acknowledge;
use super::{Done, wrong};
use crate::args::Import;

/// Where the wrapper's archives are in a store.
const ARCHIVES: &str = "snapshots/";

/// Unpacks an archive aside, and takes a snapshot of that; the home is not touched.
pub async fn import(around: Around, asked: &Import) -> Done {
    around.must_be_on()?;
    if around.daemon().await?.is_some() {
        let line = "a daemon keeps this partition; stop it, import, and start it again".to_owned();
        return Err(Failure { line, exit: Exit::Unavailable });
    }
    let alone = around.alone()?;
    alone.plan.make_directories().map_err(|problem| wrong(&problem))?;
    let aside = tempfile::Builder::new().prefix("import-").tempdir_in(&alone.settings.spool);
    let aside = aside.map_err(|error| Failure {
        line: format!("{}: {error}", alone.settings.spool.display()),
        exit: Exit::TryAgain,
    })?;
    let mut settings = alone.settings.clone();
    settings.roots.truncate(1);
    let home = aside.path().join("home");
    if let Some(root) = settings.roots.first_mut() {
        root.path.clone_from(&home);
    }
    let mut engine = Engine::open(settings, alone.store.clone()).map_err(|error| Failure::from(&error))?;
    match engine.standing().await.map_err(|error| Failure::from(&error))? {
        Standing::Fresh => {}
        Standing::Current | Standing::Diverged | Standing::Empty | Standing::Fenced => {
            let line =
                format!("there are snapshots in {} already; import is for an empty partition", alone.store);
            return Err(Failure { line, exit: Exit::Unavailable });
        }
    }
    let unpacked = unpack(&alone, asked, &home).await?;
    for (path, why) in &unpacked.left_out {
        log::warn!(path, why; "left out of the archive");
    }
    let (progress, cancelled) = (Arc::new(Progress::default()), Arc::new(AtomicBool::new(false)));
    let outcome = shown(&progress, engine.snapshot("import", &progress, &cancelled)).await;
    acknowledge(&report::outcome(&outcome.map_err(|error| Failure::from(&error))?), asked.json)
}

async fn unpack(alone: &Alone, asked: &Import, home: &Path) -> Result<Unpacked, Failure> {
    let limits = Limits::default();
    let failed = |error: ImportError| Failure::new(error.exit(), &error);
    let store = match asked.from.as_deref() {
        None => alone.store.clone(),
        Some(from) if from.starts_with("s3://") => elsewhere(&alone.plan, from)?,
        Some(path) => {
            let (path, home) = (Path::new(path).to_owned(), home.to_owned());
            let archive = asked.archive.clone();
            let unpacking = blocking(move || {
                let archive = match archive {
                    Some(name) => path.join(ARCHIVES).join(name),
                    None => import::local(&path)?,
                };
                import::open(&archive, &home, limits)
            });
            return unpacking.await.map_err(failed);
        }
    };
    let key = match &asked.archive {
        Some(name) => Some(format!("{ARCHIVES}{name}")),
        None => import::newest(&store).await.map_err(failed)?,
    };
    let key = key.ok_or_else(|| Failure {
        line: format!("there is no archive of the wrapper in {store}; say where it is with --from"),
        exit: Exit::Unavailable,
    })?;
    import::fetch(&store, &key, home, limits).await.map_err(failed)
}

/// The store at `s3://bucket/prefix`: the last part of the prefix is what a partition is to us.
fn elsewhere(plan: &Plan, from: &str) -> Result<Store, Failure> {
    let bad = |why: String| Failure::usage(format!("--from: `{from}`: {why}"));
    let (rest, last) = from.trim_end_matches('/').rsplit_once('/').unwrap_or((from, ""));
    let location: Location = rest.parse().map_err(|error| bad(chain(&error)))?;
    let partition = last.parse().map_err(|error: snapshotd::layout::NameError| bad(chain(&error)))?;
    plan.store(&location, &partition).map_err(|problem| wrong(&problem))
}
