//! What a probe leaves in the server's log, so that it can be left out of what people read.
//!
//! Serena writes two lines for each probe: that the session is unknown, and uvicorn's line for the request. Every five
//! seconds, that would have pushed everything else out of the last lines that are kept after eight minutes.

use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use http::Method;
use tokio::time::Instant;

use super::ask::SESSION;

/// How long after the answer its line may still be on the way here.
const DELAY: Duration = Duration::from_secs(1);
/// Probes without a line of theirs that are remembered; more are those of a server that writes none.
const MAX_OWED: usize = 8;

/// Knows the lines of one prober. Shared with whoever reads the server's output.
pub struct Echo {
    /// As access logs have it: `POST /mcp HTTP/1.1`.
    request: String,
    /// Until when each probe's line may come; only so many lines are taken for echoes.
    owed: Mutex<Vec<Instant>>,
}

impl Echo {
    pub(super) fn of(method: &Method, path: &str) -> Self {
        Echo { request: format!("{method} {path} HTTP/1.1"), owed: Mutex::default() }
    }

    /// A probe begins that may take until `end`.
    pub(super) fn expect(&self, end: Instant) {
        let mut owed = self.owed.lock().unwrap_or_else(PoisonError::into_inner);
        let now = Instant::now();
        owed.retain(|until| *until > now);
        if owed.len() < MAX_OWED {
            owed.push(end + DELAY);
        }
    }

    /// Whether a line of the server's output is about a probe. The line for the request is told from a client's only
    /// by its time, so now and then one of theirs is taken for ours, and ours is left; never more than one for a probe.
    pub fn is_in(&self, line: &str) -> bool {
        if line.contains(SESSION) {
            return true;
        }
        let Some(at) = line.find(&self.request) else { return false };
        let after = line[at + self.request.len()..].trim_start_matches('"').trim_start();
        // A client's good answer is worth reading.
        if !after.starts_with(['2', '4']) || (after.starts_with('2') && self.request.starts_with("POST")) {
            return false;
        }
        let mut owed = self.owed.lock().unwrap_or_else(PoisonError::into_inner);
        let now = Instant::now();
        owed.retain(|until| *until > now);
        owed.pop().is_some()
    }
}

#[cfg(test)]
mod tests {
    use tokio::time::advance;

    use super::*;

    const REJECTED: &str = "INFO  2026-11-21 12:21:12,846 [MainThread] mcp.server.streamable_http_manager:_handle_stateful_request:305 - Rejected request with unknown or expired session ID: serena-supervise-probe-0-session";
    const ACCESS: &str = "INFO  2026-11-21 12:21:12,846 [MainThread] uvicorn.access:send:477 - 127.0.0.1:47604 - \"POST /mcp HTTP/1.1\" 404";
    const ACCESS_OLD: &str = "INFO:     127.0.0.1:37418 - \"POST /mcp HTTP/1.1\" 404 Not Found";

    #[tokio::test(start_paused = true)]
    async fn both_lines_of_a_probe_are_known_and_no_third_one() {
        let echo = Echo::of(&Method::POST, "/mcp");
        assert!(!echo.is_in(ACCESS));
        for access in [ACCESS, ACCESS_OLD] {
            echo.expect(Instant::now() + Duration::from_secs(5));
            assert!(echo.is_in(REJECTED) && echo.is_in(access));
            assert!(!echo.is_in(access), "a client's own");
        }
    }

    #[tokio::test(start_paused = true)]
    async fn what_clients_do_is_no_echo() {
        let echo = Echo::of(&Method::POST, "/mcp");
        echo.expect(Instant::now());
        assert!(!echo.is_in("127.0.0.1:1 - \"POST /mcp HTTP/1.1\" 200"));
        assert!(!echo.is_in("127.0.0.1:1 - \"POST /mcp/other HTTP/1.1\" 404"));
        assert!(!echo.is_in("127.0.0.1:1 - \"GET /mcp HTTP/1.1\" 404"));
        advance(DELAY * 2).await;
        assert!(!echo.is_in(ACCESS), "too late to be ours");
    }

    #[tokio::test(start_paused = true)]
    async fn a_server_that_writes_no_lines_makes_none_of_its_clients_disappear_for_long() {
        let echo = Echo::of(&Method::GET, "/ready");
        for _ in 0..1000 {
            echo.expect(Instant::now() + Duration::from_secs(5));
        }
        let line = "\"GET /ready HTTP/1.1\" 200";
        assert_eq!((0..100).filter(|_| echo.is_in(line)).count(), MAX_OWED);
    }
}
