//! The stdio ends: as the command that a client launches, and in front of servers that are commands themselves.
#![allow(
    clippy::disallowed_methods,
    clippy::unwrap_used,
    reason = "a test fails by panicking, and its tasks end with its runtime"
)]

use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;
use std::time::Duration;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::{Value, json};
use support::{Bridge, Client, Flavour, Server, Sessiond, misbehaving_server};
use tokio::time::{Instant, sleep, timeout};

const BINARY: &str = env!("CARGO_BIN_EXE_mcp-sessiond");
const PATIENCE: Duration = Duration::from_secs(60);

/// Waits until `fact` holds.
async fn until(fact: impl Fn() -> bool) {
    let held = timeout(PATIENCE, async {
        while !fact() {
            sleep(Duration::from_millis(10)).await;
        }
    });
    held.await.expect("the awaited fact came true");
}

/// Waits for the process id that a grandchild writes.
async fn grandchild(pid_file: &Path) -> Pid {
    until(|| pid_file.exists()).await;
    Pid::from_raw(std::fs::read_to_string(pid_file).unwrap().parse().unwrap())
}

fn is_alive(pid: Pid) -> bool {
    // A zombie is dead; only its parent has not looked yet.
    let status = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    status.rsplit_once(") ").is_some_and(|(_, rest)| !rest.starts_with('Z'))
}

#[tokio::test]
async fn a_client_over_pipes_does_not_notice_a_restart() {
    let server = Server::start(Flavour::Python2).await;
    let mut bridge = Bridge::connect(BINARY, &["--upstream", &server.url()]).await;
    assert_eq!(bridge.call(json!(1), "count", json!({})).await, "1");
    server.stop().await;
    bridge.ask(json!("waits"), "tools/call", json!({"name": "count", "arguments": {}})).await;
    server.start_again().await;
    let answer = bridge.next().await.unwrap();
    assert_eq!(
        (&answer["id"], &answer["result"]["content"][0]["text"]),
        (&json!("waits"), &json!("2")),
        "{answer}"
    );
    assert_eq!((server.executed("count"), server.initializes()), (2, 2));
    // What the server says unasked arrives as well, before and after.
    server.until(|server| server.streams() == 1).await;
    let message = json!({"jsonrpc": "2.0", "method": "notifications/message", "params": {"level": "info", "data": "a\nb"}});
    server.notify(&message);
    assert_eq!(bridge.next().await, Some(message));
    let (rest, status) = bridge.end().await;
    assert_eq!((rest, status.code()), (vec![], Some(0)));
    server.until(|server| server.deletes() == 1).await;
}

#[tokio::test]
async fn a_question_of_the_server_crosses_the_pipes_and_its_answer_comes_back() {
    let server = Server::start(Flavour::Python2).await;
    let mut bridge = Bridge::connect(BINARY, &["--upstream", &server.url()]).await;
    bridge.ask(json!(5), "tools/call", json!({"name": "ask", "arguments": {}})).await;
    let question = bridge.next().await.unwrap();
    assert_eq!(question["method"], "elicitation/create", "{question}");
    bridge
        .say(&json!({"jsonrpc": "2.0", "id": question["id"], "result": {"action": "accept"}}).to_string())
        .await;
    let answer = bridge.next().await.unwrap();
    assert_eq!(
        (&answer["id"], &answer["result"]["content"][0]["text"]),
        (&json!(5), &json!(r#"{"action":"accept"}"#))
    );
    assert_eq!(server.answers()[0]["id"], 1);
}

#[tokio::test]
async fn calls_over_pipes_run_beside_each_other_and_keep_their_ids() {
    let server = Server::start(Flavour::Python2).await;
    let mut bridge = Bridge::connect(BINARY, &["--upstream", &server.url()]).await;
    let ids = [json!(1), json!("1"), json!(-7), json!("\u{1f980}\n"), json!(9_007_199_254_740_991_u64)];
    // It waits for an answer of ours, so it is in flight as long as we like.
    bridge.ask(json!("slow"), "tools/call", json!({"name": "ask", "arguments": {}})).await;
    let question = bridge.next().await.unwrap();
    let large = "x".repeat(1 << 20);
    for (at, id) in ids.iter().enumerate() {
        bridge
            .ask(
                id.clone(),
                "tools/call",
                json!({"name": "echo", "arguments": {"text": format!("{at}\n{large}")}}),
            )
            .await;
    }
    for _ in &ids {
        let answer = bridge.next().await.unwrap();
        let at = ids.iter().position(|id| *id == answer["id"]).unwrap_or_else(|| panic!("{}", answer["id"]));
        assert_eq!(answer["result"]["content"][0]["text"], format!("{at}\n{large}"));
    }
    bridge.say(&json!({"jsonrpc": "2.0", "id": question["id"], "result": {}}).to_string()).await;
    assert_eq!(bridge.next().await.unwrap()["id"], "slow");
}

#[tokio::test]
async fn what_is_in_flight_when_the_client_closes_its_end_is_still_answered() {
    let server = Server::start(Flavour::Python2).await;
    let mut bridge = Bridge::connect(BINARY, &["--upstream", &server.url()]).await;
    bridge.ask(json!("slow"), "tools/call", json!({"name": "count", "arguments": {"sleep_ms": 500}})).await;
    server.until(|server| server.started("count") == 1).await;
    let (rest, status) = bridge.end().await;
    assert_eq!((rest.len(), &rest[0]["id"], status.code()), (1, &json!("slow"), Some(0)), "{rest:?}");
    assert_eq!(server.executed("count"), 1);
}

#[tokio::test]
async fn what_has_no_answer_is_cut_a_grace_after_the_client_closed_its_end() {
    let server = Server::start(Flavour::Python2).await;
    let args = ["--upstream", &server.url(), "--grace", "1s"];
    for is_down in [false, true] {
        let mut bridge = Bridge::connect(BINARY, &args).await;
        if is_down {
            server.stop().await;
            bridge.ask(json!(1), "tools/call", json!({"name": "count", "arguments": {}})).await;
        } else {
            bridge.ask(json!(1), "tools/call", json!({"name": "ask", "arguments": {}})).await;
            assert_eq!(bridge.next().await.unwrap()["method"], "elicitation/create");
        }
        let began = Instant::now();
        let (_, status) = bridge.end().await;
        // Far below the 10 s of the default, and the 300 s that a call may wait.
        assert!(began.elapsed() < Duration::from_secs(8), "{:?}, is_down {is_down}", began.elapsed());
        assert_eq!(status.code(), Some(0), "is_down {is_down}");
    }
    // Nothing is there from the start: not even `initialize` is answered.
    let mut silent = Bridge::launch(BINARY, &args);
    silent.ask(json!(0), "initialize", json!({"protocolVersion": "2025-11-25", "capabilities": {}})).await;
    let began = Instant::now();
    let (_, status) = silent.end().await;
    assert!(began.elapsed() < Duration::from_secs(8), "{:?}", began.elapsed());
    assert_eq!(status.code(), Some(0));
}

#[tokio::test]
async fn a_line_that_is_no_message_gets_an_error_and_the_next_one_is_served() {
    let server = Server::start(Flavour::Python2).await;
    let mut bridge = Bridge::connect(BINARY, &["--upstream", &server.url()]).await;
    for (line, code) in
        [("hello", -32700), ("{", -32700), ("[]", -32600), ("{\"id\":1,\"id\":2,\"method\":\"x\"}", -32600)]
    {
        bridge.say(line).await;
        let error = bridge.next().await.unwrap();
        assert_eq!((&error["id"], &error["error"]["code"]), (&Value::Null, &json!(code)), "{line}: {error}");
    }
    bridge.say("").await;
    bridge.say("{\"jsonrpc\":\"2.0\",\"id\":3,\"method\":\"ping\"}\r").await;
    let answer = bridge.next().await.unwrap();
    assert_eq!((&answer["id"], answer.get("result")), (&json!(3), Some(&json!({}))), "{answer}");
}

#[tokio::test]
async fn the_token_and_headers_of_the_command_line_go_upstream() {
    let server = Server::start(Flavour::Python2).await;
    let token = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(token.path(), "s3cret\n").unwrap();
    let file = token.path().to_str().unwrap();
    let args = ["--upstream", &server.url(), "--token-file", file, "--header", "X-Added: yes"];
    let mut bridge = Bridge::connect(BINARY, &args).await;
    bridge.call(json!(1), "echo", json!({})).await;
    bridge.end().await;
    server.until(|server| server.deletes() == 1).await;
    for request in server.requests() {
        assert_eq!(
            (&request.headers["authorization"], &request.headers["x-added"]),
            (&"Bearer s3cret".parse().unwrap(), &"yes".parse().unwrap())
        );
    }
}

#[tokio::test]
async fn sigterm_ends_the_bridge_and_the_session() {
    let server = Server::start(Flavour::Python2).await;
    let mut bridge = Bridge::connect(BINARY, &["--upstream", &server.url()]).await;
    bridge.call(json!(1), "echo", json!({})).await;
    bridge.signal(Signal::SIGTERM);
    assert_eq!(bridge.next().await, None);
    assert_eq!(bridge.ended().await.code(), Some(0));
}

/// In front of `misbehaving-server --stdio` with these arguments and settings of `[process]`.
async fn in_front_of_command(process: &str, args: &[&str]) -> Sessiond {
    let server = misbehaving_server();
    let args = [&["--", server.to_str().unwrap(), "--stdio"], args].concat();
    Sessiond::start_set(BINARY, |_| format!("[process]\n{process}\n"), &args).await
}

/// The process ids of the servers that run now, oldest first.
async fn processes(sessiond: &Sessiond) -> Vec<Pid> {
    let (_, status) = sessiond.control("GET", "/status").await;
    let processes = status["back"]["processes"].as_array().expect("an exec back lists its processes");
    processes.iter().map(|it| Pid::from_raw(it["pid"].as_i64().unwrap() as i32)).collect()
}

async fn until_processes(sessiond: &Sessiond, count: usize) {
    sessiond
        .until_status(|status| status["back"]["processes"].as_array().is_some_and(|it| it.len() == count))
        .await;
}

async fn whoami(client: &Client) -> Value {
    serde_json::from_str(&client.call_text("whoami", json!({})).await.unwrap()).unwrap()
}

#[tokio::test]
async fn every_session_has_a_process_of_its_own_with_its_own_state() {
    let sessiond = in_front_of_command("", &[]).await;
    let clients =
        [Client::connect(&sessiond.url()).await.unwrap(), Client::connect(&sessiond.url()).await.unwrap()];
    for (client, project) in clients.iter().zip(["one", "two"]) {
        client.call("activate_project", json!({"project": project})).await.unwrap();
        client.request("logging/setLevel", json!({"level": "error"})).await.unwrap();
    }
    let before = processes(&sessiond).await;
    assert_eq!(before.len(), 2);
    for pid in &before {
        kill(*pid, Signal::SIGKILL).unwrap();
    }
    until_processes(&sessiond, 0).await;
    for (client, project) in clients.iter().zip(["one", "two"]) {
        let now = whoami(client).await;
        assert_eq!((&now["project"], &now["log_level"]), (&json!(project), &json!("error")), "{now}");
    }
    assert_eq!(processes(&sessiond).await.len(), 2);
    assert_eq!(clients[0].delete().await.unwrap(), 200);
    until_processes(&sessiond, 1).await;
    assert_eq!(whoami(&clients[1]).await["project"], "two");
}

#[tokio::test]
async fn a_crash_in_a_harmful_call_is_one_error_and_the_next_call_works() {
    let log = tempfile::NamedTempFile::new().unwrap();
    let sessiond =
        in_front_of_command("", &["--crash-on", "count", "--log", log.path().to_str().unwrap()]).await;
    let client = Client::connect(&sessiond.url()).await.unwrap();
    for _ in 0..3 {
        let lost = client.call("count", json!({})).await.unwrap_err();
        assert_eq!((lost.status, lost.code()), (Some(200), Some(-32603)), "{lost}");
        assert!(lost.message().contains("effect is unknown"), "{lost}");
        assert_eq!(client.call_text("echo", json!({"text": "next"})).await.unwrap(), "next");
    }
    assert!(!std::fs::read_to_string(log.path()).unwrap().contains("count"));
}

#[tokio::test]
async fn a_harmless_call_that_always_crashes_its_server_is_given_up_on() {
    let sessiond = in_front_of_command("", &["--crash-on", "read"]).await;
    let client = Client::connect(&sessiond.url()).await.unwrap();
    client.request("tools/list", json!({})).await.unwrap();
    let lost = client.call("read", json!({})).await.unwrap_err();
    assert_eq!(lost.status, Some(200), "{lost}");
    assert!(lost.error.is_some(), "{lost}");
    assert_eq!(client.call_text("echo", json!({"text": "next"})).await.unwrap(), "next");
}

#[tokio::test]
async fn the_whole_tree_of_a_session_is_gone_after_delete_and_after_the_end_of_the_daemon() {
    for ignore_term in [false, true] {
        let directory = tempfile::tempdir().unwrap();
        let pid_file = directory.path().join("pid");
        let mut args = vec!["--spawn-child", "--pid-file", pid_file.to_str().unwrap()];
        args.extend(ignore_term.then_some("--ignore-term"));
        let mut sessiond = in_front_of_command("stop_grace = '300ms'", &args).await;
        for end in ["delete", "stop"] {
            let client = Client::connect(&sessiond.url()).await.unwrap();
            let left_behind = grandchild(&pid_file).await;
            let server = processes(&sessiond).await[0];
            assert!(is_alive(left_behind) && is_alive(server), "{end}");
            std::fs::remove_file(&pid_file).unwrap();
            match end {
                "delete" => {
                    assert_eq!(client.delete().await.unwrap(), 200);
                    until_processes(&sessiond, 0).await;
                }
                _ => assert!(sessiond.stop().await.success()),
            }
            // Reported gone means gone: no waiting here.
            assert!(!is_alive(server) && !is_alive(left_behind), "{end}, ignore_term {ignore_term}");
        }
    }
}

#[tokio::test]
async fn a_crash_leaves_no_grandchild_behind() {
    let directory = tempfile::tempdir().unwrap();
    let pid_file = directory.path().join("pid");
    let mut sessiond =
        in_front_of_command("", &["--spawn-child", "--pid-file", pid_file.to_str().unwrap()]).await;
    let client = Client::connect(&sessiond.url()).await.unwrap();
    let left_behind = grandchild(&pid_file).await;
    kill(processes(&sessiond).await[0], Signal::SIGKILL).unwrap();
    until_processes(&sessiond, 0).await;
    assert!(!is_alive(left_behind));
    client.call("echo", json!({})).await.unwrap();
    // The healed session has a tree of its own, which ends with the daemon.
    assert!(sessiond.stop().await.success());
}

#[tokio::test]
async fn an_idle_process_is_ended_and_its_session_healed_when_it_is_used_again() {
    let sessiond = in_front_of_command("idle = '300ms'", &[]).await;
    let client = Client::connect(&sessiond.url()).await.unwrap();
    client.request("logging/setLevel", json!({"level": "error"})).await.unwrap();
    let _events = client.open_get().await.unwrap();
    until_processes(&sessiond, 0).await;
    assert_eq!(whoami(&client).await["log_level"], "error");
    // A long call is no idleness.
    assert_eq!(client.call_text("count", json!({"sleep_ms": 1000})).await.unwrap(), "1");
}

#[tokio::test]
async fn the_cap_on_processes_costs_the_longest_idle_session_its_process_but_not_its_life() {
    let sessiond = in_front_of_command("max = 2", &[]).await;
    let mut clients = Vec::new();
    for _ in 0..3 {
        clients.push(Client::connect(&sessiond.url()).await.unwrap());
        assert!(processes(&sessiond).await.len() <= 2);
    }
    for client in clients.iter().chain(&clients) {
        client.call("echo", json!({})).await.unwrap();
        assert!(processes(&sessiond).await.len() <= 2);
    }
}

#[tokio::test]
async fn a_call_waits_while_every_process_is_busy_and_then_runs() {
    let sessiond = in_front_of_command("max = 1", &[]).await;
    let first = Client::connect(&sessiond.url()).await.unwrap();
    let busy = tokio::spawn({
        let first = first.clone();
        async move { first.call_text("count", json!({"sleep_ms": 1500})).await }
    });
    sessiond.until_status(|status| status["back"]["processes"][0]["in_flight"] == 1).await;
    let second = Client::connect(&sessiond.url()).await.unwrap();
    assert_eq!(second.call_text("count", json!({})).await.unwrap(), "1");
    assert_eq!(busy.await.unwrap().unwrap(), "1", "nobody is pushed out of a call");
}

/// In front of a shell script, given the path of the real server as `$1` and of a scratch file as `$2`.
async fn in_front_of_script(directory: &Path, script: &str, settings: &str) -> Sessiond {
    let file = directory.join("script");
    std::fs::write(&file, format!("#!/bin/sh\n{script}\n")).unwrap();
    std::fs::set_permissions(&file, std::fs::Permissions::from_mode(0o700)).unwrap();
    let (server, scratch) = (misbehaving_server(), directory.join("scratch"));
    let args = ["--", file.to_str().unwrap(), server.to_str().unwrap(), scratch.to_str().unwrap()];
    Sessiond::start_set(BINARY, |_| settings.to_owned(), &args).await
}

#[tokio::test]
async fn failures_that_are_not_in_a_row_never_add_up() {
    let directory = tempfile::tempdir().unwrap();
    // Two starts in three fail.
    let script = r#"echo x >> "$2"; [ $(($(wc -l < "$2") % 3)) = 0 ] || exit 1; exec "$1" --stdio"#;
    let sessiond = in_front_of_script(directory.path(), script, "[process]\nfailures = 3").await;
    let client = Client::connect(&sessiond.url()).await.unwrap();
    for round in 0..3 {
        assert_eq!(client.call_text("count", json!({})).await.unwrap(), "1", "{round}");
        kill(processes(&sessiond).await[0], Signal::SIGKILL).unwrap();
        until_processes(&sessiond, 0).await;
    }
    client.call("echo", json!({})).await.unwrap();
    assert!(!sessiond.log().join("\n").contains("too often in a row"));
}

#[tokio::test]
async fn a_command_that_cannot_work_is_not_started_for_ever() {
    let directory = tempfile::tempdir().unwrap();
    let script = r#"echo x >> "$2"; exit 1"#;
    let settings = "[process]\nfailures = 3\n[limits]\nparked_time = '2500ms'";
    let sessiond = in_front_of_script(directory.path(), script, settings).await;
    let failed = Client::connect(&sessiond.url()).await.unwrap_err();
    assert_eq!(failed.status, Some(200), "{failed}");
    assert!(failed.error.is_some(), "{failed}");
    let starts = std::fs::read_to_string(directory.path().join("scratch")).unwrap().lines().count();
    assert!((3..=6).contains(&starts), "{starts} starts: three, then pauses");
    let said = sessiond.log().iter().filter(|line| line.contains("too often in a row")).count();
    assert_eq!(said, 1, "said once");
}

#[tokio::test]
async fn a_command_that_is_not_there_is_named() {
    let args = ["--", "/nonexistent/server", "--flag"];
    let sessiond = Sessiond::start_set(BINARY, |_| "[limits]\nparked_time = '300ms'".into(), &args).await;
    let failed = Client::connect(&sessiond.url()).await.unwrap_err();
    assert_eq!(failed.status, Some(200), "{failed}");
    assert!(failed.message().contains("/nonexistent/server"), "{failed}");
}

#[tokio::test]
async fn both_stdio_ends_together_heal_too_and_leave_nothing_behind() {
    let directory = tempfile::tempdir().unwrap();
    let pid_file = directory.path().join("pid");
    let server = misbehaving_server();
    let args =
        ["--", server.to_str().unwrap(), "--stdio", "--crash-on", "read", "--spawn-child", "--pid-file"];
    let mut bridge = Bridge::connect(BINARY, &[&args[..], &[pid_file.to_str().unwrap()]].concat()).await;
    assert_eq!(bridge.call(json!(1), "count", json!({})).await, "1");
    let lost = bridge.request(json!(2), "tools/call", json!({"name": "read", "arguments": {}})).await;
    assert!(lost["error"]["message"].is_string(), "{lost}");
    assert_eq!(bridge.call(json!(3), "count", json!({})).await, "1", "a new process");
    bridge.ask(json!(4), "tools/call", json!({"name": "ask", "arguments": {}})).await;
    let question = bridge.next().await.unwrap();
    bridge
        .say(&json!({"jsonrpc": "2.0", "id": question["id"], "result": {"action": "decline"}}).to_string())
        .await;
    assert_eq!(bridge.next().await.unwrap()["result"]["content"][0]["text"], r#"{"action":"decline"}"#);
    let left_behind = grandchild(&pid_file).await;
    let (rest, status) = bridge.end().await;
    assert_eq!((rest, status.code()), (vec![], Some(0)));
    assert!(!is_alive(left_behind));
}
