//! The upstream over HTTP, HTTPS or a Unix socket.

use std::fmt;
use std::sync::Mutex;

use bytes::Bytes;
use http::{Request, Response};
use mcp_daemon::addr::{AddrError, Endpoint, Route, Upstream};
use mcp_daemon::body::Body;
use mcp_daemon::client::{Client, ClientOptions, SendError};

use crate::verdict::NOT_FORWARDED;

/// Routes whose endpoints are remembered; more are worked out anew each time.
const REMEMBERED: usize = 1024;

/// One upstream address, or one per route.
pub struct HttpBack {
    upstream: Upstream,
    /// Where it is without a route; worked out once.
    fixed: Option<Endpoint>,
    by_route: Mutex<std::collections::HashMap<Route, Endpoint>>,
    client: Client,
}

impl HttpBack {
    /// Nothing is connected before the first request.
    pub fn new(upstream: Upstream) -> Result<Self, AddrError> {
        let fixed = if upstream.needs_route() { None } else { Some(upstream.endpoint(None)?) };
        Ok(Self {
            upstream,
            fixed,
            by_route: Mutex::default(),
            client: Client::new(ClientOptions::default()),
        })
    }

    /// See [`super::Back::needs_route`].
    pub fn needs_route(&self) -> bool {
        self.fixed.is_none()
    }

    /// See [`super::Back::send`]; `to` is an [`HttpBack::endpoint`].
    pub fn send(
        &self,
        to: &Endpoint,
        request: Request<Bytes>,
    ) -> impl Future<Output = Result<Response<Body>, SendError>> + Send + use<'_> {
        self.client.send(to, request)
    }

    /// See [`super::Back::send_on_new_connection`].
    pub async fn send_on_new_connection(
        &self,
        route: Option<&Route>,
        request: Request<Bytes>,
    ) -> Result<Response<Body>, SendError> {
        let endpoint = self.endpoint(route)?;
        self.client.send_on_new_connection(&endpoint, request).await
    }

    /// `answer` as far as it is believed: that nothing was forwarded is the word of a neighbour on a Unix socket. Over TCP
    /// whoever answers could say so, also after the call ran.
    pub fn believed(&self, mut answer: Response<Body>) -> Response<Body> {
        if !answer.status().is_success() && self.upstream.socket().is_none() {
            answer.headers_mut().remove(NOT_FORWARDED);
        }
        answer
    }

    /// Where a route leads.
    pub fn endpoint(&self, route: Option<&Route>) -> Result<Endpoint, SendError> {
        if let Some(fixed) = &self.fixed {
            return Ok(fixed.clone());
        }
        let mut by_route = self.by_route.lock().expect("no panic while locked");
        if let Some(known) = route.and_then(|route| by_route.get(route)) {
            return Ok(known.clone());
        }
        let endpoint = self.upstream.endpoint(route).map_err(|error| SendError::NotSent(error.into()))?;
        if let Some(route) = route
            && by_route.len() < REMEMBERED
        {
            by_route.insert(route.clone(), endpoint.clone());
        }
        Ok(endpoint)
    }
}

impl fmt::Display for HttpBack {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.upstream.fmt(out)
    }
}
