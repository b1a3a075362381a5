//! A person makes, lists and revokes tokens while mcp-authd serves, and asks what a token is worth; bad files are refused in
//! one line.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::{Output, Stdio};
use std::time::Duration;

use serde_json::{Value, json};
use support::{Authd, Client, Flavour, Server};
use tempfile::TempDir;
use tokio::process::Command;
use tokio::time::timeout;

const BINARY: &str = env!("CARGO_BIN_EXE_mcp-authd");
const USAGE: i32 = 64;
const UNAVAILABLE: i32 = 69;
const CONFIG: i32 = 78;
const A: &str = "s3cret-s3cret-s3cret-a";
const B: &str = "s3cret-s3cret-s3cret-b";

/// A directory in which commands are run.
struct Desk(TempDir);

impl Desk {
    fn new() -> Self {
        Self(tempfile::tempdir().unwrap())
    }

    fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    fn write(&self, name: &str, text: &str) -> PathBuf {
        Authd::secret_file(self.0.path(), name, text)
    }

    /// Runs `mcp-authd` with these words.
    async fn run(&self, words: &str) -> Output {
        self.run_with(words, &[]).await
    }

    async fn run_with(&self, words: &str, env: &[(&str, &str)]) -> Output {
        let mut command = Command::new(BINARY);
        command
            .args(words.split_whitespace())
            .current_dir(self.0.path())
            .env_clear()
            .envs(env.iter().copied());
        command.env("XDG_STATE_HOME", self.path("state")).env("XDG_RUNTIME_DIR", self.path("run"));
        command.stdin(Stdio::null()).kill_on_drop(true);
        timeout(Duration::from_secs(60), command.output()).await.expect("it ends by itself").unwrap()
    }

    /// What a command that ends well prints.
    async fn said(&self, words: &str) -> String {
        let output = self.run(words).await;
        assert!(output.status.success(), "{words}: {}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8(output.stdout).unwrap()
    }

    /// The one line in which a command is refused.
    async fn refused(&self, words: &str, code: i32) -> String {
        let output = self.run(words).await;
        let line = String::from_utf8(output.stderr).unwrap();
        assert_eq!(output.status.code(), Some(code), "{words}: {line}");
        assert!(line.starts_with("mcp-authd: ") && line.lines().count() == 1, "{words}: {line}");
        line
    }
}

async fn serving(server: &Server, tokens: &Path) -> Authd {
    let settings = format!("tokens = '{}'\nupstream = '{}'\n", tokens.display(), server.url());
    Authd::start(BINARY, |_| settings).await
}

fn client(authd: &Authd, token: &str) -> support::ClientBuilder {
    Client::builder(&authd.url()).header("authorization", &format!("Bearer {}", token.trim())).lenient()
}

#[tokio::test]
async fn a_new_token_opens_and_a_revoked_one_does_not_and_its_stream_is_cut() {
    let (desk, server) = (Desk::new(), Server::start(Flavour::Python2).await);
    let alice = desk.said("token new alice --tokens tokens.toml").await;
    assert!(alice.starts_with("mcp_") && alice.trim().len() == 47 && alice.lines().count() == 1, "{alice}");
    let mode = fs::metadata(desk.path("tokens.toml")).unwrap().permissions().mode();
    assert_eq!(mode & 0o7777, 0o600);
    let mut authd = serving(&server, &desk.path("tokens.toml")).await;
    // Made while it serves.
    let bob = desk.said("token new bob --tokens tokens.toml --route r-b --expires 30d").await;
    authd.until_logged("read anew").await;
    let text = fs::read_to_string(desk.path("tokens.toml")).unwrap();
    assert!(!text.contains(alice.trim()) && !text.contains(bob.trim()), "only hashes are kept: {text}");
    let (of_alice, of_bob) = (client(&authd, &alice), client(&authd, &bob));
    let (of_alice, of_bob) = (of_alice.connect().await.unwrap(), of_bob.connect().await.unwrap());
    let mut stream = of_alice.open_get().await.unwrap();
    server.until(|server| server.streams() == 1).await;
    desk.said("token revoke alice --tokens tokens.toml").await;
    let cut = timeout(Duration::from_secs(10), stream.next_message()).await.expect("the stream is cut");
    assert!(cut.is_none(), "{cut:?}");
    let refused = of_alice.call_text("count", json!({})).await.unwrap_err();
    assert!(format!("{refused:?}").contains("401"), "{refused:?}");
    assert_eq!(of_bob.call_text("count", json!({})).await.unwrap(), "1");
    authd.stop().await;
    assert!(!authd.log().iter().any(|line| line.contains(alice.trim()) || line.contains(bob.trim())));
    // The last use outlives the daemon; its state is in the directory that the test support gives it.
    let state = authd.directory().join("state/mcp-authd");
    let listed =
        desk.said(&format!("token list --json --tokens tokens.toml --state-dir {}", state.display())).await;
    let listed: Value = serde_json::from_str(&listed).unwrap();
    assert_eq!((&listed[0]["name"], &listed[0]["state"]), (&json!("alice"), &json!("disabled")));
    assert_eq!((&listed[1]["route"], &listed[1]["state"]), (&json!("r-b"), &json!("ok")));
    assert!(listed[0]["last_use"].is_string() && listed[1]["last_use"].is_string(), "{listed}");
    assert!(listed[1]["expires"].is_string() && listed[0]["expires"].is_null(), "{listed}");
    // It goes on after a restart.
    authd.start_again().await;
    authd.stop().await;
    let again =
        desk.said(&format!("token list --json --tokens tokens.toml --state-dir {}", state.display())).await;
    assert_eq!(serde_json::from_str::<Value>(&again).unwrap(), listed);
}

#[tokio::test]
async fn tokens_of_the_environment_lead_where_the_wrapper_led_them() {
    let server = Server::start(Flavour::Python2).await;
    let each = format!("{{\"terminal-b\": \"{B}\"}}");
    let settings = format!("upstream = '{}'\n", server.url());
    let environment = [("API_TOKEN", A), ("API_TOKENS_JSON", &*each)];
    let authd = Authd::start_with(BINARY, |_| settings, &[], &environment).await;
    for (token, route) in [(A, "default"), (B, "terminal-b")] {
        client(&authd, token).connect().await.unwrap().call_text("count", json!({})).await.unwrap();
        let line = authd.until_out(&format!("\"route\":\"{route}\"")).await;
        assert!(!line.contains(token), "{line}");
    }
    let desk = Desk::new();
    let output = desk.run_with("token list --json", &[("API_TOKENS_JSON", &format!("[\"{A}\"]"))]).await;
    let listed: Value = serde_json::from_slice(&output.stdout).unwrap();
    let route = listed[0]["route"].as_str().unwrap();
    assert!(route.starts_with("t-") && route.len() == 14 && listed[0]["name"] == route, "{listed}");
}

#[tokio::test]
async fn a_directory_has_a_file_for_each() {
    let desk = Desk::new();
    fs::create_dir(desk.path("tokens")).unwrap();
    desk.write("tokens/alice", &format!("{A}\n"));
    let bob = desk.said("token new bob --tokens tokens --scope tools --scope more --note laptop").await;
    let file = fs::read_to_string(desk.path("tokens/bob.toml")).unwrap();
    assert!(file.contains("scopes = [\"tools\", \"more\"]") && !file.contains(bob.trim()), "{file}");
    let table = desk.said("token list --tokens tokens").await;
    let words: Vec<Vec<&str>> = table.lines().map(|line| line.split_whitespace().collect()).collect();
    assert_eq!(words[1], ["alice", "alice", "alice", "ok", "-", "-"], "{table}");
    assert_eq!(words[2], ["bob", "bob", "bob", "ok", "-", "-"], "{table}");
    desk.said("token revoke alice --tokens tokens").await;
    assert!(desk.said("token list --tokens tokens").await.lines().nth(1).unwrap().contains("disabled"));
    assert!(!desk.path("tokens/alice").exists());
}

#[tokio::test]
async fn what_cannot_be_is_refused_in_one_line_with_its_place() {
    let desk = Desk::new();
    let check = "check --tokens tokens --upstream http://127.0.0.1:9/mcp";
    for (text, expected) in [
        (
            format!("[token.a]\ntoken = '{A}'\n[token.b]\ntoken = '{A}'\n"),
            "tokens:3: token.b: the same token as that of `a`",
        ),
        (
            format!("[token.a]\ntoken = '{A}'\nexpirs = '2027-01-31'\n"),
            "tokens:3: token.a.expirs: unknown key",
        ),
        ("[token.a]\nhash = 'sha256:s3cret'\n".into(), "tokens:2: token.a.hash: expected `sha256:`"),
        (
            "{\"a\": \"s3cret\"}".into(),
            "tokens:1: a.token: shorter than 16 characters, so that it can be guessed; `mcp-authd token new` makes",
        ),
        (
            format!("[token.a]\ntoken = '{A}'\nroute = '../s3cret'\n"),
            "tokens:3: token.a.route: expected 1-63 of",
        ),
        (
            format!("[token.a]\ntoken = '{A}'\nexpires = 's3cret'\n"),
            "tokens:3: token.a.expires: expected a date",
        ),
    ] {
        desk.write("tokens", &text);
        let line = desk.refused(check, CONFIG).await;
        assert!(line.contains(expected) && !line.contains("s3cret"), "{line}");
    }
    let path = desk.write("tokens", &format!("{{\"a\": \"{A}\"}}"));
    fs::set_permissions(&path, fs::Permissions::from_mode(0o644)).unwrap();
    let line = desk.refused(check, CONFIG).await;
    assert!(line.contains("tokens: everybody can read these tokens (mode 0644); run chmod 600"), "{line}");
    fs::set_permissions(&path, fs::Permissions::from_mode(0o600)).unwrap();
    desk.said(check).await;
    let line = desk.refused("check --tokens tokens", CONFIG).await;
    assert!(
        line.contains("upstream: route a of token a has no upstream; set upstream, or [route.a]"),
        "{line}"
    );
    // Where settings are made, the secrets are not.
    let elsewhere = "check --tokens /nonexistent/tokens --upstream http://127.0.0.1:9/mcp";
    desk.refused(elsewhere, CONFIG).await;
    desk.said(&format!("{elsewhere} --without-files")).await;
    desk.write("wrong.toml", "[health]\nejection = '1h'\n[[upstream]]\naddress = 'http://127.0.0.1:9/mcp'\ntoken_file = '/nonexistent/t'\n");
    let line = desk.refused("check --config wrong.toml --without-files", CONFIG).await;
    assert!(line.contains("wrong.toml: health.longest_ejection: must not be shorter"), "{line}");
    desk.refused("token new a --tokens tokens", USAGE).await;
    desk.refused("token new b --tokens tokens --expires yesterday", USAGE).await;
    desk.refused("token new b --tokens tokens --expires 2020-01-01", USAGE).await;
    desk.refused("token new b", USAGE).await;
    desk.refused("token revoke b --tokens tokens", USAGE).await;
    desk.refused("token list --tokens nowhere", CONFIG).await;
    assert_eq!(fs::read_to_string(&path).unwrap(), format!("{{\"a\": \"{A}\"}}"));
}

#[tokio::test]
async fn a_revocation_that_a_daemon_cannot_see_says_so() {
    let desk = Desk::new();
    desk.write("tokens", &format!("[token.a]\ntoken = '{A}'\n[token.b]\ntoken = '{B}'\nexpires = 'x'\n"));
    let line = desk.refused("token revoke a --tokens tokens", CONFIG).await;
    assert!(line.contains("a is disabled, but") && line.contains("tokens:6: token.b.expires"), "{line}");
    assert!(fs::read_to_string(desk.path("tokens")).unwrap().contains("disabled = true"));
}

#[tokio::test]
async fn explain_says_step_by_step_who_and_where_or_why_not() {
    let desk = Desk::new();
    desk.write(
        "tokens",
        &format!(
            "[token.alice]\ntoken = '{A}'\nscopes = ['tools']\n[token.bob]\ntoken = '{B}'\ndisabled = true\n"
        ),
    );
    let socket = desk.path("{route}.sock");
    desk.write(
        "c.toml",
        &format!(
            "tokens = 'tokens'\nupstream = 'unix:{}'\n[[require]]\nmethod = 'tools/call'\nname = 'execute_*'\nscopes = ['shell']\n",
            socket.display()
        ),
    );
    for (file, token) in [("a", A), ("b", B), ("c", "s3cret-s3cret-s3cret-c"), ("d", "two words")] {
        desk.write(file, token);
    }
    let told = desk.said("explain --config c.toml --token-file a --method tools/call --name read_file").await;
    for step in [
        "path        MCP is served at /mcp",
        "subject     alice",
        "route       alice",
        "good for tools",
        "alice.sock",
        "(no such socket now)",
    ] {
        assert!(told.contains(step), "{step}: {told}");
    }
    assert!(told.lines().all(|line| line.starts_with("ok    ")) && !told.contains(A), "{told}");
    for (words, last) in [
        ("--token-file b", "FAIL  credential  401: the token of bob is disabled"),
        ("--token-file c", "FAIL  credential  401: nobody knows this token"),
        ("--token-file d", "FAIL  credential  401: the Authorization header is not `Bearer TOKEN`"),
        ("", "FAIL  credential  401: no credential"),
        ("--token-file a --path /other", "FAIL  path        404: MCP is served at /mcp"),
        (
            "--token-file a --method tools/call --name execute_shell_command",
            "FAIL  scopes      403: needs shell",
        ),
    ] {
        let output = desk.run(&format!("explain --config c.toml {words}")).await;
        let told = String::from_utf8(output.stdout).unwrap();
        assert_eq!(output.status.code(), Some(UNAVAILABLE), "{words}: {told}");
        assert!(told.lines().last().unwrap().starts_with(last), "{words}: {told}");
        assert!(!told.contains("s3cret"), "{told}");
    }
    let output = desk.run("explain --tokens tokens --token-file a").await;
    let told = String::from_utf8(output.stdout).unwrap();
    assert!(
        told.lines().last().unwrap().starts_with("FAIL  upstream    404: route alice has no upstream"),
        "{told}"
    );
}

#[tokio::test]
async fn a_jwt_is_signed_with_a_secret_that_is_long_enough() {
    let desk = Desk::new();
    desk.write("secret", "0123456789abcdef0123456789abcdef\n");
    let jwt = desk
        .said("token jwt --subject ci --expires 1h --secret-file secret --issuer https://i --audience mcp --route r --scope a --scope b --alg HS384")
        .await;
    let key = jsonwebtoken::DecodingKey::from_secret(b"0123456789abcdef0123456789abcdef");
    let mut rules = jsonwebtoken::Validation::new(jsonwebtoken::Algorithm::HS384);
    rules.set_audience(&["mcp"]);
    rules.set_issuer(&["https://i"]);
    let claims: Value = jsonwebtoken::decode::<Value>(jwt.trim(), &key, &rules).unwrap().claims;
    assert_eq!(
        (&claims["sub"], &claims["route"], &claims["scope"]),
        (&json!("ci"), &json!("r"), &json!("a b"))
    );
    assert_eq!(claims["exp"].as_u64().unwrap() - claims["iat"].as_u64().unwrap(), 3600);
    desk.write("short", "0123456789abcdef");
    let line = desk.refused("token jwt --subject ci --expires 1h --secret-file short", CONFIG).await;
    assert!(line.contains("16 bytes, expected at least 32") && !line.contains("0123"), "{line}");
    desk.refused("token jwt --subject ci --expires 1h --secret-file secret --alg RS256", USAGE).await;
}
