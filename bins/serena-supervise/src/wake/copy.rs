//! The bytes of one connection, both ways, with backpressure and half-close; nothing here knows what they mean.
//!
//! What one side said before it ended or broke always reaches the other, if that one still takes it. One direction of
//! it all is a [`Flow`].

mod flow;

use std::future::poll_fn;
use std::task::{Context, Poll};
use std::time::Duration;

use mcp_daemon::accept::Stream;
use tokio::net::TcpStream;
use tokio::time::timeout;

use self::flow::{End, Flow};

/// How long a client may be silent once the server has ended its side, before it is closed: long after any client has
/// seen the end, short enough that one which never closes does not keep a server awake.
const AFTER_SERVER: Duration = Duration::from_secs(10);

/// What is left to do for the client.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum Client {
    /// It has ended its side, or is gone.
    Ended,
    /// It may still be sending, and a close over unread bytes is a reset, which may void what it has not read yet.
    MayBeSending,
}

/// Copies until both sides have ended, or one is gone and the other has got all it said. The server's connection is
/// closed on return.
pub(super) async fn both_ways(client: &mut Stream, mut server: TcpStream) -> Client {
    // What a client sends to a server that no longer listens is read all the same: it may have to get rid of it before
    // it looks at its answer. A server whose client is gone has to notice.
    let (mut up, mut down) = (Flow::that_discards(), Flow::that_stops());
    poll_fn(|cx| both(cx, &mut up, &mut down, client, &mut server)).await;
    while down.end() != Some(End::SourceLost) && up.end().is_none() && up.is_heard() {
        let before = up.moved();
        let rest = timeout(AFTER_SERVER, poll_fn(|cx| alone(cx, &mut up, client, &mut server))).await;
        if rest.is_ok() || up.moved() == before {
            break;
        }
    }
    if up.end().is_some() { Client::Ended } else { Client::MayBeSending }
}

/// Until the server has ended its side, or the client reset its connection and wants nothing any more.
fn both(
    cx: &mut Context<'_>,
    up: &mut Flow,
    down: &mut Flow,
    client: &mut Stream,
    server: &mut TcpStream,
) -> Poll<()> {
    up.turn(cx, client, server);
    down.turn(cx, server, client);
    if up.end() == Some(End::SourceLost) || down.end().is_some() { Poll::Ready(()) } else { Poll::Pending }
}

/// Until the client has ended its side, or the server listens no more.
fn alone(cx: &mut Context<'_>, up: &mut Flow, client: &mut Stream, server: &mut TcpStream) -> Poll<()> {
    up.turn(cx, client, server);
    if up.end().is_some() || !up.is_heard() { Poll::Ready(()) } else { Poll::Pending }
}
