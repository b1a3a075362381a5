//! One server process from start to verified end: its three pipes, its desk, and why it ends.
//!
//! `run` owns the process tree; requests reach it through the desk and a bounded queue of letters.

use std::process::ExitStatus;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use bytes::{Buf, Bytes};
use mcp_daemon::addr::Route;
use mcp_daemon::life::Life;
use mcp_daemon::secret::random_id;
use mcp_daemon::tree::{Ended, Input, Pipes, Tree};
use tokio::io::{AsyncRead, AsyncWriteExt};
use tokio::process::{ChildStdin, ChildStdout};
use tokio::sync::{Notify, mpsc};
use tokio::time::{Instant, sleep_until, timeout};

use super::ExecOptions;
use super::desk::{Desk, Heard};
use super::failures::Failure;
use super::outlet::End;
use crate::lines::{Line, Lines, one_line};

/// Messages that wait for a child that does not read; more make their senders wait.
const MAX_LETTERS: usize = 64;
/// Longest line of a child's stderr in our log, in bytes.
const MAX_LOG_LINE: usize = 8 << 10;
/// How much of a stdout line that is no message goes to our log, in characters.
const MAX_JUNK: usize = 200;
/// Instead of the grace when we end; clients on stdio kill us two seconds after they have closed their end.
const HURRIED_GRACE: Duration = Duration::from_secs(1);
/// How long the pipes of an ended process are still read for what it said last.
const LAST_WORDS: Duration = Duration::from_millis(200);

/// A server process, as far as requests see it.
pub(super) struct Child {
    /// The session's id; of a shared process a name that nobody uses.
    pub(super) id: String,
    /// Whom it serves.
    pub(super) route: Option<Route>,
    /// Whether it serves the sessions of nobody, and so requests of many clients.
    pub(super) is_shared: bool,
    /// The root's process id.
    pub(super) pid: u32,
    /// When it was started.
    pub(super) born: Instant,
    desk: Mutex<Desk>,
    letters: Mutex<Option<mpsc::Sender<Letter>>>,
    stop: Notify,
    hurry: Notify,
    /// Bytes written to its stdin.
    written: AtomicU64,
    /// How many of those it died without reading.
    unread: AtomicU64,
}

/// A message on its way to the child's stdin.
pub(super) struct Letter {
    line: Bytes,
    receipt: Arc<Receipt>,
}

/// How far a message came.
pub(super) struct Receipt(AtomicU64);

/// Nothing of it was written.
const UNWRITTEN: u64 = u64::MAX;

impl Default for Receipt {
    fn default() -> Self {
        Receipt(AtomicU64::new(UNWRITTEN))
    }
}

/// Why a process ends.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum Why {
    /// Its session ended, or its place is needed.
    Asked,
    /// It exited, or closed a pipe it is to be talked to by.
    Died,
    /// We end, and nothing is in flight.
    Drain,
    /// Nothing came or went for too long.
    Idle,
}

impl Child {
    /// The process that `tree` is; the receiver goes to [`Child::run`].
    pub(super) fn new(
        tree: &Tree,
        route: Option<Route>,
        is_shared: bool,
    ) -> (Arc<Self>, mpsc::Receiver<Letter>) {
        let (letters, received) = mpsc::channel(MAX_LETTERS);
        let child = Child {
            id: random_id(),
            route,
            is_shared,
            pid: tree.pid(),
            born: Instant::now(),
            desk: Mutex::new(Desk::new(is_shared)),
            letters: Mutex::new(Some(letters)),
            stop: Notify::new(),
            hurry: Notify::new(),
            written: AtomicU64::new(0),
            unread: AtomicU64::new(0),
        };
        (Arc::new(child), received)
    }

    /// Who waits for what.
    pub(super) fn desk(&self) -> MutexGuard<'_, Desk> {
        self.desk.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Asks the process to end; [`Child::run`] returns when it and all below it are gone.
    pub(super) fn stop(&self) {
        self.stop.notify_one();
    }

    /// The same, because we end: whoever waits for us does not wait long.
    pub(super) fn stop_now(&self) {
        self.stop();
        self.hurry.notify_one();
    }

    /// Queues a message; `false`: nothing of it will ever be written.
    pub(super) async fn write(&self, message: &[u8], receipt: Arc<Receipt>) -> bool {
        let letters = self.letters().clone();
        let Some(letters) = letters else { return false };
        letters.send(Letter { line: one_line(message), receipt }).await.is_ok()
    }

    /// Queues a message that may be lost when the child does not read.
    pub(super) fn try_write(&self, message: &[u8]) {
        if let Some(letters) = &*self.letters() {
            let _ = letters.try_send(Letter { line: one_line(message), receipt: Arc::default() });
        }
    }

    /// Whether the process can have seen any of a message, once it takes no more.
    pub(super) fn can_have_read(&self, receipt: &Receipt) -> bool {
        let read = self.written.load(Ordering::Acquire) - self.unread.load(Ordering::Acquire);
        receipt.0.load(Ordering::Acquire) < read
    }

    fn letters(&self) -> MutexGuard<'_, Option<mpsc::Sender<Letter>>> {
        self.letters.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Runs the process until its whole tree is gone. `on_end` is called as soon as it takes no more requests.
    pub(super) async fn run(
        self: &Arc<Self>,
        mut tree: Tree,
        pipes: Pipes,
        letters: mpsc::Receiver<Letter>,
        options: &ExecOptions,
        life: &Life,
        on_end: impl FnOnce(Option<Failure>),
    ) {
        let pid = self.pid;
        let stdin = pipes.stdin.expect("a launch has a pipe as its input unless told otherwise");
        let input = Input::of(&stdin).ok();
        let mut writer = life.spawn(write_all(Arc::clone(self), stdin, letters));
        let mut stderr = life.spawn(log_lines(pid, pipes.stderr));
        let mut stdout = Lines::new(pipes.stdout, options.max_message);
        let why = tokio::select! {
            why = self.serve(&mut tree, &mut stdout, options.idle_timeout, life) => why,
            // It closed its stdin: nothing can be asked any more.
            _ = &mut writer => Why::Died,
        };
        if why == Why::Died {
            // What it said last may be an answer; a grandchild may hold the pipe open for ever.
            let _ = timeout(LAST_WORDS, self.listen_to(&mut stdout)).await;
            // A dying process may close its stdout first and its stdin a moment later.
            let _ = timeout(LAST_WORDS, tree.exited()).await;
            // Nobody writes any more either: now what was not read can be counted.
            writer.abort();
            if !writer.is_finished() {
                let _ = (&mut writer).await;
            }
            self.unread.store(input.as_ref().map_or(0, Input::never_read), Ordering::Release);
        }
        drop(input);
        let (unanswered, was_ready) = self.end(why);
        on_end(failure(why, unanswered, was_ready));
        if !writer.is_finished() && timeout(LAST_WORDS, &mut writer).await.is_err() {
            // It does not read; the end of the task closes its stdin.
            writer.abort();
        }
        let ended = tokio::select! {
            ended = tree.stop(options.stop_grace) => ended,
            // From the start again, with less patience.
            () = self.hurry.notified() => tree.stop(options.stop_grace.min(HURRIED_GRACE)).await,
        };
        if timeout(LAST_WORDS, &mut stderr).await.is_err() {
            stderr.abort();
        }
        say(pid, why, unanswered, &ended);
    }

    /// Passes lines on until there is a reason to end.
    async fn serve(
        &self,
        tree: &mut Tree,
        stdout: &mut Lines<ChildStdout>,
        idle_timeout: Duration,
        life: &Life,
    ) -> Why {
        let mut draining = life.draining_owned();
        let mut is_draining = false;
        let mut idle_at = self.desk().last_used() + idle_timeout;
        loop {
            tokio::select! {
                biased;
                () = self.stop.notified() => return Why::Asked,
                () = &mut draining, if !is_draining => is_draining = true,
                line = stdout.next() => match line {
                    Ok(Some(line)) => self.hear(&line),
                    Ok(None) | Err(_) => return Why::Died,
                },
                _ = tree.exited() => return Why::Died,
                () = sleep_until(idle_at) => {
                    let mut desk = self.desk();
                    let due = desk.last_used() + idle_timeout;
                    if due <= Instant::now() && !desk.is_awaited() {
                        // Under this lock: a request that comes now is refused, not lost.
                        desk.end(End::Finished);
                        return Why::Idle;
                    }
                    idle_at = due.max(Instant::now() + idle_timeout.min(Duration::from_secs(1)));
                }
            }
            if is_draining && self.desk().end_if_idle() {
                return Why::Drain;
            }
        }
    }

    async fn listen_to(&self, stdout: &mut Lines<ChildStdout>) {
        while let Ok(Some(line)) = stdout.next().await {
            self.hear(&line);
        }
    }

    fn hear(&self, line: &Line) {
        let mut desk = self.desk();
        let heard = if line.cut { desk.unreadable(&line.text) } else { desk.hear(&line.text) };
        drop(desk);
        let pid = self.pid;
        match heard {
            Heard::Delivered => {}
            Heard::Dropped => log::debug!(pid; "dropped a message of the server that nobody waits for"),
            Heard::Junk => {
                let text: String = String::from_utf8_lossy(&line.text[..line.text.len().min(4 * MAX_JUNK)])
                    .chars()
                    .take(MAX_JUNK)
                    .collect();
                log::warn!(pid, bytes = line.text.len(), text; "skipped a line on stdout that is no message");
            }
            Heard::Reply(reply) => self.try_write(&reply),
        }
    }

    /// Ends all waits and closes the way in; how many had no answer, and whether there had ever been one.
    fn end(&self, why: Why) -> (usize, bool) {
        let mut desk = self.desk();
        let was_ready = desk.has_answered();
        let unanswered = desk.end(if why == Why::Died { End::Broken } else { End::Finished });
        drop(desk);
        *self.letters() = None;
        (unanswered, was_ready)
    }
}

/// What a process's end says about its command.
fn failure(why: Why, unanswered: usize, was_ready: bool) -> Option<Failure> {
    match (why, was_ready) {
        (Why::Died, false) => Some(Failure::Start),
        (Why::Died, true) if unanswered > 0 => Some(Failure::Call),
        _ => None,
    }
}

fn say(pid: u32, why: Why, unanswered: usize, ended: &Ended) {
    let status = ended.status.map_or_else(|| "unknown".to_owned(), |status: ExitStatus| status.to_string());
    if !ended.left.is_empty() {
        log::error!(pid, left:? = ended.left; "processes of a server outlived SIGKILL");
    }
    match why {
        Why::Died => log::warn!(pid, status, unanswered; "server process ended by itself"),
        Why::Asked => log::info!(pid, status; "server process ended"),
        Why::Drain => log::info!(pid, status; "server process ended, as we do"),
        Why::Idle => log::info!(pid, status; "server process ended, it was idle"),
    }
}

async fn write_all(child: Arc<Child>, mut stdin: ChildStdin, mut letters: mpsc::Receiver<Letter>) {
    let mut written = 0;
    while let Some(Letter { mut line, receipt }) = letters.recv().await {
        let start = written;
        while line.has_remaining() {
            match stdin.write(&line).await {
                Ok(count) if count > 0 => {
                    line.advance(count);
                    written += count as u64;
                }
                Ok(_) | Err(_) => return,
            }
            receipt.0.store(start, Ordering::Release);
            child.written.store(written, Ordering::Release);
        }
    }
}

async fn log_lines(pid: u32, stderr: impl AsyncRead + Unpin) {
    let mut lines = Lines::new(stderr, MAX_LOG_LINE);
    while let Ok(Some(line)) = lines.next().await {
        let text = String::from_utf8_lossy(&line.text);
        log::info!(pid, text = &*text; "server says");
    }
}
