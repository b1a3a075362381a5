//! Streams: held open across losses, resumable with our own event ids, parked when idle.
#![allow(
    clippy::disallowed_methods,
    clippy::unwrap_used,
    reason = "a test fails by panicking, and its tasks end with its runtime"
)]

use std::time::Duration;

use http::Method;
use serde_json::{Value, json};
use support::{Client, Events, Flavour, Server, Sessiond};
use tokio::time::timeout;

const BINARY: &str = env!("CARGO_BIN_EXE_mcp-sessiond");
/// Comments often enough that a test can wait for some.
const CHATTY: &str = "keep_alive = '50ms'";

/// In front of `server`, with these settings of `[stream]`.
async fn in_front_of(server: &Server, stream: &str) -> Sessiond {
    let settings = format!("upstream = '{}'\n[stream]\n{stream}\n", server.url());
    Sessiond::start_set(BINARY, |_| settings, &[]).await
}

fn notification(text: &str) -> Value {
    let params = json!({ "level": "info", "data": text });
    json!({ "jsonrpc": "2.0", "method": "notifications/message", "params": params })
}

async fn restart(server: &Server) {
    server.stop().await;
    server.start_again().await;
}

/// Waits for `more` comments; fails if an event comes instead.
async fn until_comments(events: &mut Events, more: u64) {
    let enough = events.comments() + more;
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

fn gets(server: &Server) -> usize {
    server.requests().iter().filter(|request| request.http_method == Method::GET).count()
}

#[tokio::test]
async fn a_get_stream_stays_open_across_a_restart_and_goes_on_by_itself() {
    for flavour in [Flavour::Python2, Flavour::TypeScript, Flavour::Rmcp, Flavour::Everything] {
        let server = Server::start(flavour).await;
        let sessiond = in_front_of(&server, CHATTY).await;
        let client = Client::connect(&sessiond.url()).await.unwrap();
        let mut events = client.open_get().await.unwrap();
        server.until(|server| server.streams() == 1).await;
        assert_eq!(server.notify(&notification("before")), 1);
        let before = events.next_event().await.unwrap();
        assert_eq!(before.message(), Some(notification("before")), "{flavour}");
        server.stop().await;
        until_comments(&mut events, 3).await;
        server.start_again().await;
        // The client says nothing: its stream is reason enough, because it was in use a moment ago.
        server.until(|server| server.streams() == 1).await;
        assert_eq!(server.notify(&notification("after")), 1);
        let after = events.next_event().await.unwrap();
        assert_eq!(after.message(), Some(notification("after")), "{flavour}");
        assert_eq!(server.initializes(), 2, "{flavour}");
        let numbers = [before, after].map(|event| {
            let id = event.id.expect("every event has an id of ours");
            let (stream, number) = id.split_once('-').expect("ours are STREAM-NUMBER");
            (stream.to_owned(), u64::from_str_radix(number, 16).expect("ours are hexadecimal"))
        });
        assert_eq!(numbers[0].0, numbers[1].0, "{flavour}: one stream for the client");
        assert!(numbers[0].1 < numbers[1].1, "{flavour}");
    }
}

#[tokio::test]
async fn a_get_stream_goes_on_when_the_server_was_only_out_of_reach_and_kept_the_session() {
    let directory = tempfile::tempdir().unwrap();
    let server =
        Server::builder(Flavour::Python2).unix(directory.path().join("mcp.sock")).start().await.unwrap();
    let sessiond = in_front_of(&server, CHATTY).await;
    let client = Client::connect(&sessiond.url()).await.unwrap();
    let mut events = client.open_get().await.unwrap();
    server.until(|server| server.streams() == 1).await;
    server.set(|switches| switches.not_forwarded = true);
    let call = {
        let client = client.clone();
        tokio::spawn(async move { client.call("count", json!({})).await })
    };
    // While it is healed, nobody reads the old stream.
    server.until(|server| server.streams() == 0).await;
    server.set(|switches| switches.not_forwarded = false);
    call.await.unwrap().unwrap();
    server.until(|server| server.streams() == 1).await;
    assert_eq!(server.notify(&notification("still here")), 1);
    assert_eq!(events.next_message().await.unwrap()["params"]["data"], "still here");
    assert_eq!(server.initializes(), 1);
}

#[tokio::test]
async fn last_event_id_is_answered_here_even_across_a_restart() {
    let server = Server::start(Flavour::Python2).await;
    let sessiond = in_front_of(&server, CHATTY).await;
    let client = Client::connect(&sessiond.url()).await.unwrap();
    let mut events = client.open_get().await.unwrap();
    server.until(|server| server.streams() == 1).await;
    for text in ["one", "two", "three"] {
        server.notify(&notification(text));
    }
    assert_eq!(events.next_message().await, Some(notification("one")));
    let first = events.last_event_id().unwrap().to_owned();
    // All three are in the ring before the stream is dropped.
    assert_eq!(events.next_message().await, Some(notification("two")));
    assert_eq!(events.next_message().await, Some(notification("three")));
    let third = events.last_event_id().unwrap().to_owned();
    drop(events);
    restart(&server).await;
    let mut again = client.open_get_after(Some(&first)).await.unwrap();
    assert_eq!(again.next_message().await, Some(notification("two")));
    assert_eq!(again.next_message().await, Some(notification("three")));
    assert_eq!(again.last_event_id(), Some(third.as_str()), "an event keeps its id");
    server.until(|server| server.streams() == 1).await;
    server.notify(&notification("four"));
    assert_eq!(again.next_message().await, Some(notification("four")));
}

#[tokio::test]
async fn an_event_id_that_nobody_knows_opens_the_stream_anew() {
    let server = Server::start(Flavour::Python2).await;
    let sessiond = in_front_of(&server, CHATTY).await;
    let client = Client::connect(&sessiond.url()).await.unwrap();
    for id in ["0-1", "ffffffffffffffffffff-1", "1_0", "-", "\u{7f}", "9999-ffffffffffffffff"] {
        let Ok(id) = http::HeaderValue::from_bytes(id.as_bytes()) else { continue };
        let mut events = client.open_get_after(id.to_str().ok()).await.unwrap();
        server.until(|server| server.streams() == 1).await;
        assert_eq!(server.notify(&notification("here")), 1, "{id:?}");
        assert_eq!(events.next_message().await, Some(notification("here")), "{id:?}");
    }
}

#[tokio::test]
async fn an_event_id_of_another_session_gives_nothing_of_it_away() {
    let server = Server::start(Flavour::Python2).await;
    let sessiond = in_front_of(&server, CHATTY).await;
    let owner = Client::connect(&sessiond.url()).await.unwrap();
    let mut events = owner.open_get().await.unwrap();
    server.until(|server| server.streams() == 1).await;
    server.notify(&notification("private"));
    assert_eq!(events.next_message().await, Some(notification("private")));
    let id = events.last_event_id().unwrap().replace("-1", "-0");
    let other = Client::connect(&sessiond.url()).await.unwrap();
    let mut curious = other.open_get_after(Some(&id)).await.unwrap();
    until_comments(&mut curious, 3).await;
}

#[tokio::test]
async fn an_idle_session_lets_its_upstream_stream_go_and_the_next_call_brings_it_back() {
    let server = Server::start(Flavour::Python2).await;
    let sessiond = in_front_of(&server, &format!("{CHATTY}\npark_after = '1s'")).await;
    let client = Client::connect(&sessiond.url()).await.unwrap();
    let mut events = client.open_get().await.unwrap();
    server.until(|server| server.streams() == 1).await;
    server.until(|server| server.streams() == 0).await;
    until_comments(&mut events, 3).await;
    assert_eq!(gets(&server), 1, "an idle session does not ask again");
    client.call_text("echo", json!({"text": "awake"})).await.unwrap();
    server.until(|server| gets(server) == 2 && server.streams() == 1).await;
    assert_eq!(server.notify(&notification("awake")), 1);
    assert_eq!(events.next_message().await, Some(notification("awake")));
    assert_eq!(server.initializes(), 1);
}

#[tokio::test]
async fn a_restart_under_an_idle_client_is_not_even_noticed_until_it_calls() {
    let server = Server::start(Flavour::Python2).await;
    let sessiond = in_front_of(&server, &format!("{CHATTY}\npark_after = '200ms'")).await;
    let client = Client::connect(&sessiond.url()).await.unwrap();
    let mut events = client.open_get().await.unwrap();
    server.until(|server| gets(server) == 1 && server.streams() == 0).await;
    restart(&server).await;
    server.clear();
    until_comments(&mut events, 10).await;
    assert_eq!(server.requests().len(), 0, "an idle client keeps no server awake");
    assert_eq!(server.initializes(), 1);
    assert_eq!(client.call_text("echo", json!({"text": "back"})).await.unwrap(), "back");
    assert_eq!(server.initializes(), 2);
    server.until(|server| gets(server) >= 1).await;
}

#[tokio::test]
async fn a_question_of_the_server_reaches_the_client_under_another_id_and_its_answer_comes_home() {
    for flavour in [Flavour::Python2, Flavour::TypeScript, Flavour::Rmcp] {
        let server = Server::start(flavour).await;
        let sessiond = in_front_of(&server, CHATTY).await;
        let client = Client::connect(&sessiond.url()).await.unwrap();
        let asking = tokio::spawn({
            let client = client.clone();
            async move { client.call_text("ask", json!({})).await }
        });
        let question = client.next_message().await;
        assert_eq!(question["method"], "elicitation/create", "{flavour}");
        assert_eq!(question["params"]["message"], "Go on?", "{flavour}");
        assert_ne!(question["id"], 1, "{flavour}: the server's own id is for the server alone");
        client.respond(&question["id"], json!({"action": "accept"})).await.unwrap();
        assert_eq!(asking.await.unwrap().unwrap(), r#"{"action":"accept"}"#, "{flavour}");
        let expected = json!({"jsonrpc": "2.0", "id": 1, "result": {"action": "accept"}});
        assert_eq!(server.answers(), [expected], "{flavour}");
    }
}

#[tokio::test]
async fn a_question_on_the_get_stream_keeps_the_type_and_value_of_the_servers_id() {
    let server = Server::start(Flavour::Python2).await;
    let sessiond = in_front_of(&server, CHATTY).await;
    let client = Client::connect(&sessiond.url()).await.unwrap();
    let mut events = client.open_get().await.unwrap();
    server.until(|server| server.streams() == 1).await;
    for id in [json!(7), json!("7"), json!("srv-\u{e9}\"x"), json!(0)] {
        server.clear();
        server.request_client(&json!({"jsonrpc": "2.0", "id": id, "method": "roots/list"}));
        let question = events.next_message().await.unwrap();
        assert_eq!(question["method"], "roots/list");
        assert_ne!(question["id"], id);
        client.respond(&question["id"], json!({"roots": []})).await.unwrap();
        server.until(|server| !server.answers().is_empty()).await;
        assert_eq!(server.answers(), [json!({"jsonrpc": "2.0", "id": id, "result": {"roots": []}})]);
    }
}

#[tokio::test]
async fn an_answer_to_a_question_from_before_a_loss_never_reaches_the_new_server() {
    let server = Server::start(Flavour::Python2).await;
    let sessiond = in_front_of(&server, CHATTY).await;
    let client = Client::connect(&sessiond.url()).await.unwrap();
    let mut events = client.open_get().await.unwrap();
    server.until(|server| server.streams() == 1).await;
    let question =
        json!({"jsonrpc": "2.0", "id": 7, "method": "elicitation/create", "params": {"message": "Delete?"}});
    server.request_client(&question);
    let old = events.next_message().await.unwrap();
    restart(&server).await;
    client.call_text("echo", json!({})).await.unwrap();
    server.until(|server| server.streams() == 1).await;
    // The new server asks something else under the same id.
    server.request_client(&question);
    let new = events.next_message().await.unwrap();
    assert_ne!(old["id"], new["id"]);
    client
        .respond(&old["id"], json!({"action": "accept"}))
        .await
        .expect("202 for an answer that comes too late");
    client.respond(&json!(7), json!({"action": "accept"})).await.expect("202 for an answer to nothing");
    client.respond(&new["id"], json!({"action": "decline"})).await.unwrap();
    client.respond(&new["id"], json!({"action": "accept"})).await.expect("202 for a second answer");
    client.call_text("echo", json!({})).await.unwrap();
    assert_eq!(server.answers(), [json!({"jsonrpc": "2.0", "id": 7, "result": {"action": "decline"}})]);
}

#[tokio::test]
async fn changed_tools_are_announced_once_after_a_heal_to_a_client_that_was_promised_it() {
    let server = Server::start(Flavour::Python2).await;
    let sessiond = in_front_of(&server, CHATTY).await;
    let client = Client::connect(&sessiond.url()).await.unwrap();
    let mut events = client.open_get().await.unwrap();
    client.request("tools/list", json!({})).await.unwrap();
    // The same tools after a restart: nothing to announce.
    restart(&server).await;
    server.until(|server| server.streams() == 1).await;
    server.notify(&notification("unchanged"));
    assert_eq!(events.next_message().await, Some(notification("unchanged")));
    server.stop().await;
    let mut tools = server.tools();
    tools.push(json!({"name": "new", "inputSchema": {"type": "object"}}));
    server.set_tools(tools);
    server.start_again().await;
    assert_eq!(client.call_text("new", json!({})).await.unwrap(), "new");
    let announced = events.next_message().await.unwrap();
    assert_eq!(announced, json!({"jsonrpc": "2.0", "method": "notifications/tools/list_changed"}));
    server.until(|server| server.streams() == 1).await;
    server.notify(&notification("changed"));
    assert_eq!(events.next_message().await, Some(notification("changed")), "announced once");
}

#[tokio::test]
async fn a_client_that_was_promised_nothing_is_not_told_of_changed_tools() {
    let server = Server::start(Flavour::Python2).await;
    let sessiond = in_front_of(&server, CHATTY).await;
    // Adopted: nobody here saw what it was promised.
    let client = Client::builder(&sessiond.url()).session("from-before").unconnected();
    client.request("tools/list", json!({})).await.unwrap();
    let mut events = client.open_get().await.unwrap();
    server.until(|server| server.streams() == 1).await;
    server.stop().await;
    server.set_tools(vec![json!({"name": "echo", "inputSchema": {"type": "object"}})]);
    server.start_again().await;
    client.call_text("echo", json!({})).await.unwrap();
    server.until(|server| server.streams() == 1).await;
    server.notify(&notification("next"));
    assert_eq!(events.next_message().await, Some(notification("next")));
}

#[tokio::test]
async fn a_client_that_went_away_in_the_middle_of_an_answer_gets_the_rest_when_it_comes_back() {
    for flavour in [Flavour::Python2, Flavour::TypeScript, Flavour::Rmcp] {
        let server = Server::start(flavour).await;
        let sessiond = in_front_of(&server, CHATTY).await;
        let client = Client::connect(&sessiond.url()).await.unwrap();
        // The server waits for an answer: the result cannot have been sent when the client goes away.
        let mut events = client.open_post(&call(77, "ask", &json!({}))).await.unwrap();
        let question = events.next_message().await.unwrap();
        let seen = events.last_event_id().expect("an id to come back with").to_owned();
        drop(events);
        client.respond(&question["id"], json!({"action": "accept"})).await.unwrap();
        let mut rest = client.open_get_after(Some(&seen)).await.unwrap();
        let answer = rest.next_message().await.expect("the answer was kept");
        assert_eq!(answer["id"], 77, "{flavour}: {answer}");
        assert_eq!(answer["result"]["content"][0]["text"], r#"{"action":"accept"}"#, "{flavour}");
        assert_eq!(rest.next_event().await, None, "{flavour}: nothing follows the answer");
        assert_eq!(server.executed("ask"), 1, "{flavour}");
    }
}

#[tokio::test]
async fn every_event_of_an_answer_can_be_resumed_from_and_twice_gives_the_same() {
    let server = Server::start(Flavour::Python2).await;
    let sessiond = in_front_of(&server, CHATTY).await;
    let client = Client::connect(&sessiond.url()).await.unwrap();
    let mut whole = client.open_post(&call(5, "progress", &json!({"n": 4}))).await.unwrap();
    let mut all = Vec::new();
    while let Some(event) = whole.next_event().await {
        all.push(event);
    }
    assert_eq!(all.len(), 5);
    for (at, event) in all.iter().enumerate() {
        for _ in 0..2 {
            let id = event.id.as_deref().expect("every event has an id");
            let mut rest = client.open_get_after(Some(id)).await.unwrap();
            for expected in &all[at + 1..] {
                assert_eq!(rest.next_event().await.as_ref(), Some(expected), "after {at}");
            }
            assert_eq!(rest.next_event().await, None, "after {at}");
        }
    }
    assert_eq!(server.executed("progress"), 1);
}

/// What `mcp_sessiond_kept_answer_bytes` says.
async fn kept_bytes(sessiond: &Sessiond) -> u64 {
    let (_, text) = sessiond.control("GET", "/metrics").await;
    let lines = text.as_str().unwrap().lines();
    let value = lines.filter_map(|line| line.strip_prefix("mcp_sessiond_kept_answer_bytes ")).next();
    value.expect("there is such a line").parse().unwrap()
}

/// A whole answer with progress before it; the id of its first event.
async fn answered_with_progress(client: &Client) -> String {
    let mut events = client.open_post(&call(5, "progress", &json!({"n": 4}))).await.unwrap();
    let first = events.next_event().await.unwrap().id.unwrap();
    while events.next_event().await.is_some() {}
    first
}

#[tokio::test]
async fn an_answer_that_nobody_came_back_for_is_forgotten_in_time_even_if_its_session_sleeps() {
    let server = Server::start(Flavour::Python2).await;
    let sessiond = in_front_of(&server, &format!("{CHATTY}\nkeep_answer = '1s'")).await;
    let client = Client::connect(&sessiond.url()).await.unwrap();
    let first = answered_with_progress(&client).await;
    timeout(Duration::from_secs(60), async { while kept_bytes(&sessiond).await > 0 {} }).await.unwrap();
    let mut rest = client.open_get_after(Some(&first)).await.unwrap();
    until_comments(&mut rest, 3).await;
}

#[tokio::test]
async fn the_answers_kept_over_all_sessions_have_a_bound_and_the_newest_stays() {
    let server = Server::start(Flavour::Python2).await;
    let sessiond = in_front_of(&server, &format!("{CHATTY}\nkept_bytes = '4KiB'")).await;
    let mut clients = Vec::new();
    let mut most = 0;
    for _ in 0..16 {
        let client = Client::connect(&sessiond.url()).await.unwrap();
        let first = answered_with_progress(&client).await;
        let kept = kept_bytes(&sessiond).await;
        assert!(kept <= 4 << 10, "{kept}");
        most = most.max(kept);
        clients.push((client, first));
    }
    assert!(most > 2 << 10, "the bound is used: {most}");
    let (oldest, newest) = (&clients[0], &clients[15]);
    let mut rest = newest.0.open_get_after(Some(&newest.1)).await.unwrap();
    assert_eq!(rest.next_message().await.unwrap()["params"]["progress"], 2);
    let mut gone = oldest.0.open_get_after(Some(&oldest.1)).await.unwrap();
    until_comments(&mut gone, 3).await;
}

fn call(id: u64, tool: &str, arguments: &Value) -> Value {
    json!({"jsonrpc": "2.0", "id": id, "method": "tools/call", "params": {"name": tool, "arguments": arguments}})
}
