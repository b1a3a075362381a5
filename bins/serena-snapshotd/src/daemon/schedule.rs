//! When the next snapshot is due, and when it is time to complain: pure, it is told what time it is.

use std::time::Duration;

use tokio::time::Instant;

/// Pause after the first failure; it doubles up to the interval.
const FIRST_PAUSE: Duration = Duration::from_secs(5);
/// Intervals without a success after which a person must look.
const PATIENCE: u32 = 3;

/// The times of one home.
#[derive(Clone, Debug)]
pub struct Schedule {
    interval: Option<Duration>,
    due: Option<Instant>,
    /// The last success, or the start.
    good: Instant,
    failures: u32,
}

impl Schedule {
    /// Without an interval nothing is ever due. The first one is due at once if `at_once`, else after an interval.
    pub fn new(interval: Option<Duration>, now: Instant, at_once: bool) -> Self {
        let due = interval.map(|interval| if at_once { now } else { now + interval });
        Schedule { interval, due, good: now, failures: 0 }
    }

    /// When the next one is due.
    pub fn due(&self) -> Option<Instant> {
        self.due
    }

    /// One has ended well: the interval counts from its end.
    pub fn succeeded(&mut self, now: Instant) {
        self.good = now;
        self.failures = 0;
        self.due = self.interval.map(|interval| now + interval);
    }

    /// One has failed: it is tried again soon, then less and less often, but never less than once in an interval. `chance`
    /// is a number from 0 to 1; it keeps many daemons from asking one store at the same moment.
    pub fn failed(&mut self, now: Instant, chance: f64) {
        let doubled = FIRST_PAUSE.saturating_mul(1 << self.failures.min(16));
        self.failures = self.failures.saturating_add(1);
        self.due = self.interval.map(|interval| {
            let longest = doubled.min(interval);
            now + longest / 2 + (longest / 2).mul_f64(chance)
        });
    }

    /// For how long none has succeeded, if that is too long.
    pub fn overdue(&self, now: Instant) -> Option<Duration> {
        let since = now.saturating_duration_since(self.good);
        (self.failures > 0 && since >= self.interval?.saturating_mul(PATIENCE)).then_some(since)
    }

    /// How many have failed since the last success.
    pub fn failures(&self) -> u32 {
        self.failures
    }

    /// Another interval, from now on.
    pub fn set_interval(&mut self, interval: Option<Duration>, now: Instant) {
        if self.interval != interval {
            self.interval = interval;
            self.due = interval.map(|interval| (self.good + interval).max(now));
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const MINUTE: Duration = Duration::from_secs(60);

    #[test]
    fn the_interval_counts_from_the_end_of_a_snapshot() {
        let start = Instant::now();
        let mut schedule = Schedule::new(Some(MINUTE), start, true);
        assert_eq!(schedule.due(), Some(start));
        schedule.succeeded(start + MINUTE / 2);
        assert_eq!(schedule.due(), Some(start + MINUTE * 3 / 2));
        assert_eq!(Schedule::new(Some(MINUTE), start, false).due(), Some(start + MINUTE));
        assert_eq!(Schedule::new(None, start, true).due(), None);
    }

    #[test]
    fn three_intervals_without_success_are_too_long() {
        let start = Instant::now();
        let mut schedule = Schedule::new(Some(MINUTE), start, true);
        // Long, but nothing has failed: it runs.
        assert_eq!(schedule.overdue(start + MINUTE * 9), None);
        schedule.failed(start, 0.0);
        assert_eq!(schedule.overdue(start + MINUTE * 2), None);
        assert_eq!(schedule.overdue(start + MINUTE * 3), Some(MINUTE * 3));
        schedule.succeeded(start + MINUTE * 4);
        assert_eq!(schedule.overdue(start + MINUTE * 5), None);
    }

    #[test]
    fn a_shorter_interval_counts_from_the_last_success() {
        let start = Instant::now();
        let mut schedule = Schedule::new(Some(MINUTE * 60), start, false);
        schedule.set_interval(Some(MINUTE), start + MINUTE / 2);
        assert_eq!(schedule.due(), Some(start + MINUTE));
        schedule.set_interval(None, start + MINUTE);
        assert_eq!(schedule.due(), None);
    }

    #[test]
    fn the_longest_interval_that_can_be_written_can_be_waited_for() {
        let longest: mcp_daemon::config::Span = "631107417600s".parse().unwrap();
        let now = Instant::now();
        let mut schedule = Schedule::new(Some(longest.duration()), now, false);
        assert_eq!(schedule.due(), Some(now + longest.duration()));
        schedule.failed(now, 1.0);
        assert_eq!(schedule.overdue(now + MINUTE), None);
    }

    proptest! {
        #[test]
        fn after_a_failure_it_is_tried_again_within_an_interval(seconds in 1_u64..100_000, failures in 1_usize..80, chance in 0.0..=1.0) {
            let interval = Duration::from_secs(seconds);
            let now = Instant::now();
            let mut schedule = Schedule::new(Some(interval), now, true);
            for _ in 0..failures {
                schedule.failed(now, chance);
            }
            let pause = schedule.due().unwrap() - now;
            prop_assert!(pause <= interval && pause >= FIRST_PAUSE.min(interval) / 2, "{pause:?}");
        }
    }
}
