//! What a token whose signature is good claims, and what that is worth by the issuer's rules.

use std::borrow::Cow;
use std::collections::BTreeSet;
use std::sync::Arc;

use mcp_daemon::addr::Route;
use mcp_daemon::secret::sha256_hex;

use super::Invalid;
use crate::config::jwt::Issuer;
use crate::credentials::names::is_made;
use crate::identity::{Scopes, Subject};
use crate::object::{Object, seconds, text, texts};

/// Hexadecimal digits in a route that is made of a subject.
const ROUTE_DIGITS: usize = 32;

/// The claims of a token.
pub struct Claims<'a>(Object<'a>);

/// What they are worth.
#[derive(Debug)]
pub struct Worth {
    /// Who.
    pub subject: Subject,
    /// Where to.
    pub route: Route,
    /// For what.
    pub scopes: Scopes,
    /// Seconds since 1970, the leeway included.
    pub expires: u64,
}

impl<'a> Claims<'a> {
    /// Reads an object of claims.
    pub fn read(json: &'a str) -> Result<Self, Invalid> {
        Object::read(json).map(Self).ok_or(Invalid::Form)
    }

    /// `iss`, which must be one text.
    pub fn issuer(&self) -> Result<Cow<'a, str>, Invalid> {
        self.0.get("iss").and_then(text).ok_or(Invalid::Issuer)
    }

    /// Judges the claims by an issuer's rules at `now`, seconds since 1970.
    pub fn judge(&self, rules: &Issuer, now: u64) -> Result<Worth, Invalid> {
        let leeway = rules.leeway.duration().as_secs();
        let audience = self.0.get("aud").and_then(texts).unwrap_or_default();
        if !audience.iter().any(|one| rules.audience.iter().any(|ours| ours == one)) {
            return Err(Invalid::Audience);
        }
        let expires = self.time("exp")?.ok_or(Invalid::NoExpiry)?.saturating_add(leeway);
        if now >= expires {
            return Err(Invalid::Expired);
        }
        // An issuer whose clock is far ahead, or a token that was dated forward.
        for claim in ["nbf", "iat"] {
            if self.time(claim)?.is_some_and(|from| from > now.saturating_add(leeway)) {
                return Err(Invalid::NotYet);
            }
        }
        let subject = self.subject(rules)?;
        let route = self.route(rules, &subject)?;
        Ok(Worth { subject, route, scopes: self.scopes(rules)?, expires })
    }

    fn time(&self, claim: &str) -> Result<Option<u64>, Invalid> {
        self.0.get(claim).map(|time| seconds(time).ok_or(Invalid::Form)).transpose()
    }

    fn subject(&self, rules: &Issuer) -> Result<Subject, Invalid> {
        let name = self.0.find(&rules.subject_claim).and_then(text).filter(|name| !name.is_empty());
        let name = name.ok_or(Invalid::Subject)?;
        format!("{}{name}", rules.subject_prefix).parse().map_err(|_| Invalid::Subject)
    }

    fn route(&self, rules: &Issuer, subject: &Subject) -> Result<Route, Invalid> {
        if let Some(route) = &rules.route {
            return Ok(route.clone());
        }
        match &rules.route_claim {
            Some(claim) => {
                let route = self.0.find(claim).and_then(text).ok_or(Invalid::Route)?;
                route.parse().map_err(|_| Invalid::Route)
            }
            None => Ok(route_of(subject)),
        }
    }

    fn scopes(&self, rules: &Issuer) -> Result<Scopes, Invalid> {
        let Some(claim) = self.0.find(&rules.scope_claim) else { return Ok(Scopes::Only(Arc::default())) };
        let said = texts(claim).ok_or(Invalid::Scopes)?;
        let scopes = said.iter().flat_map(|text| text.split(' ')).filter(|scope| !scope.is_empty());
        Ok(Scopes::Only(Arc::new(scopes.map(str::to_owned).collect::<BTreeSet<_>>())))
    }
}

/// The subject itself where it can be a route and does not look like what is made of others.
fn route_of(subject: &Subject) -> Route {
    match subject.as_str().parse() {
        Ok(route) if !is_made(subject.as_str()) => route,
        _ => {
            let digest = sha256_hex(subject.as_str().as_bytes());
            format!("j-{}", &digest[..ROUTE_DIGITS]).parse().expect("hexadecimal digits are a route")
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: u64 = 1_800_000_000;

    fn rules(more: &str) -> Issuer {
        let text =
            format!("issuer='i'\naudience=['us','also-us']\nalgorithms=['HS256']\nsecret_file='s'\n{more}");
        mcp_daemon::config::parse("x.toml".as_ref(), &text).unwrap()
    }

    fn judged(more: &str, claims: &str) -> Result<Worth, Invalid> {
        Claims::read(claims).and_then(|claims| claims.judge(&rules(more), NOW))
    }

    /// Claims that are good, with some replaced or (`None`) left out.
    fn claims(other: &[(&str, Option<&str>)]) -> String {
        let mut all = vec![("aud", "\"us\""), ("exp", "1800000060"), ("sub", "\"alice\"")];
        for (name, value) in other {
            all.retain(|(known, _)| known != name);
            all.extend(value.map(|value| (*name, value)));
        }
        let all: Vec<_> = all.iter().map(|(name, value)| format!("\"{name}\":{value}")).collect();
        format!("{{{}}}", all.join(","))
    }

    fn refused(other: &[(&str, Option<&str>)]) -> Invalid {
        judged("", &claims(other)).unwrap_err()
    }

    #[test]
    fn good_claims_are_worth_what_they_say() {
        let worth = judged("", &claims(&[("scope", Some("\"a  b\"")), ("nbf", Some("1.5"))])).unwrap();
        assert_eq!((worth.subject.as_str(), worth.route.as_str()), ("alice", "alice"));
        assert_eq!(worth.expires, NOW + 60 + 30);
        assert!(worth.scopes.has("a") && worth.scopes.has("b") && !worth.scopes.has(""));
        let none = judged("", &claims(&[])).unwrap();
        assert!(!none.scopes.has("a"), "a token without scopes has none");
    }

    #[test]
    fn the_audience_must_be_us_and_may_be_others_too() {
        for good in ["\"also-us\"", r#"["them","us"]"#] {
            assert!(judged("", &claims(&[("aud", Some(good))])).is_ok(), "{good}");
        }
        for bad in
            ["\"them\"", "[]", r#"["them"]"#, r#"["us",1]"#, r#"{"us":1}"#, "null", "\"US\"", "\"us \"", "1"]
        {
            assert_eq!(refused(&[("aud", Some(bad))]), Invalid::Audience, "{bad}");
        }
        assert_eq!(refused(&[("aud", None)]), Invalid::Audience);
    }

    #[test]
    fn times_bound_a_token_with_the_leeway_and_must_be_numbers() {
        for (claim, value, expected) in [
            ("exp", None, Some(Invalid::NoExpiry)),
            ("exp", Some("1799999970"), Some(Invalid::Expired)),
            ("exp", Some("1799999971"), None),
            ("exp", Some("\"1800000060\""), Some(Invalid::Form)),
            ("exp", Some("null"), Some(Invalid::Form)),
            ("exp", Some("-1"), Some(Invalid::Form)),
            ("exp", Some("1e999"), Some(Invalid::Form)),
            ("exp", Some("18446744073709551615"), None),
            ("nbf", Some("1800000030"), None),
            ("nbf", Some("1800000031"), Some(Invalid::NotYet)),
            ("nbf", Some("\"now\""), Some(Invalid::Form)),
            ("iat", Some("1800000031"), Some(Invalid::NotYet)),
            ("iat", Some("0"), None),
            ("iat", Some("[]"), Some(Invalid::Form)),
        ] {
            assert_eq!(judged("", &claims(&[(claim, value)])).err(), expected, "{claim} {value:?}");
        }
    }

    #[test]
    fn a_subject_is_a_visible_text_and_nothing_else() {
        let long = format!("\"{}\"", "x".repeat(129));
        for bad in
            ["1", "null", "[\"alice\"]", "{}", "true", "\"\"", "\"a b\"", "\"a\\r\\nx: y\"", "\"ä\"", &long]
        {
            assert_eq!(refused(&[("sub", Some(bad))]), Invalid::Subject, "{bad}");
        }
        assert_eq!(refused(&[("sub", None)]), Invalid::Subject);
        let worth = judged(
            "subject_prefix='corp:'\nsubject_claim='who.mail'",
            &claims(&[("who", Some(r#"{"mail":"a@b"}"#))]),
        );
        assert_eq!(worth.unwrap().subject.as_str(), "corp:a@b");
        let prefix_alone = judged("subject_prefix='corp:'", &claims(&[("sub", Some("\"\""))]));
        assert_eq!(prefix_alone.unwrap_err(), Invalid::Subject);
    }

    #[test]
    fn a_route_comes_from_the_settings_a_claim_or_the_subject() {
        let route = |more: &str, other: &[(&str, Option<&str>)]| {
            judged(more, &claims(other)).map(|worth| worth.route.as_str().to_owned())
        };
        assert_eq!(route("route='all'", &[]).as_deref(), Ok("all"));
        assert_eq!(route("route_claim='team'", &[("team", Some("\"red\""))]).as_deref(), Ok("red"));
        for bad in ["\"../red\"", "\"Red\"", "1", "\"\"", "[\"red\"]"] {
            assert_eq!(route("route_claim='team'", &[("team", Some(bad))]), Err(Invalid::Route), "{bad}");
        }
        assert_eq!(route("route_claim='team'", &[]), Err(Invalid::Route));
        let made = route("", &[("sub", Some("\"Alice@example.org\""))]).unwrap();
        assert!(made.starts_with("j-") && made.len() == 2 + ROUTE_DIGITS, "{made}");
        let thief = route("", &[("sub", Some(&format!("\"{made}\"")))]).unwrap();
        assert_ne!(thief, made, "nobody can be called what another's route is called");
    }

    #[test]
    fn scopes_are_a_list_or_words_and_nothing_else() {
        let has = |value: &str| {
            judged("scope_claim='scp'", &claims(&[("scp", Some(value))])).map(|worth| worth.scopes.has("b"))
        };
        assert_eq!(
            (has("\"a b\""), has(r#"["a","b"]"#), has("\"ab\""), has("[]")),
            (Ok(true), Ok(true), Ok(false), Ok(false))
        );
        for bad in ["1", "null", r#"["b",1]"#, r#"{"b":true}"#] {
            assert_eq!(has(bad), Err(Invalid::Scopes), "{bad}");
        }
    }

    #[test]
    fn claims_that_stand_there_twice_are_refused() {
        for bad in [
            r#"{"aud":"us","exp":1800000060,"sub":"alice","sub":"admin"}"#,
            r#"{"aud":"us","exp":1,"exp":1800000060,"sub":"alice"}"#,
            r#"{"aud":"them","\u0061ud":"us","exp":1800000060,"sub":"alice"}"#,
        ] {
            assert_eq!(judged("", bad).unwrap_err(), Invalid::Form, "{bad}");
        }
    }
}
