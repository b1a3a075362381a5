//! A bounded queue from the reader of a child to one HTTP answer. The reader never waits: one slow client must not
//! hold up the others of the same process.

use std::collections::VecDeque;
use std::future::poll_fn;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, Waker};

use bytes::Bytes;

/// Most bytes of server messages that wait for a slow client; the answer itself always fits.
pub(super) const MAX_QUEUED_BYTES: usize = 16 << 20;
/// Most server messages that wait for a slow client.
pub(super) const MAX_QUEUED: usize = 1024;

/// What a reader gets.
#[derive(Debug, Eq, PartialEq)]
pub(super) enum Item {
    /// The response; nothing follows.
    Answer(Bytes),
    /// A notification or request of the server.
    Message(Bytes),
}

/// Why there is no next item.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum End {
    /// The process ended first.
    Broken,
    /// All is said.
    Finished,
}

#[derive(Default)]
struct Queue {
    items: VecDeque<Item>,
    bytes: usize,
    end: Option<End>,
    unread: bool,
    waker: Option<Waker>,
}

/// The end that the child's reader fills.
#[derive(Clone)]
pub(super) struct Outlet(Arc<Mutex<Queue>>);

/// The end that an HTTP answer reads.
pub(super) struct Intake(Arc<Mutex<Queue>>);

/// Makes a queue.
pub(super) fn queue() -> (Outlet, Intake) {
    let queue = Arc::new(Mutex::new(Queue::default()));
    (Outlet(Arc::clone(&queue)), Intake(queue))
}

impl Outlet {
    /// Queues a server message; `false` if nobody reads any more or too much waits already.
    pub(super) fn message(&self, message: Bytes) -> bool {
        let mut queue = lock(&self.0);
        let full = queue.items.len() >= MAX_QUEUED || queue.bytes + message.len() > MAX_QUEUED_BYTES;
        if full || queue.unread || queue.end.is_some() {
            return false;
        }
        queue.bytes += message.len();
        queue.items.push_back(Item::Message(message));
        wake(queue);
        true
    }

    /// Queues the response and ends.
    pub(super) fn answer(&self, answer: Bytes) {
        let mut queue = lock(&self.0);
        if queue.end.is_none() {
            queue.items.push_back(Item::Answer(answer));
            queue.end = Some(End::Finished);
        }
        wake(queue);
    }

    /// Ends without a response.
    pub(super) fn end(&self, end: End) {
        let mut queue = lock(&self.0);
        queue.end.get_or_insert(end);
        wake(queue);
    }

    /// Whether somebody still reads.
    pub(super) fn is_read(&self) -> bool {
        let queue = lock(&self.0);
        !queue.unread && queue.end.is_none()
    }
}

impl Intake {
    /// The next item, or why there is none.
    pub(super) async fn next(&mut self) -> Result<Item, End> {
        poll_fn(|cx| self.poll_next(cx)).await
    }

    /// See [`Intake::next`].
    pub(super) fn poll_next(&mut self, cx: &mut Context<'_>) -> Poll<Result<Item, End>> {
        let mut queue = lock(&self.0);
        if let Some(item) = queue.items.pop_front() {
            if let Item::Message(message) = &item {
                queue.bytes -= message.len();
            }
            return Poll::Ready(Ok(item));
        }
        if let Some(end) = queue.end {
            return Poll::Ready(Err(end));
        }
        queue.waker = Some(cx.waker().clone());
        Poll::Pending
    }
}

impl Drop for Intake {
    fn drop(&mut self) {
        let mut queue = lock(&self.0);
        queue.unread = true;
        queue.items.clear();
    }
}

fn lock(queue: &Mutex<Queue>) -> MutexGuard<'_, Queue> {
    queue.lock().unwrap_or_else(PoisonError::into_inner)
}

fn wake(mut queue: MutexGuard<'_, Queue>) {
    let waker = queue.waker.take();
    drop(queue);
    if let Some(waker) = waker {
        waker.wake();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn what_was_said_comes_before_the_end() {
        let (outlet, mut intake) = queue();
        assert!(outlet.message("m".into()));
        outlet.answer("a".into());
        outlet.end(End::Broken);
        assert_eq!(intake.next().await, Ok(Item::Message("m".into())));
        assert_eq!(intake.next().await, Ok(Item::Answer("a".into())));
        assert_eq!(intake.next().await, Err(End::Finished));
    }

    #[tokio::test]
    async fn a_full_queue_refuses_messages_and_still_takes_the_answer() {
        let (outlet, mut intake) = queue();
        assert!(outlet.message(vec![0; MAX_QUEUED_BYTES].into()));
        assert!(!outlet.message("x".into()));
        outlet.answer("a".into());
        assert!(matches!(intake.next().await, Ok(Item::Message(_))));
        assert_eq!(intake.next().await, Ok(Item::Answer("a".into())));

        let (outlet, intake) = queue();
        assert_eq!((0..2 * MAX_QUEUED).filter(|_| outlet.message("x".into())).count(), MAX_QUEUED);
        drop(intake);
        assert!(!outlet.is_read() && !outlet.message("x".into()));
    }
}
