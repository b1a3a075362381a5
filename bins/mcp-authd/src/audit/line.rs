//! The form of a line.

use std::borrow::Cow;
use std::net::IpAddr;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

/// One decision. Members that say nothing are left out.
#[derive(Debug, Deserialize, PartialEq, Serialize)]
pub struct Line<'a> {
    /// When the answer ended.
    pub time: Timestamp,
    /// Who, if that is known.
    #[serde(borrow, default, skip_serializing_if = "Option::is_none")]
    pub subject: Option<Cow<'a, str>>,
    /// Which credential: the first 8 hexadecimal digits of its SHA-256, of a wrong one too.
    #[serde(borrow, default, skip_serializing_if = "Option::is_none")]
    pub token: Option<Cow<'a, str>>,
    /// From where.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub address: Option<IpAddr>,
    /// Where to.
    #[serde(borrow, default, skip_serializing_if = "Option::is_none")]
    pub route: Option<Cow<'a, str>>,
    /// The method of HTTP.
    #[serde(borrow)]
    pub http: Cow<'a, str>,
    /// The method of JSON-RPC; of a batch, each once, with commas.
    #[serde(borrow, default, skip_serializing_if = "str::is_empty")]
    pub method: Cow<'a, str>,
    /// The tool, prompt or resource; likewise.
    #[serde(borrow, default, skip_serializing_if = "str::is_empty")]
    pub name: Cow<'a, str>,
    /// The status of HTTP; 499 where the client went away before it was answered.
    pub status: u16,
    /// Bytes of the answer's body.
    pub bytes: u64,
    /// Milliseconds from the request's head to the end of its answer.
    pub ms: f64,
    /// Why it was not served as asked.
    #[serde(borrow, default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<Cow<'a, str>>,
    /// The answer did not come to its end: the client went away, or it was cut.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub cut: bool,
}

/// The present, to the millisecond.
pub fn now() -> Timestamp {
    let now = Timestamp::now();
    Timestamp::from_millisecond(now.as_millisecond()).unwrap_or(now)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_is_json_that_says_what_is_known_and_reads_back() {
        let line = Line {
            time: "2026-01-02T03:04:05.678Z".parse().unwrap(),
            subject: Some("alice".into()),
            token: Some("0123abcd".into()),
            address: Some("192.0.2.7".parse().unwrap()),
            route: Some("alice".into()),
            http: "POST".into(),
            method: "tools/call".into(),
            name: "find_symbol".into(),
            status: 200,
            bytes: 17,
            ms: 1.25,
            reason: None,
            cut: false,
        };
        let text = serde_json::to_string(&line).unwrap();
        assert_eq!(
            text,
            r#"{"time":"2026-01-02T03:04:05.678Z","subject":"alice","token":"0123abcd","address":"192.0.2.7","route":"alice","http":"POST","method":"tools/call","name":"find_symbol","status":200,"bytes":17,"ms":1.25}"#
        );
        assert_eq!(serde_json::from_str::<Line<'_>>(&text).unwrap(), line);
    }
}
