//! Whether a server that was ready still is: it is asked every few seconds, and found dead after enough silence.
//!
//! A hung server and a busy one look alike to a probe: the kernel takes connections for both, neither answers. Measured
//! with Serena and pyright on two cores, probes 50 ms apart, longest wait for an answer:
//!
//! | what Serena does | 2.1.0 | 1.7.0 |
//! |---|---|---|
//! | find_symbol | 23 ms | 1.0 s (all of the call) |
//! | execute_shell_command `sleep 6` | 21 ms | 6.0 s (all of the call; 0.02 s of CPU) |
//! | execute_shell_command, 6 s of computing | 54 ms | 6.1 s (all of the call) |
//! | search_for_pattern `(a+)+$`, which takes 8 s | 7.7 s (all of the call; 7.5 s of CPU) | 8.5 s (all of the call) |
//! | SIGSTOP | none | none |
//!
//! 1.7.0 runs every tool in its event loop, as servers on Python's mcp 1.x do with plain functions, and both stand still
//! while one operation holds Python's lock. Killing such a server would cost its user a call that goes well. So an
//! unanswered probe is judged by what the tree does meanwhile (see [`pulse`](super::pulse)):
//!
//! - It is **stopped**, or the port is closed, or the answer is wrong: a failure. `failures` in a row mean dead.
//! - It **works**: no failure. But after [`BUSY_LIMIT`] without one answer it is an endless loop, and dead.
//! - **Nothing** is to be seen: it is a deadlock, or a tool that waits for the network. Dead after [`QUIET_FACTOR`] times
//!   as many, by default two minutes: by then the usual client (60 s) has given up the call that there may be.
//!
//! A probe is no failure either when this process itself could not watch: after a suspend of the machine, or when a
//! tick came much later than planned. Then the count starts again.

use std::time::Duration;

use tokio::time::{Instant, sleep};

use super::pulse::{Pulse, Sign, since_boot};
use super::{ProbeError, Prober};
use crate::config::Liveness;

/// Longest work without an answer. Serena ends a tool after 240 s, and between two tools the probe is answered.
pub const BUSY_LIMIT: Duration = Duration::from_secs(600);
/// So many times `failures` unanswered probes of a server that is not seen to be stopped or to work.
pub const QUIET_FACTOR: u32 = 4;
/// A difference of clocks, or a delay of ours, that means that nobody watched for a while.
const AWAY: Duration = Duration::from_secs(1);

/// A server that hangs.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Dead {
    /// Why, as one line.
    pub text: String,
}

/// Asks the server of process `root` until it is dead, which is all that this returns.
pub async fn watch(prober: &Prober, liveness: &Liveness, root: u32) -> Dead {
    let mut pulse = Pulse::new(root);
    let mut count = Count::new(liveness.failures.get(), Instant::now());
    let (interval, limit) = (liveness.interval.duration(), liveness.timeout.duration());
    loop {
        let round = Round::begin();
        sleep(interval).await;
        let answer = prober.ask(limit).await;
        let now = Instant::now();
        let Err(error) = answer else {
            pulse.answered();
            count.answered(now);
            continue;
        };
        if round.was_away(interval + limit) {
            log::debug!(error:% = error; "a probe failed while this machine or process slept, which does not count");
            pulse.answered();
            count.answered(now);
            continue;
        }
        if matches!(error, ProbeError::Ours(_)) {
            log::debug!(error:% = error; "a probe could not be made, which does not count");
            continue;
        }
        let sign = pulse.look();
        log::debug!(error:% = error, sign:? = sign; "a probe failed");
        if let Some(dead) = count.failed(&error, sign, now) {
            return dead;
        }
    }
}

/// How far a server is on the way from its last answer to its death; pure.
struct Count {
    failures: u32,
    /// Unanswered probes in a row that mean death soon.
    failed: u32,
    /// Unanswered probes in a row of which nothing is known.
    quiet: u32,
    answered: Instant,
}

impl Count {
    fn new(failures: u32, now: Instant) -> Self {
        Count { failures, failed: 0, quiet: 0, answered: now }
    }

    fn answered(&mut self, now: Instant) {
        *self = Count::new(self.failures, now);
    }

    fn failed(&mut self, error: &ProbeError, sign: Sign, now: Instant) -> Option<Dead> {
        let silent = matches!(error, ProbeError::Silent(_));
        match sign {
            Sign::Working(why) if silent => {
                (self.failed, self.quiet) = (0, 0);
                let since = now - self.answered;
                return (since >= BUSY_LIMIT)
                    .then(|| Dead { text: format!("no answer for {} s, although {why}", since.as_secs()) });
            }
            Sign::Quiet if silent => self.quiet += 1,
            Sign::Quiet | Sign::Stopped | Sign::Working(_) => self.failed += 1,
        }
        let all = self.failed.saturating_add(self.quiet);
        let stopped = if silent && sign == Sign::Stopped { "; it is stopped by a signal" } else { "" };
        let dead = self.failed >= self.failures || all >= self.failures.saturating_mul(QUIET_FACTOR);
        dead.then(|| Dead { text: format!("{all} probes in a row failed: {error}{stopped}") })
    }
}

/// The clocks at the beginning of a round, to see whether time was lost in it.
struct Round {
    began: Instant,
    since_boot: Option<Duration>,
}

impl Round {
    fn begin() -> Self {
        Round { began: Instant::now(), since_boot: since_boot() }
    }

    /// Whether the machine slept, or we came much later than `planned`.
    fn was_away(&self, planned: Duration) -> bool {
        let passed = self.began.elapsed();
        let with_suspends = since_boot().zip(self.since_boot).map(|(now, then)| now.saturating_sub(then));
        lost_time(passed, with_suspends, planned)
    }
}

/// `passed` does not go on while the machine is suspended, `with_suspends` does.
fn lost_time(passed: Duration, with_suspends: Option<Duration>, planned: Duration) -> bool {
    passed > planned + planned.max(AWAY) || with_suspends.is_some_and(|time| time > passed + AWAY)
}

#[cfg(test)]
mod tests;
