//! The control socket as `curl` and `mcp-sessiond status` see it.
#![allow(clippy::unwrap_used, reason = "a test may panic")]

use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use http::{Method, StatusCode, Uri};
use mcp_daemon::control::{self, Acting, Controlled, ask, at_once};
use mcp_daemon::life::Life;
use serde_json::{Value, json};

struct Fake;

impl Controlled for Fake {
    fn status(&self) -> Value {
        json!({ "sessions": 3 })
    }

    fn ready(&self) -> Result<(), Vec<String>> {
        Ok(())
    }

    fn metrics(&self) -> String {
        "# EOF\n".to_owned()
    }

    fn reload(&self) -> Pin<Box<dyn Future<Output = Result<String, String>> + Send + '_>> {
        Box::pin(async { Err("x.toml:3: grase: unknown field".to_owned()) })
    }

    fn act(&self, method: &Method, uri: &Uri) -> Option<Acting<'_>> {
        (method == Method::GET && uri.path() == "/sessions").then(|| at_once(StatusCode::OK, json!([])))
    }
}

fn start() -> (tempfile::TempDir, PathBuf, Life) {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("control.sock");
    let life = Life::new(Duration::from_secs(10));
    control::spawn(&path, Arc::new(Fake), life.clone()).unwrap();
    life.ready("", None);
    (directory, path, life)
}

#[tokio::test]
async fn every_question_has_its_answer_and_an_unknown_one_names_those() {
    let (_directory, path, _life) = start();
    assert_eq!(std::fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
    for (method, target, status, words) in [
        ("GET", "/status", 200, r#"{"sessions":3}"#),
        ("GET", "/ready", 200, r#"{"ready":true}"#),
        ("GET", "/metrics", 200, "# EOF"),
        ("GET", "/sessions", 200, "[]"),
        ("POST", "/reload", 422, "x.toml:3: grase: unknown field"),
        ("GET", "/nothing", 404, "try GET /status"),
        ("GET", "/drain", 404, "POST /drain"),
    ] {
        let (found, body) = ask(&path, method, target).await.unwrap();
        assert_eq!(found.as_u16(), status, "{method} {target}");
        assert!(String::from_utf8_lossy(&body).contains(words), "{method} {target}: {body:?}");
    }
}

#[tokio::test]
async fn during_the_drain_it_still_answers_and_says_so() {
    let (_directory, path, life) = start();
    let task = life.clone();
    let (release, held) = tokio::sync::oneshot::channel::<()>();
    task.spawn(async move { held.await.unwrap() });
    assert_eq!(ask(&path, "POST", "/drain").await.unwrap().0, StatusCode::ACCEPTED);
    assert!(life.is_draining());
    let (status, body) = ask(&path, "GET", "/ready").await.unwrap();
    assert_eq!((status.as_u16(), &body[..]), (503, &b"{\"ready\":false,\"reasons\":[\"draining\"]}\n"[..]));
    release.send(()).unwrap();
    assert_eq!(life.finish().await, 0);
    assert!(!path.exists());
}

#[tokio::test]
async fn the_observe_listener_answers_ready_once_the_start_is_over_and_metrics_alone() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("observe.sock");
    let life = Life::new(Duration::from_secs(10));
    let listen = format!("unix:{}", path.display()).parse().unwrap();
    control::spawn_observe(&listen, Arc::new(Fake), life.clone()).unwrap();
    let (status, body) = ask(&path, "GET", "/ready").await.unwrap();
    assert_eq!((status.as_u16(), &body[..]), (503, &b"{\"ready\":false,\"reasons\":[\"starting\"]}\n"[..]));
    life.ready("", None);
    for (method, target, status) in [
        ("GET", "/ready", 200),
        ("GET", "/metrics", 200),
        ("GET", "/status", 404),
        ("GET", "/sessions", 404),
        ("POST", "/drain", 404),
        ("POST", "/reload", 404),
    ] {
        assert_eq!(ask(&path, method, target).await.unwrap().0.as_u16(), status, "{method} {target}");
    }
    assert!(!life.is_draining());
}

#[tokio::test]
async fn a_daemon_that_does_not_run_is_said_not_to_run() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("control.sock");
    let error = ask(&path, "GET", "/status").await.unwrap_err().to_string();
    assert!(error.starts_with("no ") && error.contains(" is running ("), "{error}");
    assert!(error.ends_with("control.sock: no such socket)"), "{error}");
    drop(std::os::unix::net::UnixListener::bind(&path).unwrap());
    let error = ask(&path, "GET", "/status").await.unwrap_err().to_string();
    assert!(error.ends_with("control.sock: connection refused)"), "{error}");
}
