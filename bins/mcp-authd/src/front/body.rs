//! A request's body, within its bounds of size and time.

use bytes::Bytes;
use http::{HeaderMap, Response, StatusCode, header};
use hyper::body::Incoming;
use mcp_daemon::body::Body;
use mcp_daemon::config::{Size, Span};
use mcp_daemon::inbound::{self, Unread};
use mcp_daemon::mcp;

use crate::answer;
use crate::config::Config;

/// Why a body is not taken; what it says is for client and audit alike.
#[derive(Debug, thiserror::Error)]
pub enum NotTaken {
    /// It ended before it was whole.
    #[error("the body broke off")]
    Broken,
    /// It took too long.
    #[error("the body did not come within limits.body_timeout ({0})")]
    Late(Span),
    /// Others could read it in another way.
    #[error("the body must be JSON in UTF-8, without a Content-Encoding")]
    NotPlain,
    /// It is too long.
    #[error("the body is larger than limits.body ({0})")]
    TooLarge(Size),
}

impl NotTaken {
    /// What the client is told.
    pub fn answer(&self) -> Response<Body> {
        let (status, code) = match self {
            NotTaken::Broken => (StatusCode::BAD_REQUEST, mcp::PARSE_ERROR),
            NotTaken::Late(_) => (StatusCode::REQUEST_TIMEOUT, mcp::INVALID_REQUEST),
            NotTaken::NotPlain => (StatusCode::UNSUPPORTED_MEDIA_TYPE, mcp::INVALID_REQUEST),
            NotTaken::TooLarge(_) => (StatusCode::PAYLOAD_TOO_LARGE, mcp::INVALID_REQUEST),
        };
        answer::refused(status, "null", code, &self.to_string())
    }
}

/// Reads a body within `limits.body` and `limits.body_timeout`.
pub async fn read(config: &Config, headers: &HeaderMap, body: Incoming) -> Result<Bytes, NotTaken> {
    let limits = &config.limits;
    if !is_plain(headers) {
        return Err(NotTaken::NotPlain);
    }
    let read = inbound::read(body, limits.body.bytes(), limits.body_timeout.duration()).await;
    read.map_err(|unread| match unread {
        Unread::Broken => NotTaken::Broken,
        Unread::Late => NotTaken::Late(limits.body_timeout),
        Unread::TooLarge => NotTaken::TooLarge(limits.body),
    })
}

/// Whether everybody reads the body as we do: rules decide by what stands in it, and some servers decode what a header
/// names, UTF-7 included.
fn is_plain(headers: &HeaderMap) -> bool {
    let mut kinds = headers.get_all(header::CONTENT_TYPE).iter();
    let is_utf8 = match (kinds.next(), kinds.next()) {
        (None, _) => true,
        (Some(kind), None) => kind.to_str().is_ok_and(|kind| {
            let mut parameters =
                kind.split(';').skip(1).map(|parameter| parameter.trim().to_ascii_lowercase());
            parameters.all(|parameter| {
                let charset = parameter.strip_prefix("charset=").map(|charset| charset.trim_matches('"'));
                !parameter.contains("charset") || charset == Some("utf-8")
            })
        }),
        (Some(_), Some(_)) => false,
    };
    let mut codings = headers.get_all(header::CONTENT_ENCODING).iter();
    is_utf8 && codings.all(|coding| coding.as_bytes().eq_ignore_ascii_case(b"identity"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_everybody_reads_as_utf8_is_read() {
        let plain = |lines: &[(header::HeaderName, &str)]| {
            let lines = lines.iter().map(|(name, value)| (name.clone(), value.parse().unwrap()));
            let mut headers = HeaderMap::new();
            lines.for_each(|(name, value)| {
                headers.append(name, value);
            });
            is_plain(&headers)
        };
        let kind = |value| [(header::CONTENT_TYPE, value)];
        for good in
            ["application/json", "application/json; charset=utf-8", "application/json;charset=\"UTF-8\""]
        {
            assert!(plain(&kind(good)), "{good}");
        }
        for bad in ["application/json; charset=utf-7", "a/b; x=1; charset=utf-16", "a/b; charset = utf-7"] {
            assert!(!plain(&kind(bad)), "{bad}");
        }
        assert!(plain(&[]) && plain(&[(header::CONTENT_ENCODING, "identity")]));
        assert!(!plain(&[(header::CONTENT_ENCODING, "gzip")]));
        assert!(!plain(&[kind("application/json"), kind("application/json")].concat()));
    }
}
