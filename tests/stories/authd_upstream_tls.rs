//! An upstream that is reached over TLS, with certificates of an authority of its own: what is wrong with one is said, nothing
//! is sent to whoever shows it, and a right one is enough to go on.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking, and its tasks end with its runtime")]

use std::fs;

use rcgen::date_time_ymd;
use serde_json::{Value, json};
use support::{Authd, Authority, Client, ClientBuilder, Face, Flavour, Server, TlsFront};
use tempfile::TempDir;

const BINARY: &str = env!("CARGO_BIN_EXE_mcp-authd");
const TOKEN: &str = "alice-its-token-of-32-characters";
const OF_THE_SERVER: &str = "the-servers-own-token";
const HOST: &str = "localhost";

/// A server behind TLS, the authority that mcp-authd trusts, and it alone.
struct Place {
    authority: Authority,
    server: Server,
    front: TlsFront,
    authd: Authd,
    _directory: TempDir,
}

impl Place {
    async fn new() -> Place {
        let authority = Authority::new("trusted");
        // Its own port is not the one that is known.
        let server = Server::builder(Flavour::Python2).set(|switches| switches.strict_host = false);
        let server = server.start().await.unwrap();
        let front = TlsFront::start(&server, authority.face(HOST)).await;
        let directory = tempfile::tempdir().unwrap();
        let trusted = directory.path().join("trusted.pem");
        fs::write(&trusted, &authority.pem).unwrap();
        let settings = |directory: &std::path::Path| {
            let tokens =
                Authd::secret_file(directory, "tokens.toml", &format!("[token]\nalice = '{TOKEN}'\n"));
            let own = Authd::secret_file(directory, "own", OF_THE_SERVER);
            format!(
                "tokens = '{}'\nhealth = {{ patience = '300ms' }}\n[[upstream]]\naddress = '{}'\ntoken_file = '{}'\n",
                tokens.display(),
                front.url(HOST),
                own.display()
            )
        };
        // Whatever the machine trusts does not count.
        let env = [("SSL_CERT_FILE", trusted.to_str().unwrap()), ("SSL_CERT_DIR", "")];
        let authd = Authd::start_with(BINARY, settings, &[], &env).await;
        Place { authority, server, front, authd, _directory: directory }
    }

    fn client(&self) -> ClientBuilder {
        Client::builder(&self.authd.url()).header("authorization", &format!("Bearer {TOKEN}")).lenient()
    }
}

#[tokio::test]
async fn calls_and_streams_pass_over_tls_on_connections_that_are_kept() {
    let place = Place::new().await;
    let client = place.client().connect().await.unwrap();
    let handshakes = place.front.handshakes();
    for n in 1..=20 {
        assert_eq!(client.call_text("count", json!({})).await.unwrap(), n.to_string());
    }
    assert!(place.front.handshakes() <= handshakes + 1, "a handshake for every call");
    let large = "0123456789abcdef".repeat(1 << 15);
    assert_eq!(client.call_text("echo", json!({"text": large})).await.unwrap(), large);
    let mut events = client.open_get().await.unwrap();
    place.server.until(|server| server.streams() == 1).await;
    place.server.notify(&json!({"jsonrpc": "2.0", "method": "notifications/tools/list_changed"}));
    let heard: Value = events.next_message().await.unwrap();
    assert_eq!(heard["method"], "notifications/tools/list_changed");
    let named = format!("{HOST}:{}", place.front.port());
    for request in place.server.requests() {
        assert_eq!(request.headers["host"], named);
        assert_eq!(request.headers["authorization"], format!("Bearer {OF_THE_SERVER}"));
        assert!(!request.headers.contains_key("mcp-auth-subject"), "the Internet need not know who asks");
    }
}

#[tokio::test]
async fn a_renewed_certificate_is_taken_without_a_word() {
    let place = Place::new().await;
    let client = place.client().connect().await.unwrap();
    for n in 1..=3 {
        place.front.restart(place.authority.face(HOST)).await;
        assert_eq!(client.call_text("count", json!({})).await.unwrap(), n.to_string());
    }
    assert_eq!((place.server.initializes(), place.server.executed("count")), (1, 3));
}

/// `reason` is in the log, the client hears in time and in form that the server cannot be reached, and nobody of the wrong
/// face gets to see a byte of the request.
async fn is_refused(place: &Place, client: &Client, wrong: Face, reason: &str) {
    let (handshakes, requests) = (place.front.handshakes(), place.server.requests().len());
    place.front.restart(wrong).await;
    let refused = client.call("count", json!({})).await.unwrap_err();
    assert_eq!(refused.status, Some(200), "{reason}: {refused}");
    assert!(refused.message().contains("cannot be reached"), "{reason}: {refused}");
    place.authd.until_logged(reason).await;
    assert_eq!((place.front.handshakes(), place.server.requests().len()), (handshakes, requests), "{reason}");
}

#[tokio::test]
async fn a_certificate_that_is_not_good_is_refused_and_named_until_there_is_a_good_one() {
    let place = Place::new().await;
    let client = place.client().connect().await.unwrap();
    let other_name = place.authority.face("other.example");
    let expired = place.authority.face_with(HOST, |params| {
        (params.not_before, params.not_after) = (date_time_ymd(2020, 1, 1), date_time_ymd(2021, 1, 1));
    });
    for (n, (wrong, reason)) in [
        (other_name, "certificate not valid for name"),
        (Authority::new("nobody knows it").face(HOST), "UnknownIssuer"),
        (expired, "certificate expired"),
        (Face::Plain, "does not speak TLS"),
    ]
    .into_iter()
    .enumerate()
    {
        is_refused(&place, &client, wrong, reason).await;
        place.front.restart(place.authority.face(HOST)).await;
        assert_eq!(client.call_text("count", json!({})).await.unwrap(), (n + 1).to_string(), "{reason}");
    }
}
