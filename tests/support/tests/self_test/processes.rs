//! The binary as a process: killed, frozen, and over stdin and stdout.

use std::{path::Path, process::Stdio, time::Duration};

use nix::{
    sys::signal::{Signal, kill},
    unistd::{Pid, getsid},
};
use serde_json::{Value, json};
use support::{Client, Flavour, Process};
use tokio::{
    io::{AsyncBufReadExt as _, AsyncWriteExt as _, BufReader, Lines},
    process::{Child, ChildStdin, ChildStdout, Command},
    time::timeout,
};

use crate::count;

const BINARY: &str = env!("CARGO_BIN_EXE_misbehaving-server");
const SHORT: Duration = Duration::from_millis(300);

#[tokio::test]
async fn a_killed_process_comes_back_on_its_port_and_remembers_what_it_executed() {
    let mut server = Process::start(Path::new(BINARY), Flavour::Everything).await;
    let client = Client::builder(&server.url()).lenient().connect().await.unwrap();
    count(&client).await.unwrap();
    let url = server.url();
    server.kill9().await;
    assert!(count(&client).await.unwrap_err().status.is_none());
    server.start_again().await;
    assert_eq!(server.url(), url);
    assert_eq!(count(&client).await.unwrap_err().status, Some(400));
    assert_eq!(server.executed(), ["count"]);
}

#[tokio::test]
async fn a_frozen_process_accepts_and_is_silent_until_it_thaws() {
    let server = Process::start(Path::new(BINARY), Flavour::Rmcp).await;
    let client = Client::builder(&server.url()).lenient().connect().await.unwrap();
    server.freeze();
    let hasty = Client::builder(&server.url()).lenient().patience(SHORT).unconnected();
    assert!(hasty.request("ping", json!({})).await.unwrap_err().text.contains("no answer"));
    server.thaw();
    assert_eq!(count(&client).await.unwrap(), "1");
}

#[tokio::test]
async fn stdio_serves_one_session_and_ends_with_stdin() {
    let mut server = Stdio1::start(&[]).await;
    server.handshake().await;
    assert_eq!(
        server.ask("tools/call", json!({ "name": "count" })).await["result"]["content"][0]["text"],
        "1"
    );
    server
        .say(json!({ "jsonrpc": "2.0", "id": "a", "method": "tools/call", "params": { "name": "ask" } }))
        .await;
    let question = server.hear().await;
    assert_eq!(question["method"], "elicitation/create");
    server.say(json!({ "jsonrpc": "2.0", "id": question["id"], "result": { "action": "accept" } })).await;
    let answer = server.hear().await;
    assert_eq!((&answer["id"], answer["result"]["isError"].as_bool()), (&json!("a"), Some(false)));
    drop(server.stdin);
    assert!(server.child.wait().await.unwrap().success());
}

#[tokio::test]
async fn stdio_crashes_after_so_many_calls_or_on_a_tool() {
    let mut server = Stdio1::start(&["--crash-after", "2"]).await;
    server.handshake().await;
    for expected in ["1", "2"] {
        let counted = server.ask("tools/call", json!({ "name": "count" })).await;
        assert_eq!(counted["result"]["content"][0]["text"], expected);
    }
    assert_eq!(server.child.wait().await.unwrap().code(), Some(1));

    let log = tempfile::NamedTempFile::new().unwrap();
    let mut server = Stdio1::start(&["--crash-on", "count", "--log", log.path().to_str().unwrap()]).await;
    server.handshake().await;
    server.ask("tools/call", json!({ "name": "echo" })).await;
    server
        .say(json!({ "jsonrpc": "2.0", "id": 3, "method": "tools/call", "params": { "name": "count" } }))
        .await;
    assert_eq!(server.child.wait().await.unwrap().code(), Some(1));
    assert_eq!(std::fs::read_to_string(log.path()).unwrap(), "echo\n");
}

#[tokio::test]
async fn stdio_leaves_a_grandchild_behind_in_a_session_of_its_own() {
    let directory = tempfile::tempdir().unwrap();
    let pid_file = directory.path().join("pid");
    let mut server = Stdio1::start(&["--spawn-child", "--pid-file", pid_file.to_str().unwrap()]).await;
    server.handshake().await;
    while !pid_file.exists() {
        tokio::task::yield_now().await;
    }
    let pid = Pid::from_raw(std::fs::read_to_string(&pid_file).unwrap().parse().unwrap());
    assert_eq!(getsid(Some(pid)), Ok(pid));
    server.child.kill().await.unwrap();
    // It outlived its parent; this is what an owner of the tree must clean up.
    kill(pid, None).unwrap();
    kill(pid, Signal::SIGKILL).unwrap();
}

#[tokio::test]
async fn stdio_can_ignore_everything_but_sigkill() {
    let mut server = Stdio1::start(&["--ignore-term"]).await;
    server.handshake().await;
    kill(Pid::from_raw(server.child.id().unwrap() as i32), Signal::SIGTERM).unwrap();
    server.ask("ping", json!({})).await;
    drop(server.stdin);
    assert!(timeout(SHORT, server.child.wait()).await.is_err());
    server.child.kill().await.unwrap();
}

#[tokio::test]
async fn stdio_can_be_silent() {
    let mut server = Stdio1::start(&["--hang"]).await;
    server.say(json!({ "jsonrpc": "2.0", "id": 1, "method": "ping" })).await;
    assert!(timeout(SHORT, server.hear()).await.is_err());
}

/// One stdio server and its pipes.
struct Stdio1 {
    child: Child,
    stdin: ChildStdin,
    lines: Lines<BufReader<ChildStdout>>,
}

impl Stdio1 {
    async fn start(args: &[&str]) -> Self {
        let mut command = Command::new(BINARY);
        command.arg("--stdio").args(args).stdin(Stdio::piped()).stdout(Stdio::piped()).kill_on_drop(true);
        let mut child = command.spawn().unwrap();
        let (stdin, stdout) = (child.stdin.take().unwrap(), child.stdout.take().unwrap());
        Self { child, stdin, lines: BufReader::new(stdout).lines() }
    }

    async fn handshake(&mut self) {
        let introduced = self.ask("initialize", json!({ "protocolVersion": "2025-06-18" })).await;
        assert_eq!(introduced["result"]["protocolVersion"], "2025-06-18");
        self.say(json!({ "jsonrpc": "2.0", "method": "notifications/initialized" })).await;
    }

    async fn ask(&mut self, method: &str, params: Value) -> Value {
        self.say(json!({ "jsonrpc": "2.0", "id": 1, "method": method, "params": params })).await;
        let answer = self.hear().await;
        assert_eq!(answer["id"], 1);
        answer
    }

    async fn say(&mut self, message: Value) {
        self.stdin.write_all(format!("{message}\n").as_bytes()).await.unwrap();
    }

    async fn hear(&mut self) -> Value {
        serde_json::from_str(&self.lines.next_line().await.unwrap().unwrap()).unwrap()
    }
}
