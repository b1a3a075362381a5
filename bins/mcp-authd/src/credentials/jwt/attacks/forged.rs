//! Tokens that are not what they say.

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use proptest::prelude::*;
use serde_json::json;

use super::makers::{Maker, NOW, claims};
use super::*;

fn header(algorithm: &str, more: Value) -> String {
    let mut header = json!({"alg": algorithm, "kid": "1"});
    for (name, value) in more.as_object().into_iter().flatten() {
        header[name] = value.clone();
    }
    header.to_string()
}

#[test]
fn an_honest_token_is_good_with_every_algorithm_and_form_of_key() {
    let (secret, rsa) = (Maker::secret(SECRET), Maker::rsa());
    for algorithm in ["HS256", "HS384", "HS512"] {
        let good = identify(&with_secret(&secret, SECRETS), &secret.good(algorithm)).unwrap();
        assert_eq!((good.subject.as_str(), good.route.as_str()), ("alice", "alice"));
        assert_eq!((good.expires, good.fingerprint.to_string().len()), (Some(NOW + 90), 8));
    }
    for algorithm in ["RS256", "RS384", "RS512", "PS256", "PS384", "PS512"] {
        for issuers in [with_pem(&rsa, RSA), with_set(&[&rsa], RSA)] {
            identify(&issuers, &rsa.good(algorithm)).unwrap();
            identify(&issuers, &rsa.token(&header(algorithm, json!({})), &claims().to_string())).unwrap();
        }
    }
    for (maker, algorithm) in
        [(Maker::p256(), "ES256"), (Maker::p384(), "ES384"), (Maker::ed25519(), "EdDSA")]
    {
        let list = format!("'{algorithm}'");
        for issuers in [with_pem(&maker, &list), with_set(&[&maker], &list)] {
            identify(&issuers, &maker.good(algorithm)).unwrap();
        }
    }
}

#[test]
fn no_token_is_good_without_a_signature() {
    let maker = Maker::secret(SECRET);
    let issuers = with_secret(&maker, SECRETS);
    let good = maker.good("HS256");
    let (signed, _) = good.rsplit_once('.').unwrap();
    assert_eq!(refused(&issuers, &format!("{signed}.")), Invalid::Unsigned);
    for none in ["none", "None", "NONE", "nOnE", "", "null"] {
        let signed = maker.token(&json!({"alg": none}).to_string(), &claims().to_string());
        assert_eq!(refused(&issuers, &signed), Invalid::Algorithm, "{none}");
        let stripped = &signed[..=signed.rfind('.').unwrap()];
        assert_eq!(refused(&issuers, stripped), Invalid::Unsigned, "{none}");
    }
}

#[test]
fn a_public_key_is_never_a_secret() {
    let rsa = Maker::rsa();
    let pem = rsa.pem();
    let jwk = rsa.jwk();
    let modulus = URL_SAFE_NO_PAD.decode(jwk["n"].as_str().unwrap()).unwrap();
    for issuers in [with_pem(&rsa, RSA), with_set(&[&rsa], RSA)] {
        for secret in [pem.as_bytes(), pem.trim_end().as_bytes(), &modulus, jwk.to_string().as_bytes(), b""] {
            let forger = Maker::secret(secret);
            for algorithm in ["HS256", "HS384", "HS512"] {
                let forged = forger.token(&header(algorithm, json!({})), &claims().to_string());
                assert_eq!(refused(&issuers, &forged), Invalid::Algorithm);
            }
            let mislabelled = forger.token(&header("RS256", json!({})), &claims().to_string());
            assert_eq!(refused(&issuers, &mislabelled), Invalid::Signature);
        }
    }
}

#[test]
fn a_key_is_good_for_its_own_curve_family_and_algorithm_alone() {
    let (p256, p384, ed) = (Maker::p256(), Maker::p384(), Maker::ed25519());
    let both = with_set(&[&p256, &p384], CURVES);
    let told = |maker: &Maker, algorithm: &str, kid: &str| {
        maker.token(&header(algorithm, json!({"kid": kid})), &claims().to_string())
    };
    identify(&both, &told(&p256, "ES256", "1")).unwrap();
    identify(&both, &told(&p384, "ES384", "2")).unwrap();
    for (maker, algorithm, kid) in [
        (&p256, "ES384", "1"),
        (&p256, "ES256", "2"),
        (&p384, "ES256", "2"),
        (&p384, "ES384", "1"),
        (&ed, "ES256", "1"),
    ] {
        assert_eq!(refused(&both, &told(maker, algorithm, kid)), Invalid::Signature, "{algorithm} {kid}");
    }
    assert_eq!(refused(&both, &told(&ed, "EdDSA", "1")), Invalid::Algorithm);

    let rsa = Maker::rsa();
    let narrow = with_pem(&rsa, "'RS256'");
    for algorithm in ["RS384", "RS512", "PS256"] {
        assert_eq!(refused(&narrow, &rsa.good(algorithm)), Invalid::Algorithm, "{algorithm}");
    }
    let mut key = rsa.jwk();
    key["alg"] = json!("PS256");
    let own = issuers("keys", "'RS256', 'PS256'", &json!({"keys": [key]}).to_string()).unwrap();
    identify(&own, &rsa.good("PS256")).unwrap();
    assert_eq!(refused(&own, &rsa.good("RS256")), Invalid::Signature, "the set allows it for PS256 alone");
}

#[test]
fn a_token_never_brings_or_names_its_own_key() {
    let (issuer, thief) = (Maker::p256(), Maker::p256());
    let issuers = with_set(&[&issuer], CURVES);
    let forged = |more: Value| thief.token(&header("ES256", more), &claims().to_string());
    for more in [
        json!({"jwk": thief.jwk()}),
        json!({"jku": "http://127.0.0.1:1/keys"}),
        json!({"x5u": "http://127.0.0.1:1/cert", "x5c": ["MIIB"], "x5t": "x"}),
    ] {
        assert_eq!(refused(&issuers, &forged(more)), Invalid::Signature);
    }
    let empty = Maker::secret("");
    for kid in [
        "../../../../../../dev/null",
        "/dev/null",
        "x' UNION SELECT 'key",
        "http://127.0.0.1:1/keys",
        "1\u{0}",
        "",
        "2",
        "|cat /etc/passwd",
        "{route}",
    ] {
        assert_eq!(refused(&issuers, &forged(json!({"kid": kid}))), Invalid::Signature, "{kid}");
        let by_nothing = empty.token(&header("ES256", json!({"kid": kid})), &claims().to_string());
        assert_eq!(refused(&issuers, &by_nothing), Invalid::Signature, "{kid}");
    }
}

#[test]
fn an_issuer_speaks_for_itself_alone() {
    let (ours, theirs) = (Maker::secret(SECRET), Maker::secret(SECRET.replace('0', "x")));
    let issuers = with_secret(&ours, SECRETS);
    assert_eq!(refused(&issuers, &theirs.good("HS256")), Invalid::Signature);
    for iss in
        [json!("https://evil.example"), json!(format!("{ISSUER}/")), json!([ISSUER]), json!(null), json!({})]
    {
        let mut claims = claims();
        claims["iss"] = iss.clone();
        let token = ours.token(r#"{"alg":"HS256"}"#, &claims.to_string());
        assert_eq!(refused(&issuers, &token), Invalid::Issuer, "{iss}");
    }
}

#[test]
fn a_signature_has_one_form() {
    let maker = Maker::p256();
    let issuers = with_pem(&maker, CURVES);
    let good = maker.good("ES256");
    identify(&issuers, &good).unwrap();
    let (signed, signature) = good.rsplit_once('.').unwrap();
    let raw = URL_SAFE_NO_PAD.decode(signature).unwrap();
    let mut with_bits = signature.to_owned();
    let last = with_bits.pop().unwrap();
    // The last digit of 64 bytes has four bits that mean nothing.
    with_bits.push(char::from(last as u8 + 1));
    let der = [&[0x30, 68, 2, 32], &raw[..32], &[2, 32], &raw[32..]].concat();
    for wrong in [
        format!("{signature}=="),
        with_bits,
        signature.replace(['-', '_'], "+"),
        URL_SAFE_NO_PAD.encode([0; 64]),
        URL_SAFE_NO_PAD.encode([0xff; 64]),
        URL_SAFE_NO_PAD.encode(der),
        URL_SAFE_NO_PAD.encode([&raw[..], &[0]].concat()),
        URL_SAFE_NO_PAD.encode(&raw[..63]),
        "AA".into(),
    ] {
        if wrong != signature {
            assert_eq!(refused(&issuers, &format!("{signed}.{wrong}")), Invalid::Signature, "{wrong}");
        }
    }
}

#[test]
fn what_is_deep_or_has_many_members_is_refused_like_anything_else() {
    let maker = Maker::secret(SECRET);
    let issuers = with_secret(&maker, SECRETS);
    let deep = format!(r#"{{"iss":"{ISSUER}","sub":{}{}}}"#, "[".repeat(6_000), "]".repeat(6_000));
    assert_eq!(refused(&issuers, &maker.token(r#"{"alg":"HS256"}"#, &deep)), Invalid::Audience);
    let many: Vec<_> = (0..2_000).map(|at| format!("\"{at}\":0")).collect();
    let many = format!("{{{}}}", many.join(","));
    assert_eq!(refused(&issuers, &maker.token(r#"{"alg":"HS256"}"#, &many)), Invalid::Issuer);
    assert_eq!(refused(&issuers, &maker.token(&many, "{}")), Invalid::Algorithm);
}

#[test]
fn an_expired_token_is_refused_though_it_was_good_before() {
    let maker = Maker::secret(SECRET);
    let issuers = with_secret(&maker, SECRETS);
    let token = maker.good("HS256");
    for now in [NOW, NOW + 89, NOW] {
        issuers.identify(&token, now).unwrap();
    }
    for now in [NOW + 90, NOW + 10_000] {
        let refused = issuers.identify(&token, now).unwrap_err();
        assert_eq!(refused, Refused::Jwt(Invalid::Expired));
        assert!(refused.is_wrong() && !refused.is_guess(), "its client only has to get a new one");
    }
    let forged = Maker::secret(SECRET.replace('0', "x")).good("HS256");
    assert!(issuers.identify(&forged, NOW + 90).unwrap_err().is_guess());
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(512))]

    #[test]
    fn a_token_that_differs_in_one_character_is_refused(at in any::<prop::sample::Index>(), other in "[A-Za-z0-9_.=-]") {
        let maker = Maker::secret(SECRET);
        let issuers = with_secret(&maker, SECRETS);
        let good = maker.good("HS256");
        let at = at.index(good.len());
        let forged = format!("{}{other}{}", &good[..at], &good[at + 1..]);
        prop_assert_eq!(identify(&issuers, &forged).is_ok(), forged == good);
    }
}
