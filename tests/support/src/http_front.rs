//! One HTTP request: accidents first, then the transport's checks, then the session, then the method.

use std::{future::pending, sync::Arc};

use bytes::Bytes;
use http::{HeaderMap, Method, Request};
use http_body_util::{BodyExt as _, Limited};
use hyper::body::Incoming;
use serde_json::{Value, json};
use tokio::sync::mpsc;

use crate::{
    answer::{Answer, SESSION, VERSION, stream, text, typed, with_session},
    answer_body::AnswerBody,
    checks,
    connection::Busy,
    framing::Framing,
    methods::{self, VERSIONS},
    mishap::Kind,
    modern,
    refusal::{self, Refusal, Stale},
    switches::{Answers, Switches},
    tools,
    world::{Recorded, Session, World},
};

/// One request with all that is known about it.
pub(crate) struct Asked {
    pub(crate) world: Arc<World>,
    pub(crate) http: Method,
    pub(crate) headers: HeaderMap,
    /// The message, `Null` where the body is none.
    pub(crate) message: Value,
    /// What the mishap queue knows it as.
    what: String,
}

/// Answers `request`, which came on `port` (none: a Unix socket).
pub(crate) async fn answer(
    world: Arc<World>,
    port: Option<u16>,
    busy: Busy,
    request: Request<Incoming>,
) -> Answer {
    let (head, body) = request.into_parts();
    let switches = world.switches();
    let Ok(body) = Limited::new(body, switches.body_limit).collect().await else {
        return text(413, "Payload too large").map(|body| body.keeping(busy));
    };
    let body = body.to_bytes();
    let asked = Asked::new(world.clone(), head.method, head.headers, &body);
    asked.record(body);
    let mut dies = None;
    let accident = if switches.not_forwarded { not_forwarded() } else { world.mishap(&asked.what) };
    let answer = match accident {
        Some(Kind::Answer { status, content_type, body, not_forwarded }) => {
            let mut answer = typed(status.as_u16(), Some(content_type), body);
            if not_forwarded {
                answer.headers_mut().insert("mcp-not-forwarded", http::HeaderValue::from_static("1"));
            }
            answer
        }
        Some(Kind::Hang) => pending().await,
        Some(Kind::RpcError { code, message }) => {
            asked.framed(&switches, &methods::error(asked.id(), code, &message), None)
        }
        Some(Kind::Die { after }) => {
            dies = Some(after);
            asked.serve(&switches, port, head.uri.path()).await
        }
        None => asked.serve(&switches, port, head.uri.path()).await,
    };
    let Some(after) = dies else { return answer.map(|body| body.keeping(busy)) };
    answer.map(|body| body.dying_after(after).keeping(busy))
}

fn not_forwarded() -> Option<Kind> {
    Some(crate::Mishap::not_forwarded().kind)
}

impl Asked {
    fn new(world: Arc<World>, http: Method, headers: HeaderMap, body: &[u8]) -> Self {
        let message: Value = serde_json::from_slice(body).unwrap_or(Value::Null);
        let what = match (&http, message["method"].as_str()) {
            (&Method::POST, Some(method)) => method.to_owned(),
            (&Method::POST, None) => "response".to_owned(),
            (other, _) => other.to_string(),
        };
        Self { world, http, headers, message, what }
    }

    /// A header as text.
    pub(crate) fn header(&self, name: &str) -> Option<&str> {
        self.headers.get(name).and_then(|value| value.to_str().ok())
    }

    /// The JSON-RPC method, or `""`.
    pub(crate) fn method(&self) -> &str {
        self.message["method"].as_str().unwrap_or_default()
    }

    /// The id of a request; responses and notifications have none here.
    pub(crate) fn id(&self) -> Option<&Value> {
        self.message.get("id").filter(|_| self.message.get("method").is_some())
    }

    fn record(&self, body: Bytes) {
        let recorded = Recorded {
            method: self.method().to_owned(),
            http_method: self.http.clone(),
            session: self.header(SESSION).map(str::to_owned),
            headers: self.headers.clone(),
            body,
        };
        self.world.change(|state| state.record(recorded));
    }

    async fn serve(&self, switches: &Switches, port: Option<u16>, path: &str) -> Answer {
        self.world.not_hanging().await;
        if path != "/mcp" {
            return text(404, "Not Found");
        }
        if let Some((status, sentence)) = checks::foreign(switches, &self.headers, port) {
            return text(status, sentence);
        }
        let acceptable = checks::acceptable(switches, &self.http, &self.headers);
        let modern = self.header(VERSION).is_some_and(|version| version >= modern::VERSION);
        if switches.modern && modern && self.http == Method::POST {
            return match acceptable {
                true => modern::answer(self, switches).await,
                false => self.transport_error(406, "Not Acceptable"),
            };
        }
        match self.header(SESSION) {
            Some(session) if self.world.state().sessions.contains_key(session) => {}
            Some(_) => return self.stale(switches).await,
            None if self.http == Method::POST && self.method() == "initialize" => {}
            None if !matches!(self.http, Method::POST | Method::GET | Method::DELETE) => {
                return self.transport_error(405, "Method Not Allowed");
            }
            None => return self.refused(refusal::no_id(self.world.flavour, &self.http)),
        }
        if !acceptable {
            return self.transport_error(406, "Not Acceptable");
        }
        let session = self.header(SESSION).unwrap_or_default().to_owned();
        if let Some(version) = self.header(VERSION).filter(|version| !VERSIONS.contains(version)) {
            return self
                .transport_error(400, &format!("Bad Request: Unsupported protocol version: {version}"));
        }
        match self.http {
            Method::GET if !switches.get => self.transport_error(405, "Method Not Allowed"),
            Method::GET => self.get(&session),
            Method::DELETE => self.delete(&session),
            Method::POST if self.method() == "initialize" => self.initialize(switches, &session),
            Method::POST => self.post(switches, &session).await,
            _ => self.transport_error(405, "Method Not Allowed"),
        }
    }

    async fn stale(&self, switches: &Switches) -> Answer {
        let flavour = self.world.flavour;
        match refusal::stale(flavour, &self.http, self.id()) {
            Stale::Refuse(refusal) => self.refused(refusal),
            Stale::RefuseAsStream(refusal) => {
                typed(200, Some("text/event-stream"), self.framing().event_of_text(&refusal.body))
            }
            Stale::AsUninitialized => match self.id() {
                None => text(202, ""),
                Some(id) if self.method() == "ping" => {
                    self.framed(switches, &methods::result(Some(id), json!({})), None)
                }
                Some(id) => {
                    let error = refusal::before_initialized(flavour, self.method())
                        .expect("a flavour that makes up sessions refuses before initialize");
                    self.framed(switches, &methods::failed(id, error), None)
                }
            },
            Stale::Silence => pending().await,
        }
    }

    fn initialize(&self, switches: &Switches, session: &str) -> Answer {
        if !session.is_empty() {
            return self.transport_error(400, "Invalid Request: Server already initialized");
        }
        let version = methods::agree(switches, &self.message);
        let id = self.world.change(|state| {
            state.initializes += 1;
            let id = state.mint();
            state.sessions.insert(id.clone(), Session { version: version.clone(), ..Session::default() });
            id
        });
        self.framed(switches, &methods::result(self.id(), methods::introduction(&version)), Some(&id))
    }

    async fn post(&self, switches: &Switches, session: &str) -> Answer {
        let Some(id) = self.id() else {
            if !self.message.is_object() {
                return typed(
                    400,
                    Some("application/json"),
                    methods::error(None, -32700, "Parse error").to_string(),
                );
            }
            methods::told(&self.world, session, &self.message);
            return with_session(text(202, ""), session);
        };
        let initialized = self.world.state().sessions.get(session).is_some_and(|it| it.initialized);
        if !initialized
            && self.method() != "ping"
            && let Some(error) = refusal::before_initialized(self.world.flavour, self.method())
        {
            return self.framed(switches, &methods::failed(id, error), Some(session));
        }
        let (outlet, mut messages) = mpsc::unbounded_channel();
        let (world, message, owner) = (self.world.clone(), self.message.clone(), session.to_owned());
        // A task of its own: the effect of a call happens even if the client goes away meanwhile.
        tokio::spawn(async move {
            let response = methods::answer(&world, Some(&owner), &message, &outlet).await;
            let _ = outlet.send(response);
        });
        if switches.answers == Answers::Sse || tools::speaks_first(&self.message) {
            return with_session(stream(AnswerBody::events(messages, self.framing())), session);
        }
        while let Some(message) = messages.recv().await {
            if message.get("method").is_none() {
                return with_session(typed(200, Some("application/json"), message.to_string()), session);
            }
        }
        text(500, "Internal Server Error")
    }

    fn get(&self, session: &str) -> Answer {
        let (outlet, messages) = mpsc::unbounded_channel();
        let framing = self.framing();
        self.world.change(|state| {
            if let Some(session) = state.sessions.get_mut(session) {
                session.get_streams.push(outlet);
            }
        });
        with_session(stream(AnswerBody::events(messages, framing)), session)
    }

    fn delete(&self, session: &str) -> Answer {
        self.world.change(|state| {
            state.sessions.remove(session);
            state.deletes += 1;
        });
        text(200, "")
    }

    /// A response as the switches frame it; `session` is the id it carries.
    pub(crate) fn framed(&self, switches: &Switches, response: &Value, session: Option<&str>) -> Answer {
        let answer = match switches.answers {
            Answers::Json => typed(200, Some("application/json"), response.to_string()),
            Answers::Sse => {
                let mut framing = self.framing();
                let mut bytes = framing.opening().unwrap_or_default().to_vec();
                bytes.extend_from_slice(&framing.event(response));
                typed(200, Some("text/event-stream"), bytes)
            }
        };
        match session {
            Some(session) => with_session(answer, session),
            None => answer,
        }
    }

    pub(crate) fn framing(&self) -> Framing {
        let stream = self.world.change(|state| {
            state.streams_opened += 1;
            state.streams_opened
        });
        Framing::new(self.world.flavour, stream)
    }

    fn transport_error(&self, status: u16, sentence: &str) -> Answer {
        let has_session = self.header(SESSION).is_some();
        self.refused(refusal::transport(self.world.flavour, status, sentence, has_session))
    }

    fn refused(&self, refusal: Refusal) -> Answer {
        let answer = typed(refusal.status, refusal.content_type, refusal.body);
        match refusal.dead_id {
            true => with_session(answer, &self.world.state().mint()),
            false => answer,
        }
    }
}
