//! The server behind everything that is measured: one tool, `echo`, whose answer has the size and the form that the
//! call asks for. Nothing is made while a call waits: answers are a head with the id, and a tail that is shared.

use std::cell::RefCell;
use std::collections::HashSet;
use std::convert::Infallible;
use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll};

use argh::FromArgs;
use bytes::buf::Chain;
use bytes::{Buf, Bytes};
use http::header::{CONTENT_TYPE, HeaderName, HeaderValue};
use http::{Method, Request, Response, StatusCode};
use http_body::{Body, Frame, SizeHint};
use http_body_util::BodyExt;
use hyper::body::Incoming;
use serde::Deserialize;
use serde_json::value::RawValue;

use crate::hop::random_id;
use crate::serve::serve;

const SESSION: HeaderName = HeaderName::from_static("mcp-session-id");
const JSON: HeaderValue = HeaderValue::from_static("application/json");
const EVENTS: HeaderValue = HeaderValue::from_static("text/event-stream");
/// What real servers send so that nginx does not hold back an event.
const UNBUFFERED: (HeaderName, HeaderValue) =
    (HeaderName::from_static("x-accel-buffering"), HeaderValue::from_static("no"));

/// The text sizes that `echo` can answer with, in bytes.
pub const SIZES: [usize; 2] = [1024, 65536];

/// a fast MCP server with one tool
#[derive(FromArgs)]
#[argh(subcommand, name = "echo")]
pub struct Options {
    /// address to listen on
    #[argh(option)]
    listen: SocketAddr,
}

struct Echo {
    sessions: RefCell<HashSet<HeaderValue>>,
    /// One JSON tail and one SSE tail per size of `SIZES`.
    tails: [(Bytes, Bytes); 2],
}

#[derive(Deserialize)]
struct Message<'a> {
    #[serde(borrow)]
    id: Option<&'a RawValue>,
    method: &'a str,
    #[serde(borrow)]
    params: Option<Params<'a>>,
}

#[derive(Deserialize)]
struct Params<'a> {
    #[serde(borrow)]
    arguments: Option<Arguments<'a>>,
}

#[derive(Deserialize)]
struct Arguments<'a> {
    bytes: usize,
    form: &'a str,
}

/// Serves `/mcp` on `listen` until the process is stopped.
pub async fn run(options: &Options) -> io::Result<()> {
    let tails = SIZES.map(|bytes| {
        let json = format!(r#","result":{{"content":[{{"type":"text","text":"{}"}}]}}}}"#, text(bytes));
        let events = format!("{json}\r\n\r\n");
        (Bytes::from(json), Bytes::from(events))
    });
    let echo = Echo { sessions: RefCell::default(), tails };
    serve(options.listen, Rc::new(echo), |echo, request| async move {
        echo.answer(request).await.unwrap_or_else(|status| {
            let lost =
                &br#"{"jsonrpc":"2.0","id":null,"error":{"code":-32600,"message":"Session not found"}}"#[..];
            let frame =
                (status == StatusCode::NOT_FOUND).then(|| Bytes::from_static(lost).chain(Bytes::new()));
            let mut answer = Response::new(Event { frame, endless: false, sized: true });
            *answer.status_mut() = status;
            answer
        })
    })
    .await
}

/// Text that looks like a file of source code: `bytes` long as JSON, with an escape in every 40 bytes.
fn text(bytes: usize) -> String {
    let line = r"    let value = call(argument, other);\n";
    line.chars()
        .cycle()
        .take(bytes - bytes % line.len())
        .chain("x".repeat(bytes % line.len()).chars())
        .collect()
}

impl Echo {
    async fn answer(&self, request: Request<Incoming>) -> Result<Response<Event>, StatusCode> {
        let (parts, body) = request.into_parts();
        let session = parts.headers.get(SESSION);
        if let Some(id) = session
            && !self.sessions.borrow().contains(id)
        {
            return Err(StatusCode::NOT_FOUND);
        }
        match (parts.method, session) {
            (Method::POST, _) => {
                let body = body.collect().await.map_err(|_| StatusCode::BAD_REQUEST)?.to_bytes();
                let message = serde_json::from_slice(&body).map_err(|_| StatusCode::BAD_REQUEST)?;
                self.message(&message, session.is_some())
            }
            (Method::GET, Some(_)) => Ok(events(Bytes::from_static(b": open\r\n\r\n"), Bytes::new(), true)),
            (Method::DELETE, Some(id)) => {
                self.sessions.borrow_mut().remove(id);
                Ok(Response::new(Event::default()))
            }
            _ => Err(StatusCode::BAD_REQUEST),
        }
    }

    fn message(&self, message: &Message<'_>, in_session: bool) -> Result<Response<Event>, StatusCode> {
        let Some(id) = message.id else { return Err(StatusCode::ACCEPTED) };
        match (message.method, &message.params) {
            ("initialize", _) => self.initialize(id),
            ("ping", _) if in_session => Ok(json(id, Bytes::from_static(br#","result":{}}"#))),
            ("tools/call", Some(Params { arguments: Some(Arguments { bytes, form }) })) if in_session => {
                let size = SIZES.iter().position(|size| size == bytes).ok_or(StatusCode::BAD_REQUEST)?;
                let (plain, framed) = &self.tails[size];
                match *form {
                    "json" => Ok(json(id, plain.clone())),
                    "sse" => {
                        let head =
                            format!("event: message\r\ndata: {{\"jsonrpc\":\"2.0\",\"id\":{}", id.get());
                        Ok(events(head.into(), framed.clone(), false))
                    }
                    _ => Err(StatusCode::BAD_REQUEST),
                }
            }
            _ => Err(StatusCode::BAD_REQUEST),
        }
    }

    fn initialize(&self, id: &RawValue) -> Result<Response<Event>, StatusCode> {
        let session = HeaderValue::from_str(&random_id()).map_err(|_| StatusCode::INTERNAL_SERVER_ERROR)?;
        self.sessions.borrow_mut().insert(session.clone());
        let result = concat!(
            r#","result":{"protocolVersion":"2025-11-25","capabilities":{"tools":{}},"#,
            r#""serverInfo":{"name":"echo","version":"1"}}}"#
        );
        let mut answer = json(id, Bytes::from_static(result.as_bytes()));
        answer.headers_mut().insert(SESSION, session);
        Ok(answer)
    }
}

fn json(id: &RawValue, tail: Bytes) -> Response<Event> {
    let head = Bytes::from(format!(r#"{{"jsonrpc":"2.0","id":{}"#, id.get()));
    let mut answer = Response::new(Event { frame: Some(head.chain(tail)), endless: false, sized: true });
    answer.headers_mut().insert(CONTENT_TYPE, JSON);
    answer
}

fn events(head: Bytes, tail: Bytes, endless: bool) -> Response<Event> {
    let mut answer = Response::new(Event { frame: Some(head.chain(tail)), endless, sized: false });
    answer.headers_mut().insert(CONTENT_TYPE, EVENTS);
    let (name, value) = UNBUFFERED;
    answer.headers_mut().insert(name, value);
    answer
}

/// A body of one frame, a head and a tail that are never copied; an endless one then stays open without a word.
#[derive(Default)]
struct Event {
    frame: Option<Chain<Bytes, Bytes>>,
    endless: bool,
    /// Whether the length is announced (JSON) or the body is chunked (SSE).
    sized: bool,
}

impl Body for Event {
    type Data = Chain<Bytes, Bytes>;
    type Error = Infallible;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        _: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Self::Data>, Self::Error>>> {
        match self.frame.take() {
            Some(frame) => Poll::Ready(Some(Ok(Frame::data(frame)))),
            // No waker is kept: hyper itself notices when the client goes away.
            None if self.endless => Poll::Pending,
            None => Poll::Ready(None),
        }
    }

    fn is_end_stream(&self) -> bool {
        !self.endless && self.frame.is_none()
    }

    fn size_hint(&self) -> SizeHint {
        if !self.sized && !self.is_end_stream() {
            return SizeHint::default();
        }
        SizeHint::with_exact(self.frame.as_ref().map_or(0, |frame| frame.remaining() as u64))
    }
}
