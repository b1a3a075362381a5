//! Static tokens: looked up by a keyed digest, compared once in constant time.
//!
//! The path of a wrong token is that of a right one up to the comparison, so the time to refuse does not tell how much
//! of it was right or whose it resembles. Where tokens come from is in `source`, what one is worth in [`entry`]; [`mod@write`]
//! changes their files.

pub mod entry;
mod json;
mod source;
#[cfg(test)]
mod tests;
#[cfg(test)]
mod timing;
mod toml;
pub mod write;

use std::collections::HashMap;
use std::collections::hash_map;
use std::env;

use aws_lc_rs::constant_time;
use mcp_daemon::config::{ConfigError, ConfigProblem};
use mcp_daemon::secret::sha256;
use mcp_daemon::tokens::Item;

use self::entry::{Entry, State};
use super::Refused;
use super::keyed::keyed;
use super::last_use::Times;
use crate::config::Config;
use crate::identity::{Identity, Standing};

/// All static tokens of one reading.
#[derive(Default)]
pub struct Tokens {
    by_key: HashMap<[u8; 32], Entry>,
}

impl Tokens {
    /// Reads all that the settings name, and the environment unless they say otherwise.
    pub fn load(config: &Config) -> Result<Self, ConfigProblem> {
        let items = source::read(config, |variable| env::var_os(variable))?;
        Ok(Self::of(&items, config.limits.credential.bytes())?)
    }

    /// Refuses names that stand twice, and tokens that do: one of the two subjects would go where the other belongs.
    fn of(items: &[Item], longest: usize) -> Result<Self, ConfigError> {
        let mut by_key = HashMap::with_capacity(items.len());
        let mut by_name: HashMap<String, &Item> = HashMap::with_capacity(items.len());
        let mut by_digest: HashMap<[u8; 32], &Item> = HashMap::with_capacity(items.len());
        for item in items {
            let entry = Entry::read(item, longest)?;
            if let Some(other) = by_digest.insert(entry.digest, item) {
                let what = format!(
                    "the same token as that of {}; each needs its own, `mcp-authd token new` makes one",
                    other.label()
                );
                return Err(item.refuse("", &what));
            }
            match by_name.entry(entry.name.clone()) {
                hash_map::Entry::Occupied(other) => {
                    let what = format!("the same name as that of {}; choose another", other.get().label());
                    return Err(item.refuse("", &what));
                }
                hash_map::Entry::Vacant(place) => place.insert(item),
            };
            by_key.insert(keyed(&entry.digest), entry);
        }
        Ok(Self { by_key })
    }

    /// What a token is worth at `now`, seconds since 1970; notes that it was used.
    pub fn identify(&self, token: &str, now: u64) -> Result<Identity, Refused> {
        let digest = sha256(token.as_bytes());
        let found = self.by_key.get(&keyed(&digest));
        let known = found.map_or(&[0; 32], |entry| &entry.digest);
        let same = constant_time::verify_slices_are_equal(known, &digest).is_ok();
        let entry = found.filter(|_| same).ok_or(Refused::Unknown)?;
        match entry.state(now) {
            State::Disabled => Err(Refused::Disabled(entry.name.clone())),
            State::Expired => Err(Refused::Expired(entry.name.clone())),
            State::NotYet => Err(Refused::NotYet(entry.name.clone())),
            State::Ok => {
                entry.used.note(now);
                Ok(entry.identity.clone())
            }
        }
    }

    /// See [`Credentials::still`](super::Credentials::still).
    pub fn still(&self, identity: &Identity, now: u64) -> bool {
        let Standing::Token(key) = &identity.standing else { return false };
        self.by_key.get(key).is_some_and(|entry| {
            entry.identity.subject == identity.subject
                && entry.identity.route == identity.route
                && entry.identity.scopes == identity.scopes
                && entry.state(now) == State::Ok
        })
    }

    /// Whether the token that is looked up under a key was good at `since`, by what is known now.
    pub fn lets_in(&self, key: &[u8; 32], since: u64) -> bool {
        self.by_key.get(key).is_some_and(|entry| entry.state(since) == State::Ok)
    }

    /// All of them, in no order.
    pub fn entries(&self) -> impl Iterator<Item = &Entry> {
        self.by_key.values()
    }

    /// Goes on where an older reading ends: what is noted as used there is noted here, from now on too.
    pub fn inherit(&mut self, older: &Tokens) {
        for (key, entry) in &mut self.by_key {
            if let Some(before) = older.by_key.get(key) {
                entry.used = before.used.clone();
            }
        }
    }

    /// When each was last used, by fingerprint; those that never were are left out.
    pub fn times(&self) -> Times {
        let used = |entry: &Entry| Some((entry.identity.fingerprint.to_string(), entry.used.at()?));
        self.entries().filter_map(used).collect()
    }

    /// Takes over what was noted before this process began.
    pub fn recall(&self, times: &Times) {
        for entry in self.entries() {
            if let Some(at) = times.get(&*entry.identity.fingerprint) {
                entry.used.note(*at);
            }
        }
    }
}
