//! The credential that a connection showed last: clients send the same one with every request, and to know it again by its
//! bytes costs a small part of its digests.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use aws_lc_rs::constant_time::verify_slices_are_equal;

use crate::identity::Identity;

/// A connection's last good credential and whose it is; nothing at first.
#[derive(Default)]
pub struct Recent(Mutex<Option<Kept>>);

/// Has no `Debug`: it holds a secret, for as long as the connection lasts or another one is shown.
struct Kept {
    shown: Box<[u8]>,
    identity: Arc<Identity>,
}

impl Recent {
    /// Whose credential this is, if it is the last one, byte for byte, and `is_still_good`. One that is not is forgotten.
    pub fn recall(
        &self,
        shown: &[u8],
        is_still_good: impl FnOnce(&Identity) -> bool,
    ) -> Option<Arc<Identity>> {
        let mut kept = self.lock();
        let same = kept.as_ref().filter(|kept| verify_slices_are_equal(&kept.shown, shown).is_ok())?;
        if is_still_good(&same.identity) {
            return Some(same.identity.clone());
        }
        *kept = None;
        None
    }

    /// Takes the place of the one before.
    pub fn keep(&self, shown: &[u8], identity: &Arc<Identity>) {
        // Copied: what came is a piece of the connection's buffer, and would keep all of it.
        *self.lock() = Some(Kept { shown: shown.into(), identity: identity.clone() });
    }

    fn lock(&self) -> MutexGuard<'_, Option<Kept>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
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

    #[test]
    fn only_the_last_credential_is_known_again_and_only_while_it_is_good() {
        let (recent, identity) = (Recent::default(), identity());
        assert!(recent.recall(b"", |_| true).is_none());
        recent.keep(b"Bearer one", &identity);
        for other in ["Bearer on", "Bearer onE", "Bearer one ", "bearer one", ""] {
            assert!(recent.recall(other.as_bytes(), |_| true).is_none(), "{other}");
        }
        assert!(Arc::ptr_eq(&recent.recall(b"Bearer one", |_| true).unwrap(), &identity));
        recent.keep(b"Bearer two", &identity);
        assert!(recent.recall(b"Bearer one", |_| true).is_none());
        assert!(recent.recall(b"Bearer two", |_| false).is_none());
        assert!(
            recent.recall(b"Bearer two", |_| true).is_none(),
            "what was no longer good is looked up anew"
        );
    }
}
