//! Accidents: death, hangs, scripted intermediaries, idle connections.

use std::time::Duration;

use serde_json::json;
use support::{Answers, Client, Flavour, Mishap, Server};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpStream,
};

use crate::{connect, count, ping};

const SHORT: Duration = Duration::from_millis(200);

#[tokio::test]
async fn a_stop_cuts_what_is_in_flight_and_the_effect_happens_all_the_same() {
    let server = Server::start(Flavour::Python2).await;
    let client = connect(&server).await;
    let caller = client.clone();
    let call = tokio::spawn(async move { caller.call("count", json!({ "sleep_ms": 1000 })).await });
    server.until(|server| server.started("count") == 1).await;
    server.stop().await;
    let failure = call.await.unwrap().unwrap_err();
    assert_eq!(
        (failure.status, failure.error),
        (Some(200), None),
        "the head came, then the connection broke"
    );
    let refused = Client::connect(&server.url()).await.unwrap_err();
    assert!(refused.text.contains("refused"), "{refused}");
    server.until(|server| server.executed("count") == 1).await;

    let url = server.url();
    server.start_again().await;
    assert_eq!((server.url(), server.sessions()), (url, 0));
    assert_eq!(count(&client).await.unwrap_err().status, Some(404));
    assert_eq!(count(&connect(&server).await).await.unwrap(), "2");
}

#[tokio::test]
async fn a_connection_that_is_cut_is_reset() {
    let server = Server::start(Flavour::Python2).await;
    let mut idle = TcpStream::connect(("127.0.0.1", server.port())).await.unwrap();
    // Once one request was answered, the connection is known to be accepted.
    idle.write_all(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n").await.unwrap();
    assert!(idle.read(&mut [0; 4096]).await.unwrap() > 0);
    server.stop().await;
    let error = idle.read(&mut [0; 4096]).await.unwrap_err();
    assert_eq!(error.kind(), std::io::ErrorKind::ConnectionReset);
}

#[tokio::test]
async fn a_slow_start_refuses_first_and_serves_later() {
    let server = Server::start(Flavour::Python2).await;
    server.stop().await;
    server.set(|switches| switches.slow_start = Duration::from_secs(1));
    server.start_again().await;
    assert!(TcpStream::connect(("127.0.0.1", server.port())).await.is_err());
    while TcpStream::connect(("127.0.0.1", server.port())).await.is_err() {
        tokio::task::yield_now().await;
    }
    connect(&server).await;
}

#[tokio::test]
async fn a_body_dies_after_the_head_mid_json_and_mid_event() {
    for answers in [Answers::Json, Answers::Sse] {
        let builder = Server::builder(Flavour::Python2).set(|switches| switches.answers = answers);
        let server = builder.start().await.unwrap();
        let client = connect(&server).await;
        for bytes in [0, 20] {
            server.next(1, Mishap::die_after(bytes).on("tools/call"));
            let failure = client.call("count", json!({})).await.unwrap_err();
            assert_eq!((failure.status, failure.error), (Some(200), None), "{answers:?} {bytes}");
        }
        assert_eq!((server.started("count"), server.mishaps_left()), (2, 0));
        server.until(|server| server.executed("count") == 2).await;
        assert_eq!(count(&client).await.unwrap(), "3");
    }
}

#[tokio::test]
async fn the_promised_bytes_leave_before_a_body_dies() {
    let server =
        Server::builder(Flavour::Python2).set(|it| it.answers = Answers::Json).start().await.unwrap();
    let client = connect(&server).await;
    server.next(1, Mishap::die_after(20));
    let mut raw = TcpStream::connect(("127.0.0.1", server.port())).await.unwrap();
    let head = format!(
        "POST /mcp HTTP/1.1\r\nHost: 127.0.0.1:{}\r\nAccept: application/json, text/event-stream\r\nMcp-Session-Id: {}\r\nContent-Length: {}\r\n\r\n{}",
        server.port(),
        client.session_id().unwrap(),
        ping().to_string().len(),
        ping()
    );
    raw.write_all(head.as_bytes()).await.unwrap();
    let mut read = Vec::new();
    let error = raw.read_to_end(&mut read).await.unwrap_err();
    assert_eq!(error.kind(), std::io::ErrorKind::ConnectionReset);
    let text = String::from_utf8(read).unwrap();
    let (head, body) = text.split_once("\r\n\r\n").unwrap();
    assert_eq!(body.len(), 20, "{text}");
    assert!(head.to_lowercase().contains("content-length: 36"), "the whole length is promised: {head}");
}

#[tokio::test]
async fn a_hang_answers_nobody_until_it_is_over() {
    let server = Server::start(Flavour::Rmcp).await;
    connect(&server).await;
    server.set(|switches| switches.hang = true);
    let client = Client::builder(&server.url()).lenient().patience(SHORT).unconnected();
    assert!(client.request("initialize", json!({})).await.unwrap_err().text.contains("no answer"));
    let url = server.url();
    let waiting = tokio::spawn(async move { Client::builder(&url).lenient().connect().await });
    server.until(|server| server.received("initialize") == 3).await;
    server.set(|switches| switches.hang = false);
    waiting.await.unwrap().unwrap();
}

#[tokio::test]
async fn only_the_next_requests_hang_when_told_so() {
    let server = Server::start(Flavour::Rmcp).await;
    let patient = connect(&server).await;
    let session = patient.session_id().unwrap();
    let client = Client::builder(&server.url()).lenient().patience(SHORT).session(&session).unconnected();
    server.hang_next(2);
    for _ in 0..2 {
        assert!(count(&client).await.unwrap_err().text.contains("no answer"));
    }
    assert_eq!(count(&patient).await.unwrap(), "1");
    assert_eq!(server.started("count"), 1);
}

#[tokio::test]
async fn an_intermediary_answers_as_scripted_and_nothing_runs() {
    let server = Server::start(Flavour::TypeScript).await;
    let client = connect(&server).await;
    server.next(1, Mishap::status(502));
    server.next(1, Mishap::status(504).on("tools/list"));
    server.next(1, Mishap::answer(500, "text/plain", "oops"));
    server.next(1, Mishap::rpc_error(-32000, "not now"));
    let failures = [count(&client).await, count(&client).await, count(&client).await];
    let said = failures.map(|failure| failure.unwrap_err());
    assert_eq!((said[0].status, said[1].status, said[2].status), (Some(502), Some(500), Some(200)));
    assert_eq!((said[1].text.as_str(), said[2].code()), ("oops", Some(-32000)));
    assert_eq!(client.request("tools/list", json!({})).await.unwrap_err().status, Some(504));
    assert_eq!(server.started("count"), 0);

    server.set(|switches| switches.not_forwarded = true);
    assert_eq!(count(&client).await.unwrap_err().status, Some(503));
    assert_eq!(client.last_headers()["mcp-not-forwarded"], "1");
    server.set(|switches| switches.not_forwarded = false);
    assert_eq!(count(&client).await.unwrap(), "1");
}

#[tokio::test]
async fn a_used_connection_is_closed_when_it_idles_and_only_then() {
    let server =
        Server::builder(Flavour::Python2).set(|it| it.idle_timeout = Some(SHORT)).start().await.unwrap();
    let mut raw = TcpStream::connect(("127.0.0.1", server.port())).await.unwrap();
    raw.write_all(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n").await.unwrap();
    let mut read = Vec::new();
    raw.read_to_end(&mut read).await.unwrap();
    assert!(read.starts_with(b"HTTP/1.1 404"), "answered, then closed");
    // A call that takes longer than that is not idle.
    let client = connect(&server).await;
    client.call("count", json!({ "sleep_ms": 600 })).await.unwrap();
}

#[tokio::test]
async fn a_call_is_executed_although_its_client_went_away() {
    let server = Server::start(Flavour::Python2).await;
    let client = connect(&server).await;
    let call = json!({ "jsonrpc": "2.0", "id": 9, "method": "tools/call",
        "params": { "name": "count", "arguments": { "sleep_ms": 1000 } } });
    let events = client.open_post(&call).await.unwrap();
    server.until(|server| server.started("count") == 1).await;
    drop(events);
    assert_eq!(server.executed("count"), 0);
    server.until(|server| server.executed("count") == 1).await;
}

#[tokio::test]
async fn a_connection_that_closes_late_resets_the_next_request_unread() {
    let late = |it: &mut support::Switches| (it.idle_timeout, it.closes_late) = (Some(SHORT), true);
    let server = Server::builder(Flavour::Python2).set(late).start().await.unwrap();
    let mut raw = TcpStream::connect(("127.0.0.1", server.port())).await.unwrap();
    let request = b"GET / HTTP/1.1\r\nHost: x\r\n\r\n";
    for _ in 0..2 {
        raw.write_all(request).await.unwrap();
        assert!(raw.read(&mut [0; 4096]).await.unwrap() > 0, "not idle for long enough");
    }
    tokio::time::sleep(3 * SHORT).await;
    raw.write_all(request).await.unwrap();
    assert!(raw.read(&mut [0; 4096]).await.is_err());
    assert_eq!(server.requests().len(), 2);
}
