//! The fake backend does what its switches say: a story that rests on one would else prove nothing.
#![allow(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]

use std::{
    io::{BufRead as _, BufReader, Read as _},
    os::unix::{net::UnixDatagram, process::ExitStatusExt as _},
    path::PathBuf,
    process::{Child, Command, Stdio},
};

use nix::{
    sys::signal::{Signal, kill},
    unistd::{Pid, getsid},
};
use serde_json::{Value, json};
use support::{Client, Gate, Journal};
use tempfile::TempDir;

const BINARY: &str = env!("CARGO_BIN_EXE_fake-backend");

/// A fake backend; dropped, it and its children are killed.
struct Fake {
    directory: TempDir,
    child: Child,
}

impl Fake {
    fn start(arguments: &[&str]) -> Fake {
        Fake::start_in(tempfile::tempdir().unwrap(), arguments)
    }

    fn start_in(directory: TempDir, arguments: &[&str]) -> Fake {
        let mut command = Command::new(BINARY);
        command.arg("--log").arg(directory.path().join("log")).args(arguments);
        command.env("NOTIFY_SOCKET", directory.path().join("notify"));
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
        Fake { child: command.spawn().unwrap(), directory }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    fn journal(&self) -> Journal {
        Journal::new(self.path("log"))
    }

    async fn port(&self) -> u64 {
        self.journal().until(|journal| journal.count("listening") == 1).await;
        self.journal().all("listening")[0]["port"].as_u64().unwrap()
    }

    async fn client(&self) -> Client {
        let url = format!("http://127.0.0.1:{}/mcp", self.port().await);
        Client::builder(&url).lenient().connect().await.unwrap()
    }

    fn signal(&self, signal: Signal) {
        kill(Pid::from_raw(self.child.id() as i32), signal).unwrap();
    }
}

impl Drop for Fake {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
        for pid in self.journal().living() {
            let _ = kill(Pid::from_raw(pid), Signal::SIGKILL);
        }
    }
}

#[tokio::test]
async fn it_serves_and_writes_down_what_it_is_asked() {
    let mut fake = Fake::start(&[]);
    let client = fake.client().await;
    assert_eq!(client.call_text("count", json!({})).await.unwrap(), "1");
    let journal = fake.journal();
    assert_eq!((journal.requests("initialize"), journal.requests("tools/call")), (1, 1));
    assert_eq!(journal.executed(), ["count"]);
    let stranger = Client::builder(&format!("http://127.0.0.1:{}/mcp", fake.port().await));
    let stranger = stranger.lenient().session("00000000000000000000000000000000").unconnected();
    assert_eq!(stranger.request("ping", json!({})).await.unwrap_err().status, Some(404));
    fake.signal(Signal::SIGTERM);
    assert_eq!(fake.child.wait().unwrap().signal(), Some(15), "by the signal, as Serena");
    assert_eq!(journal.signals(), ["TERM"]);
}

#[tokio::test]
async fn a_graceful_one_waits_for_calls_and_streams_and_sigint_ends_it_all_the_same() {
    let mut fake = Fake::start(&["--graceful"]);
    let client = fake.client().await;
    let events = client.open_get().await.unwrap();
    fake.signal(Signal::SIGTERM);
    fake.journal().until(|journal| journal.signals() == ["TERM"]).await;
    client.call("count", json!({ "sleep_ms": 50 })).await.unwrap();
    drop(events);
    drop(client);
    // The connections close on this thread, which may not block yet.
    fake.journal().until(|journal| journal.count("exit") == 1).await;
    assert_eq!(fake.child.wait().unwrap().signal(), Some(15));

    let mut fake = Fake::start(&["--ignore-term"]);
    fake.client().await;
    fake.signal(Signal::SIGTERM);
    fake.journal().until(|journal| journal.signals() == ["TERM"]).await;
    fake.signal(Signal::SIGINT);
    assert_eq!(fake.child.wait().unwrap().code(), Some(1));
}

#[tokio::test]
async fn it_exits_as_often_as_it_was_told_then_behaves() {
    let mut directory = tempfile::tempdir().unwrap();
    for code in [Some(7), Some(7)] {
        let mut fake = Fake::start_in(directory, &["--exit", "7", "--misbehave-first", "2"]);
        assert_eq!(fake.child.wait().unwrap().code(), code);
        directory = std::mem::replace(&mut fake.directory, tempfile::tempdir().unwrap());
    }
    let fake = Fake::start_in(directory, &["--exit", "7", "--misbehave-first", "2"]);
    fake.journal().until(|journal| journal.count("listening") == 1).await;
    assert_eq!(fake.journal().count("start"), 3);
}

#[tokio::test]
async fn it_exits_with_3_when_somebody_else_has_its_port() {
    let first = Fake::start(&[]);
    let port = first.port().await.to_string();
    let mut second = Fake::start(&["--port", &port]);
    assert_eq!(second.child.wait().unwrap().code(), Some(3));
    let mut said = String::new();
    second.child.stderr.take().unwrap().read_to_string(&mut said).unwrap();
    assert!(said.contains("address already in use") || said.contains("Address already in use"), "{said}");
}

#[tokio::test]
async fn its_children_have_no_parent_a_session_of_their_own_and_survive_sigterm() {
    let flags = ["--children", "5", "--double-fork", "--setsid", "--children-ignore-term"];
    let mut fake = Fake::start(&[&flags[..], &["--children-clear-environment"]].concat());
    let journal = fake.journal();
    journal.until(|journal| journal.count("child") == 5 && journal.count("listening") == 1).await;
    fake.child.kill().unwrap();
    fake.child.wait().unwrap();
    let children: Vec<_> = journal.all("child").iter().map(|it| it["pid"].as_i64().unwrap() as i32).collect();
    for pid in children.iter().map(|pid| Pid::from_raw(*pid)) {
        assert_eq!(getsid(Some(pid)), Ok(pid));
        assert_eq!(std::fs::read(format!("/proc/{pid}/environ")).unwrap(), b"");
        kill(pid, Signal::SIGTERM).unwrap();
    }
    let mut sorted = children.clone();
    sorted.sort_unstable();
    assert_eq!(journal.living(), sorted);
    for pid in children {
        kill(Pid::from_raw(pid), Signal::SIGKILL).unwrap();
    }
    journal.until(|journal| journal.living().is_empty()).await;
}

#[tokio::test]
async fn a_gate_decides_when_it_listens() {
    let directory = tempfile::tempdir().unwrap();
    let gate = Gate::new(directory.path().join("gate"));
    let fake = Fake::start(&["--gate", gate.path().to_str().unwrap()]);
    let waiting = gate.next().await;
    assert_eq!(waiting.pid as u32, fake.child.id());
    assert_eq!(fake.journal().count("listening"), 0);
    waiting.go().await;
    fake.client().await;
}

#[tokio::test]
async fn it_says_that_it_is_ready_on_a_socket_and_on_a_descriptor() {
    let directory = tempfile::tempdir().unwrap();
    let socket = UnixDatagram::bind(directory.path().join("notify")).unwrap();
    // Descriptor 1 is the one that a test can give without unsafe code.
    let mut fake = Fake::start_in(directory, &["--notify", "--ready-fd", "1"]);
    let mut buffer = [0; 100];
    let length = socket.recv(&mut buffer).unwrap();
    assert_eq!(&buffer[..length], b"STATUS=serving\nREADY=1\n");
    let mut said = String::new();
    fake.child.stdout.take().unwrap().read_to_string(&mut said).unwrap();
    assert_eq!(said, "\n", "then it is closed");
}

#[tokio::test]
async fn its_dashboard_speaks_like_serenas() {
    let mut fake = Fake::start(&["--dashboard", "starting,failed,ready"]);
    let mut lines = BufReader::new(fake.child.stderr.take().unwrap()).lines();
    let line = lines.next().unwrap().unwrap();
    let url = line.split(" - Serena web dashboard started at ").nth(1).unwrap();
    let root = url.strip_suffix("/dashboard/index.html").unwrap().to_owned();
    let client = Client::builder(&root).lenient().unconnected();
    for (successful, queued) in [(Value::Null, 1), (json!(false), 0), (json!(true), 0), (json!(true), 0)] {
        let last = get(&client, &root, "/last_execution").await;
        assert_eq!(last["last_execution"]["finished_successfully"], successful, "{last}");
        let queue = get(&client, &root, "/queued_task_executions").await;
        assert_eq!(queue["queued_executions"].as_array().unwrap().len(), queued, "{queue}");
    }
}

async fn get(client: &Client, root: &str, path: &str) -> Value {
    let mut request = client.prepared(http::Method::GET, bytes::Bytes::new());
    *request.uri_mut() = format!("{root}{path}").parse().unwrap();
    serde_json::from_slice(client.raw(request).await.unwrap().body()).unwrap()
}

#[tokio::test]
async fn it_makes_noise() {
    let mut fake = Fake::start(&["--flood", "100000", "--long-line", "200000"]);
    let mut out = BufReader::new(fake.child.stdout.take().unwrap()).lines();
    assert!((0..1_000).all(|_| out.next().unwrap().unwrap().len() == 99));
    let mut err = BufReader::new(fake.child.stderr.take().unwrap()).lines();
    assert_eq!(err.next().unwrap().unwrap().len(), 200_000);
    assert_eq!(err.next().unwrap().unwrap(), "the long line is over");
}
