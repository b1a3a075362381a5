//! What an answer to an MCP probe says about the server.
//!
//! The question is in a session that does not exist, so a refusal is the usual good answer. What servers say then
//! differs: JSON-RPC with 404 or 400 (most), plain text (`Bad Request: No valid session ID provided`, mcp 1.12;
//! `Not Found: Session not found`, rmcp), or 200, where sessions are not a thing. Told apart from that has to be a web
//! server that is no MCP server, or one that has MCP at another path: they say 404 as well, in HTML, in a text without
//! the word session, or in JSON that is not JSON-RPC.

use http::StatusCode;

/// Bytes of an answer that are repeated to a person.
const SHOWN: usize = 80;

/// Whether MCP is answered; if not, what was said instead.
pub fn of_mcp(status: StatusCode, content_type: &str, body: &[u8]) -> Result<(), String> {
    let kind = content_type.split(';').next().unwrap_or_default().trim().to_ascii_lowercase();
    let html = kind == "text/html";
    let good = match status.as_u16() {
        200..=299 => !html,
        // The door of an MCP server that wants a token, knows us under another name, or is asked too often.
        401 | 403 | 421 | 429 => !html,
        400..=499 => !html && speaks_mcp(body),
        _ => false,
    };
    if good { Ok(()) } else { Err(described(status, &kind, body)) }
}

/// JSON-RPC in the body, or a sentence about the session.
fn speaks_mcp(body: &[u8]) -> bool {
    let text = String::from_utf8_lossy(body);
    let text = text.trim_start();
    // Not parsed: it may be cut short, and what it says does not matter.
    if text.starts_with(['{', '[']) {
        text.contains("\"jsonrpc\"")
    } else {
        text.to_ascii_lowercase().contains("session")
    }
}

fn described(status: StatusCode, kind: &str, body: &[u8]) -> String {
    let text = String::from_utf8_lossy(&body[..body.len().min(4 * SHOWN)]);
    // A page tells a person nothing in 80 characters; printable characters only, since it may end up in a terminal.
    let shown: String = if kind == "text/html" {
        String::new()
    } else {
        let printable = text.chars().map(|c| if c.is_control() { ' ' } else { c });
        printable.take(SHOWN).collect::<String>().trim().to_owned()
    };
    let kind = if kind.is_empty() { "" } else { &format!(" with {kind}") };
    match (status.is_client_error(), shown.is_empty()) {
        (true, true) => format!("{status}{kind}; MCP is not at this path"),
        (true, false) => format!("{status}{kind} ({shown}); MCP is not at this path"),
        (false, true) => format!("{status}{kind}"),
        (false, false) => format!("{status}{kind} ({shown})"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn verdict(status: u16, kind: &str, body: &str) -> Result<(), String> {
        of_mcp(StatusCode::from_u16(status).unwrap(), kind, body.as_bytes())
    }

    #[test]
    fn every_way_to_say_that_a_session_is_unknown_is_an_answer() {
        for (status, kind, body) in [
            (
                404,
                "application/json",
                r#"{"jsonrpc":"2.0","id":null,"error":{"code":-32600,"message":"Session not found"}}"#,
            ),
            (
                404,
                "application/json",
                r#"{"jsonrpc":"2.0","id":"server-error","error":{"code":-32600,"message":"Session not found"}}"#,
            ),
            (
                400,
                "application/json",
                r#"{"jsonrpc":"2.0","error":{"code":-32000,"message":"Bad Request: No valid session ID provided"}}"#,
            ),
            (400, "", "Bad Request: No valid session ID provided"),
            (404, "text/plain; charset=utf-8", "Not Found: Session not found"),
            (
                400,
                "application/json",
                r#"{"jsonrpc":"2.0","id":1,"error":{"code":-32602,"message":"params._meta must be an object"}}"#,
            ),
            (200, "text/event-stream", ""),
            (200, "application/json", r#"{"jsonrpc":"2.0","id":1,"result":{}}"#),
            (202, "", ""),
            (401, "application/json", r#"{"error":"invalid_token"}"#),
            (421, "text/plain", "Invalid Host header"),
        ] {
            assert_eq!(verdict(status, kind, body), Ok(()), "{status} {body}");
        }
    }

    #[test]
    fn a_server_that_is_no_mcp_server_or_is_not_ready_is_told_apart() {
        for (status, kind, body) in [
            (404, "text/html", "<html>no session here</html>"),
            (404, "text/plain", "404 page not found\n"),
            (404, "application/json", r#"{"detail":"Not Found"}"#),
            (404, "", ""),
            (405, "text/plain", "Method Not Allowed"),
            (200, "text/html; charset=utf-8", "<html>a router</html>"),
            (301, "", ""),
            (500, "application/json", r#"{"jsonrpc":"2.0","id":null}"#),
            (502, "text/html", "<html>session</html>"),
            (503, "text/plain", "no session yet"),
        ] {
            assert!(verdict(status, kind, body).is_err(), "{status} {body}");
        }
    }

    #[test]
    fn a_wrong_answer_is_described_on_one_line() {
        let said = verdict(404, "text/plain", "404 page\x1b[31m\nnot found\n").unwrap_err();
        assert_eq!(said, "404 Not Found with text/plain (404 page [31m not found); MCP is not at this path");
        assert_eq!(verdict(503, "", "").unwrap_err(), "503 Service Unavailable");
        assert!(verdict(404, "", &"x".repeat(4000)).unwrap_err().len() < 200);
    }
}
