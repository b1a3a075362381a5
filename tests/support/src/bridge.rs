//! `mcp-sessiond stdio` as the client that launched it sees it: two pipes.

use std::{
    process::{ExitStatus, Stdio},
    time::Duration,
};

use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};
use serde_json::{Value, json};
use tempfile::TempDir;
use tokio::{
    io::{AsyncBufReadExt as _, AsyncWriteExt as _, BufReader, Lines},
    process::{Child, ChildStdin, ChildStdout, Command},
    time::timeout,
};

/// How long a line, or the end, may take.
const PATIENCE: Duration = Duration::from_secs(60);

/// A running `mcp-sessiond stdio`; dropped, it is killed.
#[derive(Debug)]
pub struct Bridge {
    child: Child,
    input: Option<ChildStdin>,
    output: Lines<BufReader<ChildStdout>>,
    _directory: TempDir,
}

impl Bridge {
    /// Starts `binary` with `stdio` and `args` and says nothing yet.
    pub fn launch(binary: &str, args: &[&str]) -> Bridge {
        let directory = tempfile::tempdir().expect("a temporary directory");
        let mut command = Command::new(binary);
        command.arg("stdio").args(args).env("RUST_LOG", "info").env("XDG_RUNTIME_DIR", directory.path());
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::inherit()).kill_on_drop(true);
        let mut child = command.spawn().unwrap_or_else(|error| panic!("{binary}: {error}"));
        let output = BufReader::new(child.stdout.take().expect("stdout is piped")).lines();
        Bridge { input: child.stdin.take(), child, output, _directory: directory }
    }

    /// The same, then says `initialize` (id 0) and `notifications/initialized`.
    pub async fn connect(binary: &str, args: &[&str]) -> Bridge {
        let mut bridge = Bridge::launch(binary, args);
        let params = json!({
            "protocolVersion": "2025-11-25",
            "capabilities": { "elicitation": {} },
            "clientInfo": { "name": "pipes", "version": "1" },
        });
        let answer = bridge.request(json!(0), "initialize", params).await;
        assert_eq!(answer["result"]["protocolVersion"], "2025-11-25", "{answer}");
        bridge.say(&json!({ "jsonrpc": "2.0", "method": "notifications/initialized" }).to_string()).await;
        bridge
    }

    /// Writes one line.
    pub async fn say(&mut self, line: &str) {
        let input = self.input.as_mut().expect("stdin is open until the end");
        input.write_all(format!("{line}\n").as_bytes()).await.expect("it reads its stdin");
    }

    /// The next message it writes; `None` once its stdout has ended. A line that is no message fails the test.
    pub async fn next(&mut self) -> Option<Value> {
        let line = timeout(PATIENCE, self.output.next_line()).await.expect("a line within 60 s");
        let line = line.expect("its stdout is text")?;
        Some(serde_json::from_str(&line).expect("every line is one message"))
    }

    /// Sends a request without waiting for its answer.
    pub async fn ask(&mut self, id: Value, method: &str, params: Value) {
        let message = json!({ "jsonrpc": "2.0", "id": id, "method": method, "params": params });
        self.say(&message.to_string()).await;
    }

    /// Sends a request; the next message must be its answer.
    pub async fn request(&mut self, id: Value, method: &str, params: Value) -> Value {
        self.ask(id.clone(), method, params).await;
        let answer = self.next().await.expect("an answer");
        assert_eq!(answer["id"], id, "{answer}");
        answer
    }

    /// The text of a `tools/call`'s first content; anything else fails the test.
    pub async fn call(&mut self, id: Value, tool: &str, arguments: Value) -> String {
        let answer = self.request(id, "tools/call", json!({ "name": tool, "arguments": arguments })).await;
        let text = answer["result"]["content"][0]["text"].as_str();
        text.unwrap_or_else(|| panic!("no text in {answer}")).to_owned()
    }

    /// Sends a signal to it.
    pub fn signal(&self, signal: Signal) {
        let pid = self.child.id().expect("it runs");
        kill(Pid::from_raw(pid as i32), signal).expect("our own child can be signalled");
    }

    /// Waits up to 60 s until it has ended by itself.
    pub async fn ended(&mut self) -> ExitStatus {
        let ended = timeout(PATIENCE, self.child.wait()).await.expect("it ends within 60 s");
        ended.expect("our own child can be waited for")
    }

    /// Closes its stdin; returns what it still says, and how it ends.
    pub async fn end(mut self) -> (Vec<Value>, ExitStatus) {
        drop(self.input.take());
        let mut rest = Vec::new();
        while let Some(message) = self.next().await {
            rest.push(message);
        }
        (rest, self.ended().await)
    }
}
