//! What a credential may be used for, and what clients are told who may not.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use bytes::Bytes;
use http::{Method, Request, Response};
use serde_json::{Value, json};
use support::{Authd, Client, Flavour, Server};

const BINARY: &str = env!("CARGO_BIN_EXE_mcp-authd");
const ALL: &str = "someone-who-may-do-everything";
const SOME: &str = "someone-who-may-do-something";
const SETTINGS: &str = "
[[require]]
scopes = ['mcp']
[[require]]
method = 'tools/call'
name = 'exec*'
scopes = ['shell', 'mcp']
[route.quiet]
acknowledge_initialized = true
[metadata]
authorization_servers = ['https://login.example.org']
[[jwt]]
issuer = 'https://login.example.org'
audience = ['us']
algorithms = ['HS256']
";

async fn authd(server: &Server) -> Authd {
    Authd::start(BINARY, |directory| {
        let tokens = format!(
            "[token.all]\ntoken = '{ALL}'\nroute = 'quiet'\n[token.some]\ntoken = '{SOME}'\nscopes = ['mcp']\n"
        );
        let tokens = Authd::secret_file(directory, "tokens.toml", &tokens);
        let secret = Authd::secret_file(directory, "secret", &"s".repeat(32));
        let (tokens, secret) = (tokens.display(), secret.display());
        format!("tokens = '{tokens}'\nupstream = '{}'\n{SETTINGS}secret_file = '{secret}'\n", server.url())
    })
    .await
}

struct World {
    server: Server,
    authd: Authd,
    client: Client,
}

impl World {
    async fn new() -> World {
        let server = Server::start(Flavour::Python2).await;
        let authd = authd(&server).await;
        let client = Client::builder(&authd.url()).lenient().unconnected();
        World { server, authd, client }
    }

    async fn ask(
        &self,
        method: Method,
        token: &str,
        headers: &[(&'static str, &str)],
        body: &str,
    ) -> Response<Bytes> {
        let mut request = self.client.prepared(method, Bytes::copy_from_slice(body.as_bytes()));
        if !token.is_empty() {
            request.headers_mut().insert("authorization", format!("Bearer {token}").parse().unwrap());
        }
        for (name, value) in headers {
            request.headers_mut().insert(*name, value.parse().unwrap());
        }
        self.client.raw(request).await.unwrap()
    }

    async fn post(&self, token: &str, body: &str) -> Response<Bytes> {
        self.ask(Method::POST, token, &[], body).await
    }

    async fn get(&self, path: &str) -> Response<Bytes> {
        let request = Request::builder().uri(path).body(Bytes::new()).unwrap();
        self.client.raw(request).await.unwrap()
    }

    /// The scheme and host that clients see.
    fn origin(&self) -> String {
        self.authd.url().trim_end_matches("/mcp").to_owned()
    }
}

fn said(answer: &Response<Bytes>) -> Value {
    serde_json::from_slice(answer.body()).unwrap()
}

fn challenge(answer: &Response<Bytes>) -> &str {
    answer.headers()["www-authenticate"].to_str().unwrap()
}

fn call(tool: &str) -> String {
    json!({"jsonrpc": "2.0", "id": "seven", "method": "tools/call", "params": {"name": tool, "arguments": {}}}).to_string()
}

#[tokio::test]
async fn a_stranger_is_told_where_to_log_in_and_finds_it_there() {
    let world = World::new().await;
    let metadata = format!("{}/.well-known/oauth-protected-resource/mcp", world.origin());
    let nobody = world.post("", &call("count")).await;
    assert_eq!(nobody.status(), 401);
    assert_eq!(challenge(&nobody), format!("Bearer scope=\"mcp\", resource_metadata=\"{metadata}\""));
    let wrong = world.post("not-a-token-of-ours", &call("count")).await;
    assert_eq!(
        challenge(&wrong),
        format!("Bearer error=\"invalid_token\", scope=\"mcp\", resource_metadata=\"{metadata}\"")
    );
    for path in ["/.well-known/oauth-protected-resource/mcp", "/.well-known/oauth-protected-resource"] {
        let document = world.get(path).await;
        assert_eq!(
            (document.status().as_u16(), &document.headers()["content-type"]),
            (200, &"application/json".parse().unwrap())
        );
        assert_eq!(
            said(&document),
            json!({
                "resource": world.authd.url(),
                "authorization_servers": ["https://login.example.org"],
                "bearer_methods_supported": ["header"],
                "scopes_supported": ["mcp", "shell"],
            })
        );
    }
    assert_eq!(world.get("/.well-known/oauth-authorization-server").await.status(), 404);
    assert_eq!(world.server.requests().len(), 0, "nothing of this reached the server");
}

#[tokio::test]
async fn who_may_not_is_told_all_that_it_takes_and_nothing_reaches_the_server() {
    let world = World::new().await;
    let one = call("execute_shell_command");
    let batch = format!("[{},{one}]", json!({"jsonrpc": "2.0", "id": 1, "method": "ping"}));
    let escaped = one.replace("execute", "\\u0065xecute");
    for body in [&one, &batch, &escaped] {
        let refused = world.post(SOME, body).await;
        assert_eq!(refused.status(), 403, "{body}");
        assert!(
            challenge(&refused)
                .starts_with("Bearer error=\"insufficient_scope\", scope=\"mcp shell\", resource_metadata="),
            "{}",
            challenge(&refused)
        );
    }
    assert_eq!(said(&world.post(SOME, &one).await)["id"], "seven", "a client knows what was refused");
    for twice in [
        one.replace("\"name\":", "\"name\":\"count\",\"name\":"),
        one.replace("\"name\":", "\"name\":\"count\",\"Name\":"),
        one.replace("\"method\":", "\"method\":\"ping\",\"Method\":"),
    ] {
        let refused = world.post(SOME, &twice).await;
        assert_eq!(
            (refused.status().as_u16(), said(&refused)["error"]["code"].as_i64()),
            (400, Some(-32600)),
            "{twice}"
        );
    }
    assert_eq!(world.server.requests().len(), 0);
}

#[tokio::test]
async fn a_header_that_says_otherwise_than_the_body_is_refused() {
    let world = World::new().await;
    for headers in [
        &[("mcp-method", "tools/list")][..],
        &[("mcp-method", "tools/call"), ("mcp-name", "count")],
        &[("mcp-name", "=?base64?Y291bnQ=?=")],
    ] {
        let refused = world.ask(Method::POST, ALL, headers, &call("execute_it")).await;
        assert_eq!(refused.status(), 400, "{headers:?}");
        assert_eq!(
            (&said(&refused)["error"]["code"], &said(&refused)["id"]),
            (&json!(-32020), &json!("seven"))
        );
    }
    assert_eq!(world.server.requests().len(), 0);
}

#[tokio::test]
async fn initialized_is_acknowledged_here_where_a_route_says_so_and_nothing_else_is() {
    let world = World::new().await;
    let initialized = json!({"jsonrpc": "2.0", "method": "notifications/initialized"}).to_string();
    let taken = world.post(ALL, &initialized).await;
    assert_eq!((taken.status().as_u16(), taken.body().len()), (202, 0));
    assert_eq!(world.server.requests().len(), 0, "it stayed here");
    world.post(SOME, &initialized).await;
    world.post(ALL, &format!("[{initialized}]")).await;
    world.post(ALL, &initialized.replace("initialized", "cancelled")).await;
    assert_eq!(world.server.requests().len(), 3, "other routes, batches and methods go on");
}

#[tokio::test]
async fn streams_and_ends_of_sessions_need_what_everything_needs() {
    let server = Server::start(Flavour::Python2).await;
    let authd = Authd::start(BINARY, |directory| {
        let tokens = format!("[token.a]\ntoken = '{SOME}'\nscopes = []\n");
        let tokens = Authd::secret_file(directory, "tokens.toml", &tokens);
        format!(
            "tokens = '{}'\nupstream = '{}'\n[[require]]\nscopes = ['mcp']\n",
            tokens.display(),
            server.url()
        )
    })
    .await;
    let world = World { client: Client::builder(&authd.url()).lenient().unconnected(), server, authd };
    for method in [Method::GET, Method::DELETE] {
        let refused = world.ask(method, SOME, &[], "").await;
        assert_eq!(refused.status(), 403);
        assert_eq!(challenge(&refused), "Bearer error=\"insufficient_scope\", scope=\"mcp\"");
    }
    let response = world.post(SOME, &json!({"jsonrpc": "2.0", "id": 1, "result": {}}).to_string()).await;
    assert_eq!(response.status(), 403);
    assert_eq!(world.server.requests().len(), 0);
}
