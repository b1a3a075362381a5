//! Listening, and one connection: served until its client is done, it idled too long, or it is cut.

use std::{
    error::Error,
    fmt,
    future::pending,
    io,
    os::fd::{AsFd, AsRawFd as _},
    sync::Arc,
};

use hyper::{server::conn::http1, service::service_fn};
use hyper_util::rt::{TokioIo, TokioTimer};
use nix::{
    libc,
    sys::socket::{Shutdown, setsockopt, shutdown, sockopt},
};
use tokio::{
    io::{AsyncRead, AsyncWrite},
    net::{TcpListener, TcpStream, UnixListener, UnixStream},
    sync::watch,
    task::JoinSet,
    time::timeout,
};

use crate::{http_front, world::World};

/// A listening socket.
#[derive(Debug)]
pub(crate) enum Listening {
    /// On loopback TCP.
    Tcp(TcpListener),
    /// On a Unix socket.
    Unix(UnixListener),
}

enum Accepted {
    Tcp(TcpStream, u16),
    Unix(UnixStream),
}

impl Listening {
    async fn accept(&self) -> io::Result<Accepted> {
        match self {
            Listening::Tcp(listener) => {
                let (stream, _) = listener.accept().await?;
                stream.set_nodelay(true)?;
                let port = stream.local_addr()?.port();
                Ok(Accepted::Tcp(stream, port))
            }
            Listening::Unix(listener) => Ok(Accepted::Unix(listener.accept().await?.0)),
        }
    }

    /// From here on connections are refused, and the port can be bound again.
    fn close(self) {
        // A child of the test that is between fork and exec has a copy of the descriptor, so closing ours ends nothing yet.
        let _ = match &self {
            Listening::Tcp(listener) => shutdown(listener.as_raw_fd(), Shutdown::Both),
            Listening::Unix(listener) => shutdown(listener.as_raw_fd(), Shutdown::Both),
        };
    }
}

/// Accepts and serves until `stop`; returns when the last connection is closed.
pub(crate) async fn serve(listening: Listening, world: Arc<World>, mut stop: watch::Receiver<bool>) {
    let mut connections = JoinSet::new();
    loop {
        let told = stop.clone();
        tokio::select! {
            biased;
            () = stopped(&mut stop) => break,
            Some(_) = connections.join_next() => {}
            accepted = listening.accept() => match accepted {
                Ok(Accepted::Tcp(stream, port)) => {
                    connections.spawn(connection(stream, Some(port), world.clone(), told));
                }
                Ok(Accepted::Unix(stream)) => {
                    connections.spawn(connection(stream, None, world.clone(), told));
                }
                // A client that is gone again is no reason to stop.
                Err(_) => {}
            },
        }
    }
    listening.close();
    while connections.join_next().await.is_some() {}
}

async fn connection<S>(stream: S, port: Option<u16>, world: Arc<World>, mut stop: watch::Receiver<bool>)
where
    S: AsyncRead + AsyncWrite + AsFd + Unpin + Send + 'static,
{
    // hyper owns the stream; the copy is how a reset is ordered before it is dropped.
    let Ok(copy) = stream.as_fd().try_clone_to_owned() else { return };
    let load = Arc::new(watch::Sender::new(Load::default()));
    let service = service_fn(|request| {
        let late = load.borrow().late;
        let (world, busy) = (world.clone(), Busy::new(load.clone()));
        async move { if late { Err(TooLate) } else { Ok(http_front::answer(world, port, busy, request).await) } }
    });
    let mut served = Box::pin(
        http1::Builder::new().timer(TokioTimer::new()).serve_connection(TokioIo::new(stream), service),
    );
    let mut idled = false;
    let reset = loop {
        tokio::select! {
            biased;
            () = stopped(&mut stop) => break true,
            result = served.as_mut() => break result.is_err_and(|error| error.is_user()),
            () = idle(&world, load.subscribe()), if !idled => {
                idled = true;
                if world.switches().closes_late {
                    load.send_modify(|load| load.late = true);
                } else {
                    served.as_mut().graceful_shutdown();
                }
            }
        }
    };
    if reset {
        let now = libc::linger { l_onoff: 1, l_linger: 0 };
        // Fails for a socket the client has closed already: nothing left to reset.
        let _ = setsockopt(&copy, sockopt::Linger, &now);
    }
    drop(served);
    drop(copy);
}

/// Returns when the server is stopped, or its handle is gone.
async fn stopped(stop: &mut watch::Receiver<bool>) {
    let _ = stop.wait_for(|stop| *stop).await;
}

/// Returns once the connection was used and then idle for as long as the switch says.
async fn idle(world: &World, mut load: watch::Receiver<Load>) {
    loop {
        if load.wait_for(|load| load.used && load.busy == 0).await.is_err() {
            return pending().await;
        }
        let Some(limit) = world.switches().idle_timeout else {
            let _ = load.changed().await;
            continue;
        };
        if timeout(limit, load.changed()).await.is_err() {
            return;
        }
    }
}

#[derive(Debug, Default)]
struct Load {
    busy: usize,
    used: bool,
    /// The next request is to find the connection closing.
    late: bool,
}

/// A request came on a connection that was about to be closed.
#[derive(Debug)]
struct TooLate;

impl fmt::Display for TooLate {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str("the connection is closing")
    }
}

impl Error for TooLate {}

/// Held while a request of the connection is served and its answer's body sent.
#[derive(Debug)]
pub(crate) struct Busy(Arc<watch::Sender<Load>>);

impl Busy {
    fn new(load: Arc<watch::Sender<Load>>) -> Self {
        load.send_modify(|load| {
            load.busy += 1;
            load.used = true;
        });
        Self(load)
    }
}

impl Drop for Busy {
    fn drop(&mut self) {
        self.0.send_modify(|load| load.busy -= 1);
    }
}
