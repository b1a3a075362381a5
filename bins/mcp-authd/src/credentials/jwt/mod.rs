//! JWTs of trusted issuers (RFC 7519), with the advice of RFC 8725.
//!
//! A token's own words choose nothing: `iss` only picks the issuer whose keys must then verify it, `alg` must be one that
//! the issuer's settings allow and the key can do, `kid` is only compared. `token` takes a token apart, `keys` verify it,
//! `claims` say what it is worth; `remote` and [`fetch`] keep key sets fresh.

mod cache;
mod claims;
pub mod fetch;
mod keys;
mod read;
mod remote;
mod token;

#[cfg(test)]
mod attacks;

use std::collections::BTreeMap;
use std::sync::Arc;

use mcp_daemon::config::ConfigProblem;
use mcp_daemon::secret::sha256;

use self::cache::Verified;
use self::claims::Claims;
use self::keys::{KeySet, Unverified};
use self::remote::Remote;
use self::token::Token;
use super::Refused;
use super::keyed::keyed;
use super::names::Naming;
use crate::config::Config;
use crate::config::jwt::Issuer as Rules;
use crate::identity::{Fingerprint, Identity, JwtStanding, Standing};

pub use self::token::is_token;

/// Why a token is worth nothing.
#[derive(Clone, Copy, Debug, Eq, PartialEq, thiserror::Error)]
pub enum Invalid {
    /// `alg` is none that its issuer may use.
    #[error("its algorithm is not one of the issuer's")]
    Algorithm,
    /// `aud` is somebody else.
    #[error("it is for somebody else (aud)")]
    Audience,
    /// It asks for an extension.
    #[error("its header asks for what is not understood here (crit, b64)")]
    Critical,
    /// `exp` is over.
    #[error("it has expired")]
    Expired,
    /// Not three parts of base64url with JSON in two of them; or something stands there twice or has the wrong type.
    #[error("it is malformed")]
    Form,
    /// Nobody whom the settings name.
    #[error("its issuer is not one of [[jwt]]")]
    Issuer,
    /// `typ` says that it is for something else.
    #[error("it is no access token (typ)")]
    Kind,
    /// It names no key, and more than four could be meant.
    #[error("it names no key (kid), and too many could be meant")]
    NoKeyNamed,
    /// Without `exp` it would be good for ever.
    #[error("it never expires (exp)")]
    NoExpiry,
    /// `nbf` or `iat` lies ahead.
    #[error("it is not valid yet (nbf, iat)")]
    NotYet,
    /// Its claim is no route.
    #[error("its claim names no route")]
    Route,
    /// Its claim is no list of scopes.
    #[error("its scopes are neither text nor list")]
    Scopes,
    /// None of the issuer's keys made it.
    #[error("its signature is wrong")]
    Signature,
    /// Its claim is no subject.
    #[error("its claim names no subject")]
    Subject,
    /// Its name, or the route made of it, is that of a static token, or a `route` key's.
    #[error(
        "its subject or route was given to somebody else; set subject_prefix, or shares_names where they are the same"
    )]
    Taken,
    /// There is no signature.
    #[error("it is not signed")]
    Unsigned,
}

impl Invalid {
    /// Whether an issuer of ours has signed it all the same: this is found out after the signature.
    pub fn is_signed(self) -> bool {
        match self {
            Invalid::Audience
            | Invalid::Expired
            | Invalid::NoExpiry
            | Invalid::NotYet
            | Invalid::Route
            | Invalid::Scopes
            | Invalid::Subject
            | Invalid::Taken => true,
            Invalid::Algorithm
            | Invalid::Critical
            | Invalid::Form
            | Invalid::Issuer
            | Invalid::Kind
            | Invalid::NoKeyNamed
            | Invalid::Signature
            | Invalid::Unsigned => false,
        }
    }
}

/// One reading of all issuers.
pub struct Issuers {
    by_name: BTreeMap<String, Issuer>,
    verified: Verified,
}

struct Issuer {
    rules: Rules,
    /// A keyed digest of all that decides what a token is worth.
    digest: [u8; 32],
    source: Source,
}

enum Source {
    Fixed(KeySet),
    Remote(Arc<Remote>),
}

impl Issuers {
    /// Reads the keys that lie in files; those at URLs are fetched later ([`fetch`]).
    pub fn load(config: &Config) -> Result<Self, ConfigProblem> {
        let mut by_name = BTreeMap::new();
        for (at, rules) in config.jwt.iter().enumerate() {
            let source = Source::of(rules)
                .map_err(|(key, what)| ConfigProblem::key(format!("jwt[{at}].{key}"), what))?;
            let issuer = Issuer { digest: digest_of(rules), rules: rules.clone(), source };
            by_name.insert(rules.issuer.clone(), issuer);
        }
        Ok(Self { by_name, verified: Verified::default() })
    }

    /// Whether there is any.
    pub fn is_empty(&self) -> bool {
        self.by_name.is_empty()
    }

    /// Takes over what an earlier reading has fetched, where it comes from the same place.
    pub fn inherit(&mut self, earlier: &Self) {
        for (name, issuer) in &mut self.by_name {
            let before = earlier.by_name.get(name).map(|issuer| &issuer.source);
            if let (Source::Remote(ours), Some(Source::Remote(theirs))) = (&mut issuer.source, before)
                && ours.is_like(theirs)
            {
                *ours = theirs.clone();
            }
        }
    }

    /// The key sets at URLs.
    pub fn remotes(&self) -> Vec<Arc<Remote>> {
        self.by_name.values().filter_map(Issuer::remote).collect()
    }

    /// That of one issuer.
    pub fn remote(&self, issuer: &str) -> Option<Arc<Remote>> {
        self.by_name.get(issuer).and_then(Issuer::remote)
    }

    /// What a token is worth at `now`, seconds since 1970.
    pub fn identify(&self, credential: &str, now: u64) -> Result<Arc<Identity>, Refused> {
        let key = keyed(credential.as_bytes());
        if let Some(identity) = self.verified.get(&key) {
            if identity.expires.is_some_and(|expires| now >= expires) {
                self.verified.forget(&key);
                return Err(Invalid::Expired.into());
            }
            if matches!(&identity.standing, Standing::Jwt(standing) if self.still(standing)) {
                return Ok(identity);
            }
        }
        let identity = Arc::new(self.verify(credential, now)?);
        self.verified.keep(key, identity.clone());
        Ok(identity)
    }

    /// Whether an issuer with these very rules still has that key.
    pub fn still(&self, standing: &JwtStanding) -> bool {
        self.by_name
            .values()
            .any(|issuer| issuer.digest == standing.rules && issuer.with_keys(|keys| keys.has(&standing.key)))
    }

    /// How an issuer with these very rules names people, if there is one.
    pub fn naming(&self, standing: &JwtStanding) -> Option<Naming> {
        let rules = &self.by_name.values().find(|issuer| issuer.digest == standing.rules)?.rules;
        let makes_routes = rules.route.is_none() && rules.route_claim.is_none();
        Some(Naming { shares: rules.shares_names, makes_routes })
    }

    fn verify(&self, credential: &str, now: u64) -> Result<Identity, Refused> {
        let token = Token::parse(credential)?;
        let claims = Claims::read(&token.claims)?;
        let issuer = self.by_name.get(&*claims.issuer()?).ok_or(Invalid::Issuer)?;
        let key = issuer.verify(&token)?;
        let worth = claims.judge(&issuer.rules, now)?;
        Ok(Identity {
            subject: worth.subject,
            route: worth.route,
            scopes: worth.scopes,
            expires: Some(worth.expires),
            fingerprint: Fingerprint::of_token(&sha256(credential.as_bytes())),
            standing: Standing::Jwt(Box::new(JwtStanding { key, rules: issuer.digest })),
        })
    }
}

impl Issuer {
    /// The digest of the key that made a token's signature.
    fn verify(&self, token: &Token<'_>) -> Result<[u8; 32], Refused> {
        if !self.rules.algorithms.contains(&token.header.algorithm) {
            return Err(Invalid::Algorithm.into());
        }
        let verified = self.with_keys(|keys| keys.verify(token).map(|key| key.digest));
        verified.map_err(|unverified| match (unverified, &self.source) {
            (Unverified::NoSuchKey, Source::Remote(_)) => {
                Refused::UnknownKey(self.rules.issuer.as_str().into())
            }
            (Unverified::Ambiguous, _) => Invalid::NoKeyNamed.into(),
            (Unverified::NoSuchKey | Unverified::Wrong, _) => Invalid::Signature.into(),
        })
    }

    fn with_keys<T>(&self, look: impl FnOnce(&KeySet) -> T) -> T {
        match &self.source {
            Source::Fixed(keys) => look(keys),
            Source::Remote(remote) => look(&remote.keys()),
        }
    }

    fn remote(&self) -> Option<Arc<Remote>> {
        match &self.source {
            Source::Fixed(_) => None,
            Source::Remote(remote) => Some(remote.clone()),
        }
    }
}

impl Source {
    /// Where the settings say; what is wrong is told with the key that says it.
    fn of(rules: &Rules) -> Result<Self, (&'static str, String)> {
        let (key, path, keys) = match (&rules.keys, &rules.secret_file, &rules.jwks) {
            (Some(path), ..) => ("keys", path, read::file(path)),
            (_, Some(path), _) => ("secret_file", path, read::secret(path)),
            (_, _, Some(url)) => {
                let refresh = rules.refresh.duration();
                return Ok(Source::Remote(Remote::new(rules.issuer.clone(), url.clone(), refresh)));
            }
            _ => return Err(("keys", "expected keys, jwks or secret_file".into())),
        };
        let keys = keys.map_err(|error| (key, format!("{}: {error}", path.display())))?;
        if !keys.suits(&rules.algorithms) {
            return Err((key, format!("{}: none of its keys fits the algorithms", path.display())));
        }
        Ok(Source::Fixed(keys))
    }
}

/// Where keys come from is not among the rules: the same key from elsewhere is the same key.
fn digest_of(rules: &Rules) -> [u8; 32] {
    let without_source = Rules { keys: None, jwks: None, secret_file: None, ..rules.clone() };
    // `Debug` names and quotes every field, so no two rules read alike.
    keyed(format!("{without_source:?}").as_bytes())
}
