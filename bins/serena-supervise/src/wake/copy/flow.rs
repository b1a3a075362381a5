//! One direction of a connection.
//!
//! Bytes go through one buffer that all connections of a thread share. A flow has memory of its own only while its
//! target does not read fast enough, and then at most one buffer's worth.

use std::cell::RefCell;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

/// Bytes moved at once: an answer of 64 KiB and its head go in one piece, which costs half the CPU time of pieces of
/// 16 KiB; twice as much gains nothing.
const BUFFER: usize = 128 * 1024;

thread_local! {
    static SHARED: RefCell<Box<[u8]>> = RefCell::new(vec![0; BUFFER].into_boxed_slice());
}

/// How a flow ended; the target was told in any case.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum End {
    /// The source ended its side.
    Finished,
    /// The source broke off.
    SourceLost,
    /// The target takes nothing any more.
    TargetLost,
}

/// From a source to a target, which are the same ones at every turn.
pub(super) struct Flow {
    /// What the target has not taken yet; nothing is read before it has.
    kept: Vec<u8>,
    /// How much of it the target has taken.
    taken: usize,
    /// Pieces read so far.
    moved: u64,
    /// Whether it goes on reading when the target takes nothing any more.
    discards: bool,
    heard: bool,
    end: Option<End>,
}

impl Flow {
    /// Throws away what it reads when the target takes nothing any more.
    pub(super) fn that_discards() -> Self {
        Flow { kept: Vec::new(), taken: 0, moved: 0, discards: true, heard: true, end: None }
    }

    /// Ends when the target takes nothing any more.
    pub(super) fn that_stops() -> Self {
        Flow { discards: false, ..Flow::that_discards() }
    }

    /// How it ended, if it has.
    pub(super) fn end(&self) -> Option<End> {
        self.end
    }

    /// Whether the target still takes what is read.
    pub(super) fn is_heard(&self) -> bool {
        self.heard
    }

    /// Changes whenever something was read.
    pub(super) fn moved(&self) -> u64 {
        self.moved
    }

    /// Moves what can be moved now; what can be moved later wakes the task.
    pub(super) fn turn<S, T>(&mut self, cx: &mut Context<'_>, source: &mut S, target: &mut T)
    where
        S: AsyncRead + Unpin,
        T: AsyncWrite + Unpin,
    {
        while self.end.is_none() {
            let stuck = if self.kept.is_empty() {
                self.pass_on(cx, source, target).is_pending()
            } else {
                self.write_kept(cx, target).is_pending()
            };
            if stuck {
                return;
            }
        }
    }

    fn write_kept<T: AsyncWrite + Unpin>(&mut self, cx: &mut Context<'_>, target: &mut T) -> Poll<()> {
        while self.taken < self.kept.len() {
            match ready!(Pin::new(&mut *target).poll_write(cx, &self.kept[self.taken..])) {
                Ok(0) | Err(_) => self.target_lost(),
                Ok(written) => self.taken += written,
            }
        }
        (self.kept, self.taken) = (Vec::new(), 0);
        Poll::Ready(())
    }

    /// Reads once and writes that.
    fn pass_on<S, T>(&mut self, cx: &mut Context<'_>, source: &mut S, target: &mut T) -> Poll<()>
    where
        S: AsyncRead + Unpin,
        T: AsyncWrite + Unpin,
    {
        SHARED.with_borrow_mut(|shared| {
            let mut buffer = ReadBuf::new(shared);
            let read = ready!(Pin::new(source).poll_read(cx, &mut buffer));
            match (read, buffer.filled()) {
                (Err(_), _) => self.finish(cx, target, End::SourceLost),
                (Ok(()), []) => self.finish(cx, target, End::Finished),
                (Ok(()), piece) => {
                    self.moved += 1;
                    self.write(cx, target, piece);
                }
            }
            Poll::Ready(())
        })
    }

    /// Writes a piece, and keeps what the target does not take now.
    fn write<T: AsyncWrite + Unpin>(&mut self, cx: &mut Context<'_>, target: &mut T, mut piece: &[u8]) {
        while self.heard && !piece.is_empty() {
            match Pin::new(&mut *target).poll_write(cx, piece) {
                Poll::Ready(Ok(0) | Err(_)) => self.target_lost(),
                Poll::Ready(Ok(written)) => piece = &piece[written..],
                Poll::Pending => {
                    self.kept = piece.to_vec();
                    return;
                }
            }
        }
    }

    fn target_lost(&mut self) {
        self.heard = false;
        (self.kept, self.taken) = (Vec::new(), 0);
        if !self.discards {
            self.end.get_or_insert(End::TargetLost);
        }
    }

    fn finish<T: AsyncWrite + Unpin>(&mut self, cx: &mut Context<'_>, target: &mut T, end: End) {
        // Always done at once, and an error means that the target knows already.
        let _ = Pin::new(target).poll_shutdown(cx);
        self.end = Some(end);
    }
}
