//! A request's body, read as a whole within bounds of size and time.

use std::future::poll_fn;
use std::pin::pin;
use std::task::Poll;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use http_body_util::BodyExt;
use hyper::body::{Body as _, Incoming};

/// Why a body was not read.
#[derive(Clone, Copy, Debug, Eq, PartialEq, thiserror::Error)]
pub enum Unread {
    /// It ended before it was whole, or is not framed as it should be.
    #[error("the body broke off")]
    Broken,
    /// It took too long.
    #[error("the body did not come in time")]
    Late,
    /// It is too long.
    #[error("the body is too large")]
    TooLarge,
}

/// All of a body that has at most `bound` bytes and comes within `patience`; one that comes in one piece is not copied.
pub async fn read(body: Incoming, bound: usize, patience: Duration) -> Result<Bytes, Unread> {
    read_while(body, bound, patience, |_bytes| true).await
}

/// The same as long as there is room: each piece is kept only if `may_keep` so many bytes more, else the body is
/// [`Unread::TooLarge`].
pub async fn read_while(
    mut body: Incoming,
    bound: usize,
    patience: Duration,
    may_keep: impl FnMut(usize) -> bool,
) -> Result<Bytes, Unread> {
    if body.size_hint().lower() > bound as u64 {
        return Err(Unread::TooLarge);
    }
    let mut collected = pin!(collect(&mut body, bound, may_keep));
    // Most bodies come with their head: those need no timer.
    let at_once = poll_fn(|cx| Poll::Ready(collected.as_mut().poll(cx))).await;
    match at_once {
        Poll::Ready(collected) => collected,
        Poll::Pending => tokio::time::timeout(patience, collected).await.unwrap_or(Err(Unread::Late)),
    }
}

async fn collect(
    body: &mut Incoming,
    bound: usize,
    mut may_keep: impl FnMut(usize) -> bool,
) -> Result<Bytes, Unread> {
    let mut all = Bytes::new();
    while let Some(frame) = body.frame().await {
        let Ok(chunk) = frame.map_err(|_| Unread::Broken)?.into_data() else { continue };
        if all.len() + chunk.len() > bound || !may_keep(chunk.len()) {
            return Err(Unread::TooLarge);
        }
        all = if all.is_empty() {
            chunk
        } else {
            let mut joined = all.try_into_mut().unwrap_or_else(|all| BytesMut::from(&all[..]));
            joined.extend_from_slice(&chunk);
            joined.freeze()
        };
    }
    Ok(all)
}
