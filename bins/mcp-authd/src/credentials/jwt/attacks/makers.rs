//! What makes tokens in tests, right ones and wrong ones.

use aws_lc_rs::encoding::AsDer;
use aws_lc_rs::hmac;
use aws_lc_rs::rand::SystemRandom;
use aws_lc_rs::rsa::KeySize;
use aws_lc_rs::signature::{
    ECDSA_P256_SHA256_FIXED_SIGNING, ECDSA_P384_SHA384_FIXED_SIGNING, EcdsaKeyPair, Ed25519KeyPair, KeyPair,
    RSA_PKCS1_SHA256, RSA_PKCS1_SHA384, RSA_PKCS1_SHA512, RSA_PSS_SHA256, RSA_PSS_SHA384, RSA_PSS_SHA512,
    RsaKeyPair,
};
use base64::Engine as _;
use base64::engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD};
use serde_json::{Value, json};

/// The clock of these tests.
pub const NOW: u64 = 1_800_000_000;
/// The issuer of these tests.
pub const ISSUER: &str = "https://login.example.org";

/// A key that makes signatures.
pub enum Maker {
    Ed25519(Ed25519KeyPair),
    P256(EcdsaKeyPair),
    P384(EcdsaKeyPair),
    Rsa(RsaKeyPair),
    Secret(Vec<u8>),
}

impl Maker {
    pub fn ed25519() -> Self {
        Maker::Ed25519(Ed25519KeyPair::generate().unwrap())
    }

    pub fn p256() -> Self {
        Maker::P256(EcdsaKeyPair::generate(&ECDSA_P256_SHA256_FIXED_SIGNING).unwrap())
    }

    pub fn p384() -> Self {
        Maker::P384(EcdsaKeyPair::generate(&ECDSA_P384_SHA384_FIXED_SIGNING).unwrap())
    }

    pub fn rsa() -> Self {
        Maker::Rsa(RsaKeyPair::generate(KeySize::Rsa2048).unwrap())
    }

    pub fn secret(secret: impl AsRef<[u8]>) -> Self {
        Maker::Secret(secret.as_ref().to_vec())
    }

    /// A signature; `algorithm` says which digest and padding, where the key leaves a choice.
    pub fn sign(&self, algorithm: &str, message: &[u8]) -> Vec<u8> {
        let random = SystemRandom::new();
        match self {
            Maker::Ed25519(pair) => pair.sign(message).as_ref().to_vec(),
            Maker::P256(pair) | Maker::P384(pair) => pair.sign(&random, message).unwrap().as_ref().to_vec(),
            Maker::Rsa(pair) => {
                let padding: &'static dyn aws_lc_rs::signature::RsaEncoding = match algorithm {
                    "RS384" => &RSA_PKCS1_SHA384,
                    "RS512" => &RSA_PKCS1_SHA512,
                    "PS256" => &RSA_PSS_SHA256,
                    "PS384" => &RSA_PSS_SHA384,
                    "PS512" => &RSA_PSS_SHA512,
                    _ => &RSA_PKCS1_SHA256,
                };
                let mut signature = vec![0; pair.public_modulus_len()];
                pair.sign(padding, &random, message, &mut signature).unwrap();
                signature
            }
            Maker::Secret(secret) => {
                let digest = match algorithm {
                    "HS384" => hmac::HMAC_SHA384,
                    "HS512" => hmac::HMAC_SHA512,
                    _ => hmac::HMAC_SHA256,
                };
                hmac::sign(&hmac::Key::new(digest, secret), message).as_ref().to_vec()
            }
        }
    }

    /// A token with this header and these claims, whatever they are.
    pub fn token(&self, header: &str, claims: &str) -> String {
        let signed = format!("{}.{}", URL_SAFE_NO_PAD.encode(header), URL_SAFE_NO_PAD.encode(claims));
        let algorithm =
            serde_json::from_str(header).map_or(Value::Null, |header: Value| header["alg"].clone());
        let signature = self.sign(algorithm.as_str().unwrap_or_default(), signed.as_bytes());
        format!("{signed}.{}", URL_SAFE_NO_PAD.encode(signature))
    }

    /// A token that is good where this key is.
    pub fn good(&self, algorithm: &str) -> String {
        self.token(&json!({"alg": algorithm}).to_string(), &claims().to_string())
    }

    /// The public half as a JWK; a secret as the one that it must never be taken for.
    pub fn jwk(&self) -> Value {
        let coded = |bytes: &[u8]| URL_SAFE_NO_PAD.encode(bytes);
        let curve = |name: &str, pair: &EcdsaKeyPair| {
            let (x, y) = pair.public_key().as_ref()[1..].split_at(pair.public_key().as_ref().len() / 2);
            json!({"kty": "EC", "crv": name, "x": coded(x), "y": coded(y)})
        };
        match self {
            Maker::Ed25519(pair) => {
                json!({"kty": "OKP", "crv": "Ed25519", "x": coded(pair.public_key().as_ref())})
            }
            Maker::P256(pair) => curve("P-256", pair),
            Maker::P384(pair) => curve("P-384", pair),
            Maker::Rsa(pair) => {
                let public = pair.public_key();
                let parts = aws_lc_rs::signature::RsaPublicKeyComponents::<Vec<u8>>::from(public);
                json!({"kty": "RSA", "n": coded(&parts.n), "e": coded(&parts.e)})
            }
            Maker::Secret(secret) => json!({"kty": "oct", "k": coded(secret)}),
        }
    }

    /// The public half as PEM.
    pub fn pem(&self) -> String {
        let der = match self {
            Maker::Ed25519(pair) => pair.public_key().as_der().unwrap().as_ref().to_vec(),
            Maker::P256(pair) | Maker::P384(pair) => pair.public_key().as_der().unwrap().as_ref().to_vec(),
            Maker::Rsa(pair) => pair.public_key().as_der().unwrap().as_ref().to_vec(),
            Maker::Secret(_) => panic!("a secret has no public half"),
        };
        pem("PUBLIC KEY", &der)
    }
}

/// A block of PEM.
pub fn pem(label: &str, der: &[u8]) -> String {
    let lines: Vec<_> = STANDARD
        .encode(der)
        .as_bytes()
        .chunks(64)
        .map(|line| String::from_utf8_lossy(line).into_owned())
        .collect();
    format!("-----BEGIN {label}-----\n{}\n-----END {label}-----\n", lines.join("\n"))
}

/// Claims that are good.
pub fn claims() -> Value {
    json!({"iss": ISSUER, "aud": "us", "sub": "alice", "exp": NOW + 60})
}
