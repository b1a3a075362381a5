//! The newest lines, within bounds, each with a number, so that those who follow need only remember how far they are.

use std::collections::VecDeque;
use std::sync::Arc;

/// Lines kept.
pub(super) const LINES: usize = 200;
/// Bytes kept, of all lines together.
pub(super) const BYTES: usize = 64 * 1024;

/// One line, without its end.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Line {
    /// `stdout`, `stderr`, or what else it was pumped as.
    pub stream: &'static str,
    /// What it says.
    pub text: Arc<str>,
}

/// What somebody who follows gets.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum Followed {
    /// The next line.
    Line(Line),
    /// So many lines are gone, because they were not read in time.
    Lost(u64),
}

/// The newest lines.
#[derive(Default)]
pub(super) struct Ring {
    lines: VecDeque<Line>,
    bytes: usize,
    /// Number of the next line to come.
    next: u64,
}

impl Ring {
    pub(super) fn push(&mut self, line: Line) {
        self.bytes += line.text.len();
        self.lines.push_back(line);
        self.next += 1;
        while self.lines.len() > LINES || self.bytes > BYTES {
            self.bytes -= self.lines.pop_front().map_or(self.bytes, |line| line.text.len());
        }
    }

    /// The newest `number` lines, the oldest first.
    pub(super) fn last(&self, number: usize) -> impl Iterator<Item = &Line> {
        self.lines.iter().skip(self.lines.len().saturating_sub(number))
    }

    /// The lines from this number on, as far as they are kept.
    pub(super) fn since(&self, number: u64) -> impl Iterator<Item = &Line> {
        let kept = usize::try_from(self.next.saturating_sub(number)).unwrap_or(usize::MAX);
        self.last(kept)
    }

    /// The number of the next line to come.
    pub(super) fn next(&self) -> u64 {
        self.next
    }

    /// The number of the first of the newest `last` lines.
    pub(super) fn number_of_last(&self, last: usize) -> u64 {
        self.next - last.min(self.lines.len()) as u64
    }

    /// What comes at this number, and the number after it; none if it has not come yet.
    pub(super) fn after(&self, number: u64) -> Option<(Followed, u64)> {
        let oldest = self.number_of_last(self.lines.len());
        if number < oldest {
            return Some((Followed::Lost(oldest - number), oldest));
        }
        let line = self.lines.get(usize::try_from(number - oldest).ok()?)?;
        Some((Followed::Line(line.clone()), number + 1))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn line(text: &str) -> Line {
        Line { stream: "stdout", text: text.into() }
    }

    #[test]
    fn old_lines_make_room_by_number_and_by_size() {
        let mut ring = Ring::default();
        for number in 0..LINES + 7 {
            ring.push(line(&number.to_string()));
        }
        assert_eq!(ring.last(usize::MAX).count(), LINES);
        assert_eq!(ring.last(2).map(|line| line.text.to_string()).collect::<Vec<_>>(), ["205", "206"]);
        for _ in 0..10 {
            ring.push(line(&"x".repeat(BYTES / 4)));
        }
        assert_eq!((ring.lines.len(), ring.bytes), (4, BYTES));
    }

    #[test]
    fn who_is_late_is_told_how_much_is_gone_and_goes_on_with_the_oldest() {
        let mut ring = Ring::default();
        assert_eq!(ring.after(0), None);
        for number in 0..LINES + 7 {
            ring.push(line(&number.to_string()));
        }
        assert_eq!(ring.after(3), Some((Followed::Lost(4), 7)));
        assert_eq!(ring.after(7), Some((Followed::Line(line("7")), 8)));
        assert_eq!(ring.after(ring.next), None);
    }
}
