//! A token in compact form (RFC 7515, 7.1), taken apart. Nothing of it is believed here.

use std::str::FromStr;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use jsonwebtoken::Algorithm;

use super::Invalid;
use crate::object::{Object, text};

/// The parts of a token.
pub struct Token<'a> {
    /// What the signature is over: header and claims as they came.
    pub signed: &'a str,
    /// The signature, base64url; never empty.
    pub signature: &'a str,
    /// What the header says. `jku`, `x5u`, `x5c` and `jwk` are not even read: keys come from the settings alone.
    pub header: Header,
    /// The claims, decoded.
    pub claims: String,
}

/// What of a header means something to us.
#[derive(Debug)]
pub struct Header {
    /// One of those we know; `none` is not among them.
    pub algorithm: Algorithm,
    /// Which key of the issuer's it names, if any; compared with what the set says and nothing else.
    pub kid: Option<String>,
}

/// Whether a credential has the form of a token: three parts.
pub fn is_token(credential: &str) -> bool {
    credential.bytes().filter(|byte| *byte == b'.').count() == 2
}

impl<'a> Token<'a> {
    /// Takes a token apart, at the cost of one pass; its length was bounded before.
    pub fn parse(token: &'a str) -> Result<Self, Invalid> {
        let (signed, signature) = token.rsplit_once('.').ok_or(Invalid::Form)?;
        let (header, claims) = signed.split_once('.').ok_or(Invalid::Form)?;
        if signature.is_empty() {
            return Err(Invalid::Unsigned);
        }
        let header = Header::read(&decode(header)?)?;
        Ok(Self { signed, signature, header, claims: decode(claims)? })
    }
}

impl Header {
    fn read(json: &str) -> Result<Self, Invalid> {
        let header = Object::read(json).ok_or(Invalid::Form)?;
        // RFC 7515, 4.1.11: what is critical and not understood makes a token invalid. We understand no extension, and no
        // payload that is not base64url (RFC 7797).
        if header.get("crit").is_some() || header.get("b64").is_some() {
            return Err(Invalid::Critical);
        }
        if let Some(kind) = header.get("typ") {
            let kind = text(kind).ok_or(Invalid::Form)?;
            // RFC 8725, 3.11: an issuer's tokens for other purposes, such as `logout+jwt`, are no access tokens.
            let is_access = ["JWT", "at+jwt", "application/at+jwt", "application/jwt"]
                .iter()
                .any(|known| known.eq_ignore_ascii_case(&kind));
            if !is_access {
                return Err(Invalid::Kind);
            }
        }
        let algorithm = header.get("alg").and_then(text).ok_or(Invalid::Algorithm)?;
        let algorithm = Algorithm::from_str(&algorithm).map_err(|_| Invalid::Algorithm)?;
        let kid = header.get("kid").map(|kid| text(kid).ok_or(Invalid::Form)).transpose()?;
        Ok(Self { algorithm, kid: kid.map(Into::into) })
    }
}

fn decode(part: &str) -> Result<String, Invalid> {
    let bytes = URL_SAFE_NO_PAD.decode(part).map_err(|_| Invalid::Form)?;
    String::from_utf8(bytes).map_err(|_| Invalid::Form)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn header(json: &str) -> Result<Header, Invalid> {
        let token = format!("{}.e30.c2ln", URL_SAFE_NO_PAD.encode(json));
        Token::parse(&token).map(|token| token.header)
    }

    #[test]
    fn the_header_is_read_and_what_names_a_key_elsewhere_is_not() {
        let read = header(
            r#"{"typ":"jwt","alg":"RS256","kid":"1","jku":"http://evil","x5u":7,"jwk":{"kty":"oct"},"x5c":["!"]}"#,
        );
        let read = read.unwrap();
        assert_eq!((read.algorithm, read.kid.as_deref()), (Algorithm::RS256, Some("1")));
        assert!(header(r#"{"typ":"application/at+jwt","alg":"EdDSA"}"#).unwrap().kid.is_none());
    }

    #[test]
    fn no_spelling_of_none_is_an_algorithm() {
        for none in ["none", "None", "NONE", "nOnE", "", " none", "none\\u0000", "hs256", "ES256K", "HS1"] {
            let refused = header(&format!(r#"{{"alg":"{none}"}}"#)).unwrap_err();
            assert_eq!(refused, Invalid::Algorithm, "{none}");
        }
        for absent in ["{}", r#"{"alg":null}"#, r#"{"alg":0}"#, r#"{"alg":["HS256"]}"#, r#"{"Alg":"HS256"}"#]
        {
            assert_eq!(header(absent).unwrap_err(), Invalid::Algorithm, "{absent}");
        }
    }

    #[test]
    fn what_is_critical_is_refused_and_so_are_tokens_for_other_purposes() {
        for (json, expected) in [
            (r#"{"alg":"HS256","crit":["exp"],"exp":1}"#, Invalid::Critical),
            (r#"{"alg":"HS256","crit":[]}"#, Invalid::Critical),
            (r#"{"alg":"HS256","crit":["b64"],"b64":false}"#, Invalid::Critical),
            (r#"{"alg":"HS256","b64":false}"#, Invalid::Critical),
            (r#"{"alg":"HS256","typ":"logout+jwt"}"#, Invalid::Kind),
            (r#"{"alg":"HS256","typ":"dpop+jwt"}"#, Invalid::Kind),
            (r#"{"alg":"HS256","typ":1}"#, Invalid::Form),
            (r#"{"alg":"HS256","kid":1}"#, Invalid::Form),
            (r#"{"alg":"HS256","kid":null}"#, Invalid::Form),
            (r#"{"alg":"none","alg":"HS256"}"#, Invalid::Form),
            (r#"{"alg":"HS256","kid":"a","\u006bid":"b"}"#, Invalid::Form),
        ] {
            assert_eq!(header(json).unwrap_err(), expected, "{json}");
        }
    }

    #[test]
    fn only_three_parts_of_strict_base64url_are_a_token() {
        let good = "eyJhbGciOiJIUzI1NiJ9.e30.c2ln";
        assert!(is_token(good) && Token::parse(good).is_ok());
        for (bad, expected) in [
            ("eyJhbGciOiJIUzI1NiJ9.e30.", Invalid::Unsigned),
            ("eyJhbGciOiJIUzI1NiJ9.e30", Invalid::Form),
            ("..", Invalid::Unsigned),
            ("..c2ln", Invalid::Form),
            ("eyJhbGciOiJIUzI1NiJ9=.e30.c2ln", Invalid::Form),
            ("eyJhbGciOiJIUzI1NiJ9.e30=.c2ln", Invalid::Form),
            ("eyJhbGciOiJIUzI1NiJ9.{}.c2ln", Invalid::Form),
            ("eyJhbGciOiJIUzI1NiJ9.gICA.c2ln", Invalid::Form),
            ("a.b.c.d.e", Invalid::Form),
        ] {
            assert_eq!(Token::parse(bad).map(|_| ()).unwrap_err(), expected, "{bad}");
        }
        assert!(!is_token("abc") && !is_token("a.b") && !is_token("a.b.c.d.e"));
    }
}
