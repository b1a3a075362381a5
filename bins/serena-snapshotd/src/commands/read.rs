//! Commands that only read.

use std::cmp::Ordering;
use std::io::{self, ErrorKind, Write};
use std::process::ExitCode;
use std::sync::Arc;

use jiff::Timestamp;
use mcp_daemon::exit::{Exit, Failure};
use serde_json::{Value, json};
use snapshotd::cat::{self, CatError};
use snapshotd::engine::{EngineError, Row, Selector};
use snapshotd::manifest::{Entry, Kind, Manifest};
use snapshotd::progress::Progress;
use snapshotd::{report, verify};

use super::around::{Alone, Around, shown};
use super::{Done, tell};
use crate::args::{Cat, Diff, List, Show, Verify};
use crate::render;

/// Shows all snapshots.
pub async fn list(around: Around, list: &List) -> Done {
    around.must_be_on()?;
    let rows = match around.daemon().await? {
        Some(daemon) => daemon.ask("GET", "/snapshots").await?,
        None => {
            let alone = around.alone()?;
            report::rows(&alone.rows().await?)
        }
    };
    tell(&rows, list.json, |rows| render::list(rows, Timestamp::now()));
    Ok(ExitCode::SUCCESS)
}

/// Shows one.
pub async fn show(around: Around, show: &Show) -> Done {
    let manifest = around.reading().await?.manifest(&show.id).await?;
    tell(&report::manifest(&manifest), show.json, render::show);
    Ok(ExitCode::SUCCESS)
}

/// Compares two.
pub async fn diff(around: Around, diff: &Diff) -> Done {
    let alone = around.reading().await?;
    let (one, other) = (alone.manifest(&diff.one).await?, alone.manifest(&diff.other).await?);
    tell(&changes(&one.entries, &other.entries), diff.json, render::diff);
    Ok(ExitCode::SUCCESS)
}

/// Prints a file of one.
pub async fn cat(around: Around, cat: &Cat) -> Done {
    let alone = around.reading().await?;
    let manifest = Arc::new(alone.manifest(&cat.id).await?);
    let seal = alone.settings.seal.as_ref();
    let mut out = io::BufWriter::new(io::stdout());
    let done = cat::cat(&alone.store, &manifest, seal, cat.path.as_bytes(), &mut out).await;
    match done {
        Ok(()) => Ok(ExitCode::SUCCESS),
        // Whoever pipes it into `head` has read enough.
        Err(CatError::Write(error)) if error.kind() == ErrorKind::BrokenPipe => Ok(ExitCode::SUCCESS),
        Err(error) => {
            let _ = out.flush();
            Err(Failure::new(error.exit(), &error))
        }
    }
}

/// Checks one, or all.
pub async fn verify(around: Around, asked: &Verify) -> Done {
    let alone = around.reading().await?;
    let progress = Arc::new(Progress::default());
    let mut found = Vec::new();
    match &asked.id {
        Some(id) => found.push(shown(&progress, alone.verify(id, asked.read_data, &progress)).await?),
        None => {
            for row in alone.rows().await? {
                found.push(match row.held {
                    Ok(_) => {
                        let id = Selector::Id(row.id);
                        shown(&progress, alone.verify(&id, asked.read_data, &progress)).await?
                    }
                    Err(why) => json!({ "id": row.id, "problems": [why] }),
                });
            }
        }
    }
    let all = found.len();
    let bad = found.iter().filter(|one| one["problems"] != json!([])).count();
    tell(&found.into(), asked.json, |found| {
        let lines = found.as_array().into_iter().flatten().map(render::verified);
        lines.collect::<Vec<_>>().join("\n")
    });
    if bad == 0 {
        return Ok(ExitCode::SUCCESS);
    }
    let line = format!("{bad} of {all} snapshots are damaged or cannot be read; the problems stand above");
    Err(Failure { line, exit: Exit::Unavailable })
}

impl Alone {
    /// All snapshots; none at all is a failure where the name of the partition may be mistyped.
    async fn rows(&self) -> Result<Vec<Row>, Failure> {
        let rows = match self.reader().list().await {
            Ok(rows) => rows,
            Err(error) => return Err(self.explain(&error).await),
        };
        if rows.is_empty()
            && let Some(failure) = self.is_unknown().await
        {
            return Err(failure);
        }
        Ok(rows)
    }

    async fn manifest(&self, which: &Selector) -> Result<Manifest, Failure> {
        match self.reader().manifest(which).await {
            Ok(manifest) => Ok(manifest),
            Err(error) => Err(self.explain(&error).await),
        }
    }

    async fn verify(&self, which: &Selector, read: bool, progress: &Arc<Progress>) -> Result<Value, Failure> {
        let manifest = match self.reader().manifest(which).await {
            Ok(manifest) => Arc::new(manifest),
            Err(EngineError::Damaged(why)) => {
                return Ok(json!({ "id": which.to_string(), "problems": [why] }));
            }
            Err(error) => return Err(self.explain(&error).await),
        };
        let seal = self.settings.seal.as_ref();
        let found = verify::verify(&self.store, &manifest, seal, read, progress).await;
        let found = found.map_err(|error| Failure::from(&EngineError::from(error)))?;
        Ok(json!({
            "id": manifest.about.id, "objects": found.objects, "stored": found.stored,
            "files": found.files, "bytes": found.bytes, "read": read, "problems": found.problems,
        }))
    }
}

/// What differs between two trees; both are in order of their paths.
fn changes(one: &[Entry], other: &[Entry]) -> Value {
    let (mut before, mut after) = (one.iter().peekable(), other.iter().peekable());
    let mut all = Vec::new();
    loop {
        let order = match (before.peek(), after.peek()) {
            (None, None) => return all.into(),
            (Some(_), None) => Ordering::Less,
            (None, Some(_)) => Ordering::Greater,
            (Some(one), Some(other)) => one.path.cmp(&other.path),
        };
        let before = if order.is_le() { before.next() } else { None };
        let after = if order.is_ge() { after.next() } else { None };
        let change = match (before, after) {
            (Some(_), None) => "removed",
            (None, Some(_)) => "added",
            (Some(before), Some(after)) if differ(before, after) => "changed",
            _ => continue,
        };
        let path = before.or(after).map(|entry| report::entry(entry)["path"].clone());
        all.push(json!({
            "change": change, "path": path, "before": before.map(report::entry), "after": after.map(report::entry),
        }));
    }
}

/// Content, permissions and kind count; times and places do not.
fn differ(before: &Entry, after: &Entry) -> bool {
    let same = match (&before.kind, &after.kind) {
        (Kind::Directory, Kind::Directory) => true,
        (Kind::File(one), Kind::File(other)) => one.sha256 == other.sha256,
        (Kind::Link(one), Kind::Link(other)) => one == other,
        _ => false,
    };
    !same || before.mode != after.mode
}

#[cfg(test)]
mod tests {
    use snapshotd::digest::Digest;
    use snapshotd::manifest::Content;

    use super::*;

    fn file(path: &str, text: &str, mode: u32) -> Entry {
        let content = Content {
            size: text.len() as u64,
            sha256: Digest::of(text.as_bytes()),
            object: 0,
            unsettled: false,
        };
        Entry { path: path.as_bytes().into(), mode, mtime: 0, kind: Kind::File(content) }
    }

    #[test]
    fn a_difference_is_content_permissions_or_being_there() {
        let one = [
            file("home/a", "1", 0o600),
            file("home/b", "1", 0o600),
            file("home/c", "1", 0o600),
            file("home/e", "1", 0o600),
        ];
        let mut other = [
            file("home/a", "2", 0o600),
            file("home/b", "1", 0o644),
            file("home/d", "12", 0o600),
            file("home/e", "1", 0o600),
        ];
        other[3].mtime = 7;
        assert_eq!(
            render::diff(&changes(&one, &other)),
            "~ home/a  1 B -> 1 B\n~ home/b  mode 0600 -> 0644\n- home/c  1 B\n+ home/d  2 B\n"
        );
        assert_eq!(render::diff(&changes(&one, &one)), "no difference\n");
    }
}
