//! How far a long work is: one line that is written over on a terminal, one line for each step elsewhere.

use std::io::{self, IsTerminal, Write};

use serde_json::Value;
use tokio::time::Instant;

use super::size;

/// Columns that are used of a terminal, whose width nobody asks for.
const WIDTH: usize = 79;
/// Goes to the start of the line and clears it.
const OVER: &str = "\r\x1b[K";
/// The first guess of how long it takes needs this many seconds.
const FIRST_GUESS: f64 = 1.0;

/// The line, or the lines.
pub struct Progress<W: Write> {
    out: W,
    in_place: bool,
    step: String,
    since: Instant,
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
    fn on(out: W, in_place: bool) -> Self {
        Progress { out, in_place, step: String::new(), since: Instant::now(), is_open: false }
    }

    /// Whether anybody sees more of it than its steps.
    pub fn is_shown(&self) -> bool {
        self.in_place
    }

    /// Shows how far it is, as `report::progress` has it; may be called as often as one likes.
    pub fn show(&mut self, progress: &Value) {
        let Some(step) = progress["step"].as_str() else { return };
        if step != self.step {
            step.clone_into(&mut self.step);
            self.since = Instant::now();
            if !self.in_place {
                // A closed stderr is no reason to stop.
                let _ = writeln!(self.out, "{step}");
            }
        }
        if self.in_place {
            let line: String =
                line(step, progress, self.since.elapsed().as_secs_f64()).chars().take(WIDTH).collect();
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

/// `packing 12 of 34 files, 1.2 of 3.4 MiB, 5 s left`.
fn line(step: &str, progress: &Value, seconds: f64) -> String {
    let number = |key: &str| progress[key].as_u64().unwrap_or_default();
    let (files, files_total) = (number("files"), number("files_total"));
    let (bytes, bytes_total) = (number("bytes"), number("bytes_total"));
    let mut parts = Vec::new();
    match (files, files_total) {
        (0, 0) => {}
        (files, 0) => parts.push(format!("{files} files")),
        (files, total) => parts.push(format!("{files} of {total} files")),
    }
    match (bytes, bytes_total) {
        (0, 0) => {}
        (bytes, 0) => parts.push(size(bytes)),
        (bytes, total) => parts.push(format!("{} of {}", size(bytes), size(total))),
    }
    if seconds >= FIRST_GUESS && bytes > 0 && bytes_total > bytes {
        let left = seconds * (bytes_total - bytes) as f64 / bytes as f64;
        parts.push(format!("{} left", super::spell(left.ceil() as u64)));
    }
    format!("{step} {}", parts.join(", ")).trim_end().to_owned()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn at(step: &str, bytes: u64) -> Value {
        json!({ "step": step, "bytes": bytes, "bytes_total": 4 << 20, "files": 1, "files_total": 3 })
    }

    #[test]
    fn a_line_says_how_much_is_left_once_that_can_be_guessed() {
        assert_eq!(line("packing", &at("packing", 1 << 20), 0.5), "packing 1 of 3 files, 1.0 MiB of 4.0 MiB");
        assert_eq!(
            line("packing", &at("packing", 1 << 20), 2.0),
            "packing 1 of 3 files, 1.0 MiB of 4.0 MiB, 6 s left"
        );
        assert_eq!(line("looking", &json!({ "step": "looking", "files": 7 }), 9.0), "looking 7 files");
        assert_eq!(line("syncing", &json!({ "step": "syncing" }), 9.0), "syncing");
    }

    #[test]
    fn elsewhere_than_on_a_terminal_each_step_is_one_line() {
        let mut out = Vec::new();
        let mut progress = Progress::on(&mut out, false);
        for step in [at("packing", 0), at("packing", 9), at("sending", 0), Value::Null] {
            progress.show(&step);
        }
        drop(progress);
        assert_eq!(String::from_utf8(out).unwrap(), "packing\nsending\n");
    }

    #[test]
    fn the_line_on_a_terminal_is_gone_in_the_end() {
        let mut out = Vec::new();
        let mut progress = Progress::on(&mut out, true);
        progress.show(&json!({ "step": "syncing" }));
        drop(progress);
        assert_eq!(String::from_utf8(out).unwrap(), format!("{OVER}syncing{OVER}"));
    }
}
