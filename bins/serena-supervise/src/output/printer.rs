//! Lines to stderr from a thread of their own: a pipe that nobody reads stops that thread, not the one that serves.

use std::fmt::Write as _;
use std::io::{self, Write};
use std::os::fd::AsFd;
use std::sync::{Condvar, Mutex, MutexGuard, OnceLock, PoisonError};
use std::thread;
use std::time::Duration;

use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::unistd;

/// Bytes that wait for a reader; beyond it lines are dropped and counted.
const WAITING: usize = 256 * 1024;

/// Our own log, in order with what the servers print, and as unable to stop us.
pub fn log_sink() -> Box<dyn Write + Send> {
    Box::new(Log)
}

/// Keeps what servers print off stderr, for a person who watches something else there; `logs` shows it all the same.
pub fn hide_servers() {
    Printer::stderr().state().hidden = true;
}

/// Writes lines in the background, in order.
pub(super) struct Printer {
    state: Mutex<State>,
    /// Told when there is something to write, and when it has been written.
    changed: Condvar,
}

struct State {
    text: String,
    dropped: u64,
    writing: bool,
    /// Whether what servers print is left out.
    hidden: bool,
    /// Where to; the thread has it once there is something to write.
    sink: Option<Box<dyn Write + Send>>,
}

impl Printer {
    /// The one that writes to our stderr.
    pub(super) fn stderr() -> &'static Self {
        static STDERR: OnceLock<Printer> = OnceLock::new();
        STDERR.get_or_init(|| Printer::to(Box::new(Stderr)))
    }

    pub(super) fn to(sink: Box<dyn Write + Send>) -> Self {
        let state =
            State { text: String::new(), dropped: 0, writing: false, hidden: false, sink: Some(sink) };
        Printer { state: Mutex::new(state), changed: Condvar::new() }
    }

    /// Prints a server's line with its tag; never waits.
    pub(super) fn print(&'static self, tag: &str, line: &str) {
        let mut state = self.state();
        if state.hidden {
            return;
        }
        if state.text.len() + tag.len() + line.len() > WAITING {
            state.dropped += 1;
            return;
        }
        writeln!(state.text, "[{tag}] {line}").expect("writing to a String cannot fail");
        self.wake(state);
    }

    /// Prints text as it is; never waits.
    fn print_raw(&'static self, text: &str) {
        let mut state = self.state();
        if state.text.len() + text.len() > WAITING {
            state.dropped += 1;
            return;
        }
        state.text.push_str(text);
        self.wake(state);
    }

    fn wake(&'static self, mut state: MutexGuard<'_, State>) {
        let sink = state.sink.take();
        drop(state);
        if let Some(sink) = sink
            && thread::Builder::new().name("printer".to_owned()).spawn(move || self.write(sink)).is_err()
        {
            // Without threads nothing else works either, and this is no place to log.
            self.state().hidden = true;
        }
        self.changed.notify_all();
    }

    /// Waits until everything is written, at most for `limit`.
    pub(super) fn flush(&self, limit: Duration) {
        let busy = |state: &mut State| state.sink.is_none() && (state.writing || !state.text.is_empty());
        drop(self.changed.wait_timeout_while(self.state(), limit, busy));
    }

    fn write(&self, mut sink: impl Write) {
        let mut state = self.state();
        loop {
            state.writing = false;
            self.changed.notify_all();
            state = self
                .changed
                .wait_while(state, |state| state.text.is_empty())
                .unwrap_or_else(PoisonError::into_inner);
            let mut text = std::mem::take(&mut state.text);
            let dropped = std::mem::take(&mut state.dropped);
            if dropped > 0 {
                writeln!(text, "{dropped} lines dropped, stderr is not read fast enough").expect("a String");
            }
            state.writing = true;
            drop(state);
            // Nobody is left to be told.
            let _ = sink.write_all(text.as_bytes());
            state = self.state();
        }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Our stderr without the lock of [`io::stderr`]: whoever logs must not wait for a pipe that nobody reads because we do.
struct Stderr;

impl Write for Stderr {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let stderr = io::stderr();
        loop {
            match unistd::write(&stderr, bytes) {
                // Whoever shares it with us made it non-blocking.
                Err(Errno::EAGAIN) => {
                    poll(&mut [PollFd::new(stderr.as_fd(), PollFlags::POLLOUT)], PollTimeout::NONE)?;
                }
                done => return Ok(done?),
            }
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// See [`log_sink`].
struct Log;

impl Write for Log {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        Printer::stderr().print_raw(&String::from_utf8_lossy(bytes));
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::io::Read;

    use super::*;

    #[test]
    fn a_pipe_that_nobody_reads_costs_lines_and_not_time_and_the_loss_is_told() {
        const LINES: usize = 20_000;
        let (mut reader, writer) = io::pipe().unwrap();
        let printer: &'static Printer = Box::leak(Box::new(Printer::to(Box::new(writer))));
        let line = "x".repeat(100);
        for _ in 0..LINES {
            printer.print("name", &line);
        }
        let (whole, mut text) = (format!("[name] {line}"), String::new());
        let (mut printed, mut dropped) = (0, 0);
        while printed + dropped < LINES {
            let mut piece = [0; 4096];
            let read = reader.read(&mut piece).unwrap();
            text.push_str(std::str::from_utf8(&piece[..read]).unwrap());
            while let Some((line, rest)) = text.split_once('\n') {
                match line.split_once(" lines dropped, ") {
                    Some((number, _)) => dropped += number.parse::<usize>().unwrap(),
                    None => {
                        assert_eq!(line, whole);
                        printed += 1;
                    }
                }
                text = rest.to_owned();
            }
        }
        assert!(dropped > 0);
        assert_eq!(printed + dropped, LINES);
    }

    #[test]
    fn flush_waits_for_what_was_printed_and_not_for_a_stuck_reader() {
        let (mut reader, writer) = io::pipe().unwrap();
        let printer: &'static Printer = Box::leak(Box::new(Printer::to(Box::new(writer))));
        printer.flush(Duration::MAX);
        printer.print("a", "last words");
        printer.flush(Duration::MAX);
        let mut found = [0; 15];
        reader.read_exact(&mut found).unwrap();
        assert_eq!(&found, b"[a] last words\n");
        printer.print("a", &"x".repeat(WAITING / 2));
        printer.flush(Duration::from_millis(1));
    }
}
