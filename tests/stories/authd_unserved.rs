//! What becomes of requests that are let in and not served: each of them hears so, in a form that its client survives and
//! in time, and is counted.
#![allow(
    clippy::disallowed_methods,
    clippy::unwrap_used,
    reason = "a test fails by panicking, and its tasks end with its runtime"
)]

use std::{fs, path::Path, time::Duration};

use bytes::Bytes;
use http::{Method, Request, Response};
use nix::sys::signal::Signal;
use serde_json::{Value, json};
use support::{Answers, Authd, Client, ClientBuilder, Flavour, Server};
use tokio::time::{Instant, timeout};

const BINARY: &str = env!("CARGO_BIN_EXE_mcp-authd");
const PING: &str = r#"{"jsonrpc":"2.0","id":7,"method":"ping"}"#;
/// A request, a notification, and another request whose id is a text.
const BATCH: &str = r#"[{"jsonrpc":"2.0","id":1,"method":"ping"},{"jsonrpc":"2.0","method":"notifications/cancelled","params":{"requestId":9}},{"jsonrpc":"2.0","id":"two","method":"ping"}]"#;
/// What takes so long hangs.
const SOON: Duration = Duration::from_secs(30);

/// alice's route is `alice`, likewise bob's; `settings` come before any table.
async fn start(settings: &str) -> Authd {
    Authd::start(BINARY, |directory| {
        let token = |name: &str| format!("[token.{name}]\ntoken = '{name}-its-token-of-32-characters'\n");
        let tokens = Authd::secret_file(directory, "tokens.toml", &[token("alice"), token("bob")].concat());
        let audit = directory.join("audit.jsonl");
        format!("tokens = '{}'\naudit = {{ file = '{}' }}\n{settings}\n", tokens.display(), audit.display())
    })
    .await
}

fn client(authd: &Authd, name: &str) -> ClientBuilder {
    let credential = format!("Bearer {name}-its-token-of-32-characters");
    Client::builder(&authd.url()).header("authorization", &credential).lenient()
}

async fn alice(authd: &Authd) -> Client {
    client(authd, "alice").connect().await.unwrap()
}

async fn post(client: &Client, body: &str) -> Response<Bytes> {
    client.raw(client.prepared(Method::POST, Bytes::copy_from_slice(body.as_bytes()))).await.unwrap()
}

fn audit(directory: &Path) -> Vec<Value> {
    let text = fs::read_to_string(directory.join("audit.jsonl")).unwrap_or_default();
    // The last line may be on its way.
    text.split_inclusive('\n')
        .filter(|line| line.ends_with('\n'))
        .map(|line| serde_json::from_str(line).unwrap())
        .collect()
}

/// The value of `mcp_authd_unserved_total` by a reason.
async fn unserved(authd: &Authd, reason: &str) -> u64 {
    let (_, metrics) = authd.control("GET", "/metrics").await;
    let name = format!("mcp_authd_unserved_total{{reason=\"{reason}\"}} ");
    let lines = metrics.as_str().unwrap().lines().find_map(|line| line.strip_prefix(&name));
    lines.unwrap_or_else(|| panic!("no {name}in {metrics}")).parse().unwrap()
}

async fn health(authd: &Authd) -> Value {
    let request = Request::get("http://x/health").body(Bytes::new()).unwrap();
    let answer = Client::builder(&authd.url()).unconnected().raw(request).await.unwrap();
    serde_json::from_slice(answer.body()).unwrap()
}

/// Both errors of [`BATCH`], by their ids.
fn assert_errors(answer: &Response<Bytes>, words: &str) {
    assert_eq!(answer.status(), 200, "{answer:?}");
    assert!(answer.headers().contains_key("retry-after"));
    let errors: Vec<Value> = serde_json::from_slice(answer.body()).unwrap();
    let ids: Vec<&Value> = errors.iter().map(|error| &error["id"]).collect();
    assert_eq!(ids, [&json!(1), &json!("two")]);
    for error in &errors {
        assert!(error["error"]["message"].as_str().unwrap().contains(words), "{error}");
    }
}

#[tokio::test]
async fn who_waits_in_line_when_the_drain_begins_hears_so_at_once() {
    let server = Server::start(Flavour::Python2).await;
    server.set(|switches| switches.answers = Answers::Json);
    let settings = format!("upstream = '{}'\ngrace = '60s'\nconcurrency = 1", server.url());
    let mut authd = start(&settings).await;
    let client = alice(&authd).await;
    server.hang_next(1);
    let running = tokio::spawn({
        let client = client.clone();
        async move { client.call_text("count", json!({})).await }
    });
    server.until(|server| server.received("tools/call") == 1).await;
    let posted = |body: &'static str| {
        let client = client.clone();
        tokio::spawn(async move { post(&client, body).await })
    };
    let (single, batch) = (posted(PING), posted(BATCH));
    let deleted = tokio::spawn({
        let client = client.clone();
        async move { client.raw(client.prepared(Method::DELETE, Bytes::new())).await.unwrap() }
    });
    authd.until("/routes", |routes| routes[0]["waiting"] == 3).await;
    let began = Instant::now();
    authd.signal(Signal::SIGTERM);
    let single = timeout(SOON, single).await.expect("long before the grace is over").unwrap();
    let error: Value = serde_json::from_slice(single.body()).unwrap();
    assert_eq!((single.status().as_u16(), &error["id"]), (200, &json!(7)));
    assert!(error["error"]["message"].as_str().unwrap().contains("being stopped"), "{error}");
    assert_errors(&timeout(SOON, batch).await.unwrap().unwrap(), "being stopped");
    let deleted = timeout(SOON, deleted).await.unwrap().unwrap();
    assert_eq!(deleted.status(), 503);
    assert_eq!(deleted.headers()["mcp-not-forwarded"], "1");
    assert!(deleted.headers().contains_key("retry-after"));
    assert_eq!((unserved(&authd, "stopping").await, server.requests().len()), (3, 3));
    println!("told after {:?}", began.elapsed());
    // The one that runs has the grace, and what it is answered is in the audit.
    server.set(|switches| switches.hang = false);
    running.abort();
    drop(client);
    assert!(authd.end().await.success());
}

#[tokio::test]
async fn a_batch_that_is_not_served_gets_an_error_for_each_of_its_requests() {
    let server = Server::start(Flavour::Python2).await;
    let limits = "rate = { subject_per_second = 1, subject_burst = 9 }\nhealth = { patience = '100ms' }";
    let authd = start(&format!("upstream = '{}'\n{limits}", server.url())).await;
    let client = alice(&authd).await;
    server.stop().await;
    assert_errors(&post(&client, BATCH).await, "cannot be reached");
    // Nobody waits for an answer to these.
    let notes =
        r#"[{"jsonrpc":"2.0","method":"notifications/cancelled"},{"jsonrpc":"2.0","id":1,"result":{}}]"#;
    assert_eq!(post(&client, notes).await.status(), 202);
    assert_eq!(unserved(&authd, "down").await, 2);
    let last = loop {
        let answer = post(&client, BATCH).await;
        if !String::from_utf8_lossy(answer.body()).contains("cannot be reached") {
            break answer;
        }
    };
    assert_errors(&last, "too many requests");
    assert!(unserved(&authd, "rate").await >= 1);
}

#[tokio::test]
async fn what_was_not_served_is_counted_by_its_reason_whatever_its_status() {
    let server = Server::start(Flavour::Python2).await;
    server.set(|switches| switches.answers = Answers::Json);
    let settings =
        format!("health = {{ patience = '100ms' }}\n[route.alice]\nupstream = '{}'\n", server.url());
    let authd = start(&settings).await;
    for reason in ["busy", "down", "lost", "no_longer_good", "no_upstream", "rate", "stopping"] {
        assert_eq!(unserved(&authd, reason).await, 0, "{reason}");
    }
    client(&authd, "bob").connect().await.unwrap_err();
    assert_eq!(unserved(&authd, "no_upstream").await, 1);
    let client = alice(&authd).await;
    let call = tokio::spawn({
        let client = client.clone();
        async move { client.call("count", json!({"sleep_ms": 300})).await }
    });
    server.until(|server| server.started("count") == 1).await;
    server.stop().await;
    assert!(call.await.unwrap().unwrap_err().message().contains("its effect is unknown"));
    client.call("count", json!({})).await.unwrap_err();
    assert_eq!((unserved(&authd, "lost").await, unserved(&authd, "down").await), (1, 1));
}

#[tokio::test]
async fn health_tells_how_many_upstreams_are_ready() {
    let (one, two) = (Server::start(Flavour::Python2).await, Server::start(Flavour::Python2).await);
    let upstreams = [("one", &one), ("two", &two)]
        .map(|(name, server)| format!("{{ name = '{name}', address = '{}' }}", server.url()));
    let settings =
        format!("upstream = [{}]\nhealth = {{ failures = 2, patience = '100ms' }}", upstreams.join(", "));
    let authd = start(&settings).await;
    assert_eq!(health(&authd).await["upstreams_ready"], json!({"ready": 0, "of": 0}), "nobody was there");
    let ready = async |expected: Value| {
        timeout(SOON, async { while health(&authd).await["upstreams_ready"] != expected {} })
            .await
            .unwrap_or_else(|_| panic!("never {expected}"));
    };
    let client = alice(&authd).await;
    ready(json!({"ready": 2, "of": 2})).await;
    one.stop().await;
    two.stop().await;
    // Also the last one, which goes on taking sessions.
    drop(client);
    for _ in 0..2 {
        self::client(&authd, "alice").connect().await.unwrap_err();
    }
    ready(json!({"ready": 0, "of": 2})).await;
    let (_, metrics) = authd.control("GET", "/metrics").await;
    let metrics = metrics.as_str().unwrap();
    assert!(
        metrics.contains("mcp_authd_upstreams 2\n") && metrics.contains("mcp_authd_upstreams_ready 0\n"),
        "{metrics}"
    );
}

#[tokio::test]
async fn the_audit_goes_on_while_requests_outlast_the_drain() {
    let server = Server::start(Flavour::Python2).await;
    server.set(|switches| switches.answers = Answers::Json);
    let mut authd = start(&format!("upstream = '{}'\ngrace = '60s'", server.url())).await;
    let client = alice(&authd).await;
    let calling = |text: &'static str, sleep_ms: u64| {
        let client = client.clone();
        tokio::spawn(
            async move { client.call_text("echo", json!({"text": text, "sleep_ms": sleep_ms})).await },
        )
    };
    let (short, _long) = (calling("short", 1_000), calling("long", 60_000));
    server.until(|server| server.started("echo") == 2).await;
    authd.signal(Signal::SIGTERM);
    assert_eq!(short.await.unwrap().unwrap(), "short");
    // In the file while the other one still runs, not only at the very end.
    let written = async {
        while !audit(authd.directory()).iter().any(|line| line["name"] == "echo") {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    };
    timeout(SOON, written).await.expect("the line is written while the daemon drains");
    assert_eq!(server.executed("echo"), 1);
    authd.kill9().await;
}

#[tokio::test]
async fn the_audit_says_of_every_refusal_why() {
    let server = Server::start(Flavour::Python2).await;
    let settings = format!("upstream = '{}'\nlimits = {{ body = '1KiB' }}", server.url());
    let mut authd = start(&settings).await;
    let client = alice(&authd).await;
    for (status, header, value) in [
        (415, "content-encoding", "gzip"),
        (421, "host", "elsewhere.example"),
        (403, "origin", "https://elsewhere.example"),
        (400, "mcp-session-id", "another"),
        (401, "authorization", "Bearer nobody-has-this-token"),
        (400, "mcp-method", "tools/list"),
    ] {
        let mut request = client.prepared(Method::POST, Bytes::from(PING));
        let headers = request.headers_mut();
        if header != "mcp-session-id" {
            headers.remove(header);
        }
        headers.append(header, value.parse().unwrap());
        assert_eq!(client.raw(request).await.unwrap().status(), status, "{header}");
    }
    assert_eq!(post(&client, &"x".repeat(2_000)).await.status(), 413);
    assert_eq!(post(&client, "{").await.status(), 400);
    let request = Request::get("http://x/elsewhere").body(Bytes::new()).unwrap();
    assert_eq!(client.raw(request).await.unwrap().status(), 404);
    drop(client);
    assert!(authd.stop().await.success());
    let lines = audit(authd.directory());
    let refused: Vec<_> = lines.iter().filter(|line| line["status"].as_u64() >= Some(400)).collect();
    assert_eq!(refused.len(), 9);
    for line in &refused {
        assert!(line["reason"].is_string(), "{line}");
    }
    let reason = |status: u16| &refused.iter().find(|line| line["status"] == status).unwrap()["reason"];
    assert_eq!(reason(415), "the body must be JSON in UTF-8, without a Content-Encoding");
    assert_eq!(reason(413), "the body is larger than limits.body (1KiB)");
    assert_eq!(reason(401), "nobody knows this token", "the operator hears more than the client");
    assert!(lines.iter().all(|line| line["status"].as_u64() >= Some(400) || line["reason"].is_null()));
}
