//! The stateless era, 2026-07-28: bytes pass, requests wait for a server that is away, subscriptions are held.
#![allow(
    clippy::disallowed_methods,
    clippy::unwrap_used,
    reason = "a test fails by panicking, and its tasks end with its runtime"
)]

use std::time::Duration;

use bytes::Bytes;
use http::{Method, Request, Response};
use serde_json::{Value, json};
use support::{Answers, Client, Events, Flavour, Mishap, Server, Sessiond};
use tokio::time::timeout;

const BINARY: &str = env!("CARGO_BIN_EXE_mcp-sessiond");
const VERSION: &str = "2026-07-28";

async fn in_front_of(server: &Server, settings: &str) -> Sessiond {
    let settings = format!("upstream = '{}'\n{settings}\n[stream]\nkeep_alive = '50ms'\n", server.url());
    Sessiond::start_set(BINARY, |_| settings, &[]).await
}

/// A client of this era, for one method (and tool).
fn modern(url: &str, method: &str, name: Option<&str>) -> Client {
    let client = Client::builder(url).header("mcp-protocol-version", VERSION).header("mcp-method", method);
    match name {
        Some(name) => client.header("mcp-name", name).unconnected(),
        None => client.unconnected(),
    }
}

fn meta() -> Value {
    json!({"io.modelcontextprotocol/protocolVersion": VERSION, "io.modelcontextprotocol/clientCapabilities": {}})
}

fn message(id: Value, method: &str, mut params: Value) -> Value {
    params["_meta"] = meta();
    json!({"jsonrpc": "2.0", "id": id, "method": method, "params": params})
}

fn call(id: u64, tool: &str, arguments: Value) -> Value {
    message(json!(id), "tools/call", json!({"name": tool, "arguments": arguments}))
}

/// POSTs a `tools/call` and returns the answer, whole.
async fn post(url: &str, tool: &str, id: u64, arguments: Value) -> Response<Bytes> {
    let client = modern(url, "tools/call", Some(tool));
    let request = client.prepared(Method::POST, call(id, tool, arguments).to_string().into());
    client.raw(request).await.unwrap()
}

/// All messages of an answer, whatever its framing.
fn messages(answer: &Response<Bytes>) -> Vec<Value> {
    let text = String::from_utf8(answer.body().to_vec()).unwrap();
    if answer.headers()["content-type"] == "application/json" {
        return vec![serde_json::from_str(&text).unwrap()];
    }
    let data = text
        .lines()
        .filter_map(|line| line.strip_prefix("data:"))
        .map(str::trim)
        .filter(|data| !data.is_empty());
    data.map(|data| serde_json::from_str(data).unwrap()).collect()
}

fn notification(text: &str) -> Value {
    json!({"jsonrpc": "2.0", "method": "notifications/tools/list_changed", "params": {"x": text}})
}

/// What came with a notification pushed to a subscription.
async fn next(events: &mut Events) -> Value {
    let next = timeout(Duration::from_secs(60), events.next_message()).await.expect("a message in time");
    next.expect("the stream is open")["params"]["x"].take()
}

#[tokio::test]
async fn bodies_and_headers_pass_byte_for_byte_in_both_directions() {
    for answers in [Answers::Json, Answers::Sse] {
        let server = Server::builder(Flavour::Python2)
            .set(|switches| switches.answers = answers)
            .start()
            .await
            .unwrap();
        let sessiond = in_front_of(&server, "").await;
        let spaced = format!(
            "\n{{ \"params\" : {{\"arguments\":{{\"text\":\"caf\\u00e9 \u{1f980}\"}}, \"name\":\"echo\",\"_meta\":{}}},\t\"method\":\"tools\\/call\",\"id\":\"a\\u0062\",\"jsonrpc\":\"2.0\"}}",
            meta()
        );
        let bodies = [
            ("tools/call", Some("echo"), spaced),
            ("server/discover", None, message(json!(1.5), "server/discover", json!({})).to_string()),
            ("tools/list", None, message(json!("x"), "tools/list", json!({})).to_string()),
            ("tools/call", Some("big"), call(7, "big", json!({"bytes": 100_000})).to_string()),
            ("ping", None, message(json!(2), "ping", json!({})).to_string()),
            ("tools/list", None, r#"{"jsonrpc":"2.0","id":3,"method":"tools/list","params":{}}"#.to_owned()),
            ("tools/call", Some("nosuch"), call(8, "nosuch", json!({})).to_string()),
            ("tools/call", Some("other"), call(9, "echo", json!({})).to_string()),
        ];
        for (method, name, body) in bodies {
            let mut both = Vec::new();
            for url in [server.url(), sessiond.url()] {
                let client = modern(&url, method, name);
                let mut request: Request<Bytes> = client.prepared(Method::POST, body.clone().into());
                request.headers_mut().insert("mcp-param-x", "=?base64?eA==?=".parse().unwrap());
                let answer = client.raw(request).await.unwrap();
                let seen = server.requests().pop().unwrap();
                assert_eq!(seen.body, body);
                both.push((seen, answer));
            }
            let [(direct, plain), (through, passed)] = &both[..] else { unreachable!("two were sent") };
            for (name, value) in &direct.headers {
                assert_eq!(through.headers.get(name), Some(value), "{name}");
            }
            assert_eq!(direct.headers.len(), through.headers.len(), "{:?}", through.headers);
            assert_eq!(plain.status(), passed.status(), "{body}");
            assert_eq!(plain.headers().get("content-type"), passed.headers().get("content-type"), "{body}");
            assert!(
                plain.body() == passed.body(),
                "{body}\n{}\n{}",
                plain.body().escape_ascii(),
                passed.body().escape_ascii()
            );
        }
        assert_eq!(server.initializes(), 0);
        assert_eq!(sessiond.control("GET", "/sessions").await.1, json!([]), "no session is made of it");
    }
}

#[tokio::test]
async fn a_notification_passes_too() {
    let server = Server::start(Flavour::Python2).await;
    let sessiond = in_front_of(&server, "").await;
    let client = modern(&sessiond.url(), "notifications/cancelled", None);
    let params = json!({"requestId": 1, "_meta": meta()});
    client.notify("notifications/cancelled", params).await.unwrap();
    assert_eq!(server.received("notifications/cancelled"), 1);
}

#[tokio::test]
async fn requests_wait_while_the_server_is_away_and_each_runs_once() {
    let server = Server::start(Flavour::Python2).await;
    let sessiond = in_front_of(&server, "").await;
    server.stop().await;
    let calls: Vec<_> = (0..8)
        .map(|id| {
            let url = sessiond.url();
            tokio::spawn(async move { post(&url, "count", id, json!({})).await })
        })
        .collect();
    sessiond.until_status(|status| status["parked"] == 8).await;
    server.start_again().await;
    for (id, call) in calls.into_iter().enumerate() {
        let answer = messages(&call.await.unwrap());
        assert_eq!((answer.len(), &answer[0]["id"]), (1, &json!(id)), "{answer:?}");
        assert!(answer[0].get("result").is_some(), "{answer:?}");
    }
    assert_eq!(server.executed("count"), 8);
    sessiond.until_status(|status| status["parked"] == 0).await;
}

#[tokio::test]
async fn a_server_that_says_it_was_not_asked_is_asked_again() {
    let directory = tempfile::tempdir().unwrap();
    let server =
        Server::builder(Flavour::Python2).unix(directory.path().join("mcp.sock")).start().await.unwrap();
    let sessiond = in_front_of(&server, "").await;
    server.next(3, Mishap::not_forwarded());
    let answer = messages(&post(&sessiond.url(), "count", 1, json!({})).await);
    assert!(answer[0].get("result").is_some(), "{answer:?}");
    assert_eq!((server.executed("count"), server.mishaps_left()), (1, 0));
}

#[tokio::test]
async fn a_wait_past_its_bound_ends_in_200_with_an_error_that_carries_the_id() {
    let server = Server::start(Flavour::Python2).await;
    let sessiond = in_front_of(&server, "[limits]\nparked_time = '300ms'").await;
    server.stop().await;
    let answer = post(&sessiond.url(), "count", 42, json!({})).await;
    assert_eq!(answer.status(), 200);
    let said = messages(&answer);
    assert_eq!((&said[0]["id"], &said[0]["error"]["code"]), (&json!(42), &json!(-32603)), "{said:?}");
    server.start_again().await;
    assert_eq!(server.executed("count"), 0);
}

#[tokio::test]
async fn a_request_that_was_cut_before_it_waited_is_not_said_not_to_have_run() {
    let server = Server::start(Flavour::Python2).await;
    let sessiond = in_front_of(&server, "limits.parked_time = '300ms'").await;
    server.next(1, Mishap::hang().on("tools/list"));
    let client = modern(&sessiond.url(), "tools/list", None);
    let body = message(json!(7), "tools/list", json!({})).to_string();
    let request = client.prepared(Method::POST, body.into());
    let answer = tokio::spawn(async move { client.raw(request).await.unwrap() });
    server.until(|server| server.received("tools/list") == 1).await;
    server.stop().await;
    let messages = messages(&answer.await.unwrap());
    let said = messages[0]["error"]["message"].as_str().unwrap();
    assert!(said.contains("may have run") && !said.contains("did not run"), "{said}");
}

#[tokio::test]
async fn a_harmful_call_cut_in_flight_ends_in_one_error_and_runs_once() {
    for answers in [Answers::Json, Answers::Sse] {
        // Cut after the head, in the middle of the answer, and one byte before its end (of `{"id":...}` or its event).
        for bytes in [0, 1, 30, 60] {
            let server = Server::builder(Flavour::Python2)
                .set(|switches| switches.answers = answers)
                .start()
                .await
                .unwrap();
            let sessiond = in_front_of(&server, "").await;
            server.next(1, Mishap::die_after(bytes).on("tools/call"));
            let answer = post(&sessiond.url(), "count", 5, json!({})).await;
            assert_eq!(answer.status(), 200, "{answers:?} {bytes}");
            // Half an event before it is no message: a client discards what its blank line does not end.
            let text = String::from_utf8(answer.body().to_vec()).unwrap();
            assert_eq!(text.matches("effect is unknown").count(), 1, "{answers:?} {bytes}: {text}");
            let last = text.trim_end().lines().last().unwrap();
            let error: Value = serde_json::from_str(last.strip_prefix("data:").unwrap_or(last)).unwrap();
            assert_eq!(error["id"], 5, "{answers:?} {bytes}");
            assert_eq!((server.started("count"), server.executed("count")), (1, 1), "{answers:?} {bytes}");
            let (_, metrics) = sessiond.control("GET", "/metrics").await;
            assert!(
                metrics.as_str().unwrap().contains("mcp_sessiond_lost_calls_total 1\n"),
                "{answers:?} {bytes}: {metrics}"
            );
        }
    }
}

#[tokio::test]
async fn an_event_cut_in_half_does_not_swallow_the_error_after_it() {
    let server = Server::start(Flavour::Python2).await;
    let sessiond = in_front_of(&server, "").await;
    server.next(1, Mishap::die_after(40).on("tools/call"));
    let client = modern(&sessiond.url(), "tools/call", Some("count"));
    let mut events = client.open_post(&call(5, "count", json!({}))).await.unwrap();
    let mut answers = Vec::new();
    while let Some(event) = events.next_event().await {
        // What was cut is no JSON; a client passes over it or reports it, then reads the error.
        answers.extend(event.message());
    }
    assert_eq!(answers.len(), 1, "{answers:?}");
    assert_eq!((&answers[0]["id"], events.broken()), (&json!(5), None));
}

#[tokio::test]
async fn a_subscription_is_held_across_a_restart_with_one_acknowledgement() {
    let server = Server::start(Flavour::Python2).await;
    let sessiond = in_front_of(&server, "").await;
    let client = modern(&sessiond.url(), "subscriptions/listen", None);
    let listen =
        message(json!("sub"), "subscriptions/listen", json!({"notifications": {"toolsListChanged": true}}));
    let mut events = client.open_post(&listen).await.unwrap();
    let acknowledged = events.next_message().await.unwrap();
    assert_eq!(acknowledged["method"], "notifications/subscriptions/acknowledged");
    assert_eq!(server.notify(&notification("before")), 1);
    assert_eq!(next(&mut events).await, "before");
    for life in ["one", "two"] {
        server.stop().await;
        server.start_again().await;
        server.until(|server| server.streams() == 1).await;
        assert_eq!(server.notify(&notification(life)), 1);
        assert_eq!(next(&mut events).await, life, "no second acknowledgement comes before it");
    }
    let asked = server.requests().into_iter().filter(|request| request.method == "subscriptions/listen");
    let bodies: Vec<_> = asked.map(|request| request.body).collect();
    assert!(bodies.len() >= 3 && bodies.iter().all(|body| *body == listen.to_string()), "{bodies:?}");
    // The client lets go: so does the server's side.
    drop(events);
    server.until(|server| server.streams() == 0).await;
}

#[tokio::test]
async fn an_idle_subscription_is_parked_and_comes_back_with_the_next_request() {
    let server = Server::start(Flavour::Python2).await;
    let settings =
        format!("upstream = '{}'\n[stream]\nkeep_alive = '50ms'\npark_after = '1s'\n", server.url());
    let sessiond = Sessiond::start_set(BINARY, |_| settings, &[]).await;
    let client = modern(&sessiond.url(), "subscriptions/listen", None);
    let listen =
        message(json!("sub"), "subscriptions/listen", json!({"notifications": {"toolsListChanged": true}}));
    let mut events = client.open_post(&listen).await.unwrap();
    events.next_message().await.unwrap();
    server.until(|server| server.streams() == 0).await;
    post(&sessiond.url(), "echo", 1, json!({"text": "awake"})).await;
    server.until(|server| server.received("subscriptions/listen") == 2 && server.streams() == 1).await;
    assert_eq!(server.notify(&notification("awake")), 1);
    assert_eq!(next(&mut events).await, "awake");
}

#[tokio::test]
async fn a_subscription_that_the_server_refuses_is_refused() {
    let server = Server::start(Flavour::Python2).await;
    let sessiond = in_front_of(&server, "").await;
    let client = modern(&sessiond.url(), "subscriptions/listen", None);
    let body = r#"{"jsonrpc":"2.0","id":1,"error":{"code":-32601,"message":"Method not found"}}"#;
    server.next(1, Mishap::answer(404, "application/json", body).on("subscriptions/listen"));
    let listen = message(json!(1), "subscriptions/listen", json!({"notifications": {}}));
    let refused = client.open_post(&listen).await.unwrap_err();
    assert_eq!((refused.status, refused.code()), (Some(404), Some(-32601)));
    assert_eq!(server.received("subscriptions/listen"), 1);
}

#[tokio::test]
async fn both_eras_live_side_by_side() {
    let server = Server::start(Flavour::Python2).await;
    let sessiond = in_front_of(&server, "").await;
    let legacy = Client::connect(&sessiond.url()).await.unwrap();
    let answer = messages(&post(&sessiond.url(), "count", 1, json!({})).await);
    assert!(answer[0].get("result").is_some(), "{answer:?}");
    server.forget_sessions();
    assert_eq!(legacy.call_text("count", json!({})).await.unwrap(), "2");
    let answer = messages(&post(&sessiond.url(), "count", 2, json!({})).await);
    assert_eq!(answer[0]["result"]["content"][0]["text"], "3", "{answer:?}");
    assert_eq!(server.initializes(), 2);
}
