//! The client side: one pool for all endpoints, and errors that tell whether a request can have run.
//!
//! What is sent again, and why it may be, is decided by the caller; the only retry here is hyper-util's own, of a
//! request of which not one byte was written because its pooled connection had just been closed.

use std::error::Error as _;
use std::time::Duration;

use bytes::Bytes;
use http::{Request, Response, header};
use http_body_util::Full;
use hyper::body::Incoming;
use hyper_util::client::legacy;
use hyper_util::rt::TokioTimer;

use crate::addr::Endpoint;
use crate::body::BodyError;
use crate::connect::Connector;
use crate::exit::chain;
use crate::life::PoolExecutor;

/// Bounds of a client.
#[derive(Clone, Copy, Debug)]
pub struct ClientOptions {
    /// From the start of a connection to its use: name look-up, TCP and TLS together.
    pub connect_timeout: Duration,
    /// How long an unused connection is kept; less than the 5 s after which uvicorn closes them, because a request
    /// written to a connection that is being closed has an unknown effect.
    pub idle_timeout: Duration,
    /// Unused connections kept per endpoint.
    pub max_idle: usize,
}

impl Default for ClientOptions {
    fn default() -> Self {
        ClientOptions {
            connect_timeout: Duration::from_secs(5),
            idle_timeout: Duration::from_secs(3),
            max_idle: 256,
        }
    }
}

/// Why there is no answer, and whether the request can have had an effect.
#[derive(Debug, thiserror::Error)]
pub enum SendError {
    /// Lost after it may have been written, wholly or in part: its effect is unknown.
    #[error("connection lost after the request was sent: {}", chain(&**.0))]
    Broken(#[source] BodyError),
    /// Nothing of it was written: refused, no such socket, timed out, TLS failed.
    #[error("cannot connect: {}", chain(&**.0))]
    NotSent(#[source] BodyError),
}

/// Sends requests to endpoints; a clone shares the pool.
#[derive(Clone)]
pub struct Client {
    pooled: legacy::Client<Connector, Full<Bytes>>,
    fresh: legacy::Client<Connector, Full<Bytes>>,
}

impl Client {
    /// A client with an empty pool; it connects when asked to send, inside a runtime.
    pub fn new(options: ClientOptions) -> Self {
        let connector = Connector::new(options.connect_timeout);
        let mut builder = legacy::Client::builder(PoolExecutor);
        builder.timer(TokioTimer::new()).pool_timer(TokioTimer::new()).set_host(false);
        let fresh = builder.clone().pool_max_idle_per_host(0).build(connector.clone());
        let pooled = builder
            .pool_idle_timeout(options.idle_timeout)
            .pool_max_idle_per_host(options.max_idle)
            .build(connector);
        Client { pooled, fresh }
    }

    /// Sends a request over a pooled or new connection and waits for the head of the answer. The request's URI and
    /// `Host` are set from the endpoint; its other headers stay as they are.
    pub async fn send(
        &self,
        to: &Endpoint,
        request: Request<Bytes>,
    ) -> Result<Response<Incoming>, SendError> {
        send(&self.pooled, to, request).await
    }

    /// The same over a connection of its own, which is closed after the answer: for probes, which ask whether the
    /// server still accepts connections.
    pub async fn send_on_new_connection(
        &self,
        to: &Endpoint,
        request: Request<Bytes>,
    ) -> Result<Response<Incoming>, SendError> {
        send(&self.fresh, to, request).await
    }
}

async fn send(
    client: &legacy::Client<Connector, Full<Bytes>>,
    to: &Endpoint,
    request: Request<Bytes>,
) -> Result<Response<Incoming>, SendError> {
    let mut request = request.map(Full::new);
    *request.uri_mut() = to.uri().clone();
    // A caller that sets its own has a reason, such as a server behind a name of its own.
    request.headers_mut().entry(header::HOST).or_insert_with(|| to.host().clone());
    client.request(request).await.map_err(|error| {
        // hyper calls a request canceled exactly when it can hand it back unwritten.
        let unwritten = error
            .source()
            .and_then(|cause| cause.downcast_ref::<hyper::Error>())
            .is_some_and(hyper::Error::is_canceled);
        if error.is_connect() || unwritten {
            SendError::NotSent(error.into())
        } else {
            SendError::Broken(error.into())
        }
    })
}
