//! How often snapshots are taken: a span, or never by themselves.

use std::fmt;
use std::str::FromStr;
use std::time::Duration;

use mcp_daemon::config::Span;
use serde::{Deserialize, Deserializer, de};

/// Time from the end of a snapshot to the next, or `off`.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Interval {
    /// After so long.
    Every(Span),
    /// Only when asked, and at a stop.
    Off,
}

impl Interval {
    /// The span; `None` for `off`.
    pub fn duration(self) -> Option<Duration> {
        match self {
            Interval::Every(span) => Some(span.duration()),
            Interval::Off => None,
        }
    }
}

impl Default for Interval {
    fn default() -> Self {
        Interval::Every(Span::seconds(180))
    }
}

impl FromStr for Interval {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        if text == "off" {
            return Ok(Interval::Off);
        }
        let span = text.parse().map(Interval::Every);
        span.map_err(|_| format!("`{text}` is not an interval; write 30s, 3m, 1h or off"))
    }
}

impl fmt::Display for Interval {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Interval::Every(span) => span.fmt(f),
            Interval::Off => f.write_str("off"),
        }
    }
}

impl<'de> Deserialize<'de> for Interval {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer)?.parse().map_err(de::Error::custom)
    }
}
