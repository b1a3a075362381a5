//! The server is away for a while: calls wait, all are answered, none runs twice, and what was set is set again.
#![allow(
    clippy::disallowed_methods,
    clippy::unwrap_used,
    reason = "a test fails by panicking, and its tasks end with its runtime"
)]

use std::time::Duration;

use http::StatusCode;
use serde_json::{Value, json};
use support::{Client, Flavour, Mishap, RpcFailure, Server, Sessiond};
use tokio::{
    task::{JoinHandle, JoinSet},
    time::{Instant, sleep_until},
};

const BINARY: &str = env!("CARGO_BIN_EXE_mcp-sessiond");
/// As long as a quick restart of a real server takes.
const OUTAGE: Duration = Duration::from_secs(5);
/// How long a call may take that waits for nothing but a heal.
const PATIENCE: Duration = Duration::from_secs(20);

async fn in_front_of(server: &Server, settings: &str) -> Sessiond {
    let settings = format!("upstream = '{}'\n{settings}\n", server.url());
    Sessiond::start_set(BINARY, |_| settings, &[]).await
}

/// A call of its own task, so that the test can go on meanwhile.
fn calling(client: &Client, tool: &'static str, arguments: Value) -> JoinHandle<Result<String, RpcFailure>> {
    let client = client.clone();
    tokio::spawn(async move { client.call_text(tool, arguments).await })
}

async fn until_parked(sessiond: &Sessiond, requests: u64) {
    sessiond.until_status(|status| status["parked"] == requests).await;
}

async fn restart(server: &Server) {
    server.stop().await;
    server.start_again().await;
}

async fn project(client: &Client) -> Value {
    let seen = client.call_text("whoami", json!({})).await.unwrap();
    serde_json::from_str::<Value>(&seen).unwrap()["project"].take()
}

#[tokio::test]
async fn that_nothing_was_forwarded_is_believed_of_a_neighbour_and_not_of_anybody_over_tcp() {
    let directory = tempfile::tempdir().unwrap();
    let near =
        Server::builder(Flavour::Python2).unix(directory.path().join("mcp.sock")).start().await.unwrap();
    let far = Server::start(Flavour::Python2).await;
    for (server, believed) in [(&near, true), (&far, false)] {
        let sessiond = in_front_of(server, "").await;
        let client = Client::connect(&sessiond.url()).await.unwrap();
        server.next(1, Mishap::not_forwarded().on("tools/call"));
        let answer = client.call_text("count", json!({})).await;
        assert_eq!((answer.is_ok(), server.executed("count")), (believed, u64::from(believed)), "{answer:?}");
        assert_eq!(client.call_text("echo", json!({"text": "next"})).await.unwrap(), "next");
    }
}

#[tokio::test]
async fn calls_made_while_the_server_is_down_for_five_seconds_all_succeed() {
    let server = Server::start(Flavour::Python2).await;
    let sessiond = in_front_of(&server, "").await;
    let client = Client::connect(&sessiond.url()).await.unwrap();
    server.stop().await;
    let began = Instant::now();
    let mut calls = Vec::new();
    for number in 0..20 {
        // Spread over the outage: some are there when it begins, some come shortly before its end.
        sleep_until(began + OUTAGE * number / 20).await;
        calls.push(calling(&client, "count", json!({})));
        calls.push(calling(&client, "echo", json!({"text": "waited"})));
    }
    sleep_until(began + OUTAGE).await;
    until_parked(&sessiond, 40).await;
    server.start_again().await;
    for call in calls {
        call.await.unwrap().unwrap();
    }
    assert_eq!((server.executed("count"), server.executed("echo")), (20, 20));
    assert_eq!(server.initializes(), 2, "one for the client, one for the heal");
    until_parked(&sessiond, 0).await;
}

#[tokio::test]
async fn initialize_made_while_the_server_is_down_waits_and_succeeds() {
    let server = Server::start(Flavour::Python2).await;
    let sessiond = in_front_of(&server, "").await;
    server.stop().await;
    let url = sessiond.url();
    let clients: Vec<_> = (0..8)
        .map(|_| {
            let url = url.clone();
            tokio::spawn(async move { Client::connect(&url).await })
        })
        .collect();
    until_parked(&sessiond, 8).await;
    server.start_again().await;
    for client in clients {
        let client = client.await.unwrap().unwrap();
        assert_eq!(client.call_text("echo", json!({"text": "here"})).await.unwrap(), "here");
    }
    assert_eq!((server.initializes(), server.sessions()), (8, 8));
}

#[tokio::test]
async fn every_session_of_an_upstream_heals_and_its_tools_are_replayed_once_per_loss() {
    let server = Server::start(Flavour::Python2).await;
    let sessiond = in_front_of(&server, "").await;
    let mut clients = Vec::new();
    for _ in 0..5 {
        clients.push(Client::connect(&sessiond.url()).await.unwrap());
    }
    clients[0].call("activate_project", json!({"project": "ours"})).await.unwrap();
    for loss in 1..=3 {
        match loss {
            // All see it at once, in a call that the server refuses.
            1 => server.forget_sessions(),
            _ => restart(&server).await,
        }
        let calls: Vec<_> = clients.iter().map(|client| calling(client, "whoami", json!({}))).collect();
        for call in calls {
            let seen: Value = serde_json::from_str(&call.await.unwrap().unwrap()).unwrap();
            assert_eq!(seen["project"], "ours", "loss {loss}: no call of any session sees the empty server");
        }
        assert_eq!(server.executed("activate_project"), 1 + loss);
        assert_eq!(server.initializes(), 5 * (1 + loss));
    }
}

#[tokio::test]
async fn a_session_that_heals_late_does_not_undo_what_was_chosen_since() {
    let server = Server::start(Flavour::Python2).await;
    let sessiond = in_front_of(&server, "").await;
    let early = Client::connect(&sessiond.url()).await.unwrap();
    let late = Client::connect(&sessiond.url()).await.unwrap();
    early.call("activate_project", json!({"project": "first"})).await.unwrap();
    restart(&server).await;
    assert_eq!(project(&early).await, "first");
    early.call("activate_project", json!({"project": "second"})).await.unwrap();
    assert_eq!(project(&late).await, "second");
    assert_eq!(server.executed("activate_project"), 3, "two of the client, one replay for the one loss");
}

#[tokio::test]
async fn one_loss_is_replayed_once_even_if_the_session_that_replayed_is_gone() {
    let server = Server::start(Flavour::Python2).await;
    let sessiond = in_front_of(&server, "").await;
    let mut clients = Vec::new();
    for _ in 0..3 {
        clients.push(Client::connect(&sessiond.url()).await.unwrap());
    }
    clients[0].call("activate_project", json!({"project": "ours"})).await.unwrap();
    restart(&server).await;
    assert_eq!(project(&clients[0]).await, "ours");
    assert_eq!(project(&clients[1]).await, "ours");
    assert_eq!(clients[0].delete().await.unwrap(), 200);
    server.until(|server| server.deletes() == 1).await;
    assert_eq!(project(&clients[2]).await, "ours");
    assert_eq!(server.executed("activate_project"), 2, "one of the client, one replay for the one loss");
}

#[tokio::test]
async fn a_failed_call_is_not_replayed_and_a_tool_that_is_not_named_neither() {
    let server = Server::start(Flavour::Python2).await;
    let sessiond = in_front_of(&server, "replay_tools = ['idempotent_set']").await;
    let client = Client::connect(&sessiond.url()).await.unwrap();
    client.call("activate_project", json!({"project": "not named"})).await.unwrap();
    client.call("idempotent_set", json!({"value": "good"})).await.unwrap();
    let tools = server.tools();
    server.set_tools(tools.iter().filter(|tool| tool["name"] != "idempotent_set").cloned().collect());
    client.call("idempotent_set", json!({"value": "bad"})).await.unwrap_err();
    server.set_tools(tools);
    restart(&server).await;
    assert_eq!(project(&client).await, Value::Null);
    assert_eq!(client.call_text("read", json!({})).await.unwrap(), "\"good\"");
    assert_eq!((server.executed("idempotent_set"), server.executed("activate_project")), (2, 1));
}

#[tokio::test]
async fn a_heal_that_gives_up_says_so_and_the_next_request_tries_again() {
    let server = Server::start(Flavour::Python2).await;
    let sessiond = in_front_of(&server, "[heal]\ntimeout = '300ms'").await;
    let client = Client::connect(&sessiond.url()).await.unwrap();
    server.stop().await;
    for _ in 0..2 {
        let calls = [calling(&client, "count", json!({})), calling(&client, "echo", json!({"text": "x"}))];
        for call in calls {
            let failure = call.await.unwrap().unwrap_err();
            assert_eq!(failure.status, Some(200), "{failure}");
            assert!(failure.message().contains("did not run"), "{failure}");
        }
    }
    sessiond.until_logged("session not healed").await;
    server.start_again().await;
    assert_eq!(client.call_text("count", json!({})).await.unwrap(), "1");
    assert_eq!((server.initializes(), server.executed("count")), (2, 1));
}

#[tokio::test]
async fn a_server_that_does_not_speak_the_agreed_version_any_more_ends_the_session_with_404() {
    let server = Server::start(Flavour::Python2).await;
    let sessiond = in_front_of(&server, "").await;
    let client = Client::connect(&sessiond.url()).await.unwrap();
    server.set(|switches| switches.agreed_version = Some("2024-11-05".into()));
    restart(&server).await;
    let calls: Vec<_> = (0..4).map(|_| calling(&client, "count", json!({}))).collect();
    for call in calls {
        assert_eq!(call.await.unwrap().unwrap_err().status, Some(404));
    }
    assert_eq!(client.call("count", json!({})).await.unwrap_err().status, Some(404), "and it stays so");
    assert_eq!(server.executed("count"), 0);
    let anew = Client::connect(&sessiond.url()).await.unwrap();
    assert_eq!(anew.introduction()["protocolVersion"], "2024-11-05");
    assert_eq!(anew.call_text("count", json!({})).await.unwrap(), "1");
    assert_eq!(anew.last_status(), StatusCode::OK);
}

#[tokio::test]
async fn a_session_of_another_version_is_over_and_leaves_nothing_at_the_server() {
    let server = Server::start(Flavour::Python2).await;
    let mut sessiond = in_front_of(&server, "").await;
    let client = Client::connect(&sessiond.url()).await.unwrap();
    server.set(|switches| switches.agreed_version = Some("2024-11-05".into()));
    restart(&server).await;
    for _ in 0..5 {
        assert_eq!(client.call("count", json!({})).await.unwrap_err().status, Some(404));
    }
    server.until(|server| server.sessions() == 0).await;
    assert_eq!((server.initializes(), server.deletes()), (2, 1), "one of the client, one of the heal");
    sessiond.stop().await;
    sessiond.start_again().await;
    assert_eq!(client.call("count", json!({})).await.unwrap_err().status, Some(404));
    assert_eq!((server.initializes(), server.executed("count")), (2, 0));
}

#[tokio::test]
async fn an_attempt_that_fails_after_initialize_leaves_nothing_at_the_server() {
    for (times, mishap) in [(8, Mishap::status(503)), (2, Mishap::hang())] {
        let server = Server::start(Flavour::Python2).await;
        let sessiond = in_front_of(&server, "[heal]\nattempt_timeout = '1s'").await;
        let client = Client::connect(&sessiond.url()).await.unwrap();
        server.forget_sessions();
        server.next(times, mishap.on("notifications/initialized"));
        assert_eq!(client.call_text("count", json!({})).await.unwrap(), "1");
        server.until(|server| server.sessions() == 1).await;
        assert_eq!(server.mishaps_left(), 0);
        assert_eq!(
            server.initializes(),
            2 + server.deletes(),
            "one of the client, and the one that came through"
        );
    }
}

#[tokio::test]
async fn a_404_to_initialize_comes_from_a_neighbour_and_is_waited_for() {
    let server = Server::start(Flavour::Python2).await;
    let sessiond = in_front_of(&server, "[heal]\nattempts = 2").await;
    let client = Client::connect(&sessiond.url()).await.unwrap();
    server.forget_sessions();
    server.next(6, Mishap::answer(404, "text/plain", "404 page not found").on("initialize"));
    assert_eq!(client.call_text("count", json!({})).await.unwrap(), "1");
    assert_eq!((server.initializes(), server.mishaps_left()), (2, 0));
}

#[tokio::test]
async fn a_refusal_is_given_time_to_pass_and_then_called_by_its_name() {
    let server = Server::start(Flavour::Python2).await;
    let sessiond = in_front_of(&server, "[heal]\nattempts = 2").await;
    let client = Client::connect(&sessiond.url()).await.unwrap();
    server.forget_sessions();
    server.next(2, Mishap::answer(401, "text/plain", "no").on("initialize"));
    let began = Instant::now();
    let failure = client.call("count", json!({})).await.unwrap_err();
    assert!(began.elapsed() >= Duration::from_millis(500), "{:?}", began.elapsed());
    assert_eq!(failure.status, Some(200), "{failure}");
    for words in ["refuses", "did not run"] {
        assert!(failure.message().contains(words), "{words}: {failure}");
    }
    assert!(!failure.message().contains("reached"), "{failure}");
    server.next(1, Mishap::answer(403, "text/plain", "no").on("initialize"));
    assert_eq!(client.call_text("count", json!({})).await.unwrap(), "1", "and it passes");
}

#[tokio::test]
async fn a_neighbour_that_could_not_forward_is_waited_for_like_a_server_that_is_down() {
    let directory = tempfile::tempdir().unwrap();
    let server =
        Server::builder(Flavour::Python2).unix(directory.path().join("mcp.sock")).start().await.unwrap();
    let sessiond = in_front_of(&server, "").await;
    let client = Client::connect(&sessiond.url()).await.unwrap();
    server.set(|switches| switches.not_forwarded = true);
    let calls: Vec<_> = (0..4).map(|_| calling(&client, "count", json!({}))).collect();
    until_parked(&sessiond, 4).await;
    let url = sessiond.url();
    let newcomer = tokio::spawn(async move { Client::connect(&url).await });
    until_parked(&sessiond, 5).await;
    server.set(|switches| switches.not_forwarded = false);
    for call in calls {
        call.await.unwrap().unwrap();
    }
    newcomer.await.unwrap().unwrap();
    assert_eq!(
        (server.executed("count"), server.initializes()),
        (4, 2),
        "the session was alive all the time"
    );
}

#[tokio::test]
async fn a_socket_that_is_not_there_yet_is_waited_for() {
    let directory = tempfile::tempdir().unwrap();
    let server =
        Server::builder(Flavour::Python2).unix(directory.path().join("mcp.sock")).start().await.unwrap();
    let sessiond = in_front_of(&server, "").await;
    let client = Client::connect(&sessiond.url()).await.unwrap();
    server.stop().await;
    server.remove_socket();
    let calls: Vec<_> = (0..4).map(|_| calling(&client, "count", json!({}))).collect();
    until_parked(&sessiond, 4).await;
    server.start_again().await;
    for call in calls {
        call.await.unwrap().unwrap();
    }
    assert_eq!((server.executed("count"), server.initializes()), (4, 2));
}

#[tokio::test]
async fn every_flavour_heals_when_a_call_finds_it_down_and_when_it_finds_it_back() {
    let mut stories = JoinSet::new();
    for flavour in Flavour::answering() {
        stories.spawn(async move {
            let server = Server::start(flavour).await;
            let sessiond = in_front_of(&server, "").await;
            let url = sessiond.url();
            let client = Client::builder(&url).patience(PATIENCE).connect().await.unwrap();
            server.stop().await;
            let waiting = calling(&client, "count", json!({}));
            until_parked(&sessiond, 1).await;
            server.start_again().await;
            assert_eq!(
                waiting.await.unwrap().as_deref().unwrap_or("no answer"),
                "1",
                "{flavour}, found down"
            );
            assert_eq!(server.initializes(), 2, "{flavour}, found down");
            restart(&server).await;
            let tool = flavour.stale_tool();
            client
                .call(tool, json!({}))
                .await
                .unwrap_or_else(|failure| panic!("{flavour}, found back: {failure}"));
            assert_eq!((server.initializes(), server.sessions()), (3, 1), "{flavour}, found back");
        });
    }
    while let Some(story) = stories.join_next().await {
        story.unwrap();
    }
}

#[tokio::test]
async fn a_replayed_call_that_takes_its_time_is_waited_for_and_not_made_twice() {
    let server = Server::start(Flavour::Python2).await;
    // A real server may need minutes to activate a project, far more than to answer `initialize`.
    let sessiond = in_front_of(&server, "[heal]\nattempt_timeout = '400ms'").await;
    let client = Client::builder(&sessiond.url()).patience(PATIENCE).connect().await.unwrap();
    client.call("activate_project", json!({"project": "slow", "sleep_ms": 1500})).await.unwrap();
    restart(&server).await;
    assert_eq!(project(&client).await, "slow");
    assert_eq!((server.started("activate_project"), server.initializes()), (2, 2));
}

#[tokio::test]
async fn what_an_intermediary_swallowed_of_a_heal_is_said_again() {
    for method in ["initialize", "notifications/initialized", "logging/setLevel", "tools/call"] {
        let server = Server::start(Flavour::Python1_12).await;
        let sessiond = in_front_of(&server, "").await;
        let client = Client::builder(&sessiond.url()).patience(PATIENCE).connect().await.unwrap();
        client.request("logging/setLevel", json!({"level": "error"})).await.unwrap();
        client.call("activate_project", json!({"project": "ours"})).await.unwrap();
        restart(&server).await;
        // The first of its kind after the restart is one of the heal, but for a call, which comes first itself.
        server.next(
            usize::from(method == "tools/call"),
            Mishap::answer(404, "text/plain", "Session not found").on(method),
        );
        server.next(1, Mishap::status(503).on(method));
        let seen: Value =
            serde_json::from_str(&client.call_text("whoami", json!({})).await.unwrap()).unwrap();
        assert_eq!((&seen["project"], &seen["log_level"]), (&json!("ours"), &json!("error")), "{method}");
        assert_eq!(server.mishaps_left(), 0, "{method}");
    }
}
