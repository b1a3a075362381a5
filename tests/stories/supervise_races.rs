//! Orders that cross each other: none is lost, and there are never two servers at once.
#![allow(
    clippy::disallowed_methods,
    clippy::unwrap_used,
    reason = "a test fails by panicking, and its tasks end with its runtime"
)]

use serde_json::json;
use support::{Client, Gate, Ground, Supervise};
use tokio::task::JoinSet;

const BINARY: &str = env!("CARGO_BIN_EXE_serena-supervise");

async fn gated(arguments: &'static [&'static str]) -> (Supervise, Gate) {
    let settings = |ground: &Ground| {
        let gate = ground.file("gate");
        ground.instance("one", "", &[&["--gate", &gate], arguments].concat())
    };
    let supervise = Supervise::start(BINARY, settings).await;
    let gate = Gate::new(supervise.file("gate"));
    (supervise, gate)
}

#[tokio::test]
async fn a_stop_during_a_start_ends_it() {
    let (mut supervise, gate) = gated(&[]).await;
    for round in 1..=3 {
        supervise.ask("one", "wake").await;
        let server = gate.next().await;
        let asked = supervise.ask("one", "stop").await;
        assert_ne!(asked["state"], "ready");
        server.gone().await;
        let stopped = supervise.until_state("one", "stopped").await;
        assert_eq!((&stopped["why"], &stopped["failures"]), (&json!("asked"), &json!(0)), "round {round}");
        assert_eq!(supervise.living(), Vec::<i32>::new());
    }
    supervise.stop_clean().await;
}

#[tokio::test]
async fn a_start_during_a_stop_follows_it() {
    let mut supervise =
        Supervise::start(BINARY, |ground| ground.instance("one", "", &["--ignore-term"])).await;
    let journal = supervise.journal("one");
    supervise.ask("one", "wake").await;
    supervise.until_state("one", "ready").await;
    for round in 1..=3 {
        supervise.ask("one", "stop").await;
        // The stop has begun and takes until SIGINT.
        journal.until(|journal| journal.count("signal") == 2 * round - 1).await;
        supervise.ask("one", "wake").await;
        supervise.until("one", |one| one["state"] == "ready" && one["starts"] == round + 1).await;
    }
    assert_eq!(journal.count("overlap"), 0);
    supervise.stop_clean().await;
}

#[tokio::test]
async fn a_connection_during_the_way_to_sleep_is_served_by_the_next_server() {
    let mut supervise =
        Supervise::start(BINARY, |ground| ground.instance("one", "", &["--ignore-term"])).await;
    let client = supervise.client("one").await.unwrap();
    drop(client);
    let journal = supervise.journal("one");
    supervise.until("one", |one| one["connections"] == 0).await;
    supervise.ask("one", "sleep").await;
    journal.until(|journal| journal.signals() == ["TERM"]).await;
    let client = supervise.client("one").await.unwrap();
    assert_eq!(client.call_text("count", json!({})).await.unwrap(), "1");
    assert_eq!((journal.count("start"), journal.count("overlap")), (2, 0));
    drop(client);
    supervise.stop_clean().await;
}

#[tokio::test]
async fn fifty_restarts_at_once_end_with_one_server() {
    let mut supervise =
        Supervise::start(BINARY, |ground| ground.instance("one", "start = 'boot'", &[])).await;
    supervise.until_state("one", "ready").await;
    let mut restarts = JoinSet::new();
    let url = format!("unix:{}:/instances/one/restart", supervise.control_socket().display());
    for _ in 0..50 {
        let url = url.clone();
        restarts.spawn(async move {
            let client = Client::builder(&url).lenient().unconnected();
            let request = client.prepared(http::Method::POST, bytes::Bytes::new());
            client.raw(request).await.unwrap().status().as_u16()
        });
    }
    assert!(restarts.join_all().await.iter().all(|status| *status == 202));
    let ready =
        supervise.until("one", |one| one["state"] == "ready" && one["starts"].as_u64() >= Some(2)).await;
    let journal = supervise.journal("one");
    assert!(journal.count("start") <= 51);
    assert_eq!((journal.count("overlap"), &ready["failures"]), (0, &json!(0)));
    let client = supervise.client("one").await.unwrap();
    client.call("count", json!({})).await.unwrap();
    drop(client);
    supervise.stop_clean().await;
}

#[tokio::test]
async fn a_restart_lets_running_calls_end_first() {
    let mut supervise =
        Supervise::start(BINARY, |ground| ground.instance("one", "stop.drain = '30s'", &[])).await;
    let client = supervise.client("one").await.unwrap();
    let call = tokio::spawn(async move { client.call_text("count", json!({ "sleep_ms": 500 })).await });
    let journal = supervise.journal("one");
    journal.until(|journal| journal.requests("tools/call") == 1).await;
    supervise.ask("one", "restart").await;
    // It comes during the drain, and is no reason to call off the restart.
    let late = supervise.client("one");
    let (call, late) = tokio::join!(call, late);
    assert_eq!(call.unwrap().unwrap(), "1");
    assert_eq!(late.unwrap().call_text("count", json!({})).await.unwrap(), "1");
    assert_eq!((journal.count("start"), journal.count("overlap")), (2, 0));
    supervise.stop_clean().await;
}

#[tokio::test]
async fn wake_and_stop_in_any_order_end_as_the_last_one_says() {
    let mut supervise = Supervise::start(BINARY, |ground| ground.instance("one", "", &[])).await;
    for round in 0..12 {
        for step in 0..round % 5 {
            supervise.ask("one", ["wake", "stop", "restart", "sleep"][(round + step) % 4]).await;
        }
        if round % 2 == 0 {
            supervise.ask("one", "wake").await;
            supervise.until_state("one", "ready").await;
            supervise.client("one").await.unwrap();
        } else {
            supervise.ask("one", "stop").await;
            supervise.until_state("one", "stopped").await;
            assert_eq!(supervise.living(), Vec::<i32>::new());
        }
    }
    assert_eq!(supervise.journal("one").count("overlap"), 0);
    supervise.stop_clean().await;
}
