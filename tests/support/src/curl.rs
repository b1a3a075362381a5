//! curl as a client: it shows what is really needed, and sends nothing that it was not told to.

use std::process::Stdio;

use serde_json::Value;
use tokio::{io::AsyncWriteExt as _, process::Command};

/// What curl sends besides a body.
#[derive(Clone, Debug)]
pub struct Curl {
    url: String,
    headers: String,
}

impl Curl {
    /// POSTs to `url` with what MCP wants of every client; `None` where there is no curl, which is said.
    pub async fn at(url: &str) -> Option<Curl> {
        if Command::new("curl").arg("--version").output().await.is_err() {
            println!("skipped: no curl here");
            return None;
        }
        let curl = Curl { url: url.to_owned(), headers: String::new() };
        Some(curl.with("Content-Type: application/json").with("Accept: application/json, text/event-stream"))
    }

    /// Sends one more header.
    #[must_use]
    pub fn with(mut self, header: &str) -> Curl {
        self.headers.push_str(&format!("header = \"{header}\"\n"));
        self
    }

    /// Sends one message; status line, headers and body of the answer as they came.
    pub async fn post(&self, message: &Value) -> String {
        let mut command = Command::new("curl");
        command.args(["-sS", "-i", "-K", "-", "-d", &message.to_string(), &self.url]);
        let mut child = command
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .kill_on_drop(true)
            .spawn()
            .expect("curl starts");
        // Not in the arguments, which everybody on the machine can see.
        let mut settings = child.stdin.take().expect("it is piped");
        settings.write_all(self.headers.as_bytes()).await.expect("curl reads its settings");
        drop(settings);
        let output = child.wait_with_output().await.expect("curl ends");
        String::from_utf8(output.stdout).expect("MCP is UTF-8")
    }

    /// The value of a header in such an answer.
    pub fn header<'a>(answer: &'a str, name: &str) -> Option<&'a str> {
        answer.lines().find_map(|line| {
            let (found, value) = line.split_once(": ")?;
            found.eq_ignore_ascii_case(name).then_some(value.trim())
        })
    }

    /// Begins a session, in which what is sent from now on belongs.
    pub async fn into_session(self) -> Curl {
        let hello = serde_json::json!({"jsonrpc": "2.0", "id": 0, "method": "initialize", "params": {
            "protocolVersion": "2025-11-25", "capabilities": {}, "clientInfo": {"name": "curl", "version": "8"}}});
        let answer = self.post(&hello).await;
        let session =
            Curl::header(&answer, "mcp-session-id").unwrap_or_else(|| panic!("no session: {answer}"));
        let curl = self.with(&format!("Mcp-Session-Id: {session}"));
        let told = serde_json::json!({"jsonrpc": "2.0", "method": "notifications/initialized"});
        let answer = curl.post(&told).await;
        assert!(answer.starts_with("HTTP/1.1 202"), "{answer}");
        curl
    }
}
