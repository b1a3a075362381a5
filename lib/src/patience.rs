//! How long a connection may do nothing: one look now and then instead of a timer for every request.
//!
//! A look finds out what went on since the one before, so what is given up has lasted for at least the bound and at most
//! for twice as long.

use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use tokio::time::{Instant, Sleep, sleep};

use crate::progress::Progress;

/// Why a connection is given up.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum GivenUp {
    /// It had no request for too long.
    Idle,
    /// Its peer took nothing of an answer for too long.
    Stalled,
}

/// Looks at one connection.
pub(crate) struct Patience {
    idle: Duration,
    stall: Duration,
    /// Since when each look found nothing new.
    quiet_since: Instant,
    stalled_since: Option<Instant>,
    begun: usize,
    written: usize,
    timer: Pin<Box<Sleep>>,
    waits: bool,
}

impl Patience {
    /// Begins to look at a connection: without a request for `idle`, or with a peer that takes nothing for `stall`, it is
    /// given up.
    pub(crate) fn new(idle: Duration, stall: Duration) -> Self {
        let timer = Box::pin(sleep(idle.min(stall)));
        let quiet_since = Instant::now();
        Patience { idle, stall, quiet_since, stalled_since: None, begun: 0, written: 0, timer, waits: false }
    }

    /// Looks if it is time to; the task is woken when the next look is due.
    pub(crate) fn poll(&mut self, cx: &mut Context<'_>, progress: &Progress) -> Option<GivenUp> {
        // A task has one waker for life: once it is registered, a look at the flag is enough.
        if self.waits && !self.timer.is_elapsed() {
            return None;
        }
        let mut found = None;
        while let Poll::Ready(()) = self.timer.as_mut().poll(cx) {
            let now = Instant::now();
            found = found.or(self.look(now, progress));
            self.timer.as_mut().reset(now + self.idle.min(self.stall));
        }
        self.waits = true;
        found
    }

    fn look(&mut self, now: Instant, progress: &Progress) -> Option<GivenUp> {
        let (begun, written) = (progress.begun(), progress.written());
        if begun != self.begun || progress.is_in_flight() {
            self.quiet_since = now;
        }
        self.stalled_since = match self.stalled_since {
            Some(since) if progress.is_blocked() && written == self.written => Some(since),
            _ => progress.is_blocked().then_some(now),
        };
        (self.begun, self.written) = (begun, written);
        if self.stalled_since.is_some_and(|since| now - since >= self.stall) {
            return Some(GivenUp::Stalled);
        }
        (now - self.quiet_since >= self.idle).then_some(GivenUp::Idle)
    }
}

#[cfg(test)]
mod tests {
    use std::future::poll_fn;
    use std::sync::Arc;

    use super::*;

    const IDLE: Duration = Duration::from_secs(600);
    const STALL: Duration = Duration::from_secs(60);

    async fn end(patience: &mut Patience, progress: &Progress) -> GivenUp {
        poll_fn(|cx| patience.poll(cx, progress).map_or(Poll::Pending, Poll::Ready)).await
    }

    async fn lasts(patience: &mut Patience, progress: &Progress, time: Duration) {
        let ended = tokio::time::timeout(time, end(patience, progress)).await;
        assert!(ended.is_err(), "{ended:?}");
    }

    #[tokio::test(start_paused = true)]
    async fn a_connection_is_idle_from_the_end_of_its_last_request_on() {
        let progress = Arc::new(Progress::default());
        let mut patience = Patience::new(IDLE, STALL);
        lasts(&mut patience, &progress, IDLE / 2).await;
        let flight = Progress::begin(&progress);
        lasts(&mut patience, &progress, 10 * IDLE).await;
        drop(flight);
        lasts(&mut patience, &progress, IDLE - STALL).await;
        drop(Progress::begin(&progress));
        let quiet = Instant::now();
        assert_eq!(end(&mut patience, &progress).await, GivenUp::Idle);
        assert!((IDLE..=2 * IDLE).contains(&quiet.elapsed()), "{:?}", quiet.elapsed());
    }

    #[tokio::test(start_paused = true)]
    async fn a_peer_that_takes_a_little_now_and_then_is_no_stalled_one() {
        let progress = Arc::new(Progress::default());
        let _flight = Progress::begin(&progress);
        let mut patience = Patience::new(IDLE, STALL);
        for _ in 0..5 {
            progress.write_waits();
            lasts(&mut patience, &progress, STALL).await;
            progress.wrote();
            progress.write_waits();
        }
        let waiting = Instant::now();
        assert_eq!(end(&mut patience, &progress).await, GivenUp::Stalled);
        assert!((STALL..=2 * STALL).contains(&waiting.elapsed()), "{:?}", waiting.elapsed());
    }

    #[tokio::test(start_paused = true)]
    async fn a_request_that_runs_long_with_nothing_to_write_is_waited_for() {
        let progress = Arc::new(Progress::default());
        let _flight = Progress::begin(&progress);
        let mut patience = Patience::new(IDLE, STALL);
        progress.write_waits();
        progress.wrote();
        lasts(&mut patience, &progress, 10 * IDLE).await;
    }
}
