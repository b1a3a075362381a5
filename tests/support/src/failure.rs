//! Why a request of the test client has no result.

use std::fmt;

use http::StatusCode;
use serde_json::Value;

/// Why a request has no result.
#[derive(Clone, Debug)]
pub struct RpcFailure {
    /// The HTTP status; `None` if there was no HTTP answer.
    pub status: Option<u16>,
    /// The JSON-RPC error with the request's id, if that is what came.
    pub error: Option<Value>,
    /// The body, or why there is none.
    pub text: String,
}

impl RpcFailure {
    /// The JSON-RPC code, if there is one.
    pub fn code(&self) -> Option<i64> {
        self.error.as_ref()?["code"].as_i64()
    }

    /// The JSON-RPC message, `""` if there is none.
    pub fn message(&self) -> &str {
        self.error.as_ref().and_then(|error| error["message"].as_str()).unwrap_or_default()
    }

    pub(crate) fn broken(status: Option<StatusCode>, why: impl fmt::Display) -> Self {
        Self { status: status.map(|status| status.as_u16()), error: None, text: why.to_string() }
    }
}

impl fmt::Display for RpcFailure {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(out, "status {:?}: {}", self.status, self.text)
    }
}

impl std::error::Error for RpcFailure {}
