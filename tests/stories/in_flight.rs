//! Calls in flight when the server is lost: never twice in silence, and always exactly one answer.
#![allow(
    clippy::disallowed_methods,
    clippy::unwrap_used,
    reason = "a test fails by panicking, and its tasks end with its runtime"
)]

use std::time::Duration;

use serde_json::{Value, json};
use support::{
    Answers, Client, Events, Flavour, Mishap, Process, RpcFailure, Server, Sessiond, misbehaving_server,
};
use tokio::{
    task::{JoinHandle, JoinSet},
    time::{Instant, sleep_until},
};

const BINARY: &str = env!("CARGO_BIN_EXE_mcp-sessiond");
/// Longer than any test: such a call ends with its server.
const FOR_EVER: u64 = 600_000;

async fn in_front_of(upstream: &str, settings: &str) -> Sessiond {
    let settings = format!("upstream = '{upstream}'\n{settings}\n");
    Sessiond::start_set(BINARY, |_| settings, &[]).await
}

async fn serving(answers: Answers) -> Server {
    Server::builder(Flavour::Python2).set(|switches| switches.answers = answers).start().await.unwrap()
}

fn calling(client: &Client, tool: &'static str, arguments: Value) -> JoinHandle<Result<String, RpcFailure>> {
    let client = client.clone();
    tokio::spawn(async move { client.call_text(tool, arguments).await })
}

fn call_message(id: &str, tool: &str, arguments: Value) -> Value {
    json!({"jsonrpc": "2.0", "id": id, "method": "tools/call", "params": {"name": tool, "arguments": arguments}})
}

/// One JSON-RPC error in an HTTP 200, which says that nobody knows whether the call ran.
fn assert_unknown(failure: &RpcFailure) {
    assert_eq!(failure.status, Some(200), "{failure}");
    assert!(failure.message().contains("effect is unknown"), "{failure}");
}

/// All messages until the stream ends, which it has to do cleanly.
async fn rest(events: &mut Events) -> Vec<Value> {
    let mut messages = Vec::new();
    while let Some(message) = events.next_message().await {
        messages.push(message);
    }
    assert_eq!(events.broken(), None);
    messages
}

#[tokio::test]
async fn a_harmful_call_in_flight_when_the_server_is_killed_gets_one_error_and_is_not_sent_again() {
    let mut server = Process::start(&misbehaving_server(), Flavour::Python2).await;
    let sessiond = in_front_of(&server.url(), "").await;
    let client = Client::connect(&sessiond.url()).await.unwrap();
    client.request("tools/list", json!({})).await.unwrap();
    // The head of an event stream arrives when the call runs.
    let mut doomed =
        client.open_post(&call_message("doomed", "count", json!({"sleep_ms": FOR_EVER}))).await.unwrap();
    server.kill9().await;
    // The server is still dead: the error need not wait for it.
    let messages = rest(&mut doomed).await;
    assert_eq!((messages.len(), &messages[0]["id"]), (1, &json!("doomed")), "{messages:?}");
    assert!(messages[0]["error"]["message"].as_str().unwrap().contains("effect is unknown"), "{messages:?}");
    server.start_again().await;
    assert_eq!(client.call_text("echo", json!({"text": "on"})).await.unwrap(), "on");
    assert_eq!(server.executed(), ["echo"], "the call died with its server");
    assert_eq!(client.call_text("count", json!({})).await.unwrap(), "1");
}

#[tokio::test]
async fn harmless_calls_in_flight_when_the_server_is_killed_succeed_with_annotations_asked_for_after_the_heal()
 {
    let mut server = Process::start(&misbehaving_server(), Flavour::Python2).await;
    let sessiond = in_front_of(&server.url(), "").await;
    // It never lists the tools.
    let client = Client::connect(&sessiond.url()).await.unwrap();
    let mut streams = Vec::new();
    for tool in ["count", "read", "idempotent_set"] {
        let arguments = json!({"sleep_ms": 1500, "value": 7});
        streams.push((tool, client.open_post(&call_message(tool, tool, arguments)).await.unwrap()));
    }
    server.kill9().await;
    assert_eq!(server.executed(), [""; 0], "killed while they ran, before their effects");
    server.start_again().await;
    for (tool, stream) in &mut streams {
        let messages = rest(stream).await;
        assert_eq!((messages.len(), &messages[0]["id"]), (1, &json!(tool)), "{messages:?}");
        assert_eq!(messages[0].get("error").is_some(), *tool == "count", "{messages:?}");
    }
    let mut executed = server.executed();
    executed.sort();
    assert_eq!(executed, ["idempotent_set", "read"]);
}

#[tokio::test]
async fn calls_whose_answer_breaks_off_anywhere_run_twice_only_if_that_does_no_harm() {
    for answers in [Answers::Json, Answers::Sse] {
        for bytes in [0, 1, 30, 80] {
            let server = serving(answers).await;
            let sessiond = in_front_of(&server.url(), "").await;
            let client = Client::connect(&sessiond.url()).await.unwrap();
            let breaks = || server.next(1, Mishap::die_after(bytes).on("tools/call"));
            breaks();
            assert_unknown(&client.call("count", json!({})).await.unwrap_err());
            assert_eq!(server.executed("count"), 1, "{answers:?} {bytes}");
            for (tool, result) in [("echo", "said"), ("idempotent_set", "set"), ("read", "5")] {
                breaks();
                let again = client.call_text(tool, json!({"text": "said", "value": 5})).await;
                assert_eq!(again.as_deref().ok(), Some(result), "{answers:?} {bytes} {tool}: {again:?}");
                assert_eq!(server.executed(tool), 2, "{answers:?} {bytes} {tool}");
            }
            server.next(1, Mishap::die_after(bytes).on("resources/read"));
            client.request("resources/read", json!({"uri": "test://one"})).await.unwrap();
            assert_eq!(
                (server.mishaps_left(), server.initializes()),
                (0, 1),
                "the session itself was never lost"
            );
        }
    }
}

#[tokio::test]
async fn a_failure_that_speaks_of_a_session_of_the_tools_own_is_the_answer_and_the_call_is_not_sent_again() {
    for answers in [Answers::Json, Answers::Sse] {
        let server = serving(answers).await;
        let sessiond = in_front_of(&server.url(), "").await;
        let client = Client::connect(&sessiond.url()).await.unwrap();
        for (status, sentence) in [
            (500, "invalid session id: the browser was closed"),
            (502, "session not found"),
            (503, "no such session: terminal 7"),
        ] {
            server.next(1, Mishap::answer(status, "text/plain", sentence).on("tools/call"));
            let failure = client.call("count", json!({})).await.unwrap_err();
            assert_eq!(failure.status, Some(200), "{failure}");
            assert!(failure.message().contains(&format!("answered {status}")), "{failure}");
            assert_eq!((server.initializes(), server.executed("count")), (1, 0), "{status}");
        }
        assert_eq!(client.call_text("count", json!({})).await.unwrap(), "1");
    }
}

/// What a server says of a session that it does not know.
fn stale() -> Mishap {
    let error = r#"{"jsonrpc":"2.0","id":null,"error":{"code":-32600,"message":"Session not found"}}"#;
    Mishap::answer(404, "application/json", error)
}

#[tokio::test]
async fn a_call_that_was_answered_before_the_server_died_keeps_its_answer_and_is_not_sent_again() {
    for answers in [Answers::Json, Answers::Sse] {
        let server = serving(answers).await;
        let sessiond = in_front_of(&server.url(), "").await;
        let client = Client::connect(&sessiond.url()).await.unwrap();
        client.request("tools/list", json!({})).await.unwrap();
        server.clear();
        // As far as anybody can know, this ran before it failed.
        server.next(1, Mishap::rpc_error(-32602, "bad field, found after the effect").on("tools/call"));
        server.next(1, Mishap::hang().on("tools/list"));
        let call = calling(&client, "count", json!({}));
        server.until(|server| server.received("tools/list") == 1).await;
        server.stop().await;
        let failure = call.await.unwrap().unwrap_err();
        assert_eq!((failure.status, failure.code()), (Some(200), Some(-32602)), "{failure}");
        server.start_again().await;
        assert_eq!(client.call_text("count", json!({})).await.unwrap(), "1");
        assert_eq!(server.received("tools/call"), 2, "the one that failed, and the last one");
    }
}

#[tokio::test]
async fn a_failure_that_a_lost_session_follows_does_not_prove_that_the_call_did_not_run() {
    for answers in [Answers::Json, Answers::Sse] {
        for (mishap, is_answer) in [
            (Mishap::rpc_error(-32602, "bad field"), true),
            (Mishap::rpc_error(-32002, "Server not initialized"), true),
            (Mishap::answer(400, "text/plain", "bad field"), true),
            (Mishap::answer(500, "text/plain", "the browser session was closed"), false),
            (Mishap::answer(503, "text/plain", "session expired"), false),
        ] {
            for (tool, sent) in [("count", 1), ("echo", 2)] {
                let server = serving(answers).await;
                let sessiond = in_front_of(&server.url(), "").await;
                let client = Client::connect(&sessiond.url()).await.unwrap();
                client.request("tools/list", json!({})).await.unwrap();
                server.next(1, mishap.clone().on("tools/call"));
                // Gone in the moment in between, and by the word of a server of quite another kind.
                server.next(1, stale().on("tools/list"));
                let outcome = client.call_text(tool, json!({"text": "again"})).await;
                assert_eq!(outcome.is_ok(), tool == "echo", "{mishap:?} {outcome:?}");
                if let Err(failure) = outcome {
                    let is_unknown = failure.message().contains("effect is unknown");
                    assert_eq!(is_unknown, !is_answer, "{mishap:?} {failure}");
                }
                assert_eq!(server.received("tools/call"), sent, "{mishap:?} {tool}");
                assert_eq!(server.mishaps_left(), 0, "{mishap:?} {tool}");
            }
        }
    }
}

#[tokio::test]
async fn a_tool_that_speaks_of_a_language_server_that_is_not_initialized_runs_once() {
    for answers in [Answers::Json, Answers::Sse] {
        let server = serving(answers).await;
        let sessiond = in_front_of(&server.url(), "").await;
        let client = Client::connect(&sessiond.url()).await.unwrap();
        server.next(1, Mishap::rpc_error(-32002, "Server not initialized").on("tools/call"));
        let failure = client.call("count", json!({})).await.unwrap_err();
        assert_eq!((failure.status, failure.code()), (Some(200), Some(-32002)), "{failure}");
        assert_eq!((server.initializes(), server.received("tools/call")), (1, 1));
    }
}

#[tokio::test]
async fn sixty_four_harmful_calls_in_flight_at_a_crash_get_sixty_four_errors_and_run_once_each() {
    for answers in [Answers::Json, Answers::Sse] {
        let server = serving(answers).await;
        let sessiond = in_front_of(&server.url(), "").await;
        let client = Client::connect(&sessiond.url()).await.unwrap();
        let calls: Vec<_> = (0..64).map(|_| calling(&client, "count", json!({"sleep_ms": 1000}))).collect();
        server.until(|server| server.started("count") == 64).await;
        server.stop().await;
        server.start_again().await;
        for call in calls {
            assert_unknown(&call.await.unwrap().unwrap_err());
        }
        // What a dying server was doing still happens.
        server.until(|server| server.executed("count") == 64).await;
        assert_eq!(client.call_text("count", json!({})).await.unwrap(), "65");
        assert_eq!((server.started("count"), server.initializes()), (65, 2));
    }
}

#[tokio::test]
async fn what_a_call_said_before_the_loss_is_kept_and_its_error_comes_after_it() {
    let server = serving(Answers::Sse).await;
    let sessiond = in_front_of(&server.url(), "").await;
    let client = Client::connect(&sessiond.url()).await.unwrap();
    // In the middle of an event, after some.
    server.next(1, Mishap::die_after(400).on("tools/call"));
    let message = json!({"jsonrpc": "2.0", "id": 7, "method": "tools/call",
        "params": {"name": "progress", "arguments": {"n": 5}, "_meta": {"progressToken": "t"}}});
    let mut events = client.open_post(&message).await.unwrap();
    let messages = rest(&mut events).await;
    let (last, before) = messages.split_last().unwrap();
    assert!((1..5).contains(&before.len()), "{messages:?}");
    for (step, notification) in before.iter().enumerate() {
        assert_eq!(notification["params"]["progress"], step + 1, "{messages:?}");
    }
    assert_eq!(last["id"], 7);
    assert!(last["error"]["message"].as_str().unwrap().contains("effect is unknown"), "{messages:?}");
    assert_eq!(server.executed("progress"), 1);
}

#[tokio::test]
async fn annotations_can_be_distrusted_methods_without_effect_are_still_sent_again() {
    let server = serving(Answers::Json).await;
    let sessiond = in_front_of(&server.url(), "trust_annotations = false").await;
    let client = Client::connect(&sessiond.url()).await.unwrap();
    client.request("tools/list", json!({})).await.unwrap();
    for tool in ["read", "idempotent_set", "count"] {
        server.next(1, Mishap::die_after(0).on("tools/call"));
        assert_unknown(&client.call(tool, json!({"value": 1})).await.unwrap_err());
        assert_eq!(server.executed(tool), 1, "{tool}");
    }
    for (method, params) in [
        ("tools/list", json!({})),
        ("resources/list", json!({})),
        ("resources/read", json!({"uri": "test://one"})),
        ("prompts/list", json!({})),
        ("prompts/get", json!({"name": "greet"})),
        ("completion/complete", json!({})),
        ("ping", json!({})),
    ] {
        server.next(1, Mishap::die_after(0).on(method));
        client.request(method, params).await.unwrap_or_else(|failure| panic!("{method}: {failure}"));
    }
}

#[tokio::test]
async fn annotations_of_the_server_as_it_is_now_decide() {
    let server = serving(Answers::Json).await;
    let sessiond = in_front_of(&server.url(), "").await;
    let client = Client::connect(&sessiond.url()).await.unwrap();
    client.request("tools/list", json!({})).await.unwrap();
    let changed = server.tools().into_iter().map(|mut tool| {
        if tool["name"] == "read" {
            tool["annotations"] = json!({});
        }
        tool
    });
    server.set_tools(changed.collect());
    client.request("tools/list", json!({})).await.unwrap();
    server.next(1, Mishap::die_after(0).on("tools/call"));
    assert_unknown(&client.call("read", json!({})).await.unwrap_err());
    server.next(1, Mishap::die_after(0).on("tools/call"));
    client.call("echo", json!({"text": "still harmless"})).await.unwrap();
    assert_eq!((server.executed("read"), server.executed("echo")), (1, 2));
}

#[tokio::test]
async fn an_intermediarys_502_for_a_lost_session_leaves_a_harmful_call_unknown() {
    let server = Server::start(Flavour::BadGateway502).await;
    let sessiond = in_front_of(&server.url(), "").await;
    let client = Client::connect(&sessiond.url()).await.unwrap();
    server.forget_sessions();
    assert_unknown(&client.call("count", json!({})).await.unwrap_err());
    assert_eq!(
        client.call_text("count", json!({})).await.unwrap(),
        "1",
        "the next one finds the session healed"
    );
    assert_eq!((server.executed("count"), server.initializes()), (1, 2));
}

#[tokio::test]
async fn a_server_that_always_breaks_off_is_not_asked_for_ever() {
    for answers in [Answers::Json, Answers::Sse] {
        let server = serving(answers).await;
        let sessiond = in_front_of(&server.url(), "").await;
        let client = Client::connect(&sessiond.url()).await.unwrap();
        server.next(100, Mishap::die_after(0).on("tools/call"));
        let failure = client.call("echo", json!({"text": "x"})).await.unwrap_err();
        assert_eq!(failure.status, Some(200), "{failure}");
        assert!(failure.error.is_some(), "{failure}");
        assert!((2..=8).contains(&server.executed("echo")), "{}", server.executed("echo"));
    }
}

#[tokio::test]
async fn a_session_lost_again_and_again_is_healed_a_few_times_and_then_reported() {
    let server = Server::start(Flavour::Python2).await;
    let sessiond = in_front_of(&server.url(), "").await;
    let client = Client::connect(&sessiond.url()).await.unwrap();
    let gone = r#"{"jsonrpc":"2.0","id":null,"error":{"code":-32600,"message":"Session not found"}}"#;
    server.next(100, Mishap::answer(404, "application/json", gone).on("tools/call"));
    let failure = client.call("count", json!({})).await.unwrap_err();
    // A 404 would tell the client to throw its session away, which is as good as ever in the next moment.
    assert_eq!((failure.status, failure.error.is_some()), (Some(200), true), "{failure}");
    assert!((2..=10).contains(&server.initializes()), "{}", server.initializes());
    assert_eq!(server.executed("count"), 0);
}

#[tokio::test]
async fn a_server_that_closes_idle_connections_every_5_seconds_costs_not_one_call() {
    const CLIENTS: u64 = 41;
    // uvicorn's; a connection of that age is never to be used again, not even in the moment before the close is seen.
    const IDLE: Duration = Duration::from_secs(5);
    let server = Server::builder(Flavour::Python2)
        .set(|switches| (switches.idle_timeout, switches.closes_late) = (Some(IDLE), true))
        .start()
        .await
        .unwrap();
    let sessiond = in_front_of(&server.url(), "").await;
    let client = Client::connect(&sessiond.url()).await.unwrap();
    let mut idle_since = Instant::now();
    // All at once, so that there are as many idle connections as calls; then around the age at which sessiond lets go of
    // them, and around the one at which the server closes them.
    for (age, step) in [(0, 0), (2_900, 5), (4_900, 5)] {
        let mut calls = JoinSet::new();
        for number in 0..CLIENTS {
            let client = client.clone();
            let at = idle_since + Duration::from_millis(age + number * step);
            calls.spawn(async move {
                sleep_until(at).await;
                // Longer than all of them together: none takes the connection of another.
                client.call_text("count", json!({"sleep_ms": 300})).await
            });
        }
        while let Some(call) = calls.join_next().await {
            call.unwrap().unwrap();
        }
        idle_since = Instant::now();
    }
    assert_eq!((server.started("count"), server.initializes()), (3 * CLIENTS, 1));
}

#[tokio::test]
async fn an_initialize_whose_answer_breaks_off_is_sent_again() {
    for answers in [Answers::Json, Answers::Sse] {
        for bytes in [0, 30] {
            let server = serving(answers).await;
            let sessiond = in_front_of(&server.url(), "").await;
            server.next(1, Mishap::die_after(bytes).on("initialize"));
            let client = Client::connect(&sessiond.url()).await;
            let client = client.unwrap_or_else(|failure| panic!("{answers:?} {bytes}: {failure}"));
            assert_eq!(client.call_text("count", json!({})).await.unwrap(), "1");
        }
    }
}

#[tokio::test]
async fn an_initialize_in_flight_when_the_server_is_killed_is_answered_by_the_next_one() {
    let server = serving(Answers::Json).await;
    let sessiond = in_front_of(&server.url(), "").await;
    server.set(|switches| switches.hang = true);
    let url = sessiond.url();
    let client = tokio::spawn(async move { Client::connect(&url).await });
    server.until(|server| server.received("initialize") == 1).await;
    server.stop().await;
    server.set(|switches| switches.hang = false);
    sessiond.until_status(|status| status["parked"] == 1).await;
    server.start_again().await;
    let client = client.await.unwrap().unwrap();
    assert_eq!(client.call_text("count", json!({})).await.unwrap(), "1");
}
