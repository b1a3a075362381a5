//! HTTP/1.1 as a client, by hand: one write, as few reads as possible, nothing kept of a body but its beginning.
//! hyper would cost the load generator more than nginx costs the proxy, and then the generator is what is measured.
//! `Connection` does the I/O; `Rest` follows a body to its end, however it is cut.

use std::io;
use std::net::SocketAddr;

use memchr::memmem;
use tokio::net::TcpStream;

use crate::tls::Stream;

/// Room for a 64 KiB answer with its head, in bytes, so that it can come with one read.
const BUFFER: usize = 72 * 1024;
/// How much of a body is kept to look at, in bytes: an id stands at the beginning.
const OPENING: usize = 256;

/// A kept-alive connection to a server or proxy.
pub struct Connection {
    stream: Stream,
    buffer: Box<[u8]>,
    start: usize,
    end: usize,
}

/// What the bench wants to know of an answer.
pub struct Answer {
    /// HTTP status code.
    pub status: u16,
    /// Value of `Mcp-Session-Id`.
    pub session: Option<String>,
    /// Length of the body without its framing, in bytes.
    pub length: u64,
    opening: [u8; OPENING],
}

impl Answer {
    /// Whether `needle` stands in the beginning of the body.
    pub fn opens_with(&self, needle: &[u8]) -> bool {
        let kept = usize::try_from(self.length).map_or(OPENING, |length| length.min(OPENING));
        memmem::find(&self.opening[..kept], needle).is_some()
    }

    fn keep(&mut self, data: &[u8]) {
        if let Ok(length) = usize::try_from(self.length)
            && length < OPENING
        {
            let more = data.len().min(OPENING - length);
            self.opening[length..length + more].copy_from_slice(&data[..more]);
        }
        self.length += data.len() as u64;
    }
}

impl Connection {
    /// Connects to `address` with `TCP_NODELAY`, by TLS where that `is_secure`.
    pub async fn open(address: SocketAddr, is_secure: bool) -> io::Result<Self> {
        let stream = Stream::open(address, is_secure).await?;
        Ok(Self { stream, buffer: vec![0; BUFFER].into(), start: 0, end: 0 })
    }

    /// Sends `request` and reads the answer to its end.
    pub async fn exchange(&mut self, request: &[u8]) -> io::Result<Answer> {
        self.stream.write_all(request).await?;
        let (mut answer, mut rest) = self.head().await?;
        loop {
            let used = rest.walk(&self.buffer[self.start..self.end], |data| answer.keep(data))?;
            self.start += used;
            if rest == Rest::Done {
                return Ok(answer);
            }
            self.fill().await?;
        }
    }

    /// Sends `request` and waits for the head of an answer that stays open; the stream ends when the result is dropped.
    pub async fn stream(mut self, request: &[u8]) -> io::Result<TcpStream> {
        self.stream.write_all(request).await?;
        let (answer, _) = self.head().await?;
        match (answer.status, self.stream) {
            // The buffer is let go: thousands of streams are open at once.
            (200, Stream::Plain(stream)) => Ok(stream),
            (200, Stream::Secure(_)) => Err(io::Error::other("streams are measured without TLS")),
            (status, _) => {
                Err(io::Error::other(format!("a stream was answered with status {status}, expected 200")))
            }
        }
    }

    async fn head(&mut self) -> io::Result<(Answer, Rest)> {
        loop {
            let bytes = &self.buffer[self.start..self.end];
            if let Some(length) = memmem::find(bytes, b"\r\n\r\n") {
                let head = parse(&bytes[..length]);
                self.start += length + 4;
                return head;
            }
            self.fill().await?;
        }
    }

    async fn fill(&mut self) -> io::Result<()> {
        if self.start == self.end {
            (self.start, self.end) = (0, 0);
        } else if self.end == self.buffer.len() {
            return Err(io::Error::other("an answer's head does not fit the buffer"));
        }
        match self.stream.read(&mut self.buffer[self.end..]).await? {
            0 => Err(io::ErrorKind::UnexpectedEof.into()),
            read => {
                self.end += read;
                Ok(())
            }
        }
    }
}

/// Reads a status line and the headers that matter.
fn parse(head: &[u8]) -> io::Result<(Answer, Rest)> {
    let malformed = || io::Error::other("an answer's head is malformed");
    let head = str::from_utf8(head).map_err(|_| malformed())?;
    let mut lines = head.split("\r\n");
    let status = lines.next().and_then(|line| line.get(9..12)?.parse().ok()).ok_or_else(malformed)?;
    let mut answer = Answer { status, session: None, length: 0, opening: [0; OPENING] };
    let mut rest = None;
    for line in lines {
        let (name, value) = line.split_once(':').ok_or_else(malformed)?;
        let value = value.trim_ascii();
        if name.eq_ignore_ascii_case("content-length") {
            rest = Some(Rest::sized(value.parse().map_err(|_| malformed())?));
        } else if name.eq_ignore_ascii_case("transfer-encoding") {
            rest = Some(Rest::Size(0));
        } else if name.eq_ignore_ascii_case("mcp-session-id") {
            answer.session = Some(value.to_owned());
        }
    }
    // 202 and 204 may come without either; anything else without a length would end with the connection.
    let bare = matches!(status, 202 | 204).then_some(Rest::Done);
    let rest = rest.or(bare).ok_or_else(|| io::Error::other("an answer has neither length nor chunks"))?;
    Ok((answer, rest))
}

/// Where in a body the reader is.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Rest {
    /// Bytes left of a body with a length.
    Body(u64),
    /// Bytes left of a chunk.
    Chunk(u64),
    /// Everything was read.
    Done,
    /// The line that ends a chunk.
    End,
    /// In the extension of a chunk's size.
    Extension(u64),
    /// The size of the next chunk so far.
    Size(u64),
    /// In the trailers; whether something stands on this line.
    Trailer(bool),
}

impl Rest {
    fn sized(length: u64) -> Self {
        if length == 0 { Self::Done } else { Self::Body(length) }
    }

    /// Takes what it can of `bytes`, hands the data to `keep`, and returns how many bytes it took.
    fn walk(&mut self, bytes: &[u8], mut keep: impl FnMut(&[u8])) -> io::Result<usize> {
        let mut at = 0;
        while at < bytes.len() && *self != Self::Done {
            let byte = bytes[at];
            if let Self::Body(left) | Self::Chunk(left) = *self {
                let take = usize::try_from(left).map_or(bytes.len() - at, |left| left.min(bytes.len() - at));
                keep(&bytes[at..at + take]);
                at += take;
                *self = match (*self, left - take as u64) {
                    (Self::Body(_), 0) => Self::Done,
                    (Self::Body(_), left) => Self::Body(left),
                    (_, 0) => Self::End,
                    (_, left) => Self::Chunk(left),
                };
                continue;
            }
            at += 1;
            *self = match (*self, byte) {
                (Self::Size(0) | Self::Extension(0), b'\n') => Self::Trailer(false),
                (Self::Size(size) | Self::Extension(size), b'\n') => Self::Chunk(size),
                (Self::Size(size), b'\r' | b';') | (Self::Extension(size), _) => Self::Extension(size),
                (Self::Size(size), digit) => char::from(digit)
                    .to_digit(16)
                    .and_then(|digit| size.checked_mul(16)?.checked_add(u64::from(digit)))
                    .map(Self::Size)
                    .ok_or_else(|| io::Error::other("the size of a chunk is malformed"))?,
                (Self::End, b'\n') => Self::Size(0),
                (Self::Trailer(false), b'\n') => Self::Done,
                (Self::Trailer(true), b'\n') => Self::Trailer(false),
                (Self::Trailer(false), b'\r') => Self::Trailer(false),
                (Self::Trailer(_), _) => Self::Trailer(true),
                (state, _) => state,
            };
        }
        Ok(at)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const CHUNKED: &[u8] = b"5\r\nhello\r\n1a;x=y\r\nabcdefghijklmnopqrstuvwxyz\r\n0\r\nt: v\r\n\r\nHTTP";

    #[test]
    fn a_chunked_body_ends_at_the_same_byte_wherever_it_is_cut() {
        for first in 0..CHUNKED.len() {
            for second in first..CHUNKED.len() {
                let (mut rest, mut data, mut used) = (Rest::Size(0), Vec::new(), 0);
                for cut in [first, second, CHUNKED.len()] {
                    used += rest
                        .walk(&CHUNKED[used..cut.max(used)], |piece| data.extend_from_slice(piece))
                        .unwrap();
                }
                assert_eq!(rest, Rest::Done);
                assert_eq!(data, b"helloabcdefghijklmnopqrstuvwxyz");
                assert_eq!(&CHUNKED[used..], b"HTTP");
            }
        }
    }

    #[test]
    fn a_sized_body_leaves_the_next_answer_alone() {
        let mut rest = Rest::sized(3);
        assert_eq!(rest.walk(b"ab", |_| ()).unwrap(), 2);
        assert_eq!(rest.walk(b"cHTTP", |_| ()).unwrap(), 1);
        assert_eq!(rest, Rest::Done);
        assert_eq!(Rest::sized(0), Rest::Done);
    }

    #[test]
    fn a_chunk_size_that_is_no_number_is_an_error() {
        assert!(Rest::Size(0).walk(b"xyz\r\n", |_| ()).is_err());
        assert!(Rest::Size(0).walk(b"fffffffffffffffff\r\n", |_| ()).is_err());
    }

    #[test]
    fn a_head_gives_status_session_and_framing() {
        let (answer, rest) =
            parse(b"HTTP/1.1 200 OK\r\nMcp-Session-Id: a1\r\ncontent-length:  7 ").expect("well-formed");
        assert_eq!((answer.status, answer.session.as_deref(), rest), (200, Some("a1"), Rest::Body(7)));
        let (answer, rest) = parse(b"HTTP/1.1 202 Accepted").expect("well-formed");
        assert_eq!((answer.status, rest), (202, Rest::Done));
        assert!(parse(b"HTTP/1.1 200 OK").is_err());
    }

    #[test]
    fn the_beginning_of_a_body_is_kept_across_pieces() {
        let (mut answer, _) = parse(b"HTTP/1.1 200 OK\r\ncontent-length: 9").expect("well-formed");
        answer.keep(b"\"id\":10");
        assert!(!answer.opens_with(b"\"id\":1000"));
        answer.keep(b"00");
        assert!(answer.opens_with(b"\"id\":1000"));
        answer.keep(&[b'x'; 2 * OPENING]);
        assert_eq!(answer.length, 9 + 2 * OPENING as u64);
    }
}
