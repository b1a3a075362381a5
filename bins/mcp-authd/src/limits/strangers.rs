//! Connections that have shown no good credential yet: of one address, and in all, the oldest makes room for the newest.
//!
//! So a thousand connections that never say anything end each other, while a client that comes with a good token shows it
//! with its first request and is no stranger any more, whatever address it shares. For that it has some time: after a
//! restart hundreds of good clients may come from one address in the same instant.

use std::collections::{BTreeMap, HashMap, VecDeque};
use std::future::poll_fn;
use std::pin::pin;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::Poll;
use std::time::Duration;

use tokio::sync::Notify;
use tokio::time::Instant;

use super::Place;

/// For how long nobody has to make room for others of its place: a handshake over a bad network, and a first request.
const CHANCE: Duration = Duration::from_secs(3);

/// All of them, in the order in which they came.
#[derive(Default)]
pub struct Strangers(Mutex<Queue>);

#[derive(Default)]
struct Queue {
    next: u64,
    all: BTreeMap<u64, Entry>,
    of_place: HashMap<Place, VecDeque<u64>>,
}

struct Entry {
    place: Place,
    since: Instant,
    cut: Arc<Cut>,
}

/// A connection's place in the queue; it leaves when it is known or dropped.
pub struct Stranger {
    number: u64,
    strangers: Arc<Strangers>,
    cut: Arc<Cut>,
    is_known: AtomicBool,
}

/// Tells a connection to go.
#[derive(Default)]
struct Cut {
    is_told: AtomicBool,
    told: Notify,
}

impl Strangers {
    /// Takes a connection in; whoever is then too many of its place, or in all, is told to go.
    pub fn enter(self: &Arc<Self>, place: Place, per_place: usize, all: usize) -> Stranger {
        let cut = Arc::<Cut>::default();
        let now = Instant::now();
        let mut queue = self.queue();
        let number = queue.next;
        queue.next += 1;
        queue.all.insert(number, Entry { place, since: now, cut: cut.clone() });
        queue.of_place.entry(place).or_default().push_back(number);
        while let Some(oldest) = queue.too_many(place, per_place, all, now) {
            queue.remove(oldest).expect("it was found there").tell();
        }
        drop(queue);
        Stranger { number, strangers: self.clone(), cut, is_known: AtomicBool::new(false) }
    }

    /// How many there are.
    pub fn len(&self) -> usize {
        self.queue().all.len()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    fn queue(&self) -> MutexGuard<'_, Queue> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Queue {
    /// Who has to make room after somebody of `place` came in.
    fn too_many(&self, place: Place, per_place: usize, all: usize, now: Instant) -> Option<u64> {
        let oldest = self.all.keys().next().filter(|_| self.all.len() > all);
        let of_place = self.of_place.get(&place).filter(|of_place| of_place.len() > per_place);
        let had_its_chance = |number: &&u64| now - self.all[number].since >= CHANCE;
        let oldest_there = of_place.and_then(|of_place| of_place.front()).filter(had_its_chance);
        oldest_there.or(oldest).copied()
    }

    fn remove(&mut self, number: u64) -> Option<Arc<Cut>> {
        let Entry { place, cut, .. } = self.all.remove(&number)?;
        let of_place = self.of_place.get_mut(&place).expect("who is in the queue is in that of its place");
        of_place.retain(|other| *other != number);
        if of_place.is_empty() {
            self.of_place.remove(&place);
        }
        Some(cut)
    }
}

impl Cut {
    fn tell(&self) {
        self.is_told.store(true, Ordering::Relaxed);
        self.told.notify_one();
    }
}

impl Stranger {
    /// A good credential came: the connection stays, however many strangers come.
    pub fn welcome(&self) {
        if !self.is_known.load(Ordering::Relaxed) {
            self.is_known.store(true, Ordering::Relaxed);
            self.strangers.queue().remove(self.number);
        }
    }

    /// Serves the connection until it ends by itself or has to make room.
    pub async fn serve(&self, served: impl Future<Output = ()>) {
        let (mut served, mut told) = (pin!(served), pin!(self.cut.told.notified()));
        let mut waits = false;
        poll_fn(|cx| {
            // A task has one waker for life: registered once, a look at the flag is enough.
            let is_told = self.cut.is_told.load(Ordering::Relaxed);
            if is_told || (!waits && told.as_mut().poll(cx).is_ready()) {
                return Poll::Ready(());
            }
            waits = true;
            served.as_mut().poll(cx)
        })
        .await;
    }
}

impl Drop for Stranger {
    fn drop(&mut self) {
        self.welcome();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn place(last: u8) -> Place {
        Place::of(Some([192, 0, 2, last].into()))
    }

    async fn is_cut(stranger: &Stranger) -> bool {
        let served = stranger.serve(std::future::pending());
        tokio::time::timeout(Duration::from_millis(1), served).await.is_ok()
    }

    #[tokio::test(start_paused = true)]
    async fn of_those_who_had_their_chance_the_oldest_of_a_place_makes_room() {
        let strangers = Arc::new(Strangers::default());
        let enter = |last| strangers.enter(place(last), 2, 100);
        let (first, second, known) = (enter(1), enter(1), enter(1));
        assert!(!is_cut(&first).await, "all of them come in the same instant, and may be good ones");
        known.welcome();
        tokio::time::advance(CHANCE).await;
        let elsewhere = enter(2);
        let fourth = enter(1);
        assert!(is_cut(&first).await && !is_cut(&second).await);
        let _fifth = enter(1);
        assert!(is_cut(&second).await && !is_cut(&fourth).await);
        assert!(!is_cut(&known).await && !is_cut(&elsewhere).await);
        assert_eq!(strangers.len(), 3);
    }

    #[tokio::test(start_paused = true)]
    async fn the_oldest_of_all_makes_room_and_nothing_is_left_of_those_who_went() {
        let strangers = Arc::new(Strangers::default());
        let all: Vec<_> = (0..4).map(|last| strangers.enter(place(last), 2, 3)).collect();
        assert!(is_cut(&all[0]).await && !is_cut(&all[1]).await);
        drop(all);
        assert!(strangers.is_empty() && strangers.queue().of_place.is_empty());
    }
}
