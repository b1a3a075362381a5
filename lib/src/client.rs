//! The client side: one pool for all endpoints, and errors that tell whether a request can have run.
//!
//! What is sent again, and why it may be, is decided by the caller; the only retry here is that of a request of which
//! not one byte was written because its pooled connection had just been closed.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::{Request, Response, header};
use http_body_util::Full;
use hyper::body::Incoming;
use hyper::client::conn::{TrySendError, http1};
use hyper_util::rt::TokioIo;

use crate::addr::Endpoint;
use crate::body::{Body, BodyError};
use crate::connect::Connector;
use crate::exit::chain;
use crate::life;
use crate::pool::{Leased, Pool, Sender};

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
    connector: Connector,
    pool: Arc<Pool>,
}

impl Client {
    /// A client with an empty pool; it connects when asked to send, inside a runtime.
    pub fn new(options: ClientOptions) -> Self {
        let connector = Connector::new(options.connect_timeout);
        Client { connector, pool: Pool::new(options.idle_timeout, options.max_idle) }
    }

    /// Sends a request over a pooled or new connection and waits for the head of the answer. The request's URI is set
    /// from the endpoint, and its `Host` if it has none; its other headers stay as they are.
    ///
    /// Not an `async fn`: that would keep room for the request twice, and every call would have to carry it.
    pub fn send(
        &self,
        to: &Endpoint,
        request: Request<Bytes>,
    ) -> impl Future<Output = Result<Response<Body>, SendError>> + Send + use<'_> {
        let mut request = prepare(to, request);
        let to = to.clone();
        async move {
            while let Some(mut sender) = self.pool.take(&to) {
                if !sender.is_usable().await {
                    continue;
                }
                let sent = sender.send(request).await;
                match answered(sent, sender, &to, Some(&self.pool))? {
                    Ok(answer) => return Ok(answer),
                    // That connection died while it was idle.
                    Err(Unwritten { back, .. }) => request = back,
                }
            }
            // Boxed: connecting is rare, and takes more room than all the rest.
            Box::pin(self.send_on(&to, request, Some(&self.pool))).await
        }
    }

    /// The same over a connection of its own, which is closed after the answer: for probes, which ask whether the
    /// server still accepts connections.
    pub async fn send_on_new_connection(
        &self,
        to: &Endpoint,
        request: Request<Bytes>,
    ) -> Result<Response<Body>, SendError> {
        self.send_on(to, prepare(to, request), None).await
    }

    async fn send_on(
        &self,
        to: &Endpoint,
        request: Request<Full<Bytes>>,
        pool: Option<&Arc<Pool>>,
    ) -> Result<Response<Body>, SendError> {
        let stream = self.connector.open(to.uri()).await.map_err(|error| SendError::NotSent(error.into()))?;
        let socket = stream.plain_socket();
        let shaken = http1::handshake(TokioIo::new(stream)).await;
        let (sender, connection) = shaken.map_err(|error| SendError::NotSent(error.into()))?;
        life::forever(async move {
            if let Err(error) = connection.await {
                log::debug!(error:% = error; "upstream connection ended");
            }
        });
        let mut sender = Sender::new(sender, socket);
        let sent = sender.send(request).await;
        answered(sent, sender, to, pool)?.map_err(|Unwritten { why, .. }| SendError::NotSent(why.into()))
    }
}

fn prepare(to: &Endpoint, request: Request<Bytes>) -> Request<Full<Bytes>> {
    let mut request = request.map(Full::new);
    *request.uri_mut() = to.target().clone();
    // A caller that sets its own has a reason, such as a server behind a name of its own.
    request.headers_mut().entry(header::HOST).or_insert_with(|| to.host().clone());
    request
}

/// A request that hyper hands back: it has not begun to write it.
struct Unwritten {
    back: Request<Full<Bytes>>,
    why: hyper::Error,
}

/// What came of sending a request over `sender`, which the answer's body gives back to `pool`.
fn answered(
    sent: Result<Response<Incoming>, TrySendError<Request<Full<Bytes>>>>,
    sender: Sender,
    to: &Endpoint,
    pool: Option<&Arc<Pool>>,
) -> Result<Result<Response<Body>, Unwritten>, SendError> {
    match sent {
        Ok(answer) => Ok(Ok(answer.map(|body| Body::Leased(Leased::new(body, sender, to, pool))))),
        Err(mut error) => match error.take_message() {
            Some(back) => Ok(Err(Unwritten { back, why: error.into_error() })),
            None => Err(SendError::Broken(error.into_error().into())),
        },
    }
}
