//! The socket of an instance: the first connection starts it, all are held until it is ready, and nobody keeps it awake
//! for nothing.
#![allow(
    clippy::disallowed_methods,
    clippy::unwrap_used,
    reason = "a test fails by panicking, and its tasks end with its runtime"
)]

use std::time::Duration;

use serde_json::json;
use support::{Client, Gate, Ground, RpcFailure, Supervise};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::{TcpStream, UnixStream},
    task::{JoinHandle, JoinSet},
    time::{Instant, timeout},
};

const BINARY: &str = env!("CARGO_BIN_EXE_serena-supervise");
/// A request that any MCP server answers, and that leaves nothing behind.
const PING: &str = "POST /mcp HTTP/1.1\r\nHost: 127.0.0.1:9121\r\nAccept: application/json, text/event-stream\r\n\
    Content-Type: application/json\r\nmcp-session-id: story\r\nConnection: close\r\nContent-Length: 40\r\n\r\n\
    {\"jsonrpc\":\"2.0\",\"id\":1,\"method\":\"ping\"}";

async fn gated(settings: &'static str, arguments: &'static [&'static str]) -> (Supervise, Gate) {
    let settings = |ground: &Ground| {
        let gate = ground.file("gate");
        ground.instance("one", settings, &[&["--gate", &gate], arguments].concat())
    };
    let supervise = Supervise::start(BINARY, settings).await;
    let gate = Gate::new(supervise.file("gate"));
    (supervise, gate)
}

/// A client of its own task that connects and calls.
fn calling(supervise: &Supervise) -> JoinHandle<Result<String, RpcFailure>> {
    let url = supervise.url("one");
    tokio::spawn(async move {
        let client = Client::builder(&url).lenient().connect().await?;
        client.call_text("count", json!({})).await
    })
}

/// What a client reads that has sent `bytes`, up to the end.
async fn answered(supervise: &Supervise, bytes: &str) -> String {
    let mut stream = UnixStream::connect(supervise.socket("one")).await.unwrap();
    stream.write_all(bytes.as_bytes()).await.unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await.unwrap();
    answer
}

fn assert_canned(answer: &str) {
    let (head, body) = answer.split_once("\r\n\r\n").unwrap_or_else(|| panic!("{answer:?}"));
    assert!(head.starts_with("HTTP/1.1 503 "), "{answer}");
    let head = head.to_ascii_lowercase();
    for header in ["\r\nretry-after: ", "\r\nmcp-not-forwarded: 1", "\r\nconnection: close"] {
        assert!(head.contains(header), "{header:?} in {answer}");
    }
    assert_eq!(body.trim_end().lines().count(), 1, "one line that says why: {answer}");
}

#[tokio::test]
async fn the_first_connection_starts_it_and_all_that_are_held_are_answered() {
    let (mut supervise, gate) = gated("", &[]).await;
    assert_eq!(supervise.journal("one").count("start"), 0);
    let calls: Vec<_> = (0..20).map(|_| calling(&supervise)).collect();
    supervise.until("one", |one| one["held"] == 20).await;
    gate.next().await.go().await;
    for call in calls {
        call.await.unwrap().unwrap();
    }
    let one = supervise.until("one", |one| one["connections"] == 0).await;
    assert_eq!(
        (&one["starts"], &one["held"], supervise.journal("one").executed().len()),
        (&json!(1), &json!(0), 20)
    );
    supervise.stop_clean().await;
}

#[tokio::test]
async fn twenty_connections_that_wait_survive_a_crash_of_the_server_they_wait_for() {
    let (mut supervise, gate) = gated("", &[]).await;
    let calls: Vec<_> = (0..20).map(|_| calling(&supervise)).collect();
    supervise.until("one", |one| one["held"] == 20).await;
    for _ in 0..2 {
        // Gone, it lets the server exit with 1.
        drop(gate.next().await);
    }
    gate.next().await.go().await;
    for call in calls {
        call.await.unwrap().unwrap();
    }
    let journal = supervise.journal("one");
    assert_eq!(
        (journal.count("start"), journal.requests("initialize"), journal.executed().len()),
        (3, 20, 20)
    );
    supervise.stop_clean().await;
}

#[tokio::test]
async fn a_slow_start_is_waited_for() {
    let mut supervise =
        Supervise::start(BINARY, |ground| ground.instance("one", "", &["--slow-start", "1500ms"])).await;
    let began = Instant::now();
    assert_eq!(calling(&supervise).await.unwrap().unwrap(), "1");
    assert!(began.elapsed() >= Duration::from_millis(1_500));
    assert_eq!(supervise.journal("one").count("start"), 1);
    supervise.stop_clean().await;
}

#[tokio::test]
async fn more_than_may_wait_get_the_canned_answer_and_so_does_who_waits_too_long() {
    let (mut supervise, gate) = gated("hold.connections = 2\nhold.timeout = '900ms'", &[]).await;
    let url = supervise.url("one");
    let waiting: Vec<_> = (0..2)
        .map(|_| {
            let path = supervise.socket("one");
            tokio::spawn(async move {
                let mut stream = UnixStream::connect(path).await.unwrap();
                stream.write_all(PING.as_bytes()).await.unwrap();
                let (mut answer, began) = (String::new(), Instant::now());
                stream.read_to_string(&mut answer).await.unwrap();
                (answer, began.elapsed())
            })
        })
        .collect();
    let server = gate.next().await;
    supervise.until("one", |one| one["held"] == 2).await;
    assert_canned(&answered(&supervise, PING).await);
    for one in waiting {
        let (answer, waited) = one.await.unwrap();
        assert_canned(&answer);
        assert!(waited > Duration::from_millis(500), "{waited:?}");
    }
    // A real client understands it as what it is.
    let refused = Client::builder(&url).lenient().connect().await.unwrap_err();
    assert_eq!(refused.status, Some(503));
    let one = supervise.until("one", |one| one["held"] == 0).await;
    assert_eq!(one["starts"], 1);
    server.go().await;
    supervise.until_state("one", "ready").await;
    assert_eq!(supervise.journal("one").requests("initialize"), 0, "nothing of a refused request reaches it");
    supervise.stop_clean().await;
}

#[tokio::test]
async fn a_client_that_goes_away_while_it_is_held_gives_its_place_back() {
    let (mut supervise, gate) = gated("hold.connections = 1", &[]).await;
    let mut impatient = UnixStream::connect(supervise.socket("one")).await.unwrap();
    impatient.write_all(PING.as_bytes()).await.unwrap();
    supervise.until("one", |one| one["held"] == 1).await;
    drop(impatient);
    supervise.until("one", |one| one["held"] == 0).await;
    let patient = calling(&supervise);
    supervise.until("one", |one| one["held"] == 1).await;
    gate.next().await.go().await;
    assert_eq!(patient.await.unwrap().unwrap(), "1");
    let journal = supervise.journal("one");
    let pings = journal.all("request").iter().filter(|it| it["session"] == "story").count();
    assert_eq!(
        (journal.count("start"), pings),
        (1, 0),
        "what was sent before the client left is not carried out"
    );
    supervise.stop_clean().await;
}

#[tokio::test]
async fn a_client_that_has_sent_all_and_closes_its_side_is_served() {
    let (mut supervise, gate) = gated("probe = { http = '/health' }", &["--plain", "ready"]).await;
    let mut clients = Vec::new();
    for _ in 0..10 {
        let mut stream = UnixStream::connect(supervise.socket("one")).await.unwrap();
        stream.write_all(b"GET / HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n").await.unwrap();
        stream.shutdown().await.unwrap();
        clients.push(stream);
    }
    gate.next().await.go().await;
    for mut stream in clients {
        let mut answer = String::new();
        stream.read_to_string(&mut answer).await.unwrap();
        assert!(answer.starts_with("HTTP/1.1 200 ") && answer.ends_with("plain\n"), "{answer:?}");
    }
    supervise.stop_clean().await;
}

#[tokio::test]
async fn bytes_pass_as_they_are_however_many() {
    let mut supervise = Supervise::start(BINARY, |ground| ground.instance("one", "", &[])).await;
    let client = supervise.client("one").await.unwrap();
    let text: String = (0..3_000_000)
        .map(|n: u32| char::from(b'a' + (n.wrapping_mul(2_654_435_761) >> 24) as u8 % 26))
        .collect();
    assert_eq!(client.call_text("echo", json!({ "text": text })).await.unwrap(), text);
    let big = client.call_text("big", json!({ "bytes": 20_000_000 })).await.unwrap();
    assert_eq!(big.len(), 20_000_000);
    drop(client);
    supervise.stop_clean().await;
}

#[tokio::test]
async fn it_sleeps_when_nobody_is_connected_and_wakes_for_the_next() {
    let mut supervise = Supervise::start(BINARY, |ground| {
        let settings = "sleep_after = '300ms'";
        [ground.instance("one", settings, &[]), ground.instance("busy", settings, &[])].concat()
    })
    .await;
    let busy = supervise.client("busy").await.unwrap();
    let stream = busy.open_get().await.unwrap();
    for round in 1..=3 {
        assert_eq!(calling(&supervise).await.unwrap().unwrap(), "1", "a fresh process each time");
        let asleep = supervise.until_state("one", "stopped").await;
        assert_eq!((&asleep["why"], &asleep["starts"]), (&json!("asleep"), &json!(round)));
        assert_eq!(
            (&asleep["pid"], &asleep["cause"], &asleep["failures"]),
            (&json!(null), &json!(null), &json!(0))
        );
        assert_eq!(supervise.journal("one").living(), Vec::<i32>::new(), "asleep means that nothing is left");
    }
    let (status, _) = supervise.control("GET", "/ready").await;
    assert_eq!(status, 200, "who sleeps is ready: it wakes");
    let still = supervise.instance("busy").await;
    assert_eq!(
        (&still["state"], &still["starts"]),
        (&json!("ready"), &json!(1)),
        "an open stream keeps it awake"
    );
    drop((busy, stream));
    supervise.until_state("busy", "stopped").await;
    supervise.stop_clean().await;
}

#[tokio::test]
async fn who_was_stopped_by_a_person_stays_so_until_a_person_wakes_it() {
    let mut supervise = Supervise::start(BINARY, |ground| ground.instance("one", "", &[])).await;
    calling(&supervise).await.unwrap().unwrap();
    supervise.ask("one", "stop").await;
    let stopped = supervise.until_state("one", "stopped").await;
    assert_eq!(stopped["why"], "asked");
    assert_canned(&answered(&supervise, PING).await);
    assert_eq!(supervise.journal("one").count("start"), 1);
    supervise.ask("one", "wake").await;
    supervise.until_state("one", "ready").await;
    supervise.ask("one", "sleep").await;
    let asleep = supervise.until_state("one", "stopped").await;
    assert_eq!(asleep["why"], "asleep");
    calling(&supervise).await.unwrap().unwrap();
    assert_eq!(supervise.journal("one").count("start"), 3);
    supervise.stop_clean().await;
}

#[tokio::test]
async fn who_is_held_when_the_supervisor_stops_gets_the_canned_answer() {
    let (mut supervise, gate) = gated("", &[]).await;
    let mut held = UnixStream::connect(supervise.socket("one")).await.unwrap();
    held.write_all(PING.as_bytes()).await.unwrap();
    let server = gate.next().await;
    supervise.until("one", |one| one["held"] == 1).await;
    supervise.stop_clean().await;
    let mut answer = String::new();
    held.read_to_string(&mut answer).await.unwrap();
    assert_canned(&answer);
    server.gone().await;
    assert!(!supervise.socket("one").exists(), "its socket goes with it");
}

#[tokio::test]
async fn a_tcp_socket_wakes_it_as_well() {
    let mut supervise = Supervise::start(BINARY, |ground| {
        let command = ground.command("one", &[]);
        let words: Vec<_> = command.iter().map(|word| format!("'{word}'")).collect();
        let settings = format!("command = [{}]\nsocket = '127.0.0.1:0'", words.join(", "));
        ground.table("instance.one", &settings)
    })
    .await;
    let socket = supervise.instance("one").await["socket"].as_str().unwrap().to_owned();
    let mut stream = TcpStream::connect(&socket).await.unwrap();
    stream.write_all(PING.as_bytes()).await.unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await.unwrap();
    assert!(answer.starts_with("HTTP/1.1 404 "), "{answer}");
    supervise.stop_clean().await;
}

#[tokio::test]
async fn a_client_that_says_nothing_does_not_keep_others_waiting() {
    let mut supervise = Supervise::start(BINARY, |ground| ground.instance("one", "", &[])).await;
    let mut silent = Vec::new();
    for _ in 0..50 {
        silent.push(UnixStream::connect(supervise.socket("one")).await.unwrap());
    }
    let mut calls = JoinSet::new();
    for _ in 0..20 {
        let call = calling(&supervise);
        calls.spawn(async move { call.await.unwrap().unwrap() });
    }
    let all = timeout(Duration::from_secs(30), calls.join_all()).await.unwrap();
    assert_eq!(all.len(), 20);
    supervise.until("one", |one| one["connections"] == 50).await;
    drop(silent);
    supervise.until("one", |one| one["connections"] == 0).await;
    supervise.stop_clean().await;
}
