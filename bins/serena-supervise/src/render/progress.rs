//! What happens while somebody waits: one line that is written over on a terminal, one line for each step elsewhere.

use std::io::{self, IsTerminal, Write};
use std::time::Duration;

/// Columns that are used of a terminal, whose width nobody asks for; most have more.
const WIDTH: usize = 79;
/// Goes to the start of the line and clears it.
const OVER: &str = "\r\x1b[K";

/// The line, or the lines.
#[derive(Debug)]
pub struct Progress<W: Write> {
    out: W,
    /// Whether the line is written over.
    in_place: bool,
    /// The newest step.
    said: String,
    /// Whether there is a line to clear.
    open: bool,
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
    fn on(out: W, in_place: bool) -> Self {
        Progress { out, in_place, said: String::new(), open: false }
    }

    /// Says which step it is at, for how long already, and what was heard last; the last two on a terminal only. May be
    /// called as often as one likes.
    pub fn show(&mut self, step: &str, since: Duration, heard: &str) {
        if self.in_place {
            let seconds = since.as_secs();
            let mut line = if seconds == 0 { step.to_owned() } else { format!("{step}, {seconds} s") };
            if !heard.is_empty() {
                line = format!("{line} | {heard}");
            }
            let line: String = line.chars().take(WIDTH).collect();
            // A closed stderr is no reason not to start.
            let _ = write!(self.out, "{OVER}{line}").and_then(|()| self.out.flush());
            self.open = true;
        } else if step != self.said {
            let _ = writeln!(self.out, "{step}");
        }
        step.clone_into(&mut self.said);
    }

    /// Clears the line, so that something else can be written.
    pub fn clear(&mut self) {
        if self.open {
            let _ = write!(self.out, "{OVER}").and_then(|()| self.out.flush());
            self.open = false;
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
        progress.show("serena starts", Duration::ZERO, "");
        progress.show("serena starts", Duration::from_secs(1), "downloading");
        progress.show("serena is ready", Duration::ZERO, &"x".repeat(100));
        drop(progress);
        String::from_utf8(out).unwrap()
    }

    #[test]
    fn a_terminal_gets_one_line_that_is_gone_in_the_end() {
        let rest = "x".repeat(WIDTH - "serena is ready | ".len());
        assert_eq!(
            shown(true),
            format!(
                "{OVER}serena starts{OVER}serena starts, 1 s | downloading{OVER}serena is ready | {rest}{OVER}"
            )
        );
    }

    #[test]
    fn elsewhere_each_step_is_one_line() {
        assert_eq!(shown(false), "serena starts\nserena is ready\n");
    }
}
