//! What comes from outside and would like to be more than it is: names of routes that lead out of their directory, and
//! headers that say who somebody is.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking, and its tasks end with its runtime")]

use std::{
    fs,
    path::Path,
    time::{SystemTime, UNIX_EPOCH},
};

use bytes::Bytes;
use http::{HeaderValue, Method, Response};
use jsonwebtoken::{Algorithm, EncodingKey, Header, encode};
use serde_json::{Value, json};
use support::{Authd, Client, Curl, Flavour, Server};
use tokio::process::Command;

const BINARY: &str = env!("CARGO_BIN_EXE_mcp-authd");
const SECRET: &str = "a-secret-of-at-least-32-characters";
const ALICE: &str = "alice-its-token-of-32-characters";
const PING: &str = r#"{"jsonrpc":"2.0","id":1,"method":"ping"}"#;
/// Where `claims` says how the route follows from a token.
const ISSUER: &str = "https://login.example";
/// Names that lead somewhere else, for one reader or another.
const OUT: [&str; 14] = [
    "../outside",
    "..",
    ".",
    "a/../../outside",
    "/outside",
    "..%2foutside",
    "..\\outside",
    "../outside\0",
    "outside/",
    "./outside",
    "{route}",
    "",
    " ",
    "\u{2e}\u{2e}\u{2215}outside",
];

/// An HS256 token with these claims beside the usual ones.
fn token(claims: Value) -> String {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs();
    let mut all = json!({"iss": ISSUER, "aud": "us", "sub": "alice", "exp": now + 3600});
    all.as_object_mut().unwrap().extend(claims.as_object().unwrap().clone());
    encode(&Header::new(Algorithm::HS256), &all, &EncodingKey::from_secret(SECRET.as_bytes())).unwrap()
}

/// mcp-authd with a socket for each route in `inside`, beside which there is `outside.sock`.
async fn authd(sockets: &Path, claims: &str) -> Authd {
    Authd::start(BINARY, |directory| {
        let secret = Authd::secret_file(directory, "secret", SECRET);
        let tokens = Authd::secret_file(directory, "tokens.toml", &format!("[token]\nalice = '{ALICE}'\n"));
        format!(
            "upstream = 'unix:{}/inside/{{route}}.sock'\ntokens = '{}'\nhealth = {{ patience = '1ms' }}\nwrong = {{ first_delay = '1ms', longest_delay = '1ms' }}\n[[jwt]]\nissuer = '{ISSUER}'\naudience = ['us']\nalgorithms = ['HS256']\nsecret_file = '{}'\n{claims}\n",
            sockets.display(),
            tokens.display(),
            secret.display()
        )
    })
    .await
}

async fn server(sockets: &Path, name: &str) -> Server {
    fs::create_dir_all(sockets.join("inside")).unwrap();
    Server::builder(Flavour::Python2).unix(sockets.join(name)).start().await.unwrap()
}

async fn ping(authd: &Authd, token: &str) -> Response<Bytes> {
    let client = Client::builder(&authd.url()).header("authorization", &format!("Bearer {token}"));
    let client = client.lenient().unconnected();
    client.raw(client.prepared(Method::POST, Bytes::from(PING))).await.unwrap()
}

#[tokio::test]
async fn no_claim_leads_out_of_the_directory_of_the_sockets() {
    let sockets = tempfile::tempdir().unwrap();
    let outside = server(sockets.path(), "outside.sock").await;
    let by_claim = authd(sockets.path(), "route_claim = 'team'").await;
    let by_subject = authd(sockets.path(), "").await;
    for evil in OUT {
        assert_eq!(ping(&by_claim, &token(json!({"team": evil}))).await.status(), 401, "{evil:?}");
        // A subject can be much, but the route that is made of it is none of that.
        let answer = ping(&by_subject, &token(json!({"sub": evil}))).await;
        let is_let_in = answer.status() == 200;
        assert!(is_let_in || answer.status() == 401, "{evil:?}: {answer:?}");
    }
    let (_, routes) = by_subject.control("GET", "/routes").await;
    let made: Vec<&str> =
        routes.as_array().unwrap().iter().map(|route| route["route"].as_str().unwrap()).collect();
    assert!(made.len() >= 8 && made.iter().all(|route| route.starts_with("j-")), "{made:?}");
    let (_, routes) = by_claim.control("GET", "/routes").await;
    assert_eq!(routes, json!([]));
    assert_eq!(outside.requests().len(), 0);
}

#[tokio::test]
async fn no_settings_name_a_route_that_leads_out_of_a_directory() {
    let directory = tempfile::tempdir().unwrap();
    let check = async |settings: String, env: &[(&str, &str)]| {
        let file = directory.path().join("settings.toml");
        fs::write(&file, settings).unwrap();
        let mut command = Command::new(BINARY);
        command.env_remove("API_TOKEN").env_remove("API_TOKENS_JSON").envs(env.iter().copied());
        let output = command.arg("check").arg("--config").arg(&file).output().await.unwrap();
        (output.status.code(), String::from_utf8(output.stderr).unwrap())
    };
    let upstream = "upstream = 'unix:/run/{route}.sock'";
    // TOML has no NUL.
    for evil in OUT.into_iter().filter(|evil| !evil.contains(char::is_control)) {
        let tokens = json!([{"name": "alice", "token": ALICE, "route": evil}]).to_string();
        for (settings, env) in [
            (format!("{upstream}\n[route.'{evil}']\nqueue = 1\nconcurrency = 1"), &[][..]),
            (
                format!(
                    "{upstream}\n[[jwt]]\nissuer = 'i'\naudience = ['us']\nalgorithms = ['HS256']\nsecret_file = '/s'\nroute = '{evil}'"
                ),
                &[],
            ),
            (upstream.to_owned(), &[("API_TOKENS_JSON", &*tokens)]),
        ] {
            let (code, said) = check(settings.clone(), env).await;
            assert_eq!(code, Some(78), "{settings} {env:?}: {said}");
            assert!(said.contains("1-63 of") && !said.contains(ALICE), "{said}");
        }
    }
}

#[tokio::test]
async fn an_upstream_hears_who_asks_from_us_alone() {
    let sockets = tempfile::tempdir().unwrap();
    let server = server(sockets.path(), "inside/alice.sock").await;
    let authd = authd(sockets.path(), "").await;
    let client = Client::builder(&authd.url()).header("authorization", &format!("Bearer {ALICE}")).lenient();
    let client = client.connect().await.unwrap();
    server.clear();
    let forged = [
        ("mcp-auth-subject", "root"),
        ("mcp-auth-subject", "admin"),
        ("mcp-route", "other"),
        ("mcp-not-forwarded", "1"),
        // Some servers take both spellings for one.
        ("mcp_auth_subject", "root"),
        ("mcp_route", "other"),
        ("forwarded", "for=192.0.2.1"),
        ("x-forwarded-for", "192.0.2.1"),
        ("cookie", "session=root"),
        ("proxy-authorization", "Basic cm9vdDo="),
        // Nor can it be had that what we say is taken for the connection's own.
        ("connection", "mcp-auth-subject, mcp-route, mcp-session-id"),
    ];
    for method in [Method::POST, Method::GET, Method::DELETE] {
        let body = if method == Method::POST { PING } else { "" };
        let mut request = client.prepared(method.clone(), Bytes::from(body));
        for (name, value) in forged {
            request.headers_mut().append(name, HeaderValue::from_static(value));
        }
        client.raw(request).await.unwrap();
        let seen = server.requests().pop().unwrap().headers;
        for name in ["mcp-auth-subject", "mcp-route"] {
            let values: Vec<_> = seen.get_all(name).iter().collect();
            assert_eq!(values, ["alice"], "{method} {name}");
        }
        let gone =
            ["mcp-not-forwarded", "mcp_auth_subject", "mcp_route", "forwarded", "x-forwarded-for", "cookie"];
        for name in gone.into_iter().chain(["proxy-authorization", "authorization"]) {
            assert!(!seen.contains_key(name), "{method} {name}");
        }
    }
    assert_eq!(server.requests().len(), 3);
}

#[tokio::test]
async fn curl_needs_a_token_and_nothing_else() {
    let sockets = tempfile::tempdir().unwrap();
    let server = server(sockets.path(), "inside/alice.sock").await;
    let authd = authd(sockets.path(), "").await;
    let Some(curl) = Curl::at(&authd.url()).await else { return };
    let call = json!({"jsonrpc": "2.0", "id": 1, "method": "tools/call", "params": {"name": "echo", "arguments": {"text": "from curl"}}});
    let nobody = curl.post(&call).await;
    assert!(nobody.starts_with("HTTP/1.1 401"), "{nobody}");
    assert_eq!(server.requests().len(), 0);
    let curl = curl.with(&format!("Authorization: Bearer {ALICE}")).into_session().await;
    let answer = curl.post(&call).await;
    assert!(answer.starts_with("HTTP/1.1 200") && answer.contains("from curl"), "{answer}");
}
