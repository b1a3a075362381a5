//! Listening, and one connection: its requests one after another, each with the fault that is planned for it.

use std::{io, os::fd::AsRawFd as _, sync::Arc};

use nix::{
    libc,
    sys::socket::{Shutdown, setsockopt, shutdown, sockopt},
};
use tokio::{
    io::AsyncWriteExt as _,
    net::{TcpSocket, TcpStream},
    sync::{oneshot, watch},
    task::JoinSet,
};

use super::{
    answer::Answer,
    asked::Asked,
    fault::What,
    state::Shared,
    wire::{Extent, Wire},
};

/// Connections that wait to be accepted.
const BACKLOG: u32 = 1024;

/// How a connection goes on.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum Next {
    Close,
    Request,
    Reset,
}

/// Accepts and serves until `stop`; returns when the last connection is closed.
pub(super) async fn serve(
    socket: TcpSocket,
    shared: Arc<Shared>,
    mut stop: watch::Receiver<bool>,
    listening: oneshot::Sender<()>,
) {
    let listener = socket.listen(BACKLOG).expect("a bound socket can listen");
    let _ = listening.send(());
    let mut connections = JoinSet::new();
    loop {
        let told = stop.clone();
        tokio::select! {
            biased;
            _ = stop.wait_for(|stop| *stop) => break,
            Some(_) = connections.join_next() => {}
            accepted = listener.accept() => {
                // A client that is gone again is no reason to stop.
                if let Ok((stream, _)) = accepted {
                    connections.spawn(connection(stream, shared.clone(), told));
                }
            }
        }
    }
    // A child of the test that is between fork and exec has a copy of the descriptor, so closing ours ends nothing yet.
    let _ = shutdown(listener.as_raw_fd(), Shutdown::Both);
    drop(listener);
    while connections.join_next().await.is_some() {}
}

async fn connection(stream: TcpStream, shared: Arc<Shared>, mut stop: watch::Receiver<bool>) {
    let _ = stream.set_nodelay(true);
    let mut wire = Wire::new(stream);
    let end = loop {
        let next = tokio::select! {
            biased;
            _ = stop.wait_for(|stop| *stop) => Next::Reset,
            // A client that went away in the middle needs nothing any more.
            next = request(&mut wire, &shared) => next.unwrap_or(Next::Close),
        };
        if next != Next::Request {
            break next;
        }
    };
    if end == Next::Reset {
        let now = libc::linger { l_onoff: 1, l_linger: 0 };
        // Fails for a socket the client has closed already: nothing left to reset.
        let _ = setsockopt(&wire.stream, sockopt::Linger, &now);
    } else {
        let _ = wire.stream.shutdown().await;
    }
}

async fn request(wire: &mut Wire, shared: &Shared) -> io::Result<Next> {
    let Some(mut asked) = wire.head().await? else { return Ok(Next::Close) };
    // Before anybody can know that there is something to release.
    let mut release = shared.releases();
    let what = shared.arrived(&mut asked);
    if what == Some(What::CutUnread) {
        shared.tell(&asked);
        return Ok(Next::Reset);
    }
    let Some(body) = wire.body(&asked).await? else {
        let answer = Answer::refusal(&asked, (411, "MissingContentLength"));
        wire.say(&asked, &answer, Extent::All).await?;
        return Ok(Next::Close);
    };
    asked.size = body.len();
    shared.tell(&asked);
    if what == Some(What::Late) {
        let _ = release.changed().await;
    }
    let lag = if let Some(What::ListWithout(writes)) = what { writes } else { 0 };
    let answer = match what {
        Some(What::CutBefore) => None,
        Some(What::Error(status, code)) => Some(Answer::refusal(&asked, (status, code))),
        Some(What::ErrorInside) => {
            Some(Answer { status: 200, ..Answer::refusal(&asked, (500, "InternalError")) })
        }
        Some(What::Html(status)) => Some(Answer::html(status)),
        _ => {
            let done = shared.perform(&mut asked, &body, lag);
            Some(match what {
                Some(What::ErrorAfter(status, code)) => Answer::refusal(&asked, (status, code)),
                _ => done,
            })
        }
    };
    asked.status = answer.as_ref().map_or(0, |answer| answer.status);
    shared.note(&asked);
    let Some(answer) = answer else { return Ok(Next::Reset) };
    if what == Some(What::Mute) {
        let _ = release.changed().await;
    }
    let next = say(wire, &asked, answer, what).await?;
    let closes = asked.header("connection").is_some_and(|value| value.eq_ignore_ascii_case("close"));
    Ok(if closes && next == Next::Request { Next::Close } else { next })
}

/// Writes the answer as the fault wants it.
async fn say(wire: &mut Wire, asked: &Asked, mut answer: Answer, what: Option<What>) -> io::Result<Next> {
    let (extent, next) = match what {
        Some(What::CutAfter) => return Ok(Next::Reset),
        Some(What::CutInside) => (Extent::Half, Next::Reset),
        Some(What::EndInside) => (Extent::Half, Next::Close),
        Some(What::Overlong) => (Extent::More, Next::Close),
        Some(What::Flipped) => {
            let middle = answer.body.len() / 2;
            if let Some(byte) = answer.body.get_mut(middle) {
                *byte ^= 1;
            }
            (Extent::All, Next::Request)
        }
        Some(What::Padded) if answer.status != 204 => {
            answer.body.extend_from_slice(b"and more than there is");
            (Extent::All, Next::Request)
        }
        _ => (Extent::All, Next::Request),
    };
    wire.say(asked, &answer, extent).await?;
    Ok(next)
}
