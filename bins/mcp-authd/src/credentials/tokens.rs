//! Static tokens: looked up by a keyed digest, compared once in constant time.
//!
//! The path of a wrong token is that of a right one up to the comparison, so the time to refuse does not tell how much
//! of it was right or whose it resembles.

use std::collections::BTreeSet;
use std::collections::HashMap;
use std::path::Path;
use std::sync::{Arc, LazyLock};

use aws_lc_rs::{constant_time, digest, hmac, rand};
use mcp_daemon::addr::Route;
use mcp_daemon::config::ConfigProblem;
use mcp_daemon::secret::hex;
use serde::Deserialize;

use super::Refused;
use crate::config::Config;
use crate::identity::{Identity, Scopes, Standing, Subject};

/// One token's digest and worth.
#[derive(Debug)]
struct Entry {
    /// SHA-256 of the token.
    digest: [u8; 32],
    name: String,
    subject: Subject,
    route: Route,
    scopes: Scopes,
    expires: Option<u64>,
    not_before: Option<u64>,
    disabled: bool,
}

/// All static tokens of one reading.
#[derive(Default)]
pub struct Tokens {
    by_key: HashMap<[u8; 32], Entry>,
}

/// Random per process: what a key is under which a token is looked up cannot be worked out from outside.
static KEY: LazyLock<hmac::Key> = LazyLock::new(|| {
    let mut bytes = [0; 32];
    rand::fill(&mut bytes).expect("the system's random source cannot fail once seeded");
    hmac::Key::new(hmac::HMAC_SHA256, &bytes)
});

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct File {
    #[serde(default)]
    token: std::collections::BTreeMap<String, Stored>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Stored {
    token: Option<String>,
    hash: Option<String>,
    subject: Option<Subject>,
    route: Option<Route>,
    scopes: Option<BTreeSet<String>>,
}

impl Tokens {
    /// Reads all that the settings name.
    pub fn load(config: &Config) -> Result<Self, ConfigProblem> {
        let mut tokens = Self::default();
        if let Some(path) = &config.tokens {
            tokens.read_file(path)?;
        }
        Ok(tokens)
    }

    fn read_file(&mut self, path: &Path) -> Result<(), ConfigProblem> {
        let file: File = mcp_daemon::config::load(path)?;
        for (name, stored) in file.token {
            let refuse = |what: &str| ConfigProblem::key(format!("token.{name}"), what).within(Some(path));
            let digest = match (&stored.token, &stored.hash) {
                (Some(token), None) => sha256(token.as_bytes()),
                _ => return Err(refuse("expected `token`")),
            };
            let subject = match stored.subject {
                Some(subject) => subject,
                None => name.parse().map_err(|error| refuse(&format!("{error}")))?,
            };
            let route = match stored.route {
                Some(route) => route,
                None => name.parse().map_err(|error| refuse(&format!("{error}")))?,
            };
            let scopes = stored.scopes.map_or(Scopes::All, |scopes| Scopes::Only(Arc::new(scopes)));
            let entry = Entry {
                digest,
                name,
                subject,
                route,
                scopes,
                expires: None,
                not_before: None,
                disabled: false,
            };
            self.by_key.insert(key_of(&digest), entry);
        }
        Ok(())
    }

    /// What a token is worth at `now`.
    pub fn identify(&self, token: &str, now: u64) -> Result<Identity, Refused> {
        let digest = sha256(token.as_bytes());
        let key = key_of(&digest);
        let found = self.by_key.get(&key);
        let known = found.map_or(&[0; 32], |entry| &entry.digest);
        let same = constant_time::verify_slices_are_equal(known, &digest).is_ok();
        let entry = found.filter(|_| same).ok_or(Refused::Unknown)?;
        entry.is_valid(now)?;
        Ok(Identity {
            subject: entry.subject.clone(),
            route: entry.route.clone(),
            scopes: entry.scopes.clone(),
            expires: entry.expires,
            fingerprint: hex(&digest[..4]).into(),
            standing: Standing::Token(key),
        })
    }

    /// See [`Credentials::still`](super::Credentials::still).
    pub fn still(&self, identity: &Identity, now: u64) -> bool {
        let Standing::Token(key) = &identity.standing else { return false };
        self.by_key.get(key).is_some_and(|entry| {
            entry.subject == identity.subject
                && entry.route == identity.route
                && entry.scopes == identity.scopes
                && entry.is_valid(now).is_ok()
        })
    }
}

impl Entry {
    fn is_valid(&self, now: u64) -> Result<(), Refused> {
        if self.disabled {
            return Err(Refused::Disabled(self.name.clone()));
        }
        if self.expires.is_some_and(|expires| now >= expires) {
            return Err(Refused::Expired(self.name.clone()));
        }
        if self.not_before.is_some_and(|not_before| now < not_before) {
            return Err(Refused::NotYet(self.name.clone()));
        }
        Ok(())
    }
}

fn sha256(bytes: &[u8]) -> [u8; 32] {
    digest::digest(&digest::SHA256, bytes).as_ref().try_into().expect("SHA-256 has 32 bytes")
}

fn key_of(digest: &[u8; 32]) -> [u8; 32] {
    hmac::sign(&KEY, digest).as_ref().try_into().expect("HMAC-SHA-256 has 32 bytes")
}
