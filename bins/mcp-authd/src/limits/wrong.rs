//! What a wrong credential costs its sender: a wait that doubles, on a connection that is held meanwhile.
//!
//! Only answers to wrong credentials wait. A good one is served at once, from whatever address, so nobody is kept out by a
//! neighbour who guesses; and guessing is hopeless by the length of a token alone. The wait is for the scripts that try
//! leaked lists: it costs them connections, and us next to nothing. Beyond the bounds nothing is held and 429 is said at once.

use std::collections::{BTreeMap, HashMap};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use mcp_daemon::life::Life;
use tokio::time::{Instant, sleep};

use super::Place;
use crate::config::limits::Wrong as Settings;

/// Places from which wrong credentials came.
#[derive(Default)]
pub struct Wrong(Mutex<State>);

#[derive(Default)]
struct State {
    places: HashMap<Place, Record>,
    /// The places by the number of their last wrong credential, the longest ago first.
    order: BTreeMap<u64, Place>,
    next: u64,
    held: usize,
}

struct Record {
    number: u64,
    last: Instant,
    delay: Duration,
    held: usize,
}

/// Too many answers are held already; try again after so long.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct TooMany(pub Duration);

/// An answer that is held; free again when it is dropped, also because its client went away.
struct Held<'a> {
    wrong: &'a Wrong,
    place: Place,
    delay: Duration,
}

impl Wrong {
    /// Holds the answer to a wrong credential for as long as it has to wait; at most until the drain.
    pub async fn hold(&self, settings: &Settings, place: Place, life: &Life) -> Result<(), TooMany> {
        let held = self.note(settings, place)?;
        tokio::select! {
            () = sleep(held.delay) => {}
            () = life.draining() => {}
        }
        Ok(())
    }

    /// How many answers are held now.
    pub fn held(&self) -> usize {
        self.state().held
    }

    fn note(&self, settings: &Settings, place: Place) -> Result<Held<'_>, TooMany> {
        let now = Instant::now();
        let mut state = self.state();
        let delay = state.delay(settings, place, now);
        let of_place = state.places.get_mut(&place).expect("its delay was just noted");
        if of_place.held >= settings.held_per_address.get() {
            return Err(TooMany(delay));
        }
        of_place.held += 1;
        if state.held >= settings.held.get() {
            state.places.entry(place).and_modify(|of_place| of_place.held -= 1);
            return Err(TooMany(delay));
        }
        state.held += 1;
        Ok(Held { wrong: self, place, delay })
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    /// Counts a wrong credential and says how long its answer has to wait.
    fn delay(&mut self, settings: &Settings, place: Place, now: Instant) -> Duration {
        let number = self.next;
        self.next += 1;
        let longest = settings.longest_delay.duration();
        let before = self.places.remove(&place);
        let (mut delay, mut held) = (settings.first_delay.duration().min(longest), 0);
        if let Some(before) = before {
            self.order.remove(&before.number);
            held = before.held;
            if now - before.last < settings.forget.duration() {
                delay = before.delay.saturating_mul(2).min(longest);
            }
        }
        while self.places.len() >= settings.addresses.get() || self.is_first_forgotten(settings, now) {
            let Some((_, place)) = self.order.pop_first() else { break };
            self.places.remove(&place);
        }
        self.order.insert(number, place);
        self.places.insert(place, Record { number, last: now, delay, held });
        delay
    }

    fn is_first_forgotten(&self, settings: &Settings, now: Instant) -> bool {
        let first = self.order.first_key_value().and_then(|(_, place)| self.places.get(place));
        first.is_some_and(|first| now - first.last >= settings.forget.duration())
    }
}

impl Drop for Held<'_> {
    fn drop(&mut self) {
        let mut state = self.wrong.state();
        state.held -= 1;
        // Gone if it had to make room; then it starts anew when it is back.
        if let Some(of_place) = state.places.get_mut(&self.place) {
            of_place.held = of_place.held.saturating_sub(1);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::num::NonZeroUsize;
    use std::sync::Arc;

    use mcp_daemon::config::Span;

    use super::*;

    fn settings() -> Settings {
        let count = |count| NonZeroUsize::new(count).unwrap();
        Settings {
            first_delay: Span::milliseconds(250),
            longest_delay: Span::seconds(10),
            forget: Span::seconds(900),
            held: count(5),
            held_per_address: count(2),
            addresses: count(3),
        }
    }

    fn place(last: u8) -> Place {
        Place::of(Some([192, 0, 2, last].into()))
    }

    async fn waits(wrong: &Wrong, last: u8, life: &Life) -> Result<u128, TooMany> {
        let began = Instant::now();
        wrong.hold(&settings(), place(last), life).await.map(|()| began.elapsed().as_millis())
    }

    #[tokio::test(start_paused = true)]
    async fn each_wrong_credential_waits_twice_as_long_until_it_is_forgotten() {
        let (wrong, life) = (Wrong::default(), Life::new(Duration::from_secs(1)));
        for expected in [250, 500, 1_000, 2_000, 4_000, 8_000, 10_000, 10_000] {
            assert_eq!(waits(&wrong, 1, &life).await, Ok(expected));
        }
        assert_eq!(waits(&wrong, 2, &life).await, Ok(250), "another address");
        tokio::time::advance(Duration::from_secs(900)).await;
        assert_eq!(waits(&wrong, 1, &life).await, Ok(250));
        assert_eq!(wrong.state().places.len(), 1, "the other one is forgotten as well");
    }

    #[tokio::test(start_paused = true)]
    async fn beyond_what_is_held_of_one_or_of_all_the_answer_comes_at_once() {
        let (wrong, life) = (Arc::new(Wrong::default()), Life::new(Duration::from_secs(1)));
        let mut held = Vec::new();
        for last in [1, 1, 2, 2, 3] {
            held.push(wrong.note(&settings(), place(last)).unwrap_or_else(|_| panic!("{last}")));
        }
        assert_eq!(waits(&wrong, 1, &life).await, Err(TooMany(Duration::from_secs(1))));
        assert_eq!(waits(&wrong, 3, &life).await, Err(TooMany(Duration::from_millis(500))), "all are in use");
        assert_eq!(wrong.held(), 5);
        held.pop();
        assert_eq!(waits(&wrong, 3, &life).await, Ok(1_000));
        drop(held);
        assert_eq!(wrong.held(), 0);
        assert!(wrong.state().places.values().all(|record| record.held == 0));
    }

    #[tokio::test(start_paused = true)]
    async fn the_one_longest_without_a_wrong_credential_makes_room() {
        let (wrong, life) = (Wrong::default(), Life::new(Duration::from_secs(1)));
        for last in [1, 2, 3, 1] {
            waits(&wrong, last, &life).await.unwrap();
        }
        assert_eq!(waits(&wrong, 4, &life).await, Ok(250));
        assert_eq!(wrong.state().places.len(), 3);
        assert_eq!(waits(&wrong, 1, &life).await, Ok(1_000), "still known");
        assert_eq!(waits(&wrong, 2, &life).await, Ok(250), "made room");
    }

    #[tokio::test(start_paused = true)]
    async fn a_drain_ends_the_wait() {
        let (wrong, life) = (Wrong::default(), Life::new(Duration::from_secs(1)));
        for _ in 0..6 {
            waits(&wrong, 1, &life).await.unwrap();
        }
        let asked = life.clone();
        let (waited, ()) = tokio::join!(waits(&wrong, 1, &life), async move { asked.drain() });
        assert_eq!(waited, Ok(0));
    }
}
