//! A small HTTP server: for the dashboard, and for a backend that is no MCP server.

use std::{
    convert::Infallible,
    future::pending,
    io,
    net::Ipv4Addr,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
};

use bytes::Bytes;
use http::{Request, Response, header};
use http_body_util::Full;
use hyper::{body::Incoming, server::conn::http1, service::service_fn};
use hyper_util::rt::TokioIo;
use serde_json::{Value, json};
use tokio::net::TcpListener;

use super::{FakeBackend, end, journal::Writer};

/// What is answered to one request; status 0 is no answer at all.
pub(crate) struct Page {
    pub(crate) status: u16,
    pub(crate) kind: &'static str,
    pub(crate) body: String,
}

impl Page {
    pub(crate) fn json(value: Value) -> Self {
        Self { status: 200, kind: "application/json", body: value.to_string() }
    }

    pub(crate) fn missing() -> Self {
        Self { status: 404, kind: "text/html", body: "<h1>Not Found</h1>".into() }
    }

    pub(crate) fn silence() -> Self {
        Self { status: 0, kind: "", body: String::new() }
    }
}

/// Serves plain HTTP on the backend's port; returns the port. `PUT /shutdown` ends the process.
pub(crate) async fn serve(fake: &FakeBackend, journal: Arc<Writer>) -> io::Result<u16> {
    let (words, polls) = (fake.plain.clone(), AtomicUsize::new(0));
    listen(fake.port, move |method, path| {
        journal.write("request", json!({ "http": method, "path": path }));
        match (method, path) {
            ("PUT", "/shutdown") => end(&journal, 0),
            ("GET", "/health") => {
                let poll = polls.fetch_add(1, Ordering::Relaxed);
                match words[poll.min(words.len() - 1)].as_str() {
                    "ready" => Page::json(json!({ "healthy": true })),
                    "hang" => Page::silence(),
                    _ => Page { status: 503, kind: "text/plain", body: "not yet\n".into() },
                }
            }
            ("GET", "/") => Page { status: 200, kind: "text/plain", body: "plain\n".into() },
            _ => Page::missing(),
        }
    })
    .await
}

/// Serves whatever `answer` says on a loopback port; returns the port.
pub(crate) async fn listen(
    port: u16,
    answer: impl Fn(&str, &str) -> Page + Send + Sync + 'static,
) -> io::Result<u16> {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, port)).await?;
    let port = listener.local_addr()?.port();
    let answer = Arc::new(answer);
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            let answer = answer.clone();
            let service = service_fn(move |request: Request<Incoming>| {
                let page = answer(request.method().as_str(), request.uri().path());
                respond(page)
            });
            // Who has asked and closes its side still waits for the answer.
            let mut builder = http1::Builder::new();
            tokio::spawn(builder.half_close(true).serve_connection(TokioIo::new(stream), service));
        }
    });
    Ok(port)
}

async fn respond(page: Page) -> Result<Response<Full<Bytes>>, Infallible> {
    if page.status == 0 {
        return pending().await;
    }
    let response = Response::builder().status(page.status).header(header::CONTENT_TYPE, page.kind);
    Ok(response.body(Full::from(page.body)).expect("a status and a type of ours"))
}
