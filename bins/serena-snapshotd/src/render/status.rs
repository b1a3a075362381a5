//! What a daemon says of itself, for a person.

use mcp_daemon::terminal::{clean, spell};
use serde_json::Value;

use super::{bytes, extent, text};

/// A few lines: whom it serves, how the home stands, the last snapshot and the next, and what is wrong.
pub fn status(status: &Value) -> String {
    let mut all = format!(
        "serena-snapshotd {}, pid {}, up {}{}\n",
        text(&status["version"]),
        status["pid"],
        spell(status["uptime_seconds"].as_u64().unwrap_or_default()),
        if status["draining"] == true { ", stopping" } else { "" },
    );
    let mut line = |name: &str, value: String| all += &format!("{name:<10} {value}\n");
    if status["enabled"] == false {
        line("state", format!("off: {}", clean(text(&status["why"]))));
        return all;
    }
    line("home", text(&status["home"]).to_owned());
    for (name, path) in status["roots"].as_object().into_iter().flatten() {
        line("root", format!("{name}: {}", text(path)));
    }
    let encrypted = if status["encrypted"] == true { ", encrypted" } else { "" };
    line("store", format!("{}, partition {}{encrypted}", text(&status["store"]), text(&status["partition"])));
    line("state", standing(text(&status["standing"])).to_owned());
    let working = &status["working"];
    if working.is_object() {
        let step = working["progress"]["step"].as_str().map(|step| format!(", {step}")).unwrap_or_default();
        let since = spell(working["seconds"].as_u64().unwrap_or_default());
        line("working", format!("{} for {since}{step}", text(&working["what"])));
    }
    let last = &status["last"];
    line(
        "last",
        match status["last_success_age_seconds"].as_u64() {
            None => "none yet".to_owned(),
            Some(age) => match text(&last["outcome"]) {
                "nothing" => format!("{} ago, nothing in the home yet", spell(age)),
                "unchanged" => format!("{} ago, unchanged since {}", spell(age), text(&last["id"])),
                outcome => format!(
                    "{} ago, {outcome} {}: {}, {} sent in {} ms",
                    spell(age),
                    text(&last["id"]),
                    extent(last),
                    bytes(&last["sent"]),
                    last["took_ms"].as_f64().unwrap_or_default().ceil()
                ),
            },
        },
    );
    line(
        "next",
        match status["next_in_seconds"].as_u64() {
            None => "when asked, and at the stop".to_owned(),
            Some(seconds) => format!("in {}", spell(seconds)),
        },
    );
    if let Some(error) = status["last_error"].as_str() {
        let failures = status["failures"].as_u64().unwrap_or_default();
        line("error", format!("{} ({failures} in a row)", clean(error)));
    }
    for complaint in status["complaints"].as_array().into_iter().flatten() {
        line("LOOK", clean(text(complaint)));
    }
    all
}

fn standing(word: &str) -> &str {
    match word {
        "current" => "well: the home descends from the newest snapshot",
        "diverged" => "diverged: the home does not descend from the newest snapshot, and goes to forks/ only",
        "empty" => "the home is empty, and there is a snapshot",
        "fenced" => "fenced: another daemon has taken over this partition, this home goes to forks/ only",
        "fresh" => "no snapshot yet",
        _ => "unknown: the store has not been read yet",
    }
}
