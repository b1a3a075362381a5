//! The table of lost sessions, row by row, asked of the real binary.

use std::path::Path;

use bytes::Bytes;
use http::{Method, Request, Response};
use serde_json::{Value, json};
use support::{Client, Flavour, Process};

use crate::{ping, stale_client};

/// Status, content type, body.
type Said<'a> = (u16, Option<&'a str>, &'a str);

const JSON: Option<&str> = Some("application/json");
const TEXT: Option<&str> = Some("text/plain; charset=utf-8");
const HTML: Option<&str> = Some("text/html; charset=utf-8");

const PYTHON_1_12: Said<'_> = (400, None, "Bad Request: No valid session ID provided");
const PYTHON_1_30: Said<'_> = (
    404,
    JSON,
    r#"{"jsonrpc":"2.0","id":"server-error","error":{"code":-32600,"message":"Session not found"}}"#,
);
const PYTHON_2: Said<'_> =
    (404, JSON, r#"{"jsonrpc":"2.0","id":null,"error":{"code":-32600,"message":"Session not found"}}"#);
const TYPESCRIPT: Said<'_> =
    (404, JSON, r#"{"jsonrpc":"2.0","error":{"code":-32001,"message":"Session not found"},"id":null}"#);
const EVERYTHING: Said<'_> = (
    400,
    JSON,
    r#"{"jsonrpc":"2.0","error":{"code":-32000,"message":"Bad Request: No valid session ID provided"}}"#,
);
const RMCP: Said<'_> = (404, TEXT, "Not Found: Session not found");

#[tokio::test]
async fn a_stale_id_is_refused_as_measured() {
    // Flavour, then what is said to POST (all kinds of message), GET and DELETE.
    let rows = [
        (Flavour::Python1_12, PYTHON_1_12, PYTHON_1_12, PYTHON_1_12),
        (Flavour::Python1_30, PYTHON_1_30, PYTHON_1_30, PYTHON_1_30),
        (Flavour::Python2, PYTHON_2, PYTHON_2, PYTHON_2),
        (Flavour::TypeScript, TYPESCRIPT, TYPESCRIPT, TYPESCRIPT),
        (Flavour::Everything, EVERYTHING, EVERYTHING, EVERYTHING),
        (Flavour::Rmcp, RMCP, RMCP, (202, None, "")),
    ];
    for (flavour, post, get, delete) in rows {
        let server = start(flavour).await;
        let client = stale_client(&server.url());
        for message in [ping(), notification(), response()] {
            assert_said(&post_of(&client, &message).await, post, flavour);
        }
        assert_said(&send(&client, Method::GET).await, get, flavour);
        assert_said(&send(&client, Method::DELETE).await, delete, flavour);
    }
}

#[tokio::test]
async fn supergateway_says_json_but_html_to_get() {
    let server = start(Flavour::Supergateway).await;
    let client = stale_client(&server.url());
    assert_said(&post_of(&client, &ping()).await, TYPESCRIPT, Flavour::Supergateway);
    let get = send(&client, Method::GET).await;
    assert_eq!((get.status().as_u16(), content_type(&get)), (404, HTML));
    assert_eq!(send(&client, Method::DELETE).await.status(), 404);
}

#[tokio::test]
async fn what_the_field_says_has_its_status() {
    let rows = [
        (Flavour::Gone410, 410, "expired"),
        (Flavour::Unauthorized401, 401, "Session not found"),
        (Flavour::ServerError500, 500, "session not found"),
        (Flavour::BadGateway502, 502, "Bad Gateway"),
        (Flavour::Unavailable503, 503, "session not found"),
    ];
    for (flavour, status, words) in rows {
        let server = start(flavour).await;
        let client = stale_client(&server.url());
        for answer in [post_of(&client, &ping()).await, send(&client, Method::GET).await] {
            assert_eq!(answer.status(), status, "{flavour}");
            assert!(body(&answer).contains(words), "{flavour}: {}", body(&answer));
            assert!(!answer.headers().contains_key("www-authenticate"));
        }
    }
}

#[tokio::test]
async fn an_error_inside_a_200_carries_the_requests_id() {
    let rows = [(Flavour::Ok200Error32602, -32602), (Flavour::Ok200Error32600, -32600), (Flavour::Go1_4, 0)];
    for (flavour, code) in rows {
        let server = start(flavour).await;
        let client = stale_client(&server.url());
        let failure = client.call("echo", json!({})).await.unwrap_err();
        assert_eq!((failure.status, failure.code()), (Some(200), Some(code)), "{flavour}");
        assert_eq!(post_of(&client, &notification()).await.status(), 202, "{flavour}");
    }
}

#[tokio::test]
async fn go_takes_an_unknown_id_for_a_session_that_saw_no_initialize() {
    let server = start(Flavour::Go1_4).await;
    let client = stale_client(&server.url());
    let failure = client.request("tools/list", json!({})).await.unwrap_err();
    assert_eq!(failure.message(), r#"method "tools/list" is invalid during session initialization"#);
    client.request("ping", json!({})).await.unwrap();
}

#[tokio::test]
async fn without_an_id_the_answer_is_400_and_pythons_carry_a_dead_id() {
    for flavour in Flavour::ALL {
        let server = start(flavour).await;
        let client = Client::builder(&server.url()).lenient().unconnected();
        let answer = post_of(&client, &ping()).await;
        let python = matches!(flavour, Flavour::Python1_12 | Flavour::Python1_30 | Flavour::Python2);
        let id = answer.headers().get("mcp-session-id").cloned();
        assert_eq!((answer.status().as_u16(), id.is_some()), (400, python), "{flavour}: {}", body(&answer));
        let Some(id) = id else { continue };
        let null_or_word = if flavour == Flavour::Python2 { "null" } else { r#""server-error""# };
        let error = r#""error":{"code":-32600,"message":"Bad Request: Missing session ID"}"#;
        assert_eq!(body(&answer), format!(r#"{{"jsonrpc":"2.0","id":{null_or_word},{error}}}"#));
        let dead = Client::builder(&server.url()).lenient().session(id.to_str().unwrap()).unconnected();
        assert!(matches!(post_of(&dead, &ping()).await.status().as_u16(), 400 | 404), "{flavour}");
    }
}

#[tokio::test]
async fn the_no_id_answers_of_the_sdks_have_their_codes() {
    let rows = [
        (Flavour::TypeScript, JSON, "-32000"),
        (Flavour::Everything, JSON, "Server not initialized"),
        (Flavour::Rmcp, TEXT, "Session ID is required"),
    ];
    for (flavour, kind, words) in rows {
        let server = start(flavour).await;
        let client = Client::builder(&server.url()).lenient().unconnected();
        let answer = post_of(&client, &ping()).await;
        assert_eq!(content_type(&answer), kind, "{flavour}");
        assert!(body(&answer).contains(words), "{flavour}: {}", body(&answer));
    }
    let server = start(Flavour::TypeScript).await;
    let get = send(&Client::builder(&server.url()).lenient().unconnected(), Method::GET).await;
    assert_eq!((get.status().as_u16(), content_type(&get)), (400, HTML));
}

#[tokio::test]
async fn only_python_1_12_and_go_refuse_requests_before_initialized() {
    for flavour in Flavour::ALL {
        let server = start(flavour).await;
        let fresh = Client::builder(&server.url()).lenient().unconnected();
        let params = json!({ "protocolVersion": "2025-06-18", "capabilities": {}, "clientInfo": {} });
        assert_eq!(fresh.request("initialize", params).await.unwrap()["protocolVersion"], "2025-06-18");
        let early = fresh.request("tools/list", json!({})).await;
        let code = match flavour {
            Flavour::Python1_12 => Some(-32602),
            Flavour::Go1_4 => Some(0),
            _ => None,
        };
        if flavour == Flavour::Python1_12 {
            let error = early.as_ref().unwrap_err().error.clone();
            let real = json!({ "code": -32602, "message": "Invalid request parameters", "data": "" });
            assert_eq!(error, Some(real));
        }
        assert_eq!(early.map_or_else(|failure| failure.code(), |_| None), code, "{flavour}");
        fresh.notify("notifications/initialized", json!({})).await.unwrap();
        fresh.request("tools/list", json!({})).await.unwrap();
    }
}

#[tokio::test]
async fn events_are_framed_as_each_sdk_does() {
    let rows = [
        (Flavour::Python1_12, "event: message\r\ndata: {", "}\r\n\r\n"),
        (Flavour::Python2, "event: message\r\ndata: {", "}\r\n\r\n"),
        (Flavour::TypeScript, "id: 2_0\ndata: \n\nevent: message\nid: 2_1\ndata: {", "}\n\n"),
        (Flavour::Rmcp, "data: \nid: 0\nretry: 3000\n\ndata: {", "}\nid: 1\n\n"),
        (Flavour::Supergateway, "event: message\ndata: {", "}\n\n"),
    ];
    for (flavour, start_of, end) in rows {
        let server = start(flavour).await;
        let client = Client::builder(&server.url()).lenient().connect().await.unwrap();
        let answer = post_of(&client, &ping()).await;
        let text = body(&answer);
        assert!(text.starts_with(start_of) && text.ends_with(end), "{flavour}: {text:?}");
        assert_eq!(content_type(&answer), Some("text/event-stream"));
    }
}

async fn start(flavour: Flavour) -> Process {
    Process::start(Path::new(env!("CARGO_BIN_EXE_misbehaving-server")), flavour).await
}

async fn post_of(client: &Client, message: &Value) -> Response<Bytes> {
    client.raw(client.prepared(Method::POST, message.to_string().into())).await.unwrap()
}

async fn send(client: &Client, method: Method) -> Response<Bytes> {
    let request: Request<Bytes> = client.prepared(method, Bytes::new());
    client.raw(request).await.unwrap()
}

fn assert_said(answer: &Response<Bytes>, (status, kind, words): Said<'_>, flavour: Flavour) {
    assert_eq!(
        (answer.status().as_u16(), content_type(answer), body(answer)),
        (status, kind, words),
        "{flavour}"
    );
}

fn content_type(answer: &Response<Bytes>) -> Option<&str> {
    answer.headers().get("content-type").map(|kind| kind.to_str().unwrap())
}

fn body(answer: &Response<Bytes>) -> &str {
    std::str::from_utf8(answer.body()).unwrap()
}

fn notification() -> Value {
    json!({ "jsonrpc": "2.0", "method": "notifications/roots/list_changed" })
}

fn response() -> Value {
    json!({ "jsonrpc": "2.0", "id": 1, "result": {} })
}
