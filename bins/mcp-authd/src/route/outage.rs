//! How long an upstream has been away, by the failures that somebody saw. No clock and no lock in here; `member` holds one
//! of these for each upstream that cannot be reached.

use std::time::Duration;

use tokio::time::Instant;

/// Whoever waits for an upstream tries it once a second, and a try takes 5 s at most. So where no failure came for so long
/// nobody waited, and it may have been there in between.
const SILENCE: Duration = Duration::from_secs(10);

/// Failures without an answer between them.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Outage {
    /// The first failure.
    pub first: Instant,
    /// The last one so far. What it was like since then nobody knows.
    last: Instant,
}

impl Outage {
    /// Nothing could be brought there at `now`.
    pub fn began(now: Instant) -> Self {
        Self { first: now, last: now }
    }

    /// The same once more. After a silence this is another outage; but one that was longer than `patience` already goes on,
    /// so that nobody waits for it again.
    #[must_use]
    pub fn goes_on(self, now: Instant, patience: Duration) -> Self {
        if now > self.last + SILENCE && !self.is_longer_than(patience) {
            return Self::began(now);
        }
        Self { last: now, ..self }
    }

    /// Whether it was seen to be away for as long as its sessions wait.
    pub fn is_longer_than(self, patience: Duration) -> bool {
        self.last >= self.first + patience
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Whether an outage whose failures come so many seconds after the first is longer than so many.
    fn is_long(patience: u64, seconds: &[u64]) -> bool {
        let (first, patience) = (Instant::now(), Duration::from_secs(patience));
        let after = |seconds: &u64| first + Duration::from_secs(*seconds);
        let began = Outage::began(first);
        seconds
            .iter()
            .map(after)
            .fold(began, |outage, now| outage.goes_on(now, patience))
            .is_longer_than(patience)
    }

    #[tokio::test(start_paused = true)]
    async fn it_is_as_long_as_somebody_saw_it() {
        assert!(!is_long(10, &[]) && !is_long(10, &[1, 5, 9]));
        assert!(is_long(10, &[1, 5, 9, 10]) && is_long(10, &[10]));
        assert!(!is_long(30, &[10, 20, 29]) && is_long(30, &[10, 20, 30]));
    }

    #[tokio::test(start_paused = true)]
    async fn a_failure_of_long_ago_is_another_outage() {
        assert!(!is_long(10, &[60]) && !is_long(10, &[9, 20]) && !is_long(10, &[60, 69]));
        assert!(is_long(10, &[60, 70]));
    }

    #[tokio::test(start_paused = true)]
    async fn one_whose_every_try_takes_longer_than_the_patience_ends_it_too() {
        assert!(is_long(1, &[6]) && is_long(3, &[5]));
    }

    #[tokio::test(start_paused = true)]
    async fn nobody_waits_twice_for_the_same_one() {
        assert!(is_long(10, &[10, 60]) && is_long(10, &[5, 12, 400, 800]));
    }
}
