//! `Authorization`: one bearer token is read and nothing else, and it is what somebody wrote.

#![no_main]

use authd::credentials::{Refused, bearer};
use http::{HeaderMap, HeaderValue, header};
use libfuzzer_sys::fuzz_target;

const LONGEST: usize = 64;

fuzz_target!(|input: &[u8]| {
    let mut headers = HeaderMap::new();
    // What the HTTP parser lets through; each line of the input is one header.
    for value in input.split(|byte| *byte == b'\n').filter_map(|line| HeaderValue::from_bytes(line).ok()) {
        headers.append(header::AUTHORIZATION, value);
    }
    let written: Vec<Vec<u8>> =
        headers.get_all(header::AUTHORIZATION).iter().map(|value| value.as_bytes().to_vec()).collect();
    match bearer::token(&headers, LONGEST) {
        Ok(token) => {
            assert_eq!(written.len(), 1, "one of several credentials was chosen");
            assert!(!token.is_empty() && token.bytes().all(|byte| byte.is_ascii_graphic()), "{token}");
            assert!(written[0].len() <= LONGEST);
            assert!(written[0].trim_ascii_end().ends_with(token.as_bytes()));
            assert!(written[0][..7].eq_ignore_ascii_case(b"bearer "));
            let fingerprint = bearer::fingerprint(token);
            assert!(fingerprint.len() == 8 && fingerprint.bytes().all(|byte| byte.is_ascii_hexdigit()));
            let plain = HeaderValue::from_str(&format!("Bearer {token}")).expect("visible ASCII");
            let again = HeaderMap::from_iter([(header::AUTHORIZATION, plain)]);
            assert_eq!(bearer::token(&again, LONGEST), Ok(token));
        }
        Err(refused) => {
            assert_eq!(refused == Refused::Missing, written.is_empty());
            let is_plain = |value: &Vec<u8>| {
                value.len() <= LONGEST
                    && value
                        .strip_prefix(b"Bearer ")
                        .is_some_and(|token| !token.is_empty() && token.iter().all(u8::is_ascii_graphic))
            };
            assert!(written.len() != 1 || !is_plain(&written[0]), "a good header was refused");
        }
    }
});
