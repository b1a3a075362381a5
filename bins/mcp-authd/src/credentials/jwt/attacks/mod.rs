//! The attacks of the usual lists, each against issuers that are set up as people set them up.

mod forged;
mod makers;
mod sets;

use std::fs;
use std::os::unix::fs::PermissionsExt as _;

use serde_json::{Value, json};

use self::makers::{ISSUER, Maker, NOW};
use super::{Invalid, Issuers};
use crate::config::Config;
use crate::credentials::Refused;
use crate::identity::Identity;

/// Issuers with one `[[jwt]]`, whose keys lie in a file.
fn issuers(key: &str, algorithms: &str, content: &str) -> Result<Issuers, String> {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("keys");
    fs::write(&path, content).unwrap();
    fs::set_permissions(&path, fs::Permissions::from_mode(0o600)).unwrap();
    let text = format!(
        "[[jwt]]\nissuer = '{ISSUER}'\naudience = ['us']\nalgorithms = [{algorithms}]\n{key} = '{}'\n",
        path.display()
    );
    let config: Config = mcp_daemon::config::parse("x.toml".as_ref(), &text).unwrap();
    crate::config::jwt::check(&config.jwt).unwrap();
    Issuers::load(&config).map_err(|problem| problem.to_string())
}

fn with_secret(maker: &Maker, algorithms: &str) -> Issuers {
    let Maker::Secret(secret) = maker else { panic!("a secret") };
    issuers("secret_file", algorithms, str::from_utf8(secret).unwrap()).unwrap()
}

fn with_pem(maker: &Maker, algorithms: &str) -> Issuers {
    issuers("keys", algorithms, &maker.pem()).unwrap()
}

/// With a JWK set, where the first key has the `kid` "1" and so on.
fn with_set(makers: &[&Maker], algorithms: &str) -> Issuers {
    issuers("keys", algorithms, &set(makers).to_string()).unwrap()
}

fn set(makers: &[&Maker]) -> Value {
    let named = |(at, maker): (usize, &&Maker)| {
        let mut key = maker.jwk();
        key["kid"] = json!((at + 1).to_string());
        key
    };
    json!({"keys": makers.iter().enumerate().map(named).collect::<Vec<_>>()})
}

fn identify(issuers: &Issuers, token: &str) -> Result<std::sync::Arc<Identity>, Refused> {
    issuers.identify(token, NOW)
}

/// Why a token is refused, whether it is seen for the first time or again.
fn refused(issuers: &Issuers, token: &str) -> Invalid {
    let first = identify(issuers, token).map(|identity| panic!("{token} is good: {identity:?}")).unwrap_err();
    assert_eq!(identify(issuers, token).err().as_ref(), Some(&first));
    match first {
        Refused::Jwt(invalid) => invalid,
        other => panic!("{other}"),
    }
}

/// All algorithms of a key.
const SECRETS: &str = "'HS256', 'HS384', 'HS512'";
const RSA: &str = "'RS256', 'RS384', 'RS512', 'PS256', 'PS384', 'PS512'";
const CURVES: &str = "'ES256', 'ES384'";
/// A secret as people make them.
const SECRET: &str = "0123456789abcdef0123456789abcdef0123456789abcdef";
