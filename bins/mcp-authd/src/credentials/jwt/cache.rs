//! Tokens that were verified before: a signature costs more than everything else together.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use crate::identity::Identity;

/// Identities of either generation.
const MOST: usize = 2_048;

/// What tokens were worth when they were last looked at, by a keyed digest of each. Whether that still stands is the
/// caller's to ask.
///
/// Two generations: a full young one becomes the old one, and what is asked for is young again. So the least used are
/// forgotten, without a list to keep in order.
#[derive(Default)]
pub struct Verified(Mutex<Generations>);

#[derive(Default)]
struct Generations {
    young: HashMap<[u8; 32], Arc<Identity>>,
    old: HashMap<[u8; 32], Arc<Identity>>,
}

impl Verified {
    /// What a token was worth.
    pub fn get(&self, key: &[u8; 32]) -> Option<Arc<Identity>> {
        let mut all = self.lock();
        if let Some(identity) = all.young.get(key) {
            return Some(identity.clone());
        }
        let identity = all.old.remove(key)?;
        all.keep(*key, identity.clone());
        Some(identity)
    }

    /// Remembers it.
    pub fn keep(&self, key: [u8; 32], identity: Arc<Identity>) {
        self.lock().keep(key, identity);
    }

    /// Forgets one.
    pub fn forget(&self, key: &[u8; 32]) {
        let mut all = self.lock();
        all.young.remove(key);
        all.old.remove(key);
    }

    fn lock(&self) -> MutexGuard<'_, Generations> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Generations {
    fn keep(&mut self, key: [u8; 32], identity: Arc<Identity>) {
        if self.young.len() == MOST {
            self.old = std::mem::take(&mut self.young);
        }
        self.young.insert(key, identity);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::identity::{Fingerprint, Scopes, Standing};

    fn identity() -> Arc<Identity> {
        Arc::new(Identity {
            subject: "s".parse().unwrap(),
            route: "r".parse().unwrap(),
            scopes: Scopes::All,
            expires: None,
            fingerprint: Fingerprint::of_token(&[0; 32]),
            standing: Standing::Token([0; 32]),
        })
    }

    fn key(number: usize) -> [u8; 32] {
        let mut key = [0; 32];
        key[..8].copy_from_slice(&number.to_be_bytes());
        key
    }

    #[test]
    fn the_least_used_are_forgotten_and_the_number_is_bounded() {
        let verified = Verified::default();
        for number in 0..10 * MOST {
            verified.keep(key(number), identity());
            assert!(verified.get(&key(0)).is_some(), "what is used stays, at {number}");
        }
        let all = verified.lock();
        assert!(all.young.len() <= MOST && all.old.len() <= MOST);
        drop(all);
        assert!(verified.get(&key(1)).is_none());
        verified.forget(&key(0));
        assert!(verified.get(&key(0)).is_none());
    }
}
