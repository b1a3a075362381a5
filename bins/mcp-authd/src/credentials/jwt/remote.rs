//! A key set at a URL: its newest reading, and when it is read again. What fetches it is in [`super::fetch`].

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use arc_swap::{ArcSwap, Guard};
use tokio::sync::watch;
use tokio::time::Instant;

use super::keys::KeySet;
use crate::config::jwt::KeyUrl;

/// A token that names an unknown key has the set fetched at most this often: whoever makes names up must not make us
/// hammer the key server.
const AGAIN: Duration = Duration::from_secs(60);
/// Pause after a first failure; each further one doubles it, up to the usual pause.
const FIRST_RETRY: Duration = Duration::from_secs(1);

/// One issuer's key set. It outlives reloads that leave its URL alone.
pub struct Remote {
    /// Whose keys they are, for the log.
    pub issuer: String,
    /// Where they are.
    pub url: KeyUrl,
    /// How often they are fetched.
    pub refresh: Duration,
    keys: ArcSwap<KeySet>,
    schedule: Mutex<Schedule>,
    ended: watch::Sender<()>,
}

struct Schedule {
    due: Instant,
    fetching: bool,
    failures: u32,
    /// When a token last had it fetched.
    asked: Option<Instant>,
    /// Whether anything is known of it; what is known from before is no news then.
    is_known: bool,
}

impl Remote {
    /// A set of which nothing is known yet; due at once.
    pub fn new(issuer: String, url: KeyUrl, refresh: Duration) -> Arc<Self> {
        let schedule =
            Schedule { due: Instant::now(), fetching: false, failures: 0, asked: None, is_known: false };
        Arc::new(Self {
            issuer,
            url,
            refresh,
            keys: ArcSwap::default(),
            schedule: Mutex::new(schedule),
            ended: watch::Sender::new(()),
        })
    }

    /// Whether another one is fetched from the same place in the same way.
    pub fn is_like(&self, other: &Self) -> bool {
        (&self.issuer, &self.url, self.refresh) == (&other.issuer, &other.url, other.refresh)
    }

    /// The newest reading, for a moment.
    pub fn keys(&self) -> Guard<Arc<KeySet>> {
        self.keys.load()
    }

    /// Whether anything is known of it, be it that there are no keys.
    pub fn is_known(&self) -> bool {
        self.schedule().is_known
    }

    /// Takes what is known from before, unless something newer is.
    pub fn recall(&self, keys: KeySet) {
        let mut schedule = self.schedule();
        if !schedule.is_known {
            schedule.is_known = true;
            self.keys.store(Arc::new(keys));
        }
    }

    /// Replaces it; whether anything is different.
    pub fn replace(&self, keys: KeySet) -> bool {
        let mut schedule = self.schedule();
        schedule.is_known = true;
        let is_new = !self.keys.load().is_same(&keys);
        self.keys.store(Arc::new(keys));
        is_new
    }

    /// When it has to be fetched next; `None` while it is being fetched.
    pub fn due(&self) -> Option<Instant> {
        let schedule = self.schedule();
        (!schedule.fetching).then_some(schedule.due)
    }

    /// Begins to fetch it, if it is due and nobody does.
    pub fn begin(&self, now: Instant) -> bool {
        let mut schedule = self.schedule();
        let begins = !schedule.fetching && schedule.due <= now;
        schedule.fetching |= begins;
        begins
    }

    /// It was fetched, or could not be; wakes all who wait for it.
    pub fn end(&self, now: Instant, fetched: bool) {
        let mut schedule = self.schedule();
        schedule.fetching = false;
        schedule.failures = if fetched { 0 } else { schedule.failures.saturating_add(1) };
        let doubled = 2u32.saturating_pow(schedule.failures.saturating_sub(1));
        let retry = FIRST_RETRY.saturating_mul(doubled);
        schedule.due = now + if fetched { self.refresh } else { retry.min(self.refresh) };
        drop(schedule);
        self.ended.send_replace(());
    }

    /// Has it fetched because a token names a key that is not there: what tells of the end of that, or `None` if a token did
    /// so a moment ago. Any number who ask meanwhile wait for the same fetch.
    pub fn ask(&self, now: Instant) -> Option<watch::Receiver<()>> {
        let mut schedule = self.schedule();
        if !schedule.fetching && schedule.due > now {
            if schedule.asked.is_some_and(|asked| now < asked + AGAIN) {
                return None;
            }
            schedule.asked = Some(now);
            schedule.due = now;
        }
        // Subscribed under the lock: an end after this is not missed.
        Some(self.ended.subscribe())
    }

    fn schedule(&self) -> MutexGuard<'_, Schedule> {
        self.schedule.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::super::keys::Key;
    use super::*;

    const REFRESH: Duration = Duration::from_secs(900);

    fn remote() -> Arc<Remote> {
        Remote::new("i".into(), "http://127.0.0.1:1/k".parse().unwrap(), REFRESH)
    }

    #[tokio::test(start_paused = true)]
    async fn it_is_fetched_once_at_a_time_and_then_as_often_as_it_should() {
        let (remote, start) = (remote(), Instant::now());
        assert!(remote.begin(start) && !remote.begin(start), "one at a time");
        assert_eq!(remote.due(), None);
        remote.end(start, true);
        assert_eq!(remote.due(), Some(start + REFRESH));
        assert!(!remote.begin(start));
    }

    #[tokio::test(start_paused = true)]
    async fn what_is_known_from_before_never_takes_the_place_of_what_was_fetched() {
        let (remote, old) = (remote(), || KeySet::new(vec![Key::secret(&[7; 32]).unwrap()]));
        assert!(!remote.is_known());
        remote.replace(KeySet::default());
        remote.recall(old());
        assert!(remote.is_known() && remote.keys().is_empty(), "its keys were withdrawn, all of them");
        let remote = Remote::new("i".into(), "http://127.0.0.1:1/k".parse().unwrap(), REFRESH);
        remote.recall(old());
        assert!(remote.is_known() && remote.keys().len() == 1);
    }

    #[tokio::test(start_paused = true)]
    async fn failures_are_tried_again_soon_and_then_less_often() {
        let (remote, start) = (remote(), Instant::now());
        let mut pauses = Vec::new();
        for _ in 0..40 {
            remote.end(start, false);
            pauses.push((remote.due().unwrap() - start).as_secs());
        }
        assert_eq!(pauses[..5], [1, 2, 4, 8, 16]);
        assert_eq!(pauses[39], REFRESH.as_secs());
        remote.end(start, true);
        remote.end(start, false);
        assert_eq!(remote.due(), Some(start + FIRST_RETRY), "a success forgets them");
    }

    #[tokio::test(start_paused = true)]
    async fn an_unknown_key_has_it_fetched_once_a_minute_for_all_who_wait() {
        let (remote, start) = (remote(), Instant::now());
        remote.begin(start);
        remote.end(start, true);
        let mut waiting = [remote.ask(start).unwrap(), remote.ask(start).unwrap()];
        assert_eq!(remote.due(), Some(start));
        assert!(remote.begin(start));
        let mut later = remote.ask(start).expect("the fetch under way is waited for");
        remote.end(start, true);
        for waiting in waiting.iter_mut().chain([&mut later]) {
            assert!(waiting.has_changed().unwrap());
        }
        assert!(remote.ask(start + AGAIN - Duration::from_millis(1)).is_none());
        assert!(remote.ask(start + AGAIN).is_some());
    }
}
