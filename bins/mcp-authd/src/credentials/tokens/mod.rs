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

use std::borrow::Borrow;
use std::collections::{HashMap, HashSet, hash_map};
use std::env;
use std::hash::{BuildHasherDefault, Hash, Hasher};
use std::sync::Arc;

use aws_lc_rs::constant_time;
use mcp_daemon::config::{ConfigError, ConfigProblem};
use mcp_daemon::secret::sha256;
use mcp_daemon::tokens::Item;

use self::entry::{Entry, Names, State};
use super::Refused;
use super::keyed::{AsItIs, keyed};
use super::last_use::Times;
use crate::config::Config;
use crate::identity::{Identity, Standing};

/// All static tokens of one reading.
#[derive(Default)]
pub struct Tokens {
    by_key: HashSet<Known, BuildHasherDefault<AsItIs>>,
}

/// An entry that is found by its key.
struct Known(Box<Entry>);

impl Tokens {
    /// Reads all that the settings name, and the environment unless they say otherwise.
    pub fn load(config: &Config) -> Result<Self, ConfigProblem> {
        let items = source::read(config, |variable| env::var_os(variable))?;
        Ok(Self::of(&items, config.limits.credential.bytes())?)
    }

    /// Refuses names that stand twice, and tokens that do: one of the two subjects would go where the other belongs.
    #[allow(
        clippy::mutable_key_type,
        reason = "what changes in an entry, its last use, is no part of its key"
    )]
    fn of(items: &[Item], longest: usize) -> Result<Self, ConfigError> {
        let mut by_key = HashSet::with_capacity_and_hasher(items.len(), BuildHasherDefault::default());
        let mut by_name: HashMap<Arc<str>, &Item> = HashMap::with_capacity(items.len());
        let mut names = Names::default();
        for item in items {
            let entry = Entry::read(item, longest, &mut names)?;
            if let Some(Known(other)) = by_key.get(entry.key()) {
                let other = by_name[&other.name];
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
            by_key.insert(Known(Box::new(entry)));
        }
        Ok(Self { by_key })
    }

    /// What a token is worth at `now`, seconds since 1970; notes that it was used.
    pub fn identify(&self, token: &str, now: u64) -> Result<Arc<Identity>, Refused> {
        let key = keyed(&sha256(token.as_bytes()));
        let found = self.entry(&key);
        let known = found.map_or(&[0; 32], Entry::key);
        let same = constant_time::verify_slices_are_equal(known, &key).is_ok();
        let entry = found.filter(|_| same).ok_or(Refused::Unknown)?;
        match entry.state(now) {
            State::Disabled => Err(Refused::Disabled(entry.name.to_string())),
            State::Expired => Err(Refused::Expired(entry.name.to_string())),
            State::NotYet => Err(Refused::NotYet(entry.name.to_string())),
            State::Ok => {
                entry.used.note(now);
                Ok(entry.identity.clone())
            }
        }
    }

    /// See [`Credentials::still`](super::Credentials::still).
    pub fn still(&self, identity: &Identity, now: u64) -> bool {
        self.good(identity, now).is_some()
    }

    /// See [`Credentials::again`](super::Credentials::again).
    pub fn again(&self, identity: &Identity, now: u64) -> bool {
        let entry = self.good(identity, now);
        entry.inspect(|entry| entry.used.note(now)).is_some()
    }

    /// The entry of an identity that was given out earlier, unless that would not be given out now.
    fn good(&self, identity: &Identity, now: u64) -> Option<&Entry> {
        let Standing::Token(key) = &identity.standing else { return None };
        self.entry(key).filter(|entry| {
            let same = std::ptr::eq(&*entry.identity, identity)
                || (entry.identity.subject == identity.subject
                    && entry.identity.route == identity.route
                    && entry.identity.scopes == identity.scopes);
            same && entry.state(now) == State::Ok
        })
    }

    /// Whether the token that is looked up under a key was good at `since`, by what is known now.
    pub fn lets_in(&self, key: &[u8; 32], since: u64) -> bool {
        self.entry(key).is_some_and(|entry| entry.state(since) == State::Ok)
    }

    fn entry(&self, key: &[u8; 32]) -> Option<&Entry> {
        self.by_key.get(key).map(|Known(entry)| &**entry)
    }

    /// All of them, in no order.
    pub fn entries(&self) -> impl Iterator<Item = &Entry> {
        self.by_key.iter().map(|Known(entry)| &**entry)
    }

    /// Goes on where an older reading ends: what is noted as used there is noted here, from now on too.
    pub fn inherit(&mut self, older: &Tokens) {
        let inherit = |Known(mut entry): Known| {
            if let Some(before) = older.entry(entry.key()) {
                entry.used = before.used.clone();
            }
            Known(entry)
        };
        self.by_key = std::mem::take(&mut self.by_key).into_iter().map(inherit).collect();
    }

    /// When each was last used, by fingerprint; those that never were are left out.
    pub fn times(&self) -> Times {
        let used = |entry: &Entry| Some((entry.identity.fingerprint.to_string(), entry.used.at()?));
        self.entries().filter_map(used).collect()
    }

    /// Takes over what was noted before this process began.
    pub fn recall(&self, times: &Times) {
        for entry in self.entries() {
            if let Some(at) = times.get(&entry.identity.fingerprint.to_string()) {
                entry.used.note(*at);
            }
        }
    }
}

impl Borrow<[u8; 32]> for Known {
    fn borrow(&self) -> &[u8; 32] {
        self.0.key()
    }
}

impl Hash for Known {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.0.key().hash(state);
    }
}

impl PartialEq for Known {
    fn eq(&self, other: &Self) -> bool {
        self.0.key() == other.0.key()
    }
}

impl Eq for Known {}
