//! The table of verdicts: no answer of a server makes it panic, and what it may never say it never says.
//!
//! The first two bytes of an input are the status, the third the headers, the rest the body.

#![no_main]

use http::{HeaderMap, HeaderValue, StatusCode, header};
use libfuzzer_sys::fuzz_target;
use sessiond::verdict::{Flavour, NOT_FORWARDED, PEEK, Verdict, judge};

fuzz_target!(|input: &[u8]| {
    let [high, low, flags, body @ ..] = input else { return };
    let Ok(status) = StatusCode::from_u16(100 + u16::from_be_bytes([*high, *low]) % 900) else { return };
    let challenged = flags & 1 != 0;
    let not_forwarded = flags & 2 != 0;
    let mut headers = HeaderMap::new();
    if challenged {
        headers.insert(header::WWW_AUTHENTICATE, HeaderValue::from_static("Bearer"));
    }
    if not_forwarded {
        headers.insert(NOT_FORWARDED, HeaderValue::from_static("1"));
    }

    let verdict = judge(status, &headers, body);
    assert_eq!(verdict, judge(status, &headers, &body[..body.len().min(PEEK)]), "it read more than it may");
    assert_eq!(verdict == Verdict::NotForwarded, not_forwarded && !status.is_success());
    match verdict {
        Verdict::Answer | Verdict::NotForwarded => {}
        Verdict::Claimed(flavour) | Verdict::Doubtful(flavour) | Verdict::Lost(flavour) => {
            assert!(!(challenged && status == StatusCode::UNAUTHORIZED), "a challenge is for the client");
            assert_eq!(flavour.as_str().parse(), Ok(family(status)), "{status} is no {flavour:?}");
            // They are told by the connection, not by an answer.
            assert!(!matches!(flavour, Flavour::Broken | Flavour::Hang | Flavour::Refused));
        }
    }
});

/// The status that names the flavour of a loss: 502 and 504 count as 500.
fn family(status: StatusCode) -> u16 {
    match status.as_u16() {
        502 | 504 => 500,
        code => code,
    }
}
