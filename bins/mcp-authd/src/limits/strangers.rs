//! Connections that have shown no good credential yet: of one address, and in all, the oldest makes room for the newest.
//!
//! So a thousand connections that never say anything end each other, while a client that comes with a good token shows it
//! with its first request and is no stranger any more, whatever address it shares.

use std::collections::{BTreeMap, HashMap, VecDeque};
use std::future::poll_fn;
use std::pin::pin;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::Poll;

use tokio::sync::Notify;

use super::Place;

/// All of them, in the order in which they came.
#[derive(Default)]
pub struct Strangers(Mutex<Queue>);

#[derive(Default)]
struct Queue {
    next: u64,
    all: BTreeMap<u64, (Place, Arc<Cut>)>,
    of_place: HashMap<Place, VecDeque<u64>>,
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
        let mut queue = self.queue();
        let number = queue.next;
        queue.next += 1;
        queue.all.insert(number, (place, cut.clone()));
        let of_place = queue.of_place.entry(place).or_default();
        of_place.push_back(number);
        let oldest_there = (of_place.len() > per_place).then(|| of_place[0]);
        let oldest = oldest_there.or_else(|| {
            let is_full = queue.all.len() > all;
            queue.all.keys().next().copied().filter(|_| is_full)
        });
        if let Some(cut) = oldest.and_then(|oldest| queue.remove(oldest)) {
            cut.is_told.store(true, Ordering::Relaxed);
            cut.told.notify_one();
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
    fn remove(&mut self, number: u64) -> Option<Arc<Cut>> {
        let (place, cut) = self.all.remove(&number)?;
        let of_place = self.of_place.get_mut(&place).expect("who is in the queue is in that of its place");
        of_place.retain(|other| *other != number);
        if of_place.is_empty() {
            self.of_place.remove(&place);
        }
        Some(cut)
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
        tokio::time::timeout(std::time::Duration::from_secs(1), served).await.is_ok()
    }

    #[tokio::test(start_paused = true)]
    async fn the_oldest_of_a_place_makes_room_and_those_who_are_known_do_not() {
        let strangers = Arc::new(Strangers::default());
        let [first, known, third] = std::array::from_fn(|_| strangers.enter(place(1), 2, 100));
        assert!(is_cut(&first).await);
        known.welcome();
        let elsewhere = strangers.enter(place(2), 2, 100);
        let more: Vec<_> = (0..2).map(|_| strangers.enter(place(1), 2, 100)).collect();
        assert_eq!(strangers.len(), 3);
        assert!(is_cut(&third).await && !is_cut(&known).await && !is_cut(&elsewhere).await);
        assert!(!is_cut(&more[0]).await);
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
