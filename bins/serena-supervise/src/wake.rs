//! The wake listener: it owns an instance's socket, holds connections until the server is ready, and then copies bytes
//! both ways without reading them. What may pass, and what a connection sets in motion, is decided by a [`Gate`].
//!
//! A connection is held in `hold`, turned away in `refuse`, and spends its life in `copy`.

mod abort;
mod copy;
mod hold;
mod refuse;
mod spare;

use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use mcp_daemon::accept::{Place, Stream, accept_loop};
use mcp_daemon::life::Life;
use mcp_daemon::listener::Listener;

use self::hold::{Door, Turned};
use self::spare::Spare;
use crate::config::Hold;

/// Who decides whether a connection may go to the server.
pub trait Gate: Send + Sync + 'static {
    /// Waits until the server is ready, and keeps it awake while the lease lives; starts it if it sleeps.
    ///
    /// The first poll of a gate whose server is ready must give the lease: what waits longer takes one of the bounded
    /// places for held connections. Dropping the future gives up the wait.
    fn lease(&self) -> Leasing<'_>;
}

/// What [`Gate::lease`] returns.
pub type Leasing<'a> = Pin<Box<dyn Future<Output = Result<Lease, Refusal>> + Send + 'a>>;

/// Leave to pass, for one connection.
pub struct Lease {
    /// Where the server listens.
    pub target: SocketAddr,
    /// Dropped when the connection has ended on both sides.
    pub guard: Box<dyn Send>,
}

/// Why a connection is turned away, for the canned 503.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Refusal {
    /// When it is worth trying again; rounded up to whole seconds, at least one.
    pub retry_after: Duration,
    /// One sentence for a person.
    pub text: String,
}

/// Serves the socket of one instance until the drain of `life` begins. Held connections then get the 503; open ones are
/// tasks of `life` and live until the server or the client ends them.
pub async fn serve(listener: Listener, gate: Arc<dyn Gate>, hold: &Hold, life: Life) {
    let door = Arc::new(Door::new(gate, hold, life.clone()));
    serve_at(listener, door, hold.open.get(), &life).await;
}

async fn serve_at(listener: Listener, door: Arc<Door>, open: usize, life: &Life) {
    let handle = |stream, _, place, spare| {
        life.spawn(connection(stream, Arc::clone(&door), spare, place));
    };
    accept_loop(listener, open, life, Spare::source(), handle).await;
}

/// One connection from the accept to its end.
async fn connection(mut client: Stream, door: Arc<Door>, spare: Spare, _place: Place) {
    match door.pass(&client, spare).await {
        Ok((server, lease)) => {
            let left = copy::both_ways(&mut client, server).await;
            // The server has nothing to do with what follows.
            drop(lease);
            if left == copy::Client::MayBeSending {
                refuse::linger(&mut client).await;
            }
        }
        Err(Turned::Gone) => log::debug!("a client went away while it was held"),
        Err(Turned::Away(refusal)) => {
            log::debug!(reason = refusal.text.as_str(); "a connection is turned away");
            refuse::answer(&mut client, &refusal).await;
        }
    }
}

#[cfg(test)]
mod tests;
