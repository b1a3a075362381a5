//! Lines of bounded length from a pipe: messages of a stdio peer, or its log.
//!
//! Ends at LF; a CR before it is dropped. A longer line is cut, told as such, and the rest of it skipped.

use std::io;

use bytes::Bytes;
use tokio::io::{AsyncBufReadExt, AsyncRead, BufReader};

/// Bytes read at once; half of what a Linux pipe holds.
const CHUNK: usize = 32 << 10;

/// One line without its end.
#[derive(Debug, Eq, PartialEq)]
pub struct Line {
    /// The text, or as much of it as the limit allows.
    pub text: Bytes,
    /// Whether there was more.
    pub cut: bool,
}

/// Reads lines of at most `limit` bytes.
pub struct Lines<R> {
    reader: BufReader<R>,
    limit: usize,
    /// The beginning of a line whose end has not come yet.
    partial: Vec<u8>,
    cut: bool,
    ended: bool,
}

impl<R: AsyncRead + Unpin> Lines<R> {
    /// Starts to read from `reader`; `limit` in bytes.
    pub fn new(reader: R, limit: usize) -> Self {
        let reader = BufReader::with_capacity(CHUNK, reader);
        Lines { reader, limit, partial: Vec::new(), cut: false, ended: false }
    }

    /// The next line that is not empty; the last one may lack its end. Cancel safe.
    pub async fn next(&mut self) -> io::Result<Option<Line>> {
        while !self.ended {
            let chunk = self.reader.fill_buf().await?;
            self.ended = chunk.is_empty();
            let end = memchr::memchr(b'\n', chunk);
            let piece = &chunk[..end.unwrap_or(chunk.len())];
            let room = self.limit - self.partial.len();
            self.cut |= piece.len() > room;
            self.partial.extend_from_slice(&piece[..piece.len().min(room)]);
            let used = end.map_or(chunk.len(), |end| end + 1);
            self.reader.consume(used);
            if end.is_none() && !self.ended {
                continue;
            }
            let line =
                Line { text: std::mem::take(&mut self.partial).into(), cut: std::mem::take(&mut self.cut) };
            let text = line.text.strip_suffix(b"\r").unwrap_or(&line.text);
            if !text.trim_ascii().is_empty() {
                return Ok(Some(Line { text: line.text.slice_ref(text), cut: line.cut }));
            }
        }
        Ok(None)
    }
}

/// `message` (valid JSON) as one line with its end: line ends can stand only between tokens there, and become spaces.
pub fn one_line(message: &[u8]) -> Bytes {
    let mut line = Vec::with_capacity(message.len() + 1);
    line.extend_from_slice(message.trim_ascii());
    for byte in &mut line {
        if matches!(byte, b'\n' | b'\r') {
            *byte = b' ';
        }
    }
    line.push(b'\n');
    line.into()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use tokio::io::AsyncWriteExt;

    use super::*;

    async fn read(input: &[u8], limit: usize) -> Vec<(String, bool)> {
        let mut lines = Lines::new(input, limit);
        let mut seen = Vec::new();
        while let Some(line) = lines.next().await.unwrap() {
            seen.push((String::from_utf8_lossy(&line.text).into_owned(), line.cut));
        }
        seen
    }

    #[tokio::test]
    async fn line_ends_of_both_kinds_and_a_missing_last_one() {
        let seen = read(b"one\r\n\n  \r\ntwo\nthree", 100).await;
        assert_eq!(seen, [("one".into(), false), ("two".into(), false), ("three".into(), false)]);
    }

    #[tokio::test]
    async fn a_line_over_the_limit_is_cut_and_the_next_one_is_whole() {
        let long = [vec![b'x'; 100_000], b"\nnext\n".to_vec()].concat();
        assert_eq!(read(&long, 5).await, [("xxxxx".into(), true), ("next".into(), false)]);
        assert_eq!(read(b"12345\n123456\n", 5).await, [("12345".into(), false), ("12345".into(), true)]);
    }

    #[tokio::test]
    async fn a_reader_that_gave_up_waiting_loses_nothing() {
        let (mut here, there) = tokio::io::duplex(64);
        let mut lines = Lines::new(there, 100);
        here.write_all(b"first ha").await.unwrap();
        tokio::select! {
            biased;
            _ = lines.next() => panic!("there is no line yet"),
            () = tokio::task::yield_now() => {}
        }
        here.write_all(b"lf\n").await.unwrap();
        assert_eq!(lines.next().await.unwrap().unwrap().text, "first half");
    }

    #[test]
    fn a_message_of_several_lines_becomes_one() {
        assert_eq!(one_line(b"{\r\n \"a\":\n1}\n"), "{   \"a\": 1}\n");
    }

    proptest! {
        #[test]
        fn chunks_and_limits_never_panic(input in proptest::collection::vec(prop_oneof![Just(b'\n'), Just(b'\r'), any::<u8>()], 0..200), limit in 0usize..50) {
            let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
            for (text, _) in runtime.block_on(read(&input, limit)) {
                prop_assert!(!text.contains('\n') && text.chars().count() <= limit);
            }
        }
    }
}
