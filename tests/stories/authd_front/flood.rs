//! Floods: guesses by the thousand, and connections that never say anything. They use up what the machine has.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use serde_json::json;
use support::Client;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::task::JoinSet;
use tokio::time::{Instant, MissedTickBehavior, interval, timeout};

use crate::authority::{Authority, open_session, over_tls, post, says_hello};
use crate::place::{ALICE, ECHO, Place};
use crate::wire::{Dialer, SOON, connect_from};

/// Wrong tokens a second. An unoptimised build, which shares its core with those who guess, is used up by a fifth.
const PER_SECOND: usize = if cfg!(debug_assertions) { 2_000 } else { 10_000 };
/// Wrong tokens in all.
const GUESSES: usize = 5 * PER_SECOND;
const ADDRESSES: u8 = 16;
const PER_ADDRESS: usize = 24;
/// Those of one address that mcp-authd keeps waiting.
const HELD: usize = 8;
/// Connections that begin a head and never end it.
const SLOW: usize = 2_000;
/// Streams that are opened and reset on one connection.
const RESETS: u32 = 500;
/// Pause of such a connection between two bytes.
const SLOWLY: Duration = Duration::from_secs(1);

/// Calls one after the other as long as `go_on` says so, and the time that the slowest of a hundred of them takes.
async fn p99(client: &Client, mut go_on: impl FnMut(usize) -> bool) -> Duration {
    let mut times = Vec::new();
    while go_on(times.len()) {
        let began = Instant::now();
        assert_eq!(client.call_text("echo", json!({"text": "good"})).await.unwrap(), "good");
        times.push(began.elapsed());
    }
    times.sort();
    times[times.len() * 99 / 100]
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn saturate_wrong_tokens_by_the_thousand_do_not_slow_a_good_client() {
    let place = Arc::new(Place::busy("").await);
    let alice = place.client(ALICE).await.unwrap();
    let before = p99(&alice, |done| done < 300).await;
    // As many requests that are answered at once show what the machine has left for anybody.
    let beside = among_guesses(&place, &alice, false).await;
    let during = among_guesses(&place, &alice, true).await;
    println!(
        "p99 {before:?} before, {beside:?} beside requests without a token, {during:?} beside wrong ones"
    );
    // Far below what it takes to wait with those who guess.
    let bound = Duration::from_secs(1).max(before * 20).max(beside * 5);
    assert!(during < bound, "{during:?} instead of {before:?} or {beside:?}");
    // And the next one to come is let in as well.
    place.client(ALICE).await.unwrap();
}

/// The p99 of a good client beside [`GUESSES`] requests of others, with wrong tokens or none.
async fn among_guesses(place: &Place, good: &Client, with_token: bool) -> Duration {
    let left = Arc::new(AtomicUsize::new(GUESSES));
    let (began, mut guessers) = (Instant::now(), JoinSet::new());
    for n in 0..usize::from(ADDRESSES) * PER_ADDRESS {
        let (to, left) = (place.address(), left.clone());
        guessers.spawn(async move { guess(n, with_token, &to, &left).await });
    }
    let during = p99(good, |_| left.load(Ordering::Relaxed) > 0).await;
    println!("{:.0} a second", GUESSES as f64 / began.elapsed().as_secs_f64());
    guessers.shutdown().await;
    during
}

/// Sends wrong tokens on one connection, in step with all the others, and again on another one when it is closed.
async fn guess(n: usize, with_token: bool, to: &str, left: &AtomicUsize) {
    let guessing = u32::from(ADDRESSES) * (PER_ADDRESS - HELD) as u32;
    let every = Duration::from_secs(1) * guessing / PER_SECOND as u32;
    let mut ticks = interval(every);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut answer = [0; 4_096];
    while left.load(Ordering::Relaxed) > 0 {
        let mut stream = connect_from((n % usize::from(ADDRESSES)) as u8 + 1, to).await;
        for m in 0.. {
            ticks.tick().await;
            let token = format!("authorization: Bearer guess-{n}-{m}-by-nobody\r\n");
            let request = format!(
                "POST /mcp HTTP/1.1\r\nhost: localhost\r\n{}content-length: {}\r\n\r\n{ECHO}",
                if with_token { &*token } else { "" },
                ECHO.len()
            );
            if stream.write_all(request.as_bytes()).await.is_err() {
                break;
            }
            // What is held costs its sender the time, not us.
            let read = timeout(Duration::from_millis(100), stream.read(&mut answer)).await;
            let _ =
                left.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |left| Some(left.saturating_sub(1)));
            match read {
                Ok(Ok(read)) if read > 0 => {
                    let text = String::from_utf8_lossy(&answer[..read]);
                    assert!(text.starts_with("HTTP/1.1 401") || text.starts_with("HTTP/1.1 429"), "{text}");
                }
                Ok(_) => break,
                Err(_held) if left.load(Ordering::Relaxed) == 0 => return,
                // This one goes on to wait for its answer, as a patient script would.
                Err(_held) => match timeout(SOON, stream.read(&mut answer)).await {
                    Ok(Ok(read)) if read > 0 => {}
                    _ => break,
                },
            }
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn saturate_thousands_of_connections_that_say_nothing_whole_keep_nobody_out() {
    let place = Arc::new(Place::busy("[limits]\nhead_timeout = '4s'").await);
    let alice = place.client(ALICE).await.unwrap();
    let before = p99(&alice, |done| done < 300).await;
    let (open, stop) = (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicBool::new(false)));
    let mut slow = JoinSet::new();
    for n in 0..SLOW {
        let (to, open, stop) = (place.address(), open.clone(), stop.clone());
        slow.spawn(async move {
            while !stop.load(Ordering::Relaxed) {
                // Half of them from one address, where the oldest make room for the newest.
                let last = if n % 2 == 0 { 1 } else { (n % 50) as u8 + 2 };
                let mut stream = connect_from(last, &to).await;
                open.fetch_add(1, Ordering::Relaxed);
                let mut piece = "GET /mcp HTTP/1.1\r\nx-slow: ";
                loop {
                    let mut byte = [0];
                    let written = stream.write_all(piece.as_bytes()).await.is_ok();
                    // Until it is closed, one more byte now and then.
                    let read = timeout(SLOWLY, stream.read(&mut byte)).await;
                    if !written || read.is_ok() {
                        break;
                    }
                    piece = "a";
                }
                // Slowly is how all of this goes: whoever was closed is back, but not in the same instant.
                tokio::time::sleep(SLOWLY).await;
            }
        });
    }
    timeout(SOON, async {
        while open.load(Ordering::Relaxed) < SLOW {
            tokio::task::yield_now().await;
        }
    })
    .await
    .expect("all of them come in");
    let during = p99(&alice, |done| done < 300).await;
    // New good clients too, also from the crowded address.
    for _ in 0..20 {
        let newcomer = place.client(ALICE).await.unwrap();
        assert_eq!(newcomer.call_text("echo", json!({"text": "new"})).await.unwrap(), "new");
    }
    println!("p99 {before:?} before, {during:?} among {} slow connections", open.load(Ordering::Relaxed));
    // Far below what it takes to wait until the slow ones are closed.
    let bound = Duration::from_secs(2).max(before * 20);
    assert!(during < bound, "{during:?} instead of {before:?}");
    stop.store(true, Ordering::Relaxed);
    timeout(SOON, async { while slow.join_next().await.is_some() {} })
        .await
        .expect("each was closed in time");
    place.authd.until("/status", |status| status["strangers"].as_u64().is_some_and(|left| left < 10)).await;
}

#[tokio::test]
async fn saturate_http_2_streams_that_are_reset_as_soon_as_they_are_open_keep_nobody_out() {
    let authority = Authority::new("ours");
    let place = over_tls(&authority, "", "").await;
    let dialer = Dialer::new(&authority.pem, None, &["h2"]);
    let mut good = dialer.talk(&place.authd, "localhost").await.unwrap();
    let session = open_session(&mut good, Some(ALICE)).await;
    let opening = frame(1, 0x05, 1, b"\x82\x87\x84\x41\x09localhost");
    let mut attack = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n".to_vec();
    attack.extend(frame(4, 0, 0, b""));
    for stream in 0..RESETS {
        attack.extend(with_stream(opening.clone(), 2 * stream + 1));
        attack.extend(with_stream(frame(3, 0, 1, &[0, 0, 0, 8]), 2 * stream + 1));
    }
    for _ in 0..10 {
        let mut stream = dialer.connect(&place.authd, "localhost").await.unwrap();
        // It may be closed before all of it is written.
        let _ = stream.write_all(&attack).await;
        let mut said = Vec::new();
        let _ = timeout(SOON, stream.read_to_end(&mut said)).await.expect("the connection is ended");
        // GOAWAY, and the error code ENHANCE_YOUR_CALM as the last four of its eight bytes.
        let calm = said.windows(17).any(|frame| frame[3] == 7 && frame[13..] == [0, 0, 0, 11]);
        assert!(calm, "{said:?}");
        let answer = good.send(post("localhost", Some(ALICE), &session, ECHO)).await.unwrap();
        assert!(says_hello(&answer), "{answer:?}");
    }
}

/// A frame of HTTP/2 (RFC 9113, 4.1).
fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    let mut frame = (payload.len() as u32).to_be_bytes()[1..].to_vec();
    frame.extend([kind, flags]);
    frame.extend(stream.to_be_bytes());
    frame.extend(payload);
    frame
}

fn with_stream(mut frame: Vec<u8>, stream: u32) -> Vec<u8> {
    frame[5..9].copy_from_slice(&stream.to_be_bytes());
    frame
}
