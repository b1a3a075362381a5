//! A stream of events, cut into blocks whatever the chunks were, and every edit of a block that sessiond makes.
//!
//! The first eight bytes of an input are the lengths of the chunks, used in turn; the rest is the stream.

#![no_main]

use bytes::Bytes;
use libfuzzer_sys::fuzz_target;
use sessiond::sse::{self, Splitter};

/// How many bytes say how to cut.
const LENGTHS: usize = 8;
/// Longest chunk in bytes; most blocks then come in several.
const LONGEST: u8 = 40;

fuzz_target!(|input: &[u8]| {
    let Some((lengths, stream)) = input.split_at_checked(LENGTHS) else { return };
    let (blocks, rest) = cut([stream]);
    assert_eq!([blocks.concat(), rest.to_vec()].concat(), stream, "bytes got lost");
    assert_eq!(cut(chunks(lengths, stream)), (blocks.clone(), rest.clone()), "the chunks matter");
    for block in &blocks {
        assert!(block.ends_with(b"\n") || block.ends_with(b"\r"), "a block without its blank line");
        edits(block);
    }
    edits(&rest);
});

/// The blocks of a stream that comes in `chunks`, and what is left over.
fn cut<'a>(chunks: impl IntoIterator<Item = &'a [u8]>) -> (Vec<Bytes>, Bytes) {
    let mut splitter = Splitter::default();
    let mut blocks = Vec::new();
    for chunk in chunks {
        splitter.push(Bytes::copy_from_slice(chunk)).expect("an input is smaller than a block may be");
        blocks.extend(std::iter::from_fn(|| splitter.next_block()));
    }
    (blocks, Bytes::copy_from_slice(splitter.rest()))
}

/// `stream` in pieces of these lengths, taken in turn; some are empty.
fn chunks<'a>(lengths: &[u8], stream: &'a [u8]) -> Vec<&'a [u8]> {
    let mut lengths = lengths.iter().map(|length| usize::from(length % LONGEST)).collect::<Vec<_>>();
    // So that every turn gets on.
    lengths.push(1);
    let mut rest = stream;
    let mut chunks = Vec::new();
    for length in lengths.into_iter().cycle() {
        let (chunk, after) = rest.split_at(length.min(rest.len()));
        chunks.push(chunk);
        rest = after;
        if rest.is_empty() {
            break;
        }
    }
    chunks
}

/// Whatever is done to a block, its ids go and everything else stays.
fn edits(block: &Bytes) {
    let kept: Vec<u8> = lines(block).into_iter().filter(|line| !is_ours(line)).flatten().copied().collect();
    let seen = sse::look(block);
    assert_eq!(seen.id.is_some(), kept.len() < block.len(), "an id was overlooked");

    let numbered = sse::with_id(block, "x7");
    assert_eq!(numbered, [b"id: x7\n", &kept[..]].concat(), "with_id changed more than ids");
    assert_eq!(sse::look(&numbered).id.as_deref(), Some(&b"x7"[..]));
    assert_eq!(sse::data(&numbered), seen.data);

    let bare = sse::without_id(block);
    assert_eq!(sse::look(&bare).id, None, "without_id left one");
    assert_eq!(sse::data(&bare), seen.data);
    assert!(bare == kept || (bare.is_empty() && kept.iter().all(|byte| b"\r\n".contains(byte))));

    let replaced = sse::with_data(block, "x7", b"{}");
    assert_eq!(sse::look(&replaced).id.as_deref(), Some(&b"x7"[..]));
    assert_eq!(sse::data(&replaced), seen.data.map(|_| Bytes::from_static(b"{}")));
}

/// The lines of a block with their ends, found in another way than by the code under test.
fn lines(block: &[u8]) -> Vec<&[u8]> {
    let ends = |at: usize| match block[at] {
        b'\n' => true,
        b'\r' => block.get(at + 1) != Some(&b'\n'),
        _ => false,
    };
    let mut lines = Vec::new();
    let mut start = 0;
    for at in (0..block.len()).filter(|at| ends(*at)) {
        lines.push(&block[start..=at]);
        start = at + 1;
    }
    lines.push(&block[start..]);
    lines
}

/// Whether a line is a field that the proxy writes itself; its name ends at the colon or, without one, with the line.
fn is_ours(line: &[u8]) -> bool {
    let name = line.split(|byte| b":\r\n".contains(byte)).next().unwrap_or_default();
    name == b"id"
}
