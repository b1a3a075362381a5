//! A real client as a process, driven line by line (`tests/real/clients/lines.py` describes the lines).

use std::{path::Path, process::Stdio, time::Duration};

use serde_json::{Value, json};
use tokio::{
    io::{AsyncBufReadExt as _, AsyncWriteExt as _, BufReader, Lines},
    process::{Child, ChildStdin, ChildStdout, Command},
    time::timeout,
};

use crate::{child_log::ChildLog, real::real_script};

/// How long a connection and a call may take; Serena starts in 3 to 20 s, depending on what else the machine does.
const PATIENCE: Duration = Duration::from_secs(90);

/// A real MCP client; dropped, it is killed, and what it said on stderr printed if the test is failing.
#[derive(Debug)]
pub struct RealClient {
    name: String,
    orders: ChildStdin,
    answers: Lines<BufReader<ChildStdout>>,
    log: ChildLog,
    child: Child,
}

impl RealClient {
    /// Starts `tests/real/client NAME URL` and waits until it is connected.
    pub async fn connect(name: &str, url: &str) -> RealClient {
        RealClient::launch(name, &[name, url], &[]).await
    }

    /// The same with a bearer token.
    pub async fn connect_with_token(name: &str, url: &str, token: &str) -> RealClient {
        RealClient::launch(name, &[name, url], &[("MCP_TOKEN", token)]).await
    }

    /// Starts the Python 1.30 client which launches `command` with `args` as its server on stdio.
    pub async fn launching(command: &Path, args: &[&str]) -> RealClient {
        let command = command.to_str().expect("built binaries have UTF-8 paths");
        RealClient::launch("python-1.30 on stdio", &[&["python-1.30", "--", command], args].concat(), &[])
            .await
    }

    async fn launch(name: &str, args: &[&str], env: &[(&str, &str)]) -> RealClient {
        let mut command = Command::new(real_script("client"));
        command.args(args).envs(env.iter().copied()).kill_on_drop(true);
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = command.spawn().unwrap_or_else(|error| panic!("tests/real/client: {error}"));
        let log = ChildLog::default();
        log.follow(child.stderr.take().expect("stderr is piped"));
        let orders = child.stdin.take().expect("stdin is piped");
        let answers = BufReader::new(child.stdout.take().expect("stdout is piped")).lines();
        let mut client = RealClient { name: name.into(), orders, answers, log, child };
        let first = client.line().await;
        assert_eq!(first, "ready", "{name} did not connect");
        client
    }

    /// Which client this is.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Calls a tool: its text, or what went wrong in the words of the client library.
    pub async fn call(&mut self, tool: &str, arguments: Value) -> Result<String, String> {
        self.order(json!({"call": tool, "arguments": arguments})).await
    }

    /// Ends it as its user would: it closes its session and exits; fails the test if it does not exit with 0.
    pub async fn quit(mut self) {
        self.say(json!({"quit": true})).await;
        let ended = timeout(PATIENCE, self.child.wait()).await;
        let status = ended.unwrap_or_else(|_| panic!("{} does not end", self.name));
        assert!(status.expect("our own child can be waited for").success(), "{} did not end well", self.name);
    }

    async fn order(&mut self, order: Value) -> Result<String, String> {
        self.say(order).await;
        let line = self.line().await;
        let answer: Value =
            serde_json::from_str(&line).unwrap_or_else(|error| panic!("{}: {line}: {error}", self.name));
        match (answer["ok"].as_str(), answer["error"].as_str()) {
            (Some(text), None) => Ok(text.into()),
            (None, Some(error)) => Err(error.into()),
            _ => panic!("{}: {line}: neither `ok` nor `error`", self.name),
        }
    }

    async fn say(&mut self, order: Value) {
        let written = self.orders.write_all(format!("{order}\n").as_bytes()).await;
        written.unwrap_or_else(|error| panic!("{} takes no orders: {error}", self.name));
    }

    async fn line(&mut self) -> String {
        let line = timeout(PATIENCE, self.answers.next_line()).await;
        let line = line.unwrap_or_else(|_| panic!("{} says nothing", self.name)).expect("stdout is text");
        line.unwrap_or_else(|| panic!("{} is gone", self.name))
    }
}

impl Drop for RealClient {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("--- {} said:\n{}\n---", self.name, self.log.lines().join("\n"));
        }
    }
}
