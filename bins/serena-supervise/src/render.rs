//! How a person sees what the control socket answers.

use std::time::Duration;

use mcp_daemon::terminal::{clean, spell, table};
use serde_json::Value;

/// Headings of the table.
const HEADINGS: [&str; 9] = ["NAME", "STATE", "PID", "PORT", "UP", "STARTS", "CONNS", "MEMORY", "IDLE"];
/// Columns of it that are numbers.
const NUMBERS: [usize; 7] = [2, 3, 4, 5, 6, 7, 8];

/// A line about the supervisor, then a table of its instances; below one that is not well, why.
pub fn status(status: &Value) -> String {
    format!(
        "serena-supervise {version}, pid {pid}, up {up}{draining}, ends processes by {kills_by}\n\n{table}",
        version = text(&status["version"]),
        pid = status["pid"],
        up = age(&status["uptime_seconds"]),
        draining = if status["draining"] == true { ", draining" } else { "" },
        kills_by = text(&status["kills_by"]),
        table = instances(&status["instances"]),
    )
}

/// The table alone.
pub fn instances(instances: &Value) -> String {
    let reports = instances.as_array().map(Vec::as_slice).unwrap_or_default();
    let rows: Vec<[String; 9]> = reports.iter().map(row).collect();
    let lines = table(HEADINGS, &NUMBERS, &rows);
    let mut all = format!("{}\n", lines[0]);
    for (report, line) in reports.iter().zip(&lines[1..]) {
        all += &format!("{line}\n");
        if let Some(trouble) = trouble(report) {
            all += &format!("  {trouble}\n");
        }
    }
    all
}

fn row(report: &Value) -> [String; 9] {
    let number = |key: &str| report[key].as_u64().map_or_else(|| "-".into(), |number| number.to_string());
    // Ready for so long; what is on its way, in its state for so long.
    let up = match state(report) {
        "stopped" | "failed" | "backoff" => "-".into(),
        _ if report["ready_seconds"].is_u64() => age(&report["ready_seconds"]),
        _ => age(&report["in_state_seconds"]),
    };
    // Nobody connects to one without a socket.
    let has_socket = report["socket"].is_string();
    let connections = match report["held"].as_u64().unwrap_or_default() {
        _ if !has_socket => "-".into(),
        0 => number("connections"),
        held => format!("{} + {held} held", number("connections")),
    };
    let is_used = report["connections"].as_u64().unwrap_or_default() > 0;
    let is_idle = has_socket && !is_used && report["idle_seconds"].is_u64();
    let idle = if is_idle { age(&report["idle_seconds"]) } else { "-".into() };
    let memory = report["memory_bytes"].as_u64().map_or_else(|| "-".into(), size);
    let name = clean(text(&report["name"]));
    [
        name,
        shown_state(report),
        number("pid"),
        number("port"),
        up,
        number("starts"),
        connections,
        memory,
        idle,
    ]
}

/// The state, and for one at rest what it rests from.
fn shown_state(report: &Value) -> String {
    match (state(report), text(&report["why"])) {
        // What no connection can wake does not sleep.
        ("stopped", "asleep") if report["socket"].is_string() => "asleep".into(),
        ("stopped", "limit") => "stopped (limit)".into(),
        (state, _) => state.to_owned(),
    }
}

fn state(report: &Value) -> &str {
    text(&report["state"])
}

/// What is wrong with an instance, in one line; `None` if it is well.
fn trouble(report: &Value) -> Option<String> {
    let cause = report["cause"].as_str().map(clean).filter(|cause| !cause.is_empty());
    let language_server = report["language_server"].as_str().map(clean);
    let trouble = match state(report) {
        "ready" => return None,
        "degraded" => {
            let server = language_server.map(|said| format!("language server: {said}"));
            cause.or(server).unwrap_or_else(|| "not everything of it works".into())
        }
        "stopped" if text(&report["why"]) != "limit" => return None,
        "failed" | "backoff" => {
            let retry = report["retry_in_seconds"]
                .as_u64()
                .map(|seconds| format!("; next try in {}", spell(seconds)));
            format!("{}{}", cause.unwrap_or_else(|| "it failed".into()), retry.unwrap_or_default())
        }
        _ => {
            let doing = report["doing"].as_str().map(clean);
            [doing, cause].into_iter().flatten().collect::<Vec<_>>().join("; ")
        }
    };
    Some(trouble).filter(|trouble| !trouble.is_empty())
}

/// What an instance is doing, for somebody who waits for it; without anything that changes every second.
pub fn step(report: &Value) -> String {
    let name = clean(text(&report["name"]));
    let starts = match state(report) {
        "preparing" => "is being prepared".to_owned(),
        "starting" => "starts".to_owned(),
        "probing" => match report["pid"].as_u64() {
            Some(pid) => format!("runs as process {pid}, not ready yet"),
            None => "is not ready yet".to_owned(),
        },
        "draining" | "stopping" | "killing" | "finishing" => "stops".to_owned(),
        "backoff" => "is tried again soon".to_owned(),
        "failed" => "has failed".to_owned(),
        "degraded" => "is ready, but degraded".to_owned(),
        "stopped" if report["starts"] == 0 => "has not started yet".to_owned(),
        "stopped" => format!("is {}", shown_state(report)),
        other => format!("is {other}"),
    };
    let why = match state(report) {
        "backoff" | "failed" | "degraded" => report["cause"].as_str().map(clean),
        _ => report["doing"].as_str().map(clean),
    };
    match why.filter(|why| !why.is_empty()) {
        Some(why) => format!("{name} {starts}: {why}"),
        None => format!("{name} {starts}"),
    }
}

/// The same for somebody who waits at a terminal: for how long already, and the last thing that it said.
pub fn waiting(report: &Value, since: Duration) -> String {
    let mut line = step(report);
    if since.as_secs() > 0 {
        line += &format!(", {} s", since.as_secs());
    }
    let last = report["lines"].as_array().and_then(|lines| lines.last()?.as_str()).map(clean);
    if let Some(last) = last.filter(|last| !last.is_empty()) {
        line += &format!(" | {last}");
    }
    line
}

fn text(value: &Value) -> &str {
    value.as_str().unwrap_or_default()
}

fn age(seconds: &Value) -> String {
    spell(seconds.as_u64().unwrap_or_default())
}

fn size(bytes: u64) -> String {
    const MIB: u64 = 1 << 20;
    match bytes / MIB {
        mib @ 0..1024 => format!("{mib} MiB"),
        // Tenths, cut off: 1.9 GiB is less than a limit of 2.
        mib => format!("{}.{} GiB", mib / 1024, mib % 1024 * 10 / 1024),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn report(more: Value) -> Value {
        let mut report = json!({
            "name": "serena", "state": "ready", "why": null, "doing": null, "cause": null, "pid": 4711, "port": 41233,
            "in_state_seconds": 5, "ready_seconds": 300, "retry_in_seconds": null, "starts": 1, "failures": 0,
            "connections": 2, "held": 0, "idle_seconds": 0, "language_server": null, "socket": "unix:/run/x.sock",
            "memory_bytes": 302_000_000_u64, "processes": 5, "lines": ["one", "two"],
        });
        for (key, value) in more.as_object().unwrap() {
            report[key] = value.clone();
        }
        report
    }

    #[test]
    fn a_table_is_as_wide_as_what_stands_in_it() {
        let asleep = report(json!({
            "name": "alice-with-a-long-name", "state": "stopped", "why": "asleep", "pid": null, "port": null,
            "starts": 12, "connections": 0, "memory_bytes": null, "idle_seconds": null, "cause": "an old one",
        }));
        let front = report(json!({"name": "front", "socket": null, "connections": 0, "idle_seconds": 300}));
        let waits = report(
            json!({"name": "waits", "socket": null, "state": "stopped", "why": "asleep", "pid": null, "port": null, "memory_bytes": null, "starts": 0}),
        );
        let status = json!({
            "version": "0.1.0", "pid": 1, "uptime_seconds": 7200, "draining": false, "kills_by": "cgroup",
            "instances": [report(json!({})), asleep, front, waits],
        });
        assert_eq!(
            super::status(&status),
            "serena-supervise 0.1.0, pid 1, up 2 h, ends processes by cgroup\n\n\
             NAME                    STATE     PID   PORT     UP  STARTS  CONNS   MEMORY  IDLE\n\
             serena                  ready    4711  41233  5 min       1      2  288 MiB     -\n\
             alice-with-a-long-name  asleep      -      -      -      12      0        -     -\n\
             front                   ready    4711  41233  5 min       1      -  288 MiB     -\n\
             waits                   stopped     -      -      -       0      -        -     -\n"
        );
    }

    #[test]
    fn what_is_not_well_says_why_below() {
        for (more, expected) in [
            (
                json!({"state": "backoff", "cause": "exit code 1: no such project", "retry_in_seconds": 3}),
                "\n  exit code 1: no such project; next try in 3 s\n",
            ),
            (
                json!({"state": "failed", "cause": null, "retry_in_seconds": 240}),
                "\n  it failed; next try in 4 min\n",
            ),
            (
                json!({"state": "degraded", "language_server": "failed: no pyright"}),
                "\n  language server: failed: no pyright\n",
            ),
            (
                json!({"state": "stopping", "doing": "waits for SIGTERM", "cause": "hangs"}),
                "\n  waits for SIGTERM; hangs\n",
            ),
            (
                json!({"state": "stopped", "why": "limit", "cause": "3 GiB of memory"}),
                "\n  3 GiB of memory\n",
            ),
        ] {
            let table = instances(&json!([report(more)]));
            assert!(table.ends_with(expected), "{table}");
        }
        let well = [json!({"cause": "long ago"}), json!({"state": "stopped", "why": "asked", "cause": "x"})];
        for more in well {
            assert_eq!(instances(&json!([report(more)])).lines().count(), 2);
        }
    }

    #[test]
    fn connections_that_wait_are_counted_apart_and_an_idle_server_is_seen() {
        let held = instances(&json!([report(
            json!({"state": "probing", "ready_seconds": null, "connections": 0, "held": 20})
        )]));
        assert!(held.contains("  0 + 20 held  ") && held.contains("  5 s  "), "{held}");
        let idle = instances(&json!([report(json!({"connections": 0, "idle_seconds": 121}))]));
        assert!(idle.trim_end().ends_with("2 min"), "{idle}");
    }

    #[test]
    fn a_servers_words_cannot_command_the_terminal() {
        let cause = format!("\u{1b}[2J{}\nmore", "x".repeat(1_000));
        let table = instances(&json!([report(json!({"state": "failed", "cause": cause}))]));
        assert!(!table.contains('\u{1b}') && table.lines().count() == 3 && table.len() < 800, "{table}");
    }

    #[test]
    fn memory_is_read_at_a_glance() {
        assert_eq!(
            [size(0), size(5 << 20), size(1023 << 20), size(2047 << 20)],
            ["0 MiB", "5 MiB", "1023 MiB", "1.9 GiB"]
        );
    }

    #[test]
    fn a_step_says_what_is_waited_for() {
        let step = |more: Value| super::step(&report(more));
        assert_eq!(step(json!({"state": "probing"})), "serena runs as process 4711, not ready yet");
        assert_eq!(
            step(json!({"state": "preparing", "doing": "before_start"})),
            "serena is being prepared: before_start"
        );
        assert_eq!(
            step(json!({"state": "backoff", "cause": "exit code 1"})),
            "serena is tried again soon: exit code 1"
        );
        assert_eq!(step(json!({"state": "stopped", "why": "asleep"})), "serena is asleep");
        assert_eq!(
            step(json!({"state": "stopped", "why": "asleep", "starts": 0})),
            "serena has not started yet"
        );
        assert_eq!(waiting(&report(json!({})), Duration::from_secs(1)), "serena is ready, 1 s | two");
        assert_eq!(waiting(&report(json!({ "lines": [] })), Duration::ZERO), "serena is ready");
    }
}
