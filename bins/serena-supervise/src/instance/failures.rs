//! How long to pause after a failure, and when an instance counts as failed. Pure: the caller brings time and chance.

use std::collections::VecDeque;
use std::time::Duration;

use tokio::time::Instant;

use crate::config::Backoff;

/// The failures of one instance that still count.
#[derive(Debug, Default)]
pub struct Failures {
    times: VecDeque<Instant>,
    in_a_row: u32,
}

/// What a failure leads to.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Verdict {
    /// Try again after this long.
    Pause(Duration),
    /// Too many within the time they are counted in.
    TooMany,
}

impl Failures {
    /// Counts one; `chance` in 0..1 spreads the pauses of instances that failed together (full jitter).
    pub fn count(&mut self, backoff: &Backoff, now: Instant, chance: f64) -> Verdict {
        let within = backoff.within.duration();
        while self.times.front().is_some_and(|first| now.duration_since(*first) > within) {
            self.times.pop_front();
        }
        self.times.push_back(now);
        self.in_a_row = self.in_a_row.saturating_add(1);
        if self.times.len() >= backoff.starts.get() as usize {
            return Verdict::TooMany;
        }
        let doubled = backoff.first.duration().saturating_mul(1_u32 << (self.in_a_row - 1).min(16));
        Verdict::Pause(doubled.min(backoff.longest.duration()).mul_f64(chance.clamp(0.0, 1.0)))
    }

    /// It was ready for long enough: what was before does not count any more.
    pub fn forget(&mut self) {
        *self = Self::default();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn pauses_double_up_to_the_longest_and_are_spread_over_their_whole_length() {
        let backoff = Backoff { starts: std::num::NonZeroU32::MAX, ..Backoff::default() };
        let mut failures = Failures::default();
        let mut pauses = Vec::new();
        for _ in 0..10 {
            let Verdict::Pause(pause) = failures.count(&backoff, Instant::now(), 1.0) else { panic!() };
            pauses.push(pause.as_millis());
        }
        assert_eq!(pauses[..4], [500, 1_000, 2_000, 4_000]);
        assert_eq!(pauses[8..], [60_000, 60_000]);
        failures.forget();
        assert_eq!(failures.count(&backoff, Instant::now(), 0.5), Verdict::Pause(Duration::from_millis(250)));
    }

    #[tokio::test(start_paused = true)]
    async fn five_failures_in_five_minutes_are_too_many_and_the_same_spread_over_longer_are_not() {
        let backoff = Backoff::default();
        let mut failures = Failures::default();
        for failure in 1..=5 {
            let verdict = failures.count(&backoff, Instant::now(), 0.0);
            assert_eq!(verdict == Verdict::TooMany, failure == 5, "{failure}: {verdict:?}");
        }
        let mut failures = Failures::default();
        for _ in 0..20 {
            assert_ne!(failures.count(&backoff, Instant::now(), 0.0), Verdict::TooMany);
            tokio::time::advance(Duration::from_secs(76)).await;
        }
    }
}
