//! Tokens: nothing makes their reader panic, none is good without the issuer's signature, and one that is good claims what
//! another reader of JSON finds in it too.

#![no_main]

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::sync::LazyLock;

use authd::config::Config;
use authd::credentials::jwt::Issuers;
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use jsonwebtoken::{Algorithm, EncodingKey, crypto};
use libfuzzer_sys::fuzz_target;
use serde_json::Value;

const SECRET: &str = "0123456789abcdef0123456789abcdef";
const NOW: u64 = 1_800_000_000;
const LEEWAY: f64 = 30.0;
/// One of RFC 7517's examples; nobody here has its private half.
const SET: &str = r#"{"keys":[{"kty":"EC","crv":"P-256","kid":"1","x":"MKBCTNIcKUSDii11ySs3526iDZ8AiTo7Tu6KPAqv7D4","y":"4Etl6SRW2YiLUrN5vfvVHuhp7x8PxltmWWlbbM4IFyM"}]}"#;

static ISSUERS: LazyLock<Issuers> = LazyLock::new(|| {
    let directory = tempfile::tempdir().expect("a temporary directory");
    let file = |name: &str, text: &str| {
        let path = directory.path().join(name);
        fs::write(&path, text).expect("a new directory is writable");
        fs::set_permissions(&path, fs::Permissions::from_mode(0o600)).expect("the file is ours");
        path.display().to_string()
    };
    let text = format!(
        "[[jwt]]\nissuer = 'h'\naudience = ['us']\nalgorithms = ['HS256']\nsecret_file = '{}'\nsubject_claim = 'a.b'\n\
         [[jwt]]\nissuer = 'e'\naudience = ['us']\nalgorithms = ['ES256']\nkeys = '{}'\n",
        file("secret", SECRET),
        file("set", SET),
    );
    let config: Config = mcp_daemon::config::parse("fuzz.toml".as_ref(), &text).expect("settings of ours");
    Issuers::load(&config).expect("keys of ours")
});

fuzz_target!(|input: &[u8]| {
    let Ok(text) = str::from_utf8(input) else { return };
    assert!(ISSUERS.identify(text, NOW).is_err(), "a token that nobody signed");
    // The first line is a header, the rest are claims; the issuer signs whatever they are.
    let (header, claims) = text.split_once('\n').unwrap_or((r#"{"alg":"HS256"}"#, text));
    let signed = format!("{}.{}", URL_SAFE_NO_PAD.encode(header), URL_SAFE_NO_PAD.encode(claims));
    let key = EncodingKey::from_secret(SECRET.as_bytes());
    let signature =
        crypto::sign(signed.as_bytes(), &key, Algorithm::HS256).expect("a secret signs everything");
    let Ok(identity) = ISSUERS.identify(&format!("{signed}.{signature}"), NOW) else { return };

    let header: Value = serde_json::from_str(header).expect("a good token has JSON in it");
    assert!(header["alg"] == "HS256" && header.get("crit").is_none());
    // Numbers that this reader has no room for may stand in claims that nobody asks for.
    let Ok(claims) = serde_json::from_str::<Value>(claims) else { return };
    assert_eq!(claims["iss"], "h");
    let audience = &claims["aud"];
    assert!(audience == "us" || audience.as_array().is_some_and(|all| all.contains(&"us".into())));
    let subject = claims.get("a.b").unwrap_or(&claims["a"]["b"]);
    assert_eq!(subject.as_str(), Some(identity.subject.as_str()));
    assert!(claims["exp"].as_f64().is_some_and(|exp| exp + LEEWAY > NOW as f64), "it has expired");
    for claim in ["nbf", "iat"] {
        assert!(claims[claim].as_f64().unwrap_or_default() < NOW as f64 + LEEWAY + 1.0, "{claim} lies ahead");
    }
});
