//! A request's body, within its bounds of size and time.

use bytes::{Bytes, BytesMut};
use http::{Response, StatusCode};
use http_body_util::BodyExt;
use hyper::body::{Body as _, Incoming};
use mcp_daemon::body::Body;
use mcp_daemon::mcp;

use crate::answer;
use crate::config::Config;

/// Reads a body within `limits.body` and `limits.body_timeout`.
pub async fn read(config: &Config, body: Incoming) -> Result<Bytes, Response<Body>> {
    let bound = config.limits.body.bytes();
    let too_large = || {
        let message = format!("the body is larger than limits.body ({})", config.limits.body);
        answer::refused(StatusCode::PAYLOAD_TOO_LARGE, "null", mcp::INVALID_REQUEST, &message)
    };
    if body.size_hint().lower() > bound as u64 {
        return Err(too_large());
    }
    match tokio::time::timeout(config.limits.body_timeout.duration(), collect(body, bound)).await {
        Ok(Ok(Some(body))) => Ok(body),
        Ok(Ok(None)) => Err(too_large()),
        Ok(Err(_broken)) => {
            Err(answer::refused(StatusCode::BAD_REQUEST, "null", mcp::PARSE_ERROR, "the body broke off"))
        }
        Err(_elapsed) => {
            let message =
                format!("the body did not come within limits.body_timeout ({})", config.limits.body_timeout);
            Err(answer::refused(StatusCode::REQUEST_TIMEOUT, "null", mcp::INVALID_REQUEST, &message))
        }
    }
}

async fn collect(mut body: Incoming, bound: usize) -> Result<Option<Bytes>, hyper::Error> {
    let mut all = BytesMut::new();
    while let Some(frame) = body.frame().await {
        let Ok(chunk) = frame?.into_data() else { continue };
        if all.len() + chunk.len() > bound {
            return Ok(None);
        }
        all.extend_from_slice(&chunk);
    }
    Ok(Some(all.freeze()))
}
