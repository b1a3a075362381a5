//! Whether a held client is still there, found out without taking a byte of what it sent.

use std::future::poll_fn;
use std::io;
use std::os::fd::{AsRawFd, RawFd};
use std::pin::pin;
use std::task::Poll;

use mcp_daemon::accept::Stream;
use nix::errno::Errno;
use nix::sys::socket::{MsgFlags, recv};
use tokio::io::{Interest, Ready};

/// What a client did to its connection.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum Ended {
    /// It will not read what we write: it closed a Unix socket, reset a TCP connection, or never sent anything.
    Gone,
    /// It sends no more. It may wait for its answer, which is legal; over TCP a closed one looks the same.
    Sending,
}

/// Waits for the client to end its side, or all of it.
pub(super) async fn ended(client: &Stream) -> Ended {
    if ready(client, closing()).await.is_err() || is_gone(client).await {
        return Ended::Gone;
    }
    Ended::Sending
}

/// Whether nobody is there any more for whom the server should work.
pub(super) async fn is_gone(client: &Stream) -> bool {
    let state = now(client, Interest::READABLE | Interest::WRITABLE).await;
    state.is_write_closed() || (state.is_read_closed() && sent_nothing(client))
}

/// What is true of the moment when the peer's FIN or reset has come, whatever was read or not.
fn closing() -> Interest {
    // Of the interests it is the one that bytes do not satisfy; no urgent data is asked for when sockets are made.
    #[cfg(target_os = "linux")]
    return Interest::PRIORITY;
    #[cfg(not(target_os = "linux"))]
    return Interest::ERROR;
}

async fn ready(client: &Stream, interest: Interest) -> io::Result<Ready> {
    match client {
        Stream::Tcp(stream) => stream.ready(interest).await,
        Stream::Unix(stream) => stream.ready(interest).await,
    }
}

/// What is known at this moment.
async fn now(client: &Stream, interest: Interest) -> Ready {
    let mut state = pin!(ready(client, interest));
    poll_fn(|cx| match state.as_mut().poll(cx) {
        Poll::Ready(Ok(state)) => Poll::Ready(state),
        Poll::Ready(Err(_)) | Poll::Pending => Poll::Ready(Ready::EMPTY),
    })
    .await
}

/// Whether there is nothing to read before the end.
fn sent_nothing(client: &Stream) -> bool {
    let found = recv(descriptor(client), &mut [0], MsgFlags::MSG_PEEK | MsgFlags::MSG_DONTWAIT);
    !matches!(found, Ok(1..) | Err(Errno::EAGAIN))
}

fn descriptor(client: &Stream) -> RawFd {
    match client {
        Stream::Tcp(stream) => stream.as_raw_fd(),
        Stream::Unix(stream) => stream.as_raw_fd(),
    }
}
