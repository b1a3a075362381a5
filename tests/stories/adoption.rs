//! Ids that nobody knows: taken over where a client depends on it, refused everywhere else.
#![allow(
    clippy::disallowed_methods,
    clippy::unwrap_used,
    reason = "a test fails by panicking, and its tasks end with its runtime"
)]

use bytes::Bytes;
use http::{HeaderValue, Method, StatusCode};
use serde_json::{Value, json};
use support::{Client, Flavour, Server, Sessiond};

const BINARY: &str = env!("CARGO_BIN_EXE_mcp-sessiond");
const PING: &str = r#"{"jsonrpc":"2.0","id":1,"method":"ping"}"#;

async fn in_front_of(server: &Server, settings: &str) -> Sessiond {
    let settings = format!("upstream = '{}'\n{settings}\n", server.url());
    Sessiond::start_set(BINARY, |_| settings, &[]).await
}

async fn sessions(sessiond: &Sessiond) -> usize {
    let (_, sessions) = sessiond.control("GET", "/sessions").await;
    sessions.as_array().unwrap().len()
}

/// POSTs with exactly this id and returns the status.
async fn post(client: &Client, id: &[u8], body: &'static str) -> StatusCode {
    let mut request = client.prepared(Method::POST, Bytes::from(body));
    request.headers_mut().insert("mcp-session-id", HeaderValue::from_bytes(id).unwrap());
    client.raw(request).await.unwrap().status()
}

/// The parameters of the `initialize` requests that reached the server.
fn offered(server: &Server) -> Vec<Value> {
    let initializes = server.requests().into_iter().filter(|request| request.method == "initialize");
    initializes
        .map(|request| serde_json::from_slice::<Value>(&request.body).unwrap()["params"].take())
        .collect()
}

#[tokio::test]
async fn a_client_from_before_goes_on_as_if_nothing_had_happened() {
    let server = Server::start(Flavour::Python2).await;
    let sessiond = in_front_of(&server, "").await;
    let client = Client::builder(&sessiond.url()).session("from-before").version("2025-06-18").unconnected();
    assert_eq!(client.call_text("echo", json!({"text": "still here"})).await.unwrap(), "still here");
    assert_eq!(offered(&server)[0]["protocolVersion"], "2025-06-18");
    client.notify("notifications/roots/list_changed", json!({})).await.unwrap();
    let mut events = client.open_get().await.unwrap();
    server.until(|server| server.streams() == 1).await;
    let message = json!({"jsonrpc": "2.0", "method": "notifications/message", "params": {}});
    server.notify(&message);
    assert_eq!(events.next_message().await, Some(message));
    server.forget_sessions();
    assert_eq!(client.call_text("echo", json!({"text": "healed"})).await.unwrap(), "healed");
    assert_eq!(server.initializes(), 2);
    assert_eq!(client.delete().await.unwrap(), 200);
}

#[tokio::test]
async fn without_a_version_header_the_oldest_one_with_sessions_is_meant() {
    let server = Server::start(Flavour::Python2).await;
    let sessiond = in_front_of(&server, "").await;
    let client = Client::builder(&sessiond.url()).unconnected();
    assert_eq!(post(&client, b"from-before", PING).await, 200);
    assert_eq!(offered(&server)[0]["protocolVersion"], "2025-03-26");
}

#[tokio::test]
async fn an_id_that_is_alive_upstream_is_used_as_it_is() {
    let server = Server::start(Flavour::Python2).await;
    let direct = Client::builder(&server.url()).lenient().connect().await.unwrap();
    direct.request("logging/setLevel", json!({"level": "error"})).await.unwrap();
    let id = direct.session_id().unwrap();
    let sessiond = in_front_of(&server, "").await;
    let client = Client::builder(&sessiond.url()).session(&id).unconnected();
    let seen: Value = serde_json::from_str(&client.call_text("whoami", json!({})).await.unwrap()).unwrap();
    assert_eq!((&seen["session"], &seen["log_level"]), (&json!(id), &json!("error")));
    assert_eq!(server.initializes(), 1);
}

#[tokio::test]
async fn many_first_calls_with_one_unknown_id_make_one_session() {
    let server = Server::start(Flavour::Python2).await;
    let sessiond = in_front_of(&server, "").await;
    let client = Client::builder(&sessiond.url()).session("from-before").unconnected();
    let calls: Vec<_> = (0..32)
        .map(|_| {
            let client = client.clone();
            tokio::spawn(async move { client.call_text("count", json!({})).await })
        })
        .collect();
    for call in calls {
        call.await.unwrap().unwrap();
    }
    assert_eq!((server.initializes(), server.executed("count"), sessions(&sessiond).await), (1, 32, 1));
}

#[tokio::test]
async fn refuse_means_404_for_every_unknown_id() {
    let server = Server::start(Flavour::Python2).await;
    let sessiond = in_front_of(&server, "unknown_ids = 'refuse'").await;
    let stranger = Client::builder(&sessiond.url()).session("from-before").unconnected();
    let refused = stranger.call("count", json!({})).await.unwrap_err();
    assert_eq!(refused.status, Some(404));
    assert!(refused.message().contains("ession not found"), "{refused}");
    assert_eq!((server.requests().len(), sessions(&sessiond).await), (0, 0));
    let known = Client::connect(&sessiond.url()).await.unwrap();
    server.forget_sessions();
    known.call("count", json!({})).await.expect("a known session is healed all the same");
}

#[tokio::test]
async fn only_a_request_is_reason_to_take_an_id_over() {
    let server = Server::start(Flavour::Python2).await;
    let sessiond = in_front_of(&server, "").await;
    let client = Client::builder(&sessiond.url()).session("from-before").unconnected();
    let told = client.notify("notifications/initialized", json!({})).await.unwrap_err();
    let responded = client.respond(&json!(1), json!({})).await.unwrap_err();
    let listened = client.open_get().await.unwrap_err();
    assert_eq!([told.status, responded.status, listened.status], [Some(404); 3]);
    assert_eq!(client.delete().await.unwrap(), 404);
    assert_eq!((server.requests().len(), sessions(&sessiond).await), (0, 0));
}

#[tokio::test]
async fn a_deleted_id_is_dead_for_ever() {
    let server = Server::start(Flavour::Python2).await;
    let mut sessiond = in_front_of(&server, "").await;
    let client = Client::connect(&sessiond.url()).await.unwrap();
    let adopted = Client::builder(&sessiond.url()).session("from-before").unconnected();
    adopted.call("echo", json!({})).await.unwrap();
    assert_eq!(client.delete().await.unwrap(), 200);
    assert_eq!(adopted.delete().await.unwrap(), 200);
    server.until(|server| server.deletes() == 2).await;
    for life in 0..2 {
        if life == 1 {
            sessiond.stop().await;
            sessiond.start_again().await;
        }
        server.clear();
        for client in [&client, &adopted] {
            assert_eq!(client.call("echo", json!({})).await.unwrap_err().status, Some(404), "life {life}");
            assert_eq!(client.open_get().await.unwrap_err().status, Some(404), "life {life}");
            assert_eq!(client.notify("x", json!({})).await.unwrap_err().status, Some(404), "life {life}");
            assert_eq!(client.delete().await.unwrap(), 404, "life {life}");
        }
        assert_eq!((server.requests().len(), sessions(&sessiond).await), (0, 0), "life {life}");
    }
}

#[tokio::test]
async fn an_id_of_a_bad_shape_gets_404_and_a_long_good_one_works() {
    let server = Server::start(Flavour::Python2).await;
    let sessiond = in_front_of(&server, "").await;
    let client = Client::builder(&sessiond.url()).unconnected();
    let long = [b'x'; 129];
    for id in [&b""[..], b"a b", b"a\tb", b"caf\xc3\xa9", b"\xff", &long] {
        assert_eq!(post(&client, id, PING).await, 404, "{}", id.escape_ascii());
    }
    assert_eq!((server.requests().len(), sessions(&sessiond).await), (0, 0));
    assert_eq!(post(&client, &long[..128], PING).await, 200);
    assert_eq!(post(&client, br##"!"#$%&'()*+,-./:;<=>?@[\]^_`{|}~"##, PING).await, 200);
}

#[tokio::test]
async fn two_ids_on_one_request_are_not_a_choice() {
    let server = Server::start(Flavour::Python2).await;
    let sessiond = in_front_of(&server, "").await;
    let client = Client::connect(&sessiond.url()).await.unwrap();
    server.clear();
    let mut request = client.prepared(Method::POST, Bytes::from(PING));
    request.headers_mut().append("mcp-session-id", HeaderValue::from_static("second"));
    let answer = client.raw(request).await.unwrap();
    assert_eq!(answer.status(), 400, "{answer:?}");
    assert_eq!(server.requests().len(), 0);
}

#[tokio::test]
async fn session_from_subject_gives_a_client_without_ids_one_hidden_session_that_heals() {
    let server = Server::start(Flavour::Python2).await;
    let sessiond = in_front_of(&server, "session_from = 'subject'").await;
    let client = Client::builder(&sessiond.url()).unconnected();
    assert_eq!(client.call_text("count", json!({})).await.unwrap(), "1");
    assert_eq!(client.call_text("count", json!({})).await.unwrap(), "2");
    assert_eq!(server.initializes(), 1, "one session for all its POSTs");
    server.forget_sessions();
    assert_eq!(client.call_text("count", json!({})).await.unwrap(), "3");
    assert_eq!(server.initializes(), 2);
    let ordinary = Client::connect(&sessiond.url()).await.unwrap();
    assert!(ordinary.session_id().is_some(), "who initializes has a session of its own");
    ordinary.call("count", json!({})).await.unwrap();
}

#[tokio::test]
async fn without_an_id_a_request_gets_400_with_its_own_id() {
    let server = Server::start(Flavour::Python2).await;
    let sessiond = in_front_of(&server, "").await;
    let client = Client::builder(&sessiond.url()).unconnected();
    let answer = client.raw(client.prepared(Method::POST, Bytes::from(PING))).await.unwrap();
    assert_eq!(answer.status(), 400);
    let body: Value = serde_json::from_slice(answer.body()).unwrap();
    assert_eq!((&body["id"], &body["error"]["code"]), (&json!(1), &json!(-32600)), "{body}");
    assert!(!answer.headers().contains_key("mcp-session-id"), "no dead id for a client to pick up");
    assert_eq!(client.open_get().await.unwrap_err().status, Some(400));
    assert_eq!(client.delete().await.unwrap(), 400);
    assert_eq!(server.requests().len(), 0);
}
