//! From where a request really comes: the peer, or what a trusted reverse proxy says.

use std::net::{IpAddr, SocketAddr};

use http::HeaderMap;
use http::header::{self, HeaderName, HeaderValue};

use crate::config::network::Network;

const FORWARDED_FOR: HeaderName = HeaderName::from_static("x-forwarded-for");

/// The nearest address that is not a trusted proxy's; the peer itself if it is no trusted proxy.
///
/// Read from the end of `X-Forwarded-For`, where the nearest proxy wrote, or, without one, of `Forwarded` (RFC 7239); where
/// that cannot be read any further, the last proxy that was understood is the answer. So a client can lie only as far as it
/// is a trusted proxy itself.
pub fn of(peer: Option<IpAddr>, headers: &HeaderMap, proxies: &[Network]) -> Option<IpAddr> {
    let is_proxy = |address: IpAddr| proxies.iter().any(|network| network.contains(address));
    let peer = peer?;
    if !is_proxy(peer) {
        return Some(peer);
    }
    let mut nearest = peer;
    let mut listed = headers.get_all(FORWARDED_FOR).iter().peekable();
    let hops: Vec<Option<IpAddr>> = match listed.peek() {
        Some(_) => listed.flat_map(listed_hops).collect(),
        None => headers.get_all(header::FORWARDED).iter().flat_map(forwarded_hops).collect(),
    };
    for hop in hops.into_iter().rev() {
        let Some(address) = hop else { break };
        nearest = address;
        if !is_proxy(nearest) {
            break;
        }
    }
    Some(nearest)
}

/// The hops of one line of `X-Forwarded-For`; `None` for one that names no address.
fn listed_hops(line: &HeaderValue) -> Vec<Option<IpAddr>> {
    line.to_str().unwrap_or_default().split(',').map(|hop| node(hop.trim())).collect()
}

/// The same of one line of `Forwarded`.
fn forwarded_hops(line: &HeaderValue) -> Vec<Option<IpAddr>> {
    let Ok(line) = line.to_str() else { return vec![None] };
    pieces(line, ',')
        .map(|element| {
            let mut nodes = pieces(element, ';').filter_map(|pair| {
                let (name, value) = pair.split_once('=')?;
                name.trim().eq_ignore_ascii_case("for").then_some(value.trim())
            });
            // Two of them mean nothing.
            let value = nodes.next().filter(|_| nodes.next().is_none())?;
            node(value.strip_prefix('"').and_then(|rest| rest.strip_suffix('"')).unwrap_or(value))
        })
        .collect()
}

/// The pieces of a text between separators that do not stand in quotes.
fn pieces(text: &str, separator: char) -> impl Iterator<Item = &str> {
    let (mut is_quoted, mut is_escaped) = (false, false);
    text.split(move |char| {
        match char {
            _ if is_escaped => is_escaped = false,
            '\\' if is_quoted => is_escaped = true,
            '"' => is_quoted = !is_quoted,
            _ => return char == separator && !is_quoted,
        }
        false
    })
}

/// An address as proxies write it: `192.0.2.7`, `2001:db8::1` or `[2001:db8::1]`, with or without a port.
fn node(text: &str) -> Option<IpAddr> {
    let bare = text.strip_prefix('[').and_then(|text| text.strip_suffix(']')).unwrap_or(text);
    let address = bare.parse().ok().or_else(|| text.parse::<SocketAddr>().ok().map(|both| both.ip()));
    address.map(|address: IpAddr| address.to_canonical())
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const PEER: &str = "10.0.0.1";

    fn ip(text: &str) -> IpAddr {
        text.parse().unwrap()
    }

    fn from(lines: &[(&'static str, &str)]) -> String {
        let mut headers = HeaderMap::new();
        for (name, value) in lines {
            headers.append(*name, HeaderValue::from_bytes(value.as_bytes()).unwrap());
        }
        of(Some(ip(PEER)), &headers, &["10.0.0.0/8".parse().unwrap()]).unwrap().to_string()
    }

    #[test]
    fn the_nearest_address_that_is_no_proxy_is_it_whatever_was_said_before() {
        for (said, address) in [
            ("192.0.2.7", "192.0.2.7"),
            ("6.6.6.6, 192.0.2.7", "192.0.2.7"),
            ("6.6.6.6,192.0.2.7 , 10.9.9.9", "192.0.2.7"),
            ("192.0.2.7:4711", "192.0.2.7"),
            ("[2001:db8::1]:4711", "2001:db8::1"),
            ("2001:db8::1", "2001:db8::1"),
            ("::ffff:192.0.2.7", "192.0.2.7"),
            ("10.2.2.2", "10.2.2.2"),
            ("6.6.6.6, unknown, 10.2.2.2", "10.2.2.2"),
            ("6.6.6.6, ", PEER),
            ("6.6.6.6, evil\u{e4}", PEER),
        ] {
            assert_eq!(from(&[("x-forwarded-for", said)]), address, "{said}");
        }
        assert_eq!(from(&[("x-forwarded-for", "6.6.6.6"), ("x-forwarded-for", "192.0.2.7")]), "192.0.2.7");
    }

    #[test]
    fn forwarded_is_read_where_there_is_nothing_else() {
        for (said, address) in [
            ("for=192.0.2.7", "192.0.2.7"),
            ("For=\"192.0.2.7:80\";proto=https;by=203.0.113.4", "192.0.2.7"),
            ("for=6.6.6.6, for=\"[2001:db8:cafe::17]:4711\"", "2001:db8:cafe::17"),
            ("for=6.6.6.6;host=\"a,for=7.7.7.7;\\\",for=8.8.8.8\"", "6.6.6.6"),
            ("for=192.0.2.7, for=10.1.1.1;proto=http", "192.0.2.7"),
            ("for=6.6.6.6, for=_hidden", PEER),
            ("for=6.6.6.6, proto=http", PEER),
            ("for=6.6.6.6;for=7.7.7.7", PEER),
            ("", PEER),
        ] {
            assert_eq!(from(&[("forwarded", said)]), address, "{said}");
        }
        assert_eq!(from(&[("forwarded", "for=6.6.6.6"), ("x-forwarded-for", "192.0.2.7")]), "192.0.2.7");
    }

    #[test]
    fn nobody_is_believed_who_is_no_trusted_proxy() {
        let headers = HeaderMap::from_iter([(FORWARDED_FOR, HeaderValue::from_static("192.0.2.7"))]);
        assert_eq!(of(Some(ip(PEER)), &headers, &[]), Some(ip(PEER)));
        assert_eq!(of(None, &headers, &["0.0.0.0/0".parse().unwrap()]), None);
    }

    proptest! {
        #[test]
        fn what_a_client_says_never_hides_what_the_proxy_adds(
            said in "[ -~]{0,60}",
            client in any::<[u8; 4]>().prop_filter("no proxy", |client| client[0] != 10),
        ) {
            let client = IpAddr::from(client);
            let listed = [("x-forwarded-for", &*said), ("x-forwarded-for", &*client.to_string())];
            prop_assert_eq!(from(&listed), client.to_string());
            // A line of its own is what a proxy adds whose client left a quote open.
            let element = format!("for={client}");
            prop_assert_eq!(from(&[("forwarded", &*said), ("forwarded", &*element)]), client.to_string());
        }
    }
}
