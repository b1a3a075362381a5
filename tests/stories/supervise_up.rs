//! `serena-supervise up`: one command, and clients have a Serena that survives everything.
#![allow(
    clippy::disallowed_methods,
    clippy::unwrap_used,
    reason = "a test fails by panicking, and its tasks end with its runtime"
)]

use std::{fs, net::SocketAddr, os::unix::fs::PermissionsExt as _, process::Stdio, time::Duration};

use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};
use serde_json::json;
use support::{Client, Supervise, fake_backend};
use tokio::{
    io::{AsyncBufReadExt as _, AsyncReadExt as _, BufReader, Lines},
    net::TcpListener,
    process::{Child, ChildStdout, Command},
    time::timeout,
};

const BINARY: &str = env!("CARGO_BIN_EXE_serena-supervise");
const PATIENCE: Duration = Duration::from_secs(40);
/// The usual port, for one story alone: those that run beside it know nothing of its claim.
const USUAL: &[&str] = &[];
/// A port for whoever does not need that.
const ANYWHERE: &[&str] = &["--listen", "127.0.0.1:0"];

/// Surroundings with a `serena` on PATH, which is a fake backend, and nothing of the machine's own Serena.
fn surroundings() -> Supervise {
    let supervise = Supervise::prepared(BINARY, &[]);
    for directory in ["bin", "home", "project", "state"] {
        fs::create_dir(supervise.path().join(directory)).unwrap();
    }
    let script = format!(
        "#!/bin/sh\nwhile [ $# -gt 0 ]; do\n  case $1 in --port) port=$2 ;; esac\n  shift\ndone\n\
         exec '{}' --port \"$port\" --log '{}' --dashboard starting,ready --graceful\n",
        fake_backend().display(),
        supervise.file("serena.log"),
    );
    let serena = supervise.path().join("bin/serena");
    fs::write(&serena, script).unwrap();
    fs::set_permissions(serena, fs::Permissions::from_mode(0o755)).unwrap();
    supervise
}

/// `up` for a project.
fn command(around: &Supervise, project: &str) -> Command {
    let mut command = around.bare();
    let path = format!("{}:/usr/bin:/bin", around.file("bin"));
    command.env("PATH", path).env("HOME", around.file("home")).env("XDG_STATE_HOME", around.file("state"));
    command.env_remove("SERENA_HOME").env("RUST_LOG", "info");
    command.args(["up", "--project", &around.file(project)]);
    command
}

/// A running `up`; what it says on stdout.
struct Up {
    child: Child,
    lines: Lines<BufReader<ChildStdout>>,
    said: String,
}

impl Up {
    fn start(around: &Supervise, arguments: &[&str]) -> Up {
        Up::start_for(around, "project", arguments)
    }

    /// For another project.
    fn start_for(around: &Supervise, project: &str, arguments: &[&str]) -> Up {
        let sessiond = fake_backend().with_file_name("mcp-sessiond");
        assert!(sessiond.exists(), "{} is not there; run `cargo build -p mcp-sessiond`", sessiond.display());
        let mut command = command(around, project);
        command.args(arguments);
        let mut child = command.stdout(Stdio::piped()).stderr(Stdio::inherit()).spawn().unwrap();
        let lines = BufReader::new(child.stdout.take().unwrap()).lines();
        Up { child, lines, said: String::new() }
    }

    /// Waits until it has said where it serves.
    async fn url(&mut self) -> String {
        loop {
            let line =
                timeout(PATIENCE, self.lines.next_line()).await.expect("it serves within 40 s").unwrap();
            let line = line.unwrap_or_else(|| panic!("it ended without a URL: {}", self.said));
            self.said += &format!("{line}\n");
            if let Some((_, url)) = line.split_once(" at http://") {
                return format!("http://{}", url.trim());
            }
        }
    }

    /// The rest of what it says at its start.
    async fn welcome(&mut self) {
        while !self.said.contains("Ctrl-C") {
            let line = timeout(PATIENCE, self.lines.next_line()).await.unwrap().unwrap().unwrap();
            self.said += &format!("{line}\n");
        }
    }

    fn signal(&self, signal: Signal) {
        kill(Pid::from_raw(self.child.id().unwrap() as i32), signal).unwrap();
    }

    async fn end(&mut self) -> i32 {
        timeout(PATIENCE, self.child.wait()).await.expect("it ends within 40 s").unwrap().code().unwrap()
    }
}

fn port(url: &str) -> u16 {
    let address = url.strip_prefix("http://").unwrap().strip_suffix("/mcp").unwrap();
    address.parse::<SocketAddr>().unwrap().port()
}

#[tokio::test]
async fn one_command_serves_the_project_and_ctrl_c_stops_it_all() {
    let around = surroundings();
    // Whoever has the usual port, it is not ours to take.
    let _usual = TcpListener::bind("127.0.0.1:9121").await;
    let mut up = Up::start(&around, USUAL);
    let url = up.url().await;
    assert_ne!(port(&url), 9121);
    up.welcome().await;
    for client in ["claude mcp add --transport http serena", "mcpServers", "\"servers\"", "Claude Desktop"] {
        assert!(up.said.contains(client), "{client:?} in {}", up.said);
    }
    let client = Client::connect(&url).await.unwrap();
    assert_eq!(client.call_text("count", json!({})).await.unwrap(), "1");
    let mut stream = client.open_get().await.unwrap();
    let start = around.journal("serena").all("start").remove(0);
    assert_eq!(start["home"], around.file("home/.serena"));
    let arguments = start["arguments"].to_string();
    assert!(arguments.contains("--port"), "{arguments}");
    up.signal(Signal::SIGINT);
    while stream.next_event().await.is_some() {}
    assert_eq!(up.end().await, 0);
    assert_eq!(around.living(), Vec::<i32>::new());
    assert_eq!(around.journal("serena").count("start"), 1);
}

#[tokio::test]
async fn a_home_that_is_gone_comes_back_with_the_next_up() {
    let around = surroundings();
    let home = around.path().join("home/.serena");
    fs::create_dir(&home).unwrap();
    for text in ["before", "after"] {
        let mut up = Up::start(&around, ANYWHERE);
        up.url().await;
        // What is written last is in the snapshot that is taken when everything else has ended.
        fs::write(home.join("memory.md"), text).unwrap();
        up.signal(Signal::SIGTERM);
        assert_eq!(up.end().await, 0);
        fs::remove_dir_all(&home).unwrap();
        let mut up = Up::start(&around, ANYWHERE);
        up.url().await;
        assert_eq!(fs::read_to_string(home.join("memory.md")).unwrap(), text);
        up.signal(Signal::SIGTERM);
        assert_eq!(up.end().await, 0);
    }
}

#[tokio::test]
async fn without_snapshots_it_serves_as_well_and_says_so() {
    let around = surroundings();
    // Where the store would be.
    fs::write(around.path().join("state/serena-snapshotd"), "").unwrap();
    let mut up = Up::start(&around, ANYWHERE);
    let url = up.url().await;
    up.welcome().await;
    let line = up.said.lines().find(|line| line.contains("snapshot")).unwrap_or_default();
    assert!(
        line.starts_with("What Serena keeps is NOT snapshotted: serena-snapshotd has failed: "),
        "{line}"
    );
    let client = Client::connect(&url).await.unwrap();
    assert_eq!(client.call_text("count", json!({})).await.unwrap(), "1");
    up.signal(Signal::SIGTERM);
    assert_eq!(up.end().await, 0);
    assert_eq!(around.living(), Vec::<i32>::new());
}

#[tokio::test]
async fn the_same_project_again_is_told_where_it_is_served() {
    let around = surroundings();
    let mut first = Up::start(&around, ANYWHERE);
    let url = first.url().await;
    let mut second = Up::start(&around, ANYWHERE);
    assert_eq!(second.url().await, url);
    assert_eq!(second.end().await, 0);
    assert_eq!(around.journal("serena").count("start"), 1);
    let client = Client::connect(&url).await.unwrap();
    client.call("count", json!({})).await.unwrap();
    first.signal(Signal::SIGTERM);
    assert_eq!(first.end().await, 0);
    assert_eq!(around.living(), Vec::<i32>::new());
    // What is over is not announced any more.
    let mut third = Up::start(&around, ANYWHERE);
    let url = third.url().await;
    Client::connect(&url).await.unwrap().call("count", json!({})).await.unwrap();
    third.signal(Signal::SIGTERM);
    assert_eq!(third.end().await, 0);
}

#[tokio::test]
async fn another_project_is_told_how_it_is_served_as_well() {
    let around = surroundings();
    for project in ["second", "third"] {
        fs::create_dir(around.path().join(project)).unwrap();
    }
    let mut first = Up::start(&around, ANYWHERE);
    let mut urls = vec![first.url().await];
    let refused = command(&around, "second").output().await.unwrap();
    let said = String::from_utf8_lossy(&refused.stderr).into_owned();
    let holder = format!("(process {})", first.child.id().unwrap());
    assert_eq!((refused.status.code(), said.lines().count()), (Some(69), 1), "{said}");
    assert!(
        [&holder, &around.file("home/.serena"), "--home DIR"].iter().all(|it| said.contains(*it)),
        "{said}"
    );
    let mut ups = vec![first];
    for project in ["second", "third"] {
        let home = around.file(&format!("home/of-{project}"));
        let mut up = Up::start_for(&around, project, &[ANYWHERE, &["--home", &home]].concat());
        urls.push(up.url().await);
        ups.push(up);
    }
    let clients = urls.iter().map(|url| Client::connect(url));
    for client in clients {
        assert_eq!(client.await.unwrap().call_text("count", json!({})).await.unwrap(), "1");
    }
    let homes: Vec<_> = around.journal("serena").all("start").iter().map(|it| it["home"].clone()).collect();
    assert_eq!(homes, ["home/.serena", "home/of-second", "home/of-third"].map(|home| around.file(home)));
    // Each is asked at a socket of its own.
    let control =
        around.control_socket().with_file_name(format!("control-127.0.0.1_{}.sock", port(&urls[2])));
    let asked = around.command(&["status", "--control", control.to_str().unwrap()]).await;
    let said = String::from_utf8_lossy(&asked.stdout).into_owned();
    assert!(said.contains(&format!("pid {}", ups[2].child.id().unwrap())), "{said}");
    for up in &mut ups {
        up.signal(Signal::SIGTERM);
        assert_eq!(up.end().await, 0);
    }
    assert_eq!(around.living(), Vec::<i32>::new());
}

#[tokio::test]
async fn a_client_does_not_notice_that_serena_is_killed() {
    let around = surroundings();
    let mut up = Up::start(&around, ANYWHERE);
    let client = Client::connect(&up.url().await).await.unwrap();
    let _stream = client.open_get().await.unwrap();
    for round in 1..=3 {
        assert_eq!(client.call_text("count", json!({})).await.unwrap(), "1", "each life counts from 1");
        let pid = around.journal("serena").all("start").pop().unwrap()["pid"].as_i64().unwrap();
        kill(Pid::from_raw(pid as i32), Signal::SIGKILL).unwrap();
        assert_eq!(client.call_text("echo", json!({ "text": "still here" })).await.unwrap(), "still here");
        assert_eq!(around.journal("serena").count("start"), round + 1);
    }
    up.signal(Signal::SIGINT);
    assert_eq!(up.end().await, 0);
    assert_eq!(around.living(), Vec::<i32>::new());
}

#[tokio::test]
async fn ctrl_c_twice_is_at_once_and_leaves_nothing() {
    let around = surroundings();
    let mut up = Up::start(&around, ANYWHERE);
    let client = Client::connect(&up.url().await).await.unwrap();
    let call =
        tokio::spawn(async move { client.call("count", json!({ "sleep_ms": 60_000 })).await.map(drop) });
    around.journal("serena").until(|journal| journal.requests("tools/call") == 1).await;
    up.signal(Signal::SIGINT);
    while around.control("GET", "/status").await.1["draining"] != true {
        tokio::task::yield_now().await;
    }
    up.signal(Signal::SIGINT);
    let began = tokio::time::Instant::now();
    up.end().await;
    around.until_nothing_lives().await;
    assert!(began.elapsed() < Duration::from_secs(10), "{:?}", began.elapsed());
    let _ = call.await.unwrap();
}

#[tokio::test]
async fn a_killed_up_leaves_the_next_one_nothing_to_stumble_over() {
    let around = surroundings();
    let mut up = Up::start(&around, ANYWHERE);
    let client = Client::connect(&up.url().await).await.unwrap();
    client.call("count", json!({})).await.unwrap();
    up.child.kill().await.unwrap();
    let mut up = Up::start(&around, ANYWHERE);
    let url = up.url().await;
    // Serena, mcp-sessiond, serena-snapshotd and ourselves.
    assert_eq!(around.living().len(), 4, "those of before are gone");
    assert_eq!(around.journal("serena").count("overlap"), 0);
    Client::connect(&url).await.unwrap().call("count", json!({})).await.unwrap();
    up.signal(Signal::SIGTERM);
    assert_eq!(up.end().await, 0);
    assert_eq!(around.living(), Vec::<i32>::new());
}

#[tokio::test]
async fn what_is_missing_is_said_in_one_line() {
    let around = surroundings();
    fs::remove_file(around.path().join("bin/serena")).unwrap();
    for (arguments, expected) in [
        (vec![], "`uvx`"),
        (vec!["--listen", "unix:/tmp/x"], "--listen"),
        (vec!["--listen", "nowhere"], "nowhere"),
    ] {
        let mut command = around.bare();
        command.env("PATH", around.file("bin")).env("HOME", around.file("home"));
        command.args(["up", "--project", &around.file("project")]).args(&arguments);
        let mut child = command.stdout(Stdio::null()).stderr(Stdio::piped()).spawn().unwrap();
        let mut said = String::new();
        child.stderr.take().unwrap().read_to_string(&mut said).await.unwrap();
        assert!(said.contains(expected) && said.lines().count() == 1, "{said}");
        let code = child.wait().await.unwrap().code().unwrap();
        assert!([64, 69].contains(&code), "{code}: {said}");
    }
}
