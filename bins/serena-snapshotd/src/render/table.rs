//! Lists: of snapshots, of what is in one, of what differs between two.

use jiff::Timestamp;
use mcp_daemon::terminal::{clean, spell, table};
use serde_json::Value;

use super::{bytes, extent, size, text};

/// All snapshots, the newest first.
pub fn list(rows: &Value, now: Timestamp) -> String {
    const HEADINGS: [&str; 7] = ["NUMBER", "MADE", "AGE", "FILES", "SIZE", "WHAT", "ID"];
    const NUMBERS: [usize; 4] = [0, 2, 3, 4];
    let cells = rows.as_array().into_iter().flatten().map(|row| {
        let created: Option<Timestamp> = text(&row["created"]).parse().ok();
        let age = created.map(|created| u64::try_from((now - created).get_seconds()).unwrap_or_default());
        let mut what: Vec<&str> = match text(&row["place"]) {
            "ancestor" => vec![],
            other => vec![other],
        };
        if !row["problem"].is_null() {
            what.push("cannot be read");
        }
        match text(&row["pinned"]) {
            "" => {}
            "pin" => what.push("pinned"),
            why => what.push(why),
        }
        [
            row["seq"].to_string(),
            created.map_or_else(|| "-".to_owned(), moment),
            age.map_or_else(|| "-".to_owned(), spell),
            known(&row["files"], Value::to_string),
            known(&row["bytes"], bytes),
            if what.is_empty() { "-".to_owned() } else { what.join(", ") },
            text(&row["id"]).to_owned(),
        ]
    });
    let cells: Vec<[String; 7]> = cells.collect();
    let lines = table(HEADINGS, &NUMBERS, &cells).into_iter();
    let problem = |row: &Value| Some(format!("{}: {}", text(&row["id"]), clean(row["problem"].as_str()?)));
    let problems = rows.as_array().into_iter().flatten().filter_map(problem);
    lines.chain(problems).map(|line| format!("{line}\n")).collect()
}

/// What is not known, because the snapshot cannot be read, is a dash.
fn known(value: &Value, shown: impl Fn(&Value) -> String) -> String {
    if value.is_null() { "-".to_owned() } else { shown(value) }
}

/// One snapshot with all that is in it.
pub fn show(value: &Value) -> String {
    let created = text(&value["created"]).parse().map_or_else(|_| "-".to_owned(), moment);
    let mut all = format!(
        "{id}, made {created} by {writer} ({reason})\n{extent}\n\n",
        id = text(&value["id"]),
        writer = clean(text(&value["writer"])),
        reason = clean(text(&value["reason"])),
        extent = extent(value),
    );
    for entry in value["entries"].as_array().into_iter().flatten() {
        let path = clean(text(&entry["path"]));
        let (size, path) = match text(&entry["kind"]) {
            "directory" => (String::new(), format!("{path}/")),
            "link" => (String::new(), format!("{path} -> {}", clean(text(&entry["link"])))),
            _ => (bytes(&entry["size"]), path),
        };
        let mtime = text(&entry["mtime"]).parse().map_or_else(|_| "-".to_owned(), moment);
        let note = if entry["unsettled"] == true { "  (never stood still)" } else { "" };
        all += &format!("{mode}  {size:>10}  {mtime}  {path}{note}\n", mode = text(&entry["mode"]));
    }
    all
}

/// What differs between two snapshots, one path a line.
pub fn diff(changes: &Value) -> String {
    let mut all = String::new();
    for change in changes.as_array().into_iter().flatten() {
        let (before, after) = (&change["before"], &change["after"]);
        let path = clean(text(&change["path"]));
        all += &match text(&change["change"]) {
            "added" => format!("+ {path}{}\n", what(after)),
            "removed" => format!("- {path}{}\n", what(before)),
            _ => format!("~ {path}{}\n", how(before, after)),
        };
    }
    if all.is_empty() { "no difference\n".to_owned() } else { all }
}

fn what(side: &Value) -> String {
    match text(&side["kind"]) {
        "directory" => "/".to_owned(),
        "link" => format!(" -> {}", clean(text(&side["link"]))),
        _ => format!("  {}", bytes(&side["size"])),
    }
}

fn how(before: &Value, after: &Value) -> String {
    let mut parts = Vec::new();
    if before["kind"] != after["kind"] {
        parts.push(format!("{} -> {}", text(&before["kind"]), text(&after["kind"])));
    } else if before["sha256"] != after["sha256"] {
        let [before, after] = [before, after].map(|side| size(side["size"].as_u64().unwrap_or_default()));
        parts.push(format!("{before} -> {after}"));
    } else if before["link"] != after["link"] {
        parts.push(format!("-> {}, was {}", clean(text(&after["link"])), clean(text(&before["link"]))));
    }
    if before["mode"] != after["mode"] {
        parts.push(format!("mode {} -> {}", text(&before["mode"]), text(&after["mode"])));
    }
    format!("  {}", parts.join(", "))
}

fn moment(when: Timestamp) -> String {
    when.strftime("%Y-%m-%d %H:%M:%SZ").to_string()
}
