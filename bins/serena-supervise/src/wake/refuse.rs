//! The canned 503 for a connection of which nothing went to the server, and a close after which the client still finds
//! it: a socket closed over unread bytes is reset, and the client would see the reset instead of the answer.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use mcp_daemon::accept::Stream;
use tokio::io::{AsyncRead, AsyncWriteExt, ReadBuf};
use tokio::time::timeout;

use super::Refusal;

/// How long, and for how many bytes, the answer waits for the end of the request's head. Some clients take an answer
/// that comes before they have asked for a broken server.
const HEAD: Duration = Duration::from_millis(500);
const HEAD_BYTES: usize = 64 * 1024;
/// How long, and for how many bytes, the rest of a request is thrown away after the answer. Serena takes 4 MiB.
const LINGER: Duration = Duration::from_secs(2);
const LINGER_BYTES: usize = 8 * 1024 * 1024;
/// Bytes thrown away at once.
const PIECE: usize = 4 * 1024;

/// Answers with the 503 and closes.
pub(super) async fn answer(client: &mut Stream, refusal: &Refusal) {
    // Not having come to its end, the head is answered as it is.
    let _ = timeout(HEAD, head(client)).await;
    let written = timeout(LINGER, client.write_all(text(refusal).as_bytes())).await;
    if matches!(written, Ok(Ok(()))) {
        linger(client).await;
    }
}

/// Says that nothing more is sent, and throws away what comes until the client closes too, within bounds.
pub(super) async fn linger(client: &mut Stream) {
    if client.shutdown().await.is_ok() {
        let _ = timeout(LINGER, discard(client)).await;
    }
}

/// The whole answer.
fn text(refusal: &Refusal) -> String {
    let reason: String = refusal.text.chars().map(|c| if c.is_control() { ' ' } else { c }).collect();
    let seconds = refusal.retry_after.as_millis().div_ceil(1000).max(1);
    format!(
        "HTTP/1.1 503 Service Unavailable\r\n\
         Retry-After: {seconds}\r\n\
         Mcp-Not-Forwarded: 1\r\n\
         Content-Type: text/plain; charset=utf-8\r\n\
         Content-Length: {}\r\n\
         Connection: close\r\n\
         \r\n\
         {reason}\n",
        reason.len() + 1
    )
}

/// Reads up to the empty line that ends a request's head; what follows it in the same piece is thrown away.
async fn head(client: &mut Stream) -> io::Result<()> {
    let (mut end, mut left) = (HeadEnd::default(), HEAD_BYTES);
    pieces(client, |piece| {
        left = left.saturating_sub(piece.len());
        left == 0 || piece.iter().any(|byte| end.reached_with(*byte))
    })
    .await
}

async fn discard(client: &mut Stream) -> io::Result<()> {
    let mut left = LINGER_BYTES;
    pieces(client, |piece| {
        left = left.saturating_sub(piece.len());
        left == 0
    })
    .await
}

/// Reads until `enough` says so or the client sends no more; the buffer lives only while there is something in it.
async fn pieces(client: &mut Stream, mut enough: impl FnMut(&[u8]) -> bool) -> io::Result<()> {
    std::future::poll_fn(|cx| {
        loop {
            match ready!(piece(client, cx, &mut enough)) {
                Ok(true) => {}
                Ok(false) => return Poll::Ready(Ok(())),
                Err(error) => return Poll::Ready(Err(error)),
            }
        }
    })
    .await
}

fn piece(
    client: &mut Stream,
    cx: &mut Context<'_>,
    enough: &mut impl FnMut(&[u8]) -> bool,
) -> Poll<io::Result<bool>> {
    let mut buffer = [0; PIECE];
    let mut buffer = ReadBuf::new(&mut buffer);
    ready!(Pin::new(client).poll_read(cx, &mut buffer))?;
    Poll::Ready(Ok(!buffer.filled().is_empty() && !enough(buffer.filled())))
}

/// Finds the end of a head byte by byte: two line ends with nothing between them.
#[derive(Default)]
struct HeadEnd {
    empty_line: bool,
}

impl HeadEnd {
    fn reached_with(&mut self, byte: u8) -> bool {
        match byte {
            b'\n' if self.empty_line => return true,
            b'\n' => self.empty_line = true,
            b'\r' => {}
            _ => self.empty_line = false,
        }
        false
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_answer_is_one_line_of_text_whatever_the_reason_holds() {
        let refusal =
            Refusal { retry_after: Duration::from_millis(1001), text: "too\r\n\r\nmany \u{e4}".to_owned() };
        let answer = text(&refusal);
        let (head, body) = answer.split_once("\r\n\r\n").unwrap();
        assert!(head.contains("\r\nRetry-After: 2\r\nMcp-Not-Forwarded: 1\r\n"), "{head}");
        assert!(head.contains(&format!("\r\nContent-Length: {}\r\n", body.len())), "{head}");
        assert_eq!(body, "too    many \u{e4}\n");
    }

    #[test]
    fn a_head_ends_with_its_empty_line_and_not_before() {
        for (text, ends) in [
            (&b"GET / HTTP/1.1\r\nhost: x\r\n\r\n"[..], true),
            (b"GET / HTTP/1.1\n\n", true),
            (b"GET / HTTP/1.1\r\nhost: x\r\n", false),
            (b"\r\nGET / HTTP/1.1\r\n", false),
        ] {
            let mut end = HeadEnd::default();
            assert_eq!(text.iter().any(|byte| end.reached_with(*byte)), ends, "{text:?}");
        }
    }
}
