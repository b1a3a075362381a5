//! Where a route leads: its upstreams, which of them takes a request, and what happens when one cannot.
//!
//! [`Router::forward`] is the story, `search` and `forward` its steps. The choice ([`balance`]), the names in session ids
//! ([`affinity`]) and the health of an upstream ([`health`]) are pure.

pub mod affinity;
pub mod balance;
mod forward;
pub mod health;
mod lane;
mod lanes;
mod member;
mod outage;
mod probe;
pub mod queue;
mod search;
mod table;

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use http::{Request, Response};
use mcp_daemon::addr::Route;
use mcp_daemon::body::Body;
use mcp_daemon::client::{Client, ClientOptions};
use mcp_daemon::life::Life;
use serde_json::Value;
use tokio::time::{Instant, sleep};

use self::forward::{Letter, Sent};
use self::lane::Lane;
use self::lanes::Lanes;
use self::member::Errand;
use self::probe::Probes;
use self::queue::{NoPlace, Place};
use self::search::{Search, Step};
pub use self::table::Table;
use crate::identity::Identity;
use crate::metrics::Reason;

/// Sends requests where their routes lead.
pub struct Router {
    lanes: Mutex<Lanes>,
    client: Client,
    life: Life,
}

/// An answer, as far as its head.
pub struct Forwarded {
    /// The answer.
    pub answer: Response<Body>,
    /// To be held until its body has ended.
    pub held: Held,
}

/// How the upstreams of all routes in use stand together.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Readiness {
    /// Those to which a request can go: neither it nor their `ready`, where that is asked, failed too often in a row.
    pub ready: usize,
    /// All.
    pub of: usize,
}

/// Counts a request as under way until it is dropped.
pub struct Held {
    _errand: Errand,
    /// Given back at the head of a stream.
    _place: Option<Place>,
}

/// Why nobody served a request; nothing of it reached a server but for [`Unserved::Lost`].
#[derive(Debug, thiserror::Error)]
pub enum Unserved {
    /// The queue of its route is full, or it waited there too long.
    #[error("route {0} is busy")]
    Busy(Route),
    /// No upstream could be reached in time.
    #[error("no upstream of route {route} can be reached: {why}")]
    Down {
        /// The route.
        route: Route,
        /// The last error.
        why: String,
    },
    /// Lost after it was sent: its effect is unknown.
    #[error("the upstream of route {route} was lost while a request ran: {why}")]
    Lost {
        /// The route.
        route: Route,
        /// The error.
        why: String,
    },
    /// Its credential was revoked or expired while it waited.
    #[error("the credential was no longer good when the request could be sent")]
    NoLongerGood,
    /// The route leads nowhere.
    #[error("route {0} has no upstream")]
    NoUpstream(Route),
    /// It waited for its turn when the drain began.
    #[error("route {0} was busy when the drain began")]
    Stopping(Route),
}

impl Unserved {
    /// The same in a word, for the metrics.
    pub fn reason(&self) -> Reason {
        match self {
            Unserved::Busy(_) => Reason::Busy,
            Unserved::Down { .. } => Reason::Down,
            Unserved::Lost { .. } => Reason::Lost,
            Unserved::NoLongerGood => Reason::NoLongerGood,
            Unserved::NoUpstream(_) => Reason::NoUpstream,
            Unserved::Stopping(_) => Reason::Stopping,
        }
    }
}

impl Router {
    /// Nothing is connected before the first request.
    pub fn new(table: Table, life: Life) -> Arc<Self> {
        let client = Client::new(ClientOptions::default());
        let lanes = Mutex::new(Lanes::new(table, Probes::new(client.clone(), life.clone())));
        Arc::new(Self { lanes, client, life })
    }

    /// The newest reading of the settings.
    pub fn table(&self) -> Arc<Table> {
        self.lanes().table().clone()
    }

    /// Replaces it; requests under way end where they are, those that wait look again.
    pub fn replace(&self, table: Table) {
        self.lanes().replace(table);
    }

    /// How the upstreams of the routes in use stand together.
    pub fn readiness(&self) -> Readiness {
        self.lanes().readiness()
    }

    /// The routes in use, for the control socket.
    pub fn report(&self) -> Value {
        Value::Array(self.lanes().report())
    }

    /// Sends a request where its route leads and waits for the head of the answer. Its headers may be the client's own:
    /// what is not for an upstream stays here.
    ///
    /// Whatever it had to wait for, such as its body, a place or an upstream: it is sent only if it `is_still_good` then.
    pub async fn forward(
        &self,
        identity: &Identity,
        request: Request<Bytes>,
        is_still_good: impl Fn() -> bool,
    ) -> Result<Forwarded, Unserved> {
        let route = &identity.route;
        let mut lane = self.lane(route)?;
        let place = lane.enter(&self.life).await.map_err(|none| match none {
            NoPlace::Draining => Unserved::Stopping(route.clone()),
            NoPlace::Full => Unserved::Busy(route.clone()),
        })?;
        if place.is_some() {
            // The settings may have changed while it waited.
            lane = self.lane(route)?;
        }
        let mut letter = Letter::new(identity, request);
        let mut search = Search::new();
        loop {
            if !is_still_good() {
                return Err(Unserved::NoLongerGood);
            }
            match search.next(&lane, &letter, Instant::now()) {
                Step::Send(at) => match letter.send(&self.client, &lane, at).await {
                    Sent::Answered(answer, errand) => {
                        let place = place.filter(|_| !errand.is_stream());
                        return Ok(Forwarded { answer, held: Held { _errand: errand, _place: place } });
                    }
                    Sent::Lost(why) => return Err(Unserved::Lost { route: route.clone(), why }),
                    Sent::NotRun(why) => search.failed(at, why),
                },
                Step::Pause(pause) => {
                    if !Box::pin(self.pause(pause)).await {
                        return Err(Unserved::Down { route: route.clone(), why: search.why });
                    }
                    lane = self.lane(route)?;
                }
                Step::GiveUp => return Err(Unserved::Down { route: route.clone(), why: search.why }),
            }
        }
    }

    fn lane(&self, route: &Route) -> Result<Arc<Lane>, Unserved> {
        self.lanes().of(route)
    }

    /// Whether the pause was not cut short by the drain.
    async fn pause(&self, pause: Duration) -> bool {
        tokio::select! {
            () = sleep(pause) => true,
            () = self.life.draining() => false,
        }
    }

    fn lanes(&self) -> MutexGuard<'_, Lanes> {
        self.lanes.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
