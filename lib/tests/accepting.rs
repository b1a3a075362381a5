//! Accepting on real sockets for what is not HTTP: places, what is needed besides a descriptor, and the end.
#![allow(clippy::unwrap_used, reason = "a test may panic")]

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use mcp_daemon::accept::{Peer, accept_loop};
use mcp_daemon::addr::Listen;
use mcp_daemon::life::Life;
use mcp_daemon::listener::{BindOptions, Listener};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpStream, UnixStream};
use tokio::sync::mpsc;

fn bind(listen: &str) -> Listener {
    Listener::bind(&listen.parse().unwrap(), BindOptions::default()).unwrap().remove(0)
}

fn address(listener: &Listener) -> std::net::SocketAddr {
    let Listen::Tcp(address) = listener.local() else { panic!("not TCP") };
    address
}

#[tokio::test]
async fn a_raw_connection_is_handed_over_with_what_was_admitted_for_it() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("x.sock");
    let listener = bind(&format!("unix:{}", path.display()));
    let life = Life::new(Duration::from_secs(10));
    let (told, mut accepted) = mpsc::unbounded_channel();
    let until = life.clone();
    life.spawn(async move {
        let mut number = 0;
        let admit = || {
            number += 1;
            Ok(number)
        };
        let handle = |stream, peer, place, number| told.send((stream, peer, place, number)).unwrap();
        accept_loop(listener, 9, &until, admit, handle).await;
    });
    for expected in 1..=2 {
        let mut client = UnixStream::connect(&path).await.unwrap();
        let (mut stream, peer, _place, number) = accepted.recv().await.unwrap();
        assert_eq!((peer, number), (Peer { trusted: false, tcp: false, address: None }, expected));
        client.write_all(b"question").await.unwrap();
        stream.read_exact(&mut [0; 8]).await.unwrap();
        stream.write_all(b"answer").await.unwrap();
        stream.shutdown().await.unwrap();
        let mut answer = String::new();
        client.read_to_string(&mut answer).await.unwrap();
        assert_eq!(answer, "answer");
    }
    life.drain();
    assert_eq!(life.finish().await, 0);
    assert!(!path.exists());
}

#[tokio::test(start_paused = true)]
async fn a_connection_waits_in_the_kernel_while_what_it_needs_is_not_there() {
    const EMFILE: i32 = 24;
    let listener = bind("127.0.0.1:0");
    let address = address(&listener);
    let life = Life::new(Duration::from_secs(10));
    let (told, mut accepted) = mpsc::unbounded_channel();
    let (until, attempts) = (life.clone(), Arc::new(AtomicUsize::new(0)));
    let counted = Arc::clone(&attempts);
    life.spawn(async move {
        let admit = || match counted.fetch_add(1, Ordering::Relaxed) {
            0..5 => Err(io::Error::from_raw_os_error(EMFILE)),
            _ => Ok(()),
        };
        accept_loop(listener, 9, &until, admit, |stream, _, _, ()| told.send(stream).unwrap()).await;
    });
    let _client = TcpStream::connect(address).await.unwrap();
    let began = tokio::time::Instant::now();
    accepted.recv().await.unwrap();
    // One pause for each failure, and none of them longer.
    assert_eq!((began.elapsed().as_millis() / 100, attempts.load(Ordering::Relaxed) >= 6), (5, true));
}

#[tokio::test]
async fn one_more_than_there_are_places_is_accepted_when_one_is_free() {
    let listener = bind("127.0.0.1:0");
    let address = address(&listener);
    let life = Life::new(Duration::from_secs(10));
    let (told, mut accepted) = mpsc::unbounded_channel();
    let until = life.clone();
    life.spawn(async move {
        let handle = |stream, _, place, ()| told.send((stream, place)).unwrap();
        accept_loop(listener, 1, &until, || Ok(()), handle).await;
    });
    let _first = TcpStream::connect(address).await.unwrap();
    let (stream, place) = accepted.recv().await.unwrap();
    let mut second = TcpStream::connect(address).await.unwrap();
    second.write_all(b"x").await.unwrap();
    for _ in 0..100 {
        tokio::task::yield_now().await;
    }
    assert!(accepted.try_recv().is_err());
    drop((stream, place));
    let (mut stream, _place) = accepted.recv().await.unwrap();
    assert_eq!(stream.read_u8().await.unwrap(), b'x');
}
