//! Manners: who is let in, what goes upstream and what does not, and what a client gets to see.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::path::Path;

use bytes::Bytes;
use http::{HeaderMap, HeaderName, HeaderValue, Method, Request, Response};
use serde_json::{Value, json};
use support::{Client, Flavour, Mishap, Server, Sessiond};

const BINARY: &str = env!("CARGO_BIN_EXE_mcp-sessiond");
const ECHO: &str =
    r#"{"jsonrpc":"2.0","id":1,"method":"tools/call","params":{"name":"echo","arguments":{"text":"hello"}}}"#;

async fn in_front_of(server: &Server, settings: &str) -> Sessiond {
    let settings = format!("upstream = '{}'\n{settings}\n", server.url());
    Sessiond::start_set(BINARY, |_| settings, &[]).await
}

/// A POST of [`ECHO`] with these headers over those that the client sends; an empty value removes one.
fn altered(client: &Client, headers: &[(&'static str, &str)]) -> Request<Bytes> {
    let mut request = client.prepared(Method::POST, Bytes::from(ECHO));
    for (name, value) in headers {
        match *value {
            "" => drop(request.headers_mut().remove(*name)),
            value => drop(request.headers_mut().insert(*name, value.parse().unwrap())),
        }
    }
    request
}

async fn send(client: &Client, headers: &[(&'static str, &str)]) -> Response<Bytes> {
    client.raw(altered(client, headers)).await.unwrap()
}

fn error(answer: &Response<Bytes>) -> Value {
    serde_json::from_slice::<Value>(answer.body()).expect("a JSON-RPC error")["error"].take()
}

#[tokio::test]
async fn a_foreign_host_or_origin_is_refused_over_tcp_before_anything_else() {
    let server = Server::start(Flavour::Python2).await;
    let sessiond = in_front_of(&server, "").await;
    let client = Client::connect(&sessiond.url()).await.unwrap();
    server.clear();
    for host in [
        "evil.example",
        "localhost.evil.example",
        "127.0.0.1.evil.example:80",
        "evil.example:9121",
        "0.0.0.0",
        "[::2]",
        "[::1].evil",
    ] {
        let answer = send(&client, &[("host", host)]).await;
        assert_eq!(answer.status(), 421, "{host}");
        assert!(error(&answer)["message"].as_str().unwrap().contains("allowed_hosts"), "{host}");
    }
    for origin in [
        "https://evil.example",
        "http://localhost.evil.example",
        "null",
        "http://127.0.0.1@evil.example",
        "file://",
        "localhost",
    ] {
        let answer = send(&client, &[("origin", origin)]).await;
        assert_eq!(answer.status(), 403, "{origin}");
        assert!(error(&answer)["message"].as_str().unwrap().contains("allowed_origins"), "{origin}");
    }
    for method in [Method::GET, Method::DELETE, Method::OPTIONS] {
        let mut request = client.prepared(method.clone(), Bytes::new());
        request.headers_mut().insert("origin", HeaderValue::from_static("https://evil.example"));
        let answer = client.raw(request).await.unwrap();
        assert_eq!(answer.status(), 403, "{method}");
        assert!(!answer.headers().contains_key("access-control-allow-origin"), "{method}");
    }
    assert_eq!(server.requests().len(), 0, "{:?}", server.requests());
    for (name, value) in [
        ("host", "localhost"),
        ("host", "[::1]:1"),
        ("origin", "http://localhost:3000"),
        ("origin", "http://[::1]"),
    ] {
        assert_eq!(send(&client, &[(name, value)]).await.status(), 200, "{name}: {value}");
    }
}

#[tokio::test]
async fn two_hosts_or_two_origins_do_not_hide_the_foreign_one() {
    let server = Server::start(Flavour::Python2).await;
    let sessiond = in_front_of(&server, "").await;
    let client = Client::connect(&sessiond.url()).await.unwrap();
    server.clear();
    for (name, good, bad) in
        [("origin", "http://localhost", "https://evil.example"), ("host", "localhost", "evil.example")]
    {
        for pair in [[good, bad], [bad, good]] {
            let mut request = client.prepared(Method::POST, Bytes::from(ECHO));
            for value in pair {
                request.headers_mut().append(name, value.parse().unwrap());
            }
            let answer = client.raw(request).await.unwrap();
            assert!(answer.status().is_client_error(), "{name} {pair:?}: {answer:?}");
        }
    }
    assert_eq!(server.requests().len(), 0);
}

#[tokio::test]
async fn hosts_and_origins_that_the_operator_named_pass() {
    let server = Server::start(Flavour::Python2).await;
    let settings =
        "allowed_hosts = ['serena.example', '10.0.0.1:9121']\nallowed_origins = ['https://ide.example']";
    let sessiond = in_front_of(&server, settings).await;
    let client = Client::connect(&sessiond.url()).await.unwrap();
    for (name, value, status) in [
        ("host", "serena.example", 200),
        ("host", "serena.example:443", 200),
        ("host", "10.0.0.1:9121", 200),
        ("host", "10.0.0.1:9122", 421),
        ("origin", "https://ide.example", 200),
        ("origin", "http://ide.example", 403),
        ("origin", "https://ide.example.evil", 403),
    ] {
        assert_eq!(send(&client, &[(name, value)]).await.status(), status, "{name}: {value}");
    }
    let open = in_front_of(&server, "allowed_origins = ['*']").await;
    let client = Client::connect(&open.url()).await.unwrap();
    assert_eq!(send(&client, &[("origin", "https://anything.example")]).await.status(), 200);
}

#[tokio::test]
async fn a_unix_socket_asks_for_neither_because_no_browser_gets_there() {
    let server = Server::start(Flavour::Python2).await;
    let settings = |directory: &Path| {
        let socket = directory.join("x.sock");
        format!("upstream = '{}'\n[[listener]]\naddress = 'unix:{}'\n", server.url(), socket.display())
    };
    let sessiond = Sessiond::start_set(BINARY, settings, &[]).await;
    let client = Client::connect(&sessiond.url_of(1)).await.unwrap();
    let answer = send(&client, &[("host", "serena"), ("origin", "https://evil.example")]).await;
    assert_eq!(answer.status(), 200, "{answer:?}");
}

#[tokio::test]
async fn a_missing_or_narrow_accept_is_made_one_that_every_server_takes() {
    let server = Server::start(Flavour::Python2).await;
    let sessiond = in_front_of(&server, "").await;
    for accept in ["", "*/*", "application/json", "text/event-stream", "application/*, text/*", "text/html"] {
        let client = Client::builder(&sessiond.url()).unconnected();
        let body = r#"{"jsonrpc":"2.0","id":0,"method":"initialize","params":{"protocolVersion":"2025-11-25","capabilities":{},"clientInfo":{"name":"narrow","version":"1"}}}"#;
        let mut request = altered(&client, &[("accept", accept)]);
        *request.body_mut() = Bytes::from(body);
        let answer = client.raw(request).await.unwrap();
        assert_eq!(answer.status(), 200, "{accept}");
        let id = answer.headers()["mcp-session-id"].to_str().unwrap().to_owned();
        let client = Client::builder(&sessiond.url()).session(&id).unconnected();
        let mut told = altered(&client, &[("accept", accept)]);
        *told.body_mut() = Bytes::from(r#"{"jsonrpc":"2.0","method":"notifications/initialized"}"#);
        assert_eq!(client.raw(told).await.unwrap().status(), 202, "{accept}");
        let answer = send(&client, &[("accept", accept)]).await;
        assert_eq!(answer.status(), 200, "{accept}");
        assert!(String::from_utf8_lossy(answer.body()).contains("hello"), "{accept}: {answer:?}");
    }
}

#[tokio::test]
async fn a_client_that_takes_only_json_gets_json_even_from_a_server_that_streams() {
    for flavour in [Flavour::Python2, Flavour::TypeScript, Flavour::Rmcp] {
        let server = Server::start(flavour).await;
        let sessiond = in_front_of(&server, "").await;
        let client =
            Client::builder(&sessiond.url()).header("accept", "application/json").connect().await.unwrap();
        let kind = || client.last_headers()["content-type"].to_str().unwrap().to_owned();
        assert_eq!(client.call_text("echo", json!({"text": "plain"})).await.unwrap(), "plain");
        assert_eq!(kind(), "application/json", "{flavour}");
        assert_eq!(client.call_text("progress", json!({"n": 3})).await.unwrap(), "3 steps");
        assert_eq!(kind(), "application/json", "{flavour}");
        server.forget_sessions();
        assert_eq!(client.call_text("echo", json!({"text": "healed"})).await.unwrap(), "healed");
        assert_eq!(kind(), "application/json", "{flavour}");
        assert_eq!(
            client.call("no such tool", json!({})).await.unwrap_err().code(),
            Some(-32602),
            "{flavour}"
        );
        assert_eq!(kind(), "application/json", "{flavour}");
    }
}

#[tokio::test]
async fn the_answer_to_initialize_too_is_json_for_a_client_that_takes_nothing_else() {
    let server = Server::start(Flavour::Python2).await;
    let sessiond = in_front_of(&server, "").await;
    let client = Client::builder(&sessiond.url()).header("accept", "application/json").unconnected();
    let params = json!({"protocolVersion": "2025-11-25", "capabilities": {}, "clientInfo": {"name": "plain", "version": "1"}});
    client.request("initialize", params).await.unwrap();
    assert_eq!(client.last_headers()["content-type"], "application/json");
}

#[tokio::test]
async fn what_belongs_to_a_connection_or_to_us_does_not_go_upstream() {
    let server = Server::start(Flavour::Python2).await;
    let sessiond = in_front_of(&server, "").await;
    let client = Client::connect(&sessiond.url()).await.unwrap();
    let ours = client.session_id().unwrap();
    server.clear();
    let dropped = [
        ("origin", "http://localhost:3000"),
        ("te", "trailers"),
        ("proxy-authorization", "Basic c2VjcmV0"),
        ("keep-alive", "timeout=5"),
        ("mcp-auth-subject", "root"),
        ("mcp-route", "one"),
        ("x-hop", "1"),
    ];
    let kept = [
        ("x-custom", "kept"),
        ("authorization", "Bearer mine"),
        ("user-agent", "test/1"),
        ("traceparent", "00-1-2-03"),
    ];
    let headers =
        [&dropped[..], &kept[..], &[("connection", "keep-alive, x-hop"), ("upgrade", "h2c")]].concat();
    assert_eq!(send(&client, &headers).await.status(), 200);
    let seen = server.requests().pop().unwrap().headers;
    for (name, _) in dropped.iter().chain(&[("upgrade", ""), ("connection", "")]) {
        assert!(!seen.contains_key(*name), "{name}: {seen:?}");
    }
    for (name, value) in kept {
        assert_eq!(seen[name], value, "{name}");
    }
    assert_eq!(seen["host"], format!("127.0.0.1:{}", server.port()).as_str());
    assert_eq!(seen["mcp-session-id"], server.session_ids()[0].as_str());
    assert!(seen.values().all(|value| value != ours.as_str()), "our own id stays here");
    assert_eq!(seen.get_all("host").iter().count(), 1);
}

#[tokio::test]
async fn a_get_stream_takes_the_same_care() {
    let server = Server::start(Flavour::Python2).await;
    let sessiond = in_front_of(&server, "").await;
    let client =
        Client::builder(&sessiond.url()).header("authorization", "Bearer mine").header("x-custom", "kept");
    let client = client.connect().await.unwrap();
    let _events = client.open_get_after(Some("not-ours")).await.unwrap();
    server.until(|server| server.streams() == 1).await;
    let seen = server.requests().pop().unwrap();
    assert_eq!(
        (&seen.http_method, &seen.headers["authorization"]),
        (&Method::GET, &HeaderValue::from_static("Bearer mine"))
    );
    assert!(!seen.headers.contains_key("last-event-id"), "an id of ours means nothing upstream");
    assert_eq!(seen.headers["accept"], "text/event-stream");
    assert_eq!(client.last_headers()["x-accel-buffering"], "no");
    assert_eq!(client.last_headers()["content-type"], "text/event-stream");
}

#[tokio::test]
async fn the_credential_of_the_newest_request_is_used_to_heal() {
    let server = Server::start(Flavour::Python2).await;
    let sessiond = in_front_of(&server, "").await;
    let client =
        Client::builder(&sessiond.url()).header("authorization", "Bearer old").connect().await.unwrap();
    server.stop().await;
    server.start_again().await;
    server.clear();
    let renewed = Client::builder(&sessiond.url())
        .header("authorization", "Bearer new")
        .session(&client.session_id().unwrap());
    renewed.unconnected().call("echo", json!({})).await.unwrap();
    let credentials: Vec<_> =
        server.requests().into_iter().map(|request| request.headers["authorization"].clone()).collect();
    assert!(credentials.len() >= 3 && credentials.iter().all(|it| it == "Bearer new"), "{credentials:?}");
}

#[tokio::test]
async fn the_operators_token_and_headers_go_with_every_request_upstream() {
    let server = Server::start(Flavour::Python2).await;
    let token = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(token.path(), "s3cret\n").unwrap();
    let file = token.path().to_str().unwrap();
    let args = [
        "--upstream",
        &server.url(),
        "--token-file",
        file,
        "--header",
        "X-Added: yes",
        "--header",
        "x-Two:2",
    ];
    let sessiond = Sessiond::start(BINARY, &args).await;
    let client =
        Client::builder(&sessiond.url()).header("authorization", "Bearer mine").header("x-added", "no");
    let client = client.connect().await.unwrap();
    let _events = client.open_get().await.unwrap();
    server.until(|server| server.streams() == 1).await;
    server.forget_sessions();
    client.call("echo", json!({})).await.unwrap();
    client.delete().await.unwrap();
    server.until(|server| server.deletes() == 1).await;
    let requests = server.requests();
    assert!(requests.len() > 6);
    for request in requests {
        let values = |name: &str| request.headers.get_all(name).iter().cloned().collect::<Vec<_>>();
        assert_eq!(values("authorization"), ["Bearer s3cret"], "{request:?}");
        assert_eq!(
            (values("x-added"), values("x-two")),
            (vec!["yes".parse().unwrap()], vec!["2".parse().unwrap()]),
            "{request:?}"
        );
    }
    let log = sessiond.log().join("\n");
    assert!(!log.contains("s3cret") && !log.contains("Bearer"), "no credential is logged");
}

#[tokio::test]
async fn a_host_that_the_operator_sets_is_the_one_the_upstream_gets() {
    let server =
        Server::builder(Flavour::Python2).set(|switches| switches.strict_host = false).start().await.unwrap();
    let sessiond =
        Sessiond::start(BINARY, &["--upstream", &server.url(), "--header", "Host: serena.example"]).await;
    Client::connect(&sessiond.url()).await.unwrap();
    assert!(
        server.requests().iter().all(|request| request.headers["host"] == "serena.example"),
        "{:?}",
        server.requests()
    );
}

#[tokio::test]
async fn over_a_unix_socket_the_upstream_sees_a_host_that_it_allows() {
    let directory = tempfile::tempdir().unwrap();
    let server =
        Server::builder(Flavour::Python2).unix(directory.path().join("x.sock")).start().await.unwrap();
    let sessiond = in_front_of(&server, "").await;
    Client::connect(&sessiond.url()).await.unwrap().call("echo", json!({})).await.unwrap();
    assert!(server.requests().iter().all(|request| request.headers["host"] == "127.0.0.1:9121"));
}

#[tokio::test]
async fn no_upstream_session_id_ever_reaches_a_client() {
    for flavour in Flavour::answering() {
        let server = Server::start(flavour).await;
        let sessiond = in_front_of(&server, "").await;
        // Strict: it fails on a session id anywhere but on the answer to initialize.
        let client = Client::connect(&sessiond.url()).await.unwrap();
        let mut upstream = server.session_ids();
        let held = client.session_id().unwrap();
        client.call("echo", json!({})).await.unwrap();
        client.call("progress", json!({})).await.unwrap();
        client.request("no/such", json!({})).await.unwrap_err();
        client.notify("notifications/roots/list_changed", json!({})).await.unwrap();
        let _events = client.open_get().await.unwrap();
        server.forget_sessions();
        client.call("echo", json!({})).await.unwrap();
        upstream.extend(server.session_ids());
        for status in [400, 401, 403, 404, 405, 406, 413, 429, 500] {
            let body = r#"{"jsonrpc":"2.0","id":null,"error":{"code":-32050,"message":"odd"}}"#;
            server.next(1, Mishap::answer(status, "application/json", body).on("tools/call"));
            let _ = client.call("echo", json!({})).await;
        }
        client.delete().await.unwrap();
        assert!(!upstream.contains(&held), "{flavour}");
    }
}

#[tokio::test]
async fn a_throw_away_id_on_a_refusal_is_kept_from_the_client() {
    for flavour in [Flavour::Python1_12, Flavour::Python1_30, Flavour::Python2] {
        let server = Server::builder(flavour).set(|switches| switches.modern = false).start().await.unwrap();
        let sessiond = in_front_of(&server, "").await;
        let client =
            Client::builder(&sessiond.url()).header("mcp-protocol-version", "2026-07-28").unconnected();
        let body = r#"{"jsonrpc":"2.0","id":1,"method":"server/discover","params":{"_meta":{"io.modelcontextprotocol/protocolVersion":"2026-07-28"}}}"#;
        let answer = client.raw(client.prepared(Method::POST, Bytes::from(body))).await.unwrap();
        assert_eq!(answer.status(), 400, "{flavour}: a legacy server refuses the modern era");
        assert!(!answer.headers().contains_key("mcp-session-id"), "{flavour}: {:?}", answer.headers());
        // An initialize that is refused gives no id either.
        server.next(1, Mishap::answer(400, "application/json", "{}").on("initialize"));
        assert!(Client::connect(&sessiond.url()).await.is_err());
        assert_eq!(sessiond.control("GET", "/sessions").await.1, json!([]), "{flavour}");
    }
}

#[tokio::test]
async fn an_answers_own_headers_pass_but_for_those_of_the_connection() {
    let server = Server::start(Flavour::Python2).await;
    let sessiond = in_front_of(&server, "").await;
    let client = Client::connect(&sessiond.url()).await.unwrap();
    let answer = send(&client, &[]).await;
    let names = |headers: &HeaderMap| {
        headers.keys().map(HeaderName::to_string).collect::<std::collections::BTreeSet<_>>()
    };
    let stream = names(answer.headers());
    assert!(stream.contains("x-accel-buffering") && !stream.contains("connection"), "{stream:?}");
    assert_eq!(answer.headers().get_all("date").iter().count(), 1);
    server.next(
        1,
        Mishap::answer(
            403,
            "application/json",
            r#"{"jsonrpc":"2.0","id":1,"error":{"code":-1,"message":"no"}}"#,
        )
        .on("tools/call"),
    );
    let refused = send(&client, &[]).await;
    assert_eq!((refused.status().as_u16(), error(&refused)["code"].as_i64()), (403, Some(-1)));
    assert_eq!(server.initializes(), 1, "403 is an answer");
}
