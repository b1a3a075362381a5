//! Whether an upstream takes part, by what became of requests: failures in a row put it out for a while, then one request
//! tries it. No clock and no lock in here; `member` holds one of these for each upstream.

use std::time::Duration;

use tokio::time::Instant;

use crate::config::route::Health;

/// When an upstream is put out and its sessions are taken elsewhere, and for how long.
#[derive(Clone, Copy, Debug)]
pub struct Rules {
    /// Failures in a row that put it out.
    pub failures: u32,
    /// The first time out.
    pub ejection: Duration,
    /// The longest.
    pub longest: Duration,
    /// How long its sessions wait for it.
    pub patience: Duration,
}

/// How an upstream stands.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Standing {
    /// It takes part, after so many failures in a row.
    In {
        /// Failures in a row.
        failures: u32,
    },
    /// It takes no part.
    Out {
        /// From then on one request may try it.
        until: Instant,
        /// How many times in a row it was put out.
        times: u32,
    },
    /// It was out, and one request tries it.
    Trial {
        /// How many times in a row it was put out.
        times: u32,
    },
}

/// What can happen to a request.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Event {
    /// Nobody waits for its answer any more, so nothing is known.
    Abandoned,
    /// The upstream answered.
    Answered,
    /// It is about to be sent.
    Begun,
    /// Not reached, lost, or answered by somebody who could not reach the server.
    Failed {
        /// Whether no other upstream of the route takes part.
        is_last: bool,
    },
}

impl Rules {
    /// As the settings say.
    pub fn of(health: &Health) -> Self {
        Self {
            failures: health.failures.get(),
            ejection: health.ejection.duration(),
            longest: health.longest_ejection.duration(),
            patience: health.patience.duration(),
        }
    }

    /// How long the `times`th time out in a row is, counted from 1.
    fn time_out(&self, times: u32) -> Duration {
        let doubled = 1_u32.checked_shl(times.saturating_sub(1)).unwrap_or(u32::MAX);
        self.ejection.saturating_mul(doubled).min(self.longest)
    }
}

impl Standing {
    /// Never heard of: it takes part.
    pub const NEW: Standing = Standing::In { failures: 0 };

    /// Whether a new session may go there.
    pub fn admits(self, now: Instant) -> bool {
        match self {
            Standing::In { .. } => true,
            Standing::Out { until, .. } => now >= until,
            Standing::Trial { .. } => false,
        }
    }

    /// How it stands after an event.
    #[must_use]
    pub fn on(self, event: Event, now: Instant, rules: &Rules) -> Self {
        match (self, event) {
            (_, Event::Answered) => Standing::NEW,
            (Standing::Out { until, times }, Event::Begun) if now >= until => Standing::Trial { times },
            (Standing::Trial { times }, Event::Abandoned) => Standing::Out { until: now, times },
            (Standing::In { failures }, Event::Failed { is_last }) => {
                let failures = failures.saturating_add(1);
                // Without the last one there would be nowhere to go at all.
                if failures < rules.failures || is_last {
                    return Standing::In { failures };
                }
                Standing::Out { until: now + rules.time_out(1), times: 1 }
            }
            (Standing::Trial { times }, Event::Failed { .. }) => {
                let times = times.saturating_add(1);
                Standing::Out { until: now + rules.time_out(times), times }
            }
            // Requests that were under way when it was put out say nothing new.
            (Standing::Out { .. }, Event::Failed { .. })
            | (Standing::In { .. } | Standing::Out { .. }, Event::Abandoned)
            | (_, Event::Begun) => self,
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const RULES: Rules = Rules {
        failures: 3,
        ejection: Duration::from_secs(5),
        longest: Duration::from_secs(60),
        patience: Duration::from_secs(10),
    };
    const FAILED: Event = Event::Failed { is_last: false };

    fn after(events: &[Event], now: Instant) -> Standing {
        events.iter().fold(Standing::NEW, |standing, event| standing.on(*event, now, &RULES))
    }

    #[tokio::test(start_paused = true)]
    async fn failures_in_a_row_put_it_out_and_an_answer_between_them_does_not() {
        let now = Instant::now();
        assert_eq!(after(&[FAILED, FAILED], now), Standing::In { failures: 2 });
        assert_eq!(
            after(&[FAILED, FAILED, FAILED], now),
            Standing::Out { until: now + RULES.ejection, times: 1 }
        );
        assert_eq!(after(&[FAILED, FAILED, Event::Answered, FAILED], now), Standing::In { failures: 1 });
    }

    #[tokio::test(start_paused = true)]
    async fn the_last_one_is_never_put_out() {
        let now = Instant::now();
        let last = Event::Failed { is_last: true };
        assert!(after(&[last; 100], now).admits(now));
        assert!(!after(&[FAILED; 3], now).admits(now));
    }

    #[tokio::test(start_paused = true)]
    async fn one_request_tries_it_and_each_time_out_is_twice_as_long_up_to_the_longest() {
        let mut now = Instant::now();
        let mut standing = after(&[FAILED; 3], now);
        for expected in [5, 10, 20, 40, 60, 60] {
            let Standing::Out { until, .. } = standing else { panic!("{standing:?}") };
            assert_eq!((until - now).as_secs(), expected);
            assert!(!standing.admits(until - Duration::from_millis(1)) && standing.admits(until));
            now = until;
            let trial = standing.on(Event::Begun, now, &RULES);
            assert!(!trial.admits(now), "one request alone tries it");
            standing = trial.on(FAILED, now, &RULES);
        }
        let back = standing.on(Event::Answered, now, &RULES);
        assert_eq!(back, Standing::NEW);
    }

    #[tokio::test(start_paused = true)]
    async fn a_trial_that_nobody_waits_for_leaves_room_for_the_next() {
        let now = Instant::now();
        let trial = Standing::Trial { times: 2 };
        let standing = trial.on(Event::Abandoned, now, &RULES);
        assert!(standing.admits(now));
        assert_eq!(standing.on(Event::Begun, now, &RULES), trial);
    }

    fn any_event() -> impl Strategy<Value = Event> {
        prop_oneof![
            Just(Event::Abandoned),
            Just(Event::Answered),
            Just(Event::Begun),
            any::<bool>().prop_map(|is_last| Event::Failed { is_last }),
        ]
    }

    proptest! {
        #[test]
        fn whatever_happens_it_can_come_back(events in prop::collection::vec((any_event(), 0_u64..120), 0..50)) {
            let mut now = Instant::now();
            let mut standing = Standing::NEW;
            for (event, seconds) in events {
                now += Duration::from_secs(seconds);
                standing = standing.on(event, now, &RULES);
                if let Standing::Out { until, .. } = standing {
                    prop_assert!(until <= now + RULES.longest);
                }
            }
            let later = now + RULES.longest;
            let freed = standing.on(Event::Abandoned, later, &RULES);
            prop_assert!(freed.admits(later));
            prop_assert_eq!(standing.on(Event::Answered, now, &RULES), Standing::NEW);
        }
    }
}
