//! Where a route leads: its upstreams, which of them takes a request, and what happens when one cannot.

use std::sync::Arc;

use arc_swap::ArcSwap;
use bytes::Bytes;
use http::{Request, Response};
use mcp_daemon::addr::Route;
use mcp_daemon::body::Body;
use mcp_daemon::client::{Client, ClientOptions, SendError};
use mcp_daemon::config::ConfigProblem;

use crate::config::Config;
use crate::config::route::RouteSettings;

/// Sends requests where their routes lead.
pub struct Router {
    table: ArcSwap<Table>,
    client: Client,
}

/// One reading of the settings.
pub struct Table {
    config: Arc<Config>,
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
    /// The route leads nowhere.
    #[error("route {0} has no upstream")]
    NoUpstream(Route),
}

impl Table {
    /// Reads the settings of all routes, with the tokens of upstreams.
    pub fn load(config: &Arc<Config>) -> Result<Self, ConfigProblem> {
        Ok(Self { config: config.clone() })
    }

    /// What a route is told to do.
    pub fn settings(&self, route: &Route) -> Option<&RouteSettings> {
        self.config.route.get(route)
    }
}

impl Router {
    /// Nothing is connected before the first request.
    pub fn new(table: Table) -> Arc<Self> {
        Arc::new(Self { table: ArcSwap::from_pointee(table), client: Client::new(ClientOptions::default()) })
    }

    /// The newest reading.
    pub fn table(&self) -> Arc<Table> {
        self.table.load_full()
    }

    /// Replaces it; requests under way end as they began.
    pub fn replace(&self, table: Table) {
        self.table.store(Arc::new(table));
    }

    /// Sends a request where its route leads and waits for the head of the answer.
    pub async fn forward(&self, route: &Route, request: Request<Bytes>) -> Result<Response<Body>, Unserved> {
        let table = self.table();
        let own = table.config.route.get(route).map(|own| &own.upstream.0).filter(|own| !own.is_empty());
        let upstreams = own.unwrap_or(&table.config.upstream.0);
        let upstream = upstreams.first().ok_or_else(|| Unserved::NoUpstream(route.clone()))?;
        let endpoint =
            upstream.address.endpoint(Some(route)).map_err(|_| Unserved::NoUpstream(route.clone()))?;
        self.client.send(&endpoint, request).await.map_err(|error| match error {
            SendError::Broken(why) => Unserved::Lost { route: route.clone(), why: why.to_string() },
            SendError::NotSent(why) => Unserved::Down { route: route.clone(), why: why.to_string() },
        })
    }
}
