//! Where requests go: one upstream or several, well or not, and never twice.
#![allow(
    clippy::disallowed_methods,
    clippy::unwrap_used,
    reason = "a test fails by panicking, and its tasks end with its runtime"
)]

use std::{collections::HashSet, path::Path};

use serde_json::{Value, json};
use support::{Answers, Authd, Client, ClientBuilder, Flavour, Mishap, RpcFailure, Server};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpStream,
    task::{JoinHandle, JoinSet},
};

const BINARY: &str = env!("CARGO_BIN_EXE_mcp-authd");
/// So short that stories need not wait for it, so long that a busy machine does not count.
const QUICK: &str = "[health]\ninterval = '20ms'\nejection = '200ms'\n";

/// Stories of limits are elsewhere.
const GENEROUS: &str = "rate = { subject_burst = 1000000 }\nlimits = { strangers_per_address = 1000 }";

/// Settings after the tokens: alice's route is `alice`, likewise bob's.
fn with_tokens(directory: &Path, settings: &str) -> String {
    let tokens =
        ["alice", "bob"].map(|name| format!("[token.{name}]\ntoken = '{name}-its-token-of-32-characters'\n"));
    let path = Authd::secret_file(directory, "tokens.toml", &tokens.concat());
    format!("tokens = '{}'\n{GENEROUS}\n{settings}", path.display())
}

async fn start(settings: &str) -> Authd {
    Authd::start(BINARY, |directory| with_tokens(directory, settings)).await
}

async fn reload(authd: &Authd, settings: &str) {
    let (status, said) = authd.reload(&with_tokens(authd.directory(), settings)).await;
    assert_eq!(status, 200, "{said}");
}

/// Servers repeat the session's id on every answer, so the client is lenient.
fn client(authd: &Authd, name: &str) -> ClientBuilder {
    let credential = format!("Bearer {name}-its-token-of-32-characters");
    Client::builder(&authd.url()).header("authorization", &credential).lenient()
}

async fn alice(authd: &Authd) -> Client {
    client(authd, "alice").connect().await.unwrap()
}

/// `name = address` of each upstream, as TOML.
fn upstreams(servers: &[(&str, &Server, &str)]) -> String {
    let each = servers.iter().map(|(name, server, more)| {
        format!("[[upstream]]\nname = '{name}'\naddress = '{}'\n{more}\n", server.url())
    });
    each.collect()
}

async fn unix(directory: &Path, name: &str) -> Server {
    Server::builder(Flavour::Python2).unix(directory.join(name)).start().await.unwrap()
}

fn calling(client: &Client, tool: &'static str, arguments: Value) -> JoinHandle<Result<String, RpcFailure>> {
    let client = client.clone();
    tokio::spawn(async move { client.call_text(tool, arguments).await })
}

/// What `GET /routes` says of the upstream `name` of alice's route.
fn upstream<'a>(routes: &'a Value, name: &str) -> &'a Value {
    let alice = routes.as_array().unwrap().iter().find(|route| route["route"] == "alice").unwrap();
    alice["upstreams"].as_array().unwrap().iter().find(|upstream| upstream["name"] == name).unwrap()
}

#[tokio::test]
async fn a_good_token_reaches_the_only_upstream_and_ids_are_untouched() {
    let server = Server::start(Flavour::Python2).await;
    let authd = start(&format!("upstream = '{}'\n", server.url())).await;
    let client = alice(&authd).await;
    assert_eq!(client.call_text("count", json!({})).await.unwrap(), "1");
    assert_eq!(server.session_ids(), [client.session_id().unwrap()]);
}

#[tokio::test]
async fn the_route_is_part_of_the_address_and_each_token_has_its_own() {
    let directory = tempfile::tempdir().unwrap();
    let (first, second) = (unix(directory.path(), "alice").await, unix(directory.path(), "bob").await);
    let authd = start(&format!("upstream = 'unix:{}/{{route}}'\n", directory.path().display())).await;
    for (name, server) in [("alice", &first), ("bob", &second)] {
        let client = client(&authd, name).connect().await.unwrap();
        client.call("count", json!({})).await.unwrap();
        assert_eq!((server.initializes(), server.executed("count")), (1, 1), "{name}");
        let told = &server.requests()[0].headers;
        assert_eq!(
            (&told["mcp-auth-subject"], &told["mcp-route"]),
            (&name.parse().unwrap(), &name.parse().unwrap())
        );
    }
}

#[tokio::test]
async fn sessions_stay_where_they_began_and_begin_by_weight() {
    let (one, two) = (Server::start(Flavour::Python2).await, Server::start(Flavour::Python2).await);
    let authd = start(&upstreams(&[("one", &one, "weight = 1"), ("two", &two, "weight = 3")])).await;
    let mut clients = JoinSet::new();
    for _ in 0..200 {
        let builder = client(&authd, "alice");
        clients.spawn(async move {
            let client = builder.connect().await.unwrap();
            for _ in 0..3 {
                client.call("count", json!({})).await.unwrap();
            }
            client.session_id().unwrap()
        });
    }
    let ids = clients.join_all().await;
    for (name, server) in [("one", &one), ("two", &two)] {
        let prefix = format!("{name}.");
        let mut held: Vec<_> = ids.iter().filter_map(|id| id.strip_prefix(&prefix)).collect();
        let mut known = server.session_ids();
        held.sort_unstable();
        known.sort_unstable();
        assert_eq!(held, known, "the id says where it belongs, and the server never sees that");
        assert_eq!(server.executed("count"), 3 * known.len() as u64);
    }
    // 150 expected of 200; 6 standard deviations are 37.
    assert!(two.sessions().abs_diff(150) < 37, "{} of 200 began at the heavier one", two.sessions());
    let (_, routes) = authd.control("GET", "/routes").await;
    let began = |name| upstream(&routes, name)["sessions_started"].as_u64().unwrap();
    assert_eq!((began("one"), began("two")), (one.sessions() as u64, two.sessions() as u64));
}

#[tokio::test]
async fn a_request_without_a_session_goes_by_weight_and_a_bare_id_always_to_the_same() {
    let (one, two) = (Server::start(Flavour::Python2).await, Server::start(Flavour::Python2).await);
    let authd = start(&upstreams(&[("one", &one, ""), ("two", &two, "")])).await;
    let stranger = client(&authd, "alice").session("a-bare-id").unconnected();
    for _ in 0..20 {
        assert_eq!(stranger.request("ping", json!({})).await.unwrap_err().status, Some(404));
    }
    let mut counts = [one.received("ping"), two.received("ping")];
    counts.sort_unstable();
    assert_eq!(counts, [0, 20]);
    let modern = client(&authd, "alice").unconnected();
    for _ in 0..64 {
        // Refused for want of a session, each time by one of them.
        let _ = modern.request("ping", json!({})).await;
    }
    assert!(one.received("ping") >= 8 && two.received("ping") >= 8);
}

#[tokio::test]
async fn an_upstream_that_drains_keeps_its_sessions_and_gets_no_new_ones() {
    let (one, two) = (Server::start(Flavour::Python2).await, Server::start(Flavour::Python2).await);
    let authd = start(&upstreams(&[("one", &one, ""), ("two", &two, "drain = true")])).await;
    let first = alice(&authd).await;
    assert!(first.session_id().unwrap().starts_with("one."));
    reload(&authd, &upstreams(&[("one", &one, "drain = true"), ("two", &two, "")])).await;
    for _ in 0..10 {
        assert!(alice(&authd).await.session_id().unwrap().starts_with("two."));
    }
    first.call("count", json!({})).await.unwrap();
    assert_eq!((one.sessions(), one.executed("count")), (1, 1));
    let (_, routes) = authd.control("GET", "/routes").await;
    assert_eq!(
        (&upstream(&routes, "one")["drain"], &upstream(&routes, "one")["sessions_started"]),
        (&json!(true), &json!(1))
    );
    // Taken away, its sessions go to those that are left, under the id that it gave them.
    let bare = first.session_id().unwrap().trim_start_matches("one.").to_owned();
    let three = Server::start(Flavour::Python2).await;
    reload(&authd, &upstreams(&[("two", &two, ""), ("three", &three, "drain = true")])).await;
    assert_eq!(first.call("count", json!({})).await.unwrap_err().status, Some(404));
    assert_eq!(two.requests().last().unwrap().session, Some(bare));
    // The last of several still knows its name.
    reload(&authd, &upstreams(&[("two", &two, "")])).await;
    let second = client(&authd, "alice").session(&format!("two.{}", two.session_ids()[0])).unconnected();
    second.request("ping", json!({})).await.unwrap();
}

#[tokio::test]
async fn calls_wait_while_the_only_upstream_restarts() {
    let directory = tempfile::tempdir().unwrap();
    let server = unix(directory.path(), "mcp.sock").await;
    let authd = start(&format!("upstream = '{}'\n", server.url())).await;
    let client = alice(&authd).await;
    server.stop().await;
    server.remove_socket();
    let calls: Vec<_> = (0..20).map(|_| calling(&client, "count", json!({}))).collect();
    authd
        .until("/routes", |routes| {
            routes[0]["upstreams"][0]["in_flight"].is_u64()
                && routes[0]["upstreams"][0]["failures"].as_u64() >= Some(20)
        })
        .await;
    let newcomer = tokio::spawn(self::client(&authd, "alice").connect());
    server.start_again().await;
    newcomer.await.unwrap().unwrap();
    for call in calls {
        // A bare server has forgotten the session; what matters is that it was asked.
        assert_eq!(call.await.unwrap().unwrap_err().status, Some(404));
    }
    assert_eq!(server.received("tools/call"), 20, "each of them once");
    let (_, routes) = authd.control("GET", "/routes").await;
    assert_eq!(routes[0]["upstreams"][0]["health"], "well", "the last one is never put out");
    authd.until_logged("an upstream answers again").await;
}

#[tokio::test]
async fn who_waits_in_vain_hears_so_in_time() {
    let server = Server::start(Flavour::Python2).await;
    let settings = format!("upstream = '{}'\n[health]\npatience = '200ms'\n", server.url());
    let authd = start(&settings).await;
    let client = alice(&authd).await;
    server.stop().await;
    let failure = client.call("count", json!({})).await.unwrap_err();
    assert_eq!(failure.status, Some(200), "the one answer that every client survives");
    assert!(failure.message().contains("cannot be reached"), "{failure}");
    assert!(client.last_headers().contains_key("retry-after"));
    // Nobody waits for its answer, and a 503 would be the end of some clients.
    client.notify("notifications/cancelled", json!({})).await.unwrap();
    server.start_again().await;
    reload(
        &authd,
        &settings
            .replace("upstream = ", "upstream = [{drain = true, address = ")
            .replace("/mcp'\n", "/mcp'}]\n"),
    )
    .await;
    let newcomer = self::client(&authd, "alice").connect().await.unwrap_err();
    assert!(newcomer.message().contains("cannot be reached"), "{newcomer}");
    assert_eq!(client.call("count", json!({})).await.unwrap_err().status, Some(404), "sessions stay");
}

#[tokio::test]
async fn a_neighbour_that_could_not_forward_is_asked_again_and_nobody_hears_of_it() {
    let directory = tempfile::tempdir().unwrap();
    let server = unix(directory.path(), "mcp.sock").await;
    let authd = start(&format!("upstream = '{}'\n", server.url())).await;
    let client = alice(&authd).await;
    server.next(3, Mishap::not_forwarded().on("tools/call"));
    assert_eq!(client.call_text("count", json!({})).await.unwrap(), "1");
    assert_eq!((server.received("tools/call"), server.executed("count")), (4, 1));
    server.next(1, Mishap::not_forwarded().on("DELETE"));
    assert_eq!(client.delete().await.unwrap(), 200);
    assert_eq!((server.deletes(), server.mishaps_left()), (1, 0));
}

#[tokio::test]
async fn the_internet_is_not_believed_that_nothing_ran() {
    let server = Server::start(Flavour::Python2).await;
    let authd = start(&format!("upstream = '{}'\n", server.url())).await;
    let client = alice(&authd).await;
    server.next(1, Mishap::not_forwarded().on("tools/call"));
    assert_eq!(client.call("count", json!({})).await.unwrap_err().status, Some(503));
    assert_eq!(client.last_headers().get("mcp-not-forwarded"), None, "and nobody is told so");
    assert_eq!((server.received("tools/call"), server.executed("count")), (1, 0));
}

#[tokio::test]
async fn a_call_that_was_under_way_is_lost_and_never_made_again() {
    let (one, two) = (Server::start(Flavour::Python2).await, Server::start(Flavour::Python2).await);
    let authd = start(&upstreams(&[("one", &one, ""), ("two", &two, "drain = true")])).await;
    let client = alice(&authd).await;
    // An answer whose head has gone out can only break off; this one has not begun.
    one.set(|switches| switches.answers = Answers::Json);
    let call = calling(&client, "count", json!({"sleep_ms": 300}));
    one.until(|one| one.started("count") == 1).await;
    one.stop().await;
    let failure = call.await.unwrap().unwrap_err();
    assert_eq!(failure.status, Some(200));
    assert!(failure.message().contains("its effect is unknown"), "{failure}");
    one.until(|one| one.executed("count") == 1).await;
    assert_eq!((one.started("count"), two.started("count")), (1, 0));
}

#[tokio::test]
async fn no_call_runs_twice_while_an_upstream_is_killed_under_load() {
    let (one, two) = (Server::start(Flavour::Python2).await, Server::start(Flavour::Python2).await);
    let authd =
        start(&format!("{QUICK}patience = '300ms'\n{}", upstreams(&[("one", &one, ""), ("two", &two, "")])))
            .await;
    let mut sessions = JoinSet::new();
    for session in 0..16 {
        let builder = client(&authd, "alice");
        sessions.spawn(async move {
            let (mut asked, mut answered) = (0, 0);
            let mut client = builder.clone().connect().await;
            while answered < 60 {
                // Its session is gone with the server, as a bare server's sessions are, or was lost while it began.
                let Ok(connected) = &client else {
                    client = builder.clone().connect().await;
                    continue;
                };
                asked += 1;
                match connected.call("count", json!({"call": format!("{session}-{asked}")})).await {
                    Ok(_) => answered += 1,
                    Err(_) => client = builder.clone().connect().await,
                }
            }
            (asked, answered)
        });
    }
    for victim in [&one, &two, &one] {
        let before = victim.executed("count");
        victim.until(|it| it.executed("count") > before + 40).await;
        victim.stop().await;
        let other = if std::ptr::eq(victim, &one) { &two } else { &one };
        let before = other.executed("count");
        other.until(|it| it.executed("count") > before + 40).await;
        victim.start_again().await;
    }
    let (mut asked, mut answered) = (0, 0);
    for (each_asked, each_answered) in sessions.join_all().await {
        asked += each_asked;
        answered += each_answered;
    }
    let mut arrived = HashSet::new();
    for request in one.requests().into_iter().chain(two.requests()).filter(|it| it.method == "tools/call") {
        let message: Value = serde_json::from_slice(&request.body).unwrap();
        let call = message["params"]["arguments"]["call"].to_string();
        assert!(arrived.insert(call.clone()), "call {call} was sent twice");
    }
    assert!(arrived.len() >= answered, "{} arrived, {answered} answered", arrived.len());
    assert!(asked > answered, "the kills were felt");
}

#[tokio::test]
async fn a_session_waits_for_its_own_upstream_and_then_goes_to_another() {
    let (one, two) = (Server::start(Flavour::Python2).await, Server::start(Flavour::Python2).await);
    let settings = |two_drains: &str| {
        format!("{}[health]\npatience = '3s'\n", upstreams(&[("one", &one, ""), ("two", &two, two_drains)]))
    };
    let authd = start(&settings("drain = true")).await;
    let (client, second) = (alice(&authd).await, alice(&authd).await);
    reload(&authd, &settings("")).await;
    one.stop().await;
    let call = calling(&client, "count", json!({}));
    authd.until("/routes", |routes| upstream(routes, "one")["failures"].as_u64() >= Some(2)).await;
    assert_eq!(two.requests().len(), 0, "it waits");
    one.start_again().await;
    assert_eq!(call.await.unwrap().unwrap_err().status, Some(404), "its own has forgotten it");
    assert_eq!((one.received("tools/call"), two.requests().len()), (1, 0));

    let client = second;
    let id = client.session_id().unwrap();
    one.stop().await;
    assert_eq!(
        client.call("count", json!({})).await.unwrap_err().status,
        Some(404),
        "the other one has never known it"
    );
    assert_eq!(two.requests().last().unwrap().session.as_deref(), id.strip_prefix("one."));
    authd.until_logged("its sessions go to others").await;
    let failures = async || upstream(&authd.control("GET", "/routes").await.1, "one")["failures"].as_u64();
    let before = failures().await.unwrap();
    assert_eq!(client.call("count", json!({})).await.unwrap_err().status, Some(404));
    assert!(failures().await.unwrap() <= before + 1, "nobody waits twice for the same outage");
}

#[tokio::test]
async fn an_upstream_that_fails_is_put_out_tried_and_taken_back() {
    let (one, two) = (Server::start(Flavour::Python2).await, Server::start(Flavour::Python2).await);
    let settings = upstreams(&[("one", &one, ""), ("two", &two, "")]);
    let authd = start(&format!("{settings}{QUICK}failures = 3\n")).await;
    one.stop().await;
    // New sessions alone: each that is drawn for the dead one is taken to the other without a word.
    authd.until("/routes", |_| true).await;
    while !authd.log().iter().any(|line| line.contains("an upstream fails")) {
        alice(&authd).await;
    }
    let (_, routes) = authd.control("GET", "/routes").await;
    assert_ne!(upstream(&routes, "one")["health"], "well", "{routes}");
    assert_eq!(upstream(&routes, "two")["health"], "well");
    one.start_again().await;
    while one.sessions() == 0 {
        alice(&authd).await;
    }
    let (_, routes) = authd.control("GET", "/routes").await;
    assert_eq!(upstream(&routes, "one")["health"], "well", "{routes}");
    authd.until_logged("an upstream answers again").await;
}

#[tokio::test]
async fn an_upstream_that_is_not_ready_gets_no_new_sessions() {
    let (one, two) = (Server::start(Flavour::Python2).await, Server::start(Flavour::Python2).await);
    // Any daemon's control socket will do: that of another mcp-authd.
    let mut asked = start(&format!("upstream = '{}'\n", one.url())).await;
    let ready = format!("ready = 'unix:{}'", asked.control_socket().display());
    let settings = upstreams(&[("one", &one, &ready), ("two", &two, "")]);
    let authd = start(&format!("{settings}{QUICK}failures = 2\n")).await;
    let first = alice(&authd).await;
    asked.kill9().await;
    authd.until("/routes", |routes| upstream(routes, "one")["health"] == "not ready").await;
    let before = one.sessions();
    for _ in 0..10 {
        alice(&authd).await;
    }
    assert_eq!(one.sessions(), before);
    first.call("count", json!({})).await.unwrap();
    asked.start_again().await;
    authd.until("/routes", |routes| upstream(routes, "one")["health"] == "well").await;
    while one.sessions() == before {
        alice(&authd).await;
    }
}

#[tokio::test]
async fn requests_wait_in_line_and_who_finds_the_line_full_is_told_to_try_again() {
    let server = Server::start(Flavour::Python2).await;
    let settings = format!("upstream = '{}'\n[route.alice]\nconcurrency = 1\nqueue = 1\n", server.url());
    let authd = start(&settings).await;
    let client = alice(&authd).await;
    // A stream takes no place once it is open.
    let mut stream = client.open_get().await.unwrap();
    server.set(|switches| switches.hang = true);
    let first = calling(&client, "count", json!({}));
    let second = calling(&client, "count", json!({}));
    authd.until("/routes", |routes| routes[0]["running"] == 1 && routes[0]["waiting"] == 1).await;
    let refused = client.call("count", json!({})).await.unwrap_err();
    assert_eq!(refused.status, Some(200));
    assert!(refused.message().contains("too many requests"), "{refused}");
    assert!(client.last_headers().contains_key("retry-after"));
    let neighbour = self::client(&authd, "bob").unconnected();
    let other = tokio::spawn(async move { neighbour.request("ping", json!({})).await });
    server.until(|server| server.received("ping") == 1).await;
    server.set(|switches| switches.hang = false);
    let mut said = [first.await.unwrap().unwrap(), second.await.unwrap().unwrap()];
    said.sort();
    assert_eq!(said, ["1", "2"]);
    other.await.unwrap().unwrap_err();
    server.notify(&json!({"jsonrpc": "2.0", "method": "notifications/tools/list_changed"}));
    assert_eq!(stream.next_message().await.unwrap()["method"], "notifications/tools/list_changed");
    drop(stream);
    authd
        .until("/routes", |routes| {
            let alice = &routes[0]["upstreams"][0];
            routes[0]["running"] == 0 && alice["in_flight"] == 0 && alice["streams"] == 0
        })
        .await;
}

#[tokio::test]
async fn an_upstream_gets_its_own_credential_and_no_identity_unless_it_is_to() {
    let server = Server::start(Flavour::Python2).await;
    let directory = tempfile::tempdir().unwrap();
    let token = Authd::secret_file(directory.path(), "upstream-token", "the-servers-own\n");
    let settings = |more: &str| {
        format!("[[upstream]]\naddress = '{}'\ntoken_file = '{}'\n{more}\n", server.url(), token.display())
    };
    let authd = start(&settings("")).await;
    let forged = client(&authd, "alice").header("mcp-auth-subject", "root").header("mcp-route", "other");
    let client = forged.header("x-forwarded-for", "192.0.2.1").connect().await.unwrap();
    let seen = server.requests().pop().unwrap().headers;
    assert_eq!(seen["authorization"], "Bearer the-servers-own");
    assert_eq!(seen["host"], format!("127.0.0.1:{}", server.port()));
    for name in ["mcp-auth-subject", "mcp-route", "x-forwarded-for", "origin"] {
        assert!(!seen.contains_key(name), "{name}");
    }
    // One that cannot be used changes nothing, one that can is used without being asked.
    let replace = |text: &str| {
        let new = Authd::secret_file(directory.path(), "new", text);
        std::fs::rename(new, &token).unwrap();
    };
    replace("two words\n");
    authd.until_logged("the token of an upstream has changed but cannot be used, the old one stays").await;
    client.call("count", json!({})).await.unwrap();
    assert_eq!(server.requests().pop().unwrap().headers["authorization"], "Bearer the-servers-own");
    replace("a-third-one\n");
    authd.until_logged("the token of an upstream has changed and was read anew").await;
    client.call("count", json!({})).await.unwrap();
    assert_eq!(server.requests().pop().unwrap().headers["authorization"], "Bearer a-third-one");
    replace("another\n");
    reload(&authd, &settings("identity_headers = true")).await;
    client.call("count", json!({})).await.unwrap();
    let seen = server.requests().pop().unwrap().headers;
    assert_eq!(seen["authorization"], "Bearer another");
    assert_eq!(
        (&seen["mcp-auth-subject"], &seen["mcp-route"]),
        (&"alice".parse().unwrap(), &"alice".parse().unwrap())
    );
    assert!(!authd.log().iter().any(|line| line.contains("the-servers-own") || line.contains("-its-token-")));
}

#[tokio::test]
async fn answers_come_byte_for_byte_without_what_belongs_to_the_connection() {
    let server = Server::start(Flavour::Python2).await;
    let authd = start(&format!("upstream = '{}'\n", server.url())).await;
    let direct = Client::builder(&server.url()).lenient().connect().await.unwrap();
    let through = alice(&authd).await;
    for bytes in [0, 1, 1_000, 3_000_000] {
        let params = json!({"name": "big", "arguments": {"bytes": bytes}});
        let message = json!({"jsonrpc": "2.0", "id": 7, "method": "tools/call", "params": params});
        let mut bodies = Vec::new();
        for client in [&direct, &through] {
            let request = client.prepared(http::Method::POST, message.to_string().into());
            let answer = client.raw(request).await.unwrap();
            assert_eq!(answer.status(), 200);
            bodies.push(answer);
        }
        assert_eq!(bodies[0].body(), bodies[1].body(), "{bytes}");
        assert_eq!(bodies[1].headers()["x-accel-buffering"], "no");
    }
}

/// Sends bytes and reads all that comes back until the other side closes.
async fn raw(authd: &Authd, bytes: &str) -> String {
    let url = authd.url();
    let address = url.trim_start_matches("http://").trim_end_matches("/mcp");
    let mut stream = TcpStream::connect(address).await.unwrap();
    stream.write_all(bytes.as_bytes()).await.unwrap();
    let mut said = Vec::new();
    // A server that refuses may reset what it has not read.
    let _ = stream.read_to_end(&mut said).await;
    String::from_utf8_lossy(&said).into_owned()
}

#[tokio::test]
async fn lengths_that_contradict_each_other_never_reach_an_upstream() {
    let server = Server::start(Flavour::Python2).await;
    let authd = start(&format!("upstream = '{}'\n", server.url())).await;
    let head = "POST /mcp HTTP/1.1\r\nhost: 127.0.0.1\r\nauthorization: Bearer alice-its-token-of-32-characters\r\ncontent-type: application/json\r\naccept: application/json, text/event-stream\r\nconnection: close\r\n";
    let inner = "POST /mcp HTTP/1.1\r\nhost: x\r\ncontent-length: 2\r\n\r\n{}";
    let ping = r#"{"jsonrpc":"2.0","id":1,"method":"ping"}"#;
    for lengths in [
        format!("content-length: {}\r\ntransfer-encoding: chunked\r\n\r\n0\r\n\r\n{inner}", 5 + inner.len()),
        format!(
            "transfer-encoding: chunked\r\ncontent-length: 4\r\n\r\n{:x}\r\n{ping}\r\n0\r\n\r\n{inner}",
            ping.len()
        ),
        format!("content-length: {}\r\ncontent-length: 0\r\n\r\n{ping}{inner}", ping.len()),
        format!("content-length: +{}\r\n\r\n{ping}", ping.len()),
        format!("transfer-encoding: xchunked\r\n\r\n{:x}\r\n{ping}\r\n0\r\n\r\n", ping.len()),
        format!("transfer-encoding: chunked, identity\r\n\r\n{:x}\r\n{ping}\r\n0\r\n\r\n", ping.len()),
    ] {
        raw(&authd, &format!("{head}{lengths}")).await;
    }
    for request in server.requests() {
        // What came through came whole, as one request, framed anew.
        assert_eq!(request.body, ping);
        assert!(
            !(request.headers.contains_key("content-length")
                && request.headers.contains_key("transfer-encoding"))
        );
        assert_ne!(request.headers["host"], "x");
    }
    assert!(server.requests().len() <= 1, "{}", server.requests().len());
}

#[tokio::test]
async fn a_stream_is_passed_on_as_it_comes() {
    let server = Server::start(Flavour::Python2).await;
    let authd = start(&format!("upstream = '{}'\n", server.url())).await;
    let client = alice(&authd).await;
    let call = calling(&client, "ask", json!({}));
    // The call goes on only once its question was seen and answered.
    let question = client.next_message().await;
    assert_eq!(question["method"], "elicitation/create");
    client.respond(&question["id"], json!({"action": "decline"})).await.unwrap();
    assert!(call.await.unwrap().unwrap().contains("decline"));
}
