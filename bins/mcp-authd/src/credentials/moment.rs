//! Moments as people write them: RFC 3339, or a date, which is its first moment in UTC.

use jiff::Timestamp;
use jiff::civil::Date;
use jiff::tz::Offset;

/// What to write.
pub const EXPECTED: &str =
    "expected a date such as 2027-01-31, or a time with its zone such as 2027-01-31T18:00:00Z";

/// Seconds since 1970; `None` for what is no moment, or before 1970.
pub fn parse(text: &str) -> Option<u64> {
    // A date reader would take a time without a zone for its date.
    let moment = if text.len() == "2027-01-31".len() {
        let date: Date = text.parse().ok()?;
        Offset::UTC.to_timestamp(date.at(0, 0, 0, 0)).ok()?
    } else {
        text.parse().ok()?
    };
    u64::try_from(moment.as_second()).ok()
}

/// In RFC 3339, UTC; beyond the year 9999 its end.
pub fn spell(seconds: u64) -> String {
    let moment = i64::try_from(seconds).ok().and_then(|seconds| Timestamp::from_second(seconds).ok());
    moment.unwrap_or(Timestamp::MAX).to_string()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn dates_and_times_with_a_zone_are_read_and_nothing_else() {
        for (text, seconds) in [
            ("1970-01-02", 86_400),
            ("2027-01-31", 1_801_353_600),
            ("2027-01-31T00:00:00Z", 1_801_353_600),
            ("2027-01-31 01:00:00+01:00", 1_801_353_600),
            ("2027-01-31T00:00:00.9Z", 1_801_353_600),
        ] {
            assert_eq!(parse(text), Some(seconds), "{text}");
        }
        for bad in [
            "",
            "2027",
            "2027-1-31",
            "2027-02-30",
            "2027-01-31T00:00:00",
            "00:00:00",
            "1969-12-31",
            "tomorrow",
            "30d",
        ] {
            assert_eq!(parse(bad), None, "{bad}");
        }
    }

    proptest! {
        #[test]
        fn what_is_spelt_is_read_as_the_same(seconds in 0_u64..253_402_207_200) {
            prop_assert_eq!(parse(&spell(seconds)), Some(seconds));
        }
    }
}
