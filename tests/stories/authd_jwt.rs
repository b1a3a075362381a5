//! Tokens that an issuer signs: whose keys change, and whose key server is down, slow or out of its mind.
#![allow(
    clippy::disallowed_methods,
    clippy::unwrap_used,
    reason = "a test fails by panicking, and its tasks end with its runtime"
)]

use std::path::Path;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use aws_lc_rs::signature::{ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair, KeyPair as _};
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use jsonwebtoken::{Algorithm, EncodingKey, Header, encode};
use serde_json::{Value, json};
use support::{Authd, Client, Flavour, KeyServer, Server};
use tokio::time::timeout;

const BINARY: &str = env!("CARGO_BIN_EXE_mcp-authd");
const ISSUER: &str = "https://login.example.org";
/// What tells a cut stream from one that goes on; nothing waits for it where all is well.
const SOON: Duration = Duration::from_secs(20);

/// One of the issuer's keys.
struct Key {
    id: &'static str,
    pair: EcdsaKeyPair,
}

impl Key {
    fn new(id: &'static str) -> Self {
        Key { id, pair: EcdsaKeyPair::generate(&ECDSA_P256_SHA256_FIXED_SIGNING).unwrap() }
    }

    fn public(&self) -> Value {
        let (x, y) = self.pair.public_key().as_ref()[1..].split_at(32);
        let [x, y] = [x, y].map(|number| URL_SAFE_NO_PAD.encode(number));
        json!({"kty": "EC", "crv": "P-256", "use": "sig", "alg": "ES256", "kid": self.id, "x": x, "y": y})
    }

    fn token(&self, subject: &str) -> String {
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs();
        let claims = json!({"iss": ISSUER, "aud": "us", "sub": subject, "iat": now, "exp": now + 3600});
        let header = Header { kid: Some(self.id.into()), ..Header::new(Algorithm::ES256) };
        let private = self.pair.to_pkcs8v1().unwrap();
        encode(&header, &claims, &EncodingKey::from_ec_der(private.as_ref())).unwrap()
    }
}

fn set(keys: &[&Key]) -> Value {
    json!({"keys": keys.iter().map(|key| key.public()).collect::<Vec<_>>()})
}

/// mcp-authd with one issuer, in front of the server of each route's own socket.
async fn authd(keys: &KeyServer) -> Authd {
    let url = keys.url();
    Authd::start(BINARY, |directory| {
        format!(
            "upstream = 'unix:{}/{{route}}.sock'\n[wrong]\nfirst_delay = '1ms'\nlongest_delay = '1ms'\n[[jwt]]\nissuer = '{ISSUER}'\naudience = ['us']\nalgorithms = ['ES256']\njwks = '{url}'\n",
            directory.display()
        )
    })
    .await
}

async fn server_of(route: &str, directory: &Path) -> Server {
    Server::builder(Flavour::Python2).unix(directory.join(format!("{route}.sock"))).start().await.unwrap()
}

async fn connect(authd: &Authd, token: &str) -> Result<Client, support::RpcFailure> {
    let bearer = format!("Bearer {token}");
    Client::builder(&authd.url()).header("authorization", &bearer).lenient().connect().await
}

async fn status(authd: &Authd, token: &str) -> u16 {
    match connect(authd, token).await {
        Ok(_) => 200,
        Err(failure) => failure.status.unwrap_or_default(),
    }
}

#[tokio::test]
async fn a_token_leads_to_the_instance_of_its_subject() {
    let key = Key::new("1");
    let keys = KeyServer::start(&set(&[&key])).await;
    let authd = authd(&keys).await;
    let (alice, bob) =
        (server_of("alice", authd.directory()).await, server_of("bob", authd.directory()).await);
    let client = connect(&authd, &key.token("alice")).await.unwrap();
    client.call_text("count", json!({})).await.unwrap();
    assert_eq!((alice.executed("count"), bob.requests().len()), (1, 0));
    let call = alice.requests().pop().unwrap();
    assert_eq!(
        (&call.headers["mcp-auth-subject"], &call.headers["mcp-route"]),
        (&"alice".parse().unwrap(), &"alice".parse().unwrap())
    );
    assert!(!call.headers.contains_key("authorization"), "the credential stays here");
    let line = authd.until_out("tools/call").await;
    let line: Value = serde_json::from_str(&line).unwrap();
    assert_eq!((&line["subject"], &line["route"]), (&json!("alice"), &json!("alice")));
}

#[tokio::test]
async fn a_new_key_is_fetched_once_for_all_who_bring_its_tokens_and_an_old_one_ends() {
    let (old, new) = (Key::new("old"), Key::new("new"));
    let keys = KeyServer::start(&set(&[&old])).await;
    let authd = authd(&keys).await;
    let _alice = server_of("alice", authd.directory()).await;
    let before = connect(&authd, &old.token("alice")).await.unwrap();
    let mut stream = before.open_get().await.unwrap();
    let fetches = keys.asked();
    assert_eq!(fetches, 1, "once, at the start");

    keys.serve(&set(&[&new]));
    keys.hold(true);
    let url = authd.url();
    let clients: Vec<_> = (0..20)
        .map(|_| {
            let client =
                Client::builder(&url).header("authorization", &format!("Bearer {}", new.token("alice")));
            tokio::spawn(client.lenient().connect())
        })
        .collect();
    keys.until_asked(fetches + 1).await;
    keys.hold(false);
    for client in clients {
        client.await.unwrap().expect("a token by the new key is good at once");
    }
    assert_eq!(keys.asked(), fetches + 1, "one fetch for all of them");

    let cut = timeout(SOON, stream.next_message()).await.expect("the stream of the old key is cut");
    assert!(cut.is_none());
    assert_eq!(status(&authd, &old.token("alice")).await, 401);
    for made_up in ["1", "../../../dev/null", "http://127.0.0.1:1/", "x' OR '1'='1"] {
        let thief = Key { id: made_up, ..Key::new("") };
        assert_eq!(status(&authd, &thief.token("alice")).await, 401, "{made_up}");
    }
    assert_eq!(keys.asked(), fetches + 1, "whoever makes names up makes us ask once a minute at most");
}

#[tokio::test]
async fn keys_outlive_the_key_server_and_a_restart() {
    let key = Key::new("1");
    let keys = KeyServer::start(&set(&[&key])).await;
    let mut authd = authd(&keys).await;
    let _alice = server_of("alice", authd.directory()).await;
    connect(&authd, &key.token("alice")).await.unwrap();
    keys.stop().await;
    connect(&authd, &key.token("alice")).await.expect("its key is known");
    assert!(authd.stop().await.success());
    authd.start_again().await;
    authd.until_logged("known from before").await;
    connect(&authd, &key.token("alice")).await.expect("its key is known from before");
    authd.until_logged("could not be fetched").await;
    assert_eq!(status(&authd, &Key::new("2").token("alice")).await, 401);
    // But not for ever: who knows what was withdrawn since.
    assert!(authd.stop().await.success());
    let kept = std::fs::read_dir(authd.directory().join("state/mcp-authd"))
        .unwrap()
        .map(|entry| entry.unwrap().path());
    let kept = kept.filter(|path| path.file_name().unwrap().to_str().unwrap().starts_with("jwks-"));
    for path in kept.collect::<Vec<_>>() {
        let two_days = Duration::from_secs(2 * 86_400);
        std::fs::File::options()
            .append(true)
            .open(path)
            .unwrap()
            .set_modified(SystemTime::now() - two_days)
            .unwrap();
    }
    authd.start_again().await;
    authd.until_logged("too old to be believed").await;
    assert_eq!(status(&authd, &key.token("alice")).await, 401);
}

#[tokio::test]
async fn a_start_without_keys_heals_when_the_key_server_is_back() {
    let key = Key::new("1");
    let keys = KeyServer::start(&set(&[&key])).await;
    keys.stop().await;
    let authd = authd(&keys).await;
    let _alice = server_of("alice", authd.directory()).await;
    authd.until_logged("could not be fetched").await;
    assert_eq!(status(&authd, &key.token("alice")).await, 401);
    keys.start_again();
    authd.until_logged("keys are new").await;
    connect(&authd, &key.token("alice")).await.unwrap();
}

#[tokio::test]
async fn what_a_key_server_says_that_is_no_set_of_keys_changes_nothing() {
    let key = Key::new("1");
    let elsewhere = KeyServer::start(&set(&[&Key::new("2")])).await;
    let redirect = format!("location: {}\r\n", elsewhere.url());
    let huge = format!("{{\"keys\":[{}]}}", " ".repeat(1 << 20));
    let secret = r#"{"keys":[{"kty":"oct","kid":"2","k":"AAAA"}]}"#;
    for (said, headers, body) in [
        ("500 Internal Server Error", "", "{\"keys\":[]}"),
        ("302 Found", redirect.as_str(), "{\"keys\":[]}"),
        ("200 OK", "", "<html>sign in</html>"),
        ("200 OK", "", &huge),
        ("200 OK", "", secret),
        ("200 OK", "content-encoding: gzip\r\n", "\u{1f}garbage"),
    ] {
        let keys = KeyServer::start(&set(&[&key])).await;
        let authd = authd(&keys).await;
        let _alice = server_of("alice", authd.directory()).await;
        connect(&authd, &key.token("alice")).await.unwrap();
        keys.say(said, headers, body);
        assert_eq!(status(&authd, &Key::new("2").token("alice")).await, 401, "{said} {body:.40}");
        authd.until_logged("could not be fetched").await;
        connect(&authd, &key.token("alice")).await.expect("its key is still known");
    }
    assert_eq!(elsewhere.asked(), 0, "nobody but the settings says where keys are");
}
