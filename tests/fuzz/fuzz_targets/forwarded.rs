//! Where a request comes from: whatever a client says, what the trusted proxies wrote behind it decides.

#![no_main]

use std::net::IpAddr;

use authd::address;
use authd::config::network::Network;
use http::{HeaderMap, HeaderValue};
use libfuzzer_sys::fuzz_target;

const CLIENT: IpAddr = IpAddr::V4(std::net::Ipv4Addr::new(192, 0, 2, 7));
const PROXY: IpAddr = IpAddr::V4(std::net::Ipv4Addr::new(10, 0, 0, 1));

fuzz_target!(|input: &[u8]| {
    // Each line is the value of one header; those that begin with `f` are of Forwarded.
    let mut said = HeaderMap::new();
    for line in input.split(|byte| *byte == b'\n') {
        let (name, value) = match line.strip_prefix(b"f") {
            Some(value) => ("forwarded", value),
            None => ("x-forwarded-for", line),
        };
        if let Ok(value) = HeaderValue::from_bytes(value) {
            said.append(name, value);
        }
    }
    let proxies: [Network; 2] = ["10.0.0.0/8", "fd00::/8"].map(|text| text.parse().expect("a network"));

    // Nobody is believed who is no proxy, and nobody has to be where there is no address.
    assert_eq!(address::of(Some(CLIENT), &said, &proxies), Some(CLIENT));
    assert_eq!(address::of(None, &said, &proxies), None);
    let found = address::of(Some(PROXY), &said, &proxies).expect("whoever has an address keeps one");
    assert_eq!(found, found.to_canonical());

    // What the proxy adds in a line of its own is the end of the search.
    let mut added = said.clone();
    added.append("x-forwarded-for", HeaderValue::from_static("192.0.2.7"));
    assert_eq!(address::of(Some(PROXY), &added, &proxies), Some(CLIENT));
    said.remove("x-forwarded-for");
    said.append("forwarded", HeaderValue::from_static("for=192.0.2.7;proto=https"));
    assert_eq!(address::of(Some(PROXY), &said, &proxies), Some(CLIENT));
});
