//! A small strict MCP client of the legacy era. What a server must never do to a client, it asserts.

use std::{
    io,
    sync::{
        Arc, Mutex,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use bytes::Bytes;
use http::{HeaderMap, Method, Request, Response, StatusCode, header};
use http_body_util::BodyExt as _;
use hyper::body::Incoming;
use serde_json::{Value, json};
use tokio::{sync::mpsc, time::timeout};

use crate::{
    answer::{SESSION, VERSION},
    client_builder::ClientBuilder,
    dial::{Dial, Sender},
    events::Events,
    failure::RpcFailure,
};

/// How long a stream may stay open after it has carried the response.
const STREAM_END: Duration = Duration::from_secs(10);

/// A client; its clones share the session.
#[derive(Clone, Debug)]
pub struct Client(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    dial: Dial,
    headers: HeaderMap,
    strict: bool,
    patience: Duration,
    session: Mutex<Option<String>>,
    version: Mutex<Option<String>>,
    introduction: Mutex<Value>,
    last: Mutex<(StatusCode, HeaderMap)>,
    next_id: AtomicU64,
    heard: mpsc::UnboundedSender<Value>,
    said: tokio::sync::Mutex<mpsc::UnboundedReceiver<Value>>,
}

impl Client {
    /// Connects, says `initialize` and `notifications/initialized`, and keeps the session id.
    pub async fn connect(url: &str) -> Result<Client, RpcFailure> {
        Client::builder(url).connect().await
    }

    /// Choices to make before connecting.
    pub fn builder(url: &str) -> ClientBuilder {
        ClientBuilder::new(url)
    }

    pub(crate) fn of(built: ClientBuilder) -> Client {
        let target = built.url.parse().expect("tests use valid URLs");
        let (heard, said) = mpsc::unbounded_channel();
        let version = built.session.as_ref().map(|_| built.offer);
        Client(Arc::new(Inner {
            dial: Dial::new(target),
            headers: built.headers,
            strict: built.strict,
            patience: built.patience,
            session: Mutex::new(built.session),
            version: Mutex::new(version),
            introduction: Mutex::default(),
            last: Mutex::new((StatusCode::default(), HeaderMap::new())),
            next_id: AtomicU64::new(1),
            heard,
            said: tokio::sync::Mutex::new(said),
        }))
    }

    /// The text of a `tools/call`'s first content.
    pub async fn call_text(&self, tool: &str, arguments: Value) -> Result<String, RpcFailure> {
        let result = self.call(tool, arguments).await?;
        Ok(result["content"][0]["text"].as_str().unwrap_or_default().to_owned())
    }

    /// The result of a `tools/call`.
    pub async fn call(&self, tool: &str, arguments: Value) -> Result<Value, RpcFailure> {
        self.request("tools/call", json!({ "name": tool, "arguments": arguments })).await
    }

    /// The result of a request; what the server says before it is kept for [`Client::next_message`].
    pub async fn request(&self, method: &str, params: Value) -> Result<Value, RpcFailure> {
        let id = self.0.next_id.fetch_add(1, Ordering::Relaxed);
        let message = json!({ "jsonrpc": "2.0", "id": id, "method": method, "params": params });
        match timeout(self.0.patience, self.exchange(&message)).await {
            Ok(outcome) => outcome,
            Err(_) => {
                Err(RpcFailure::broken(None, format!("no answer to {method} within {:?}", self.0.patience)))
            }
        }
    }

    /// Sends a notification; anything but 202 is a failure.
    pub async fn notify(&self, method: &str, params: Value) -> Result<(), RpcFailure> {
        self.tell(&json!({ "jsonrpc": "2.0", "method": method, "params": params })).await
    }

    /// Answers a request of the server; anything but 202 is a failure.
    pub async fn respond(&self, id: &Value, result: Value) -> Result<(), RpcFailure> {
        self.tell(&json!({ "jsonrpc": "2.0", "id": id, "result": result })).await
    }

    /// The next notification or request of the server that came on the stream of a POST. Cancel safe.
    pub async fn next_message(&self) -> Value {
        self.0.said.lock().await.recv().await.expect("the sending side lives in self")
    }

    /// Opens the GET stream.
    pub async fn open_get(&self) -> Result<Events, RpcFailure> {
        self.open_get_after(None).await
    }

    /// Opens a GET stream that goes on after this event id.
    pub async fn open_get_after(&self, last_event_id: Option<&str>) -> Result<Events, RpcFailure> {
        let mut request = self.prepared(Method::GET, Bytes::new());
        if let Some(id) = last_event_id {
            request.headers_mut().insert("last-event-id", id.parse().expect("an event id is a header value"));
        }
        let (response, _sender) = self.send(request, false).await?;
        if response.status() != StatusCode::OK {
            return Err(self.refused(response).await);
        }
        Ok(Events::new(response.into_body()))
    }

    /// POSTs a message and returns the answer's event stream, unread; for a client that does it by hand.
    pub async fn open_post(&self, message: &Value) -> Result<Events, RpcFailure> {
        let request = self.prepared(Method::POST, message.to_string().into());
        let (response, _sender) = self.send(request, false).await?;
        if response.status() != StatusCode::OK {
            return Err(self.refused(response).await);
        }
        Ok(Events::new(response.into_body()))
    }

    /// Ends the session with DELETE; returns the status.
    pub async fn delete(&self) -> Result<u16, RpcFailure> {
        let response = self.raw(self.prepared(Method::DELETE, Bytes::new())).await;
        response.map(|response| response.status().as_u16()).map_err(|error| RpcFailure::broken(None, error))
    }

    /// Sends exactly this (plus `Host` where missing; a URI of `/` means the client's path) and reads the whole answer.
    pub async fn raw(&self, request: Request<Bytes>) -> io::Result<Response<Bytes>> {
        let (response, sender) = self.0.dial.send(request).await?;
        let (head, body) = response.into_parts();
        let body = body.collect().await.map_err(io::Error::other)?.to_bytes();
        self.0.dial.keep(sender);
        Ok(Response::from_parts(head, body))
    }

    /// A request with the headers that this client always sends, to alter and send with [`Client::raw`].
    pub fn prepared(&self, method: Method, body: Bytes) -> Request<Bytes> {
        let mut request = Request::new(body);
        let headers = request.headers_mut();
        let accept =
            if method == Method::GET { "text/event-stream" } else { "application/json, text/event-stream" };
        headers.insert(header::ACCEPT, header::HeaderValue::from_static(accept));
        if method == Method::POST {
            headers.insert(header::CONTENT_TYPE, header::HeaderValue::from_static("application/json"));
        }
        let pairs =
            [(SESSION, self.session_id()), (VERSION, self.0.version.lock().expect("not poisoned").clone())];
        for (name, value) in pairs {
            if let Some(value) = value {
                headers.insert(name, value.parse().expect("it was a header before"));
            }
        }
        headers.extend(self.0.headers.clone());
        *request.method_mut() = method;
        request
    }

    /// The session id, once `initialize` gave one.
    pub fn session_id(&self) -> Option<String> {
        self.0.session.lock().expect("not poisoned").clone()
    }

    /// The result of `initialize`.
    pub fn introduction(&self) -> Value {
        self.0.introduction.lock().expect("not poisoned").clone()
    }

    /// Status of the last HTTP answer.
    pub fn last_status(&self) -> StatusCode {
        self.0.last.lock().expect("not poisoned").0
    }

    /// Headers of the last HTTP answer.
    pub fn last_headers(&self) -> HeaderMap {
        self.0.last.lock().expect("not poisoned").1.clone()
    }

    pub(crate) async fn handshake(&self, offer: &str) -> Result<(), RpcFailure> {
        let params = json!({
            "protocolVersion": offer,
            "capabilities": { "elicitation": {}, "roots": { "listChanged": true } },
            "clientInfo": { "name": "support", "version": "1" },
        });
        let introduction = self.request("initialize", params).await?;
        let version = introduction["protocolVersion"].as_str().map(str::to_owned);
        // The header exists since 2025-06-18; a client of an older version does not send it.
        *self.0.version.lock().expect("not poisoned") =
            version.filter(|version| version.as_str() >= "2025-06-18");
        *self.0.introduction.lock().expect("not poisoned") = introduction;
        self.notify("notifications/initialized", json!({})).await
    }

    async fn tell(&self, message: &Value) -> Result<(), RpcFailure> {
        let request = self.prepared(Method::POST, message.to_string().into());
        let (response, sender) = self.send(request, false).await?;
        if response.status() != StatusCode::ACCEPTED {
            return Err(self.refused(response).await);
        }
        if response.into_body().collect().await.is_ok() {
            self.0.dial.keep(sender);
        }
        Ok(())
    }

    async fn exchange(&self, message: &Value) -> Result<Value, RpcFailure> {
        let initialize = message["method"] == "initialize";
        let request = self.prepared(Method::POST, message.to_string().into());
        let (response, sender) = self.send(request, initialize).await?;
        let status = response.status();
        if status != StatusCode::OK {
            return Err(self.refused(response).await);
        }
        if initialize {
            let session = response.headers().get(SESSION).and_then(|id| id.to_str().ok()).map(str::to_owned);
            *self.0.session.lock().expect("not poisoned") = session;
        }
        let kind = response
            .headers()
            .get(header::CONTENT_TYPE)
            .and_then(|kind| kind.to_str().ok())
            .unwrap_or_default();
        let answer = if kind.starts_with("text/event-stream") {
            self.response_on(Events::new(response.into_body()), sender).await
        } else {
            let body = response.into_body().collect().await;
            let body = body.map_err(|error| RpcFailure::broken(Some(status), error))?.to_bytes();
            self.0.dial.keep(sender);
            serde_json::from_slice(&body).map_err(|error| RpcFailure::broken(Some(status), error))
        }?;
        assert_eq!(answer["id"], message["id"], "an answer carries the id of its request: {answer}");
        match answer.get("result") {
            Some(result) => Ok(result.clone()),
            None => Err(RpcFailure {
                status: Some(status.as_u16()),
                error: answer.get("error").cloned(),
                text: answer.to_string(),
            }),
        }
    }

    /// The response on a stream, which must then end; a server that leaves it open would leak it in every client.
    async fn response_on(&self, mut events: Events, sender: Sender) -> Result<Value, RpcFailure> {
        while let Some(message) = events.next_message().await {
            if message.get("method").is_some() {
                let _ = self.0.heard.send(message);
                continue;
            }
            let end = timeout(STREAM_END, events.next_event()).await;
            assert_eq!(end, Ok(None), "nothing follows a response on its stream, which ends");
            if events.broken().is_none() {
                self.0.dial.keep(sender);
            }
            return Ok(message);
        }
        let why = events.broken().map_or("the stream ended without the answer".to_owned(), str::to_owned);
        Err(RpcFailure::broken(Some(StatusCode::OK), why))
    }

    async fn send(
        &self,
        request: Request<Bytes>,
        initialize: bool,
    ) -> Result<
        (Response<Incoming>, hyper::client::conn::http1::SendRequest<http_body_util::Full<Bytes>>),
        RpcFailure,
    > {
        let sent = self.0.dial.send(request).await;
        let (response, sender) = sent.map_err(|error| RpcFailure::broken(None, error))?;
        let session = response.headers().get(SESSION);
        assert!(
            initialize || !self.0.strict || session.is_none(),
            "{SESSION} belongs on the answer to initialize only, not on {} {session:?}",
            response.status()
        );
        *self.0.last.lock().expect("not poisoned") = (response.status(), response.headers().clone());
        Ok((response, sender))
    }

    async fn refused(&self, response: Response<Incoming>) -> RpcFailure {
        let status = response.status();
        let body = response.into_body().collect().await.map(|body| body.to_bytes()).unwrap_or_default();
        let error = serde_json::from_slice(&body).ok().and_then(|body: Value| body.get("error").cloned());
        RpcFailure { status: Some(status.as_u16()), error, text: String::from_utf8_lossy(&body).into_owned() }
    }
}
