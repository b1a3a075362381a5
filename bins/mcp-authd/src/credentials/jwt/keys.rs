//! Keys that verify tokens, each good for what its own type can do: what a token's header says never makes a public key a
//! secret, or a curve another.

use aws_lc_rs::signature::{
    ECDSA_P256_SHA256_FIXED, ECDSA_P384_SHA384_FIXED, ED25519, UnparsedPublicKey, VerificationAlgorithm,
};
use jsonwebtoken::{Algorithm, DecodingKey, crypto};

use super::token::Token;
use crate::credentials::keyed::keyed;

/// Shortest HMAC secret in bytes (RFC 7518, 3.2): what a shorter one signs can be guessed offline.
pub const MIN_SECRET: usize = 32;
/// Keys of a set; a larger set is surely a mistake or an attack.
pub const MAX_KEYS: usize = 100;
/// Keys that one token may cost us a look at, where its header names none.
const MAX_TRIES: usize = 4;
/// Bytes of an RSA modulus: 2,048 to 8,192 bits.
const MODULUS: std::ops::RangeInclusive<usize> = 256..=1024;

/// What a key is.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Kind {
    /// Edwards curve 25519.
    Ed25519,
    /// A secret that both sides know.
    Hmac,
    /// The elliptic curve P-256.
    P256,
    /// The elliptic curve P-384.
    P384,
    /// RSA.
    Rsa,
}

/// One key.
pub struct Key {
    kind: Kind,
    /// Its `kid`, where its set gives it one.
    pub id: Option<String>,
    /// The one algorithm that its set allows it for, where it says so.
    pub only: Option<Algorithm>,
    /// A keyed digest of the key itself, whatever it is called.
    pub digest: [u8; 32],
    verifier: DecodingKey,
}

/// Why something is no key.
#[derive(Debug, Eq, PartialEq, thiserror::Error)]
pub enum NoKey {
    /// Not a point of its curve.
    #[error("is no point of its curve")]
    Point,
    /// An RSA key that nobody should use any more, or that nobody can use.
    #[error("RSA needs 2048 to 8192 bits and a small odd exponent")]
    Rsa,
    /// An HMAC secret that is too short.
    #[error("expected at least {MIN_SECRET} bytes, found {0}; make one with `openssl rand -hex 32`")]
    Secret(usize),
    /// Another kind of key than these.
    #[error("expected RSA, P-256, P-384 or Ed25519")]
    Unsupported,
}

/// Keys of one issuer, in the order of their source; at most [`MAX_KEYS`].
#[derive(Default)]
pub struct KeySet(Vec<Key>);

/// Why no key of a set verified a token.
#[derive(Debug, Eq, PartialEq)]
pub enum Unverified {
    /// The set does not have the key that it names; or it names none and none did. A newer set may have it.
    NoSuchKey,
    /// It names none, and too many could be meant.
    Ambiguous,
    /// The key that it names did not make the signature.
    Wrong,
}

impl Kind {
    fn fits(self, algorithm: Algorithm) -> bool {
        use Algorithm::*;
        match self {
            Kind::Ed25519 => algorithm == EdDSA,
            Kind::Hmac => matches!(algorithm, HS256 | HS384 | HS512),
            Kind::P256 => algorithm == ES256,
            Kind::P384 => algorithm == ES384,
            Kind::Rsa => matches!(algorithm, RS256 | RS384 | RS512 | PS256 | PS384 | PS512),
        }
    }
}

impl Key {
    /// A secret of at least [`MIN_SECRET`] bytes.
    pub fn secret(secret: &[u8]) -> Result<Self, NoKey> {
        if secret.len() < MIN_SECRET {
            return Err(NoKey::Secret(secret.len()));
        }
        Ok(Self::new(Kind::Hmac, &[secret], DecodingKey::from_secret(secret)))
    }

    /// An RSA key, of its modulus and exponent as big-endian numbers.
    pub fn rsa(modulus: &[u8], exponent: &[u8]) -> Result<Self, NoKey> {
        let [n, e] = [modulus, exponent].map(|number| {
            let zeros = number.iter().take_while(|byte| **byte == 0).count();
            &number[zeros..]
        });
        // 33 bits are what the verifying library takes; every exponent in use is smaller.
        let is_small_and_odd = e.len() <= 4 && e.last().is_some_and(|last| last & 1 == 1) && e != [1];
        if !MODULUS.contains(&n.len()) || !is_small_and_odd {
            return Err(NoKey::Rsa);
        }
        Ok(Self::new(Kind::Rsa, &[n, e], DecodingKey::from_rsa_raw_components(n, e)))
    }

    /// A point of an elliptic curve, uncompressed (SEC 1, 2.3.3).
    pub fn p256(point: &[u8]) -> Result<Self, NoKey> {
        is_point(&ECDSA_P256_SHA256_FIXED, point, 65)?;
        Ok(Self::new(Kind::P256, &[point], DecodingKey::from_ec_der(point)))
    }

    /// The same of P-384.
    pub fn p384(point: &[u8]) -> Result<Self, NoKey> {
        is_point(&ECDSA_P384_SHA384_FIXED, point, 97)?;
        Ok(Self::new(Kind::P384, &[point], DecodingKey::from_ec_der(point)))
    }

    /// An Ed25519 key, 32 bytes.
    pub fn ed25519(point: &[u8]) -> Result<Self, NoKey> {
        is_point(&ED25519, point, 32)?;
        Ok(Self::new(Kind::Ed25519, &[point], DecodingKey::from_ed_der(point)))
    }

    fn new(kind: Kind, parts: &[&[u8]], verifier: DecodingKey) -> Self {
        let mut said = vec![kind as u8];
        for part in parts {
            said.extend_from_slice(&(part.len() as u64).to_be_bytes());
            said.extend_from_slice(part);
        }
        Self { kind, id: None, only: None, digest: keyed(&said), verifier }
    }

    fn fits(&self, algorithm: Algorithm) -> bool {
        self.kind.fits(algorithm) && self.only.is_none_or(|only| only == algorithm)
    }

    fn verifies(&self, token: &Token<'_>) -> bool {
        let algorithm = token.header.algorithm;
        crypto::verify(token.signature, token.signed.as_bytes(), &self.verifier, algorithm).unwrap_or(false)
    }
}

/// With a prefix byte and length of its own each form is one; what is not on the curve is refused here, not at a request.
fn is_point(algorithm: &'static dyn VerificationAlgorithm, point: &[u8], length: usize) -> Result<(), NoKey> {
    let parsed = (point.len() == length).then(|| UnparsedPublicKey::new(algorithm, point).parse());
    parsed.and_then(Result::ok).map(|_| ()).ok_or(NoKey::Point)
}

impl KeySet {
    /// A set of these keys.
    pub fn new(keys: Vec<Key>) -> Self {
        Self(keys)
    }

    /// How many keys it has.
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// Whether it has none.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Whether a key is among them.
    pub fn has(&self, digest: &[u8; 32]) -> bool {
        self.0.iter().any(|key| key.digest == *digest)
    }

    /// Whether both have the same keys under the same names, in the same order.
    pub fn is_same(&self, other: &Self) -> bool {
        let facts = |key: &Key| (key.digest, key.id.clone(), key.only);
        self.0.iter().map(facts).eq(other.0.iter().map(facts))
    }

    /// Whether any of these algorithms can use any of its keys.
    pub fn suits(&self, algorithms: &[Algorithm]) -> bool {
        self.0.iter().any(|key| algorithms.iter().any(|algorithm| key.fits(*algorithm)))
    }

    /// The key that made a token's signature. Keys without a name (of a PEM file) may be meant by every token.
    pub fn verify(&self, token: &Token<'_>) -> Result<&Key, Unverified> {
        let named = token.header.kid.as_deref();
        let is_meant = |key: &&Key| named.is_none() || key.id.is_none() || key.id.as_deref() == named;
        let meant = self.0.iter().filter(is_meant).filter(|key| key.fits(token.header.algorithm));
        for (tried, key) in meant.enumerate() {
            if tried == MAX_TRIES {
                return Err(Unverified::Ambiguous);
            }
            if key.verifies(token) {
                return Ok(key);
            }
        }
        let has_named = named.is_some() && self.0.iter().any(|key| key.id.as_deref() == named);
        Err(if has_named { Unverified::Wrong } else { Unverified::NoSuchKey })
    }
}
