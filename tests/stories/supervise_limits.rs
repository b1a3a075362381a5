//! What a tree may use, and what its output may cost.
#![allow(
    clippy::disallowed_methods,
    clippy::unwrap_used,
    reason = "a test fails by panicking, and its tasks end with its runtime"
)]

use std::fs;

use serde_json::json;
use support::{Ground, Supervise};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::UnixStream,
};

const BINARY: &str = env!("CARGO_BIN_EXE_serena-supervise");
/// What the first life of a server eats, and no later one.
const EATS: [&str; 4] = ["--eat", "200000000", "--misbehave-first", "1"];

/// Resident memory of a process in bytes.
fn memory(pid: u32) -> u64 {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).unwrap();
    line.split_whitespace().next().unwrap().parse::<u64>().unwrap() * 1024
}

#[tokio::test]
async fn past_the_hard_limit_of_memory_it_is_replaced_at_once() {
    // Measured when it is ready, and not before.
    let settings = "limits.memory_hard = '100MiB'\nlimits.interval = '10s'";
    let mut supervise = Supervise::start(BINARY, |ground| ground.instance("one", settings, &EATS)).await;
    // A connection does not protect it; whoever has it is cut off.
    let mut used = UnixStream::connect(supervise.socket("one")).await.unwrap();
    used.write_all(b"POST /mcp HTTP/1.1\r\n").await.unwrap();
    let _ = used.read_to_end(&mut Vec::new()).await;
    let second = supervise.until("one", |one| one["starts"] == 2 || one["why"] == "limit").await;
    assert_eq!(second["failures"], 0, "a limit is no failure");
    supervise.until_logged("memory_hard is 100MiB").await;
    supervise.client("one").await.unwrap();
    assert_eq!(supervise.journal("one").count("start"), 2);
    supervise.stop_clean().await;
}

#[tokio::test]
async fn past_the_soft_limit_of_memory_it_is_replaced_once_nobody_uses_it() {
    let mut supervise =
        Supervise::start(BINARY, |ground| ground.instance("one", "limits.memory_soft = '100MiB'", &EATS))
            .await;
    let client = supervise.client("one").await.unwrap();
    let stream = client.open_get().await.unwrap();
    let used = supervise.until("one", |one| one["memory_bytes"].as_u64() > Some(190_000_000)).await;
    assert_eq!((&used["starts"], &used["state"]), (&json!(1), &json!("ready")));
    drop((client, stream));
    let rests = supervise.until("one", |one| one["pid"].is_null() || one["starts"] == 2).await;
    assert!(rests["why"] == "limit" || rests["starts"] == 2 || rests["state"] != "ready", "{rests}");
    let client = supervise.client("one").await.unwrap();
    let fresh = supervise.until("one", |one| one["memory_bytes"].is_u64()).await;
    assert_eq!(fresh["starts"], 2);
    assert!(fresh["memory_bytes"].as_u64().unwrap() < 100_000_000, "{fresh}");
    drop(client);
    supervise.stop_clean().await;
}

#[tokio::test]
async fn with_too_many_processes_it_is_replaced_at_once() {
    let mut supervise = Supervise::start(BINARY, |ground| {
        let arguments = ["--children", "12", "--double-fork", "--setsid", "--misbehave-first", "1"];
        ground.instance("one", "start = 'boot'\nlimits.processes = 6", &arguments)
    })
    .await;
    let second = supervise.until("one", |one| one["starts"] == 2 && one["state"] == "ready").await;
    assert_eq!(supervise.living(), [second["pid"].as_i64().unwrap() as i32]);
    let measured = supervise.until("one", |one| one["processes"] == 1).await;
    assert_eq!(measured["starts"], 2);
    supervise.stop_clean().await;
}

#[tokio::test]
async fn one_that_uses_too_much_before_it_is_ready_is_replaced_at_once() {
    let many = ["--children", "12", "--double-fork", "--setsid", "--misbehave-first", "1"];
    for (limit, arguments) in [("memory_hard = '100MiB'", &EATS[..]), ("processes = 6", &many[..])] {
        let arguments = [arguments, &["--never-listen"]].concat();
        let settings = format!("start = 'boot'\nlimits.{limit}");
        let mut supervise =
            Supervise::start(BINARY, |ground| ground.instance("one", &settings, &arguments)).await;
        let second = supervise.until("one", |one| one["starts"] == 2 && one["state"] == "ready").await;
        assert_eq!(second["failures"], 0, "a limit is no failure: {second}");
        supervise.stop_clean().await;
    }
}

#[tokio::test]
async fn one_that_always_uses_too_much_before_it_is_ready_fails() {
    // However long it takes until it uses so much.
    for stable in ["1h", "1ms"] {
        let settings = format!(
            "limits.memory_hard = '100MiB'\nbackoff.starts = 2\nbackoff.retry = '1h'\nbackoff.stable = '{stable}'"
        );
        let arguments = ["--eat", "200000000", "--never-listen"];
        let mut supervise =
            Supervise::start(BINARY, |ground| ground.instance("one", &settings, &arguments)).await;
        supervise.ask("one", "wake").await;
        let failed = supervise.until_state("one", "failed").await;
        assert!(failed["cause"].as_str().unwrap().contains("memory_hard is 100MiB"), "{failed}");
        // Once for nothing, then a failure each time.
        assert_eq!((&failed["starts"], &failed["failures"]), (&json!(3), &json!(2)));
        supervise.stop_clean().await;
    }
}

#[tokio::test]
async fn past_its_age_it_is_replaced_once_nobody_uses_it() {
    let mut supervise = Supervise::start(BINARY, |ground| {
        let settings = "limits.max_age = '500ms'\nstart = 'boot'";
        [ground.instance("idle", settings, &[]), ground.instance("used", settings, &[])].concat()
    })
    .await;
    let client = supervise.client("used").await.unwrap();
    let stream = client.open_get().await.unwrap();
    supervise.until("idle", |one| one["starts"].as_u64() >= Some(3)).await;
    assert_eq!(supervise.instance("used").await["starts"], 1);
    drop((client, stream));
    let renewed = supervise.until("used", |one| one["starts"].as_u64() >= Some(2)).await;
    assert_eq!(renewed["failures"], 0);
    supervise.stop_clean().await;
}

#[tokio::test]
async fn a_line_of_ten_megabytes_costs_no_memory_and_delays_nobody() {
    let mut supervise = Supervise::start(BINARY, |ground| {
        ground.instance("one", "start = 'boot'", &["--long-line", "10485760"])
    })
    .await;
    supervise.until("one", |one| one["lines"].to_string().contains("the long line is over")).await;
    let ready = supervise.until_state("one", "ready").await;
    assert!(ready["lines"].to_string().len() < 100_000);
    assert!(memory(supervise.pid()) < 30_000_000, "{} bytes", memory(supervise.pid()));
    supervise.until_logged("the long line is over").await;
    assert!(supervise.log().iter().all(|line| line.len() < 100_000));
    assert_eq!(supervise.client("one").await.unwrap().call_text("count", json!({})).await.unwrap(), "1");
    supervise.stop_clean().await;
}

#[tokio::test]
async fn a_flood_of_lines_costs_no_memory_and_delays_nobody() {
    let mut supervise =
        Supervise::start(BINARY, |ground| ground.instance("one", "start = 'boot'", &["--flood", "30000000"]))
            .await;
    let client = supervise.client("one").await.unwrap();
    for n in 1..=20 {
        assert_eq!(client.call_text("count", json!({})).await.unwrap(), n.to_string());
    }
    // 300,000 lines of 99 digits; the last one gets here although nobody waits for the rest.
    let last = format!("{:0>99}", 299_999);
    supervise.until("one", |one| one["lines"].to_string().contains(&last)).await;
    assert!(memory(supervise.pid()) < 30_000_000, "{} bytes", memory(supervise.pid()));
    drop(client);
    supervise.stop_clean().await;
}

#[tokio::test]
async fn a_full_stderr_of_the_supervisor_stops_nobody() {
    let supervise = Supervise::prepared(BINARY, &[]);
    fs::write(
        supervise.settings_file(),
        Ground::instance(&supervise, "one", "start = 'boot'", &["--flood", "3000000"]),
    )
    .unwrap();
    let mut command = supervise.bare();
    command.args(["run", "--config", supervise.settings_file().to_str().unwrap()]);
    // Nobody reads it.
    command.stdout(std::process::Stdio::null()).stderr(std::process::Stdio::piped());
    let mut child = command.spawn().unwrap();
    supervise.journal("one").until(|journal| journal.count("listening") == 1).await;
    let last = format!("{:0>99}", 29_999);
    while !supervise.control_socket().exists() {
        tokio::task::yield_now().await;
    }
    supervise.until("one", |one| one["lines"].to_string().contains(&last)).await;
    supervise.until_state("one", "ready").await;
    let (status, _) = supervise.control("POST", "/drain").await;
    assert_eq!(status, 202);
    assert_eq!(child.wait().await.unwrap().code(), Some(0));
    supervise.until_nothing_lives().await;
}
