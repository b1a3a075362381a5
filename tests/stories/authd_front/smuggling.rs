//! Requests that two readers might read differently: whatever we make of one, no second request comes out of it.

use support::Client;

use crate::place::{ALICE, Place};
use crate::wire::exchange;

/// So that a request that never ends does, soon.
const SHORT: &str = "[limits]\nhead_timeout = '1s'\nbody_timeout = '1s'\nhead = '16KiB'";

/// The lines that make a POST of `client` an honest one but for its framing.
fn lines(client: &Client) -> String {
    let session = client.session_id().unwrap();
    format!(
        "host: localhost\r\nauthorization: Bearer {ALICE}\r\nmcp-session-id: {session}\r\nmcp-protocol-version: 2025-11-25\r\naccept: application/json, text/event-stream\r\ncontent-type: application/json\r\n"
    )
}

/// A whole honest request that would be noticed if it ran.
fn hidden(client: &Client) -> String {
    let body = r#"{"jsonrpc":"2.0","id":9,"method":"tools/call","params":{"name":"count","arguments":{}}}"#;
    format!("POST /mcp HTTP/1.1\r\n{}content-length: {}\r\n\r\n{body}", lines(client), body.len())
}

fn statuses(answer: &str) -> Vec<&str> {
    answer.split("HTTP/1.1 ").skip(1).filter_map(|answer| answer.get(..3)).collect()
}

#[tokio::test]
async fn a_body_that_could_end_in_two_places_hides_no_request() {
    let place = Place::new("", SHORT).await;
    let client = place.client(ALICE).await.unwrap();
    let (hidden, lines) = (hidden(&client), lines(&client));
    let covered = hidden.len() + 5;
    let chunked = "transfer-encoding: chunked\r\n";
    for (case, framing, expected) in [
        ("TE after CL", format!("content-length: {covered}\r\n{chunked}"), "400"),
        ("CL after TE", format!("{chunked}content-length: {covered}\r\n"), "400"),
        ("two lengths", format!("content-length: 5\r\ncontent-length: {covered}\r\n"), "400"),
        ("a list of lengths", format!("content-length: 5, {covered}\r\n"), "400"),
        ("a signed length", "content-length: +5\r\n".to_owned(), "400"),
        ("a length in hex", "content-length: 0x5\r\n".to_owned(), "400"),
        ("a length that is huge", "content-length: 99999999999999999999\r\n".to_owned(), "400"),
        ("an unknown coding", "transfer-encoding: xchunked\r\n".to_owned(), "400"),
        ("chunked not last", "transfer-encoding: chunked, identity\r\n".to_owned(), "400"),
        (
            "a space before the colon",
            format!("content-length: {covered}\r\ntransfer-encoding : chunked\r\n"),
            "400",
        ),
        ("a folded line", "transfer-encoding:\r\n chunked\r\n".to_owned(), "400"),
        ("a NUL", format!("x-nul: a\0b\r\n{chunked}"), "400"),
        ("a lone CR", format!("x-cr: a\rb\r\n{chunked}"), "400"),
    ] {
        let attack = format!("POST /mcp HTTP/1.1\r\n{lines}{framing}\r\n0\r\n\r\n{hidden}{hidden}");
        let answer = exchange(&place.address(), attack.as_bytes()).await;
        assert_eq!(statuses(&answer), [expected], "{case}: {answer}");
        assert_eq!(place.server.executed("count"), 0, "{case}");
    }
    // A chunk whose size two readers could read differently: the body is broken, and what follows is no request.
    for size in ["-1", "0x5", "5 5", "ffffffffffffffff5", "5\n", "\r\n"] {
        let attack =
            format!("POST /mcp HTTP/1.1\r\n{lines}{chunked}\r\n{size}\r\nabcde\r\n0\r\n\r\n{hidden}");
        let answer = exchange(&place.address(), attack.as_bytes()).await;
        assert!(statuses(&answer).iter().all(|status| *status == "400"), "{size:?}: {answer}");
        assert_eq!(place.server.executed("count"), 0, "{size:?}");
    }
    assert_eq!(client.call_text("count", serde_json::json!({})).await.unwrap(), "1");
}

#[tokio::test]
async fn a_bare_line_feed_hides_neither_a_header_nor_a_request() {
    let place = Place::new("", SHORT).await;
    let client = place.client(ALICE).await.unwrap();
    let (hidden, lines) = (hidden(&client), lines(&client));
    place.server.clear();
    let covered = hidden.len() + 5;
    for head in [
        format!("{lines}x-a: b\ntransfer-encoding: chunked\r\ncontent-length: {covered}\r\n"),
        format!("{lines}content-length: {covered}\ntransfer-encoding: chunked\r\n"),
        format!("{lines}x-a: b\nmcp-auth-subject: root\r\ncontent-length: 0\r\n"),
    ] {
        let attack = format!("POST /mcp HTTP/1.1\r\n{head}\r\n0\r\n\r\n{hidden}");
        let answer = exchange(&place.address(), attack.as_bytes()).await;
        assert!(statuses(&answer).iter().all(|status| *status == "400"), "{answer}");
    }
    assert_eq!(place.server.executed("count"), 0);
    let subjects = place.server.requests();
    assert!(
        subjects.iter().all(|request| request.headers.get("mcp-auth-subject").is_none_or(|it| it != "root"))
    );
}

#[tokio::test]
async fn what_may_come_once_is_refused_when_it_comes_twice() {
    let place = Place::new("", SHORT).await;
    let client = place.client(ALICE).await.unwrap();
    let (hidden, lines) = (hidden(&client), lines(&client));
    let body = hidden.split_once("\r\n\r\n").unwrap().1;
    let length = body.len();
    for (case, target, extra, expected) in [
        ("two hosts", "/mcp", "host: localhost\r\n".to_owned(), "400"),
        ("another host in the request line", "http://evil.example/mcp", String::new(), "400"),
        ("two sessions", "/mcp", "mcp-session-id: other\r\n".to_owned(), "400"),
        ("two credentials", "/mcp", format!("authorization: Bearer {ALICE}\r\n"), "401"),
        ("a head too large", "/mcp", format!("x-large: {}\r\n", "a".repeat(20_000)), "431"),
    ] {
        let attack = format!(
            "POST {target} HTTP/1.1\r\n{lines}{extra}connection: close\r\ncontent-length: {length}\r\n\r\n{body}"
        );
        let answer = exchange(&place.address(), attack.as_bytes()).await;
        assert_eq!(statuses(&answer), [expected], "{case}: {answer}");
        assert_eq!(place.server.executed("count"), 0, "{case}");
    }
    for nonsense in
        ["\r\n\r\n\r\n", "GET /mcp\r\n\r\n", "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", "\x16\x03\x01\x02\x00"]
    {
        let answer = exchange(&place.address(), nonsense.as_bytes()).await;
        assert!(statuses(&answer).iter().all(|status| *status == "400"), "{nonsense:?}: {answer}");
    }
}

#[tokio::test]
async fn honest_requests_one_after_the_other_in_one_packet_are_all_served() {
    let place = Place::new("", SHORT).await;
    let client = place.client(ALICE).await.unwrap();
    let one = hidden(&client);
    let last = one.replacen("host: localhost", "host: localhost\r\nconnection: close", 1);
    let answer = exchange(&place.address(), format!("{one}{one}{last}").as_bytes()).await;
    assert_eq!(statuses(&answer), ["200"; 3], "{answer}");
    assert_eq!(place.server.executed("count"), 3);
}
