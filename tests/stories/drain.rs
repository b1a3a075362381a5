//! SIGTERM: what is in flight finishes, what waits is told, streams end, files are removed, the exit status is 0.
#![allow(
    clippy::disallowed_methods,
    clippy::unwrap_used,
    reason = "a test fails by panicking, and its tasks end with its runtime"
)]

use std::{path::Path, process::ExitStatus, time::Duration};

use nix::sys::signal::Signal;
use serde_json::{Value, json};
use support::{Answers, Client, Flavour, RpcFailure, Server, Sessiond};
use tokio::{task::JoinHandle, time::timeout};

const BINARY: &str = env!("CARGO_BIN_EXE_mcp-sessiond");
/// Longer than any test: an exit before it did not wait for it.
const LONG: &str = "grace = '300s'";
/// Longer than any test, as milliseconds.
const FOR_EVER: u64 = 600_000;

async fn in_front_of(server: &Server, settings: &str) -> Sessiond {
    let settings = format!("upstream = '{}'\n{settings}\n", server.url());
    Sessiond::start_set(BINARY, |_| settings, &[]).await
}

fn calling(client: &Client, tool: &'static str, arguments: Value) -> JoinHandle<Result<String, RpcFailure>> {
    let client = client.clone();
    tokio::spawn(async move { client.call_text(tool, arguments).await })
}

/// SIGTERM, and an end far before the long grace is over.
async fn stops_soon(sessiond: &mut Sessiond) -> ExitStatus {
    sessiond.signal(Signal::SIGTERM);
    ends_soon(sessiond).await
}

async fn ends_soon(sessiond: &mut Sessiond) -> ExitStatus {
    timeout(Duration::from_secs(50), sessiond.end()).await.expect("it does not wait for the grace to end")
}

#[tokio::test]
async fn calls_in_flight_finish_and_nobody_new_is_let_in() {
    for answers in [Answers::Json, Answers::Sse] {
        let server = Server::builder(Flavour::Python2).set(|it| it.answers = answers).start().await.unwrap();
        let mut sessiond = in_front_of(&server, LONG).await;
        let client = Client::connect(&sessiond.url()).await.unwrap();
        let calls: Vec<_> = (0..8).map(|_| calling(&client, "count", json!({"sleep_ms": 1500}))).collect();
        server.until(|server| server.started("count") == 8).await;
        sessiond.signal(Signal::SIGTERM);
        sessiond.until_logged("draining").await;
        let (status, reasons) = sessiond.control("GET", "/ready").await;
        assert_eq!(status, 503, "{reasons}");
        let refused = Client::connect(&sessiond.url()).await.unwrap_err();
        assert_eq!(refused.status, None, "nobody listens any more: {refused}");
        assert_eq!(server.executed("count"), 0, "all of that while the calls run");
        for call in calls {
            call.await.unwrap().unwrap();
        }
        assert_eq!(ends_soon(&mut sessiond).await.code(), Some(0));
        assert_eq!((server.executed("count"), server.initializes()), (8, 1), "{answers:?}");
    }
}

#[tokio::test]
async fn streams_end_cleanly_and_idle_clients_keep_nobody_waiting() {
    let server = Server::start(Flavour::Python2).await;
    let mut sessiond = in_front_of(&server, LONG).await;
    let mut clients = Vec::new();
    for _ in 0..4 {
        let client = Client::connect(&sessiond.url()).await.unwrap();
        let events = client.open_get().await.unwrap();
        clients.push((client, events));
    }
    server.until(|server| server.streams() == 4).await;
    let last = json!({"jsonrpc": "2.0", "method": "notifications/message", "params": {"data": "last words"}});
    assert_eq!(server.notify(&last), 4);
    for (_, events) in &mut clients {
        assert_eq!(events.next_message().await, Some(last.clone()));
    }
    assert_eq!(stops_soon(&mut sessiond).await.code(), Some(0));
    for (_, events) in &mut clients {
        assert_eq!((events.next_event().await, events.broken()), (None, None));
    }
    assert_eq!(server.deletes(), 0, "the sessions are to go on after the restart");
}

#[tokio::test]
async fn socket_files_are_gone_after_the_exit() {
    let server = Server::start(Flavour::Python2).await;
    let settings = |directory: &Path| {
        let socket = directory.join("mcp.sock");
        format!("upstream = '{}'\n[[listener]]\naddress = 'unix:{}'\n", server.url(), socket.display())
    };
    let mut sessiond = Sessiond::start_set(BINARY, settings, &[]).await;
    let socket = sessiond.directory().join("mcp.sock");
    let client = Client::connect(&sessiond.url_of(1)).await.unwrap();
    client.call("count", json!({})).await.unwrap();
    assert!(socket.exists() && sessiond.control_socket().exists());
    assert_eq!(sessiond.stop().await.code(), Some(0));
    assert!(!socket.exists(), "the listener's");
    assert!(!sessiond.control_socket().exists(), "the control socket");
    // And what a kill leaves behind is no obstacle.
    sessiond.start_again().await;
    sessiond.kill9().await;
    assert!(socket.exists());
    sessiond.start_again().await;
    client.call("count", json!({})).await.unwrap();
}

#[tokio::test]
async fn a_second_sigterm_exits_at_once() {
    let server = Server::start(Flavour::Python2).await;
    let mut sessiond = in_front_of(&server, LONG).await;
    let client = Client::connect(&sessiond.url()).await.unwrap();
    let call = calling(&client, "count", json!({"sleep_ms": FOR_EVER}));
    server.until(|server| server.started("count") == 1).await;
    sessiond.signal(Signal::SIGTERM);
    sessiond.until_logged("draining").await;
    assert_eq!(stops_soon(&mut sessiond).await.code(), Some(143));
    call.await.unwrap().unwrap_err();
}

#[tokio::test]
async fn a_call_that_outlasts_the_grace_does_not_hold_the_exit_up() {
    let server = Server::start(Flavour::Python2).await;
    let mut sessiond = in_front_of(&server, "grace = '300ms'").await;
    let client = Client::connect(&sessiond.url()).await.unwrap();
    let call = calling(&client, "count", json!({"sleep_ms": FOR_EVER}));
    server.until(|server| server.started("count") == 1).await;
    assert_eq!(stops_soon(&mut sessiond).await.code(), Some(0));
    call.await.unwrap().unwrap_err();
    // The session is not the worse for it.
    sessiond.start_again().await;
    assert_eq!(client.call_text("count", json!({})).await.unwrap(), "1");
}

#[tokio::test]
async fn what_is_parked_is_told_before_the_grace_ends() {
    let server = Server::start(Flavour::Python2).await;
    let mut sessiond = in_front_of(&server, "grace = '1s'\n[stream]\ncomment_after = '600s'").await;
    let client = Client::connect(&sessiond.url()).await.unwrap();
    server.stop().await;
    let calls: Vec<_> = (0..4).map(|_| calling(&client, "count", json!({}))).collect();
    let url = sessiond.url();
    let newcomer = tokio::spawn(async move { Client::connect(&url).await.unwrap_err() });
    sessiond.until_status(|status| status["parked"] == 5).await;
    assert_eq!(sessiond.stop().await.code(), Some(0));
    for call in calls {
        let failure = call.await.unwrap().unwrap_err();
        assert_eq!(failure.status, Some(200), "{failure}");
        assert!(
            failure.message().contains("stopping") && failure.message().contains("did not run"),
            "{failure}"
        );
    }
    let failure = newcomer.await.unwrap();
    assert_eq!((failure.status, failure.error.is_some()), (Some(200), true), "{failure}");
}

#[tokio::test]
async fn what_is_parked_on_a_stream_is_told_there() {
    let server = Server::start(Flavour::Python2).await;
    let mut sessiond = in_front_of(&server, "grace = '1s'\n[stream]\ncomment_after = '20ms'").await;
    let client = Client::connect(&sessiond.url()).await.unwrap();
    server.stop().await;
    let message = json!({"jsonrpc": "2.0", "id": "mine", "method": "tools/call",
        "params": {"name": "count", "arguments": {}}});
    let mut events = client.open_post(&message).await.unwrap();
    assert_eq!(sessiond.stop().await.code(), Some(0));
    let error = events.next_message().await.unwrap();
    assert_eq!(error["id"], "mine");
    assert!(error["error"]["message"].as_str().unwrap().contains("stopping"), "{error}");
    assert_eq!((events.next_event().await, events.broken()), (None, None));
}

#[tokio::test]
async fn what_is_parked_goes_on_if_the_server_comes_back_in_time() {
    let server = Server::start(Flavour::Python2).await;
    let mut sessiond = in_front_of(&server, LONG).await;
    let client = Client::connect(&sessiond.url()).await.unwrap();
    server.stop().await;
    let calls: Vec<_> = (0..4).map(|_| calling(&client, "count", json!({}))).collect();
    sessiond.until_status(|status| status["parked"] == 4).await;
    sessiond.signal(Signal::SIGTERM);
    sessiond.until_logged("draining").await;
    server.start_again().await;
    for call in calls {
        call.await.unwrap().unwrap();
    }
    assert_eq!(ends_soon(&mut sessiond).await.code(), Some(0));
    // What the heal made is on disk.
    sessiond.start_again().await;
    client.call("count", json!({})).await.unwrap();
    assert_eq!((server.executed("count"), server.initializes()), (5, 2));
}
