//! How a person sees what the control socket answers.

use mcp_daemon::terminal::spell;
use serde_json::Value;

/// Prints JSON as it is, or as `render` shows it.
pub fn show(value: &Value, json: bool, render: fn(&Value) -> String) {
    if json {
        println!("{value:#}");
    } else {
        print!("{}", render(value));
    }
}

/// Which session was deleted.
pub fn deleted(answer: &Value) -> String {
    format!("deleted {}\n", answer["deleted"].as_str().unwrap_or_default())
}

/// A few lines about the daemon.
pub fn status(status: &Value) -> String {
    let listeners: Vec<&str> =
        status["listeners"].as_array().into_iter().flatten().filter_map(Value::as_str).collect();
    let sessions = &status["sessions"];
    format!(
        "mcp-sessiond {version}, pid {pid}, up {up}{draining}\nlistening  {listeners}\nserver     {back}\nsessions   {live} live, {healing} healing, {dormant} dormant\nparked     {parked}\n",
        version = status["version"].as_str().unwrap_or_default(),
        pid = status["pid"],
        up = age(&status["uptime_seconds"]),
        draining = if status["draining"] == true { ", draining" } else { "" },
        listeners = listeners.join(" "),
        back = back(&status["back"]),
        live = sessions["live"],
        healing = sessions["healing"],
        dormant = sessions["dormant"],
        parked = status["parked"],
    )
}

/// A table, the one used last on top.
pub fn sessions(sessions: &Value) -> String {
    let mut table = format!(
        "{:<10} {:<8} {:<20} {:<16} {:<11} {:>5}  IDLE\n",
        "SESSION", "STATE", "CLIENT", "SUBJECT", "VERSION", "HEALS"
    );
    for session in sessions.as_array().into_iter().flatten() {
        let text = |key: &str| {
            session[key]
                .as_str()
                .filter(|text| !text.is_empty())
                .unwrap_or("-")
                .chars()
                .take(20)
                .collect::<String>()
        };
        let short: String = text("session").chars().take(8).collect();
        table += &format!(
            "{short:<10} {:<8} {:<20} {:<16} {:<11} {:>5}  {}\n",
            text("state"),
            text("client"),
            text("subject"),
            text("version"),
            session["heals"].as_u64().unwrap_or_default(),
            age(&session["idle_seconds"]),
        );
    }
    table
}

fn age(seconds: &Value) -> String {
    spell(seconds.as_u64().unwrap_or_default())
}

fn back(back: &Value) -> String {
    if let Some(upstream) = back["upstream"].as_str() {
        return upstream.to_owned();
    }
    let processes = back["processes"].as_array().map(Vec::as_slice).unwrap_or_default();
    let shown: Vec<String> = processes
        .iter()
        .map(|process| {
            let busy = if process["in_flight"].as_u64() == Some(0) { "idle" } else { "busy" };
            format!("pid {} ({busy}, up {})", process["pid"], age(&process["age_s"]))
        })
        .collect();
    let colon = if shown.is_empty() { "" } else { ": " };
    format!("{} of at most {} processes{colon}{}", shown.len(), back["max_processes"], shown.join(", "))
}
