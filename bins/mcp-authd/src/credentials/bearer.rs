//! The form of `Authorization: Bearer TOKEN` (RFC 6750, 2.1).

use http::{HeaderMap, HeaderValue, header};
use mcp_daemon::secret::sha256_hex;

use super::Refused;

/// The token of a request, if its only `Authorization` is a bearer's of at most `longest` bytes.
pub fn token(headers: &HeaderMap, longest: usize) -> Result<&str, Refused> {
    token_of(value(headers, longest)?)
}

/// A request's only `Authorization`, if it has at most `longest` bytes.
pub fn value(headers: &HeaderMap, longest: usize) -> Result<&HeaderValue, Refused> {
    let mut values = headers.get_all(header::AUTHORIZATION).iter();
    let Some(value) = values.next() else { return Err(Refused::Missing) };
    if values.next().is_some() || value.len() > longest {
        return Err(Refused::Malformed);
    }
    Ok(value)
}

/// The token of a bearer's `Authorization`.
pub fn token_of(value: &HeaderValue) -> Result<&str, Refused> {
    let value = value.to_str().map_err(|_| Refused::Malformed)?;
    let (scheme, token) = value.split_once(' ').ok_or(Refused::Malformed)?;
    let token = token.trim_matches(' ');
    let is_token = !token.is_empty() && token.bytes().all(|byte| byte.is_ascii_graphic());
    if scheme.eq_ignore_ascii_case("bearer") && is_token { Ok(token) } else { Err(Refused::Malformed) }
}

/// Which token it was, for people: the first 8 hexadecimal digits of its SHA-256.
pub fn fingerprint(token: &str) -> String {
    let mut digits = sha256_hex(token.as_bytes());
    digits.truncate(8);
    digits
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(values: &[&str]) -> Result<String, Refused> {
        let mut headers = HeaderMap::new();
        for value in values {
            headers.append(header::AUTHORIZATION, value.parse().unwrap());
        }
        token(&headers, 20).map(str::to_owned)
    }

    #[test]
    fn one_bearer_token_is_read_and_nothing_else() {
        assert_eq!(read(&["Bearer abc"]).as_deref(), Ok("abc"));
        assert_eq!(read(&["bearer  abc "]).as_deref(), Ok("abc"));
        assert_eq!(read(&[]), Err(Refused::Missing));
        for bad in ["abc", "Basic abc", "Bearer", "Bearer ", "Bearer a b", "Bearer 12345678901234567890"] {
            assert_eq!(read(&[bad]), Err(Refused::Malformed), "{bad}");
        }
        assert_eq!(read(&["Bearer abc", "Bearer abc"]), Err(Refused::Malformed));
    }
}
