//! The methods and tools that really work, in both eras.

use serde_json::{Value, json};
use support::{Answers, Client, Flavour, Mishap, Server};

use crate::{connect, count};

#[tokio::test]
async fn a_session_remembers_and_a_restart_forgets() {
    let server = Server::start(Flavour::Python2).await;
    let client = connect(&server).await;
    client.call("activate_project", json!({ "project": "p" })).await.unwrap();
    client.request("logging/setLevel", json!({ "level": "debug" })).await.unwrap();
    for uri in ["test://one", "test://two"] {
        client.request("resources/subscribe", json!({ "uri": uri })).await.unwrap();
    }
    client.request("resources/unsubscribe", json!({ "uri": "test://two" })).await.unwrap();
    let me = whoami(&client).await;
    assert_eq!((&me["project"], &me["log_level"]), (&json!("p"), &json!("debug")));
    assert_eq!((&me["subscriptions"], &me["session"]), (&json!(["test://one"]), &json!(client.session_id())));

    server.forget_sessions();
    assert_eq!(count(&client).await.unwrap_err().status, Some(404));
    let me = whoami(&connect(&server).await).await;
    assert_eq!(
        (&me["project"], &me["log_level"], &me["subscriptions"]),
        (&json!(null), &json!(null), &json!([]))
    );
    assert_eq!((server.initializes(), server.sessions()), (2, 1));
}

#[tokio::test]
async fn lists_hints_and_contents_are_what_the_stories_need() {
    let server =
        Server::builder(Flavour::Python2).set(|it| it.answers = Answers::Json).start().await.unwrap();
    let client = connect(&server).await;
    let listed = client.request("tools/list", json!({})).await.unwrap();
    let hint = |name: &str, hint: &str| {
        let tools = listed["tools"].as_array().unwrap();
        tools.iter().find(|tool| tool["name"] == name).unwrap()["annotations"][hint].clone()
    };
    assert_eq!((hint("echo", "readOnlyHint"), hint("read", "readOnlyHint")), (json!(true), json!(true)));
    assert_eq!(
        (hint("idempotent_set", "idempotentHint"), hint("count", "idempotentHint")),
        (json!(true), json!(null))
    );
    client.call("idempotent_set", json!({ "value": 3 })).await.unwrap();
    assert_eq!(client.call_text("read", json!({})).await.unwrap(), "3");
    assert_eq!(client.call_text("echo", json!({ "text": "hé" })).await.unwrap(), "hé");
    assert_eq!(client.call_text("big", json!({ "bytes": 65_536 })).await.unwrap().len(), 65_536);
    for method in ["resources/list", "prompts/list", "completion/complete", "ping"] {
        client.request(method, json!({})).await.unwrap();
    }
    assert_eq!(client.request("no/such", json!({})).await.unwrap_err().code(), Some(-32601));
    server.set_tools(vec![json!({ "name": "other", "inputSchema": { "type": "object" } })]);
    assert_eq!(client.call_text("other", json!({})).await.unwrap(), "other");
    assert_eq!(count(&client).await.unwrap_err().code(), Some(-32602));
    assert_eq!(client.delete().await.unwrap(), 200);
    assert_eq!((server.deletes(), server.sessions()), (1, 0));
}

#[tokio::test]
async fn the_agreed_version_is_the_offered_one_or_the_tests() {
    let server = Server::start(Flavour::TypeScript).await;
    for (offer, agreed) in
        [("2024-11-05", "2024-11-05"), ("2025-03-26", "2025-03-26"), ("1999-01-01", "2025-11-25")]
    {
        let client = Client::builder(&server.url()).lenient().version(offer).connect().await.unwrap();
        assert_eq!(client.introduction()["protocolVersion"], agreed);
    }
    server.set(|switches| switches.agreed_version = Some("2025-03-26".into()));
    assert_eq!(connect(&server).await.introduction()["protocolVersion"], "2025-03-26");
    server.next(1, Mishap::rpc_error(-32602, "Unsupported protocol version").on("initialize"));
    let refused = Client::builder(&server.url()).lenient().connect().await.unwrap_err();
    assert_eq!(refused.code(), Some(-32602));
}

#[tokio::test]
async fn the_server_asks_on_the_calls_own_stream_and_hears_the_answer() {
    for flavour in [Flavour::Python2, Flavour::TypeScript, Flavour::Rmcp, Flavour::Gone410] {
        let server = Server::start(flavour).await;
        let client = connect(&server).await;
        for method in ["elicitation/create", "roots/list"] {
            let caller = client.clone();
            let call =
                tokio::spawn(async move { caller.call_text("ask", json!({ "method": method })).await });
            let question = client.next_message().await;
            assert_eq!(question["method"], method);
            client.respond(&question["id"], json!({ "said": method })).await.unwrap();
            let heard: Value = serde_json::from_str(&call.await.unwrap().unwrap()).unwrap();
            assert_eq!(heard, json!({ "said": method }));
        }
        assert_eq!(server.answers().len(), 2);
        assert_eq!(
            (server.answers()[0]["id"].as_u64(), server.answers()[1]["id"].as_u64()),
            (Some(1), Some(2))
        );
        // An answer to nothing is taken, and seen by the test.
        client.respond(&json!(99), json!({})).await.unwrap();
        assert_eq!(server.answers().len(), 3);
    }
}

#[tokio::test]
async fn progress_comes_before_the_result() {
    let server = Server::start(Flavour::TypeScript).await;
    let client = connect(&server).await;
    let params = json!({ "name": "progress", "arguments": { "n": 2 }, "_meta": { "progressToken": "t" } });
    client.request("tools/call", params).await.unwrap();
    for step in 1..=2 {
        let said = client.next_message().await;
        assert_eq!(said["params"], json!({ "progressToken": "t", "progress": step, "total": 2 }));
    }
}

#[tokio::test]
async fn get_streams_carry_what_is_pushed_and_end_with_the_session() {
    for flavour in [Flavour::Python2, Flavour::TypeScript, Flavour::Rmcp] {
        let server = Server::start(flavour).await;
        let client = connect(&server).await;
        let mut events = client.open_get().await.unwrap();
        assert_eq!(server.streams(), 1);
        let change = json!({ "jsonrpc": "2.0", "method": "notifications/tools/list_changed" });
        assert_eq!(server.notify(&change), 1);
        assert_eq!(events.next_message().await, Some(change));
        let question = json!({ "jsonrpc": "2.0", "id": 40, "method": "roots/list" });
        assert_eq!(server.request_client(&question), 1);
        assert_eq!(events.next_message().await, Some(question));
        client.respond(&json!(40), json!({ "roots": [] })).await.unwrap();
        assert_eq!(server.answers()[0]["id"], 40);
        server.forget_sessions();
        assert_eq!((events.next_message().await, events.broken()), (None, None));

        let client = connect(&server).await;
        drop(client.open_get().await.unwrap());
        server.until(|server| server.streams() == 0).await;
    }
}

#[tokio::test]
async fn requests_are_recorded_as_they_came() {
    let server = Server::start(Flavour::Python2).await;
    let client = Client::builder(&server.url()).lenient().header("x-test", "1").connect().await.unwrap();
    server.clear();
    count(&client).await.unwrap();
    let [request] = &server.requests()[..] else { panic!("{:?}", server.requests()) };
    assert_eq!((request.method.as_str(), &request.http_method), ("tools/call", &http::Method::POST));
    assert_eq!(
        (request.session.clone(), &request.headers["x-test"]),
        (client.session_id(), &"1".parse().unwrap())
    );
    assert_eq!(request.headers["mcp-protocol-version"], "2025-11-25");
    let body: Value = serde_json::from_slice(&request.body).unwrap();
    assert_eq!(body["params"]["name"], "count");
}

#[tokio::test]
async fn the_modern_era_needs_no_session() {
    let server = Server::start(Flavour::Python2).await;
    let found = modern(&server, "server/discover", json!({})).await.unwrap();
    assert_eq!(
        (&found["resultType"], &found["ttlMs"], &found["cacheScope"]),
        (&json!("complete"), &json!(0), &json!("private"))
    );
    assert!(found["supportedVersions"].as_array().unwrap().contains(&json!("2026-07-28")));
    modern(&server, "tools/list", json!({})).await.unwrap();
    let counted = modern(&server, "tools/call", json!({ "name": "count", "arguments": {} })).await.unwrap();
    assert_eq!(counted["content"][0]["text"], "1");
    let unknown = modern(&server, "logging/setLevel", json!({})).await.unwrap_err();
    assert_eq!((unknown.status, unknown.code()), (Some(404), Some(-32601)));
    assert_eq!(server.sessions(), 0);

    let client = modern_client(&server, "tools/list", "");
    let mismatch = client.request("tools/list", json!({ "_meta": meta("2025-11-25") })).await.unwrap_err();
    assert_eq!((mismatch.status, mismatch.code()), (Some(400), Some(-32020)));
    let bare = client.request("tools/list", json!({})).await.unwrap_err();
    assert_eq!((bare.status, bare.code()), (Some(400), Some(-32602)));

    server.set(|switches| switches.modern = false);
    // A legacy server gives a client without a session an id that is dead from birth.
    let client =
        Client::builder(&server.url()).lenient().header("mcp-protocol-version", "2026-07-28").unconnected();
    let legacy = client.request("server/discover", json!({ "_meta": meta("2026-07-28") })).await.unwrap_err();
    assert_eq!((legacy.status, legacy.code()), (Some(400), Some(-32600)));
    assert!(client.last_headers().contains_key("mcp-session-id"));
}

#[tokio::test]
async fn a_modern_listener_is_acknowledged_first_and_then_told() {
    let server = Server::start(Flavour::Python2).await;
    let client = modern_client(&server, "subscriptions/listen", "");
    let listen = json!({ "jsonrpc": "2.0", "id": "sub", "method": "subscriptions/listen",
        "params": { "notifications": { "toolsListChanged": true }, "_meta": meta("2026-07-28") } });
    let mut events = client.open_post(&listen).await.unwrap();
    let first = events.next_message().await.unwrap();
    assert_eq!(first["method"], "notifications/subscriptions/acknowledged");
    assert_eq!(first["params"]["notifications"], json!({ "toolsListChanged": true }));
    assert_eq!(server.notify(&json!({ "jsonrpc": "2.0", "method": "notifications/tools/list_changed" })), 1);
    let pushed = events.next_message().await.unwrap();
    assert_eq!(pushed["method"], "notifications/tools/list_changed");
    assert_eq!(pushed["params"]["_meta"]["io.modelcontextprotocol/subscriptionId"], "sub");
    server.stop().await;
    assert_eq!(events.next_event().await, None);
    assert!(events.broken().is_some());
}

async fn whoami(client: &Client) -> Value {
    serde_json::from_str(&client.call_text("whoami", json!({})).await.unwrap()).unwrap()
}

fn meta(version: &str) -> Value {
    json!({ "io.modelcontextprotocol/protocolVersion": version, "io.modelcontextprotocol/clientCapabilities": {} })
}

fn modern_client(server: &Server, method: &str, name: &str) -> Client {
    let client = Client::builder(&server.url())
        .header("mcp-protocol-version", "2026-07-28")
        .header("mcp-method", method);
    client.header("mcp-name", name).unconnected()
}

async fn modern(server: &Server, method: &str, mut params: Value) -> Result<Value, support::RpcFailure> {
    params["_meta"] = meta("2026-07-28");
    let name = params["name"].as_str().unwrap_or_default().to_owned();
    modern_client(server, method, &name).request(method, params).await
}
