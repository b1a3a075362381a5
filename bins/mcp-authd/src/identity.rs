//! Who a request is from, and where it may go: what a credential is worth.

use std::collections::BTreeSet;
use std::fmt;
use std::str::FromStr;
use std::sync::Arc;

use mcp_daemon::addr::Route;
use serde::{Deserialize, Deserializer, de};

/// Longest subject in bytes; it becomes a header, a file name and a label.
pub const MAX_SUBJECT: usize = 128;

/// The authenticated name of a person, a terminal or a job: 1 to 128 visible ASCII characters. A clone is one reference
/// count.
#[derive(Clone, Debug, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub struct Subject(Arc<str>);

impl Subject {
    /// The name itself.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

/// A text that is no subject.
#[derive(Debug, thiserror::Error)]
#[error("a subject is 1 to {MAX_SUBJECT} visible ASCII characters")]
pub struct NotASubject;

impl FromStr for Subject {
    type Err = NotASubject;

    fn from_str(text: &str) -> Result<Self, NotASubject> {
        check(text).map(|()| Self(text.into()))
    }
}

/// Without a copy, for a name that is held elsewhere too.
impl TryFrom<Arc<str>> for Subject {
    type Error = NotASubject;

    fn try_from(text: Arc<str>) -> Result<Self, NotASubject> {
        check(&text).map(|()| Self(text))
    }
}

fn check(text: &str) -> Result<(), NotASubject> {
    let visible = text.bytes().all(|byte| byte.is_ascii_graphic());
    if visible && (1..=MAX_SUBJECT).contains(&text.len()) { Ok(()) } else { Err(NotASubject) }
}

impl fmt::Display for Subject {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str(&self.0)
    }
}

impl<'de> Deserialize<'de> for Subject {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer)?.parse().map_err(de::Error::custom)
    }
}

/// What a credential may be used for.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum Scopes {
    /// Everything: a static token without `scopes`.
    All,
    /// These alone.
    Only(Arc<BTreeSet<String>>),
}

impl Scopes {
    /// Whether `scope` is among them.
    pub fn has(&self, scope: &str) -> bool {
        match self {
            Scopes::All => true,
            Scopes::Only(scopes) => scopes.contains(scope),
        }
    }
}

/// What a credential is worth at the moment it was looked at.
#[derive(Clone, Debug)]
pub struct Identity {
    /// Who.
    pub subject: Subject,
    /// Where to.
    pub route: Route,
    /// For what.
    pub scopes: Scopes,
    /// Seconds since 1970 after which it is worth nothing.
    pub expires: Option<u64>,
    /// Which credential it was, for people.
    pub fingerprint: Fingerprint,
    /// What has to go on being true for it to stay worth that.
    pub standing: Standing,
}

/// Which credential it was, for people: the first 8 hexadecimal digits of its SHA-256, behind `cert-` for a certificate.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Fingerprint {
    begin: [u8; 4],
    is_certificate: bool,
}

impl Fingerprint {
    /// Bytes of the longest.
    pub const LONGEST: usize = "cert-01234567".len();

    /// That of a token, by its SHA-256.
    pub fn of_token(digest: &[u8; 32]) -> Self {
        Self { begin: [digest[0], digest[1], digest[2], digest[3]], is_certificate: false }
    }

    /// That of a certificate, by its SHA-256.
    pub fn of_certificate(digest: &[u8; 32]) -> Self {
        Self { is_certificate: true, ..Self::of_token(digest) }
    }

    /// Writes it out.
    pub fn spell<'r>(&self, room: &'r mut [u8; Self::LONGEST]) -> &'r str {
        const DIGITS: &[u8; 16] = b"0123456789abcdef";
        let prefix = if self.is_certificate { "cert-" } else { "" };
        room[..prefix.len()].copy_from_slice(prefix.as_bytes());
        let nibbles = self.begin.iter().flat_map(|byte| [byte >> 4, byte & 15]);
        for (place, nibble) in room[prefix.len()..].iter_mut().zip(nibbles) {
            *place = DIGITS[usize::from(nibble)];
        }
        str::from_utf8(&room[..prefix.len() + 8]).expect("letters and digits")
    }
}

impl fmt::Display for Fingerprint {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str(self.spell(&mut [0; Self::LONGEST]))
    }
}

/// How to find out, when the credentials were read anew, whether an identity is still good (see
/// [`Credentials::still`](crate::credentials::Credentials::still)). Holds nothing that could be used as a credential.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum Standing {
    /// The digest of what makes an identity of a certificate; good as long as that stays, and the certificate is.
    Certificate([u8; 32]),
    /// What a JWT was checked with; good as long as an issuer has that key under the same rules.
    // Boxed: there may be many tokens, and theirs is half as long.
    Jwt(Box<JwtStanding>),
    /// The key under which a static token is looked up; means nothing in another process.
    Token([u8; 32]),
}

/// What a JWT was checked with. The digests mean nothing in another process.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct JwtStanding {
    /// Of the issuer's key.
    pub key: [u8; 32],
    /// Of the issuer's settings.
    pub rules: [u8; 32],
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_subject_is_one_visible_word() {
        for good in ["a", "alice@example.org", "terminal-1", &"x".repeat(128)] {
            assert_eq!(good.parse::<Subject>().unwrap().as_str(), good);
        }
        for bad in ["", "a b", "ä", "a\r\nx: y", "\u{7f}", &"x".repeat(129)] {
            assert!(bad.parse::<Subject>().is_err(), "{bad:?}");
        }
    }

    #[test]
    fn scopes_are_whole_words() {
        let only = Scopes::Only(Arc::new(["tools".to_owned()].into()));
        assert!(only.has("tools") && !only.has("tool") && !only.has("") && Scopes::All.has("anything"));
    }
}
