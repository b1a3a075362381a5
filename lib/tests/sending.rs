//! The client against servers that are scripted byte by byte, so that each test knows what really arrived.
#![allow(clippy::unwrap_used, reason = "a test may panic")]

use std::collections::HashMap;
use std::future::{Future, poll_fn};
use std::pin::pin;
use std::sync::{Arc, Mutex};
use std::task::Poll;
use std::time::Duration;

use bytes::Bytes;
use http::{HeaderValue, Request};
use http_body_util::BodyExt;
use mcp_daemon::addr::{Endpoint, Upstream};
use mcp_daemon::body::Body;
use mcp_daemon::client::{Client, ClientOptions, SendError};
use mcp_daemon::life::Life;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream, UnixListener};

const ANSWER: &[u8] = b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok";

fn endpoint(text: &str) -> Endpoint {
    text.parse::<Upstream>().unwrap().endpoint(None).unwrap()
}

fn request(body: &str) -> Request<Bytes> {
    Request::post("/ignored").header("x-kept", "1").body(Bytes::from(body.to_owned())).unwrap()
}

async fn text(response: http::Response<Body>) -> Bytes {
    response.into_body().collect().await.unwrap().to_bytes()
}

/// Reads one request with a body of four bytes.
async fn read_request(stream: &mut (impl AsyncReadExt + Unpin)) -> Option<String> {
    let mut bytes = Vec::new();
    loop {
        if stream.read_buf(&mut bytes).await.unwrap_or(0) == 0 {
            return None;
        }
        if bytes.windows(4).position(|four| four == b"\r\n\r\n").is_some_and(|end| bytes.len() == end + 8) {
            return Some(String::from_utf8(bytes).unwrap());
        }
    }
}

#[tokio::test]
async fn uri_and_host_come_from_the_endpoint_and_other_headers_stay() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let to = endpoint(&format!("http://{address}/a/mcp"));
    let client = Client::new(ClientOptions::default());
    for (to, host) in
        [(to.clone(), address.to_string()), (to.with_host(HeaderValue::from_static("h:1")), "h:1".into())]
    {
        let sent = client.send_on_new_connection(&to, request("body"));
        let served = async {
            let (mut stream, _) = listener.accept().await.unwrap();
            let seen = read_request(&mut stream).await.unwrap();
            stream.write_all(ANSWER).await.unwrap();
            seen
        };
        let (answer, seen) = tokio::join!(sent, served);
        assert_eq!(text(answer.unwrap()).await, "ok");
        assert!(seen.starts_with("POST /a/mcp HTTP/1.1\r\n"), "{seen}");
        assert!(seen.contains(&format!("host: {host}\r\n")) && seen.contains("x-kept: 1\r\n"), "{seen}");
        assert!(seen.ends_with("\r\n\r\nbody"), "{seen}");
    }
}

/// Serves every connection until its end and counts connections and, by their body, requests.
#[derive(Clone, Default)]
struct Counts(Arc<Mutex<(usize, HashMap<String, usize>)>>);

impl Counts {
    async fn serve(self, life: Life, listener: TcpListener, close_after_answer: bool) {
        loop {
            let (mut stream, _) = listener.accept().await.unwrap();
            self.0.lock().unwrap().0 += 1;
            let counts = self.clone();
            life.spawn(async move {
                while let Some(request) = read_request(&mut stream).await {
                    let body = request[request.len() - 4..].to_owned();
                    *counts.0.lock().unwrap().1.entry(body).or_default() += 1;
                    stream.write_all(ANSWER).await.unwrap();
                    if close_after_answer {
                        return;
                    }
                }
            });
        }
    }

    fn connections(&self) -> usize {
        self.0.lock().unwrap().0
    }

    fn requests(&self, body: &str) -> usize {
        self.0.lock().unwrap().1.get(body).copied().unwrap_or(0)
    }
}

async fn counting(close_after_answer: bool) -> (Counts, Endpoint) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let to = endpoint(&listener.local_addr().unwrap().to_string());
    let (counts, life) = (Counts::default(), Life::new(Duration::ZERO));
    life.spawn(counts.clone().serve(life.clone(), listener, close_after_answer));
    (counts, to)
}

#[tokio::test]
async fn connections_are_reused_but_a_probe_has_its_own() {
    let (counts, to) = counting(false).await;
    let client = Client::new(ClientOptions::default());
    for _ in 0..5 {
        text(client.send(&to, request("send")).await.unwrap()).await;
    }
    assert_eq!((counts.connections(), counts.requests("send")), (1, 5));
    for probes in 1..=3 {
        text(client.send_on_new_connection(&to, request("test")).await.unwrap()).await;
        assert_eq!(counts.connections(), 1 + probes);
    }
    text(client.send(&to, request("send")).await.unwrap()).await;
    assert_eq!(counts.connections(), 4);
}

/// The contract that decides what may be sent again: an answer means once, `NotSent` never, `Broken` at most once.
#[tokio::test]
async fn a_server_that_closes_idle_connections_never_receives_a_request_twice() {
    let (counts, to) = counting(true).await;
    let client = Client::new(ClientOptions::default());
    let (mut answered, mut broken) = (0, 0);
    for number in 0..1_000 {
        let body = format!("{number:04}");
        let received = match client.send(&to, request(&body)).await {
            Ok(response) => {
                assert_eq!(text(response).await, "ok");
                answered += 1;
                1..=1
            }
            Err(SendError::NotSent(_)) => 0..=0,
            Err(SendError::Broken(_)) => {
                broken += 1;
                0..=1
            }
        };
        assert!(received.contains(&counts.requests(&body)), "{body}: {} times", counts.requests(&body));
    }
    println!("{answered} answered, {broken} lost at an unknown point, {} connections", counts.connections());
    assert!(answered >= 500, "only {answered} answered, {broken} broken");
}

#[tokio::test]
async fn a_request_lost_on_a_reused_connection_is_broken_and_not_sent_again() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let to = endpoint(&listener.local_addr().unwrap().to_string());
    let client = Client::new(ClientOptions::default());
    let served = async {
        let (mut stream, _) = listener.accept().await.unwrap();
        read_request(&mut stream).await.unwrap();
        stream.write_all(ANSWER).await.unwrap();
        read_request(&mut stream).await.unwrap()
    };
    let sent = async {
        text(client.send(&to, request("once")).await.unwrap()).await;
        client.send(&to, request("lost")).await
    };
    let (answer, seen) = tokio::join!(sent, served);
    assert!(seen.ends_with("lost"), "{seen}");
    assert!(matches!(answer, Err(SendError::Broken(_))), "{answer:?}");
    // Had it been sent again, the new connection would be here already: it precedes the error.
    let again = poll_fn(|cx| Poll::Ready(listener.poll_accept(cx).is_ready())).await;
    assert!(!again, "it was sent again");
}

#[tokio::test]
async fn a_connection_closed_a_moment_ago_is_not_written_to_though_the_runtime_had_no_turn_to_see_it() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let to = endpoint(&listener.local_addr().unwrap().to_string());
    let client = Client::new(ClientOptions::default());
    let serve = || async {
        let (mut stream, _) = listener.accept().await.unwrap();
        read_request(&mut stream).await.unwrap();
        stream.write_all(ANSWER).await.unwrap();
        stream
    };
    let first = async { text(client.send(&to, request("once")).await.unwrap()).await };
    let (_, stream) = tokio::join!(first, serve());
    drop(stream);
    let mut second = pin!(client.send(&to, request("next")));
    // As hyper's server does with what it serves: twice, before the runtime has its turn.
    let second = poll_fn(|cx| match second.as_mut().poll(cx) {
        Poll::Pending => second.as_mut().poll(cx),
        ready => ready,
    });
    let (answer, _stream) = tokio::join!(second, serve());
    assert_eq!(text(answer.unwrap()).await, "ok");
}

#[tokio::test]
async fn an_unused_connection_is_dropped_after_the_idle_timeout() {
    let (counts, to) = counting(false).await;
    let client =
        Client::new(ClientOptions { idle_timeout: Duration::from_millis(1), ..ClientOptions::default() });
    for sent in 1.. {
        text(client.send(&to, request("send")).await.unwrap()).await;
        if counts.connections() > 1 {
            break;
        }
        assert!(sent < 1_000, "the connection is used for ever");
        // The pool's clock cannot be paused; each round is longer than the one before until one outlasts the timeout.
        tokio::time::sleep(Duration::from_micros(sent * 100)).await;
    }
}

#[tokio::test]
async fn what_was_never_written_is_said_to_be_so() {
    let directory = tempfile::tempdir().unwrap();
    let missing = endpoint(&format!("unix:{}", directory.path().join("none.sock").display()));
    let closed = TcpListener::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap();
    let client = Client::new(ClientOptions::default());
    for (to, words) in [(missing, "No such file"), (endpoint(&closed.to_string()), "refused")] {
        let error = client.send(&to, request("body")).await.unwrap_err();
        assert!(matches!(error, SendError::NotSent(_)), "{error:?}");
        assert!(
            error.to_string().starts_with("cannot connect: ") && error.to_string().contains(words),
            "{error}"
        );
    }
}

#[tokio::test]
async fn a_request_that_was_written_and_not_answered_is_broken() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let to = endpoint(&listener.local_addr().unwrap().to_string());
    let client = Client::new(ClientOptions::default());
    let served = async {
        let (mut stream, _) = listener.accept().await.unwrap();
        read_request(&mut stream).await.unwrap()
    };
    let (answer, _) = tokio::join!(client.send(&to, request("body")), served);
    let error = answer.unwrap_err();
    assert!(matches!(error, SendError::Broken(_)), "{error:?}");
    assert!(error.to_string().starts_with("connection lost after the request was sent: "), "{error}");
}

#[tokio::test]
async fn a_tls_handshake_that_fails_or_hangs_is_not_sent() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let to = endpoint(&format!("https://localhost:{}/mcp", listener.local_addr().unwrap().port()));
    let client = Client::new(ClientOptions {
        connect_timeout: Duration::from_millis(200),
        ..ClientOptions::default()
    });
    let not_tls = async {
        let (mut stream, _) = listener.accept().await.unwrap();
        stream.write_all(b"HTTP/1.1 400 Bad Request\r\n\r\n").await.unwrap();
        stream
    };
    let (answer, _stream) = tokio::join!(client.send(&to, request("body")), not_tls);
    assert!(matches!(&answer, Err(SendError::NotSent(_))), "{answer:?}");
    let silent = async { listener.accept().await.unwrap() };
    let (answer, _stream) = tokio::join!(client.send(&to, request("body")), silent);
    let error = answer.unwrap_err();
    assert!(matches!(error, SendError::NotSent(_)), "{error:?}");
    assert!(error.to_string().ends_with("no connection within 200 ms"), "{error}");
}

#[tokio::test]
async fn a_unix_socket_is_reached_with_a_host_that_servers_accept() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("x.sock");
    let listener = UnixListener::bind(&path).unwrap();
    let to = endpoint(&format!("unix:{}", path.display()));
    let client = Client::new(ClientOptions::default());
    let served = async {
        let (mut stream, _) = listener.accept().await.unwrap();
        let seen = read_request(&mut stream).await.unwrap();
        stream.write_all(ANSWER).await.unwrap();
        seen
    };
    let (answer, seen) = tokio::join!(client.send(&to, request("body")), served);
    assert_eq!(text(answer.unwrap()).await, "ok");
    assert!(
        seen.starts_with("POST /mcp HTTP/1.1\r\n") && seen.contains("host: 127.0.0.1:9121\r\n"),
        "{seen}"
    );
}

#[tokio::test]
async fn an_answer_comes_without_waiting_for_its_end() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let to = endpoint(&listener.local_addr().unwrap().to_string());
    let client = Client::new(ClientOptions::default());
    let served = async {
        let (mut stream, _): (TcpStream, _) = listener.accept().await.unwrap();
        read_request(&mut stream).await.unwrap();
        stream.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 4\r\n\r\nab").await.unwrap();
        stream
    };
    let (answer, mut stream) = tokio::join!(client.send(&to, request("body")), served);
    let mut body = answer.unwrap().into_body();
    assert_eq!(body.frame().await.unwrap().unwrap().into_data().unwrap(), "ab");
    stream.write_all(b"cd").await.unwrap();
    assert_eq!(body.frame().await.unwrap().unwrap().into_data().unwrap(), "cd");
    assert!(body.frame().await.is_none());
}
