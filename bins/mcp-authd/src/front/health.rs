//! `GET /health`, for whoever asks: nothing about anybody, only how the whole is set up and whether it is well.

use std::path::Path;
use std::sync::PoisonError;
use std::time::Duration;

use http::{HeaderValue, Response, StatusCode, header};
use mcp_daemon::body::Body;
use mcp_daemon::control;
use serde_json::{Value, json};
use tokio::sync::Mutex;
use tokio::time::{Instant, timeout};

use crate::config::Config;
use crate::route::{Readiness, Router};

/// How long an answer of serena-snapshotd is good: anybody may ask us, and it has other things to do.
const FRESH: Duration = Duration::from_secs(5);
/// How long it may take.
const PATIENCE: Duration = Duration::from_secs(1);

/// How long a count of the upstreams is good: there may be many.
const COUNTED: Duration = Duration::from_secs(1);

/// What was last heard of the snapshots, and seen of the upstreams.
#[derive(Default)]
pub struct Health {
    snapshots: Mutex<Option<(Instant, Value)>>,
    upstreams: std::sync::Mutex<Option<(Instant, Readiness)>>,
}

impl Health {
    /// What anybody may know.
    pub async fn answer(&self, config: &Config, router: &Router, is_draining: bool) -> Response<Body> {
        let is_split = config.upstream.0.iter().any(|upstream| upstream.address.needs_route());
        let Readiness { ready, of } = self.readiness(router);
        let value = json!({
            "status": if is_draining { "draining" } else { "ok" },
            "route_strategy": if is_split || !config.route.is_empty() { "per-route" } else { "shared" },
            "route_generation": config.generation,
            "upstreams_ready": { "ready": ready, "of": of },
            "snapshots": self.snapshots(config.snapshots.as_deref()).await,
        });
        let mut answer = Response::new(Body::from(format!("{value}\n")));
        if is_draining {
            *answer.status_mut() = StatusCode::SERVICE_UNAVAILABLE;
        }
        answer.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
        answer
    }

    fn readiness(&self, router: &Router) -> Readiness {
        let mut counted = self.upstreams.lock().unwrap_or_else(PoisonError::into_inner);
        match &*counted {
            Some((when, readiness)) if when.elapsed() < COUNTED => *readiness,
            _ => counted.insert((Instant::now(), router.readiness())).1,
        }
    }

    /// On or off, and how old the last good one is; one question at a time, whoever else asks waits for its answer.
    async fn snapshots(&self, socket: Option<&Path>) -> Value {
        let Some(socket) = socket else { return json!({ "enabled": false }) };
        let mut heard = self.snapshots.lock().await;
        if let Some((when, value)) = &*heard
            && when.elapsed() < FRESH
        {
            return value.clone();
        }
        let value = match timeout(PATIENCE, control::ask(socket, "GET", "/status")).await {
            Ok(Ok((status, body))) if status.is_success() => {
                let said: Value = serde_json::from_slice(&body).unwrap_or_default();
                json!({
                    "enabled": said["enabled"].as_bool().unwrap_or(true),
                    "last_success_age_seconds": said["last_success_age_seconds"].as_u64(),
                })
            }
            _ => {
                json!({ "enabled": true, "last_success_age_seconds": null, "error": "serena-snapshotd does not answer" })
            }
        };
        *heard = Some((Instant::now(), value.clone()));
        value
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::net::UnixListener;

    use super::*;

    /// Answers one question as serena-snapshotd would.
    async fn answer_once(listener: &UnixListener, status: &str) {
        let (mut stream, _) = listener.accept().await.unwrap();
        let mut question = [0; 1024];
        let read = stream.read(&mut question).await.unwrap();
        assert!(question[..read].starts_with(b"GET /status HTTP/1.1\r\n"));
        let answer = format!("HTTP/1.1 200 OK\r\ncontent-length: {}\r\n\r\n{status}", status.len());
        stream.write_all(answer.as_bytes()).await.unwrap();
    }

    #[tokio::test(start_paused = true)]
    async fn snapshots_are_on_or_off_and_so_old_and_asked_about_seldom() {
        let directory = tempfile::tempdir().unwrap();
        let socket = directory.path().join("control.sock");
        let listener = UnixListener::bind(&socket).unwrap();
        let health = Health::default();
        assert_eq!(health.snapshots(None).await, json!({"enabled": false}));
        let (said, ()) = tokio::join!(
            health.snapshots(Some(&socket)),
            answer_once(&listener, r#"{"enabled":true,"last_success_age_seconds":90,"store":"s3://secret"}"#)
        );
        let expected = json!({"enabled": true, "last_success_age_seconds": 90});
        assert_eq!(said, expected, "and nothing else of what it says");
        // Nobody answers now, and nobody has to.
        assert_eq!(health.snapshots(Some(&socket)).await, expected);
        tokio::time::advance(FRESH).await;
        let (said, ()) =
            tokio::join!(health.snapshots(Some(&socket)), answer_once(&listener, r#"{"enabled":false}"#));
        assert_eq!(said, json!({"enabled": false, "last_success_age_seconds": null}));
        tokio::time::advance(FRESH).await;
        drop(listener);
        let said = health.snapshots(Some(&socket)).await;
        assert_eq!(said["error"], "serena-snapshotd does not answer");
    }
}
