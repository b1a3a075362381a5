//! Gateways that treat each POST as new: `session_from = "subject"` gives all of a subject's and route's one hidden session,
//! and nobody's answer, progress or cancellation becomes another's.
#![allow(
    clippy::disallowed_methods,
    clippy::unwrap_used,
    reason = "a test fails by panicking, and its tasks end with its runtime"
)]

use std::collections::HashSet;
use std::path::Path;

use http::{HeaderValue, Method, header};
use serde_json::{Value, json};
use support::{Client, Flavour, Server, Sessiond, misbehaving_server};

const BINARY: &str = env!("CARGO_BIN_EXE_mcp-sessiond");
/// Requests that are under way at once, all with the same id.
const AT_ONCE: usize = 8;

async fn in_front_of(server: &Server) -> Sessiond {
    let settings = format!("upstream = '{}'\nsession_from = 'subject'\n", server.url());
    Sessiond::start_set(BINARY, |_| settings, &[]).await
}

/// A client that never has a session.
fn gateway(sessiond: &Sessiond) -> Client {
    Client::builder(&sessiond.url()).unconnected()
}

/// Request 1, whose progress is asked for as 1, too.
fn request(tool: &str, arguments: Value) -> Value {
    let params = json!({"name": tool, "arguments": arguments, "_meta": {"progressToken": 1}});
    json!({"jsonrpc": "2.0", "id": 1, "method": "tools/call", "params": params})
}

/// All messages that come back for a POST.
async fn post(client: &Client, message: &Value, accept: &'static str) -> Vec<Value> {
    let mut request = client.prepared(Method::POST, message.to_string().into());
    request.headers_mut().insert(header::ACCEPT, HeaderValue::from_static(accept));
    let answer = client.raw(request).await.unwrap();
    assert_eq!(answer.status(), 200, "{answer:?}");
    let text = std::str::from_utf8(answer.body()).unwrap();
    let lines: Vec<&str> = text.lines().filter_map(|line| line.strip_prefix("data: ")).collect();
    let messages = if text.starts_with('{') { vec![text] } else { lines };
    messages.iter().filter(|line| !line.is_empty()).map(|line| serde_json::from_str(line).unwrap()).collect()
}

/// Sends request 1 so many times at once, with progress; everybody must hear of their own call and of nothing else.
async fn everybody_at_once(client: &Client) {
    let mut calls = tokio::task::JoinSet::new();
    for number in 0..AT_ONCE {
        let client = client.clone();
        calls.spawn(async move {
            // The first that ask are the last that are answered.
            let wait = 50 * (AT_ONCE - number);
            let accept =
                if number % 2 == 0 { "application/json" } else { "application/json, text/event-stream" };
            let echo = request("echo", json!({"text": format!("{number}"), "sleep_ms": wait}));
            let said = post(&client, &echo, accept).await;
            let answer =
                json!({"content": [{"type": "text", "text": format!("{number}")}], "isError": false});
            assert_eq!(said, [json!({"jsonrpc": "2.0", "id": 1, "result": answer})], "{number}");
            let steps = number + 1;
            let said =
                post(&client, &request("progress", json!({"n": steps, "sleep_ms": wait})), accept).await;
            let (answer, progress) = said.split_last().unwrap();
            assert_eq!(answer["id"], 1, "{number}: {answer}");
            assert_eq!(
                answer["result"]["content"][0]["text"],
                format!("{steps} steps"),
                "{number}: {answer}"
            );
            let heard = if number % 2 == 0 { 0 } else { steps };
            assert_eq!(progress.len(), heard, "{number}: {progress:?}");
            for (at, message) in progress.iter().enumerate() {
                let told = json!({"progressToken": 1, "progress": at + 1, "total": steps});
                assert_eq!(message["params"], told, "{number}");
            }
        });
    }
    while let Some(done) = calls.join_next().await {
        done.unwrap();
    }
}

/// The ids, and progress tokens, of the calls that reached the server.
fn names_upstream(server: &Server) -> Vec<(Value, Value)> {
    let requests = server.requests().into_iter().filter(|request| request.method == "tools/call");
    let messages = requests.map(|request| serde_json::from_slice::<Value>(&request.body).unwrap());
    messages
        .map(|message| (message["id"].clone(), message["params"]["_meta"]["progressToken"].clone()))
        .collect()
}

#[tokio::test]
async fn equal_ids_at_once_get_each_their_own_answer_and_progress() {
    for flavour in [Flavour::Python2, Flavour::TypeScript] {
        let server = Server::start(flavour).await;
        let sessiond = in_front_of(&server).await;
        everybody_at_once(&gateway(&sessiond)).await;
        assert_eq!(server.initializes(), 1, "{flavour}: one session for all");
        // A server keeps what is under way by its id: of two with one id it forgets one.
        let names = names_upstream(&server);
        let different: HashSet<String> =
            names.iter().flat_map(|(id, token)| [id.to_string(), token.to_string()]).collect();
        assert_eq!(different.len(), 2 * names.len(), "{flavour}: {names:?}");
    }
}

#[tokio::test]
async fn the_same_of_a_server_that_is_a_command() {
    let server = misbehaving_server();
    let args = ["--", server.to_str().unwrap(), "--stdio"];
    let sessiond = Sessiond::start_set(BINARY, |_| "session_from = 'subject'".into(), &args).await;
    everybody_at_once(&gateway(&sessiond)).await;
}

#[tokio::test]
async fn equal_ids_that_waited_for_the_server_get_each_their_own_answer() {
    let server = Server::start(Flavour::Python2).await;
    let sessiond = in_front_of(&server).await;
    let client = gateway(&sessiond);
    post(&client, &request("count", json!({})), "application/json").await;
    server.stop().await;
    let calls: Vec<_> = (0..AT_ONCE)
        .map(|number| {
            let (client, echo) = (client.clone(), request("echo", json!({"text": number.to_string()})));
            tokio::spawn(async move { post(&client, &echo, "application/json").await })
        })
        .collect();
    sessiond.until_status(|status| status["parked"] == AT_ONCE).await;
    server.start_again().await;
    for (number, call) in calls.into_iter().enumerate() {
        let said = call.await.unwrap();
        assert_eq!((said.len(), &said[0]["id"]), (1, &json!(1)), "{said:?}");
        assert_eq!(said[0]["result"]["content"][0]["text"], number.to_string());
    }
    assert_eq!((server.executed("echo"), server.initializes()), (AT_ONCE as u64, 2));
}

#[tokio::test]
async fn a_cancellation_reaches_the_one_request_it_can_mean_and_never_another() {
    let server = Server::start(Flavour::Python2).await;
    let sessiond = in_front_of(&server).await;
    let client = gateway(&sessiond);
    let cancel = || client.notify("notifications/cancelled", json!({"requestId": 1}));
    // Nothing is under way.
    cancel().await.unwrap();
    // It waits for an answer of its client, so it is under way as long as we like.
    let mut first = client.open_post(&request("ask", json!({}))).await.unwrap();
    let asked_first = first.next_message().await.unwrap();
    cancel().await.unwrap();
    let mut second = client.open_post(&request("ask", json!({}))).await.unwrap();
    let asked_second = second.next_message().await.unwrap();
    cancel().await.unwrap();
    let cancelled: Vec<Value> = server
        .requests()
        .iter()
        .filter(|request| request.method == "notifications/cancelled")
        .map(|request| serde_json::from_slice::<Value>(&request.body).unwrap()["params"]["requestId"].clone())
        .collect();
    assert_eq!(cancelled, [names_upstream(&server)[0].0.clone()], "of two it could mean either");
    for (call, question, word) in [(&mut second, &asked_second, "two"), (&mut first, &asked_first, "one")] {
        client.respond(&question["id"], json!({"action": word})).await.unwrap();
        let answer = call.next_message().await.unwrap();
        assert_eq!(answer["id"], 1, "{answer}");
        assert_eq!(answer["result"]["content"][0]["text"], json!({"action": word}).to_string(), "{answer}");
    }
}

#[tokio::test]
async fn a_subject_has_a_hidden_session_for_each_route() {
    let directory = tempfile::tempdir().unwrap();
    let start = |name: &str| {
        Server::builder(Flavour::Python2).unix(directory.path().join(format!("{name}.sock"))).start()
    };
    let (one, two) = (start("one").await.unwrap(), start("two").await.unwrap());
    let settings = |own: &Path| {
        format!(
            "upstream = 'unix:{}/{{route}}.sock:/mcp'\nsession_from = 'subject'\n\
             [[listener]]\naddress = 'unix:{}/trusted.sock'\ntrusted = true\n",
            directory.path().display(),
            own.display()
        )
    };
    let sessiond = Sessiond::start_set(BINARY, settings, &[]).await;
    let client = |route: &str| {
        let client = Client::builder(&sessiond.url_of(1)).header("mcp-auth-subject", "alice");
        client.header("mcp-route", route).unconnected()
    };
    for (route, calls) in [("one", 1), ("two", 2), ("one", 2)] {
        for _ in 0..calls {
            post(&client(route), &request("count", json!({})), "application/json").await;
        }
    }
    assert_eq!((one.executed("count"), two.executed("count")), (3, 2));
    assert_eq!((one.initializes(), two.initializes()), (1, 1));
}

#[tokio::test]
async fn no_client_can_name_the_hidden_session() {
    let server = Server::start(Flavour::Python2).await;
    let sessiond = in_front_of(&server).await;
    let client = gateway(&sessiond);
    post(&client, &request("count", json!({})), "application/json").await;
    for method in [Method::GET, Method::DELETE] {
        let mut request = client.prepared(method.clone(), bytes::Bytes::new());
        request.headers_mut().insert("mcp-session-id", HeaderValue::from_static(""));
        assert_eq!(client.raw(request).await.unwrap().status(), 404, "{method}");
    }
    post(&client, &request("count", json!({})), "application/json").await;
    assert_eq!((server.executed("count"), server.initializes()), (2, 1));
}
