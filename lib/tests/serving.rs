//! The server side on real sockets: bytes in, bytes out, drain, bounds and trust.
#![allow(clippy::unwrap_used, reason = "a test may panic")]

use std::collections::VecDeque;
use std::path::PathBuf;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use http::{Request, Response};
use http_body::Frame;
use hyper::body::Incoming;
use mcp_daemon::addr::Listen;
use mcp_daemon::body::{Body, BodyError};
use mcp_daemon::life::{Draining, Life};
use mcp_daemon::serve::{BindOptions, Listener, Peer, Quiet, ServeLimits, serve};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpStream, UnixStream};
use tokio::time::Instant;

const GRACE: Duration = Duration::from_secs(10);
const REQUEST: &[u8] = b"GET / HTTP/1.1\r\nhost: x\r\n\r\n";

/// Starts a server whose answers are made by `answer`, and returns where it is.
fn start<B>(life: &Life, listen: &str, options: BindOptions, limits: ServeLimits, answer: B) -> Listen
where
    B: Fn(Request<Incoming>, Peer) -> Body + Clone + Send + 'static,
{
    let listener = Listener::bind(&listen.parse().unwrap(), options).unwrap().remove(0);
    let local = listener.local();
    life.spawn(serve(listener, limits, life.clone(), move |request, peer| {
        let body = answer(request, peer);
        async move { Response::new(body) }
    }));
    local
}

fn start_tcp(life: &Life, limits: ServeLimits, answer: fn(&Life) -> Body) -> Listen {
    let life_of_body = life.clone();
    start(life, "127.0.0.1:0", BindOptions::default(), limits, move |_, _| answer(&life_of_body))
}

async fn connect(listen: &Listen) -> TcpStream {
    let Listen::Tcp(address) = listen else { panic!("not TCP") };
    TcpStream::connect(address).await.unwrap()
}

/// Reads up to the words, and nothing beyond what has come with them.
async fn read_until(stream: &mut (impl AsyncReadExt + Unpin), words: &str) -> String {
    let mut text = Vec::new();
    while !String::from_utf8_lossy(&text).contains(words) {
        assert_ne!(stream.read_buf(&mut text).await.unwrap(), 0, "closed before `{words}`");
    }
    String::from_utf8(text).unwrap()
}

async fn read_to_end(stream: &mut (impl AsyncReadExt + Unpin)) -> String {
    let mut text = Vec::new();
    stream.read_to_end(&mut text).await.unwrap();
    String::from_utf8(text).unwrap()
}

#[tokio::test]
async fn drain_ends_used_and_unused_idle_connections_and_the_listener() {
    let life = Life::new(GRACE);
    let listen = start_tcp(&life, ServeLimits::default(), |_| Body::from("hello"));
    let (mut used, mut unused) = (connect(&listen).await, connect(&listen).await);
    used.write_all(REQUEST).await.unwrap();
    assert!(read_until(&mut used, "hello").await.contains("content-length: 5\r\n"));
    // A second request proves keep-alive; its answer, that the unused one was accepted before it.
    used.write_all(REQUEST).await.unwrap();
    read_until(&mut used, "hello").await;
    life.drain();
    assert_eq!(life.finish().await, 0);
    assert_eq!(read_to_end(&mut used).await, "");
    assert_eq!(read_to_end(&mut unused).await, "");
    let Listen::Tcp(address) = listen else { unreachable!() };
    assert_eq!(TcpStream::connect(address).await.unwrap_err().kind(), std::io::ErrorKind::ConnectionRefused);
}

/// Says one thing, then nothing until the drain.
struct Endless(Option<Bytes>, Draining);

impl http_body::Body for Endless {
    type Data = Bytes;
    type Error = BodyError;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        match self.0.take() {
            Some(piece) => Poll::Ready(Some(Ok(Frame::data(piece)))),
            None => Pin::new(&mut self.1).poll(cx).map(|()| None),
        }
    }
}

#[tokio::test]
async fn an_endless_body_that_watches_the_drain_ends_cleanly_with_it() {
    let life = Life::new(GRACE);
    let listen = start_tcp(&life, ServeLimits::default(), |life| {
        Body::stream(Endless(Some(Bytes::from_static(b"first")), life.draining_owned()))
    });
    let mut stream = connect(&listen).await;
    stream.write_all(REQUEST).await.unwrap();
    read_until(&mut stream, "first\r\n").await;
    life.drain();
    // The last chunk: the peer can tell this end from a crash.
    assert_eq!(read_to_end(&mut stream).await, "0\r\n\r\n");
    assert_eq!(life.finish().await, 0);
}

#[tokio::test]
async fn an_endless_body_that_ignores_the_drain_is_cut_after_the_grace() {
    let life = Life::new(Duration::from_millis(1));
    let listen = start_tcp(&life, ServeLimits::default(), |_| {
        Body::stream(Endless(Some(Bytes::from_static(b"first")), Life::new(GRACE).draining_owned()))
    });
    let mut stream = connect(&listen).await;
    stream.write_all(REQUEST).await.unwrap();
    read_until(&mut stream, "first\r\n").await;
    life.drain();
    assert_eq!(life.finish().await, 1);
    assert_eq!(read_to_end(&mut stream).await, "");
}

#[tokio::test]
async fn chunks_are_sent_with_their_total_length() {
    let life = Life::new(GRACE);
    let listen = start_tcp(&life, ServeLimits::default(), |_| {
        Body::Chunks(VecDeque::from([Bytes::from_static(b"ab"), Bytes::from_static(b"cde")]))
    });
    let mut stream = connect(&listen).await;
    stream.write_all(REQUEST).await.unwrap();
    let answer = read_until(&mut stream, "abcde").await;
    assert!(answer.contains("content-length: 5\r\n") && !answer.contains("chunked"), "{answer}");
}

#[tokio::test]
async fn a_head_that_never_ends_is_cut_but_an_idle_connection_is_not() {
    let life = Life::new(GRACE);
    let limits = ServeLimits::default();
    let listen = start_tcp(&life, limits, |_| Body::from("hello"));
    let began = tokio::time::Instant::now();
    let (mut silent, mut partial, mut late) =
        (connect(&listen).await, connect(&listen).await, connect(&listen).await);
    partial.write_all(b"GET / HTTP/1.1\r\nhos").await.unwrap();
    late.write_all(REQUEST).await.unwrap();
    read_until(&mut late, "hello").await;
    // Only now: a paused clock runs ahead whenever nothing is ready, even while bytes are on their way.
    tokio::time::pause();
    // Once served, a connection may idle as long as it likes.
    tokio::time::sleep(limits.header_timeout * 100).await;
    late.write_all(REQUEST).await.unwrap();
    read_until(&mut late, "hello").await;
    assert_eq!(read_to_end(&mut silent).await, "");
    assert_eq!(read_to_end(&mut partial).await, "");
    // But a later head that never ends is cut as well.
    late.write_all(b"GET /").await.unwrap();
    assert_eq!(read_to_end(&mut late).await, "");
    assert!(began.elapsed() > limits.header_timeout * 101);
}

#[tokio::test]
async fn a_body_that_comes_slowly_is_not_taken_for_a_late_head() {
    let life = Life::new(GRACE);
    let listener = Listener::bind(&"127.0.0.1:0".parse().unwrap(), BindOptions::default()).unwrap().remove(0);
    let listen = listener.local();
    life.spawn(serve(listener, ServeLimits::default(), life.clone(), |request, _| async move {
        let body = http_body_util::BodyExt::collect(request.into_body()).await.unwrap().to_bytes();
        Response::new(Body::from(body))
    }));
    let mut stream = connect(&listen).await;
    stream
        .write_all(b"POST / HTTP/1.1\r\nhost: x\r\ncontent-length: 4\r\nexpect: 100-continue\r\n\r\n")
        .await
        .unwrap();
    read_until(&mut stream, "100 Continue\r\n\r\n").await;
    tokio::time::pause();
    stream.write_all(b"ab").await.unwrap();
    tokio::time::sleep(Duration::from_secs(3_600)).await;
    stream.write_all(b"cd").await.unwrap();
    read_until(&mut stream, "abcd").await;
    tokio::time::sleep(Duration::from_secs(3_600)).await;
    stream.write_all(REQUEST).await.unwrap();
    read_until(&mut stream, "content-length: 0\r\n").await;
}

#[tokio::test]
async fn a_connection_without_a_request_is_closed_where_the_limits_say_so() {
    let life = Life::new(GRACE);
    let quiet = Quiet { idle: Duration::from_secs(600), stall: Duration::from_secs(60) };
    let limits = ServeLimits { quiet: Some(quiet), ..ServeLimits::default() };
    let listen = start_tcp(&life, limits, |_| Body::from("hello"));
    let mut stream = connect(&listen).await;
    stream.write_all(REQUEST).await.unwrap();
    read_until(&mut stream, "hello").await;
    tokio::time::pause();
    let began = Instant::now();
    assert_eq!(read_to_end(&mut stream).await, "");
    assert!((quiet.idle..=2 * quiet.idle).contains(&began.elapsed()), "{:?}", began.elapsed());
}

#[tokio::test]
async fn a_client_that_does_not_read_its_answer_is_cut_where_the_limits_say_so() {
    let life = Life::new(GRACE);
    let quiet = Quiet { idle: Duration::from_secs(600), stall: Duration::from_secs(60) };
    let limits = ServeLimits { quiet: Some(quiet), ..ServeLimits::default() };
    // More than the kernel keeps for anybody.
    let listen = start_tcp(&life, limits, |_| Body::from("x".repeat(64 << 20)));
    let mut stream = connect(&listen).await;
    stream.write_all(REQUEST).await.unwrap();
    read_until(&mut stream, "HTTP/1.1 200").await;
    let before = life.running();
    tokio::time::pause();
    let began = Instant::now();
    while life.running() == before {
        tokio::time::sleep(Duration::from_secs(1)).await;
    }
    assert!((quiet.stall..=3 * quiet.stall).contains(&began.elapsed()), "{:?}", began.elapsed());
}

#[tokio::test]
async fn a_head_that_is_too_large_is_answered_with_431() {
    let life = Life::new(GRACE);
    let limits = ServeLimits { max_header_bytes: 1_000, ..ServeLimits::default() };
    let listen = start_tcp(&life, limits, |_| Body::from("hello"));
    let mut stream = connect(&listen).await;
    let head = format!("GET / HTTP/1.1\r\nhost: x\r\nx-large: {}\r\n\r\n", "a".repeat(1_000));
    stream.write_all(head.as_bytes()).await.unwrap();
    read_until(&mut stream, "HTTP/1.1 431 ").await;
}

#[tokio::test]
async fn connections_beyond_the_bound_wait_until_one_ends() {
    let life = Life::new(GRACE);
    let calls = Arc::new(AtomicUsize::new(0));
    let counted = Arc::clone(&calls);
    let limits = ServeLimits { connections: 1, ..ServeLimits::default() };
    let listen = start(&life, "127.0.0.1:0", BindOptions::default(), limits, move |_, _| {
        counted.fetch_add(1, Ordering::Relaxed);
        Body::from("hello")
    });
    let mut first = connect(&listen).await;
    first.write_all(REQUEST).await.unwrap();
    read_until(&mut first, "hello").await;
    let mut second = connect(&listen).await;
    second.write_all(REQUEST).await.unwrap();
    for _ in 0..20 {
        first.write_all(REQUEST).await.unwrap();
        read_until(&mut first, "hello").await;
    }
    assert_eq!(calls.load(Ordering::Relaxed), 21);
    drop(first);
    read_until(&mut second, "hello").await;
}

fn in_directory() -> (tempfile::TempDir, PathBuf, String) {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("x.sock");
    let listen = format!("unix:{}", path.display());
    (directory, path, listen)
}

/// What a peer is taken for on a Unix socket that was bound with these options.
async fn peer_seen(options: BindOptions) -> String {
    let (_directory, path, listen) = in_directory();
    let life = Life::new(GRACE);
    start(&life, &listen, options, ServeLimits::default(), |_, peer| {
        Body::from(format!("trusted {}, tcp {}.", peer.trusted, peer.tcp))
    });
    let mut stream = UnixStream::connect(&path).await.unwrap();
    stream.write_all(REQUEST).await.unwrap();
    let answer = read_until(&mut stream, ", tcp false.").await;
    answer.rsplit("\r\n").next().unwrap().to_owned()
}

#[tokio::test]
async fn a_peer_is_trusted_by_its_user_id_on_a_trusted_unix_socket_only() {
    let me = nix::unistd::getuid().as_raw();
    let options =
        |trusted, allow_uids: &[u32]| BindOptions { trusted, allow_uids: allow_uids.to_vec(), mode: 0o600 };
    assert_eq!(peer_seen(options(false, &[me])).await, "trusted false, tcp false.");
    assert_eq!(peer_seen(options(true, &[])).await, "trusted true, tcp false.");
    assert_eq!(peer_seen(options(true, &[me])).await, "trusted true, tcp false.");
    assert_eq!(peer_seen(options(true, &[me + 1])).await, "trusted false, tcp false.");
}

#[tokio::test]
async fn tcp_is_never_trusted() {
    let life = Life::new(GRACE);
    let options = BindOptions { trusted: true, ..BindOptions::default() };
    let listen = start(&life, "127.0.0.1:0", options, ServeLimits::default(), |_, peer| {
        Body::from(format!("trusted {}, tcp {}.", peer.trusted, peer.tcp))
    });
    let mut stream = connect(&listen).await;
    stream.write_all(REQUEST).await.unwrap();
    read_until(&mut stream, "trusted false, tcp true.").await;
}

#[tokio::test]
async fn the_socket_file_is_gone_when_the_drain_is_over() {
    let (_directory, path, listen) = in_directory();
    let life = Life::new(GRACE);
    start(&life, &listen, BindOptions::default(), ServeLimits::default(), |_, _| Body::empty());
    UnixStream::connect(&path).await.unwrap();
    life.drain();
    life.finish().await;
    assert!(!path.exists());
}

/// Set in the child process of the test below.
const ROLE: &str = "MCP_DAEMON_TEST_ROLE";

#[test]
fn inherited_sockets_are_found_by_name_and_served_once() {
    if std::env::var_os(ROLE).is_some() {
        return serve_inherited();
    }
    let socket = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let address = socket.local_addr().unwrap();
    // The shell puts the socket where systemd would, which std cannot, and keeps its pid when it becomes the child.
    let mut child = std::process::Command::new("sh")
        .args(["-c", "exec 3<&0 4</dev/null 5<&0 0</dev/null; LISTEN_PID=$$ exec \"$@\"", "sh"])
        .arg(std::env::current_exe().unwrap())
        .args(["--exact", "inherited_sockets_are_found_by_name_and_served_once", "--nocapture"])
        .env(ROLE, "inherits")
        .env("LISTEN_FDS", "3")
        .env("LISTEN_FDNAMES", "web:file:web")
        .stdin(std::os::fd::OwnedFd::from(socket))
        .spawn()
        .unwrap();
    use std::io::{Read, Write};
    let mut stream = std::net::TcpStream::connect(address).unwrap();
    stream.set_read_timeout(Some(GRACE)).unwrap();
    stream.write_all(REQUEST).unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    assert!(answer.ends_with("inherited"), "{answer}");
    assert!(child.wait().unwrap().success());
}

fn serve_inherited() {
    let bind = |name: &str| Listener::bind(&name.parse().unwrap(), BindOptions::default());
    let listeners = bind("fd:web").unwrap();
    assert_eq!(listeners.len(), 2);
    assert!(matches!(listeners[0].local(), Listen::Tcp(_)));
    let error = |name| bind(name).unwrap_err().to_string();
    assert_eq!(error("fd:web"), "fd:web: descriptor 3 is in use already");
    assert_eq!(error("fd:file"), "fd:file: the inherited descriptor is not a listening stream socket");
    assert!(error("fd:other").ends_with("inherited are fd:file, fd:web"), "{}", error("fd:other"));
    tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap().block_on(async {
        let life = Life::new(GRACE);
        for listener in listeners {
            let drain = life.clone();
            life.spawn(serve(listener, ServeLimits::default(), life.clone(), move |_, _| {
                drain.drain();
                async { Response::new(Body::from("inherited")) }
            }));
        }
        assert_eq!(life.finish().await, 0);
    });
}

#[test]
fn running_out_of_descriptors_pauses_accepting_and_loses_nobody() {
    const TEST: &str = "running_out_of_descriptors_pauses_accepting_and_loses_nobody";
    use std::io::{BufRead, BufReader, Read, Write};
    if std::env::var_os(ROLE).is_some() {
        return tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap().block_on(async {
            mcp_daemon::log::init("mcp-test");
            let life = Life::new(GRACE);
            let listen = start_tcp(&life, ServeLimits::default(), |_| Body::from("hello"));
            println!("serving on {listen}");
            std::future::pending::<()>().await;
        });
    }
    let mut child = std::process::Command::new("sh")
        .args(["-c", "ulimit -n 40; exec \"$@\"", "sh"])
        .arg(std::env::current_exe().unwrap())
        .args(["--exact", TEST, "--nocapture"])
        .env(ROLE, "starves")
        .stdout(std::process::Stdio::piped())
        .stderr(std::process::Stdio::piped())
        .spawn()
        .unwrap();
    let mut output = BufReader::new(child.stdout.take().unwrap()).lines();
    let address = output
        .find_map(|line| line.unwrap().split_once("serving on ").map(|(_, address)| address.to_owned()))
        .unwrap();
    let mut streams: Vec<_> = (0..60)
        .map(|_| {
            let mut stream = std::net::TcpStream::connect(&address).unwrap();
            stream.set_read_timeout(Some(GRACE)).unwrap();
            stream.write_all(REQUEST).unwrap();
            stream
        })
        .collect();
    // The warning is the fact to wait for: from here on somebody is not accepted.
    let mut log = BufReader::new(child.stderr.take().unwrap()).lines();
    assert!(log.any(|line| line.unwrap().contains("cannot accept connections, trying on")));
    streams.drain(..50);
    for stream in &mut streams {
        let mut start = [0; 15];
        stream.read_exact(&mut start).unwrap();
        assert_eq!(&start, b"HTTP/1.1 200 OK");
    }
    child.kill().unwrap();
    child.wait().unwrap();
}
