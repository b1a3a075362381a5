//! Bad requests of every kind: one JSON-RPC error or one line, nothing goes upstream, nobody else is disturbed.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use bytes::Bytes;
use http::{HeaderValue, Method, Response};
use serde_json::{Value, json};
use support::{Client, Flavour, Server, Sessiond};

const BINARY: &str = env!("CARGO_BIN_EXE_mcp-sessiond");

/// A daemon, a client with a session, and the counts before anything bad is sent.
struct Scene {
    server: Server,
    sessiond: Sessiond,
    client: Client,
}

impl Scene {
    async fn set() -> Self {
        let server = Server::start(Flavour::Python2).await;
        let settings = format!("upstream = '{}'\n[limits]\nbody = '64KiB'\nhead = '16KiB'\n", server.url());
        let sessiond = Sessiond::start_set(BINARY, |_| settings, &[]).await;
        let client = Client::connect(&sessiond.url()).await.unwrap();
        server.clear();
        Self { server, sessiond, client }
    }

    async fn post(&self, body: impl Into<Bytes>) -> Response<Bytes> {
        self.client.raw(self.client.prepared(Method::POST, body.into())).await.unwrap()
    }

    /// POSTs `body`, with and without a session, and expects a JSON-RPC error of `status` and `code` that says `words`.
    async fn refuses(&self, body: impl Into<Bytes>, status: u16, code: i64, words: &str) {
        let body = body.into();
        for session in [true, false] {
            let mut request = self.client.prepared(Method::POST, body.clone());
            if !session {
                request.headers_mut().remove("mcp-session-id");
            }
            let answer = self.client.raw(request).await.unwrap();
            let error: Value = serde_json::from_slice(answer.body()).unwrap_or_default();
            assert_eq!(
                (answer.status().as_u16(), &error["error"]["code"]),
                (status, &json!(code)),
                "{words}: {answer:?}"
            );
            assert!(error["error"]["message"].as_str().unwrap().contains(words), "{words}: {error}");
            assert_eq!(error["jsonrpc"], "2.0", "{error}");
        }
    }

    /// Nothing went upstream, and the client's session is what it was.
    async fn undisturbed(&self) {
        assert_eq!(self.server.requests().len(), 0, "{:?}", self.server.requests());
        self.client.call("count", json!({})).await.unwrap();
        assert_eq!(self.server.initializes(), 1);
        let (status, sessions) = self.sessiond.control("GET", "/sessions").await;
        assert_eq!((status, sessions.as_array().unwrap().len()), (200, 1));
    }
}

#[tokio::test]
async fn a_body_that_is_no_message_gets_a_json_rpc_error_and_goes_nowhere() {
    let scene = Scene::set().await;
    let deep = |depth: usize| format!("{}{}", "[".repeat(depth), "]".repeat(depth));
    for body in [
        "",
        " ",
        "hello",
        "{",
        "{\"jsonrpc\":\"2.0\",\"id\":1,\"method\":\"ping\"}}",
        "\u{feff}{}",
        "{'id':1}",
        "nul",
    ] {
        scene.refuses(body, 400, -32700, "not JSON").await;
    }
    scene.refuses(&b"{\"jsonrpc\":\"2.0\",\"id\":1,\"method\":\"\xff\"}"[..], 400, -32700, "not JSON").await;
    for body in ["5", "null", "\"x\"", "true", "{}", r#"{"id":1}"#, r#"{"jsonrpc":"2.0","id":1,"method":5}"#]
    {
        scene.refuses(body, 400, -32600, "not one JSON-RPC message").await;
    }
    for double in [
        "\"id\":1,\"id\":2",
        "\"id\":1,\"method\":\"x\"",
        "\"id\":1,\"\\u0069d\":2",
        "\"id\":1,\"params\":{},\"params\":{}",
    ] {
        let body = format!(r#"{{"jsonrpc":"2.0",{double},"method":"tools/list"}}"#);
        scene.refuses(body, 400, -32600, "duplicate").await;
    }
    scene.refuses(r#"[{"jsonrpc":"2.0","id":1,"method":"ping"}]"#, 400, -32600, "batch").await;
    scene.refuses("[]", 400, -32600, "batch").await;
    scene.refuses(deep(10_000), 400, -32600, "deeper").await;
    let buried = format!(r#"{{"jsonrpc":"2.0","id":1,"method":"tools/call","params":{}}}"#, deep(10_000));
    scene.refuses(buried, 400, -32600, "deeper").await;
    scene.refuses("x".repeat(64 * 1024 + 1), 413, -32600, "limits.body").await;
    scene.undisturbed().await;
}

#[tokio::test]
async fn a_body_within_the_limits_is_not_taken_for_a_bad_one() {
    let scene = Scene::set().await;
    let brackets = "[{".repeat(10_000);
    for text in [brackets.as_str(), "\"id\":1,\"id\":2", "\\\"[[[["] {
        assert_eq!(scene.client.call_text("echo", json!({"text": text})).await.unwrap(), text);
    }
    let nested = format!("{}{}", "[".repeat(60), "]".repeat(60));
    let body = format!(
        "\r\n {{ \"params\":{{\"arguments\":{{\"x\":{nested}}},\"name\":\"echo\"}}, \"method\":\"tools\\/call\",\"id\":1.50,\"jsonrpc\":\"2.0\" }} \n"
    );
    let answer = scene.post(body.clone()).await;
    assert_eq!(answer.status(), 200);
    assert!(String::from_utf8_lossy(answer.body()).contains("\"id\":1.5"), "{answer:?}");
    let seen = scene.server.requests().pop().unwrap();
    assert_eq!(seen.body, body, "byte for byte");
}

#[tokio::test]
async fn an_unknown_method_or_path_is_told_what_is_right() {
    let scene = Scene::set().await;
    for method in [Method::PUT, Method::PATCH, Method::OPTIONS, Method::from_bytes(b"BREW").unwrap()] {
        let answer = scene.client.raw(scene.client.prepared(method.clone(), Bytes::new())).await.unwrap();
        assert_eq!(answer.status(), 405, "{method}");
        assert_eq!(answer.headers()["allow"], "GET, POST, DELETE", "{method}");
    }
    for (method, path) in [
        (Method::GET, "/"),
        (Method::GET, "/sse"),
        (Method::POST, "/sse"),
        (Method::POST, "/message"),
        (Method::POST, "/mcp/"),
        (Method::GET, "/.well-known/oauth-protected-resource"),
        (Method::GET, "/mcpx"),
        (Method::POST, "/%2fmcp"),
    ] {
        let mut request = scene.client.prepared(method, Bytes::new());
        *request.uri_mut() = format!("http://x{path}").parse().unwrap();
        let answer = scene.client.raw(request).await.unwrap();
        let text = String::from_utf8(answer.body().to_vec()).unwrap();
        assert_eq!(answer.status(), 404, "{path}");
        assert_eq!(text.lines().count(), 1, "{path}: {text}");
        assert!(text.contains(&scene.sessiond.url()), "{path}: {text}");
    }
    scene.undisturbed().await;
}

#[tokio::test]
async fn a_head_beyond_its_limit_gets_431_and_the_next_client_is_served() {
    let scene = Scene::set().await;
    let large = Client::builder(&scene.sessiond.url()).header("x-large", &"x".repeat(20_000)).unconnected();
    let answer = large.raw(large.prepared(Method::POST, Bytes::from("{}"))).await.unwrap();
    assert_eq!(answer.status(), 431);
    let many = Client::builder(&scene.sessiond.url()).unconnected();
    let mut request = many.prepared(Method::POST, Bytes::from("{}"));
    for _ in 0..2_000 {
        request.headers_mut().append("x-many", HeaderValue::from_static("many"));
    }
    assert_eq!(many.raw(request).await.unwrap().status(), 431);
    scene.undisturbed().await;
}
