//! A request's body, within its bounds of size and time.

use bytes::Bytes;
use http::{Response, StatusCode};
use hyper::body::Incoming;
use mcp_daemon::body::Body;
use mcp_daemon::inbound::{self, Unread};
use mcp_daemon::mcp;

use crate::answer;
use crate::config::Config;

/// Reads a body within `limits.body` and `limits.body_timeout`.
pub async fn read(config: &Config, body: Incoming) -> Result<Bytes, Response<Body>> {
    let limits = &config.limits;
    let refused = |status, code, message: &str| answer::refused(status, "null", code, message);
    let read = inbound::read(body, limits.body.bytes(), limits.body_timeout.duration()).await;
    read.map_err(|unread| match unread {
        Unread::Broken => refused(StatusCode::BAD_REQUEST, mcp::PARSE_ERROR, "the body broke off"),
        Unread::Late => {
            let message =
                format!("the body did not come within limits.body_timeout ({})", limits.body_timeout);
            refused(StatusCode::REQUEST_TIMEOUT, mcp::INVALID_REQUEST, &message)
        }
        Unread::TooLarge => {
            let message = format!("the body is larger than limits.body ({})", limits.body);
            refused(StatusCode::PAYLOAD_TOO_LARGE, mcp::INVALID_REQUEST, &message)
        }
    })
}
