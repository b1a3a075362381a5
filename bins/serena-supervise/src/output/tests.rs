use std::io;
use std::sync::atomic::{AtomicUsize, Ordering};

use tokio::io::{AsyncWriteExt, duplex};

use super::*;

fn output() -> Arc<Output> {
    Output::on("name", Box::leak(Box::new(Printer::to(Box::new(io::sink())))))
}

fn text(followed: &Followed) -> &str {
    match followed {
        Followed::Line(line) => &line.text,
        Followed::Lost(_) => panic!("{followed:?}"),
    }
}

#[tokio::test]
async fn lines_are_kept_in_order_and_the_last_one_needs_no_end() {
    let output = output();
    output.clone().pump(&b"one\ntwo\r\n\nfour"[..], "stdout").await;
    assert_eq!(output.last(3), ["two", "", "four"]);
    assert_eq!(output.since(1), (4, vec!["two".to_owned(), String::new(), "four".to_owned()]));
    assert_eq!(output.since(4), (4, vec![]));
    assert_eq!(output.since(9), (4, vec![]));
}

#[tokio::test]
async fn a_pump_ends_when_told_though_the_pipe_stays_open_and_keeps_what_it_read() {
    let output = output();
    let (mut child, ours) = duplex(64);
    child.write_all(b"whole\nhalf").await.unwrap();
    let mut follower = output.follow(0);
    tokio::select! {
        () = output.clone().pump(ours, "stderr") => panic!("the pipe is still open"),
        first = follower.next() => assert_eq!(text(&first), "whole"),
    }
    assert_eq!(output.last(9), ["whole", "half"]);
    assert!(child.write_all(b"x").await.is_err(), "nobody reads any more");
}

#[tokio::test]
async fn a_line_of_10_mb_keeps_16_kib() {
    let output = output();
    let (mut child, ours) = duplex(64 * 1024);
    let writing = async {
        for _ in 0..10 * 16 {
            child.write_all(&[b'x'; 64 * 1024]).await.unwrap();
        }
        child.write_all(b"\nnext\n").await.unwrap();
        drop(child);
    };
    tokio::join!(writing, output.clone().pump(ours, "stdout"));
    let lines = output.last(9);
    assert_eq!((lines.len(), lines[1].as_str()), (2, "next"));
    assert_eq!(lines[0].len(), lines::LONGEST + lines::MARK.len());
}

#[tokio::test]
async fn who_follows_gets_old_lines_and_new_ones_and_is_told_of_those_that_are_gone() {
    let output = output();
    output.clone().pump(&b"1\n2\n3\n"[..], "stdout").await;
    let mut follower = output.follow(2);
    assert_eq!(text(&follower.next().await), "2");
    let flood = "x\n".repeat(2 * ring::LINES);
    output.clone().pump(flood.as_bytes(), "stdout").await;
    // Lines 3 to 403 were to come, and the ring holds 200 of them.
    assert_eq!(follower.next().await, Followed::Lost(201));
    for _ in 0..ring::LINES {
        assert_eq!(text(&follower.next().await), "x");
    }
    let (found, ()) = tokio::join!(follower.next(), output.clone().pump(&b"new"[..], "stderr"));
    assert_eq!(found, Followed::Line(Line { stream: "stderr", text: "new".into() }));
}

#[tokio::test]
async fn a_line_is_found_before_and_after_one_looks_for_it_and_hooks_hear_all() {
    let output = output();
    let heard = Arc::new(AtomicUsize::new(0));
    let count = Arc::clone(&heard);
    output.on_line(Box::new(move |line| {
        count.fetch_add(line.len(), Ordering::Relaxed);
    }));
    let port = |line: &str| line.strip_prefix("port ")?.parse::<u16>().ok();
    output.clone().pump(&b"port 1\nport x\n"[..], "stderr").await;
    assert_eq!(output.watch_for(9, port).await, 1);
    let (found, ()) =
        tokio::join!(output.watch_for(0, port), output.clone().pump(&b"port 2\n"[..], "stderr"));
    assert_eq!(found, 2);
    assert_eq!(heard.load(Ordering::Relaxed), 18);
}
