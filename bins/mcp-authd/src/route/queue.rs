//! How many requests of a route are under way at once, and how many may wait for their turn, first come first served.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};
use std::time::Duration;

use mcp_daemon::life::Life;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::timeout;

use crate::config::Config;
use crate::config::route::RouteSettings;

/// Requests that may wait unless the settings say otherwise.
const WAITING: usize = 128;
/// How long they may, likewise.
const PATIENCE: Duration = Duration::from_secs(30);

/// The bounds of a queue.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Bounds {
    /// Requests under way at once.
    pub concurrency: usize,
    /// Requests that wait.
    pub waiting: usize,
    /// Longest wait.
    pub timeout: Duration,
}

impl Bounds {
    /// As the settings of a route say, and where they say nothing those of all; `None` where there is no bound.
    pub fn of(own: Option<&RouteSettings>, common: &Config) -> Option<Self> {
        let concurrency = own.and_then(|own| own.concurrency).or(common.concurrency)?;
        let queue_timeout = own.and_then(|own| own.queue_timeout).or(common.queue_timeout);
        Some(Self {
            // A semaphore holds no more, and nobody has so many connections.
            concurrency: concurrency.get().min(Semaphore::MAX_PERMITS),
            waiting: own.and_then(|own| own.queue).or(common.queue).unwrap_or(WAITING),
            timeout: queue_timeout.map_or(PATIENCE, Into::into),
        })
    }
}

/// The places of one route.
#[derive(Debug)]
pub struct Queue {
    bounds: Bounds,
    places: Arc<Semaphore>,
    waiting: AtomicUsize,
}

/// Why there is no place for a request.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum NoPlace {
    /// There was none when the drain began: whoever waits is told at once, while there is time for an answer.
    Draining,
    /// Too many wait already, or the wait took too long.
    Full,
}

/// A request's place among those under way, free again when this is dropped.
#[derive(Debug)]
pub struct Place(#[expect(dead_code, reason = "it is held, not used")] OwnedSemaphorePermit);

impl Queue {
    /// With all places free.
    pub fn new(bounds: Bounds) -> Self {
        Self { bounds, places: Arc::new(Semaphore::new(bounds.concurrency)), waiting: AtomicUsize::new(0) }
    }

    /// Its bounds.
    pub fn bounds(&self) -> Bounds {
        self.bounds
    }

    /// Requests under way.
    pub fn running(&self) -> usize {
        self.bounds.concurrency - self.places.available_permits()
    }

    /// Requests that wait.
    pub fn waiting(&self) -> usize {
        self.waiting.load(Relaxed)
    }

    /// Takes a place, now or in its turn, unless the drain of `life` begins before that.
    pub async fn enter(&self, life: &Life) -> Result<Place, NoPlace> {
        // A place that is given back goes to whoever waits first, so there is none to be had past them.
        if let Ok(permit) = self.places.clone().try_acquire_owned() {
            return Ok(Place(permit));
        }
        Box::pin(self.wait(life)).await
    }

    async fn wait(&self, life: &Life) -> Result<Place, NoPlace> {
        if self.waiting() >= self.bounds.waiting {
            return Err(NoPlace::Full);
        }
        let _waits = Waits::begin(&self.waiting);
        let acquired = tokio::select! {
            biased;
            acquired = timeout(self.bounds.timeout, self.places.clone().acquire_owned()) => acquired,
            () = life.draining() => return Err(NoPlace::Draining),
        };
        match acquired {
            Ok(Ok(permit)) => Ok(Place(permit)),
            Ok(Err(_closed)) => unreachable!("the semaphore is never closed"),
            Err(_elapsed) => Err(NoPlace::Full),
        }
    }
}

/// Counts somebody who waits, however the wait ends.
struct Waits<'a>(&'a AtomicUsize);

impl<'a> Waits<'a> {
    fn begin(count: &'a AtomicUsize) -> Self {
        count.fetch_add(1, Relaxed);
        Self(count)
    }
}

impl Drop for Waits<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use std::pin::pin;
    use std::task::Poll;

    use super::*;

    fn queue(concurrency: usize, waiting: usize) -> Queue {
        Queue::new(Bounds { concurrency, waiting, timeout: Duration::from_secs(5) })
    }

    fn life() -> Life {
        Life::new(Duration::from_secs(10))
    }

    async fn is_pending<F: Future>(mut future: std::pin::Pin<&mut F>) -> bool {
        std::future::poll_fn(|cx| Poll::Ready(future.as_mut().poll(cx).is_pending())).await
    }

    #[tokio::test(start_paused = true)]
    async fn places_go_to_whoever_waits_first() {
        let (queue, life) = (queue(1, 2), life());
        let place = queue.enter(&life).await.unwrap();
        let (mut first, mut second) = (pin!(queue.enter(&life)), pin!(queue.enter(&life)));
        assert!(is_pending(first.as_mut()).await && is_pending(second.as_mut()).await);
        assert_eq!((queue.running(), queue.waiting()), (1, 2));
        assert!(queue.enter(&life).await.is_err(), "a third one finds the queue full");
        drop(place);
        assert!(is_pending(second.as_mut()).await);
        let place = first.await.unwrap();
        drop(place);
        let _place = second.await.unwrap();
        assert_eq!((queue.running(), queue.waiting()), (1, 0));
    }

    #[tokio::test(start_paused = true)]
    async fn who_waits_too_long_or_goes_away_leaves_room() {
        let (queue, life) = (queue(1, 1), life());
        let _place = queue.enter(&life).await.unwrap();
        {
            let mut gone = pin!(queue.enter(&life));
            assert!(is_pending(gone.as_mut()).await);
        }
        assert_eq!(queue.waiting(), 0);
        assert!(queue.enter(&life).await.is_err(), "after the timeout");
        assert_eq!((queue.running(), queue.waiting()), (1, 0));
    }

    #[tokio::test]
    async fn a_queue_of_none_refuses_at_once() {
        let (queue, life) = (queue(1, 0), life());
        let place = queue.enter(&life).await.unwrap();
        assert!(queue.enter(&life).await.is_err());
        drop(place);
        assert!(queue.enter(&life).await.is_ok());
    }

    #[tokio::test(start_paused = true)]
    async fn who_waits_when_the_drain_begins_is_told_at_once_and_a_free_place_is_still_taken() {
        let (queue, life) = (queue(1, 2), life());
        let place = queue.enter(&life).await.unwrap();
        let mut waiting = pin!(queue.enter(&life));
        assert!(is_pending(waiting.as_mut()).await);
        let began = tokio::time::Instant::now();
        life.drain();
        assert_eq!(waiting.await.unwrap_err(), NoPlace::Draining);
        assert_eq!(queue.enter(&life).await.unwrap_err(), NoPlace::Draining);
        assert_eq!((began.elapsed(), queue.waiting()), (Duration::ZERO, 0));
        drop(place);
        assert!(queue.enter(&life).await.is_ok());
    }
}
