//! The gate between an instance's socket and its server: who is let in, who waits, who is told to come later.

use std::future::Future;
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::time::Duration;

use tokio::time::Instant;

use super::state::{Event, Phase};
use super::{Board, Instance};
use crate::wake::{Gate, Lease, Refusal};

/// The gate of an instance's socket.
pub struct Door(pub Arc<Instance>);

/// Counts a connection that waits; dropped, it waits no more.
struct Held(Arc<Instance>);

impl Drop for Held {
    fn drop(&mut self) {
        self.0.released(|board| board.held -= 1);
    }
}

/// Counts a connection that is open; dropped, it is not.
struct Open(Arc<Instance>);

impl Drop for Open {
    fn drop(&mut self) {
        self.0.released(|board| board.open -= 1);
    }
}

impl Instance {
    fn released(&self, count: impl FnOnce(&mut Board)) {
        let quiet = self.update(|board| {
            count(board);
            board.used = Instant::now();
            board.is_idle()
        });
        if quiet {
            self.quiet.notify_waiters();
        }
    }
}

impl Gate for Door {
    fn lease(&self) -> Pin<Box<dyn Future<Output = Result<Lease, Refusal>> + Send + '_>> {
        Box::pin(async move {
            let instance = &self.0;
            instance.update(|board| board.held += 1);
            // Counted as held until after it is counted as open: never as neither.
            let _held = Held(instance.clone());
            loop {
                let mut changed = pin!(instance.changed.notified());
                changed.as_mut().enable();
                if let Some(decided) = instance.admit() {
                    return decided;
                }
                changed.await;
            }
        })
    }
}

impl Instance {
    /// Lets a connection in, refuses it, or makes sure that the process comes.
    fn admit(self: &Arc<Self>) -> Option<Result<Lease, Refusal>> {
        let mut board = self.board();
        if board.leaving {
            return Some(Err(refusal(Duration::from_secs(5), "the supervisor is stopping".into())));
        }
        if board.state.serves()
            && let Some(target) = board.target
        {
            board.open += 1;
            return Some(Ok(Lease { target, guard: Box::new(Open(self.clone())) }));
        }
        if board.state.refuses() {
            return Some(Err(board.refuse(self.name.as_str())));
        }
        let before = board.state;
        board.apply(Event::Connection);
        // Told only if this changed anything: the next look of this very connection is one of those who hear it.
        let changed = board.state != before;
        drop(board);
        if changed {
            self.todo.notify_one();
            self.changed.notify_waiters();
        }
        None
    }
}

impl Board {
    fn refuse(&self, name: &str) -> Refusal {
        if self.state.phase() == Phase::Failed {
            let wait =
                self.retry_at.map_or(Duration::ZERO, |at| at.saturating_duration_since(Instant::now()));
            let cause = self.cause.as_deref().unwrap_or("no cause is known");
            return refusal(wait, format!("{name} failed too often: {cause}"));
        }
        refusal(
            Duration::from_secs(60),
            format!("{name} was stopped by request; start it with: serena-supervise wake {name}"),
        )
    }
}

fn refusal(retry_after: Duration, text: String) -> Refusal {
    Refusal { retry_after, text }
}
