//! How a person sees what was done and what there is.

mod progress;
mod status;
mod table;
#[cfg(test)]
mod tests;

use mcp_daemon::terminal::clean;
use serde_json::Value;

pub use self::progress::show as show_progress;
pub use self::status::status;
pub use self::table::{diff, list, show};

/// How a snapshot ended.
pub fn outcome(value: &Value) -> String {
    let id = text(&value["id"]);
    match text(&value["outcome"]) {
        "nothing" => {
            "no snapshot: there is none yet, and nothing in the home of which one could be".to_owned()
        }
        "unchanged" => format!("unchanged: {id} holds the same"),
        "forked" => format!("kept as fork {id}: {}", extent(value)),
        _ => format!(
            "published {id}: {}, {} sent{}{}",
            extent(value),
            bytes(&value["sent"]),
            took(value),
            unsettled(value)
        ),
    }
}

/// Why a snapshot was not published although it was kept.
pub fn why_forked(value: &Value) -> String {
    let why = match text(&value["standing"]) {
        "fenced" => "another daemon has taken over this partition",
        _ => "this home does not descend from the newest snapshot",
    };
    format!(
        "not published: {why}; choose with `adopt --local` (this home wins) or `adopt --remote` (the snapshot wins)"
    )
}

/// How a restore ended.
pub fn restored(value: &Value, home: &str, place: &str) -> String {
    match text(&value["outcome"]) {
        "nothing" => format!("nothing restored: there is no snapshot in {place} yet"),
        "left_alone" => {
            let more = match text(&value["standing"]) {
                "diverged" => ", although it does not descend from the newest snapshot",
                _ => "",
            };
            format!(
                "nothing restored: {home} is not empty and is left alone{more}; --replace puts the snapshot there, and keeps what is there now beside it"
            )
        }
        _ => {
            let mut line = format!("restored {} into {home}: {}", text(&value["id"]), extent(value));
            for place in value["kept"].as_array().into_iter().flatten() {
                line += &format!("\nwhat was there before is in {}", text(place));
            }
            for root in value["left_alone"].as_array().into_iter().flatten() {
                line += &format!(
                    "\n{} is not empty and was left alone, though the snapshot has files for it; --replace puts them there",
                    clean(text(root))
                );
            }
            for one in value["passed_over"].as_array().into_iter().flatten() {
                line +=
                    &format!("\ndamaged, passed over: {}: {}", text(&one["id"]), clean(text(&one["why"])));
            }
            line
        }
    }
}

/// What a `prune` deleted, or would.
pub fn pruned(value: &Value) -> String {
    let ids: Vec<&str> = value["snapshots"].as_array().into_iter().flatten().map(text).collect();
    let is_dry = value["dry_run"] == true;
    if ids.is_empty() && value["objects"] == 0 {
        return if is_dry { "nothing would be deleted".to_owned() } else { "nothing to delete".to_owned() };
    }
    let verb = if is_dry { "would delete" } else { "deleted" };
    let ids: Vec<String> = ids.iter().map(|id| format!("{verb} {id}\n")).collect();
    let objects = value["objects"].as_u64().unwrap_or_default();
    let noun = if objects == 1 { "object" } else { "objects" };
    format!("{}{verb} {objects} {noun}, {}", ids.concat(), bytes(&value["bytes"]))
}

/// What a check of one snapshot found.
pub fn verified(value: &Value) -> String {
    let id = text(&value["id"]);
    let problems: Vec<String> =
        value["problems"].as_array().into_iter().flatten().map(|one| clean(text(one))).collect();
    if !problems.is_empty() {
        return problems
            .iter()
            .map(|problem| format!("FAIL  {id}  {problem}"))
            .collect::<Vec<_>>()
            .join("\n");
    }
    let read = if value["read"] == true { format!("; read {}", extent(value)) } else { String::new() };
    let objects = value["objects"].as_u64().unwrap_or_default();
    let noun = if objects == 1 { "object" } else { "objects" };
    format!("ok    {id}  {objects} {noun}, {}{read}", bytes(&value["stored"]))
}

fn extent(value: &Value) -> String {
    let files = value["files"].as_u64().unwrap_or_default();
    format!("{files} {}, {}", if files == 1 { "file" } else { "files" }, bytes(&value["bytes"]))
}

fn took(value: &Value) -> String {
    match value["took_ms"].as_f64() {
        Some(ms) if ms < 1000.0 => format!(" in {ms:.0} ms"),
        Some(ms) => format!(" in {:.1} s", ms / 1000.0),
        None => String::new(),
    }
}

fn unsettled(value: &Value) -> String {
    let mut lines = String::new();
    if let Some(count @ 1..) = value["unsettled"].as_u64() {
        lines += &format!("\n{count} of them never stood still; what could be read of them is kept");
    }
    for one in value["skipped"].as_array().into_iter().flatten() {
        lines += &format!("\nleft out: {}: {}", clean(text(&one["path"])), clean(text(&one["why"])));
    }
    lines
}

fn text(value: &Value) -> &str {
    value.as_str().unwrap_or_default()
}

fn bytes(value: &Value) -> String {
    size(value.as_u64().unwrap_or_default())
}

fn size(bytes: u64) -> String {
    const UNITS: [&str; 4] = ["KiB", "MiB", "GiB", "TiB"];
    if bytes < 1024 {
        return format!("{bytes} B");
    }
    let mut tenths = bytes.saturating_mul(10) / 1024;
    let mut unit = 0;
    while tenths >= 10_240 && unit + 1 < UNITS.len() {
        tenths /= 1024;
        unit += 1;
    }
    // Cut off, not rounded: what is less than a limit looks so.
    format!("{}.{} {}", tenths / 10, tenths % 10, UNITS[unit])
}
