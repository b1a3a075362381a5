//! Connections, by whether they have shown a good credential: strangers until they have, known from then on.
//!
//! Of strangers at one address, and of all, the oldest makes room for the newest. So a thousand connections that never say
//! anything end each other, while a client that comes with a good token shows it with its first request and is no stranger any
//! more, whatever address it shares. For that it has some time: after a restart hundreds of good clients may come from one
//! address in the same instant.
//!
//! Who is known is so by somebody: one subject has a bound of such connections, and when its credential is taken back they are
//! strangers again, the oldest that there are. One that merely expires is followed by the next, on the same connection.

use std::collections::{BTreeMap, HashMap};
use std::future::poll_fn;
use std::pin::pin;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::Poll;
use std::time::Duration;

use tokio::sync::Notify;
use tokio::time::Instant;

use super::Place;
use super::crowds::Crowds;
use crate::front::tls::shake::Secure;
use crate::identity::{Identity, Subject};

/// For how long nobody has to make room for others of its place: a handshake over a bad network, and a first request.
const CHANCE: Duration = Duration::from_secs(3);

/// All of them, in the order in which they came.
#[derive(Default)]
pub struct Strangers(Mutex<Hall>);

#[derive(Default)]
struct Hall {
    next: u64,
    strangers: BTreeMap<u64, Entry>,
    crowds: Crowds,
    known: HashMap<u64, (Entry, Good)>,
    of_subject: HashMap<Subject, usize>,
}

struct Entry {
    place: Place,
    since: Instant,
    bounds: Bounds,
    tie: Arc<Tie>,
}

/// How many connections there may be, all of one kind.
#[derive(Clone, Copy, Debug)]
pub struct Bounds {
    /// Strangers at one address; `None` where an address stands for many, as that of a trusted proxy.
    pub of_place: Option<usize>,
    /// Strangers in all.
    pub of_all: usize,
    /// Known ones of one subject, but for those at such an address.
    pub of_subject: usize,
}

/// By what a connection is known.
#[derive(Clone)]
pub struct Good {
    /// What the first good credential was worth.
    pub identity: Arc<Identity>,
    /// What was known by TLS then.
    pub secure: Option<Arc<Secure>>,
    /// When that was, in seconds since 1970.
    pub since: u64,
}

/// The subject has as many connections as it may have.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct TooMany;

/// A connection's place among all; it leaves when it is dropped.
pub struct Stranger {
    number: u64,
    strangers: Arc<Strangers>,
    tie: Arc<Tie>,
}

/// What a connection and its entry have in common.
#[derive(Default)]
struct Tie {
    is_known: AtomicBool,
    is_told_to_go: AtomicBool,
    told: Notify,
}

impl Strangers {
    /// Takes a connection in; whoever is then too many of its place, or in all, is told to go.
    pub fn enter(self: &Arc<Self>, place: Place, bounds: Bounds) -> Stranger {
        let tie = Arc::<Tie>::default();
        let mut hall = self.hall();
        let number = hall.next;
        hall.next += 1;
        hall.seat(number, Entry { place, since: Instant::now(), bounds, tie: tie.clone() });
        drop(hall);
        Stranger { number, strangers: self.clone(), tie }
    }

    /// Makes strangers again of those who are known by what was taken back.
    pub fn ask_again(&self, is_still_good: impl Fn(&Good) -> bool) {
        // Not under the lock: there may be many, and each is a look at all credentials.
        let known: Vec<_> =
            self.hall().known.iter().map(|(number, (_, good))| (*number, good.clone())).collect();
        for (number, good) in known {
            if !is_still_good(&good) {
                self.hall().estrange(number, &good);
            }
        }
    }

    /// How many strangers there are.
    pub fn len(&self) -> usize {
        self.hall().strangers.len()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    fn hall(&self) -> MutexGuard<'_, Hall> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Hall {
    /// Puts a stranger where it belongs by its number, and sends away who has to make room for it.
    fn seat(&mut self, number: u64, entry: Entry) {
        let (place, bounds) = (entry.place, entry.bounds);
        self.strangers.insert(number, entry);
        self.crowds.add(place, number, bounds.of_place.is_some());
        while let Some(goes) = self.too_many(place, bounds) {
            self.leave(goes).expect("it was found there").tie.tell();
        }
    }

    /// Who has to make room after somebody of `place` came in.
    fn too_many(&self, place: Place, bounds: Bounds) -> Option<u64> {
        let (here, oldest_here) = self.crowds.at(place)?;
        let is_crowded = bounds.of_place.is_some_and(|most| here > most);
        if is_crowded && self.strangers[&oldest_here].since.elapsed() >= CHANCE {
            return Some(oldest_here);
        }
        // Where most are: whoever fills the hall makes room in it, and not those of another address.
        if self.strangers.len() > bounds.of_all { self.crowds.oldest_of_largest() } else { None }
    }

    /// Takes a stranger out.
    fn leave(&mut self, number: u64) -> Option<Entry> {
        let entry = self.strangers.remove(&number)?;
        self.crowds.remove(entry.place, number);
        Some(entry)
    }

    fn know(&mut self, number: u64, good: Good) -> Result<(), TooMany> {
        // One that was told to go, or is known by now.
        let Some(entry) = self.strangers.get(&number) else { return Ok(()) };
        if entry.bounds.of_place.is_some() {
            let count = self.of_subject.entry(good.identity.subject.clone()).or_default();
            if *count >= entry.bounds.of_subject {
                return Err(TooMany);
            }
            *count += 1;
        }
        let entry = self.leave(number).expect("it was found there");
        entry.tie.is_known.store(true, Ordering::Relaxed);
        self.known.insert(number, (entry, good));
        Ok(())
    }

    /// Takes one out who is known.
    fn forget(&mut self, number: u64) -> Option<Entry> {
        let (entry, good) = self.known.remove(&number)?;
        if entry.bounds.of_place.is_some()
            && let Some(count) = self.of_subject.get_mut(&good.identity.subject)
        {
            *count -= 1;
            if *count == 0 {
                self.of_subject.remove(&good.identity.subject);
            }
        }
        Some(entry)
    }

    /// Makes a stranger of one who is known by `good`, and not by something else meanwhile.
    fn estrange(&mut self, number: u64, good: &Good) {
        if self.known.get(&number).is_some_and(|(_, now)| Arc::ptr_eq(&now.identity, &good.identity))
            && let Some(entry) = self.forget(number)
        {
            entry.tie.is_known.store(false, Ordering::Relaxed);
            self.seat(number, entry);
        }
    }
}

impl Tie {
    fn tell(&self) {
        self.is_told_to_go.store(true, Ordering::Relaxed);
        self.told.notify_one();
    }
}

impl Stranger {
    /// A good credential came: the connection stays, however many strangers come, unless there are too many of its subject.
    pub fn welcome(&self, good: impl FnOnce() -> Good) -> Result<(), TooMany> {
        if self.tie.is_known.load(Ordering::Relaxed) {
            return Ok(());
        }
        self.strangers.hall().know(self.number, good())
    }

    /// Serves the connection until it ends by itself or has to make room.
    pub async fn serve(&self, served: impl Future<Output = ()>) {
        let (mut served, mut told) = (pin!(served), pin!(self.tie.told.notified()));
        let mut waits = false;
        poll_fn(|cx| {
            // A task has one waker for life: registered once, a look at the flag is enough.
            let is_told = self.tie.is_told_to_go.load(Ordering::Relaxed);
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
        let mut hall = self.strangers.hall();
        if hall.leave(self.number).is_none() {
            hall.forget(self.number);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::identity::{Fingerprint, Scopes, Standing};

    const BOUNDS: Bounds = Bounds { of_place: Some(2), of_all: 100, of_subject: 2 };

    fn place(last: u8) -> Place {
        Place::of(Some([192, 0, 2, last].into()))
    }

    fn good(subject: &str) -> Good {
        let identity = Identity {
            subject: subject.parse().unwrap(),
            route: "r".parse().unwrap(),
            scopes: Scopes::All,
            expires: None,
            fingerprint: Fingerprint::of_token(&[0; 32]),
            standing: Standing::Token([0; 32]),
        };
        Good { identity: Arc::new(identity), secure: None, since: 0 }
    }

    fn is_subject(good: &Good, subject: &str) -> bool {
        good.identity.subject.as_str() == subject
    }

    async fn is_cut(stranger: &Stranger) -> bool {
        let served = stranger.serve(std::future::pending());
        tokio::time::timeout(Duration::from_millis(1), served).await.is_ok()
    }

    #[tokio::test(start_paused = true)]
    async fn of_those_who_had_their_chance_the_oldest_of_a_place_makes_room() {
        let strangers = Arc::new(Strangers::default());
        let enter = |last| strangers.enter(place(last), BOUNDS);
        let (first, second, known) = (enter(1), enter(1), enter(1));
        assert!(!is_cut(&first).await, "all of them come in the same instant, and may be good ones");
        known.welcome(|| good("alice")).unwrap();
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
    async fn where_most_are_room_is_made_for_all_and_nothing_is_left_of_those_who_went() {
        let strangers = Arc::new(Strangers::default());
        let bounds = Bounds { of_all: 4, ..BOUNDS };
        let enter = |last| strangers.enter(place(last), bounds);
        let [older, first, second, third] = [enter(9), enter(1), enter(1), enter(1)];
        let newer = enter(2);
        assert!(is_cut(&first).await, "three came from there, all just now");
        assert!(!is_cut(&older).await && !is_cut(&newer).await && !is_cut(&second).await);
        // Many who stand for themselves at one address are no crowd.
        let proxy = || strangers.enter(place(7), Bounds { of_place: None, ..bounds });
        let behind = [proxy(), proxy()];
        assert!(is_cut(&second).await && is_cut(&older).await, "the oldest of those who are alone");
        assert!(!is_cut(&behind[0]).await && !is_cut(&behind[1]).await && !is_cut(&third).await);
        drop((older, first, second, third, newer, behind));
        assert!(strangers.is_empty() && strangers.hall().crowds.is_empty());
    }

    #[tokio::test(start_paused = true)]
    async fn a_subject_has_so_many_connections_and_no_more() {
        let strangers = Arc::new(Strangers::default());
        let enter = || strangers.enter(place(1), BOUNDS);
        let all = [enter(), enter(), enter(), enter()];
        for stranger in &all[..2] {
            assert_eq!(stranger.welcome(|| good("alice")), Ok(()));
            assert_eq!(stranger.welcome(|| good("alice")), Ok(()), "it is known already");
        }
        assert_eq!(all[2].welcome(|| good("alice")), Err(TooMany));
        assert_eq!(all[2].welcome(|| good("bob")), Ok(()));
        let behind_a_proxy = strangers.enter(place(7), Bounds { of_place: None, ..BOUNDS });
        assert_eq!(behind_a_proxy.welcome(|| good("alice")), Ok(()));
        let [first, ..] = all;
        drop(first);
        let next = enter();
        assert_eq!(next.welcome(|| good("alice")), Ok(()));
        assert_eq!(strangers.hall().of_subject.len(), 2);
    }

    #[tokio::test(start_paused = true)]
    async fn who_is_known_by_what_is_no_longer_good_is_the_oldest_stranger_again() {
        let strangers = Arc::new(Strangers::default());
        let enter = || strangers.enter(place(1), BOUNDS);
        let (alice, bob) = (enter(), enter());
        alice.welcome(|| good("alice")).unwrap();
        bob.welcome(|| good("bob")).unwrap();
        assert!(strangers.is_empty());
        strangers.ask_again(|good| !is_subject(good, "alice"));
        assert_eq!(strangers.len(), 1);
        tokio::time::advance(CHANCE).await;
        let others = [enter(), enter()];
        assert!(is_cut(&alice).await && !is_cut(&bob).await);
        // With another credential it is known again, and so it may leave by either door.
        drop(others);
        strangers.ask_again(|_| false);
        bob.welcome(|| good("carol")).unwrap();
        strangers.ask_again(|good| is_subject(good, "carol"));
        assert_eq!(strangers.hall().known.len(), 1);
        drop(bob);
        assert!(strangers.hall().known.is_empty() && strangers.hall().of_subject.is_empty());
    }
}
