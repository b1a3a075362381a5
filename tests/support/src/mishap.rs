//! One accident, to be had by one of the next requests.

use http::StatusCode;

/// What happens to a request instead of (or after) being served; see [`crate::Server::next`].
#[derive(Clone, Debug)]
pub struct Mishap {
    pub(crate) method: Option<String>,
    pub(crate) kind: Kind,
}

#[derive(Clone, Debug)]
pub(crate) enum Kind {
    /// Not served: this answer instead, as an intermediary gives it.
    Answer { status: StatusCode, content_type: &'static str, body: String, not_forwarded: bool },
    /// Served, but only so many bytes of the answer's body leave before the connection is reset.
    Die { after: usize },
    /// Not served and not answered, ever.
    Hang,
    /// Not served: a JSON-RPC error with the request's id and status 200.
    RpcError { code: i64, message: String },
}

impl Mishap {
    /// An intermediary's page with this status; the server itself sees nothing of the request.
    pub fn status(status: u16) -> Self {
        let body = format!(
            "<html><head><title>{status}</title></head><body><h1>{status}</h1><hr>nginx</body></html>\n"
        );
        Self::answer(status, "text/html", body)
    }

    /// An answer of your own; the server itself sees nothing of the request.
    pub fn answer(status: u16, content_type: &'static str, body: impl Into<String>) -> Self {
        let status = StatusCode::from_u16(status).expect("tests use valid statuses");
        Self::of(Kind::Answer { status, content_type, body: body.into(), not_forwarded: false })
    }

    /// 503 with `Mcp-Not-Forwarded: 1`: the proof that nothing of the request ran.
    pub fn not_forwarded() -> Self {
        Self::of(Kind::Answer {
            status: StatusCode::SERVICE_UNAVAILABLE,
            content_type: "text/plain",
            body: "the server is not running\n".into(),
            not_forwarded: true,
        })
    }

    /// The request is served, and the connection reset after `bytes` of the answer's body (0: after the head).
    pub fn die_after(bytes: usize) -> Self {
        Self::of(Kind::Die { after: bytes })
    }

    /// The request is read and never answered.
    pub fn hang() -> Self {
        Self::of(Kind::Hang)
    }

    /// Status 200 with this JSON-RPC error, in the flavour's framing and with the request's id.
    pub fn rpc_error(code: i64, message: &str) -> Self {
        Self::of(Kind::RpcError { code, message: message.into() })
    }

    /// Only for this: a JSON-RPC method, or `GET`, `DELETE`, or `response`. Requests for something else pass by.
    pub fn on(mut self, method: &str) -> Self {
        self.method = Some(method.into());
        self
    }

    fn of(kind: Kind) -> Self {
        Self { method: None, kind }
    }
}
