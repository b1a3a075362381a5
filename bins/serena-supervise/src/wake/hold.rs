//! Holding a connection until it may pass and the server has accepted it; nothing of it is read meanwhile.

use std::future::poll_fn;
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::task::Poll;
use std::time::Duration;

use mcp_daemon::accept::Stream;
use mcp_daemon::life::Life;
use tokio::net::TcpStream;
use tokio::sync::{Semaphore, SemaphorePermit};
use tokio::time::{Instant, sleep, sleep_until};

use super::abort::{self, Ended};
use super::spare::Spare;
use super::{Gate, Lease, Leasing, Refusal};
use crate::config::Hold;

/// Pauses after a connection that the server did not take, though it was ready a moment ago: it has just died, and
/// another lease waits for its successor once that is known.
const AGAIN_AFTER: [Duration; 2] = [Duration::from_millis(20), Duration::from_millis(200)];
/// Told to clients who find no place, or who come while we stop.
const SOON: Duration = Duration::from_secs(1);
/// Told to clients who waited as long as they may.
const LATER: Duration = Duration::from_secs(5);

/// What all connections of an instance share.
pub(super) struct Door {
    gate: Arc<dyn Gate>,
    /// Places for connections that wait.
    places: Semaphore,
    timeout: Duration,
    life: Life,
}

/// Why a connection does not pass.
#[derive(Debug)]
pub(super) enum Turned {
    /// It gets the 503.
    Away(Refusal),
    /// It is not there any more.
    Gone,
}

impl Door {
    pub(super) fn new(gate: Arc<dyn Gate>, hold: &Hold, life: Life) -> Self {
        let places = Semaphore::new(hold.connections.get().min(Semaphore::MAX_PERMITS));
        Door { gate, places, timeout: hold.timeout.duration(), life }
    }

    #[cfg(test)]
    pub(super) fn free_places(&self) -> usize {
        self.places.available_permits()
    }

    /// Waits for a lease and connects to the server.
    pub(super) async fn pass(&self, client: &Stream, spare: Spare) -> Result<(TcpStream, Lease), Turned> {
        let deadline = Instant::now() + self.timeout;
        let mut spare = Some(spare);
        let mut pauses = AGAIN_AFTER.into_iter();
        loop {
            let lease = self.lease(client, deadline).await?;
            // Its request would be carried out for nobody.
            if abort::is_gone(client).await {
                return Err(Turned::Gone);
            }
            let connecting = connect(spare.take(), lease.target);
            let error = match self.while_there(client, deadline, None, connecting).await? {
                Ok(server) => return Ok((server, lease)),
                Err(error) => error,
            };
            log::debug!(server = lease.target.to_string().as_str(), error:% = error; "the server does not take a connection");
            drop(lease);
            let Some(pause) = pauses.next() else {
                return Err(away(SOON, "the server is ready but does not take the connection"));
            };
            self.while_there(client, deadline, None, sleep(pause)).await?;
        }
    }

    async fn lease(&self, client: &Stream, deadline: Instant) -> Result<Lease, Turned> {
        let mut leasing = self.gate.lease();
        if let Poll::Ready(done) = first_poll(&mut leasing).await {
            return done.map_err(Turned::Away);
        }
        let Ok(place) = self.places.try_acquire() else {
            return Err(away(SOON, "too many connections wait for the server to start"));
        };
        self.while_there(client, deadline, Some(place), leasing).await?.map_err(Turned::Away)
    }

    /// Does `work` as long as somebody waits for it. A client that ended its side gives back its place, as it may well
    /// have gone, but is served all the same.
    async fn while_there<T>(
        &self,
        client: &Stream,
        deadline: Instant,
        mut place: Option<SemaphorePermit<'_>>,
        work: impl Future<Output = T>,
    ) -> Result<T, Turned> {
        let mut work = std::pin::pin!(work);
        let mut over = std::pin::pin!(sleep_until(deadline));
        let mut draining = std::pin::pin!(self.life.draining());
        let mut sends = true;
        loop {
            tokio::select! {
                biased;
                done = &mut work => return Ok(done),
                ended = abort::ended(client), if sends => match ended {
                    Ended::Gone => return Err(Turned::Gone),
                    Ended::Sending => {
                        sends = false;
                        drop(place.take());
                    }
                },
                () = &mut draining => return Err(away(SOON, "the supervisor stops")),
                () = &mut over => return Err(away(LATER, "the server did not become ready in time")),
            }
        }
    }
}

fn away(retry_after: Duration, text: &str) -> Turned {
    Turned::Away(Refusal { retry_after, text: text.to_owned() })
}

async fn connect(spare: Option<Spare>, target: SocketAddr) -> io::Result<TcpStream> {
    let spare = match spare {
        Some(spare) => spare,
        None => Spare::again()?,
    };
    spare.connect(target).await
}

async fn first_poll(leasing: &mut Leasing<'_>) -> Poll<Result<Lease, Refusal>> {
    poll_fn(|cx| Poll::Ready(leasing.as_mut().poll(cx))).await
}
