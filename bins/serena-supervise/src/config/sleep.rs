//! `sleep_after`: how long an instance stays awake without a connection.

use std::fmt;
use std::str::FromStr;

use mcp_daemon::config::{QuantityError, Span};
use serde::{Deserialize, Deserializer, de};

const NEVER: &str = "never";

/// `sleep_after`.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum SleepAfter {
    /// It stays awake.
    Never,
    /// Without a connection for this long.
    Idle(Span),
}

/// Neither a duration nor `never`.
#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
#[error("{0}, or never")]
pub struct SleepError(QuantityError);

impl FromStr for SleepAfter {
    type Err = SleepError;

    fn from_str(text: &str) -> Result<Self, SleepError> {
        if text == NEVER {
            Ok(SleepAfter::Never)
        } else {
            text.parse().map(SleepAfter::Idle).map_err(SleepError)
        }
    }
}

impl fmt::Display for SleepAfter {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            SleepAfter::Never => f.write_str(NEVER),
            SleepAfter::Idle(span) => span.fmt(f),
        }
    }
}

impl<'de> Deserialize<'de> for SleepAfter {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(Written)
    }
}

/// Takes a string or a plain number, so that `900` gets the same advice as `"900"`.
struct Written;

impl de::Visitor<'_> for Written {
    type Value = SleepAfter;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a duration such as 30s or 15m, or \"never\"")
    }

    fn visit_str<E: de::Error>(self, text: &str) -> Result<SleepAfter, E> {
        text.parse().map_err(E::custom)
    }

    fn visit_i64<E: de::Error>(self, number: i64) -> Result<SleepAfter, E> {
        self.visit_str(&number.to_string())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_duration_or_never_parses_and_is_shown_so_that_it_parses_back() {
        for text in ["never", "15m", "500ms"] {
            assert_eq!(text.parse::<SleepAfter>().unwrap().to_string(), text);
        }
        let error = "soon".parse::<SleepAfter>().unwrap_err().to_string();
        assert_eq!(error, "`soon` is not a duration; write 500ms, 30s, 30m or 7d, or never");
    }
}
