//! The words each flavour has for a session that is not there. Literal text, because byte order and absent members matter.

use http::Method;
use serde_json::{Value, json};

use crate::flavour::Flavour;

/// A whole answer that refuses.
#[derive(Clone, Debug)]
pub(crate) struct Refusal {
    /// HTTP status.
    pub(crate) status: u16,
    /// `None` sends no `Content-Type` at all, as Starlette does for a bare text.
    pub(crate) content_type: Option<&'static str>,
    /// The body, unframed.
    pub(crate) body: String,
    /// Whether it carries a throw-away `mcp-session-id`, dead from birth.
    pub(crate) dead_id: bool,
}

/// What to do about a request whose session is not known.
pub(crate) enum Stale {
    /// Say so.
    Refuse(Refusal),
    /// Say so inside an event stream.
    RefuseAsStream(Refusal),
    /// Go on as if there were a session that saw no `initialize`: only `ping` works.
    AsUninitialized,
    /// Never answer.
    Silence,
}

const JSON: Option<&str> = Some("application/json");
const TEXT: Option<&str> = Some("text/plain; charset=utf-8");
const HTML: Option<&str> = Some("text/html; charset=utf-8");

/// The answer to a session id that the server does not know.
///
/// `id` is the JSON-RPC id of a POSTed request; notifications, responses, GET and DELETE have none.
pub(crate) fn stale(flavour: Flavour, http: &Method, id: Option<&Value>) -> Stale {
    let refusal = match flavour {
        Flavour::Python1_12 => new(400, None, "Bad Request: No valid session ID provided"),
        Flavour::Python1_30 => new(404, JSON, python_error("\"server-error\"", "Session not found")),
        Flavour::Python2 => new(404, JSON, python_error("null", "Session not found")),
        Flavour::Supergateway if *http == Method::GET => new(404, HTML, html("Session not found")),
        Flavour::TypeScript | Flavour::Supergateway => {
            new(404, JSON, typescript_error(-32001, "Session not found"))
        }
        Flavour::Everything => new(
            400,
            JSON,
            r#"{"jsonrpc":"2.0","error":{"code":-32000,"message":"Bad Request: No valid session ID provided"}}"#,
        ),
        Flavour::Rmcp if *http == Method::DELETE => new(202, None, ""),
        Flavour::Rmcp => new(404, TEXT, "Not Found: Session not found"),
        Flavour::Go1_4 if *http == Method::GET => new(405, TEXT, "GET requires an active session\n"),
        Flavour::Go1_4 if *http == Method::DELETE => new(204, None, ""),
        Flavour::Go1_4 => return Stale::AsUninitialized,
        Flavour::Gone410 => new(410, TEXT, "Gone: the session has expired"),
        Flavour::Unauthorized401 => {
            new(401, JSON, typescript_error(-32001, "Unauthorized: Session not found"))
        }
        Flavour::ServerError500 => new(500, TEXT, "session not found"),
        Flavour::BadGateway502 => new(502, HTML, html("502 Bad Gateway")),
        Flavour::Unavailable503 => new(
            503,
            JSON,
            typescript_error(-32000, "Service Unavailable: session not found, session limit reached"),
        ),
        Flavour::Hang => return Stale::Silence,
        Flavour::Ok200Error32602 | Flavour::Ok200Error32600 => return ok_200(flavour, http, id),
    };
    Stale::Refuse(refusal)
}

/// The answer to a request without a session id that is not `initialize`.
pub(crate) fn no_id(flavour: Flavour, http: &Method) -> Refusal {
    match flavour {
        Flavour::Python1_12 | Flavour::Python1_30 => Refusal {
            dead_id: true,
            ..new(400, JSON, python_error("\"server-error\"", "Bad Request: Missing session ID"))
        },
        Flavour::Python2 => Refusal {
            dead_id: true,
            ..new(400, JSON, python_error("null", "Bad Request: Missing session ID"))
        },
        Flavour::TypeScript if *http != Method::POST => new(400, HTML, "Invalid or missing session ID"),
        Flavour::TypeScript => {
            new(400, JSON, typescript_error(-32000, "Bad Request: Mcp-Session-Id header is required"))
        }
        Flavour::Everything => {
            new(400, JSON, typescript_error(-32000, "Bad Request: Server not initialized"))
        }
        Flavour::Rmcp => new(400, TEXT, "Bad Request: Session ID is required"),
        Flavour::Supergateway => {
            new(400, JSON, typescript_error(-32000, "Bad Request: No valid session ID provided"))
        }
        Flavour::Go1_4 => new(400, TEXT, "Bad Request: Mcp-Session-Id header is required\n"),
        Flavour::Gone410
        | Flavour::Unauthorized401
        | Flavour::ServerError500
        | Flavour::BadGateway502
        | Flavour::Unavailable503
        | Flavour::Ok200Error32602
        | Flavour::Ok200Error32600
        | Flavour::Hang => new(400, JSON, typescript_error(-32000, "Bad Request: Missing session ID")),
    }
}

/// The JSON-RPC error object, if any, for a request other than `ping` that comes before `notifications/initialized`.
pub(crate) fn before_initialized(flavour: Flavour, method: &str) -> Option<Value> {
    match flavour {
        Flavour::Python1_12 => {
            Some(json!({ "code": -32602, "message": "Invalid request parameters", "data": "" }))
        }
        Flavour::Go1_4 => {
            let sentence = format!("method \"{method}\" is invalid during session initialization");
            Some(json!({ "code": 0, "message": sentence }))
        }
        _ => None,
    }
}

fn ok_200(flavour: Flavour, http: &Method, id: Option<&Value>) -> Stale {
    match id {
        _ if *http == Method::GET => Stale::Refuse(new(405, TEXT, "Method Not Allowed")),
        _ if *http == Method::DELETE => Stale::Refuse(new(200, None, "")),
        None => Stale::Refuse(new(202, None, "")),
        Some(id) if flavour == Flavour::Ok200Error32602 => Stale::RefuseAsStream(new(
            200,
            None,
            format!(
                r#"{{"jsonrpc":"2.0","id":{id},"error":{{"code":-32602,"message":"Invalid request parameters"}}}}"#
            ),
        )),
        Some(id) => Stale::Refuse(new(
            200,
            JSON,
            format!(
                r#"{{"jsonrpc":"2.0","id":{id},"error":{{"code":-32600,"message":"Session not found"}}}}"#
            ),
        )),
    }
}

fn new(status: u16, content_type: Option<&'static str>, body: impl Into<String>) -> Refusal {
    Refusal { status, content_type, body: body.into(), dead_id: false }
}

/// An error of the transport itself, not of the session: Python's carry an id that is dead from birth to who has none.
pub(crate) fn transport(flavour: Flavour, status: u16, sentence: &str, has_session: bool) -> Refusal {
    // Only 2.x has null where a request's id belongs.
    let id = if flavour == Flavour::Python2 { "null" } else { "\"server-error\"" };
    let dead_id = flavour.is_python() && !has_session;
    Refusal { dead_id, ..new(status, JSON, python_error(id, sentence)) }
}

/// Member order of pydantic's models: id before error.
fn python_error(id: &str, message: &str) -> String {
    format!(r#"{{"jsonrpc":"2.0","id":{id},"error":{{"code":-32600,"message":"{message}"}}}}"#)
}

/// Member order of the TypeScript SDK: error before a null id.
fn typescript_error(code: i64, message: &str) -> String {
    format!(r#"{{"jsonrpc":"2.0","error":{{"code":{code},"message":"{message}"}},"id":null}}"#)
}

fn html(title: &str) -> String {
    format!(
        "<!DOCTYPE html>\n<html lang=\"en\"><head><title>Error</title></head><body><pre>{title}</pre></body></html>\n"
    )
}
