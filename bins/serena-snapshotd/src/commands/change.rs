//! Commands that change the home or the store.

use std::process::ExitCode;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use mcp_daemon::exit::{Exit, Failure};
use serde_json::{Value, json};
use snapshotd::engine::{RestoreRequest, Selector, Side};
use snapshotd::progress::Progress;
use snapshotd::report;
use tokio::time::Instant;

use super::around::{Around, shown};
use super::{Done, say, tell};
use crate::args::{Adopt, Prune, Restore, Snapshot};
use crate::render;

/// Puts a snapshot back.
pub async fn restore(around: Around, restore: &Restore) -> Done {
    if let Some(why) = around.off() {
        say(&format!("nothing restored: snapshots are off, {why}"));
        return Ok(ExitCode::SUCCESS);
    }
    if let Some(daemon) = around.daemon().await? {
        let mut query = format!("/restore?replace={}", restore.replace);
        if let Some(which) = &restore.id {
            query += &format!("&which={which}");
        }
        let answer =
            daemon.ask("POST", &query).await.map_err(|failure| strictly(failure, &around, restore))?;
        let [home, place] = ["home", "store"].map(|key| daemon.status[key].as_str().unwrap_or_default());
        let place = format!("{place}, partition {}", daemon.status["partition"].as_str().unwrap_or_default());
        tell(&answer, restore.json, |value| render::restored(value, home, &place));
        return Ok(ExitCode::SUCCESS);
    }
    if let Some(why) = around.off_alone() {
        say(&format!("nothing restored: snapshots are off, {why}"));
        return Ok(ExitCode::SUCCESS);
    }
    let alone = around.alone()?;
    let mut engine = alone.engine()?;
    let request = RestoreRequest { which: restore.id.clone(), replace: restore.replace };
    let progress = Arc::new(Progress::default());
    let outcome = match shown(&progress, engine.restore(&request, &progress)).await {
        Ok(outcome) => outcome,
        Err(error) => return Err(strictly(alone.explain(&error).await, &around, restore)),
    };
    let value = report::restored(&outcome);
    let home = alone.plan.home().display().to_string();
    tell(&value, restore.json, |value| render::restored(value, &home, &alone.store.to_string()));
    if value["outcome"] == "nothing"
        && let Some(failure) = alone.is_unknown().await.filter(|failure| failure.line.contains("there are:"))
    {
        // A mistyped name must not pass for a new home without a word.
        eprintln!("{}", failure.line);
    }
    Ok(ExitCode::SUCCESS)
}

/// To who is strict, not to know is worth another try.
fn strictly(failure: Failure, around: &Around, restore: &Restore) -> Failure {
    match failure.exit {
        Exit::Unavailable if around.is_strict() && restore.id.is_none() => {
            Failure { exit: Exit::TryAgain, ..failure }
        }
        _ => failure,
    }
}

/// Takes a snapshot.
pub async fn snapshot(around: Around, snapshot: &Snapshot) -> Done {
    if let Some(why) = around.off() {
        say(&format!("no snapshot: snapshots are off, {why}"));
        return Ok(ExitCode::SUCCESS);
    }
    let value = match around.daemon().await? {
        Some(daemon) => daemon.ask("POST", "/snapshot").await?,
        None => {
            if let Some(why) = around.off_alone() {
                say(&format!("no snapshot: snapshots are off, {why}"));
                return Ok(ExitCode::SUCCESS);
            }
            let alone = around.alone()?;
            let mut engine = alone.engine()?;
            let (progress, cancelled) = (Arc::new(Progress::default()), Arc::new(AtomicBool::new(false)));
            let began = Instant::now();
            let outcome = shown(&progress, engine.snapshot("asked", &progress, &cancelled)).await;
            let mut value = report::outcome(&outcome.map_err(|error| Failure::from(&error))?);
            value["took_ms"] = (began.elapsed().as_micros() as f64 / 1000.0).into();
            value
        }
    };
    acknowledge(&value, snapshot.json)
}

/// Says how a snapshot ended; one that is only a fork is kept, but somebody must choose.
pub fn acknowledge(value: &Value, json: bool) -> Done {
    tell(value, json, render::outcome);
    if value["outcome"] == "forked" {
        return Err(Failure { line: render::why_forked(value), exit: Exit::Unavailable });
    }
    Ok(ExitCode::SUCCESS)
}

/// Deletes what is not kept.
pub async fn prune(around: Around, prune: &Prune) -> Done {
    around.must_be_on()?;
    let value = match around.daemon().await? {
        Some(daemon) => {
            let fork = prune.fork.as_ref().map(|fork| format!("&fork={fork}")).unwrap_or_default();
            daemon.ask("POST", &format!("/prune?dry_run={}{fork}", prune.dry_run)).await?
        }
        None => {
            let mut engine = around.alone()?.engine()?;
            let pruned = engine.prune(prune.fork.as_ref(), prune.dry_run).await;
            let pruned = pruned.map_err(|error| Failure::from(&error))?;
            report::pruned(&pruned, prune.dry_run)
        }
    };
    tell(&value, prune.json, render::pruned);
    Ok(ExitCode::SUCCESS)
}

/// Pins a snapshot, or lets it go.
pub async fn pin(around: Around, which: &Selector, is_pin: bool, json: bool) -> Done {
    around.must_be_on()?;
    let verb = if is_pin { "pin" } else { "unpin" };
    let done = format!("{verb}ned");
    let value = match around.daemon().await? {
        Some(daemon) => daemon.ask("POST", &format!("/{verb}?which={which}")).await?,
        None => {
            let alone = around.alone()?;
            let reader = alone.reader();
            let id = if is_pin { reader.pin(which).await } else { reader.unpin(which).await };
            match id {
                Ok(id) => json!({ done.as_str(): id }),
                Err(error) => return Err(alone.explain(&error).await),
            }
        }
    };
    tell(&value, json, |value| format!("{done} {}", value[&done].as_str().unwrap_or_default()));
    Ok(ExitCode::SUCCESS)
}

/// Chooses a side.
pub async fn adopt(around: Around, adopt: &Adopt) -> Done {
    let (side, name) = match (adopt.local, adopt.remote) {
        (true, false) => (Side::Local, "local"),
        (false, true) => (Side::Remote, "remote"),
        _ => {
            return Err(Failure::usage(
                "give one of --local (this home wins) and --remote (the newest snapshot wins)",
            ));
        }
    };
    around.must_be_on()?;
    match around.daemon().await? {
        Some(daemon) => drop(daemon.ask("POST", &format!("/adopt?side={name}")).await?),
        None => {
            let alone = around.alone()?;
            let mut engine = alone.engine()?;
            let progress = Arc::new(Progress::default());
            let adopted = shown(&progress, engine.adopt(side, &progress)).await;
            adopted.map_err(|error| Failure::from(&error))?;
        }
    }
    say(match side {
        Side::Local => "this home wins: its next snapshot follows the newest one",
        Side::Remote => "the newest snapshot is in the home; what was there is kept beside it, and as a fork",
    });
    Ok(ExitCode::SUCCESS)
}
