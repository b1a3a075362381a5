//! The life of a daemon: ready, drain, the end; and every task in between, counted and waited for.
//!
//! Drain is one bit that everybody can ask for and wait for. `tokio::spawn` is called in this file only, so a task is
//! either counted by [`Life::spawn`] or one of the few named here that live as long as the process.

use std::collections::HashMap;
use std::future::Future;
use std::io;
use std::pin::{Pin, pin};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::task::{Context, Poll};
use std::time::Duration;

use tokio::sync::Notify;
use tokio::task::{AbortHandle, JoinHandle};
use tokio::time::Instant;

use crate::notify;
use crate::signals::{Asked, Signals};

/// The grace of [`Life::last`].
const AFTER_TASKS: Duration = Duration::from_secs(1);
/// How long [`Life::finish`] waits for aborted tasks to be gone; they only have to be dropped.
const AFTER_ABORT: Duration = Duration::from_secs(1);

/// The runtime of a daemon: one thread. One daemon's traffic is small, and what is not shared needs no locks and little
/// memory.
pub fn runtime() -> io::Result<tokio::runtime::Runtime> {
    tokio::runtime::Builder::new_current_thread().enable_all().build()
}

/// The life cycle of a daemon, shared by all its parts; a clone is one reference count.
#[derive(Clone)]
pub struct Life(Arc<Shared>);

struct Shared {
    grace: Duration,
    ready: AtomicBool,
    draining: AtomicBool,
    drain_began: OnceLock<Instant>,
    drain: Arc<Notify>,
    reload: Notify,
    /// Whether the process belongs to us, so that the service manager hears of the drain.
    process: bool,
    tasks: Mutex<Tasks>,
    last_task_ended: Notify,
    last: OnceLock<Life>,
}

#[derive(Default)]
struct Tasks {
    next: u64,
    running: HashMap<u64, AbortHandle>,
}

impl Life {
    /// A life without signals, for tests and for parts of a process; `grace` bounds the wait of [`Life::finish`].
    pub fn new(grace: Duration) -> Self {
        Life::make(grace, false)
    }

    /// The life of this process: SIGTERM and SIGINT begin the drain, a second one exits at once with 143 or 130,
    /// SIGHUP asks for a reload. Must be called inside a runtime, once.
    pub fn with_signals(grace: Duration) -> io::Result<Self> {
        let mut signals = Signals::take()?;
        let life = Life::make(grace, true);
        let told = life.clone();
        // Not counted: it listens until the process ends.
        forever(async move {
            loop {
                match signals.next().await {
                    Asked::Reload => told.0.reload.notify_one(),
                    Asked::Stop(signal) => {
                        log::info!(signal; "stopping");
                        told.drain();
                    }
                }
            }
        });
        Ok(life)
    }

    fn make(grace: Duration, process: bool) -> Self {
        Life(Arc::new(Shared {
            grace,
            ready: AtomicBool::new(false),
            draining: AtomicBool::new(false),
            drain_began: OnceLock::new(),
            drain: Arc::new(Notify::new()),
            reload: Notify::new(),
            process,
            tasks: Mutex::new(Tasks::default()),
            last_task_ended: Notify::new(),
            last: OnceLock::new(),
        }))
    }

    /// Tells the service manager what we do, and that it takes up to `longer` from now on until it hears again.
    pub fn still_starting(&self, status: &str, longer: Duration) {
        notify::still_starting(status, longer);
    }

    /// Tells the service manager and the descriptor of `--ready-fd` that we are ready, and from now on the watchdog
    /// (where `WATCHDOG_USEC` asks for it) that the event loop turns. Must be called inside a runtime, once.
    pub fn ready(&self, status: &str, ready_fd: Option<i32>) {
        // First, so that nobody who was told finds us not ready.
        self.0.ready.store(true, Ordering::Release);
        notify::ready(status, ready_fd);
        if let Some(period) = notify::watchdog_period() {
            // Not counted: a drain that takes its time is alive too.
            forever(async move {
                let mut ticks = tokio::time::interval(period);
                loop {
                    ticks.tick().await;
                    notify::alive();
                }
            });
        }
    }

    /// Whether [`Life::ready`] has been called: the start is over.
    pub fn is_ready(&self) -> bool {
        self.0.ready.load(Ordering::Acquire)
    }

    /// Begins the drain; all calls after the first do nothing.
    pub fn drain(&self) {
        if self.0.drain_began.set(Instant::now()).is_err() {
            return;
        }
        self.0.draining.store(true, Ordering::Release);
        self.0.drain.notify_waiters();
        if self.0.process {
            notify::stopping();
        }
    }

    /// Whether the drain has begun; one atomic load.
    pub fn is_draining(&self) -> bool {
        self.0.draining.load(Ordering::Acquire)
    }

    /// Ends when the drain begins, at once if it has; cancel safe, without an allocation.
    pub async fn draining(&self) {
        let mut told = pin!(self.0.drain.notified());
        // Registered before the flag is read, so that a drain in between is not missed.
        told.as_mut().enable();
        if !self.is_draining() {
            told.await;
        }
    }

    /// The same as [`Life::draining`], to be kept in a stream or body: one small allocation each.
    pub fn draining_owned(&self) -> Draining {
        Draining { life: self.clone(), told: Box::pin(Arc::clone(&self.0.drain).notified_owned()) }
    }

    /// Runs a future as a task that [`Life::finish`] waits for; the handle may be dropped.
    pub fn spawn<F>(&self, future: F) -> JoinHandle<F::Output>
    where
        F: Future + Send + 'static,
        F::Output: Send + 'static,
    {
        // Held across the spawn: on another thread the task could end before it is entered.
        let mut tasks = self.tasks();
        let number = tasks.next;
        tasks.next += 1;
        let counted = Counted { life: self.clone(), number };
        #[allow(clippy::disallowed_methods, reason = "this is the place: the task is counted and waited for")]
        let handle = tokio::spawn(Task { future: Box::pin(future), _counted: counted });
        tasks.running.insert(number, handle.abort_handle());
        handle
    }

    /// How many spawned tasks run now.
    pub fn running(&self) -> usize {
        self.tasks().running.len()
    }

    /// The life of what must outlast the drain, such as the control socket, which answers questions about it: it
    /// drains when all other tasks have ended.
    pub fn last(&self) -> Life {
        self.0.last.get_or_init(|| Life::make(AFTER_TASKS, false)).clone()
    }

    /// Waits for the drain to begin, then for all tasks up to the grace, then aborts the rest and returns how many
    /// those were. What belongs to [`Life::last`] ends after that.
    pub async fn finish(&self) -> usize {
        self.draining().await;
        self.finish_by(self.grace_over()).await
    }

    /// The same with a deadline instead of the grace, from now on: for many lives that end at once.
    pub async fn finish_by(&self, deadline: Instant) -> usize {
        self.drain();
        let aborted = self.end_tasks(deadline).await;
        if let Some(last) = self.0.last.get() {
            last.drain();
            last.end_tasks(last.grace_over()).await;
        }
        aborted
    }

    fn grace_over(&self) -> Instant {
        self.0.drain_began.get().copied().unwrap_or_else(Instant::now) + self.0.grace
    }

    async fn end_tasks(&self, deadline: Instant) -> usize {
        let began = Instant::now();
        if tokio::time::timeout_at(deadline, self.no_task_left()).await.is_ok() {
            return 0;
        }
        let left: Vec<AbortHandle> = self.tasks().running.values().cloned().collect();
        for task in &left {
            task.abort();
        }
        log::warn!(tasks = left.len(), waited_ms = began.elapsed().as_millis() as u64; "the grace is over, cut what was left");
        let _ = tokio::time::timeout(AFTER_ABORT, self.no_task_left()).await;
        left.len()
    }

    async fn no_task_left(&self) {
        loop {
            let mut ended = pin!(self.0.last_task_ended.notified());
            ended.as_mut().enable();
            if self.running() == 0 {
                return;
            }
            ended.await;
        }
    }

    /// Waits for the next request to reload (SIGHUP); one that came before the call counts, several count once.
    pub async fn reload_requested(&self) {
        self.0.reload.notified().await;
    }

    /// Asks for a reload as SIGHUP does.
    pub fn request_reload(&self) {
        self.0.reload.notify_one();
    }

    fn tasks(&self) -> MutexGuard<'_, Tasks> {
        self.0.tasks.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A future that ends when the drain begins; made by [`Life::draining_owned`].
pub struct Draining {
    life: Life,
    told: Pin<Box<tokio::sync::futures::OwnedNotified>>,
}

impl Future for Draining {
    type Output = ();

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        if self.life.is_draining() {
            return Poll::Ready(());
        }
        if self.told.as_mut().poll(cx).is_ready() || self.life.is_draining() {
            return Poll::Ready(());
        }
        Poll::Pending
    }
}

/// A counted future. Boxed, because an `async` block around it would hold it twice, and connections are many.
struct Task<F> {
    future: Pin<Box<F>>,
    _counted: Counted,
}

impl<F: Future> Future for Task<F> {
    type Output = F::Output;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<F::Output> {
        self.future.as_mut().poll(cx)
    }
}

/// Takes a task off the list when its future is dropped: at its end, at a panic, or at an abort.
struct Counted {
    life: Life,
    number: u64,
}

impl Drop for Counted {
    fn drop(&mut self) {
        let mut tasks = self.life.tasks();
        tasks.running.remove(&self.number);
        if tasks.running.is_empty() {
            self.life.0.last_task_ended.notify_waiters();
        }
    }
}

/// Runs a connection of the client, or what keeps its pool tidy. They are not counted: each ends when its peer or the
/// pool closes it, and what a drain has to wait for are the requests on them, which belong to counted tasks.
pub(crate) fn forever(future: impl Future<Output = ()> + Send + 'static) {
    #[allow(clippy::disallowed_methods, reason = "the callers say why their task is not counted")]
    drop(tokio::spawn(future));
}
