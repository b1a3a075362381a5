//! Which server is imitated: one variant per way of saying that a session is gone.

use std::{fmt, str::FromStr};

/// A real server (or one seen in the field), as far as lost sessions and framing go.
#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
pub enum Flavour {
    /// Python SDK 1.12.3: 400 as text; refuses requests before `notifications/initialized`.
    Python1_12,
    /// Python SDK 1.30 and fastmcp 2.14: 404 with the id `"server-error"`.
    Python1_30,
    /// Python SDK 2.2 and 2.3 (Serena 2.1), fastmcp 4.1: 404 with a null id; speaks the modern era too.
    Python2,
    /// TypeScript SDK 1.32: 404 with -32001; priming events.
    TypeScript,
    /// server-everything 2026.8: 400 with -32000 and no id member.
    Everything,
    /// rmcp 3.9: 404 as text, but 202 for DELETE; its own first event.
    Rmcp,
    /// supergateway 4, stateful: 404 with -32001, an HTML page for GET.
    Supergateway,
    /// Go SDK 1.4: an unknown id becomes a session that never saw `initialize`.
    Go1_4,
    /// Field: 410 as text.
    Gone410,
    /// Field: 401 without `WWW-Authenticate`, with a session message.
    Unauthorized401,
    /// Field: 500 with the text `session not found`.
    ServerError500,
    /// Field: 502 with a page that names no session.
    BadGateway502,
    /// Field: 503 with a session error, as at a cap on sessions.
    Unavailable503,
    /// Field: 200 with -32602 that names no session (as SSE).
    Ok200Error32602,
    /// Field: 200 with -32600 `Session not found` (as JSON).
    Ok200Error32600,
    /// Field: a request with a stale id is never answered.
    Hang,
}

impl Flavour {
    /// Every flavour; [`Flavour::Hang`] last, because finding a hang takes a proxy longest.
    pub const ALL: [Flavour; 16] = [
        Flavour::Python1_12,
        Flavour::Python1_30,
        Flavour::Python2,
        Flavour::TypeScript,
        Flavour::Everything,
        Flavour::Rmcp,
        Flavour::Supergateway,
        Flavour::Go1_4,
        Flavour::Gone410,
        Flavour::Unauthorized401,
        Flavour::ServerError500,
        Flavour::BadGateway502,
        Flavour::Unavailable503,
        Flavour::Ok200Error32602,
        Flavour::Ok200Error32600,
        Flavour::Hang,
    ];

    /// The flavours that answer a stale id with something: all but [`Flavour::Hang`].
    pub fn answering() -> impl Iterator<Item = Flavour> {
        Flavour::ALL.into_iter().filter(|flavour| *flavour != Flavour::Hang)
    }

    /// The name on the command line, which parses back.
    pub const fn name(self) -> &'static str {
        match self {
            Flavour::Python1_12 => "python-1.12",
            Flavour::Python1_30 => "python-1.30",
            Flavour::Python2 => "python-2",
            Flavour::TypeScript => "typescript",
            Flavour::Everything => "everything",
            Flavour::Rmcp => "rmcp",
            Flavour::Supergateway => "supergateway",
            Flavour::Go1_4 => "go-1.4",
            Flavour::Gone410 => "gone-410",
            Flavour::Unauthorized401 => "unauthorized-401",
            Flavour::ServerError500 => "server-error-500",
            Flavour::BadGateway502 => "bad-gateway-502",
            Flavour::Unavailable503 => "unavailable-503",
            Flavour::Ok200Error32602 => "ok-200-error-32602",
            Flavour::Ok200Error32600 => "ok-200-error-32600",
            Flavour::Hang => "hang",
        }
    }

    /// A tool whose stale call succeeds: a 5xx is no proof that a call did not run, whatever it says of sessions, so after
    /// one only what has no effect is sent again.
    pub const fn stale_tool(self) -> &'static str {
        match self {
            Flavour::ServerError500 | Flavour::BadGateway502 | Flavour::Unavailable503 => "read",
            _ => "count",
        }
    }

    /// Whether it is one of the Python SDKs: dead session ids on errors, CRLF framing.
    pub(crate) const fn is_python(self) -> bool {
        matches!(self, Flavour::Python1_12 | Flavour::Python1_30 | Flavour::Python2)
    }
}

impl fmt::Display for Flavour {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.pad(self.name())
    }
}

impl FromStr for Flavour {
    type Err = UnknownFlavour;

    fn from_str(text: &str) -> Result<Self, UnknownFlavour> {
        Flavour::ALL
            .into_iter()
            .find(|flavour| flavour.name() == text)
            .ok_or_else(|| UnknownFlavour(text.into()))
    }
}

/// A name that is no flavour's; its `Display` lists those that are.
#[derive(Debug)]
pub struct UnknownFlavour(String);

impl fmt::Display for UnknownFlavour {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        let names: Vec<&str> = Flavour::ALL.iter().map(|flavour| flavour.name()).collect();
        write!(out, "`{}` is not a flavour; choose one of {}", self.0, names.join(", "))
    }
}

impl std::error::Error for UnknownFlavour {}
