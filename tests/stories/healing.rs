//! A server loses its sessions, in every way that servers do; the client never notices.

use serde_json::{Value, json};
use support::{Answers, Client, Flavour, Mishap, Server, Sessiond};

const BINARY: &str = env!("CARGO_BIN_EXE_mcp-sessiond");

async fn in_front_of(server: &Server) -> Sessiond {
    Sessiond::start(BINARY, &["--upstream", &server.url()]).await
}

#[tokio::test]
async fn every_flavour_of_stale_heals_and_the_stale_call_itself_succeeds() {
    for flavour in Flavour::answering() {
        let server = Server::start(flavour).await;
        let sessiond = in_front_of(&server).await;
        let client = Client::connect(&sessiond.url()).await.unwrap();
        assert_eq!(client.call_text("echo", json!({"text": "before"})).await.unwrap(), "before", "{flavour}");
        server.forget_sessions();
        let tool = flavour.stale_tool();
        let stale = client.call_text(tool, json!({})).await;
        assert!(stale.is_ok(), "{flavour}: {stale:?}");
        assert_eq!((server.initializes(), server.executed(tool)), (2, 1), "{flavour}");
        assert_eq!(client.call_text("echo", json!({"text": "after"})).await.unwrap(), "after", "{flavour}");
        assert_eq!(server.initializes(), 2, "{flavour}");
    }
}

#[tokio::test]
async fn sixty_four_concurrent_stale_calls_get_sixty_four_answers_and_one_initialize() {
    for flavour in [Flavour::Python1_12, Flavour::Python2, Flavour::TypeScript, Flavour::Everything] {
        let server = Server::start(flavour).await;
        let sessiond = in_front_of(&server).await;
        let client = Client::connect(&sessiond.url()).await.unwrap();
        server.forget_sessions();
        let mut calls = tokio::task::JoinSet::new();
        for number in 0..64 {
            let client = client.clone();
            calls.spawn(async move {
                let text = number.to_string();
                (client.call_text("echo", json!({"text": text})).await, text)
            });
        }
        for (answer, text) in calls.join_all().await {
            assert_eq!(answer.unwrap(), text, "{flavour}");
        }
        assert_eq!(server.initializes(), 2, "{flavour}");
    }
}

#[tokio::test]
async fn what_was_set_is_set_again() {
    let server = Server::start(Flavour::Python2).await;
    let sessiond = in_front_of(&server).await;
    let client = Client::connect(&sessiond.url()).await.unwrap();
    client.request("logging/setLevel", json!({"level": "warning"})).await.unwrap();
    client.request("resources/subscribe", json!({"uri": "file:///kept"})).await.unwrap();
    client.request("resources/subscribe", json!({"uri": "file:///dropped"})).await.unwrap();
    client.request("resources/unsubscribe", json!({"uri": "file:///dropped"})).await.unwrap();
    client.call("activate_project", json!({"project": "first"})).await.unwrap();
    client.call("activate_project", json!({"project": "second"})).await.unwrap();
    let before: Value = serde_json::from_str(&client.call_text("whoami", json!({})).await.unwrap()).unwrap();
    server.stop().await;
    server.start_again().await;
    let after: Value = serde_json::from_str(&client.call_text("whoami", json!({})).await.unwrap()).unwrap();
    for key in ["project", "level", "subscriptions"] {
        assert_eq!(before[key], after[key], "{key}: {before} {after}");
    }
    assert_eq!(before["project"], "second", "{before}");
}

#[tokio::test]
async fn a_doubtful_answer_on_a_living_session_is_the_answer() {
    let server = Server::start(Flavour::Python2).await;
    let sessiond = in_front_of(&server).await;
    let client = Client::connect(&sessiond.url()).await.unwrap();
    server.next(1, Mishap::rpc_error(-32602, "Invalid request parameters").on("tools/call"));
    let refused = client.call("count", json!({})).await.unwrap_err();
    assert_eq!(refused.code(), Some(-32602));
    server.next(1, Mishap::status(502).on("tools/call"));
    let gateway = client.call("count", json!({})).await.unwrap_err();
    assert_eq!(
        client.last_status(),
        200,
        "a 5xx of an intermediary never reaches the client of a known session"
    );
    assert!(gateway.message().contains("502"), "{gateway:?}");
    assert_eq!((server.initializes(), server.executed("count")), (1, 0));
}

#[tokio::test]
async fn a_busy_server_that_does_not_say_whether_it_has_the_session_keeps_it() {
    let server = Server::start(Flavour::Python2).await;
    let settings = format!("upstream = '{}'\n[hang]\ntimeout = '200ms'\n", server.url());
    let sessiond = Sessiond::start_set(BINARY, |_| settings, &[]).await;
    let client = Client::connect(&sessiond.url()).await.unwrap();
    for nothing in [Mishap::hang(), Mishap::answer(429, "text/plain", "Too Many Requests")] {
        server.next(1, Mishap::status(504).on("tools/call"));
        server.next(1, nothing.on("tools/list"));
        let failure = client.call("count", json!({})).await.unwrap_err();
        assert!(failure.message().contains("answered 504"), "{failure}");
    }
    assert_eq!(client.call_text("count", json!({})).await.unwrap(), "1");
    assert_eq!((server.initializes(), server.sessions(), server.deletes()), (1, 1, 0));
}

#[tokio::test]
async fn a_tool_that_cannot_be_replayed_is_said_by_its_name() {
    let server = Server::builder(Flavour::Python2)
        .set(|switches| switches.answers = Answers::Json)
        .start()
        .await
        .unwrap();
    let sessiond = in_front_of(&server).await;
    let client = Client::connect(&sessiond.url()).await.unwrap();
    client.call("activate_project", json!({"project": "moved away"})).await.unwrap();
    server.forget_sessions();
    let failed = json!({"jsonrpc": "2.0", "id": 1, "result": {
        "content": [{"type": "text", "text": "no such project"}], "isError": true}});
    server.next(1, Mishap::answer(200, "application/json", failed.to_string()).on("tools/call"));
    client.request("tools/list", json!({})).await.unwrap();
    let line = sessiond.until_logged("state not restored").await;
    assert!(line.contains("tool=activate_project"), "{line}");
    assert!(!line.contains("no such project"), "what a tool says is for its client: {line}");
    assert_eq!((server.initializes(), server.mishaps_left()), (2, 0));
}
