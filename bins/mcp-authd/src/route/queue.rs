//! How many requests of a route are under way at once, and how many may wait for their turn, first come first served.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};
use std::time::Duration;

use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::timeout;

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
    /// As the settings of a route say; `None` where there is no bound.
    pub fn of(settings: &RouteSettings) -> Option<Self> {
        Some(Self {
            // A semaphore holds no more, and nobody has so many connections.
            concurrency: settings.concurrency?.get().min(Semaphore::MAX_PERMITS),
            waiting: settings.queue.unwrap_or(WAITING),
            timeout: settings.queue_timeout.map_or(PATIENCE, Into::into),
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

/// Too many wait already, or the wait took too long.
#[derive(Debug)]
pub struct Full;

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

    /// Takes a place, now or in its turn.
    pub async fn enter(&self) -> Result<Place, Full> {
        // A place that is given back goes to whoever waits first, so there is none to be had past them.
        if let Ok(permit) = self.places.clone().try_acquire_owned() {
            return Ok(Place(permit));
        }
        Box::pin(self.wait()).await
    }

    async fn wait(&self) -> Result<Place, Full> {
        if self.waiting() >= self.bounds.waiting {
            return Err(Full);
        }
        let _waits = Waits::begin(&self.waiting);
        match timeout(self.bounds.timeout, self.places.clone().acquire_owned()).await {
            Ok(Ok(permit)) => Ok(Place(permit)),
            Ok(Err(_closed)) => unreachable!("the semaphore is never closed"),
            Err(_elapsed) => Err(Full),
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

    async fn is_pending<F: Future>(mut future: std::pin::Pin<&mut F>) -> bool {
        std::future::poll_fn(|cx| Poll::Ready(future.as_mut().poll(cx).is_pending())).await
    }

    #[tokio::test(start_paused = true)]
    async fn places_go_to_whoever_waits_first() {
        let queue = queue(1, 2);
        let place = queue.enter().await.unwrap();
        let (mut first, mut second) = (pin!(queue.enter()), pin!(queue.enter()));
        assert!(is_pending(first.as_mut()).await && is_pending(second.as_mut()).await);
        assert_eq!((queue.running(), queue.waiting()), (1, 2));
        assert!(queue.enter().await.is_err(), "a third one finds the queue full");
        drop(place);
        assert!(is_pending(second.as_mut()).await);
        let place = first.await.unwrap();
        drop(place);
        let _place = second.await.unwrap();
        assert_eq!((queue.running(), queue.waiting()), (1, 0));
    }

    #[tokio::test(start_paused = true)]
    async fn who_waits_too_long_or_goes_away_leaves_room() {
        let queue = queue(1, 1);
        let _place = queue.enter().await.unwrap();
        {
            let mut gone = pin!(queue.enter());
            assert!(is_pending(gone.as_mut()).await);
        }
        assert_eq!(queue.waiting(), 0);
        assert!(queue.enter().await.is_err(), "after the timeout");
        assert_eq!((queue.running(), queue.waiting()), (1, 0));
    }

    #[tokio::test]
    async fn a_queue_of_none_refuses_at_once() {
        let queue = queue(1, 0);
        let place = queue.enter().await.unwrap();
        assert!(queue.enter().await.is_err());
        drop(place);
        assert!(queue.enter().await.is_ok());
    }
}
