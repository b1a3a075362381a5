//! Killed with -9 between calls: sessiond, the server, or both. The clients keep their ids and go on.
#![allow(
    clippy::disallowed_methods,
    clippy::unwrap_used,
    reason = "a test fails by panicking, and its tasks end with its runtime"
)]

use std::path::Path;
use std::time::Duration;

use serde_json::{Value, json};
use support::{Client, Flavour, Process, Server, Sessiond, misbehaving_server};
use tokio::task::JoinSet;
use tokio::time::timeout;

const BINARY: &str = env!("CARGO_BIN_EXE_mcp-sessiond");

async fn in_front_of(upstream: &str) -> Sessiond {
    Sessiond::start(BINARY, &["--upstream", upstream]).await
}

async fn crash(sessiond: &mut Sessiond) {
    sessiond.kill9().await;
    sessiond.start_again().await;
}

/// What the server believes about the caller, but for the upstream session's id.
async fn whoami(client: &Client) -> Value {
    let mut seen: Value =
        serde_json::from_str(&client.call_text("whoami", json!({})).await.unwrap()).unwrap();
    seen["session"].take();
    seen
}

/// A client that has set all that can be set, and what the server then believes.
async fn settled(sessiond: &Sessiond, uri: &str) -> (Client, Value) {
    let client = Client::builder(&sessiond.url()).version("2025-06-18").connect().await.unwrap();
    client.request("resources/subscribe", json!({"uri": uri})).await.unwrap();
    client.request("resources/subscribe", json!({"uri": "test://dropped"})).await.unwrap();
    client.request("resources/unsubscribe", json!({"uri": "test://dropped"})).await.unwrap();
    client.call("activate_project", json!({"project": "ours"})).await.unwrap();
    client.request("logging/setLevel", json!({"level": "warning"})).await.unwrap();
    let expected = json!({"project": "ours", "log_level": "warning", "subscriptions": [uri],
        "version": "2025-06-18", "session": null});
    (client, expected)
}

#[tokio::test]
async fn killed_between_calls_sessiond_finds_the_sessions_that_the_server_still_has() {
    let server = Server::start(Flavour::Python2).await;
    let mut sessiond = in_front_of(&server.url()).await;
    let (client, expected) = settled(&sessiond, "test://kept").await;
    let id = client.session_id();
    for _ in 0..3 {
        crash(&mut sessiond).await;
        assert_eq!(whoami(&client).await, expected);
    }
    assert_eq!(
        (server.initializes(), server.executed("activate_project")),
        (1, 1),
        "nothing was lost but sessiond"
    );
    assert_eq!(client.session_id(), id);
}

#[tokio::test]
async fn sessiond_and_server_killed_together_come_back_with_all_that_was_set() {
    let server = Server::start(Flavour::Python2).await;
    let mut sessiond = in_front_of(&server.url()).await;
    let (client, expected) = settled(&sessiond, "test://kept").await;
    // No call in between: what was answered last is on disk too.
    sessiond.kill9().await;
    server.stop().await;
    sessiond.start_again().await;
    server.start_again().await;
    assert_eq!(whoami(&client).await, expected);
    assert_eq!((server.initializes(), server.executed("activate_project")), (2, 2));
    // And again, so that what a heal brought back is remembered as well.
    sessiond.kill9().await;
    server.stop().await;
    server.start_again().await;
    sessiond.start_again().await;
    assert_eq!(whoami(&client).await, expected);
    assert_eq!(server.initializes(), 3);
}

#[tokio::test]
async fn a_call_made_while_both_are_away_and_only_sessiond_is_back_waits_for_the_server() {
    let mut server = Process::start(&misbehaving_server(), Flavour::Python1_12).await;
    let mut sessiond = in_front_of(&server.url()).await;
    let (client, expected) = settled(&sessiond, "test://kept").await;
    server.kill9().await;
    crash(&mut sessiond).await;
    let call = {
        let client = client.clone();
        tokio::spawn(async move { client.call_text("count", json!({})).await })
    };
    sessiond.until_status(|status| status["parked"] == 1).await;
    server.start_again().await;
    assert_eq!(call.await.unwrap().unwrap(), "1");
    assert_eq!(whoami(&client).await, expected);
    assert_eq!(server.executed(), ["activate_project", "activate_project", "count", "whoami"]);
}

#[tokio::test]
async fn the_server_killed_with_9_comes_back_with_all_that_was_set() {
    for flavour in [Flavour::Python1_12, Flavour::TypeScript, Flavour::Everything, Flavour::Rmcp] {
        let mut server = Process::start(&misbehaving_server(), flavour).await;
        let sessiond = in_front_of(&server.url()).await;
        let (client, expected) = settled(&sessiond, "test://kept").await;
        server.kill9().await;
        server.start_again().await;
        assert_eq!(whoami(&client).await, expected, "{flavour}");
        assert_eq!(client.call_text("count", json!({})).await.unwrap(), "1", "{flavour}");
    }
}

#[tokio::test]
async fn many_sessions_survive_and_are_not_mixed_up() {
    let server = Server::start(Flavour::Python2).await;
    let mut sessiond = in_front_of(&server.url()).await;
    let mut clients = Vec::new();
    for number in 0..12 {
        clients.push(settled(&sessiond, &format!("test://{number}")).await);
    }
    sessiond.kill9().await;
    server.stop().await;
    server.start_again().await;
    sessiond.start_again().await;
    let mut calls = JoinSet::new();
    for (client, expected) in &clients {
        let (client, expected) = (client.clone(), expected.clone());
        calls.spawn(async move { assert_eq!(whoami(&client).await, expected) });
    }
    while let Some(call) = calls.join_next().await {
        call.unwrap();
    }
    assert_eq!((server.initializes(), server.executed("activate_project")), (24, 13));
}

#[tokio::test]
async fn an_id_is_good_from_the_moment_the_client_has_it() {
    let server = Server::start(Flavour::Python2).await;
    let mut sessiond = in_front_of(&server.url()).await;
    for round in 1..=5 {
        let client = Client::connect(&sessiond.url()).await.unwrap();
        sessiond.kill9().await;
        server.forget_sessions();
        sessiond.start_again().await;
        client.call("count", json!({})).await.unwrap();
        // An adopted session would not know what the client said at its beginning.
        let offered = server.requests().into_iter().rfind(|it| it.method == "initialize").unwrap();
        let offered: Value = serde_json::from_slice(&offered.body).unwrap();
        assert_eq!(offered["params"]["clientInfo"]["name"], "support", "round {round}");
    }
}

#[tokio::test]
async fn a_call_in_flight_when_sessiond_is_killed_runs_once_and_the_client_goes_on() {
    let server = Server::start(Flavour::Python2).await;
    let mut sessiond = in_front_of(&server.url()).await;
    let client = Client::connect(&sessiond.url()).await.unwrap();
    let call = {
        let client = client.clone();
        tokio::spawn(async move { client.call_text("count", json!({"sleep_ms": 500})).await })
    };
    server.until(|server| server.started("count") == 1).await;
    crash(&mut sessiond).await;
    call.await.unwrap().expect_err("its connection is gone");
    server.until(|server| server.executed("count") == 1).await;
    assert_eq!(client.call_text("count", json!({})).await.unwrap(), "2");
    assert_eq!(server.started("count"), 2, "sessiond sends nothing of its earlier life again");
}

#[tokio::test]
async fn a_deleted_session_stays_dead() {
    let server = Server::start(Flavour::Python2).await;
    let mut sessiond = in_front_of(&server.url()).await;
    let mut clients = Vec::new();
    for _ in 0..32 {
        clients.push(Client::connect(&sessiond.url()).await.unwrap());
    }
    let mut deletes = JoinSet::new();
    for client in clients.clone() {
        deletes.spawn(async move { client.delete().await.unwrap() });
    }
    while let Some(status) = deletes.join_next().await {
        assert_eq!(status.unwrap(), 200);
    }
    // Right after the last answer: what it promised is on disk.
    crash(&mut sessiond).await;
    for client in &clients {
        assert_eq!(client.call("count", json!({})).await.unwrap_err().status, Some(404));
        assert_eq!(client.open_get().await.unwrap_err().status, Some(404));
    }
    assert_eq!((server.executed("count"), server.initializes()), (0, 32));
}

#[tokio::test]
async fn a_stopped_sessiond_forgets_nothing_either() {
    let server = Server::start(Flavour::Python2).await;
    let mut sessiond = in_front_of(&server.url()).await;
    let (client, expected) = settled(&sessiond, "test://kept").await;
    assert_eq!(sessiond.stop().await.code(), Some(0));
    server.forget_sessions();
    sessiond.start_again().await;
    assert_eq!(whoami(&client).await, expected);
    assert_eq!(server.deletes(), 0, "a drain is not the end of a session");
}

#[tokio::test]
async fn a_stream_cut_by_the_kill_is_opened_again_and_carries_on() {
    let server = Server::start(Flavour::Python2).await;
    let mut sessiond = in_front_of(&server.url()).await;
    let client = Client::connect(&sessiond.url()).await.unwrap();
    let mut events = client.open_get().await.unwrap();
    server.until(|server| server.streams() == 1).await;
    sessiond.kill9().await;
    assert_eq!(events.next_event().await, None);
    server.forget_sessions();
    sessiond.start_again().await;
    let mut events = client.open_get().await.unwrap();
    client.call("count", json!({})).await.unwrap();
    server.until(|server| server.streams() == 1).await;
    let message = json!({"jsonrpc": "2.0", "method": "notifications/message", "params": {"data": "again"}});
    assert_eq!(server.notify(&message), 1);
    assert_eq!(events.next_message().await, Some(message));
}

/// Runs the server `$1` on stdio beside a child with a session of its own, which ignores the end of its parent and
/// leaves its process id in the file `$2`.
const WITH_CHILD: &str = r#"
setsid sh -c 'trap "" TERM; echo $$ > "$1.new"; mv "$1.new" "$1"; exec sleep 1000' sh "$2" &
exec "$1" --stdio
"#;

fn is_alive(pid: i32) -> bool {
    // A zombie is dead; only its parent has not looked yet.
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    stat.rsplit_once(") ").is_some_and(|(_, rest)| !rest.starts_with('Z'))
}

/// A sessiond that launches its servers, a session with it, and the child of that session's server.
async fn with_child(pid_file: &Path) -> (Sessiond, Client, i32) {
    let server = misbehaving_server();
    let command = ["--", "sh", "-c", WITH_CHILD, "sh", server.to_str().unwrap(), pid_file.to_str().unwrap()];
    let sessiond =
        Sessiond::start_set(BINARY, |_| "[process]\nstop_grace = '300ms'\n".into(), &command).await;
    let client = Client::connect(&sessiond.url()).await.unwrap();
    let child = async {
        while !pid_file.exists() {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        std::fs::read_to_string(pid_file).unwrap().trim().parse().unwrap()
    };
    let child = timeout(Duration::from_secs(60), child).await.expect("the child leaves its process id");
    (sessiond, client, child)
}

#[tokio::test]
async fn what_its_launched_servers_left_behind_is_gone_once_it_serves_again_and_nobody_elses_is() {
    let directory = tempfile::tempdir().unwrap();
    let (mut sessiond, client, child) = with_child(&directory.path().join("one")).await;
    let (mut neighbour, _theirs, neighbours_child) = with_child(&directory.path().join("two")).await;
    sessiond.kill9().await;
    assert!(is_alive(child), "it ignores the end of its parent");
    sessiond.start_again().await;
    assert!(!is_alive(child));
    assert!(sessiond.until_logged("left behind").await.contains(&child.to_string()));
    assert!(is_alive(neighbours_child));
    assert_eq!(client.call_text("echo", json!({"text": "healed"})).await.unwrap(), "healed");
    for one in [&mut sessiond, &mut neighbour] {
        assert!(one.stop().await.success());
    }
    assert!(!is_alive(neighbours_child));
}
