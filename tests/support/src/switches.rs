//! What can be switched while a server runs.

use std::time::Duration;

use crate::flavour::Flavour;

/// How ordinary answers to requests are framed.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Answers {
    /// One JSON body.
    Json,
    /// An event stream in the flavour's framing.
    Sse,
}

/// A server's switches; the defaults are what a well-behaved server of the flavour does.
#[derive(Clone, Debug)]
pub struct Switches {
    /// The version `initialize` agrees to, whatever was offered; `None` echoes the offer.
    pub agreed_version: Option<String>,
    /// How answers are framed; tools that speak before their result always stream.
    pub answers: Answers,
    /// Largest body of a request, in bytes; past it 413.
    pub body_limit: usize,
    /// With `idle_timeout`: the close comes just when the next request is on its way, which is reset unread. So every
    /// reuse of a connection of that age loses the race that it else loses once in a while.
    pub closes_late: bool,
    /// Whether GET opens a stream; off: 405.
    pub get: bool,
    /// Every request is read and none answered; those that wait go on when it is switched off (like SIGSTOP, SIGCONT).
    pub hang: bool,
    /// Connections that were used and then idle for this long are closed (uvicorn: 5 s).
    pub idle_timeout: Option<Duration>,
    /// Whether 2026-07-28 is spoken too.
    pub modern: bool,
    /// Every request gets 503 with `Mcp-Not-Forwarded: 1`.
    pub not_forwarded: bool,
    /// Connections are refused for this long after a start.
    pub slow_start: Duration,
    /// 406 unless `Accept` names both types on POST, event streams on GET.
    pub strict_accept: bool,
    /// 421 unless `Host` is `127.0.0.1:PORT` or `localhost:PORT` (on a Unix socket: any port).
    pub strict_host: bool,
    /// 403 for any `Origin` but this server's own.
    pub strict_origin: bool,
}

impl Switches {
    /// The defaults of a flavour: SSE for the SDKs that answer so, JSON for the others, all checks on.
    pub fn of(flavour: Flavour) -> Self {
        let sse = flavour.is_python()
            || matches!(
                flavour,
                Flavour::TypeScript
                    | Flavour::Everything
                    | Flavour::Rmcp
                    | Flavour::Supergateway
                    | Flavour::Go1_4
                    | Flavour::Ok200Error32602
            );
        Self {
            agreed_version: None,
            answers: if sse { Answers::Sse } else { Answers::Json },
            body_limit: 4 * 1024 * 1024,
            closes_late: false,
            get: true,
            hang: false,
            idle_timeout: None,
            modern: flavour == Flavour::Python2,
            not_forwarded: false,
            slow_start: Duration::ZERO,
            strict_accept: true,
            strict_host: true,
            strict_origin: true,
        }
    }
}
