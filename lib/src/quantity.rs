//! Durations and sizes as people write them in flags and TOML: `30s`, `7d`, `64KiB`.

use std::fmt;
use std::str::FromStr;
use std::time::Duration;

use jiff::SpanRelativeTo;
use serde::{Deserialize, Deserializer, Serialize, Serializer, de};

/// Why a text is no duration or size.
#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
pub enum QuantityError {
    /// Not a number of bytes, or more than fits.
    #[error("`{0}` is not a size; write 4096, 64KiB or 4MiB")]
    Size(String),
    /// Not a positive duration of known length.
    #[error("`{0}` is not a duration; write 500ms, 30s, 30m or 7d")]
    Span(String),
}

/// A positive duration; a day has 24 hours.
#[derive(Clone, Copy, Debug, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub struct Span(Duration);

impl Span {
    /// The duration itself.
    pub const fn duration(self) -> Duration {
        self.0
    }

    /// A span of whole seconds, for defaults; `seconds` must not be 0.
    pub const fn seconds(seconds: u64) -> Self {
        assert!(seconds > 0, "a span is positive");
        Span(Duration::from_secs(seconds))
    }

    /// A span of whole milliseconds, for defaults; `milliseconds` must not be 0.
    pub const fn milliseconds(milliseconds: u64) -> Self {
        assert!(milliseconds > 0, "a span is positive");
        Span(Duration::from_millis(milliseconds))
    }
}

impl From<Span> for Duration {
    fn from(span: Span) -> Self {
        span.0
    }
}

impl FromStr for Span {
    type Err = QuantityError;

    fn from_str(text: &str) -> Result<Self, QuantityError> {
        let wrong = || QuantityError::Span(text.to_owned());
        let span: jiff::Span = text.parse().map_err(|_| wrong())?;
        // Months and years have no fixed length and are refused here.
        let duration = span.to_duration(SpanRelativeTo::days_are_24_hours()).map_err(|_| wrong())?;
        let duration = Duration::try_from(duration).map_err(|_| wrong())?;
        if duration.is_zero() { Err(wrong()) } else { Ok(Span(duration)) }
    }
}

impl fmt::Display for Span {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        const UNITS: [(u128, &str); 6] = [
            (86_400_000_000_000, "d"),
            (3_600_000_000_000, "h"),
            (60_000_000_000, "m"),
            (1_000_000_000, "s"),
            (1_000_000, "ms"),
            (1_000, "us"),
        ];
        let nanoseconds = self.0.as_nanos();
        match UNITS.into_iter().find(|(unit, _)| nanoseconds.is_multiple_of(*unit)) {
            Some((unit, name)) => write!(f, "{}{name}", nanoseconds / unit),
            None => write!(f, "{nanoseconds}ns"),
        }
    }
}

impl<'de> Deserialize<'de> for Span {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer
            .deserialize_any(Written("a duration such as 500ms, 30s, 30m or 7d"))?
            .parse()
            .map_err(de::Error::custom)
    }
}

impl Serialize for Span {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

/// A number of bytes; the units are powers of 1024.
#[derive(Clone, Copy, Debug, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub struct Size(pub usize);

impl Size {
    /// The size in bytes.
    pub const fn bytes(self) -> usize {
        self.0
    }
}

const SIZE_UNITS: [(&str, usize); 3] = [("GiB", 1 << 30), ("MiB", 1 << 20), ("KiB", 1 << 10)];

impl FromStr for Size {
    type Err = QuantityError;

    fn from_str(text: &str) -> Result<Self, QuantityError> {
        let (number, unit) = SIZE_UNITS
            .into_iter()
            .find_map(|(name, unit)| Some((text.strip_suffix(name)?.trim_end(), unit)))
            .unwrap_or((text, 1));
        // `usize::from_str` would take a plus sign.
        let digits = !number.is_empty() && number.bytes().all(|b| b.is_ascii_digit());
        let bytes = number.parse().ok().filter(|_| digits).and_then(|number: usize| number.checked_mul(unit));
        bytes.map(Size).ok_or_else(|| QuantityError::Size(text.to_owned()))
    }
}

impl fmt::Display for Size {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match SIZE_UNITS.into_iter().find(|(_, unit)| self.0 > 0 && self.0.is_multiple_of(*unit)) {
            Some((name, unit)) => write!(f, "{}{name}", self.0 / unit),
            None => self.0.fmt(f),
        }
    }
}

impl<'de> Deserialize<'de> for Size {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = deserializer.deserialize_any(Written("a size such as 4096, \"64KiB\" or \"4MiB\""))?;
        text.parse().map_err(de::Error::custom)
    }
}

impl Serialize for Size {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

/// Takes a string or a plain number as text, so that the one parser words the error.
struct Written(&'static str);

impl de::Visitor<'_> for Written {
    type Value = String;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.0)
    }

    fn visit_str<E: de::Error>(self, text: &str) -> Result<String, E> {
        Ok(text.to_owned())
    }

    fn visit_i64<E: de::Error>(self, number: i64) -> Result<String, E> {
        Ok(number.to_string())
    }

    fn visit_u64<E: de::Error>(self, number: u64) -> Result<String, E> {
        Ok(number.to_string())
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn spans_are_read_as_people_write_them() {
        for (text, milliseconds, shown) in [
            ("500ms", 500, "500ms"),
            ("30s", 30_000, "30s"),
            ("30m", 1_800_000, "30m"),
            ("1h 30m", 5_400_000, "90m"),
            ("7d", 604_800_000, "7d"),
            ("PT1H", 3_600_000, "1h"),
        ] {
            let span: Span = text.parse().unwrap();
            assert_eq!(
                (span.duration(), span.to_string().as_str()),
                (Duration::from_millis(milliseconds), shown)
            );
        }
    }

    #[test]
    fn spans_without_a_positive_known_length_are_refused() {
        for text in ["", "30", "0s", "-1s", "1 month", "1y", "soon", "5s ago"] {
            let error = text.parse::<Span>().unwrap_err().to_string();
            assert_eq!(error, format!("`{text}` is not a duration; write 500ms, 30s, 30m or 7d"));
        }
    }

    #[test]
    fn sizes_have_binary_units_or_none() {
        for (text, bytes) in
            [("0", 0), ("4096", 4_096), ("64KiB", 65_536), ("4 MiB", 4_194_304), ("1GiB", 1 << 30)]
        {
            assert_eq!(text.parse(), Ok(Size(bytes)));
        }
        for text in ["", "KiB", "+1", "-1", "1.5MiB", "64kb", "99999999999GiB"] {
            assert_eq!(text.parse::<Size>(), Err(QuantityError::Size(text.to_owned())));
        }
    }

    proptest! {
        #[test]
        fn a_span_is_shown_so_that_it_parses_back(nanoseconds in 1..u64::MAX / 16) {
            let span = Span(Duration::from_nanos(nanoseconds));
            prop_assert_eq!(span.to_string().parse::<Span>().unwrap(), span);
        }

        #[test]
        fn a_size_is_shown_so_that_it_parses_back(bytes: usize, shift in 0_u32..40) {
            let size = Size(bytes >> shift << shift);
            prop_assert_eq!(size.to_string().parse::<Size>().unwrap(), size);
        }
    }
}
