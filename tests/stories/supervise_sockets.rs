//! Sockets: inherited ones, full ones, those that move or go while somebody waits at them.
#![allow(
    clippy::disallowed_methods,
    clippy::unwrap_used,
    reason = "a test fails by panicking, and its tasks end with its runtime"
)]

use std::{
    fs,
    os::{fd::OwnedFd, unix::net::UnixListener},
    process::Stdio,
    time::Duration,
};

use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};
use serde_json::{Value, json};
use support::{Client, Gate, Ground, Supervise};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::UnixStream,
    process::Child,
    time::timeout,
};

const BINARY: &str = env!("CARGO_BIN_EXE_serena-supervise");
const PATIENCE: Duration = Duration::from_secs(40);

/// Runs the settings with `socket` as the inherited one that is named `mcp`, as systemd does it.
fn activated(supervise: &Supervise, socket: &UnixListener) -> Child {
    let settings = supervise.settings_file();
    let script = "exec 3<&0 0</dev/null; LISTEN_PID=$$ LISTEN_FDS=1 LISTEN_FDNAMES=mcp exec \"$@\"";
    let mut command = supervise.bare_under(&["sh", "-c", script, "sh"]);
    command.args(["run", "--config", settings.to_str().unwrap()]);
    command.stdin(Stdio::from(OwnedFd::from(socket.try_clone().unwrap())));
    command.spawn().unwrap()
}

async fn end(child: &mut Child) {
    kill(Pid::from_raw(child.id().unwrap() as i32), Signal::SIGTERM).unwrap();
    assert_eq!(timeout(PATIENCE, child.wait()).await.unwrap().unwrap().code(), Some(0));
}

#[tokio::test]
async fn an_inherited_socket_wakes_it_and_keeps_clients_while_the_supervisor_restarts() {
    let supervise = Supervise::prepared(BINARY, &[]);
    let command = Ground::command(&supervise, "one", &[]);
    let words: Vec<_> = command.iter().map(|word| format!("'{word}'")).collect();
    let settings = format!("command = [{}]\nsocket = 'fd:mcp'", words.join(", "));
    fs::write(supervise.settings_file(), supervise.table("instance.one", &settings)).unwrap();
    let socket = UnixListener::bind(supervise.socket("one")).unwrap();
    let mut first = activated(&supervise, &socket);
    let client = supervise.client("one").await.unwrap();
    assert_eq!(client.call_text("count", json!({})).await.unwrap(), "1");
    let start = supervise.journal("one").all("start").remove(0);
    assert_eq!(start["listen_fds"], Value::Null, "the sockets are the supervisor's own");
    drop(client);
    end(&mut first).await;
    // Nobody accepts, and nobody refuses.
    let url = supervise.url("one");
    let waiting = tokio::spawn(async move { Client::builder(&url).lenient().connect().await });
    let mut second = activated(&supervise, &socket);
    let client = waiting.await.unwrap().unwrap();
    assert_eq!(client.call_text("count", json!({})).await.unwrap(), "1");
    drop(client);
    end(&mut second).await;
    assert!(supervise.socket("one").exists(), "it belongs to whoever made it");
    assert_eq!(supervise.living(), Vec::<i32>::new());
}

#[tokio::test]
async fn an_inherited_socket_goes_on_to_whichever_instance_has_it_next() {
    let supervise = Supervise::prepared(BINARY, &[]);
    let with = |name: &'static str, home: &'static str| {
        move |ground: &Ground| {
            let settings = ground.instance("one", &format!("home = '{}'", ground.file(home)), &[]);
            let socket = format!("unix:{}", ground.socket("one").display());
            settings.replace(&socket, "fd:mcp").replace("[instance.one]", &format!("[instance.{name}]"))
        }
    };
    supervise.rewrite(with("one", "first"));
    let socket = UnixListener::bind(supervise.socket("one")).unwrap();
    let mut child = activated(&supervise, &socket);
    supervise.client("one").await.unwrap();
    for (name, home) in [("one", "second"), ("two", "second")] {
        supervise.rewrite(with(name, home));
        let (status, said) = supervise.control("POST", "/reload").await;
        assert_eq!(status, 200, "{said}");
        let client = supervise.client("one").await.unwrap();
        assert_eq!(client.call_text("count", json!({})).await.unwrap(), "1");
    }
    assert_eq!((supervise.journal("one").count("start"), supervise.journal("one").count("overlap")), (3, 0));
    end(&mut child).await;
    assert_eq!(supervise.living(), Vec::<i32>::new());
}

#[tokio::test]
async fn more_than_may_be_open_wait_until_one_closes() {
    let mut supervise = Supervise::start(BINARY, |ground| ground.instance("one", "hold.open = 3", &[])).await;
    let mut open = Vec::new();
    for _ in 0..3 {
        let client = supervise.client("one").await.unwrap();
        client.call("count", json!({})).await.unwrap();
        open.push(client);
    }
    supervise.until("one", |one| one["connections"] == 3).await;
    let mut late = UnixStream::connect(supervise.socket("one")).await.unwrap();
    late.write_all(b"GET /mcp HTTP/1.1\r\nHost: 127.0.0.1:1\r\nConnection: close\r\n\r\n").await.unwrap();
    let mut answer = String::new();
    let early = timeout(Duration::from_millis(200), late.read_to_string(&mut answer)).await;
    assert!(early.is_err(), "{answer}");
    assert_eq!(supervise.instance("one").await["connections"], 3);
    open.pop();
    timeout(PATIENCE, late.read_to_string(&mut answer)).await.unwrap().unwrap();
    assert!(answer.starts_with("HTTP/1.1 4"), "{answer}");
    drop(open);
    supervise.stop_clean().await;
}

#[tokio::test]
async fn a_socket_that_moves_is_gone_where_it_was_and_serves_where_it_is() {
    let with = |socket: &'static str| {
        move |ground: &Ground| {
            let settings = ground.instance("one", "", &[]);
            settings.replace("one.sock'", &format!("{socket}.sock'"))
        }
    };
    let mut supervise = Supervise::start(BINARY, with("one")).await;
    supervise.client("one").await.unwrap();
    supervise.rewrite(with("moved"));
    let (status, said) = supervise.control("POST", "/reload").await;
    assert!(status == 200 && said.to_string().contains("one"), "{said}");
    assert!(!supervise.socket("one").exists());
    let client = supervise.client("moved").await.unwrap();
    assert_eq!(client.call_text("count", json!({})).await.unwrap(), "1");
    assert_eq!((supervise.journal("one").count("start"), supervise.journal("one").count("overlap")), (2, 0));
    drop(client);
    supervise.stop_clean().await;
}

#[tokio::test]
async fn who_waits_at_an_instance_that_is_removed_is_told() {
    let with = |names: &'static [&'static str]| {
        move |ground: &Ground| {
            let gate = ground.file("gate");
            names
                .iter()
                .map(|name| ground.instance(name, "", &["--gate", &gate]))
                .collect::<Vec<_>>()
                .concat()
        }
    };
    let mut supervise = Supervise::start(BINARY, with(&["one", "two"])).await;
    let gate = Gate::new(supervise.file("gate"));
    let url = supervise.url("one");
    let waiting = tokio::spawn(async move { Client::builder(&url).lenient().connect().await });
    let server = gate.next().await;
    supervise.until("one", |one| one["held"] == 1).await;
    supervise.rewrite(with(&["two"]));
    let (status, said) = supervise.control("POST", "/reload").await;
    assert_eq!(status, 200, "{said}");
    let refused = timeout(PATIENCE, waiting).await.unwrap().unwrap().unwrap_err();
    assert_eq!(refused.status, Some(503), "{refused:?}");
    server.gone().await;
    assert_eq!(supervise.living(), Vec::<i32>::new());
    let (status, _) = supervise.control("POST", "/instances/one/wake").await;
    assert_eq!(status, 404);
    supervise.stop_clean().await;
}

#[tokio::test]
async fn new_settings_are_in_force_at_the_next_start_and_cut_nobody() {
    let with = |greeting: &'static str, sleep_after: &'static str| {
        move |ground: &Ground| {
            let settings = format!("sleep_after = '{sleep_after}'\nenv = {{ GREETING = '{greeting}' }}");
            ground.instance("one", &settings, &[])
        }
    };
    let mut supervise = Supervise::start(BINARY, with("first", "1h")).await;
    let client = supervise.client("one").await.unwrap();
    supervise.rewrite(with("second", "200ms"));
    let (status, said) = supervise.control("POST", "/reload").await;
    assert_eq!(status, 200, "{said}");
    assert_eq!(client.call_text("count", json!({})).await.unwrap(), "1");
    drop(client);
    supervise.ask("one", "restart").await;
    supervise.until("one", |one| one["starts"] == 2 && one["state"] == "ready").await;
    let greetings: Vec<_> =
        supervise.journal("one").all("start").iter().map(|it| it["greeting"].clone()).collect();
    assert_eq!(greetings, ["first", "second"]);
    let asleep = supervise.until_state("one", "stopped").await;
    assert_eq!(asleep["why"], "asleep");
    supervise.stop_clean().await;
}

#[tokio::test]
async fn a_socket_that_somebody_listens_on_is_not_taken_from_him() {
    let mut first = Supervise::start(BINARY, |ground| ground.instance("one", "", &[])).await;
    let second = Supervise::prepared(BINARY, &[]);
    let settings = Ground::instance(&second, "one", "", &[]);
    let settings = settings.replace(second.file("one.sock").as_str(), &first.file("one.sock"));
    fs::write(second.settings_file(), settings).unwrap();
    let refused = second.command(&["run", "--config", second.settings_file().to_str().unwrap()]).await;
    let said = String::from_utf8_lossy(&refused.stderr).into_owned();
    assert!(refused.status.code() == Some(69) && said.contains(&first.file("one.sock")), "{said}");
    assert_eq!(first.client("one").await.unwrap().call_text("count", json!({})).await.unwrap(), "1");
    first.stop_clean().await;
}
