//! What is decided about a test client before it connects.

use std::time::Duration;

use http::HeaderMap;

use crate::{client::Client, failure::RpcFailure};

/// How long a request may take before the client gives up, unless the builder says otherwise.
const PATIENCE: Duration = Duration::from_secs(180);

/// What to decide before a [`Client`] connects.
#[derive(Clone, Debug)]
pub struct ClientBuilder {
    pub(crate) url: String,
    pub(crate) offer: String,
    pub(crate) headers: HeaderMap,
    pub(crate) strict: bool,
    pub(crate) patience: Duration,
    pub(crate) session: Option<String>,
}

impl ClientBuilder {
    pub(crate) fn new(url: &str) -> Self {
        Self {
            url: url.into(),
            offer: "2025-11-25".into(),
            headers: HeaderMap::new(),
            strict: true,
            patience: PATIENCE,
            session: None,
        }
    }

    /// The version that `initialize` offers; 2025-11-25 by default.
    pub fn version(mut self, offer: &str) -> Self {
        self.offer = offer.into();
        self
    }

    /// A header on every request; replaces the client's own of that name.
    pub fn header(mut self, name: &'static str, value: &str) -> Self {
        self.headers.insert(name, value.parse().expect("tests use valid header values"));
        self
    }

    /// How long a request may take; 180 s by default.
    pub fn patience(mut self, patience: Duration) -> Self {
        self.patience = patience;
        self
    }

    /// A session id from before; for [`ClientBuilder::unconnected`].
    pub fn session(mut self, id: &str) -> Self {
        self.session = Some(id.into());
        self
    }

    /// Does not assert that `mcp-session-id` comes on the answer to `initialize` only: real servers repeat it.
    pub fn lenient(mut self) -> Self {
        self.strict = false;
        self
    }

    /// Connects: `initialize`, `notifications/initialized`.
    pub async fn connect(self) -> Result<Client, RpcFailure> {
        let offer = self.offer.clone();
        let client = self.unconnected();
        client.handshake(&offer).await?;
        Ok(client)
    }

    /// A client that said nothing yet; with a session id it sends the offered version too.
    pub fn unconnected(self) -> Client {
        Client::of(self)
    }
}
