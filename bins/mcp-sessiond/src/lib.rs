//! mcp-sessiond: a client's MCP session survives anything that happens to the server or to sessiond itself.
//!
//! `front` takes requests in (HTTP, stdio), `session` keeps a session whole, `back` reaches the server (HTTP, or a child
//! process). `verdict` is the table of what servers say; `modern` carries the stateless era.

pub mod back;
pub mod config;
pub mod doctor;
pub mod front;
pub mod lines;
pub mod metrics;
pub mod modern;
mod names;
pub mod ops;
pub mod serena;
pub mod session;
pub mod sse;
pub mod streams;
pub mod verdict;

use std::fmt::Display;

use http::{HeaderValue, header};
use mcp_daemon::config::ConfigProblem;
pub use mcp_daemon::mcp;
use mcp_daemon::secret::Secret;

use crate::config::Config;
use crate::session::engine::OwnHeaders;

/// The headers that every upstream request gets: those of the settings, and the bearer token of `token_file`.
pub fn own_headers(config: &Config) -> Result<OwnHeaders, ConfigProblem> {
    let mut headers = config.header_pairs()?;
    if let Some(path) = &config.token_file {
        let refuse = |what: &dyn Display| ConfigProblem::key("token_file", what);
        let token = Secret::read(path).map_err(|error| refuse(&error))?;
        let mut value = HeaderValue::from_str(&format!("Bearer {}", token.expose()))
            .map_err(|_| refuse(&format_args!("{}: has characters that no token has", path.display())))?;
        value.set_sensitive(true);
        headers.push((header::AUTHORIZATION, value));
    }
    Ok(headers)
}
