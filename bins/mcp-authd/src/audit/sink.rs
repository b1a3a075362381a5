//! Where lines go: a file or standard output, in batches, away from the thread that serves.
//!
//! A line is in the file 50 ms after its answer ended, or at the end of a drain. What cannot be written in time is not kept
//! for ever: beyond `MAX_WAITING` bytes lines are lost, counted, and said in the log and in a metric.

use std::fs::{File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use mcp_daemon::config::ConfigProblem;
use mcp_daemon::life::Life;
use tokio::sync::Notify;

use super::line::Line;
use crate::config;

/// Bytes of lines that wait to be written, or are being written.
const MAX_WAITING: usize = 8 << 20;
/// How long lines are gathered before they are written.
const GATHER: Duration = Duration::from_millis(50);
/// Pause after a write that failed.
const BACK_OFF: Duration = Duration::from_secs(1);

/// The audit of this process.
pub struct Audit {
    is_off: AtomicBool,
    waiting: Mutex<Waiting>,
    taken_down: Notify,
    /// Held while a batch is written, however long that takes.
    target: Arc<Mutex<Target>>,
    /// Takes the place of `target` before the next batch.
    next: Arc<Mutex<Option<Target>>>,
    lost: AtomicU64,
}

/// What is not in the target yet.
#[derive(Default)]
struct Waiting {
    lines: Vec<u8>,
    /// Bytes of the batch that is being written.
    under_way: usize,
}

/// What is written to.
#[derive(Debug)]
pub enum Target {
    /// A file that is appended to.
    File(File),
    /// Nothing.
    Off,
    /// Standard output, which a service manager leads into its journal.
    Stdout,
}

impl Audit {
    /// Opens the file of the settings.
    pub fn open(settings: &config::Audit) -> Result<Arc<Self>, ConfigProblem> {
        Ok(Arc::new(Self {
            is_off: AtomicBool::new(settings.off),
            waiting: Mutex::default(),
            taken_down: Notify::new(),
            target: Arc::new(Mutex::new(Target::open(settings)?)),
            next: Arc::default(),
            lost: AtomicU64::new(0),
        }))
    }

    /// Uses another target from the next batch on. Opened by the caller, so that a reload can still be refused; the same
    /// file is opened anew too, because it may have been moved away (log rotation).
    pub fn redirect(&self, settings: &config::Audit, target: Target) {
        self.is_off.store(settings.off, Ordering::Relaxed);
        *lock(&self.next) = Some(target);
    }

    /// Whether nothing is written at all.
    pub fn is_off(&self) -> bool {
        self.is_off.load(Ordering::Relaxed)
    }

    /// Lines that could not be kept, since the start.
    pub fn lost(&self) -> u64 {
        self.lost.load(Ordering::Relaxed)
    }

    /// Takes a line down; it is written soon.
    pub fn write(&self, line: &Line<'_>) {
        let mut waiting = lock(&self.waiting);
        let Waiting { lines, under_way } = &mut *waiting;
        if lines.len() + *under_way >= MAX_WAITING {
            self.lost.fetch_add(1, Ordering::Relaxed);
            return;
        }
        let was_empty = lines.is_empty();
        line.write_to(lines);
        if was_empty {
            self.taken_down.notify_one();
        }
    }

    /// Writes what was taken down, until `last` drains: what requests do that outlast the drain is written too.
    pub async fn run(self: Arc<Self>, last: Life) {
        let mut told = 0;
        while !last.is_draining() {
            tokio::select! {
                () = self.taken_down.notified() => {}
                () = last.draining() => break,
            }
            tokio::select! {
                () = tokio::time::sleep(GATHER) => {}
                () = last.draining() => {}
            }
            if let Err(error) = self.flush().await {
                log::error!(error:% = error; "the audit cannot be written, trying on");
                tokio::select! {
                    () = tokio::time::sleep(BACK_OFF) => {}
                    () = last.draining() => {}
                }
                self.taken_down.notify_one();
            }
            let lost = self.lost();
            if lost > told {
                log::error!(lines = lost - told; "lines of the audit are lost, it could not be written in time");
                told = lost;
            }
        }
    }

    /// Writes everything that waits; what could not be written waits on.
    pub async fn flush(&self) -> io::Result<()> {
        let batch = {
            let mut waiting = lock(&self.waiting);
            let batch = std::mem::take(&mut waiting.lines);
            waiting.under_way = batch.len();
            batch
        };
        if batch.is_empty() {
            return Ok(());
        }
        let (target, next) = (self.target.clone(), self.next.clone());
        let written = tokio::task::spawn_blocking(move || {
            let mut target = lock(&target);
            if let Some(next) = lock(&next).take() {
                *target = next;
            }
            let written = target.write(&batch);
            (batch, written)
        });
        let (batch, (length, result)) = written.await.map_err(io::Error::other)?;
        let mut waiting = lock(&self.waiting);
        waiting.under_way = 0;
        waiting.lines.splice(..0, batch[length..].iter().copied());
        result
    }
}

impl Target {
    /// Opens what the settings name; a new file is for its owner alone.
    pub fn open(settings: &config::Audit) -> Result<Self, ConfigProblem> {
        match &settings.file {
            _ if settings.off => Ok(Target::Off),
            None => Ok(Target::Stdout),
            Some(path) => open_file(path)
                .map(Target::File)
                .map_err(|error| ConfigProblem::key("audit.file", format!("{}: {error}", path.display()))),
        }
    }

    /// How much was written, and why no more.
    fn write(&mut self, batch: &[u8]) -> (usize, io::Result<()>) {
        let mut stdout;
        let target: &mut dyn Write = match self {
            Target::File(file) => file,
            Target::Off => return (batch.len(), Ok(())),
            Target::Stdout => {
                stdout = io::stdout().lock();
                &mut stdout
            }
        };
        let mut done = 0;
        while done < batch.len() {
            match target.write(&batch[done..]) {
                Ok(0) => return (done, Err(io::ErrorKind::WriteZero.into())),
                Ok(length) => done += length,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return (done, Err(error)),
            }
        }
        (done, target.flush())
    }
}

/// Nobody else may read who did what.
fn open_file(path: &Path) -> io::Result<File> {
    OpenOptions::new().create(true).append(true).mode(0o600).open(path)
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::audit::line;

    fn line_of(name: &str) -> Line<'_> {
        Line {
            time: line::now(),
            subject: None,
            token: None,
            address: None,
            route: None,
            http: "POST".into(),
            method: "tools/call".into(),
            name: name.into(),
            status: 200,
            bytes: 0,
            ms: 0.0,
            reason: None,
            cut: false,
        }
    }

    fn settings(path: &Path) -> config::Audit {
        config::Audit { off: false, file: Some(path.to_owned()) }
    }

    #[tokio::test]
    async fn after_a_redirect_the_moved_file_gets_no_more() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("audit.jsonl");
        let audit = Audit::open(&settings(&path)).unwrap();
        audit.write(&line_of("one"));
        audit.flush().await.unwrap();
        std::fs::rename(&path, directory.path().join("old")).unwrap();
        audit.write(&line_of("two"));
        audit.flush().await.unwrap();
        audit.redirect(&settings(&path), Target::open(&settings(&path)).unwrap());
        audit.write(&line_of("three"));
        audit.flush().await.unwrap();
        let names = |file: &str| -> Vec<String> {
            let text = std::fs::read_to_string(directory.path().join(file)).unwrap();
            text.lines()
                .map(|line| serde_json::from_str::<Line<'_>>(line).unwrap().name.into_owned())
                .collect()
        };
        assert_eq!(
            (names("old"), names("audit.jsonl")),
            (vec!["one".into(), "two".into()], vec!["three".to_owned()])
        );
    }

    #[tokio::test]
    async fn what_cannot_be_written_waits_and_what_is_too_much_is_counted() {
        let full = Path::new("/dev/full");
        let audit = Audit::open(&settings(full)).unwrap();
        let long = "x".repeat(1 << 20);
        for _ in 0..12 {
            audit.write(&line_of(&long));
        }
        assert_eq!(audit.lost(), 4);
        audit.flush().await.unwrap_err();
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("audit.jsonl");
        audit.redirect(&settings(&path), Target::open(&settings(&path)).unwrap());
        audit.flush().await.unwrap();
        assert_eq!(std::fs::read_to_string(path).unwrap().lines().count(), 8);
    }

    #[tokio::test]
    async fn a_batch_that_is_just_being_written_counts_among_what_waits() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("audit.fifo");
        nix::unistd::mkfifo(&path, nix::sys::stat::Mode::S_IRWXU).unwrap();
        // Both ends, because opening one waits for the other. It holds 64 KiB.
        let reader = OpenOptions::new().read(true).write(true).open(&path).unwrap();
        let audit = Audit::open(&settings(&path)).unwrap();
        let long = "x".repeat(1 << 20);
        let write = |count| (0..count).for_each(|_| audit.write(&line_of(&long)));
        write(6);
        let mut flush = std::pin::pin!(audit.flush());
        let polled = std::future::poll_fn(|cx| std::task::Poll::Ready(flush.as_mut().poll(cx))).await;
        assert!(polled.is_pending());
        write(6);
        assert_eq!(audit.lost(), 4);
        let read =
            tokio::task::spawn_blocking(|| io::BufRead::lines(io::BufReader::new(reader)).take(6).count());
        flush.await.unwrap();
        assert_eq!(read.await.unwrap(), 6);
        write(6);
        assert_eq!(audit.lost(), 4, "there is room again");
    }

    #[test]
    fn a_file_that_cannot_be_opened_is_named_with_its_key() {
        let error = Target::open(&settings(Path::new("/nonexistent/audit"))).unwrap_err().to_string();
        assert_eq!(error, "audit.file: /nonexistent/audit: No such file or directory (os error 2)");
    }
}
