//! Reading keys: a JWK set (RFC 7517), or PEM with public keys or certificates.

use std::fs::File;
use std::io::Read as _;
use std::path::Path;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use jsonwebtoken::Algorithm;
use mcp_daemon::secret::Secret;
use serde::Deserialize;
use serde_json::value::RawValue;
use x509_parser::pem::Pem;
use x509_parser::prelude::FromDer;
use x509_parser::public_key::{PublicKey, RSAPublicKey};
use x509_parser::x509::SubjectPublicKeyInfo;

use super::keys::{Key, KeySet, MAX_KEYS, NoKey};

/// Largest file or answer with keys, in bytes.
pub const MAX_BYTES: usize = 1 << 20;

/// Why no keys can be had from something.
#[derive(Debug, thiserror::Error)]
pub enum NoKeys {
    /// None of what is there can be used.
    #[error("none of its keys can be used: {0}")]
    AllBad(String),
    /// The file cannot be read.
    #[error(transparent)]
    File(#[from] std::io::Error),
    /// Neither form.
    #[error("expected a JWK set {{\"keys\": [...]}} or PEM with a public key or certificate{0}")]
    Form(&'static str),
    /// One of a PEM file's keys.
    #[error("its key {0}: {1}")]
    Key(usize, NoKey),
    /// More than [`MAX_KEYS`] keys or [`MAX_BYTES`] bytes.
    #[error("more than {MAX_KEYS} keys or 1 MiB, surely no key set")]
    TooMuch,
}

/// The secret in a file.
pub fn secret(path: &Path) -> Result<KeySet, NoKeys> {
    let key = Key::secret(Secret::read(path)?.expose().as_bytes());
    Ok(KeySet::new(vec![key.map_err(|error| NoKeys::Key(1, error))?]))
}

/// The keys in a file, of either form.
pub fn file(path: &Path) -> Result<KeySet, NoKeys> {
    let mut bytes = Vec::new();
    File::open(path)?.take(MAX_BYTES as u64 + 1).read_to_end(&mut bytes)?;
    if bytes.len() > MAX_BYTES {
        return Err(NoKeys::TooMuch);
    }
    if bytes.trim_ascii_start().starts_with(b"{") { jwks(&bytes) } else { pem(&bytes) }
}

/// A set; keys that cannot be used are left out with a warning, unless there is no other. An empty one has none: the issuer
/// has withdrawn all.
pub fn jwks(json: &[u8]) -> Result<KeySet, NoKeys> {
    #[derive(Deserialize)]
    struct Set<'a> {
        #[serde(borrow)]
        keys: Vec<&'a RawValue>,
    }
    let Set { keys } = serde_json::from_slice(json).map_err(|_| NoKeys::Form(""))?;
    if keys.len() > MAX_KEYS {
        return Err(NoKeys::TooMuch);
    }
    let (mut good, mut bad) = (Vec::new(), String::new());
    for (at, raw) in keys.iter().enumerate() {
        match serde_json::from_str::<Jwk>(raw.get()).map_err(|error| error.to_string()).and_then(Jwk::key) {
            Ok(Some(key)) => good.push(key),
            // For encryption, or for us to sign with: not ours.
            Ok(None) => {}
            Err(error) => {
                log::warn!(key = at + 1, error = error.as_str(); "a key of a set cannot be used and is left out");
                bad = error;
            }
        }
    }
    if good.is_empty() && !bad.is_empty() {
        return Err(NoKeys::AllBad(bad));
    }
    Ok(KeySet::new(good))
}

/// One key of a set; what a private key has besides is not read.
#[derive(Deserialize)]
struct Jwk {
    kty: String,
    crv: Option<String>,
    kid: Option<String>,
    alg: Option<String>,
    #[serde(rename = "use")]
    purpose: Option<String>,
    key_ops: Option<Vec<String>>,
    n: Option<String>,
    e: Option<String>,
    x: Option<String>,
    y: Option<String>,
}

impl Jwk {
    fn key(self) -> Result<Option<Key>, String> {
        let is_for_signatures = self.purpose.as_deref().is_none_or(|purpose| purpose == "sig")
            && self.key_ops.as_ref().is_none_or(|ops| ops.iter().any(|op| op == "verify"));
        if !is_for_signatures {
            return Ok(None);
        }
        let only = self.alg.as_deref().map(str::parse::<Algorithm>).transpose();
        let only = only.map_err(|_| "its `alg` is none that we know".to_owned())?;
        let part = |part: &Option<String>| -> Result<Vec<u8>, String> {
            let text = part.as_deref().ok_or("a part of it is missing")?;
            URL_SAFE_NO_PAD.decode(text).map_err(|_| "a part of it is not base64url".to_owned())
        };
        let key = match (self.kty.as_str(), self.crv.as_deref()) {
            ("RSA", _) => Key::rsa(&part(&self.n)?, &part(&self.e)?),
            ("EC", Some("P-256")) => Key::p256(&point(&part(&self.x)?, &part(&self.y)?)),
            ("EC", Some("P-384")) => Key::p384(&point(&part(&self.x)?, &part(&self.y)?)),
            ("OKP", Some("Ed25519")) => Key::ed25519(&part(&self.x)?),
            // `oct` among them: a secret that was fetched or lies beside public keys is none.
            _ => Err(NoKey::Unsupported),
        };
        let mut key = key.map_err(|error| error.to_string())?;
        (key.id, key.only) = (self.kid, only);
        Ok(Some(key))
    }
}

fn point(x: &[u8], y: &[u8]) -> Vec<u8> {
    [&[4], x, y].concat()
}

fn pem(text: &[u8]) -> Result<KeySet, NoKeys> {
    let mut keys = Vec::new();
    for (at, block) in Pem::iter_from_buffer(text).enumerate() {
        let block = block.map_err(|_| NoKeys::Form("; the PEM is damaged"))?;
        if at == MAX_KEYS {
            return Err(NoKeys::TooMuch);
        }
        let broken = || NoKeys::Form("; the PEM is damaged");
        let key = match block.label.as_str() {
            "PUBLIC KEY" => {
                let (_, info) = SubjectPublicKeyInfo::from_der(&block.contents).map_err(|_| broken())?;
                public(&info)
            }
            "CERTIFICATE" => {
                let certificate = block.parse_x509().map_err(|_| broken())?;
                public(certificate.public_key())
            }
            "RSA PUBLIC KEY" => {
                let (_, key) = RSAPublicKey::from_der(&block.contents).map_err(|_| broken())?;
                Key::rsa(key.modulus, key.exponent)
            }
            label if label.ends_with("PRIVATE KEY") => {
                let what = "; found a private key, which belongs to the issuer alone (openssl pkey -pubout)";
                return Err(NoKeys::Form(what));
            }
            _ => Err(NoKey::Unsupported),
        };
        keys.push(key.map_err(|error| NoKeys::Key(at + 1, error))?);
    }
    if keys.is_empty() { Err(NoKeys::Form("")) } else { Ok(KeySet::new(keys)) }
}

fn public(info: &SubjectPublicKeyInfo<'_>) -> Result<Key, NoKey> {
    let kind = info.algorithm.algorithm.to_id_string();
    let curve = info.algorithm.parameters.as_ref().and_then(|any| any.as_oid().ok());
    let curve = curve.map(|oid| oid.to_id_string()).unwrap_or_default();
    let bytes = &info.subject_public_key.data;
    match (kind.as_str(), curve.as_str(), info.parsed()) {
        (_, _, Ok(PublicKey::RSA(key))) => Key::rsa(key.modulus, key.exponent),
        ("1.2.840.10045.2.1", "1.2.840.10045.3.1.7", _) => Key::p256(bytes),
        ("1.2.840.10045.2.1", "1.3.132.0.34", _) => Key::p384(bytes),
        ("1.3.101.112", _, _) => Key::ed25519(bytes),
        _ => Err(NoKey::Unsupported),
    }
}
