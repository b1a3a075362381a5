//! What somebody who waits reads: which step it is at, how much of it is done, and how long the rest takes.

use std::io::Write;

use mcp_daemon::terminal::{Progress, spell};
use serde_json::Value;

use super::size;

/// The first guess of how long it takes needs this many seconds.
const FIRST_GUESS: f64 = 1.0;

/// Shows how far it is, as `report::progress` has it; may be called as often as one likes.
pub fn show<W: Write>(shown: &mut Progress<W>, progress: &Value) {
    if let Some(step) = progress["step"].as_str() {
        shown.show(step, |since| line(step, progress, since.as_secs_f64()));
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
        parts.push(format!("{} left", spell(left.ceil() as u64)));
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
}
