//! The life of sessions as an operator sees it: they end when nobody wants them, are bounded, listed and deleted.
#![allow(
    clippy::disallowed_methods,
    clippy::unwrap_used,
    reason = "a test fails by panicking, and its tasks end with its runtime"
)]

use std::process::Output;
use std::time::Duration;

use serde_json::{Value, json};
use support::{Client, Flavour, Mishap, RpcFailure, Server, Sessiond};
use tokio::process::Command;
use tokio::task::JoinHandle;
use tokio::time::timeout;

const BINARY: &str = env!("CARGO_BIN_EXE_mcp-sessiond");

async fn in_front_of(server: &Server, limits: &str) -> Sessiond {
    let settings = format!("upstream = '{}'\n[limits]\n{limits}\n", server.url());
    Sessiond::start_set(BINARY, |_| settings, &[]).await
}

async fn sessions(sessiond: &Sessiond) -> Vec<Value> {
    let (status, sessions) = sessiond.control("GET", "/sessions").await;
    assert_eq!(status, 200);
    sessions.as_array().unwrap().clone()
}

/// Runs the command beside the daemon, as its user would.
async fn ask(sessiond: &Sessiond, args: &[&str]) -> Output {
    let mut command = Command::new(BINARY);
    command
        .args(args)
        .env_clear()
        .env("XDG_RUNTIME_DIR", sessiond.directory().join("run"))
        .kill_on_drop(true);
    timeout(Duration::from_secs(60), command.output()).await.expect("it answers").unwrap()
}

fn text(output: &Output) -> String {
    assert!(output.status.success(), "{output:?}");
    String::from_utf8(output.stdout.clone()).unwrap()
}

fn session_files(sessiond: &Sessiond) -> usize {
    let entries = std::fs::read_dir(sessiond.state_dir()).unwrap();
    let names = entries.map(|entry| entry.unwrap().file_name().into_string().unwrap());
    // Of the server, not of a session.
    names.filter(|name| name.ends_with(".json") && !name.starts_with("replay-")).count()
}

#[tokio::test]
async fn a_session_that_nobody_uses_is_closed_here_and_upstream() {
    let server = Server::start(Flavour::Python2).await;
    let sessiond = in_front_of(&server, "session_idle = '400ms'").await;
    let client = Client::connect(&sessiond.url()).await.unwrap();
    server.until(|server| server.deletes() == 1 && server.sessions() == 0).await;
    assert_eq!(sessions(&sessiond).await.len(), 0);
    // Idle is not deleted: a client that comes back late still works.
    assert_eq!(client.call_text("echo", json!({"text": "late"})).await.unwrap(), "late");
    assert_eq!(client.delete().await.unwrap(), 200);
    assert_eq!(client.call("echo", json!({})).await.unwrap_err().status, Some(404));
}

#[tokio::test]
async fn a_client_that_still_listens_has_not_abandoned_its_session() {
    let server = Server::start(Flavour::Python2).await;
    let stream = "[stream]\nkeep_alive = '50ms'\npark_after = '100ms'";
    let sessiond = in_front_of(&server, &format!("session_idle = '300ms'\n{stream}")).await;
    let client = Client::connect(&sessiond.url()).await.unwrap();
    let mut events = client.open_get().await.unwrap();
    server.until(|server| server.streams() == 1).await;
    server.until(|server| server.streams() == 0).await;
    let ended = timeout(Duration::from_secs(2), async {
        while events.comments() < 20 {
            // Cancelled in between, so that the counter can be looked at.
            if let Ok(event) = timeout(Duration::from_millis(10), events.next_event()).await {
                return event;
            }
        }
        None
    });
    assert_eq!(ended.await, Ok(None));
    assert_eq!((events.comments() >= 20, events.broken()), (true, None), "its stream goes on");
    assert_eq!((server.deletes(), sessions(&sessiond).await.len()), (0, 1));
}

#[tokio::test]
async fn a_session_with_a_call_in_flight_is_not_idle() {
    let server = Server::start(Flavour::Python2).await;
    let sessiond = in_front_of(&server, "session_idle = '200ms'").await;
    for session in 0..2 {
        let client = Client::connect(&sessiond.url()).await.unwrap();
        let arguments = json!({"sleep_ms": 1000});
        // Both framings: an answer that streams, and one for a client that takes only JSON.
        let tool = if session == 0 { "count" } else { "progress" };
        client.call(tool, arguments).await.expect("a long call outlives the bound for idle sessions");
    }
}

#[tokio::test]
async fn the_session_of_a_subject_that_idled_longest_makes_room() {
    let server = Server::start(Flavour::Python2).await;
    let sessiond = in_front_of(&server, "sessions_per_subject = 3").await;
    let mut clients = Vec::new();
    let mut upstream = Vec::new();
    for _ in 0..3 {
        clients.push(Client::connect(&sessiond.url()).await.unwrap());
        upstream
            .extend(server.session_ids().into_iter().filter(|id| !upstream.contains(id)).collect::<Vec<_>>());
    }
    // Used again, the first is not the one that idled longest any more; the second only listens, and is spared for that.
    clients[0].call("echo", json!({})).await.unwrap();
    let _events = clients[1].open_get().await.unwrap();
    clients[0].call("echo", json!({})).await.unwrap();
    server.until(|server| server.streams() == 1).await;
    let fourth = Client::connect(&sessiond.url()).await.unwrap();
    server.until(|server| server.deletes() == 1).await;
    assert!(!server.session_ids().contains(&upstream[2]), "the third was idle and did not even listen");
    assert_eq!(sessions(&sessiond).await.len(), 3);
    for client in [&clients[0], &clients[1], &fourth] {
        client.call("echo", json!({})).await.unwrap();
    }
    assert_eq!(server.initializes(), 4, "the others were left alone");
}

#[tokio::test]
async fn a_session_at_work_does_not_make_room_while_another_is_idle() {
    for cap in ["sessions_per_subject = 2", "sessions = 2"] {
        let server = Server::start(Flavour::Python2).await;
        let sessiond = in_front_of(&server, cap).await;
        let busy = Client::connect(&sessiond.url()).await.unwrap();
        let call = {
            let busy = busy.clone();
            tokio::spawn(async move { busy.call_text("count", json!({"sleep_ms": 1500})).await })
        };
        server.until(|server| server.started("count") == 1).await;
        let _idle = Client::connect(&sessiond.url()).await.unwrap();
        let listening = Client::connect(&sessiond.url()).await.unwrap();
        server.until(|server| server.deletes() == 1).await;
        // A client that listens loses less than one that waits for an answer.
        let _events = listening.open_get().await.unwrap();
        server.until(|server| server.streams() == 1).await;
        let _newcomer = Client::connect(&sessiond.url()).await.unwrap();
        server.until(|server| server.deletes() == 2).await;
        assert_eq!(call.await.unwrap().unwrap(), "1", "{cap}");
        assert_eq!(busy.call_text("count", json!({})).await.unwrap(), "2", "{cap}");
        assert_eq!(server.initializes(), 4, "{cap}: its session was left alone");
    }
}

#[tokio::test]
async fn a_call_whose_session_has_to_make_room_while_it_waits_gets_one_clean_error() {
    let server = Server::start(Flavour::Python2).await;
    let sessiond = in_front_of(&server, "sessions_per_subject = 1").await;
    let client = Client::connect(&sessiond.url()).await.unwrap();
    server.stop().await;
    let parked = {
        let client = client.clone();
        tokio::spawn(async move { client.call("count", json!({})).await })
    };
    sessiond.until_status(|status| status["parked"] == 1).await;
    let other = Client::builder(&sessiond.url()).session("one-that-nobody-knows").unconnected();
    let second = {
        let other = other.clone();
        tokio::spawn(async move { other.call("count", json!({})).await })
    };
    let failure = parked.await.unwrap().unwrap_err();
    assert_eq!((failure.status, failure.error.is_some()), (Some(200), true), "{failure}");
    for words in ["make room", "did not run"] {
        assert!(failure.message().contains(words), "{words}: {failure}");
    }
    server.start_again().await;
    second.await.unwrap().unwrap();
    assert_eq!(server.executed("count"), 1);
}

/// A session that is being healed: its new upstream session is there, and what belongs to it is being set again.
async fn healing(server: &Server, sessiond: &Sessiond) -> (Client, JoinHandle<Result<Value, RpcFailure>>) {
    let client = Client::connect(&sessiond.url()).await.unwrap();
    client.call("activate_project", json!({"project": "slow", "sleep_ms": 1000})).await.unwrap();
    server.forget_sessions();
    let call = {
        let client = client.clone();
        tokio::spawn(async move { client.call("count", json!({})).await })
    };
    server.until(|server| server.started("activate_project") == 2).await;
    (client, call)
}

#[tokio::test]
async fn a_session_deleted_while_it_is_healed_stays_deleted() {
    let server = Server::start(Flavour::Python2).await;
    let mut sessiond = in_front_of(&server, "").await;
    let (client, call) = healing(&server, &sessiond).await;
    assert_eq!(client.delete().await.unwrap(), 200);
    assert_eq!(call.await.unwrap().unwrap_err().status, Some(404));
    server.until(|server| server.executed("activate_project") == 2 && server.sessions() == 0).await;
    assert!(!sessiond.log().iter().any(|line| line.contains("session healed")));
    sessiond.stop().await;
    assert_eq!(session_files(&sessiond), 0);
    sessiond.start_again().await;
    assert_eq!(client.call("count", json!({})).await.unwrap_err().status, Some(404));
    assert_eq!((server.executed("count"), server.initializes()), (0, 2));
}

#[tokio::test]
async fn a_session_evicted_while_it_is_healed_leaves_nothing_behind() {
    let server = Server::start(Flavour::Python2).await;
    let sessiond = in_front_of(&server, "sessions_per_subject = 1").await;
    let (_client, call) = healing(&server, &sessiond).await;
    let newcomer = Client::connect(&sessiond.url()).await.unwrap();
    assert_eq!(call.await.unwrap().unwrap_err().status, Some(200));
    server.until(|server| server.executed("activate_project") == 2 && server.sessions() == 1).await;
    newcomer.call("echo", json!({})).await.unwrap();
    assert_eq!((server.executed("count"), session_files(&sessiond)), (0, 1));
}

#[tokio::test]
async fn a_hidden_session_that_is_deleted_is_made_anew_and_outlives_a_restart() {
    let server = Server::start(Flavour::Python2).await;
    let settings = format!("upstream = '{}'\nsession_from = 'subject'\n", server.url());
    let mut sessiond = Sessiond::start_set(BINARY, |_| settings, &[]).await;
    let client = Client::builder(&sessiond.url()).unconnected();
    client.call("echo", json!({})).await.unwrap();
    let name = sessions(&sessiond).await[0]["session"].as_str().unwrap().to_owned();
    assert_eq!(sessiond.control("DELETE", &format!("/sessions/{name}")).await.0, 200);
    assert_eq!(sessions(&sessiond).await.len(), 0);
    client.call("echo", json!({})).await.unwrap();
    sessiond.stop().await;
    sessiond.start_again().await;
    assert_eq!((sessions(&sessiond).await.len(), session_files(&sessiond)), (1, 1));
    client.call("echo", json!({})).await.unwrap();
}

#[tokio::test]
async fn an_answer_that_comes_after_the_delete_does_not_bring_the_session_back() {
    let server = Server::start(Flavour::Python2).await;
    let sessiond = in_front_of(&server, "").await;
    let client = Client::connect(&sessiond.url()).await.unwrap();
    server.set(|switches| switches.hang = true);
    let call = {
        let client = client.clone();
        tokio::spawn(async move { client.request("tools/list", json!({})).await })
    };
    server.until(|server| server.received("tools/list") == 1).await;
    // So that the answer comes first.
    server.next(1, Mishap::hang().on("DELETE"));
    assert_eq!(client.delete().await.unwrap(), 200);
    server.until(|server| server.mishaps_left() == 0).await;
    server.set(|switches| switches.hang = false);
    call.await.unwrap().unwrap();
    assert_eq!(session_files(&sessiond), 0);
}

#[tokio::test]
async fn one_subject_cannot_push_out_the_sessions_of_another() {
    let server = Server::start(Flavour::Python2).await;
    let settings = |directory: &std::path::Path| {
        let socket = directory.join("trusted.sock");
        let listener = format!("[[listener]]\naddress = 'unix:{}'\ntrusted = true\n", socket.display());
        format!("upstream = '{}'\n{listener}[limits]\nsessions_per_subject = 2\n", server.url())
    };
    let sessiond = Sessiond::start_set(BINARY, settings, &[]).await;
    let subject = |name: &str| Client::builder(&sessiond.url_of(1)).header("mcp-auth-subject", name);
    let alice = subject("alice").connect().await.unwrap();
    for _ in 0..5 {
        subject("bob").connect().await.unwrap();
    }
    server.until(|server| server.deletes() == 3).await;
    server.clear();
    alice.call("echo", json!({})).await.unwrap();
    assert_eq!(server.received("initialize"), 0);
    assert_eq!(sessions(&sessiond).await.len(), 3);
}

#[tokio::test]
async fn there_is_a_bound_for_everybody_together_too() {
    let server = Server::start(Flavour::Python2).await;
    let sessiond = in_front_of(&server, "sessions = 2").await;
    let mut clients = Vec::new();
    for _ in 0..4 {
        clients.push(Client::connect(&sessiond.url()).await.unwrap());
    }
    server.until(|server| server.deletes() == 2).await;
    assert_eq!((sessions(&sessiond).await.len(), server.sessions(), session_files(&sessiond)), (2, 2, 2));
    // Evicted is not deleted: who comes back is taken over, and somebody else makes room.
    assert_eq!(clients[0].call_text("echo", json!({"text": "back"})).await.unwrap(), "back");
    assert_eq!(sessions(&sessiond).await.len(), 2);
}

#[tokio::test]
async fn a_clients_delete_reaches_the_server_with_the_servers_id() {
    let server = Server::start(Flavour::Python2).await;
    let sessiond = in_front_of(&server, "").await;
    let client = Client::connect(&sessiond.url()).await.unwrap();
    let mut events = client.open_get().await.unwrap();
    let upstream = server.session_ids().remove(0);
    assert_eq!(client.delete().await.unwrap(), 200);
    assert_eq!(events.next_event().await, None, "its stream ends");
    server.until(|server| server.deletes() == 1).await;
    let seen =
        server.requests().into_iter().find(|request| request.http_method == http::Method::DELETE).unwrap();
    assert_eq!(seen.session, Some(upstream));
    assert_eq!(server.sessions(), 0);
    assert_eq!(client.delete().await.unwrap(), 404);
    assert_eq!(session_files(&sessiond), 0);
}

#[tokio::test]
async fn a_delete_while_the_server_is_away_is_answered_here_and_not_made_up_for() {
    let server = Server::start(Flavour::Python2).await;
    let sessiond = in_front_of(&server, "").await;
    let client = Client::connect(&sessiond.url()).await.unwrap();
    let other = Client::connect(&sessiond.url()).await.unwrap();
    server.stop().await;
    assert_eq!(client.delete().await.unwrap(), 200);
    server.start_again().await;
    server.clear();
    other.call("echo", json!({})).await.unwrap();
    assert_eq!(server.deletes(), 0);
    assert_eq!(server.received("initialize"), 1, "only the other one is healed");
}

#[tokio::test]
async fn the_commands_show_and_delete_the_sessions_of_the_running_daemon() {
    let server = Server::start(Flavour::Python2).await;
    let sessiond = in_front_of(&server, "").await;
    let clients =
        [Client::connect(&sessiond.url()).await.unwrap(), Client::connect(&sessiond.url()).await.unwrap()];
    let status = text(&ask(&sessiond, &["status"]).await);
    for words in [
        "2 live",
        "0 healing",
        &sessiond.pid().to_string(),
        &server.url(),
        &sessiond.url()["http://".len()..22],
    ] {
        assert!(status.contains(words), "{words}: {status}");
    }
    let status: Value = serde_json::from_str(&text(&ask(&sessiond, &["status", "--json"]).await)).unwrap();
    assert_eq!(status["sessions"]["live"], 2);
    let table = text(&ask(&sessiond, &["sessions"]).await);
    assert_eq!(table.lines().count(), 3, "{table}");
    assert!(table.contains("support") && table.contains("2025-11-25") && table.contains("live"), "{table}");
    let rows: Vec<Value> =
        serde_json::from_str(&text(&ask(&sessiond, &["sessions", "--json"]).await)).unwrap();
    let name = rows[0]["session"].as_str().unwrap();
    assert!(table.contains(&name[..8]), "{table}");
    text(&ask(&sessiond, &["sessions", "--delete", &name[..8]]).await);
    server.until(|server| server.deletes() == 1).await;
    let left: Vec<Value> =
        serde_json::from_str(&text(&ask(&sessiond, &["sessions", "--json"]).await)).unwrap();
    assert_eq!(
        left,
        [rows[1].clone()].map(|mut row| {
            row["idle_seconds"] = left[0]["idle_seconds"].clone();
            row
        })
    );
    let mut outcomes = Vec::new();
    for client in &clients {
        outcomes.push(client.call("echo", json!({})).await.map_err(|failure| failure.status));
    }
    outcomes.sort_by_key(Result::is_ok);
    assert_eq!(outcomes[0], Err(Some(404)), "deleted is deleted");
    assert!(outcomes[1].is_ok());
}

#[tokio::test]
async fn the_commands_say_in_one_line_what_is_wrong() {
    let server = Server::start(Flavour::Python2).await;
    let mut sessiond = in_front_of(&server, "").await;
    let _clients =
        [Client::connect(&sessiond.url()).await.unwrap(), Client::connect(&sessiond.url()).await.unwrap()];
    let refused = async |sessiond: &Sessiond, args: &[&str], words: &str| {
        let output = ask(sessiond, args).await;
        let said = String::from_utf8(output.stderr).unwrap();
        assert_eq!((output.status.code(), said.lines().count()), (Some(69), 1), "{args:?}: {said}");
        assert!(said.contains(words), "{args:?}: {said}");
        assert!(output.stdout.is_empty(), "{args:?}");
    };
    refused(&sessiond, &["sessions", "--delete", "zzz"], "zzz").await;
    refused(&sessiond, &["sessions", "--delete", ""], "session").await;
    refused(&sessiond, &["sessions", "--delete", "../reload"], "reload").await;
    refused(&sessiond, &["status", "--control", "/nonexistent/control.sock"], "/nonexistent/control.sock")
        .await;
    assert_eq!(sessions(&sessiond).await.len(), 2, "none was deleted by mistake");
    sessiond.stop().await;
    refused(&sessiond, &["status"], "no mcp-sessiond is running").await;
    refused(&sessiond, &["sessions"], "control.sock").await;
}
