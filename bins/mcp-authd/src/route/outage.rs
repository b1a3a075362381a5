//! How long an upstream has been away, by the failures that somebody saw. No clock and no lock in here; `member` holds one
//! of these for each upstream that cannot be reached.

use std::time::Duration;

use tokio::time::Instant;

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

    /// The same once more. Where nobody tried for so long that it may have been there in between, this is another outage;
    /// but one that was too long already goes on, so that nobody waits for it again.
    #[must_use]
    pub fn goes_on(self, now: Instant, patience: Duration) -> Self {
        if now > self.last + patience && !self.is_longer_than(patience) {
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

    const PATIENCE: Duration = Duration::from_secs(10);

    /// An outage whose failures come so many seconds after the first.
    fn outage(seconds: &[u64]) -> Outage {
        let first = Instant::now();
        let after = |seconds: &u64| first + Duration::from_secs(*seconds);
        seconds.iter().map(after).fold(Outage::began(first), |outage, now| outage.goes_on(now, PATIENCE))
    }

    fn is_long(seconds: &[u64]) -> bool {
        outage(seconds).is_longer_than(PATIENCE)
    }

    #[tokio::test(start_paused = true)]
    async fn it_is_as_long_as_somebody_saw_it() {
        assert!(!is_long(&[]) && !is_long(&[1, 5, 9]));
        assert!(is_long(&[1, 5, 9, 10]) && is_long(&[10]));
    }

    #[tokio::test(start_paused = true)]
    async fn a_failure_of_long_ago_is_another_outage() {
        assert!(!is_long(&[60]) && !is_long(&[9, 20]) && !is_long(&[60, 69]));
        assert!(is_long(&[60, 70]));
    }

    #[tokio::test(start_paused = true)]
    async fn nobody_waits_twice_for_the_same_one() {
        assert!(is_long(&[10, 60]) && is_long(&[5, 12, 400, 800]));
    }
}
