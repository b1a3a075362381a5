//! Bytes to lines: any bytes, lines of any length, in memory that does not grow with them.

/// Longest line in bytes; what follows is thrown away up to the line's end.
pub(super) const LONGEST: usize = 16 * 1024;
/// Ends a line that was cut.
pub(super) const MARK: &str = " [cut]";

/// Cuts a stream of bytes into lines; a line end is `\n` or `\r\n`.
#[derive(Default)]
pub(super) struct Splitter {
    /// The beginning of a line whose end has not come.
    begun: Vec<u8>,
    /// Whether that line is too long and has been told already.
    cut: bool,
}

impl Splitter {
    /// Takes the next bytes, and tells each line that ends in them or is too long.
    pub(super) fn take(&mut self, piece: &[u8], mut tell: impl FnMut(&str)) {
        for part in piece.split_inclusive(|byte| *byte == b'\n') {
            match part.strip_suffix(b"\n") {
                Some(rest) => {
                    self.push(rest, &mut tell);
                    self.end(&mut tell);
                }
                None => self.push(part, &mut tell),
            }
        }
    }

    /// Tells what has no line end.
    pub(super) fn finish(&mut self, mut tell: impl FnMut(&str)) {
        if !self.begun.is_empty() {
            self.end(&mut tell);
        }
    }

    fn push(&mut self, bytes: &[u8], tell: &mut impl FnMut(&str)) {
        if self.cut {
            return;
        }
        let room = LONGEST - self.begun.len();
        if bytes.len() <= room {
            self.begun.extend_from_slice(bytes);
            return;
        }
        self.begun.extend_from_slice(&bytes[..room]);
        let mut text = lossy(&self.begun);
        text.push_str(MARK);
        tell(&text);
        self.begun = Vec::new();
        self.cut = true;
    }

    fn end(&mut self, tell: &mut impl FnMut(&str)) {
        if !std::mem::take(&mut self.cut) {
            let line = self.begun.strip_suffix(b"\r").unwrap_or(&self.begun);
            tell(&lossy(line));
        }
        self.begun.clear();
        // An unusually long line must not cost its memory for ever.
        self.begun.shrink_to(1024);
    }
}

fn lossy(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn lines<'a>(pieces: impl IntoIterator<Item = &'a [u8]>) -> Vec<String> {
        let mut splitter = Splitter::default();
        let mut lines = Vec::new();
        for piece in pieces {
            splitter.take(piece, |line| lines.push(line.to_owned()));
        }
        splitter.finish(|line| lines.push(line.to_owned()));
        lines
    }

    #[test]
    fn line_ends_of_both_kinds_and_none_at_the_end() {
        assert_eq!(lines([&b"a\r\n\nb\xff"[..], b"c"]), ["a", "", "b\u{fffd}c"]);
        assert_eq!(lines([&b"a\n"[..]]), ["a"]);
    }

    #[test]
    fn a_long_line_is_cut_once_and_the_next_one_is_whole() {
        let long = vec![b'x'; LONGEST];
        assert_eq!(
            lines([&long[..], b"\nnext\n"]),
            [String::from_utf8(long.clone()).unwrap(), "next".into()]
        );
        let cut = format!("{}{MARK}", "x".repeat(LONGEST));
        assert_eq!(lines([&long[..], b"y", &long, &long, b"y\nnext"]), [cut, "next".into()]);
    }

    #[test]
    fn a_line_of_10_mb_does_not_grow_memory() {
        let mut splitter = Splitter::default();
        let mut told = 0;
        for _ in 0..10_000 {
            splitter.take(&[b'x'; 1000], |_| told += 1);
            assert!(splitter.begun.capacity() <= 2 * LONGEST, "{}", splitter.begun.capacity());
        }
        assert_eq!(told, 1);
    }

    proptest! {
        #[test]
        fn where_the_pieces_end_does_not_matter(text in "[a\r\n]{0,40}", cuts in prop::collection::vec(0usize..41, 0..5)) {
            let mut cuts: Vec<usize> = cuts.into_iter().map(|cut| cut.min(text.len())).collect();
            cuts.extend([0, text.len()]);
            cuts.sort_unstable();
            let pieces = cuts.windows(2).map(|pair| &text.as_bytes()[pair[0]..pair[1]]);
            prop_assert_eq!(lines(pieces), lines([text.as_bytes()]));
        }
    }
}
