//! So many requests a second on average, and so many at once (GCRA), for each of many.

use std::hash::Hash;
use std::num::NonZeroU32;
use std::time::Duration;

use governor::clock::Clock;
use governor::middleware::NoOpMiddleware;
use governor::state::keyed::HashMapStateStore;
use governor::{Quota, RateLimiter};
use tokio::time::Instant;

/// Counts requests by key. A key whose requests are long enough ago is as good as new, and takes no room.
pub struct Meter<K: Clone + Eq + Hash> {
    limiter: RateLimiter<K, HashMapStateStore<K>, Ticks, NoOpMiddleware<Duration>>,
    most: usize,
}

/// Time since the start, by the clock that tests can pause.
struct Ticks(Instant);

impl Clock for Ticks {
    type Instant = Duration;

    fn now(&self) -> Duration {
        self.0.elapsed()
    }
}

impl<K: Clone + Eq + Hash> Meter<K> {
    /// Counts for at most `most` keys; while so many have a count, others have to wait.
    pub fn new(per_second: NonZeroU32, burst: NonZeroU32, most: usize) -> Self {
        let quota = Quota::per_second(per_second).allow_burst(burst);
        Self { limiter: RateLimiter::hashmap_with_clock(quota, Ticks(Instant::now())), most }
    }

    /// Counts a request, or says after how long it would be let in.
    pub fn count(&self, key: &K) -> Result<(), Duration> {
        if self.limiter.len() >= self.most {
            self.limiter.retain_recent();
            if self.limiter.len() >= self.most {
                return Err(Duration::from_secs(1));
            }
        }
        self.limiter.check_key(key).map_err(|not_until| not_until.wait_time_from(self.limiter.clock().now()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn meter(per_second: u32, burst: u32) -> Meter<u32> {
        let number = |number| NonZeroU32::new(number).unwrap();
        Meter::new(number(per_second), number(burst), 3)
    }

    #[tokio::test(start_paused = true)]
    async fn a_burst_passes_and_then_the_rate_holds_for_each_alone() {
        let meter = meter(10, 5);
        for _ in 0..5 {
            assert_eq!(meter.count(&1), Ok(()));
        }
        let wait = meter.count(&1).unwrap_err();
        assert!(wait <= Duration::from_millis(100), "{wait:?}");
        assert_eq!(meter.count(&2), Ok(()));
        tokio::time::advance(wait).await;
        assert_eq!(meter.count(&1), Ok(()));
        assert!(meter.count(&1).is_err());
        tokio::time::advance(Duration::from_secs(1)).await;
        let passed = (0..20).filter(|_| meter.count(&1).is_ok()).count();
        assert_eq!(passed, 5, "what was not used is not saved beyond the burst");
    }

    #[tokio::test(start_paused = true)]
    async fn those_who_are_idle_make_room() {
        let meter = meter(1, 2);
        for key in 0..3 {
            assert_eq!(meter.count(&key), Ok(()));
        }
        assert!(meter.count(&9).is_err());
        tokio::time::advance(Duration::from_secs(3)).await;
        assert_eq!(meter.count(&9), Ok(()));
        assert_eq!(meter.limiter.len(), 1);
    }
}
