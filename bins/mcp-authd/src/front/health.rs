//! `GET /health`, for whoever asks: nothing secret.

use http::{Response, StatusCode};
use mcp_daemon::body::Body;
use serde_json::json;

use crate::answer;
use crate::config::Config;

/// What anybody may know.
pub fn answer(config: &Config) -> Response<Body> {
    answer::text(StatusCode::OK, format!("{}\n", json!({"status": "ok", "generation": config.generation})))
}
