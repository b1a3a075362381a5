//! Keys that are none, sets that are too much, and sets that change.

use std::time::Duration;

use super::makers::{ISSUER, Maker, NOW, claims, pem};
use super::*;
use crate::credentials::jwt::{read, remote::Remote};
use crate::identity::Standing;

fn problem(content: &str) -> String {
    match issuers("keys", RSA, content) {
        Ok(_) => panic!("{content} is a key"),
        Err(problem) => problem.replace(|char: char| !char.is_ascii(), ""),
    }
}

#[test]
fn files_without_a_usable_key_are_refused_by_name_and_reason() {
    let private = pem("PRIVATE KEY", &[0; 32]);
    let many = json!({"keys": vec![json!({"kty": "RSA"}); 101]}).to_string();
    for (content, expected) in [
        ("", "expected a JWK set"),
        ("nonsense", "expected a JWK set"),
        ("{}", "expected a JWK set"),
        (r#"{"keys": {}}"#, "expected a JWK set"),
        ("-----BEGIN PUBLIC KEY-----\nAAAA\n-----END PUBLIC KEY-----\n", "the PEM is damaged"),
        (&private, "found a private key"),
        (&many, "more than 100 keys"),
        (&" ".repeat((1 << 20) + 1), "more than 100 keys or 1 MiB"),
        (r#"{"keys": []}"#, "none of its keys fits"),
        (r#"{"keys": [{"kty": "oct", "k": "AAAA"}]}"#, "none of its keys can be used: expected RSA"),
        (r#"{"keys": [{"kty": "EC", "crv": "secp256k1", "x": "AA", "y": "AA"}]}"#, "expected RSA, P-256"),
        (r#"{"keys": [{"kty": "RSA", "n": "AQAB", "e": "AQAB"}]}"#, "RSA needs 2048"),
        (r#"{"keys": [{"kty": "RSA", "e": "AQAB"}]}"#, "a part of it is missing"),
        (r#"{"keys": [{"kty": "RSA", "n": "A+/=", "e": "AQAB"}]}"#, "not base64url"),
        (r#"{"keys": [1]}"#, "none of its keys can be used"),
        (&Maker::p256().pem(), "none of its keys fits the algorithms"),
    ] {
        let problem = problem(content);
        assert!(problem.starts_with("jwt[0].keys: /") && problem.contains(expected), "{problem}");
    }
    let short = issuers("secret_file", SECRETS, "hunter2").err().unwrap();
    assert!(
        short.starts_with("jwt[0].secret_file: ") && short.contains("at least 32 bytes, found 7"),
        "{short}"
    );
    assert!(!short.contains("hunter2"));
}

#[test]
fn points_that_are_not_on_their_curve_are_no_keys() {
    let mut off = Maker::p256().jwk();
    off["y"] = off["x"].clone();
    let (p256, p384) = (Maker::p256(), Maker::p384());
    let mut as_other = p384.jwk();
    as_other["crv"] = json!("P-256");
    for key in [off, as_other, json!({"kty": "OKP", "crv": "Ed25519", "x": "AAAA"})] {
        let error = issuers("keys", CURVES, &json!({"keys": [key]}).to_string()).err().unwrap();
        assert!(error.contains("is no point of its curve"), "{error}");
    }
    let good = json!({"keys": [{"kty": "RSA"}, p256.jwk()]}).to_string();
    identify(&issuers("keys", CURVES, &good).unwrap(), &p256.good("ES256"))
        .expect("a bad key spoils no other");
}

#[test]
fn keys_for_encryption_are_not_for_signatures() {
    let maker = Maker::p256();
    for (member, value) in [("use", json!("enc")), ("key_ops", json!(["encrypt"]))] {
        let mut key = maker.jwk();
        key[member] = value;
        let problem = issuers("keys", CURVES, &json!({"keys": [key]}).to_string()).err().unwrap();
        assert!(problem.contains("none of its keys fits"), "{problem}");
    }
}

#[test]
fn a_token_that_names_no_key_costs_few_tries() {
    let makers: Vec<_> = (0..5).map(|_| Maker::p256()).collect();
    let issuers = with_set(&makers.iter().collect::<Vec<_>>(), CURVES);
    identify(&issuers, &makers[3].good("ES256")).unwrap();
    assert_eq!(refused(&issuers, &makers[4].good("ES256")), Invalid::NoKeyNamed);
    let named = makers[4].token(r#"{"alg":"ES256","kid":"5"}"#, &claims().to_string());
    identify(&issuers, &named).unwrap();
}

#[tokio::test(start_paused = true)]
async fn keys_that_are_taken_out_of_a_set_end_what_they_made() {
    let text = format!(
        "[[jwt]]\nissuer = '{ISSUER}'\naudience = ['us']\nalgorithms = ['ES256']\njwks = 'https://h/keys'\n"
    );
    let load =
        |text: &str| Issuers::load(&mcp_daemon::config::parse("x.toml".as_ref(), text).unwrap()).unwrap();
    let (first, second) = (Maker::p256(), Maker::p256());
    let token = |maker: &Maker, kid: &str| {
        maker.token(&json!({"alg": "ES256", "kid": kid}).to_string(), &claims().to_string())
    };
    let issuers = load(&text);
    let unknown = Refused::UnknownKey(ISSUER.into());
    assert_eq!(identify(&issuers, &token(&first, "1")).unwrap_err(), unknown, "nothing was fetched yet");

    let remote = issuers.remote(ISSUER).unwrap();
    let put = |remote: &Remote, set: Value| remote.replace(read::jwks(set.to_string().as_bytes()).unwrap());
    assert!(put(&remote, set(&[&first])));
    assert!(!put(&remote, set(&[&first])), "the same keys are no news");
    let identity = identify(&issuers, &token(&first, "1")).unwrap();
    let Standing::Jwt(standing) = &identity.standing else { panic!("{identity:?}") };
    assert!(issuers.still(standing));
    assert_eq!(identify(&issuers, &token(&second, "2")).unwrap_err(), unknown);

    let mut reloaded = load(&text);
    reloaded.inherit(&issuers);
    assert!(reloaded.still(standing), "a reload forgets no key");
    let mut stricter = load(&format!("{text}subject_prefix = 'x'\n"));
    stricter.inherit(&issuers);
    assert!(!stricter.still(standing), "what it is worth has changed");
    let mut elsewhere = load(&text.replace("/keys", "/other"));
    elsewhere.inherit(&issuers);
    assert!(!elsewhere.still(standing), "keys of one place are not those of another");

    assert!(put(&remote, set(&[&second])));
    assert!(!issuers.still(standing));
    assert_eq!(
        identify(&issuers, &token(&first, "1")).unwrap_err().sentence(),
        "this token is not valid here"
    );
    assert_eq!(remote.refresh, Duration::from_secs(900));
    let later = issuers.identify(&token(&second, "1"), NOW + 1).unwrap();
    assert_eq!(later.subject.as_str(), "alice", "the key that is called 1 now");
}
