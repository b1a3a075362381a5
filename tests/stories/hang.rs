//! Silence: long tools are normal, a server that answers nobody any more is found.
#![allow(
    clippy::disallowed_methods,
    clippy::unwrap_used,
    reason = "a test fails by panicking, and its tasks end with its runtime"
)]

use std::time::Duration;

use serde_json::{Value, json};
use support::{Answers, Client, Flavour, Process, RpcFailure, Server, Sessiond, misbehaving_server};
use tokio::task::JoinHandle;

const BINARY: &str = env!("CARGO_BIN_EXE_mcp-sessiond");
/// A hang is found within about a second; a probe's patience is long for a machine that is busy.
const SHORT: &str = "[hang]\nsilence = '150ms'\ninterval = '50ms'\ntimeout = '250ms'\nfailures = 3\n";
/// Far beyond that bound: 150 ms, and three probes.
const LONG_CALL: Duration = Duration::from_millis(3000);

async fn in_front_of(upstream: &str, settings: &str) -> Sessiond {
    let settings = format!("upstream = '{upstream}'\n{settings}");
    Sessiond::start_set(BINARY, |_| settings, &[]).await
}

fn calling(client: &Client, tool: &'static str, arguments: Value) -> JoinHandle<Result<String, RpcFailure>> {
    let client = client.clone();
    tokio::spawn(async move { client.call_text(tool, arguments).await })
}

fn says(log: &[String], text: &str) -> bool {
    log.iter().any(|line| line.contains(text))
}

/// The upstream session, as the server sees it.
async fn upstream_session(client: &Client) -> Value {
    let seen = client.call_text("whoami", json!({})).await.unwrap();
    serde_json::from_str::<Value>(&seen).unwrap()["session"].take()
}

fn assert_unknown(failure: &RpcFailure) {
    assert_eq!(failure.status, Some(200), "{failure}");
    assert!(failure.message().contains("effect is unknown"), "{failure}");
}

#[tokio::test]
async fn a_long_call_is_not_taken_for_a_hang_while_all_else_is_quiet() {
    let mut stories = Vec::new();
    for answers in [Answers::Json, Answers::Sse] {
        stories.push(tokio::spawn(async move {
            let server =
                Server::builder(Flavour::Python2).set(|it| it.answers = answers).start().await.unwrap();
            let sessiond = in_front_of(&server.url(), SHORT).await;
            let client = Client::connect(&sessiond.url()).await.unwrap();
            let arguments = json!({"sleep_ms": LONG_CALL.as_millis() as u64});
            assert_eq!(client.call_text("count", arguments).await.unwrap(), "1", "{answers:?}");
            assert_eq!((server.executed("count"), server.initializes()), (1, 1), "{answers:?}");
            assert_eq!(server.sessions(), 1, "{answers:?}: probes leave no session behind");
            let probes = server
                .requests()
                .iter()
                .filter(|it| it.session.as_deref().is_some_and(|id| id.contains("probe")))
                .count();
            assert!(probes > 0, "{answers:?}: it was silent for long enough to be asked");
            assert!(!says(&sessiond.log(), "upstream hangs"), "{answers:?}");
        }));
    }
    for story in stories {
        story.await.unwrap();
    }
}

#[tokio::test]
async fn a_frozen_server_is_found_and_its_calls_are_settled_once_it_is_replaced() {
    let mut server = Process::start(&misbehaving_server(), Flavour::Python2).await;
    let sessiond = in_front_of(&server.url(), SHORT).await;
    let client = Client::connect(&sessiond.url()).await.unwrap();
    client.request("tools/list", json!({})).await.unwrap();
    server.freeze();
    let harmful: Vec<_> = (0..4).map(|_| calling(&client, "count", json!({}))).collect();
    let harmless: Vec<_> = (0..4).map(|_| calling(&client, "echo", json!({"text": "late"}))).collect();
    let listed = {
        let client = client.clone();
        tokio::spawn(async move { client.request("tools/list", json!({})).await })
    };
    sessiond.until_logged("upstream hangs").await;
    for call in harmful {
        assert_unknown(&call.await.unwrap().unwrap_err());
    }
    server.kill9().await;
    server.start_again().await;
    for call in harmless {
        assert_eq!(call.await.unwrap().unwrap(), "late");
    }
    listed.await.unwrap().unwrap();
    assert_eq!(server.executed(), ["echo"; 4], "nothing of what was in flight ran before, and nothing twice");
    assert_eq!(client.call_text("count", json!({})).await.unwrap(), "1");
}

#[tokio::test]
async fn calls_made_while_a_frozen_server_is_known_to_hang_run_once_it_is_replaced() {
    let mut server = Process::start(&misbehaving_server(), Flavour::Python2).await;
    let sessiond = in_front_of(&server.url(), SHORT).await;
    let client = Client::connect(&sessiond.url()).await.unwrap();
    client.request("tools/list", json!({})).await.unwrap();
    server.freeze();
    assert_unknown(&client.call("count", json!({})).await.unwrap_err());
    // These are parked, not sent: nothing of them is unknown.
    let calls: Vec<_> = (0..4).map(|_| calling(&client, "count", json!({}))).collect();
    sessiond.until_status(|status| status["parked"] == 4).await;
    server.kill9().await;
    server.start_again().await;
    for call in calls {
        call.await.unwrap().unwrap();
    }
    assert_eq!(server.executed(), ["count"; 4]);
}

#[tokio::test]
async fn a_server_that_thaws_after_it_was_given_up_keeps_its_session_and_runs_nothing_twice() {
    let server = Process::start(&misbehaving_server(), Flavour::Python2).await;
    let sessiond = in_front_of(&server.url(), SHORT).await;
    let client = Client::connect(&sessiond.url()).await.unwrap();
    client.request("tools/list", json!({})).await.unwrap();
    let before = upstream_session(&client).await;
    server.freeze();
    let harmless = calling(&client, "echo", json!({"text": "late"}));
    assert_unknown(&client.call("count", json!({})).await.unwrap_err());
    server.thaw();
    assert_eq!(harmless.await.unwrap().unwrap(), "late");
    assert_eq!(upstream_session(&client).await, before, "it is the same server, with the same session");
    let counted: u32 = client.call_text("count", json!({})).await.unwrap().parse().unwrap();
    assert!(counted <= 2, "the given up call ran at most once: {counted}");
}

#[tokio::test]
async fn a_short_freeze_costs_nothing() {
    let server = Process::start(&misbehaving_server(), Flavour::Python2).await;
    // Only the time to the first probe is short: that one waits for the thaw.
    let settings = "[hang]\nsilence = '100ms'\ninterval = '50ms'\ntimeout = '60s'\n";
    let sessiond = in_front_of(&server.url(), settings).await;
    let client = Client::connect(&sessiond.url()).await.unwrap();
    client.request("tools/list", json!({})).await.unwrap();
    server.freeze();
    let calls: Vec<_> = (0..4).map(|_| calling(&client, "count", json!({}))).collect();
    tokio::time::sleep(Duration::from_millis(500)).await;
    server.thaw();
    for call in calls {
        call.await.unwrap().unwrap();
    }
    assert_eq!(server.executed(), ["count"; 4]);
    assert!(!says(&sessiond.log(), "upstream hangs"));
}

#[tokio::test]
async fn a_server_that_never_answers_a_stale_session_is_healed() {
    let server = Server::start(Flavour::Hang).await;
    let sessiond = in_front_of(&server.url(), &format!("{SHORT}[heal]\nattempt_timeout = '500ms'\n")).await;
    let client = Client::builder(&sessiond.url()).patience(Duration::from_secs(20)).connect().await.unwrap();
    client.request("tools/list", json!({})).await.unwrap();
    server.forget_sessions();
    assert_eq!(client.call_text("echo", json!({"text": "healed"})).await.unwrap(), "healed");
    assert_eq!(client.call_text("count", json!({})).await.unwrap(), "1");
    assert_eq!(server.initializes(), 2);
}

#[tokio::test]
async fn initialize_to_a_frozen_server_is_answered_by_the_one_that_replaces_it() {
    let mut server = Process::start(&misbehaving_server(), Flavour::Python2).await;
    let sessiond = in_front_of(&server.url(), SHORT).await;
    server.freeze();
    let url = sessiond.url();
    let client = tokio::spawn(async move { Client::connect(&url).await });
    sessiond.until_logged("upstream hangs").await;
    server.kill9().await;
    server.start_again().await;
    let client = client.await.unwrap().unwrap();
    assert_eq!(client.call_text("count", json!({})).await.unwrap(), "1");
}
