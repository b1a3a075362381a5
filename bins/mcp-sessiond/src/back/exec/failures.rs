//! The consecutive-failure threshold: a command that cannot work is not started for ever.
//!
//! Pure: the caller brings the time. Any success resets what it disproves: a start proves that starting works, an
//! answered call proves everything, and the caller forgets the whole.

use std::time::Duration;

use tokio::time::Instant;

/// First pause after the threshold is reached.
const FIRST_PAUSE: Duration = Duration::from_secs(1);
/// Longest pause between two attempts.
const LAST_PAUSE: Duration = Duration::from_secs(60);

/// A way to fail.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum Failure {
    /// Died with calls in flight.
    Call,
    /// Could not be started, or died before it answered `initialize`.
    Start,
}

/// Failures in a row of one command.
#[derive(Debug, Default)]
pub(super) struct Failures {
    starts: u32,
    calls: u32,
    pause: Option<(Instant, Duration)>,
}

impl Failures {
    /// How long not to start anything, if so.
    pub(super) fn pause(&self, now: Instant) -> Option<Duration> {
        self.pause.map(|(until, _)| until.saturating_duration_since(now)).filter(|left| !left.is_zero())
    }

    /// Counts a failure; the pause if this one reached the threshold (and not again until something works).
    pub(super) fn failed(&mut self, failure: Failure, threshold: u32, now: Instant) -> Option<Duration> {
        let count = match failure {
            Failure::Call => &mut self.calls,
            Failure::Start => &mut self.starts,
        };
        *count = count.saturating_add(1);
        if *count < threshold {
            return None;
        }
        let first = self.pause.is_none();
        let length = self.pause.map_or(FIRST_PAUSE, |(_, last)| (last * 2).min(LAST_PAUSE));
        self.pause = Some((now + length, length));
        first.then_some(length)
    }

    /// A process answered `initialize`.
    pub(super) fn started(&mut self) {
        self.starts = 0;
        if self.calls == 0 {
            self.pause = None;
        }
    }

    /// Whether there is nothing to remember.
    pub(super) fn is_clear(&self) -> bool {
        self.starts == 0 && self.calls == 0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn the_pause_starts_at_the_threshold_and_doubles_to_a_minute() {
        let (mut failures, now) = (Failures::default(), Instant::now());
        assert_eq!(failures.failed(Failure::Start, 3, now), None);
        assert_eq!(failures.failed(Failure::Start, 3, now), None);
        assert_eq!(failures.pause(now), None);
        assert_eq!(failures.failed(Failure::Start, 3, now), Some(FIRST_PAUSE));
        assert_eq!(failures.pause(now), Some(FIRST_PAUSE));
        assert_eq!(failures.pause(now + FIRST_PAUSE), None);
        for expected in [2, 4, 8, 16, 32, 60, 60] {
            assert_eq!(failures.failed(Failure::Start, 3, now), None, "said once");
            assert_eq!(failures.pause(now), Some(Duration::from_secs(expected)));
        }
    }

    #[tokio::test]
    async fn a_success_in_between_resets_the_count() {
        let (mut failures, now) = (Failures::default(), Instant::now());
        for _ in 0..10 {
            assert_eq!(failures.failed(Failure::Call, 2, now), None);
            failures = Failures::default();
        }
        assert_eq!(failures.failed(Failure::Start, 2, now), None);
        failures.started();
        assert!(failures.is_clear());
        assert_eq!(failures.failed(Failure::Start, 2, now), None);
    }

    #[tokio::test]
    async fn a_start_does_not_forgive_a_server_that_dies_in_every_call() {
        let (mut failures, now) = (Failures::default(), Instant::now());
        failures.started();
        assert_eq!(failures.failed(Failure::Call, 2, now), None);
        failures.started();
        assert_eq!(failures.failed(Failure::Call, 2, now), Some(FIRST_PAUSE));
        failures.started();
        assert_eq!(failures.pause(now), Some(FIRST_PAUSE));
    }
}
