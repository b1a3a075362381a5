//! How far a long work is: one line that is written over on a terminal, one line for each step elsewhere.

use std::io::{self, IsTerminal, Write};
use std::time::Duration;

use tokio::time::Instant;

/// Columns that are used of a terminal, whose width nobody asks for; most have more.
const WIDTH: usize = 79;
/// Goes to the start of the line and clears it.
const OVER: &str = "\r\x1b[K";

/// The line, or the lines; cleared when it is dropped.
#[derive(Debug)]
pub struct Progress<W: Write> {
    out: W,
    /// Whether the line is written over.
    in_place: bool,
    /// The newest step, and since when.
    step: String,
    since: Instant,
    /// Whether there is a line to clear.
    is_open: bool,
}

impl Progress<io::Stderr> {
    /// On stderr, where it is in nobody's way.
    pub fn stderr() -> Self {
        let stderr = io::stderr();
        let in_place = stderr.is_terminal();
        Progress::on(stderr, in_place)
    }
}

impl<W: Write> Progress<W> {
    /// Elsewhere; `in_place` where it is a terminal.
    pub fn on(out: W, in_place: bool) -> Self {
        Progress { out, in_place, step: String::new(), since: Instant::now(), is_open: false }
    }

    /// Whether anybody sees more of it than its steps.
    pub fn is_shown(&self) -> bool {
        self.in_place
    }

    /// Says which step it is at, and on a terminal what `line` makes of the time since that step began. May be called as
    /// often as one likes.
    pub fn show(&mut self, step: &str, line: impl FnOnce(Duration) -> String) {
        if step != self.step {
            step.clone_into(&mut self.step);
            self.since = Instant::now();
            if !self.in_place {
                // A closed stderr is no reason to stop.
                let _ = writeln!(self.out, "{step}");
            }
        }
        if self.in_place {
            let line: String = line(self.since.elapsed()).chars().take(WIDTH).collect();
            let _ = write!(self.out, "{OVER}{line}").and_then(|()| self.out.flush());
            self.is_open = true;
        }
    }

    /// Clears the line, so that something else can be written.
    pub fn clear(&mut self) {
        if self.is_open {
            let _ = write!(self.out, "{OVER}").and_then(|()| self.out.flush());
            self.is_open = false;
        }
    }
}

impl<W: Write> Drop for Progress<W> {
    fn drop(&mut self) {
        self.clear();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shown(in_place: bool) -> String {
        let mut out = Vec::new();
        let mut progress = Progress::on(&mut out, in_place);
        for (step, line) in [("one", "one"), ("one", "one, 1 s"), ("two", &"x".repeat(100))] {
            progress.show(step, |_| line.to_owned());
        }
        drop(progress);
        String::from_utf8(out).unwrap()
    }

    #[test]
    fn a_terminal_gets_one_line_that_is_gone_in_the_end() {
        let full = "x".repeat(WIDTH);
        assert_eq!(shown(true), format!("{OVER}one{OVER}one, 1 s{OVER}{full}{OVER}"));
    }

    #[test]
    fn elsewhere_each_step_is_one_line() {
        assert_eq!(shown(false), "one\ntwo\n");
    }
}
