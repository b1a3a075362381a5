//! Requests that wait for a server that is away: bounded by named limits, kept awake with comments, and cancellable.
#![allow(
    clippy::disallowed_methods,
    clippy::unwrap_used,
    reason = "a test fails by panicking, and its tasks end with its runtime"
)]

use std::{path::Path, time::Duration};

use http::{Method, StatusCode};
use serde_json::{Value, json};
use support::{Client, Events, Flavour, RpcFailure, Server, Sessiond};
use tokio::{task::JoinHandle, time::timeout};

const BINARY: &str = env!("CARGO_BIN_EXE_mcp-sessiond");
/// A parked request becomes a stream of comments at once.
const CHATTY: &str = "[stream]\ncomment_after = '20ms'\nkeep_alive = '20ms'\n";

async fn in_front_of(server: &Server, settings: &str) -> Sessiond {
    let settings = format!("upstream = '{}'\n{settings}\n", server.url());
    Sessiond::start_set(BINARY, |_| settings, &[]).await
}

fn calling(client: &Client, tool: &'static str, arguments: Value) -> JoinHandle<Result<String, RpcFailure>> {
    let client = client.clone();
    tokio::spawn(async move { client.call_text(tool, arguments).await })
}

fn call_message(id: Value, tool: &str) -> Value {
    json!({"jsonrpc": "2.0", "id": id, "method": "tools/call", "params": {"name": tool, "arguments": {}}})
}

async fn until_parked(sessiond: &Sessiond, requests: u64) {
    sessiond.until_status(|status| status["parked"] == requests).await;
}

/// Waits for comments; fails if an event comes instead.
async fn until_comments(events: &mut Events, enough: u64) {
    let heard = timeout(Duration::from_secs(60), async {
        while events.comments() < enough {
            // An event is taken only when its blank line is read, so this look at the counter loses nothing.
            if let Ok(event) = timeout(Duration::from_millis(10), events.next_event()).await {
                panic!("only comments were expected: {event:?} {:?}", events.broken());
            }
        }
    });
    heard.await.expect("the stream is kept alive with comments");
}

/// One clean failed call, with its own id (the client has checked that), that says which bound was reached.
fn assert_names(failure: &RpcFailure, bound: &str) {
    assert_eq!(failure.status, Some(200), "{failure}");
    assert!(failure.message().contains(bound), "{bound}: {failure}");
}

/// A client that takes JSON alone, and so has to be answered in one piece.
async fn plain(sessiond: &Sessiond) -> Client {
    let client = Client::connect(&sessiond.url()).await.unwrap();
    Client::builder(&sessiond.url())
        .session(&client.session_id().unwrap())
        .header("accept", "application/json")
        .unconnected()
}

#[tokio::test]
async fn the_bound_on_requests_is_named_and_those_within_it_succeed() {
    let server = Server::start(Flavour::Python2).await;
    let sessiond = in_front_of(&server, "[limits]\nparked_requests = 2").await;
    let client = Client::connect(&sessiond.url()).await.unwrap();
    let other = Client::connect(&sessiond.url()).await.unwrap();
    server.stop().await;
    let within = [calling(&client, "count", json!({})), calling(&other, "count", json!({}))];
    until_parked(&sessiond, 2).await;
    for client in [&client, &other] {
        assert_names(&client.call("count", json!({})).await.unwrap_err(), "limits.parked_requests");
    }
    let newcomer = Client::connect(&sessiond.url()).await.unwrap_err();
    assert_names(&newcomer, "limits.parked_requests");
    server.start_again().await;
    for call in within {
        call.await.unwrap().unwrap();
    }
    assert_eq!(server.executed("count"), 2, "who was told that the call did not run was told the truth");
    until_parked(&sessiond, 0).await;
    client.call("count", json!({})).await.unwrap();
}

#[tokio::test]
async fn the_bound_of_one_subject_does_not_touch_another() {
    let server = Server::start(Flavour::Python2).await;
    let settings = |directory: &Path| {
        let socket = directory.join("trusted.sock");
        format!(
            "upstream = '{}'\n[[listener]]\naddress = 'unix:{}'\ntrusted = true\n\
             [limits]\nparked_requests_per_subject = 1\n",
            server.url(),
            socket.display()
        )
    };
    let sessiond = Sessiond::start_set(BINARY, settings, &[]).await;
    let subject = |name: &str| Client::builder(&sessiond.url_of(1)).header("mcp-auth-subject", name);
    let alice = subject("alice").connect().await.unwrap();
    let bob = subject("bob").connect().await.unwrap();
    server.stop().await;
    let first = calling(&alice, "count", json!({}));
    until_parked(&sessiond, 1).await;
    assert_names(&alice.call("count", json!({})).await.unwrap_err(), "limits.parked_requests_per_subject");
    assert_names(&subject("alice").connect().await.unwrap_err(), "limits.parked_requests_per_subject");
    let other = calling(&bob, "count", json!({}));
    until_parked(&sessiond, 2).await;
    server.start_again().await;
    first.await.unwrap().unwrap();
    other.await.unwrap().unwrap();
    assert_eq!(server.executed("count"), 2);
}

#[tokio::test]
async fn the_bound_on_bytes_is_named_and_small_ones_still_wait() {
    let server = Server::start(Flavour::Python2).await;
    let sessiond = in_front_of(&server, "[limits]\nparked_bytes = '1KiB'").await;
    let client = Client::connect(&sessiond.url()).await.unwrap();
    server.stop().await;
    let large = json!({"text": "x".repeat(1024)});
    assert_names(&client.call("echo", large.clone()).await.unwrap_err(), "limits.parked_bytes");
    let small = calling(&client, "echo", json!({"text": "small"}));
    until_parked(&sessiond, 1).await;
    assert_names(
        &client.call("echo", json!({"text": "x".repeat(900)})).await.unwrap_err(),
        "limits.parked_bytes",
    );
    server.start_again().await;
    assert_eq!(small.await.unwrap().unwrap(), "small");
    client.call("echo", large).await.expect("a server that is there is no matter of parking");
}

#[tokio::test]
async fn the_bound_on_time_is_named_whatever_the_client_takes() {
    let server = Server::start(Flavour::Python2).await;
    let sessiond = in_front_of(&server, &format!("[limits]\nparked_time = '300ms'\n{CHATTY}")).await;
    let plain = plain(&sessiond).await;
    let streaming = Client::connect(&sessiond.url()).await.unwrap();
    server.stop().await;
    let mut events = streaming.open_post(&call_message(json!("mine"), "count")).await.unwrap();
    let refusal = plain.call("count", json!({})).await.unwrap_err();
    assert_names(&refusal, "limits.parked_time");
    // The reason is for an operator.
    assert!(!refusal.message().contains("refused"), "{}", refusal.message());
    let logged = sessiond.until_logged("attempt to heal failed").await;
    assert!(logged.contains(" INFO ") && logged.contains("Connection refused"), "{logged}");
    // This one was told to wait first.
    let event = events.next_event().await.unwrap();
    let error = event.message().unwrap();
    assert_eq!(error["id"], "mine");
    assert!(error["error"]["message"].as_str().unwrap().contains("limits.parked_time"), "{error}");
    assert_eq!((events.next_event().await, events.broken()), (None, None));
    assert!(events.comments() > 0);
    assert_names(&Client::connect(&sessiond.url()).await.unwrap_err(), "limits.parked_time");
    until_parked(&sessiond, 0).await;
    server.start_again().await;
    plain.call("echo", json!({"text": "x"})).await.unwrap();
    assert_eq!(server.executed("count"), 0);
}

#[tokio::test]
async fn a_waiting_client_gets_comments_and_then_its_answer_as_an_event() {
    let server = Server::start(Flavour::Python2).await;
    let sessiond = in_front_of(&server, CHATTY).await;
    let client = Client::connect(&sessiond.url()).await.unwrap();
    server.stop().await;
    let mut harmful = client.open_post(&call_message(json!(1.5), "count")).await.unwrap();
    let mut wrong = client.open_post(&call_message(json!("two"), "no such tool")).await.unwrap();
    for events in [&mut harmful, &mut wrong] {
        until_comments(events, 3).await;
    }
    server.start_again().await;
    let answer = harmful.next_message().await.unwrap();
    assert_eq!((&answer["id"], &answer["result"]["content"][0]["text"]), (&json!(1.5), &json!("1")));
    assert_eq!((harmful.next_event().await, harmful.broken()), (None, None));
    let answer = wrong.next_message().await.unwrap();
    assert_eq!((&answer["id"], &answer["error"]["code"]), (&json!("two"), &json!(-32602)));
    assert_eq!((wrong.next_event().await, wrong.broken()), (None, None));
    assert_eq!(server.executed("count"), 1);
}

#[tokio::test]
async fn a_call_that_was_lost_while_it_ran_is_not_said_not_to_have_run() {
    let server = Server::start(Flavour::Python2).await;
    let sessiond = in_front_of(&server, "[limits]\nparked_time = '300ms'").await;
    let client = Client::connect(&sessiond.url()).await.unwrap();
    client.request("tools/list", json!({})).await.unwrap();
    let call = calling(&client, "read", json!({"sleep_ms": 1000}));
    server.until(|server| server.started("read") == 1).await;
    server.stop().await;
    let failure = call.await.unwrap().unwrap_err();
    assert_names(&failure, "limits.parked_time");
    assert!(failure.message().contains("may have run"), "{failure}");
    assert!(!failure.message().contains("did not run"), "{failure}");
    // One that never left is told the other.
    let failure = client.call("read", json!({})).await.unwrap_err();
    assert!(failure.message().contains("did not run"), "{failure}");
}

#[tokio::test]
async fn a_client_that_takes_json_alone_gets_json_after_the_wait() {
    let server = Server::start(Flavour::Python2).await;
    let sessiond = in_front_of(&server, CHATTY).await;
    let client = plain(&sessiond).await;
    server.stop().await;
    let call = calling(&client, "count", json!({}));
    until_parked(&sessiond, 1).await;
    server.start_again().await;
    assert_eq!(call.await.unwrap().unwrap(), "1");
    assert_eq!(client.last_headers()["content-type"], "application/json");
}

#[tokio::test]
async fn a_parked_request_that_is_cancelled_is_never_sent() {
    for settings in ["", CHATTY] {
        let server = Server::start(Flavour::Python2).await;
        let sessiond = in_front_of(&server, settings).await;
        let client = Client::connect(&sessiond.url()).await.unwrap();
        server.stop().await;
        // Two different ids, and one must not be taken for the other.
        let calls: Vec<_> = [json!(7), json!("7")]
            .into_iter()
            .map(|id| {
                let client = client.clone();
                let request = client.prepared(Method::POST, call_message(id, "count").to_string().into());
                tokio::spawn(async move { client.raw(request).await.unwrap() })
            })
            .collect();
        until_parked(&sessiond, 2).await;
        client
            .notify("notifications/cancelled", json!({"requestId": 7, "reason": "not wanted"}))
            .await
            .unwrap();
        client.notify("notifications/cancelled", json!({"requestId": "unknown"})).await.unwrap();
        until_parked(&sessiond, 1).await;
        server.start_again().await;
        for (number, call) in calls.into_iter().enumerate() {
            let response = call.await.unwrap();
            let body = String::from_utf8_lossy(response.body()).into_owned();
            assert_eq!(response.status(), StatusCode::OK);
            assert_eq!(body.contains("\"result\""), number == 1, "{body}");
        }
        assert_eq!((server.started("count"), server.received("notifications/cancelled")), (1, 0));
    }
}

#[tokio::test]
async fn a_client_that_hangs_up_while_it_waits_leaves_nothing_behind() {
    for settings in ["", CHATTY] {
        let server = Server::start(Flavour::Python2).await;
        let sessiond = in_front_of(&server, settings).await;
        let client = Client::connect(&sessiond.url()).await.unwrap();
        server.stop().await;
        let mut calls: Vec<_> = (0..4).map(|_| calling(&client, "count", json!({}))).collect();
        until_parked(&sessiond, 4).await;
        let stays = calls.pop().unwrap();
        calls.iter().for_each(JoinHandle::abort);
        until_parked(&sessiond, 1).await;
        server.start_again().await;
        assert_eq!(stays.await.unwrap().unwrap(), "1");
        client.call("echo", json!({"text": "on"})).await.unwrap();
        assert_eq!(server.started("count"), 1, "nobody waits for what was given up before it was sent");
    }
}

#[tokio::test]
async fn notifications_are_taken_while_the_server_is_down_and_changed_roots_are_told_after_the_heal() {
    const ROOTS: &str = "notifications/roots/list_changed";
    let server = Server::start(Flavour::Python2).await;
    let sessiond = in_front_of(&server, "").await;
    let client = Client::connect(&sessiond.url()).await.unwrap();
    server.stop().await;
    for method in [ROOTS, "notifications/progress", ROOTS, "notifications/cancelled", ROOTS] {
        client.notify(method, json!({})).await.unwrap();
    }
    client.respond(&json!("from before"), json!({})).await.unwrap();
    server.start_again().await;
    client.call("count", json!({})).await.unwrap();
    assert_eq!((server.received(ROOTS), server.received("notifications/progress")), (1, 0));
    assert_eq!(server.answers(), Vec::<Value>::new());
    server.stop().await;
    server.start_again().await;
    client.call("count", json!({})).await.unwrap();
    assert_eq!(server.received(ROOTS), 1, "told once");
}

#[tokio::test]
async fn changed_roots_are_told_even_if_the_first_heal_gives_up() {
    const ROOTS: &str = "notifications/roots/list_changed";
    let server = Server::start(Flavour::Python2).await;
    let sessiond = in_front_of(&server, "[heal]\ntimeout = '100ms'").await;
    let client = Client::connect(&sessiond.url()).await.unwrap();
    server.stop().await;
    client.notify(ROOTS, json!({})).await.unwrap();
    sessiond.until_logged("session not healed").await;
    server.start_again().await;
    client.call("count", json!({})).await.unwrap();
    assert_eq!(server.received(ROOTS), 1);
}

#[tokio::test]
async fn changed_roots_are_told_to_a_server_that_kept_the_session() {
    const ROOTS: &str = "notifications/roots/list_changed";
    let directory = tempfile::tempdir().unwrap();
    let server =
        Server::builder(Flavour::Python2).unix(directory.path().join("mcp.sock")).start().await.unwrap();
    let sessiond = in_front_of(&server, "").await;
    let client = Client::connect(&sessiond.url()).await.unwrap();
    // Away for a moment: a neighbour says so, the session itself lives on.
    server.set(|switches| switches.not_forwarded = true);
    client.notify(ROOTS, json!({})).await.unwrap();
    let call = calling(&client, "count", json!({}));
    until_parked(&sessiond, 1).await;
    server.set(|switches| switches.not_forwarded = false);
    call.await.unwrap().unwrap();
    let told = |server: &Server| server.requests().iter().rposition(|it| it.method == ROOTS);
    let refused = |server: &Server| server.requests().iter().position(|it| it.method == "tools/list");
    assert_eq!(server.initializes(), 1, "the session was kept");
    assert!(told(&server) > refused(&server), "told again once somebody could hear it");
}

#[tokio::test]
async fn a_stream_can_be_opened_while_the_server_is_down() {
    let server = Server::start(Flavour::Python2).await;
    let sessiond = in_front_of(&server, CHATTY).await;
    let client = Client::connect(&sessiond.url()).await.unwrap();
    server.stop().await;
    let mut events = client.open_get().await.unwrap();
    until_comments(&mut events, 2).await;
    let call = calling(&client, "count", json!({}));
    until_parked(&sessiond, 1).await;
    server.start_again().await;
    call.await.unwrap().unwrap();
    server.until(|server| server.streams() == 1).await;
    let message = json!({"jsonrpc": "2.0", "method": "notifications/message", "params": {"data": "heard"}});
    assert_eq!(server.notify(&message), 1);
    assert_eq!(events.next_message().await, Some(message));
}

#[tokio::test]
async fn a_session_can_be_deleted_while_the_server_is_down_and_what_was_parked_is_told() {
    let server = Server::start(Flavour::Python2).await;
    let sessiond = in_front_of(&server, CHATTY).await;
    let plain = plain(&sessiond).await;
    server.stop().await;
    let parked = calling(&plain, "count", json!({}));
    until_parked(&sessiond, 1).await;
    let streaming = Client::builder(&sessiond.url()).session(&plain.session_id().unwrap()).unconnected();
    let mut events = streaming.open_post(&call_message(json!("mine"), "count")).await.unwrap();
    let mut unasked = streaming.open_get().await.unwrap();
    assert_eq!(streaming.delete().await.unwrap(), 200);
    let failure = parked.await.unwrap().unwrap_err();
    assert_eq!(failure.status, Some(404), "{failure}");
    let error = events.next_message().await.unwrap();
    assert_eq!(error["id"], "mine");
    assert!(error.get("error").is_some(), "{error}");
    assert_eq!((events.next_event().await, events.broken()), (None, None));
    assert_eq!((unasked.next_event().await, unasked.broken()), (None, None));
    server.start_again().await;
    assert_eq!(plain.call("count", json!({})).await.unwrap_err().status, Some(404));
    let other = Client::connect(&sessiond.url()).await.unwrap();
    other.call("echo", json!({"text": "x"})).await.unwrap();
    assert_eq!((server.started("count"), server.initializes(), server.deletes()), (0, 2, 0));
}
