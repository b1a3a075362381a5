//! Which URIs of resources can be compared with a rule: those that have no second spelling.
//!
//! A server may fold case, decode, resolve `..`, drop a default port or a slash before it looks a resource up. Rather than
//! guess what it does we compare only what none of this changes; whatever else comes falls under every rule
//! for its method. Nothing is rewritten: what passes goes on as it came.

use std::net::{Ipv4Addr, Ipv6Addr};

/// Schemes whose URIs have a host and at least `/` as their path, and the port that goes without saying.
const WEB: [(&str, &str); 5] =
    [("ftp", "21"), ("http", "80"), ("https", "443"), ("ws", "80"), ("wss", "443")];

/// Whether a URI is in the one form that all its spellings have in common (RFC 3986, 6.2.2 and 6.2.3, and stricter).
pub fn is_normal(uri: &str) -> bool {
    let Some((scheme, rest)) = uri.split_once(':').filter(|(scheme, _)| is_scheme(scheme)) else {
        return false;
    };
    // A second `?` is part of the query; an empty query means none, and a file has none.
    let (rest, query) = rest.split_once('?').map_or((rest, "-"), |(rest, query)| (rest, query));
    if !is_encoded_once(rest) || !is_encoded_once(query) || query.is_empty() {
        return false;
    }
    let port = WEB.iter().find(|(web, _)| *web == scheme).map(|(_, port)| *port);
    let Some(rest) = rest.strip_prefix("//") else {
        // `x:/a` and `x:///a` are the same to many; `urn:a:b` has no other form.
        return scheme != "file" && port.is_none() && rest.split('/').all(is_part);
    };
    let (authority, path) = rest.split_at(rest.find('/').unwrap_or(rest.len()));
    match port {
        _ if scheme == "file" => authority.is_empty() && (path == "/" || is_path(path)) && !uri.contains('?'),
        Some(port) => is_authority(authority, Some(port)) && (path == "/" || is_path(path)),
        None => is_authority(authority, None) && (path.is_empty() || is_path(path)),
    }
}

/// Whether its letters are small, which is how they are compared.
pub fn is_scheme(scheme: &str) -> bool {
    scheme.starts_with(|first: char| first.is_ascii_lowercase())
        && scheme
            .bytes()
            .all(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit() || b"+-.".contains(&byte))
}

/// Whether all that stands there could not stand there in another way: what may be written plainly is, and what has to be
/// encoded is encoded with capital letters, and is UTF-8.
fn is_encoded_once(text: &str) -> bool {
    let mut decoded = Vec::with_capacity(text.len());
    let mut bytes = text.bytes();
    while let Some(byte) = bytes.next() {
        let is_plain = byte.is_ascii_alphanumeric() || b"-._~!$&'()*+,=:@/?[]".contains(&byte);
        if is_plain {
            decoded.push(byte);
            continue;
        }
        let digits = (byte == b'%').then(|| [bytes.next(), bytes.next()].map(|digit| digit.and_then(hex)));
        let Some([Some(high), Some(low)]) = digits else { return false };
        let byte = high << 4 | low;
        // Not `/`, `?`, `#` and `%`: who decodes before taking apart reads something else then.
        if byte.is_ascii() && !b" \"<>^`{|}".contains(&byte) {
            return false;
        }
        decoded.push(byte);
    }
    str::from_utf8(&decoded).is_ok()
}

fn hex(digit: u8) -> Option<u8> {
    match digit {
        b'0'..=b'9' => Some(digit - b'0'),
        b'A'..=b'F' => Some(digit - b'A' + 10),
        _ => None,
    }
}

/// A host in small letters, and a port; nobody's name before it. On the web there is a host, and its usual port goes
/// without saying.
fn is_authority(authority: &str, usual: Option<&str>) -> bool {
    let end = authority.rfind(']').map_or(0, |bracket| bracket + 1);
    let (host, port) = match authority[end..].split_once(':') {
        Some((rest, port)) => (&authority[..end + rest.len()], Some(port)),
        None => (authority, None),
    };
    let is_port = |port: &str| {
        port.parse::<u16>().is_ok_and(|number| number.to_string() == port) && Some(port) != usual
    };
    if host.is_empty() {
        return authority.is_empty() && usual.is_none();
    }
    port.is_none_or(is_port) && is_host(host, usual.is_some())
}

fn is_host(host: &str, is_web: bool) -> bool {
    if let Some(address) = host.strip_prefix('[').and_then(|host| host.strip_suffix(']')) {
        return address.parse::<Ipv6Addr>().is_ok_and(|parsed| parsed.to_string() == address);
    }
    let is_plain = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || b"._-".contains(&byte);
    let last = host.rsplit('.').next().unwrap_or_default();
    // `127.1`, `0x7f000001` and `2130706433` are addresses to some.
    let is_number = is_web && last.starts_with(|first: char| first.is_ascii_digit());
    host.bytes().all(is_plain) && !host.ends_with('.') && (!is_number || host.parse::<Ipv4Addr>().is_ok())
}

/// A path from its first slash on: no `.` or `..`, and nothing empty, be it at the end.
fn is_path(path: &str) -> bool {
    path.strip_prefix('/').is_some_and(|path| path.split('/').all(is_part))
}

fn is_part(part: &str) -> bool {
    !matches!(part, "" | "." | "..")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_uri_without_a_second_spelling_can_be_compared() {
        for normal in [
            "file:///",
            "file:///home/alice/a%20b.txt",
            "file:///%C3%BC",
            "https://example.org/",
            "https://example.org:8443/a/b?x=1&y=%7B%7D",
            "http://127.0.0.1:8080/a",
            "http://[::1]:8080/a",
            "config://app",
            "notes://note-1/2",
            "notes://7",
            "memory:///a",
            "urn:isbn:0451450523",
            "a+b-c.1:x",
        ] {
            assert!(is_normal(normal), "{normal}");
        }
    }

    #[test]
    fn whatever_a_server_might_take_for_something_else_cannot() {
        for other in [
            "",
            "a",
            "FILE:///etc/passwd",
            "File:///etc/passwd",
            "file:/etc/passwd",
            "file:etc/passwd",
            "file://localhost/etc/passwd",
            "file:///etc//passwd",
            "file:////etc/passwd",
            "file:///etc/passwd/",
            "file:///etc/./passwd",
            "file:///tmp/../etc/passwd",
            "file:///tmp/%2e%2e/etc/passwd",
            "file:///tmp/%2E%2E/etc/passwd",
            "file:///tmp/..%2Fetc/passwd",
            "file:///etc%5Cpasswd",
            "file:///etc\\passwd",
            "file:///e%74c/passwd",
            "file:///etc/pass%252e",
            "file:///etc/passwd%00",
            "file:///%c3%bc",
            "file:///%C0%AE%C0%AE/etc",
            "file:///%",
            "file:///%2",
            "file:///%zz",
            "file:///etc/passwd#x",
            "file:///etc/passwd?x",
            "file:///etc/passwd%23x",
            "file:///etc/passwd%3Fx",
            "file:///etc/passwd;x",
            "file:///etc/\tpasswd",
            "file:///etc/pass\nwd",
            " file:///etc/passwd",
            "file:///etc/passwd ",
            "file:///\u{fc}",
            "https://Example.org/",
            "https://example.org",
            "https:example.org/",
            "https://example.org./",
            "https://example.org:443/",
            "https://example.org:/",
            "https://example.org:0444/",
            "https://me@example.org/",
            "https://example.org/?",
            "http:///a",
            "http://127.1/",
            "http://0x7f000001/",
            "http://127.0.0.01/",
            "http://[0:0::1]/",
            "http://[::1/",
            "http://example.org:80/",
            "http://exa%6Dple.org/",
            "config://app/",
            "config:/app",
            "config://app?",
            "urn:",
            "urn:a/../b",
            "config://:1",
            ":x",
            "1a:x",
        ] {
            assert!(!is_normal(other), "{other:?}");
        }
    }
}
