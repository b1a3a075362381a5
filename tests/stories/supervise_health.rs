//! Whether a server that runs is also well: one that hangs is replaced, a busy one never, and a language server that
//! fails is said and nothing more.
#![allow(
    clippy::disallowed_methods,
    clippy::unwrap_used,
    reason = "a test fails by panicking, and its tasks end with its runtime"
)]

use std::time::Duration;

use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};
use serde_json::{Value, json};
use support::{Client, Supervise};
use tokio::{io::AsyncReadExt as _, net::TcpListener, time::timeout};

const BINARY: &str = env!("CARGO_BIN_EXE_serena-supervise");
/// Three of these in a row are over in a second.
const QUICK: &str =
    "start = 'boot'\nliveness.interval = '100ms'\nliveness.timeout = '200ms'\nliveness.failures = 3";

async fn running(settings: &str, arguments: &[&str]) -> Supervise {
    let supervise = Supervise::start(BINARY, |ground| ground.instance("one", settings, arguments)).await;
    supervise.journal("one").until(|journal| journal.count("listening") == 1).await;
    supervise
}

fn signal(one: &Value, signal: Signal) {
    kill(Pid::from_raw(one["pid"].as_i64().unwrap() as i32), signal).unwrap();
}

#[tokio::test]
async fn a_stopped_server_is_found_and_replaced() {
    let mut supervise = running(QUICK, &["--children", "3", "--setsid"]).await;
    let ready = supervise.until_state("one", "ready").await;
    let client = supervise.client("one").await.unwrap();
    signal(&ready, Signal::SIGSTOP);
    let (url, waiting) = (supervise.url("one"), client.clone());
    // One on a connection of before, one on a new one: the frozen server's socket still accepts.
    let old = tokio::spawn(async move { waiting.call_text("count", json!({})).await });
    let new = tokio::spawn(async move { Client::builder(&url).lenient().connect().await });
    let second = supervise.until("one", |one| one["state"] == "ready" && one["starts"] == 2).await;
    assert_ne!(second["pid"], ready["pid"]);
    // They end, one way or the other: nobody waits for a dead server for ever.
    let _ = (old.await.unwrap(), new.await.unwrap());
    assert_eq!(supervise.client("one").await.unwrap().call_text("count", json!({})).await.unwrap(), "1");
    let journal = supervise.journal("one");
    assert_eq!((journal.count("start"), journal.count("overlap")), (2, 0));
    supervise.stop_clean().await;
}

#[tokio::test]
async fn a_server_that_never_answers_is_given_up() {
    let settings = format!("{QUICK}\nprobe = 'tcp'");
    let mut supervise = running(&settings, &["--hang"]).await;
    // TCP alone tells nothing: it accepts.
    let settled = supervise.until("one", |one| one["state"] == "ready").await;
    assert_eq!(settled["starts"], 1);
    supervise.stop_clean().await;

    let settings = "start_timeout = '700ms'\nbackoff.starts = 2\nbackoff.retry = '1h'";
    let mut supervise =
        Supervise::start(BINARY, |ground| ground.instance("one", settings, &["--hang"])).await;
    supervise.ask("one", "wake").await;
    let failed = supervise.until_state("one", "failed").await;
    assert!(failed["cause"].as_str().unwrap().contains("not ready within 700ms"), "{failed}");
    supervise.stop_clean().await;
}

#[tokio::test]
async fn a_busy_server_is_left_alone() {
    let mut supervise = running(QUICK, &["--busy", "4s"]).await;
    // Ready only when it answers, so the burning began before or after; what counts is that it is not killed for it.
    supervise.journal("one").until(|journal| journal.count("computed") == 1).await;
    let ready = supervise.until_state("one", "ready").await;
    assert_eq!((&ready["starts"], &ready["failures"]), (&json!(1), &json!(0)));
    supervise.stop_clean().await;
}

#[tokio::test]
async fn a_ready_server_that_computes_for_long_is_left_alone() {
    // Ready by its own word, just before it begins.
    let settings = format!("{QUICK}\nprobe = 'notify'");
    let mut supervise = running(&settings, &["--notify", "--busy", "4s"]).await;
    supervise.until_state("one", "ready").await;
    let journal = supervise.journal("one");
    assert_eq!(journal.count("computed"), 0, "it was ready before");
    journal.until(|journal| journal.count("computed") == 1).await;
    let ready = supervise.until_state("one", "ready").await;
    assert_eq!((&ready["starts"], &ready["failures"]), (&json!(1), &json!(0)), "{ready}");
    supervise.stop_clean().await;
}

#[tokio::test]
async fn a_server_whose_call_takes_long_is_left_alone() {
    let mut supervise = running(QUICK, &[]).await;
    let client = supervise.client("one").await.unwrap();
    assert_eq!(client.call_text("count", json!({ "sleep_ms": 3_000 })).await.unwrap(), "1");
    assert_eq!(supervise.instance("one").await["starts"], 1);
    drop(client);
    supervise.stop_clean().await;
}

#[tokio::test]
async fn a_crash_now_and_then_is_never_too_much() {
    // Two in a row would be.
    let settings = "start = 'boot'\nbackoff.starts = 2\nbackoff.retry = '1h'\nbackoff.stable = '100ms'";
    let mut supervise = running(settings, &[]).await;
    for crash in 1..=3 {
        let ready = supervise.until("one", |one| one["ready_seconds"].as_u64() >= Some(1)).await;
        signal(&ready, Signal::SIGKILL);
        supervise.until("one", |one| one["starts"] == crash + 1 && one["state"] == "ready").await;
    }
    supervise.stop_clean().await;
}

#[tokio::test]
async fn a_language_server_that_becomes_ready_is_said() {
    let mut supervise =
        running("start = 'boot'\nlanguage_server = true", &["--dashboard", "starting,starting,ready"]).await;
    let ready = supervise.until("one", |one| one["language_server"] == "ready").await;
    assert_eq!((&ready["state"], &ready["starts"]), (&json!("ready"), &json!(1)));
    supervise.stop_clean().await;
}

#[tokio::test]
async fn a_language_server_that_fails_or_is_stuck_degrades_and_restarts_nothing() {
    for (script, settings) in [
        ("starting,failed", ""),
        // Recovered by itself, or by the tool that restarts it.
        ("starting,failed,failed,failed,ready", ""),
        ("starting", "start_timeout = '1200ms'"),
    ] {
        let settings = format!("start = 'boot'\nlanguage_server = true\n{settings}");
        let mut supervise = running(&settings, &["--dashboard", script]).await;
        let degraded = supervise.until_state("one", "degraded").await;
        assert_eq!((&degraded["starts"], &degraded["failures"]), (&json!(1), &json!(0)), "{script}");
        let client = supervise.client("one").await.unwrap();
        assert_eq!(client.call_text("count", json!({})).await.unwrap(), "1", "all but symbols works");
        drop(client);
        if script.ends_with("ready") {
            supervise.until_state("one", "ready").await;
        }
        assert_eq!(supervise.journal("one").count("start"), 1);
        supervise.stop_clean().await;
    }
}

#[tokio::test]
async fn a_dashboard_that_says_nothing_useful_changes_nothing() {
    for script in ["garbage", "hang"] {
        let mut supervise =
            running(&format!("{QUICK}\nlanguage_server = true"), &["--dashboard", script]).await;
        let journal = supervise.journal("one");
        journal.until(|journal| journal.count("dashboard") >= 2).await;
        let ready = supervise.until_state("one", "ready").await;
        assert_eq!(ready["starts"], 1, "{script}");
        // While it waits for the dashboard it sees all the same that the server is gone.
        signal(&ready, Signal::SIGKILL);
        supervise.until("one", |one| one["starts"] == 2 && one["state"] == "ready").await;
        supervise.stop_clean().await;
    }
}

#[tokio::test]
async fn a_stranger_where_the_dashboard_should_be_hears_nothing() {
    let decoy = TcpListener::bind("127.0.0.1:0").await.unwrap();
    // The port that dashboards usually have; somebody else may be there, and then the other decoy has to do.
    let usual = TcpListener::bind("127.0.0.1:24282").await.ok();
    let port = decoy.local_addr().unwrap().port().to_string();
    let settings = "start = 'boot'\nlanguage_server = true";
    let mut supervise = running(settings, &["--dashboard", "ready", "--dashboard-says", &port]).await;
    let asked = supervise.until("one", |one| one["language_server"].is_string()).await;
    assert_eq!((&asked["state"], &asked["language_server"]), (&json!("ready"), &json!("unknown")));
    supervise.stop_clean().await;
    for decoy in [Some(decoy), usual].into_iter().flatten() {
        // Whatever came would have come by now.
        if let Ok(Ok((mut stream, _))) = timeout(Duration::from_millis(1), decoy.accept()).await {
            let mut said = Vec::new();
            let _ = timeout(Duration::from_millis(100), stream.read_to_end(&mut said)).await;
            panic!("a stranger was asked: {}", String::from_utf8_lossy(&said));
        }
    }
}
