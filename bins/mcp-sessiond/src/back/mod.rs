//! How the server is reached: over HTTP, or as a child process that speaks stdio. Both take and give HTTP, so that one
//! engine heals both.

pub mod exec;
pub mod http;

use std::fmt;

use ::http::{Request, Response};
use bytes::Bytes;
use mcp_daemon::addr::Route;
use mcp_daemon::body::Body;
use mcp_daemon::client::SendError;

/// A way to the server.
pub enum Back {
    /// A child process for each session.
    Exec(exec::ExecBack),
    /// An MCP server with Streamable HTTP.
    Http(Box<http::HttpBack>),
}

impl Back {
    /// Sends one request. `NotSent` is a proof that the server saw nothing of it.
    pub async fn send(
        &self,
        route: Option<&Route>,
        request: Request<Bytes>,
    ) -> Result<Response<Body>, SendError> {
        match self {
            Back::Exec(back) => Box::pin(back.send(route, request)).await,
            Back::Http(back) => {
                let to = back.endpoint(route)?;
                back.send(&to, request).await.map(|answer| back.believed(answer))
            }
        }
    }

    /// The same on a connection of its own, for probes.
    pub async fn send_on_new_connection(
        &self,
        route: Option<&Route>,
        request: Request<Bytes>,
    ) -> Result<Response<Body>, SendError> {
        match self {
            Back::Exec(back) => Box::pin(back.send(route, request)).await,
            Back::Http(back) => back.send_on_new_connection(route, request).await,
        }
    }

    /// Whether a session-free probe tells a hung server from a busy one.
    pub fn can_be_probed(&self) -> bool {
        matches!(self, Back::Http(_))
    }

    /// Whether a request has to say its route.
    pub fn needs_route(&self) -> bool {
        match self {
            Back::Exec(_) => false,
            Back::Http(back) => back.needs_route(),
        }
    }

    /// Whether each session has a server process of its own, so that what is per process is per session.
    pub fn is_private(&self) -> bool {
        matches!(self, Back::Exec(_))
    }

    /// For `GET /status`.
    pub fn status(&self) -> serde_json::Value {
        match self {
            Back::Exec(back) => back.status(),
            Back::Http(back) => serde_json::json!({"upstream": back.to_string()}),
        }
    }
}

impl fmt::Display for Back {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Back::Exec(_) => out.write_str("a process for each session"),
            Back::Http(back) => back.fmt(out),
        }
    }
}
