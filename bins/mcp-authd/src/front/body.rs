//! A request's body, within its bounds of size and time.

use bytes::Bytes;
use http::{HeaderMap, Response, StatusCode, header};
use hyper::body::Incoming;
use mcp_daemon::body::Body;
use mcp_daemon::inbound::{self, Unread};
use mcp_daemon::mcp;

use crate::answer;
use crate::config::Config;

/// Reads a body within `limits.body` and `limits.body_timeout`.
pub async fn read(config: &Config, headers: &HeaderMap, body: Incoming) -> Result<Bytes, Response<Body>> {
    let limits = &config.limits;
    if !is_plain(headers) {
        let message = "the body must be JSON in UTF-8, without a Content-Encoding";
        let status = StatusCode::UNSUPPORTED_MEDIA_TYPE;
        return Err(answer::refused(status, "null", mcp::INVALID_REQUEST, message));
    }
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
