//! What a server and its hooks say: tagged lines on our stderr, the last ones kept for `status`, all of them told to
//! whoever follows or waits for a certain one.
//!
//! Nothing here waits for a reader: what stderr does not take is dropped by `printer` and counted, and who follows
//! too slowly is told how much it missed. Bytes become lines in `lines`, and are kept in `ring`.

mod lines;
mod printer;
mod ring;

use std::future::poll_fn;
use std::pin::{Pin, pin};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock};
use std::task::{Poll, ready};
use std::time::Duration;

use tokio::io::{AsyncRead, ReadBuf};
use tokio::sync::Notify;
use tokio::task::yield_now;

use self::lines::Splitter;
use self::printer::Printer;
pub use self::printer::{hide_servers, log_sink};
use self::ring::Ring;
pub use self::ring::{Followed, Line};
use crate::probe::Echo;

/// Bytes read at once.
const PIECE: usize = 8 * 1024;

/// Waits until our stderr has taken every line, at most for `limit`; for the end of the process, as it blocks.
pub fn flush(limit: Duration) {
    Printer::stderr().flush(limit);
}

/// Hears every line.
type Hook = Box<dyn Fn(&str) + Send + Sync>;

/// The output of one instance, over all its starts.
pub struct Output {
    name: String,
    printer: &'static Printer,
    ring: Mutex<Ring>,
    /// Told at every line.
    more: Notify,
    hooks: RwLock<Vec<Hook>>,
    /// Our own probes, whose lines nobody wants to read.
    echoes: RwLock<Vec<Arc<Echo>>>,
}

impl Output {
    /// The output of the instance with this name, which tags its lines.
    pub fn new(name: &str) -> Arc<Self> {
        Output::on(name, Printer::stderr())
    }

    fn on(name: &str, printer: &'static Printer) -> Arc<Self> {
        Arc::new(Output {
            name: name.to_owned(),
            printer,
            ring: Mutex::default(),
            more: Notify::new(),
            hooks: RwLock::default(),
            echoes: RwLock::default(),
        })
    }

    /// Reads lines until the source ends or this future is dropped, whoever else holds the source open. The last line
    /// needs no line end.
    pub async fn pump(self: Arc<Self>, mut source: impl AsyncRead + Unpin, stream: &'static str) {
        let mut unfinished = Unfinished { output: &self, stream, splitter: Splitter::default() };
        while poll_fn(|cx| {
            // On the stack: most servers are silent most of the time.
            let mut buffer = [0; PIECE];
            let mut buffer = ReadBuf::new(&mut buffer);
            let read = ready!(Pin::new(&mut source).poll_read(cx, &mut buffer));
            unfinished.take(buffer.filled());
            Poll::Ready(read.is_ok() && !buffer.filled().is_empty())
        })
        .await
        {
            // A flood must leave time for everybody else, those who follow it among them.
            yield_now().await;
        }
    }

    /// The newest lines, at most `number`, the oldest first.
    pub fn last(&self, number: usize) -> Vec<String> {
        self.ring().last(number).map(|line| line.text.to_string()).collect()
    }

    /// The lines from number `after` on as far as they are kept, and the number of the next one to come.
    pub fn since(&self, after: u64) -> (u64, Vec<String>) {
        let ring = self.ring();
        (ring.next(), ring.since(after).map(|line| line.text.to_string()).collect())
    }

    /// Follows the output, from the newest `last` lines on.
    pub fn follow(self: &Arc<Self>, last: usize) -> Follower {
        let next = self.ring().number_of_last(last);
        Follower { output: Arc::clone(self), next }
    }

    /// Has `hook` hear every line from now on, for as long as this output exists. It must be quick, and must not add
    /// hooks itself.
    pub fn on_line(&self, hook: Hook) {
        self.hooks.write().unwrap_or_else(PoisonError::into_inner).push(hook);
    }

    /// Waits for a line that says what `find` looks for, and returns what it found. Lines from before the call count
    /// while they are among the newest `last`.
    pub async fn watch_for<T>(self: &Arc<Self>, last: usize, find: impl Fn(&str) -> Option<T>) -> T {
        let mut follower = self.follow(last);
        loop {
            if let Followed::Line(line) = follower.next().await
                && let Some(found) = find(&line.text)
            {
                return found;
            }
        }
    }

    /// Leaves out, from now on, the lines that these probes cause, and no longer those of earlier ones.
    pub fn leave_out(&self, echoes: Vec<Arc<Echo>>) {
        *self.echoes.write().unwrap_or_else(PoisonError::into_inner) = echoes;
    }

    fn line(&self, stream: &'static str, text: &str) {
        if self.echoes.read().unwrap_or_else(PoisonError::into_inner).iter().any(|echo| echo.is_in(text)) {
            return;
        }
        self.printer.print(&self.name, text);
        self.ring().push(Line { stream, text: text.into() });
        self.more.notify_waiters();
        for hook in &*self.hooks.read().unwrap_or_else(PoisonError::into_inner) {
            hook(text);
        }
    }

    fn ring(&self) -> MutexGuard<'_, Ring> {
        self.ring.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Somebody who reads along; made by [`Output::follow`]. It holds nothing but its place.
pub struct Follower {
    output: Arc<Output>,
    /// Number of the next line.
    next: u64,
}

impl Follower {
    /// The next line, or how many are gone; cancel safe. It never ends by itself.
    pub async fn next(&mut self) -> Followed {
        let output = Arc::clone(&self.output);
        loop {
            let mut more = pin!(output.more.notified());
            // Registered before the ring is read, so that a line in between is not missed.
            more.as_mut().enable();
            if let Some((followed, next)) = output.ring().after(self.next) {
                self.next = next;
                return followed;
            }
            more.await;
        }
    }
}

/// Makes a line of what came last, even if the pump is dropped before its end.
struct Unfinished<'a> {
    output: &'a Output,
    stream: &'static str,
    splitter: Splitter,
}

impl Unfinished<'_> {
    fn take(&mut self, piece: &[u8]) {
        let (output, stream) = (self.output, self.stream);
        self.splitter.take(piece, |line| output.line(stream, line));
    }
}

impl Drop for Unfinished<'_> {
    fn drop(&mut self) {
        let (output, stream) = (self.output, self.stream);
        self.splitter.finish(|line| output.line(stream, line));
    }
}

#[cfg(test)]
mod tests;
