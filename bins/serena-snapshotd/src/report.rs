//! What was done, as JSON: the same for `--json`, for the control socket, and for whoever makes sentences of it.

use jiff::Timestamp;
use serde_json::{Value, json};

use crate::engine::{Outcome, Place, Pruned, RestoreOutcome, Row, Standing, Summary};
use crate::manifest::{Entry, Kind, Manifest};
use crate::progress::{Progress, Step};

/// How a snapshot ended.
pub fn outcome(outcome: &Outcome) -> Value {
    match outcome {
        Outcome::Forked(summary, standing) => {
            let mut value = made("forked", summary);
            value["standing"] = word(*standing).into();
            value
        }
        Outcome::Nothing => json!({ "outcome": "nothing", "sent": 0 }),
        Outcome::Published(summary) => made("published", summary),
        Outcome::Unchanged(id) => json!({ "outcome": "unchanged", "id": id, "sent": 0 }),
    }
}

fn made(outcome: &str, summary: &Summary) -> Value {
    let Summary { id, files, bytes, sent, unsettled, skipped } = summary;
    let skipped: Vec<Value> = skipped.iter().map(|(path, why)| json!({ "path": path, "why": why })).collect();
    json!({
        "outcome": outcome, "id": id, "files": files, "bytes": bytes, "sent": sent, "unsettled": unsettled,
        "skipped": skipped,
    })
}

/// How a restore ended.
pub fn restored(outcome: &RestoreOutcome) -> Value {
    match outcome {
        RestoreOutcome::LeftAlone(standing) => {
            json!({ "outcome": "left_alone", "standing": word(*standing) })
        }
        RestoreOutcome::Nothing => json!({ "outcome": "nothing" }),
        RestoreOutcome::Restored { id, files, bytes, kept, passed_over, left_alone } => {
            let passed: Vec<Value> =
                passed_over.iter().map(|(id, why)| json!({ "id": id, "why": why })).collect();
            json!({
                "outcome": "restored", "id": id, "files": files, "bytes": bytes, "kept": kept, "passed_over": passed,
                "left_alone": left_alone,
            })
        }
    }
}

/// A list, the newest first.
pub fn rows(rows: &[Row]) -> Value {
    let row = |row: &Row| {
        let held = row.held.as_ref().ok();
        json!({
            "id": row.id, "seq": row.id.seq, "created": held.map(|held| held.created),
            "files": held.map(|held| held.files), "bytes": held.map(|held| held.bytes),
            "place": place(row.place), "pinned": row.pinned, "problem": row.held.as_ref().err(),
        })
    };
    rows.iter().map(row).collect()
}

fn place(place: Place) -> &'static str {
    match place {
        Place::Ancestor => "ancestor",
        Place::Fork => "fork",
        Place::Newest => "newest",
    }
}

/// What a `prune` deleted, or would delete.
pub fn pruned(pruned: &Pruned, dry_run: bool) -> Value {
    let Pruned { snapshots, objects, bytes } = pruned;
    json!({ "snapshots": snapshots, "objects": objects, "bytes": bytes, "dry_run": dry_run })
}

/// How the home and the store stand to each other, in one word.
pub fn word(standing: Standing) -> &'static str {
    match standing {
        Standing::Current => "current",
        Standing::Diverged => "diverged",
        Standing::Empty => "empty",
        Standing::Fenced => "fenced",
        Standing::Fresh => "fresh",
    }
}

/// A snapshot with every path in it.
pub fn manifest(manifest: &Manifest) -> Value {
    let about = &manifest.about;
    json!({
        "id": about.id, "seq": about.id.seq, "created": about.created, "writer": about.writer, "reason": about.reason,
        "tree": about.tree, "files": about.files, "bytes": about.bytes, "unsettled": about.unsettled,
        "objects": about.objects,
        "entries": manifest.entries.iter().map(entry).collect::<Vec<_>>(),
    })
}

/// One path of it.
pub fn entry(entry: &Entry) -> Value {
    let path = String::from_utf8_lossy(&entry.path);
    let mode = format!("{:04o}", entry.mode);
    let mtime = Timestamp::from_nanosecond(entry.mtime.into()).ok();
    match &entry.kind {
        Kind::Directory => json!({ "path": path, "kind": "directory", "mode": mode, "mtime": mtime }),
        Kind::File(content) => json!({
            "path": path, "kind": "file", "mode": mode, "mtime": mtime, "size": content.size, "sha256": content.sha256,
            "unsettled": content.unsettled,
        }),
        Kind::Link(target) => json!({
            "path": path, "kind": "link", "mode": mode, "mtime": mtime, "link": String::from_utf8_lossy(target),
        }),
    }
}

/// How far a long work is; `null` if there is none.
pub fn progress(progress: &Progress) -> Value {
    use std::sync::atomic::Ordering::Relaxed;

    let step = match progress.step() {
        Step::Idle => return Value::Null,
        Step::Looking => "looking",
        Step::Packing => "packing",
        Step::Sending => "sending",
        Step::Fetching => "fetching",
        Step::Checking => "checking",
        Step::Syncing => "syncing",
    };
    json!({
        "step": step,
        "bytes": progress.bytes.load(Relaxed), "bytes_total": progress.bytes_total.load(Relaxed),
        "files": progress.files.load(Relaxed), "files_total": progress.files_total.load(Relaxed),
    })
}
