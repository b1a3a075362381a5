//! Credentials and settings change while mcp-authd serves: streams of who is no longer let in are cut, everybody else
//! notices nothing, and a mistake changes nothing.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::fs;
use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering::Relaxed};
use std::time::Duration;

use nix::sys::signal::Signal;
use serde_json::{Value, json};
use support::{Answers, Authd, Client, Flavour, Server};
use tokio::io::AsyncWriteExt as _;
use tokio::net::UnixStream;
use tokio::time::{Instant, timeout};

const BINARY: &str = env!("CARGO_BIN_EXE_mcp-authd");
const ALICE: &str = "alice-has-a-long-token";
const BOB: &str = "bob-has-another-long-token";
/// The bound that is promised for a change of a file of credentials.
const NOTICED: Duration = Duration::from_secs(2);

fn tokens(names: &[(&str, &str)]) -> String {
    names.iter().map(|(name, token)| format!("[token.{name}]\ntoken = '{token}'\nroute = 'r'\n")).collect()
}

fn both() -> String {
    tokens(&[("alice", ALICE), ("bob", BOB)])
}

async fn authd(server: &Server, more: &str) -> Authd {
    Authd::start(BINARY, |directory| {
        let tokens = Authd::secret_file(directory, "tokens.toml", &both());
        let audit = directory.join("audit.jsonl");
        format!(
            "tokens = '{}'\nupstream = '{}'\n{more}\n[audit]\nfile = '{}'\n",
            tokens.display(),
            server.url(),
            audit.display()
        )
    })
    .await
}

async fn client(authd: &Authd, token: &str) -> Client {
    let client = Client::builder(&authd.url()).header("authorization", &format!("Bearer {token}")).lenient();
    client.connect().await.unwrap()
}

/// Replaces the file as careful people do: whole, by a rename.
fn replace_tokens(authd: &Authd, text: &str) {
    let new = Authd::secret_file(authd.directory(), "tokens.new", text);
    fs::rename(new, authd.directory().join("tokens.toml")).unwrap();
}

fn audit(directory: &Path) -> Vec<Value> {
    let text = fs::read_to_string(directory.join("audit.jsonl")).unwrap_or_default();
    text.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

#[tokio::test]
async fn the_open_stream_of_a_revoked_token_is_cut_within_two_seconds_and_no_other() {
    let server = Server::start(Flavour::Python2).await;
    let authd = authd(&server, "").await;
    let (alice, bob) = (client(&authd, ALICE).await, client(&authd, BOB).await);
    let (mut of_alice, mut of_bob) = (alice.open_get().await.unwrap(), bob.open_get().await.unwrap());
    server.until(|server| server.streams() == 2).await;
    replace_tokens(&authd, &tokens(&[("bob", BOB)]));
    let revoked = Instant::now();
    // The look once a second, the moment the file has to stay the same, and a machine that is busy with other tests.
    let cut = timeout(NOTICED * 3, of_alice.next_message()).await.expect("the stream of alice is cut");
    assert!(
        cut.is_none() && of_alice.broken().is_none(),
        "an end, not a broken body: {:?}",
        of_alice.broken()
    );
    println!("cut after {:?}", revoked.elapsed());
    let refused = alice.call_text("count", json!({})).await.unwrap_err();
    assert!(format!("{refused:?}").contains("401"), "{refused:?}");
    server.notify(&json!({"jsonrpc": "2.0", "method": "notifications/message", "params": {"level": "info", "data": "still here"}}));
    let heard = timeout(NOTICED, of_bob.next_message()).await.expect("the stream of bob goes on").unwrap();
    assert_eq!(heard["params"]["data"], "still here");
    assert_eq!(bob.call_text("count", json!({})).await.unwrap(), "1");
}

#[tokio::test]
async fn a_file_that_cannot_be_used_changes_nothing_and_is_said() {
    let server = Server::start(Flavour::Python2).await;
    let authd = authd(&server, "").await;
    let alice = client(&authd, ALICE).await;
    let mut stream = alice.open_get().await.unwrap();
    Authd::secret_file(authd.directory(), "tokens.toml", "[token.alice\n");
    let said = authd.until_logged("cannot be used").await;
    assert!(said.contains("tokens.toml:1"), "{said}");
    assert_eq!(alice.call_text("count", json!({})).await.unwrap(), "1");
    server.notify(&json!({"jsonrpc": "2.0", "method": "notifications/message", "params": {"level": "info", "data": "x"}}));
    assert!(timeout(NOTICED, stream.next_message()).await.unwrap().is_some());
    Authd::secret_file(authd.directory(), "tokens.toml", &tokens(&[("alice", ALICE)]));
    authd.until_logged("were read anew").await;
    assert_eq!(alice.call_text("count", json!({})).await.unwrap(), "2");
}

#[tokio::test]
async fn a_reload_is_all_or_nothing_and_names_the_mistake() {
    let server = Server::start(Flavour::Python2).await;
    let authd = authd(&server, "").await;
    let alice = client(&authd, ALICE).await;
    let settings = fs::read_to_string(authd.settings_file()).unwrap();
    let (status, said) =
        authd.reload(&settings.replace("upstream =", "path = '/elsewhere'\nupstrem =")).await;
    assert_eq!(status, 422, "{said}");
    let error = said["error"].as_str().unwrap();
    assert!(
        error.contains("settings.toml:") && error.contains("upstrem") && !error.contains('\n'),
        "{error}"
    );
    assert_eq!(alice.call_text("count", json!({})).await.unwrap(), "1");
    let (status, said) = authd.reload(&settings.replace("upstream =", "grace = '7s'\nupstream =")).await;
    assert_eq!((status, said["reloaded"].as_str()), (200, Some("in force after a restart: grace")));
    let (_, said) = authd.control("POST", "/reload").await;
    assert_eq!(said["reloaded"], "in force after a restart: grace", "as long as that is so");
    assert_eq!(alice.call_text("count", json!({})).await.unwrap(), "2");
}

#[tokio::test]
async fn streams_end_cleanly_at_a_drain() {
    let server = Server::start(Flavour::Python2).await;
    let mut authd = authd(&server, "").await;
    let alice = client(&authd, ALICE).await;
    let mut stream = alice.open_get().await.unwrap();
    server.until(|server| server.streams() == 1).await;
    authd.signal(Signal::SIGTERM);
    assert!(stream.next_message().await.is_none() && stream.broken().is_none(), "{:?}", stream.broken());
    assert!(authd.end().await.success());
}

#[tokio::test]
async fn the_audit_tells_every_decision_and_never_a_token_or_a_body() {
    let server = Server::start(Flavour::Python2).await;
    let mut authd = authd(&server, "[[require]]\nname = 'harm*'\nscopes = ['admin']").await;
    let alice = client(&authd, ALICE).await;
    alice.call_text("count", json!({"secret-argument": "letter"})).await.unwrap();
    let wrong =
        Client::builder(&authd.url()).header("authorization", "Bearer wrong-but-long-token").lenient();
    wrong.connect().await.unwrap_err();
    Client::builder(&authd.url()).lenient().connect().await.unwrap_err();
    assert!(authd.stop().await.success());
    let text = fs::read_to_string(authd.directory().join("audit.jsonl")).unwrap();
    for secret in [ALICE, BOB, "wrong-but-long-token", "secret-argument", "letter", "hunter2"] {
        assert!(!text.contains(secret), "{secret} stands in {text}");
    }
    let lines = audit(authd.directory());
    let call = lines.iter().find(|line| line["method"] == "tools/call").unwrap();
    assert_eq!(
        (&call["subject"], &call["route"], &call["name"]),
        (&json!("alice"), &json!("r"), &json!("count"))
    );
    assert_eq!(
        (&call["status"], &call["address"], &call["http"]),
        (&json!(200), &json!("127.0.0.1"), &json!("POST"))
    );
    assert!(call["bytes"].as_u64().unwrap() > 20 && call["ms"].as_f64().unwrap() > 0.0, "{call}");
    let refused: Vec<_> = lines.iter().filter(|line| line["status"] == 401).collect();
    assert_eq!(refused.len(), 2, "{text}");
    assert!(refused.iter().all(|line| line["subject"].is_null() && line["reason"].is_string()));
    assert_eq!(
        refused.iter().filter(|line| line["token"].is_string()).count(),
        1,
        "a wrong one has a fingerprint"
    );
}

#[tokio::test]
async fn a_moved_audit_file_is_let_go_of_at_sighup() {
    let server = Server::start(Flavour::Python2).await;
    let authd = authd(&server, "").await;
    let alice = client(&authd, ALICE).await;
    let old = authd.directory().join("audit.1");
    fs::rename(authd.directory().join("audit.jsonl"), &old).unwrap();
    authd.signal(Signal::SIGHUP);
    authd.until_logged("reloaded").await;
    alice.call_text("count", json!({})).await.unwrap();
    let named = || audit(authd.directory()).iter().any(|line| line["name"] == "count");
    timeout(NOTICED * 5, async {
        while !named() {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    })
    .await
    .unwrap();
    assert!(!fs::read_to_string(old).unwrap().contains("count"));
}

#[tokio::test]
async fn health_tells_how_it_is_set_up_and_nothing_of_anybody() {
    let server = Server::start(Flavour::Python2).await;
    let authd = authd(&server, "generation = 'gen-7'\n").await;
    let request = http::Request::get("http://x/health").body(bytes::Bytes::new()).unwrap();
    let answer = Client::builder(&authd.url()).unconnected().raw(request).await.unwrap();
    assert_eq!(answer.status(), 200);
    let said: Value = serde_json::from_slice(answer.body()).unwrap();
    assert_eq!(said["route_generation"], "gen-7");
    assert_eq!((&said["status"], &said["route_strategy"]), (&json!("ok"), &json!("shared")));
    assert_eq!(said["snapshots"], json!({"enabled": false}));
    let text = String::from_utf8_lossy(answer.body());
    assert!(!text.contains("alice") && !text.contains(&server.port().to_string()), "{text}");
}

#[tokio::test]
async fn a_call_whose_client_goes_away_is_in_the_audit_too() {
    let server = Server::start(Flavour::Python2).await;
    let mut authd = authd(&server, "").await;
    let alice = client(&authd, ALICE).await;
    let call = alice.call_text("echo", json!({"text": "x", "sleep_ms": 30_000}));
    tokio::select! {
        answer = call => panic!("answered: {answer:?}"),
        () = server.until(|server| server.started("echo") == 1) => {}
    }
    drop(alice);
    assert!(authd.stop().await.success());
    let lines = audit(authd.directory());
    let call = lines.iter().find(|line| line["name"] == "echo").unwrap();
    assert_eq!((&call["subject"], &call["cut"]), (&json!("alice"), &json!(true)), "{call}");
}

#[tokio::test]
async fn calls_in_flight_finish_within_the_grace_and_what_listens_ends_at_once() {
    let server = Server::start(Flavour::Python2).await;
    let mut authd = authd(&server, "").await;
    let (alice, bob) = (client(&authd, ALICE).await, client(&authd, BOB).await);
    let mut stream = bob.open_get().await.unwrap();
    let call = alice.call_text("echo", json!({"text": "done", "sleep_ms": 1_500}));
    let stop = async {
        server.until(|server| server.started("echo") == 1).await;
        authd.signal(Signal::SIGTERM);
        assert!(stream.next_message().await.is_none() && stream.broken().is_none());
        assert_eq!(server.executed("echo"), 0, "the call still runs");
    };
    let (answer, ()) = tokio::join!(call, stop);
    assert_eq!(answer.unwrap(), "done");
    assert!(authd.end().await.success());
}

#[tokio::test]
async fn a_request_whose_token_is_revoked_while_it_waits_is_not_run() {
    let server = Server::start(Flavour::Python2).await;
    // A stream would give its place back with its head.
    server.set(|switches| switches.answers = Answers::Json);
    let authd = authd(&server, "[route.r]\nconcurrency = 1\n").await;
    let (alice, bob) = (client(&authd, ALICE).await, client(&authd, BOB).await);
    let first = bob.call_text("echo", json!({"text": "first", "sleep_ms": 4_000}));
    let waits = async {
        server.until(|server| server.started("echo") == 1).await;
        let second = alice.call_text("count", json!({}));
        let revoke = async {
            replace_tokens(&authd, &tokens(&[("bob", BOB)]));
            authd.until_logged("were read anew").await;
            assert_eq!(server.executed("echo"), 0, "the second one still waits");
        };
        tokio::join!(second, revoke).0
    };
    let (first, second) = tokio::join!(first, waits);
    assert_eq!(first.unwrap(), "first");
    assert!(second.unwrap_err().message().contains("no longer valid"));
    assert_eq!(server.started("count"), 0);
}

/// One of two worlds: a token, the route it leads to, the server there and the credential that it wants all belong together.
async fn world(n: usize, directory: &Path) -> (Server, String) {
    let server = Server::start(Flavour::Python2).await;
    let tokens = format!("[token.alice]\ntoken = '{ALICE}'\nroute = 'route-{n}'\n");
    let tokens = Authd::secret_file(directory, &format!("tokens-{n}.toml"), &tokens);
    let own = Authd::secret_file(directory, &format!("own-{n}"), &format!("credential-{n}"));
    let settings = format!(
        "tokens = '{}'\n[[upstream]]\naddress = '{}'\nidentity_headers = true\ntoken_file = '{}'\n",
        tokens.display(),
        server.url(),
        own.display()
    );
    (server, settings)
}

#[tokio::test]
async fn no_request_sees_half_of_a_reload() {
    const RELOADS: usize = 60;
    let directory = tempfile::tempdir().unwrap();
    let worlds = [world(0, directory.path()).await, world(1, directory.path()).await];
    let authd = Authd::start(BINARY, |_| worlds[0].1.clone()).await;
    let (stop, sent) = (AtomicBool::new(false), AtomicUsize::new(0));
    let client = Client::builder(&authd.url())
        .header("authorization", &format!("Bearer {ALICE}"))
        .lenient()
        .unconnected();
    let load = async || {
        while !stop.load(Relaxed) {
            let ping = bytes::Bytes::from(r#"{"jsonrpc":"2.0","id":1,"method":"ping"}"#);
            let answer = client.raw(client.prepared(http::Method::POST, ping)).await.unwrap();
            assert_ne!(answer.status(), 401, "the token is good in both worlds");
            sent.fetch_add(1, Relaxed);
        }
    };
    let reloads = async {
        for n in 1..=RELOADS {
            let settings = &worlds[n % 2].1;
            // What is wrong at its very end changes nothing of what was right.
            let (status, _) = authd.reload(&format!("{}[route.a]\nqueue = 1\n", worlds[(n + 1) % 2].1)).await;
            assert_eq!(status, 422);
            let (status, said) = authd.reload(settings).await;
            assert_eq!(status, 200, "{said}");
            let before = sent.load(Relaxed);
            worlds[n % 2].0.until(|_| sent.load(Relaxed) > before + 4).await;
        }
        stop.store(true, Relaxed);
    };
    tokio::join!(reloads, load(), load(), load());
    for (n, (server, _)) in worlds.iter().enumerate() {
        let seen = server.requests();
        assert!(seen.len() > RELOADS, "{} requests in world {n}", seen.len());
        for request in seen {
            let told = |name: &str| request.headers[name].to_str().unwrap().to_owned();
            let expected = (format!("route-{n}"), format!("Bearer credential-{n}"));
            assert_eq!((told("mcp-route"), told("authorization")), expected);
        }
    }
}

#[tokio::test]
async fn a_reload_is_done_though_nobody_waits_for_its_answer() {
    let server = Server::start(Flavour::Python2).await;
    let authd = authd(&server, "").await;
    let file = authd.settings_file();
    let settings = fs::read_to_string(&file).unwrap();
    // Settings that are read only as fast as they are written.
    fs::remove_file(&file).unwrap();
    nix::unistd::mkfifo(&file, nix::sys::stat::Mode::S_IRWXU).unwrap();
    let mut asking = UnixStream::connect(authd.control_socket()).await.unwrap();
    asking.write_all(b"POST /reload HTTP/1.1\r\nhost: x\r\n\r\n").await.unwrap();
    let opened = tokio::task::spawn_blocking(move || fs::File::options().write(true).open(file));
    let mut pipe = timeout(NOTICED * 10, opened).await.expect("it begins to read").unwrap().unwrap();
    drop(asking);
    // Answered after the end of the other connection was seen.
    authd.control("GET", "/status").await;
    std::io::Write::write_all(&mut pipe, settings.as_bytes()).unwrap();
    drop(pipe);
    authd.until_logged("reloaded").await;
}
