//! Too much, from one subject or from one address, and where an address comes from.

use std::time::Duration;

use bytes::Bytes;
use http::{Method, Request};
use serde_json::Value;
use support::Client;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::{Instant, timeout};

use crate::place::{ALICE, BOB, ECHO, Place, altered, error, send};
use crate::wire::{SOON, connect_from, exchange, read_to_end};

const WRONG: &str = "nobody-has-this-token";

#[tokio::test]
async fn a_subject_that_asks_too_often_gets_an_error_that_its_client_survives() {
    let place = Place::new("", "[rate]\nsubject_per_second = 1\nsubject_burst = 4").await;
    // `initialize` and `initialized` count as well.
    let alice = place.client(ALICE).await.unwrap();
    let mut refused = None;
    for _ in 0..5 {
        let answer = send(&alice, Method::POST, &[]).await;
        assert_eq!(answer.status(), 200);
        if answer.headers().contains_key("retry-after") {
            refused = Some(answer);
            break;
        }
    }
    let refused = refused.expect("the fifth request at the latest is one too many");
    let answer: Value = serde_json::from_slice(refused.body()).unwrap();
    assert_eq!(answer["id"], 7, "{answer}");
    assert!(error(&refused)["message"].as_str().unwrap().contains("too many requests"), "{answer}");
    // Nobody waits for the answer to a notification, and an error would be the end of some clients.
    let mut told = altered(&alice, Method::POST, &[]);
    *told.body_mut() =
        Bytes::from(r#"{"jsonrpc":"2.0","method":"notifications/cancelled","params":{"requestId":1}}"#);
    let answer = alice.raw(told).await.unwrap();
    assert_eq!(answer.status(), 202);
    let bob = place.client(BOB).await.unwrap();
    assert!(!send(&bob, Method::POST, &[]).await.headers().contains_key("retry-after"));
    // And in time alice may again.
    let wait = || async { send(&alice, Method::POST, &[]).await.headers().contains_key("retry-after") };
    timeout(SOON, async { while wait().await {} }).await.expect("the limit is a rate");
}

#[tokio::test]
async fn who_asks_too_often_cannot_make_us_read_a_large_body_first() {
    let place = Place::new("", "[rate]\nsubject_per_second = 1\nsubject_burst = 1").await;
    let alice = place.stranger(Some(ALICE));
    send(&alice, Method::POST, &[]).await;
    // Nothing of it is ever sent, and nobody waits for it.
    let head = format!("POST /mcp HTTP/1.1\r\nhost: localhost\r\nauthorization: Bearer {ALICE}\r\n");
    let answer =
        exchange(&place.address(), format!("{head}content-length: 1000000\r\n\r\n").as_bytes()).await;
    assert!(answer.starts_with("HTTP/1.1 429 "), "{answer}");
}

/// A call on a connection of its own that stays open; the first bytes of the answer.
async fn call_and_stay(place: &Place, token: &str) -> (TcpStream, String) {
    let mut line = connect_from(1, &place.address()).await;
    let request = format!(
        "POST /mcp HTTP/1.1\r\nhost: localhost\r\nauthorization: Bearer {token}\r\ncontent-length: {}\r\n\r\n{ECHO}",
        ECHO.len()
    );
    line.write_all(request.as_bytes()).await.unwrap();
    let mut answer = vec![0; 4_096];
    let length = timeout(SOON, line.read(&mut answer)).await.unwrap().unwrap();
    (line, String::from_utf8_lossy(&answer[..length]).into_owned())
}

#[tokio::test]
async fn a_subject_has_a_bound_of_connections_and_none_that_is_known_for_ever() {
    let place = Place::new("", "[limits]\nconnections_per_subject = 2").await;
    let is_refused = |answer: &str| answer.starts_with("HTTP/1.1 200 ") && answer.contains("retry-after: 1");
    let (first, one) = call_and_stay(&place, ALICE).await;
    let (_second, two) = call_and_stay(&place, ALICE).await;
    let (_third, three) = call_and_stay(&place, ALICE).await;
    let (_bob, four) = call_and_stay(&place, BOB).await;
    assert!(!is_refused(&one) && !is_refused(&two) && is_refused(&three) && !is_refused(&four), "{three}");
    place.authd.until_out("too many connections of this subject").await;
    place.authd.until("/status", |status| status["strangers"] == 1).await;
    drop(first);
    let freed = async { while is_refused(&call_and_stay(&place, ALICE).await.1) {} };
    timeout(SOON, freed).await.expect("who leaves makes room");
    // Both of bob's and alice's are known by what is good no longer.
    let (_fifth, five) = call_and_stay(&place, BOB).await;
    assert!(!is_refused(&five));
    let tokens = support::Authd::secret_file(place.authd.directory(), "new", "");
    std::fs::rename(tokens, place.authd.directory().join("tokens.toml")).unwrap();
    place.authd.until("/status", |status| status["strangers"] == 4).await;
}

#[tokio::test]
async fn bodies_have_a_bound_together_and_small_ones_still_find_room() {
    let place = Place::new("", "[limits]\nbody = '64KiB'\nbodies = '64KiB'").await;
    let bob = place.client(BOB).await.unwrap();
    let large = |client: &Client| {
        let mut request = altered(client, Method::POST, &[]);
        *request.body_mut() = Bytes::from(format!("{ECHO}{}", " ".repeat(40 << 10)));
        request
    };
    assert_eq!(bob.raw(large(&bob)).await.unwrap().status(), 200);
    let mut alice = connect_from(1, &place.address()).await;
    let head = format!(
        "POST /mcp HTTP/1.1\r\nhost: localhost\r\nauthorization: Bearer {ALICE}\r\ncontent-length: 50000\r\n\r\n"
    );
    alice.write_all(format!("{head}{}", " ".repeat(40_000)).as_bytes()).await.unwrap();
    place.authd.until("/status", |status| status["body_bytes"] == 40_000).await;
    let refused = bob.raw(large(&bob)).await.unwrap();
    assert_eq!(refused.status(), 503);
    assert!(refused.headers().contains_key("retry-after"));
    assert!(error(&refused)["message"].as_str().unwrap().contains("limits.bodies"));
    assert_eq!(send(&bob, Method::POST, &[]).await.status(), 200);
    drop(alice);
    place.authd.until("/status", |status| status["body_bytes"] == 0).await;
    assert_eq!(bob.raw(large(&bob)).await.unwrap().status(), 200);
}

#[tokio::test]
async fn an_address_that_brings_no_credential_too_often_shuts_out_nobody_who_has_one() {
    let place = Place::new("", "[rate]\naddress_per_second = 1\naddress_burst = 3").await;
    let stranger = place.stranger(None);
    let mut statuses = Vec::new();
    for _ in 0..6 {
        statuses.push(send(&stranger, Method::POST, &[]).await.status().as_u16());
    }
    assert_eq!(statuses[..3], [401; 3]);
    assert!(statuses[3..].contains(&429), "{statuses:?}");
    let health = Request::get("/health").body(Bytes::new()).unwrap();
    assert_eq!(stranger.raw(health).await.unwrap().status(), 429);
    let alice = place.client(ALICE).await.unwrap();
    for _ in 0..20 {
        assert_eq!(send(&alice, Method::POST, &[]).await.status(), 200);
    }
}

#[tokio::test]
async fn a_wrong_credential_waits_ever_longer_while_a_good_one_from_there_is_served_at_once() {
    let place =
        Place::new("", "[wrong]\nfirst_delay = '200ms'\nlongest_delay = '20s'\nheld_per_address = 2").await;
    let took = async |client: Client| {
        let began = Instant::now();
        let status = send(&client, Method::POST, &[]).await.status().as_u16();
        (status, began.elapsed())
    };
    let wrong = || place.stranger(Some(WRONG));
    for least in [200, 400, 800] {
        let (status, time) = took(wrong()).await;
        assert_eq!(status, 401);
        assert!(time >= Duration::from_millis(least), "{time:?} instead of {least} ms");
    }
    // A missing one costs nothing: that is how clients find out what is wanted.
    let (status, time) = took(place.stranger(None)).await;
    assert_eq!(status, 401);
    assert!(time < Duration::from_millis(1_600), "{time:?}");
    let held: Vec<_> = (0..2).map(|_| tokio::spawn(took(wrong()))).collect();
    until_held(&place, 2).await;
    let answer = send(&wrong(), Method::POST, &[]).await;
    assert_eq!(answer.status(), 429);
    assert!(answer.headers().contains_key("retry-after"));
    let began = Instant::now();
    let alice = place.client(ALICE).await.unwrap();
    assert_eq!(alice.call_text("echo", serde_json::json!({"text": "at once"})).await.unwrap(), "at once");
    assert!(held.iter().all(|held| !held.is_finished()), "they wait on: {:?}", began.elapsed());
    // Who goes away is not waited for.
    held.iter().for_each(tokio::task::JoinHandle::abort);
    until_held(&place, 0).await;
}

async fn until_held(place: &Place, held: u64) {
    place.authd.until("/status", |status| status["held"] == held).await;
}

#[tokio::test]
async fn the_address_behind_a_trusted_proxy_counts_and_nobody_else_is_believed() {
    let strict = "[rate]\naddress_per_second = 1\naddress_burst = 1";
    let trusting = Place::new("trusted_proxies = ['127.0.0.0/8']", strict).await;
    let plain = Place::new("", strict).await;
    let status = async |place: &Place, header: &'static str, value: &str| {
        send(&place.stranger(None), Method::POST, &[(header, value)]).await.status().as_u16()
    };
    for (header, one, other) in [
        ("x-forwarded-for", "6.6.6.6, 192.0.2.1", "192.0.2.2"),
        ("forwarded", "for=6.6.6.6, for=192.0.2.3;proto=https", "for=\"[2001:db8::1]:80\""),
    ] {
        assert_eq!(status(&trusting, header, one).await, 401, "{header}");
        assert_eq!(status(&trusting, header, one).await, 429, "{header}");
        assert_eq!(status(&trusting, header, other).await, 401, "{header}");
    }
    assert_eq!(status(&plain, "x-forwarded-for", "192.0.2.1").await, 401);
    assert_eq!(status(&plain, "x-forwarded-for", "192.0.2.2").await, 429, "the peer is what counts");
    let line = trusting.authd.until_out("192.0.2.2").await;
    assert!(line.contains("\"address\":\"192.0.2.2\""), "{line}");
}

#[tokio::test]
async fn a_body_or_a_connection_without_end_is_given_up() {
    let place = Place::new("", "[limits]\nbody = '1KiB'\nbody_timeout = '300ms'\nidle = '1s'").await;
    let alice = place.client(ALICE).await.unwrap();
    let mut large = altered(&alice, Method::POST, &[]);
    *large.body_mut() = Bytes::from(format!("{ECHO}{}", " ".repeat(1_024)));
    assert_eq!(alice.raw(large).await.unwrap().status(), 413);
    let head = format!("POST /mcp HTTP/1.1\r\nhost: localhost\r\nauthorization: Bearer {ALICE}\r\n");
    let late = format!("{head}content-length: 10\r\n\r\n{{");
    let answer = exchange(&place.address(), late.as_bytes()).await;
    assert!(answer.starts_with("HTTP/1.1 408 "), "{answer}");
    let idle = format!("{head}content-length: 1\r\n\r\n{{");
    let answer = exchange(&place.address(), idle.as_bytes()).await;
    assert!(answer.starts_with("HTTP/1.1 400 "), "and the connection was closed: {answer}");
}

#[tokio::test]
async fn hundreds_of_good_clients_that_come_from_one_address_in_the_same_instant_are_all_let_in() {
    let place = Place::new("", "[limits]\nstrangers_per_address = 8").await;
    let mut lines = Vec::new();
    for _ in 0..300 {
        lines.push(connect_from(1, &place.address()).await);
    }
    let request = format!(
        "GET /mcp HTTP/1.1\r\nhost: localhost\r\nauthorization: Bearer {ALICE}\r\nconnection: close\r\n\r\n"
    );
    for line in &mut lines {
        line.write_all(request.as_bytes()).await.unwrap();
    }
    for line in lines {
        // The server has no session for them; that they got so far is the point.
        let answer = read_to_end(line).await;
        assert!(answer.starts_with("HTTP/1.1 400 "), "{answer}");
    }
}
