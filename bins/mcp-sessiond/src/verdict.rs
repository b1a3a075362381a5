//! One table: what an upstream's answer says about the session it was sent on.
//!
//! The rows come from recorded answers of real servers (`tests/recorded`); a new server that says it differently gets
//! a row and a recording. What is done about a verdict is decided in `session::call`.

use http::{HeaderMap, StatusCode, header};
use serde::Deserialize;

use crate::mcp::{INVALID_PARAMS, INVALID_REQUEST, METHOD_NOT_FOUND, RpcError};

/// How much of an answer the table reads; session errors are far smaller.
pub const PEEK: usize = 16 << 10;
/// On an error answer of a trusted neighbour: nothing of the request reached the server.
pub const NOT_FORWARDED: &str = "mcp-not-forwarded";

/// The ways in which a session or its server gets lost; the label of `mcp_sessiond_heals_total`.
#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
pub enum Flavour {
    /// 400 that names the session (Python mcp 1.12, server-everything).
    BadRequest,
    /// The connection broke after the request was written.
    Broken,
    /// 410.
    Gone,
    /// Three session-free probes in a row found nobody at home.
    Hang,
    /// 404 (Python mcp 1.30 and 2, TypeScript, rmcp).
    NotFound,
    /// Nobody listens, or a neighbour says that nothing was forwarded.
    Refused,
    /// 200 with a JSON-RPC error about the session.
    RpcError,
    /// 500, 502 or 504 that names the session.
    ServerError,
    /// 401 without a challenge, that names the session.
    Unauthorized,
    /// 503 that names the session.
    Unavailable,
}

impl Flavour {
    /// The metric's label.
    pub fn as_str(self) -> &'static str {
        match self {
            Flavour::BadRequest => "400",
            Flavour::Broken => "broken",
            Flavour::Gone => "410",
            Flavour::Hang => "hang",
            Flavour::NotFound => "404",
            Flavour::Refused => "refused",
            Flavour::RpcError => "200",
            Flavour::ServerError => "500",
            Flavour::Unauthorized => "401",
            Flavour::Unavailable => "503",
        }
    }
}

impl Flavour {
    /// Whether the server may have the session after all: one that was away, or whose neighbour answered for it, was not heard.
    pub fn leaves_doubt(self) -> bool {
        use Flavour::*;
        match self {
            Broken | Hang | Refused | ServerError | Unavailable => true,
            BadRequest | Gone | NotFound | RpcError | Unauthorized => false,
        }
    }
}

/// What an answer means for the session.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Verdict {
    /// The client's business.
    Answer,
    /// Says that the session is gone, by a status that the failure of a tool gets as well, which may have sessions of its own
    /// (a browser's, a terminal's): a server that still knows ours meant that. Else it is lost, and whether the request ran is
    /// unknown: no server measured says so of what it did not run.
    Claimed(Flavour),
    /// May or may not be about the session: ask the server before believing it.
    Doubtful(Flavour),
    /// The session is gone, and the request with it: it did not run.
    Lost(Flavour),
    /// A neighbour could not reach the server: the request did not run.
    NotForwarded,
}

/// Judges an answer by its status, its headers and the beginning of its body (or the data of its first event).
pub fn judge(status: StatusCode, headers: &HeaderMap, body: &[u8]) -> Verdict {
    if headers.contains_key(NOT_FORWARDED) && !status.is_success() {
        return Verdict::NotForwarded;
    }
    let body = &body[..body.len().min(PEEK)];
    let error = rpc_error(body);
    let code = error.as_ref().map(|error| error.code);
    let said = match &error {
        Some(error) => names_session(&error.message),
        None => names_session(&String::from_utf8_lossy(body)),
    };
    match status.as_u16() {
        404 if code == Some(METHOD_NOT_FOUND.into()) => Verdict::Answer,
        404 => Verdict::Lost(Flavour::NotFound),
        410 => Verdict::Lost(Flavour::Gone),
        400 if code.is_some_and(is_modern_code) => Verdict::Answer,
        400 if said => Verdict::Lost(Flavour::BadRequest),
        400 => Verdict::Doubtful(Flavour::BadRequest),
        401 if said && !headers.contains_key(header::WWW_AUTHENTICATE) => {
            Verdict::Lost(Flavour::Unauthorized)
        }
        503 if said => Verdict::Claimed(Flavour::Unavailable),
        503 => Verdict::Doubtful(Flavour::Unavailable),
        500 | 502 | 504 if said => Verdict::Claimed(Flavour::ServerError),
        500 | 502 | 504 => Verdict::Doubtful(Flavour::ServerError),
        200 => match error {
            // A tool may speak of sessions of its own, or of a language server's that is not initialized: ask first.
            Some(_) if said => Verdict::Doubtful(Flavour::RpcError),
            Some(error)
                if error.code == i64::from(INVALID_PARAMS) || error.code == i64::from(INVALID_REQUEST) =>
            {
                Verdict::Doubtful(Flavour::RpcError)
            }
            _ => Verdict::Answer,
        },
        _ => Verdict::Answer,
    }
}

/// -32020 to -32022: header mismatch, missing capability, unsupported version (MCP 2026-07-28).
fn is_modern_code(code: i64) -> bool {
    (-32022..=-32020).contains(&code)
}

fn rpc_error(body: &[u8]) -> Option<RpcError> {
    #[derive(Deserialize)]
    struct Message {
        error: RpcError,
    }
    serde_json::from_slice::<Message>(body).ok().map(|message| message.error)
}

/// Whether a sentence says that *the MCP session* is what is wrong.
fn names_session(sentence: &str) -> bool {
    let sentence = sentence.to_ascii_lowercase();
    let about = [
        "session id",
        "session-id",
        "sessionid",
        "session not found",
        "session has",
        "session was",
        "session is",
    ];
    let gone = [
        "not found",
        "no valid",
        "invalid",
        "unknown",
        "expired",
        "terminated",
        "closed",
        "missing",
        "no such",
        "does not exist",
        "gone",
    ];
    let state = [
        "session not found",
        "session expired",
        "session terminated",
        "session closed",
        "no such session",
        "unknown session",
        "invalid session",
        "too many sessions",
        "session limit",
        "no active session",
    ];
    names_initialization(&sentence)
        || state.iter().any(|phrase| sentence.contains(phrase))
        || (about.iter().any(|phrase| sentence.contains(phrase))
            && gone.iter().any(|phrase| sentence.contains(phrase)))
}

/// Whether a sentence says that this session never saw `initialize`.
fn names_initialization(sentence: &str) -> bool {
    let sentence = sentence.to_ascii_lowercase();
    [
        "server not initialized",
        "session initialization",
        "session not initialized",
        "not been initialized",
        "before initialization",
    ]
    .iter()
    .any(|phrase| sentence.contains(phrase))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn verdict(status: u16, body: &str) -> Verdict {
        judge(StatusCode::from_u16(status).unwrap(), &HeaderMap::new(), body.as_bytes())
    }

    fn error(code: i32, message: &str) -> String {
        format!(r#"{{"jsonrpc":"2.0","id":null,"error":{{"code":{code},"message":{message:?}}}}}"#)
    }

    #[test]
    fn every_row_of_lost() {
        use Flavour::*;
        let rows = [
            (400, "Bad Request: No valid session ID provided".into(), BadRequest),
            (400, r#"{"jsonrpc":"2.0","error":{"code":-32000,"message":"Bad Request: No valid session ID provided"}}"#.into(), BadRequest),
            (400, error(-32000, "Bad Request: Server not initialized"), BadRequest),
            (404, error(-32600, "Session not found"), NotFound),
            (404, error(-32001, "Session not found"), NotFound),
            (404, "Not Found: Session not found".into(), NotFound),
            (404, String::new(), NotFound),
            (410, String::new(), Gone),
            (401, error(-32001, "Session expired"), Unauthorized),
        ];
        for (status, body, flavour) in rows {
            assert_eq!(verdict(status, &body), Verdict::Lost(flavour), "{status} {body}");
        }
    }

    #[test]
    fn every_row_of_claimed() {
        let rows = [
            (500, "session not found".into(), Flavour::ServerError),
            (500, error(-32603, "invalid session id: the browser was closed"), Flavour::ServerError),
            (503, error(-32600, "Too many sessions"), Flavour::Unavailable),
        ];
        for (status, body, flavour) in rows {
            assert_eq!(verdict(status, &body), Verdict::Claimed(flavour), "{status} {body}");
        }
    }

    #[test]
    fn every_row_of_doubtful() {
        let rows = [
            (400, "Bad Request".into(), Flavour::BadRequest),
            (400, error(-32700, "Parse error"), Flavour::BadRequest),
            (500, "Internal Server Error".into(), Flavour::ServerError),
            (502, "<html>502 Bad Gateway</html>".into(), Flavour::ServerError),
            (503, String::new(), Flavour::Unavailable),
            (504, String::new(), Flavour::ServerError),
            (200, error(-32602, "Invalid request parameters"), Flavour::RpcError),
            (200, error(-32600, "Invalid Request"), Flavour::RpcError),
            (200, error(-32000, "tmux session not found"), Flavour::RpcError),
            (
                200,
                error(-32600, r#"method "tools/call" is invalid during session initialization"#),
                Flavour::RpcError,
            ),
            (200, error(-32002, "Server not initialized"), Flavour::RpcError),
        ];
        for (status, body, flavour) in rows {
            assert_eq!(verdict(status, &body), Verdict::Doubtful(flavour), "{status} {body}");
        }
    }

    #[test]
    fn every_row_of_answer() {
        let rows = [
            (404, error(-32601, "Method not found")),
            (400, error(-32020, "Header mismatch: Mcp-Method")),
            (400, error(-32022, "Unsupported protocol version")),
            (403, "Forbidden: invalid session id".into()),
            (401, "Unauthorized".into()),
            (406, "Not Acceptable".into()),
            (413, String::new()),
            (429, String::new()),
            (200, r#"{"jsonrpc":"2.0","id":1,"result":{"text":"session not found"}}"#.into()),
            (200, error(-32601, "Method not found")),
            (200, error(-32603, "boom")),
            (202, String::new()),
        ];
        for (status, body) in rows {
            assert_eq!(verdict(status, &body), Verdict::Answer, "{status} {body}");
        }
    }

    #[test]
    fn a_challenge_is_for_the_client() {
        let mut headers = HeaderMap::new();
        headers.insert(header::WWW_AUTHENTICATE, "Bearer".parse().unwrap());
        assert_eq!(judge(StatusCode::UNAUTHORIZED, &headers, b"invalid session id"), Verdict::Answer);
    }

    #[test]
    fn a_neighbour_that_forwarded_nothing_is_believed() {
        let mut headers = HeaderMap::new();
        headers.insert(NOT_FORWARDED, "1".parse().unwrap());
        assert_eq!(judge(StatusCode::SERVICE_UNAVAILABLE, &headers, b""), Verdict::NotForwarded);
        assert_eq!(judge(StatusCode::OK, &headers, b""), Verdict::Answer);
    }
}
