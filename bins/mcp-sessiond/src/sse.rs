//! Server-sent events as a proxy needs them: cut the byte stream into blocks, look at the data, put our own id on it.
//!
//! A block is everything up to and including its blank line, so that what is not ours to change stays byte for byte.
//! Line ends may be LF, CRLF or CR (HTML, section 9.2.5). Which ids we mint, and who may resume, is in `streams`.

use std::fmt::Write as _;

use bytes::{Bytes, BytesMut};

/// Largest block; a server that sends more without a blank line is cut off. Serena's answers stay far below.
pub const MAX_BLOCK: usize = 64 << 20;

/// A block grew beyond [`MAX_BLOCK`].
#[derive(Debug, thiserror::Error, Eq, PartialEq)]
#[error("an event of more than {MAX_BLOCK} bytes")]
pub struct TooLarge;

/// Cuts a byte stream into blocks, whatever the chunks were.
#[derive(Debug, Default)]
pub struct Splitter {
    buffer: BytesMut,
    /// How much of `buffer` is known to hold no block end.
    scanned: usize,
    /// The one chunk that is being cut, while nothing is left over from earlier ones: no copy then.
    chunk: Bytes,
}

impl Splitter {
    /// Takes the next chunk.
    pub fn push(&mut self, chunk: Bytes) -> Result<(), TooLarge> {
        if self.buffer.is_empty() && self.chunk.is_empty() {
            self.chunk = chunk;
            self.scanned = 0;
            return Ok(());
        }
        if !self.chunk.is_empty() {
            self.buffer.extend_from_slice(&std::mem::take(&mut self.chunk));
        }
        self.buffer.extend_from_slice(&chunk);
        if self.buffer.len() > MAX_BLOCK { Err(TooLarge) } else { Ok(()) }
    }

    /// The next whole block, with its blank line.
    pub fn next_block(&mut self) -> Option<Bytes> {
        let pending: &[u8] = if self.chunk.is_empty() { &self.buffer } else { &self.chunk };
        match block_end(pending, self.scanned) {
            Ok(end) => {
                self.scanned = 0;
                Some(if self.chunk.is_empty() {
                    self.buffer.split_to(end).freeze()
                } else {
                    self.chunk.split_to(end)
                })
            }
            Err(scanned) => {
                self.scanned = scanned;
                None
            }
        }
    }

    /// What is left when the stream ends: a block without its blank line, which a client must not act on.
    pub fn rest(&self) -> &[u8] {
        if self.chunk.is_empty() { &self.buffer } else { &self.chunk }
    }
}

/// The end of the first block in `bytes`, or from where to look again once there is more.
fn block_end(bytes: &[u8], from: usize) -> Result<usize, usize> {
    let mut at = from;
    loop {
        let Some(line_end) = memchr::memchr2(b'\n', b'\r', &bytes[at..]).map(|found| at + found) else {
            return Err(bytes.len());
        };
        let Some(next) = after_line_end(bytes, line_end) else { return Err(line_end) };
        match bytes.get(next) {
            None => return Err(line_end),
            Some(b'\n') => return Ok(next + 1),
            Some(b'\r') => match bytes.get(next + 1) {
                // A lone CR may turn out to be the first half of CRLF.
                None => return Err(line_end),
                Some(b'\n') => return Ok(next + 2),
                Some(_) => return Ok(next + 1),
            },
            Some(_) if line_end == 0 => return Ok(next),
            Some(_) => at = next,
        }
    }
}

/// Where the line after the line end at `at` starts; `None` if that cannot be known yet.
fn after_line_end(bytes: &[u8], at: usize) -> Option<usize> {
    match (bytes[at], bytes.get(at + 1)) {
        (b'\r', None) => None,
        (b'\r', Some(b'\n')) => Some(at + 2),
        _ => Some(at + 1),
    }
}

/// The lines of a block, each with its line end.
fn lines(block: &[u8]) -> impl Iterator<Item = &[u8]> {
    let mut rest = block;
    std::iter::from_fn(move || {
        if rest.is_empty() {
            return None;
        }
        let end = match memchr::memchr2(b'\n', b'\r', rest) {
            None => rest.len(),
            Some(at) => after_line_end(rest, at).unwrap_or(rest.len()),
        };
        let (line, after) = rest.split_at(end);
        rest = after;
        Some(line)
    })
}

/// The value of `line` if it is the field `name`: without its line end and one leading space.
fn field<'a>(line: &'a [u8], name: &str) -> Option<&'a [u8]> {
    let mut text = line;
    while let [head @ .., b'\n' | b'\r'] = text {
        text = head;
    }
    let after = text.strip_prefix(name.as_bytes())?;
    match after {
        [] => Some(after),
        [b':', b' ', value @ ..] | [b':', value @ ..] => Some(value),
        _ => None,
    }
}

/// What one look at a block finds.
#[derive(Debug, Default)]
pub struct Look {
    /// The data, borrowed where it is one line; none where there is no data line (a comment, an id alone).
    pub data: Option<Bytes>,
    /// The value of the last `id:` line.
    pub id: Option<Bytes>,
}

/// Looks at a block, once: an event may be large.
pub fn look(block: &Bytes) -> Look {
    let mut found = Look::default();
    let mut joined: Option<BytesMut> = None;
    for line in lines(block) {
        // The first byte tells most lines apart.
        match line[0] {
            b'd' => {
                let Some(value) = field(line, "data") else { continue };
                match (&mut joined, &found.data) {
                    (None, None) => found.data = Some(block.slice_ref(value)),
                    (None, Some(first)) => {
                        let mut all = BytesMut::from(&first[..]);
                        all.extend_from_slice(b"\n");
                        all.extend_from_slice(value);
                        joined = Some(all);
                    }
                    (Some(all), _) => {
                        all.extend_from_slice(b"\n");
                        all.extend_from_slice(value);
                    }
                }
            }
            b'i' => {
                if let Some(value) = field(line, "id") {
                    found.id = Some(block.slice_ref(value));
                }
            }
            _ => {}
        }
    }
    if let Some(all) = joined {
        found.data = Some(all.freeze());
    }
    found
}

/// The data of a block, as in [`Look::data`].
pub fn data(block: &Bytes) -> Option<Bytes> {
    look(block).data
}

/// `block` without its `id:` lines and with our `id` in front.
pub fn with_id(block: &Bytes, id: &str) -> Bytes {
    let mut out = BytesMut::with_capacity(block.len() + id.len() + 6);
    let _ = writeln!(out, "id: {id}");
    let mut copied = 0;
    let mut at = 0;
    for line in lines(block) {
        let end = at + line.len();
        if field(line, "id").is_some() {
            out.extend_from_slice(&block[copied..at]);
            copied = end;
        }
        at = end;
    }
    out.extend_from_slice(&block[copied..]);
    out.freeze()
}

/// `block` without its `id:` lines; the very bytes that came if it has none, nothing if it has nothing else.
pub fn without_id(block: &Bytes) -> Bytes {
    let ours = |line: &[u8]| field(line, "id").is_some();
    if !lines(block).any(ours) {
        return block.clone();
    }
    let kept: Vec<&[u8]> = lines(block).filter(|line| !ours(line)).collect();
    if kept.iter().all(|line| line.iter().all(|byte| matches!(byte, b'\n' | b'\r'))) {
        return Bytes::new();
    }
    kept.concat().into()
}

/// `block` with its data replaced by `data` (one line of JSON); other fields stay, `id:` goes as in [`with_id`].
pub fn with_data(block: &Bytes, id: &str, data: &[u8]) -> Bytes {
    let mut out = BytesMut::with_capacity(block.len() + data.len());
    let _ = writeln!(out, "id: {id}");
    let mut written = false;
    for line in lines(block) {
        if field(line, "id").is_some() {
            continue;
        }
        if field(line, "data").is_none() {
            out.extend_from_slice(line);
        } else if !std::mem::replace(&mut written, true) {
            out.extend_from_slice(b"data: ");
            out.extend_from_slice(data);
            out.extend_from_slice(line_end_of(line));
        }
    }
    out.freeze()
}

fn line_end_of(line: &[u8]) -> &[u8] {
    let text = line.iter().rposition(|byte| !matches!(byte, b'\n' | b'\r')).map_or(0, |at| at + 1);
    &line[text..]
}

/// A message event of our own; a message of several lines becomes several data lines.
pub fn message(id: &str, json: &[u8]) -> Bytes {
    let mut out = BytesMut::with_capacity(json.len() + id.len() + 32);
    let _ = write!(out, "id: {id}\nevent: message\n");
    let mut json = json;
    while let [head @ .., b'\n' | b'\r' | b' '] = json {
        json = head;
    }
    for line in lines(json) {
        out.extend_from_slice(b"data: ");
        out.extend_from_slice(&line[..line.len() - line_end_of(line).len()]);
        out.extend_from_slice(b"\n");
    }
    out.extend_from_slice(b"\n");
    out.freeze()
}

/// The comment that keeps a silent stream alive.
pub const KEEP_ALIVE: Bytes = Bytes::from_static(b": keep-alive\n\n");

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn blocks(chunks: &[&[u8]]) -> Vec<Bytes> {
        let mut splitter = Splitter::default();
        let mut out = Vec::new();
        for chunk in chunks {
            splitter.push(Bytes::copy_from_slice(chunk)).unwrap();
            while let Some(block) = splitter.next_block() {
                out.push(block);
            }
        }
        out
    }

    #[test]
    fn blocks_of_every_framing_are_cut() {
        assert_eq!(blocks(&[b"data: 1\n\ndata: 2\n\n"]), ["data: 1\n\n", "data: 2\n\n"]);
        assert_eq!(blocks(&[b"event: message\r\ndata: 1\r\n\r\n"]), ["event: message\r\ndata: 1\r\n\r\n"]);
        assert_eq!(blocks(&[b"data: 1\r\rdata: 2\r\r\n"]), ["data: 1\r\r", "data: 2\r\r\n"]);
        assert_eq!(blocks(&[b"\ndata: 1\n\n"]), ["\n", "data: 1\n\n"]);
        assert_eq!(blocks(&[b"data: \nid: 0\nretry: 3000\n\n"]), ["data: \nid: 0\nretry: 3000\n\n"]);
    }

    #[test]
    fn ids_are_ours_and_the_rest_is_untouched() {
        let block =
            Bytes::from_static(b"event: message\r\nid: theirs\r\nretry: 5\r\ndata: {\"a\":1}\r\n\r\n");
        assert_eq!(with_id(&block, "7"), "id: 7\nevent: message\r\nretry: 5\r\ndata: {\"a\":1}\r\n\r\n");
        assert_eq!(with_data(&block, "7", b"{}"), "id: 7\nevent: message\r\nretry: 5\r\ndata: {}\r\n\r\n");
        assert_eq!(without_id(&block), "event: message\r\nretry: 5\r\ndata: {\"a\":1}\r\n\r\n");
        assert_eq!(without_id(&Bytes::from_static(b"id: 1\n\n")), "");
        assert_eq!(look(&block).id.unwrap(), "theirs");
    }

    #[test]
    fn data_lines_join_and_comments_have_none() {
        assert_eq!(data(&Bytes::from_static(b"data: a\ndata:b\ndata\n\n")).unwrap(), "a\nb\n");
        assert_eq!(data(&Bytes::from_static(b": hello\n\n")), None);
        assert_eq!(data(&Bytes::from_static(b"id: 1\ndata: \n\n")).unwrap(), "");
        assert_eq!(data(&Bytes::from_static(b"database: 1\n\n")), None);
    }

    #[test]
    fn a_message_of_several_lines_stays_one_event() {
        let event = message("1", b"{\n  \"a\": 1\r\n}\n");
        assert_eq!(event, "id: 1\nevent: message\ndata: {\ndata:   \"a\": 1\ndata: }\n\n");
        assert_eq!(data(&event).unwrap(), "{\n  \"a\": 1\n}");
    }

    proptest! {
        #[test]
        fn chunks_do_not_matter(text in "(data: [a-z]{0,5}|id: 3|:|)(\n|\r\n|\r)((data: x|event: y|)(\n|\r\n|\r)){0,12}", cuts in proptest::collection::vec(0usize..80, 0..6)) {
            let whole = blocks(&[text.as_bytes()]);
            let mut cuts: Vec<usize> = cuts.into_iter().map(|cut| cut.min(text.len())).collect();
            cuts.sort_unstable();
            let mut chunks = Vec::new();
            let mut from = 0;
            for cut in cuts {
                chunks.push(&text.as_bytes()[from..cut]);
                from = cut;
            }
            chunks.push(&text.as_bytes()[from..]);
            prop_assert_eq!(blocks(&chunks), whole);
        }

        #[test]
        fn no_bytes_are_lost(bytes in proptest::collection::vec(prop_oneof![Just(b'\n'), Just(b'\r'), any::<u8>()], 0..100)) {
            let mut splitter = Splitter::default();
            splitter.push(Bytes::copy_from_slice(&bytes)).unwrap();
            let mut seen = Vec::new();
            while let Some(block) = splitter.next_block() {
                seen.extend_from_slice(&block);
            }
            seen.extend_from_slice(splitter.rest());
            prop_assert_eq!(seen, bytes);
        }
    }
}
