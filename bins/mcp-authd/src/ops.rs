//! What the control socket says and does.

use std::pin::Pin;
use std::sync::Arc;

use http::{Method, StatusCode, Uri};
use mcp_daemon::control::{Acting, Controlled, at_once};
use mcp_daemon::exit::chain;
use serde_json::{Value, json};
use tokio::time::Instant;

use crate::gate::Gate;
use crate::reload::Reload;

/// The daemon, as its control socket sees it.
pub struct Ops {
    /// The gate.
    pub gate: Arc<Gate>,
    /// Where MCP is really served.
    pub listeners: Vec<String>,
    /// Reads everything anew.
    pub reload: Arc<Reload>,
    /// Since when it runs.
    pub started: Instant,
}

impl Controlled for Ops {
    fn status(&self) -> Value {
        json!({
            "daemon": crate::config::DAEMON,
            "version": env!("CARGO_PKG_VERSION"),
            "pid": std::process::id(),
            "uptime_seconds": self.started.elapsed().as_secs(),
            "listeners": self.listeners,
            "path": self.gate.config().path,
            "certificate": self.gate.face.load().as_ref().map(|face| {
                json!({"names": face.names.list(), "expires": face.term.end().to_string()})
            }),
            "held": self.gate.limits.wrong.held(),
            "strangers": self.gate.limits.strangers.len(),
            "draining": self.gate.life.is_draining(),
        })
    }

    fn ready(&self) -> Result<(), Vec<String>> {
        Ok(())
    }

    fn metrics(&self) -> String {
        self.gate.metrics.encode(&self.gate)
    }

    fn act(&self, method: &Method, uri: &Uri) -> Option<Acting<'_>> {
        match (method.as_str(), uri.path()) {
            ("GET" | "HEAD", "/routes") => Some(at_once(StatusCode::OK, self.gate.router.report())),
            _ => None,
        }
    }

    fn reload(&self) -> Pin<Box<dyn Future<Output = Result<String, String>> + Send + '_>> {
        // A task of its own: whoever asked may go away, and what was asked for is done all the same.
        let reloading = self.gate.life.spawn(self.reload.clone().all());
        Box::pin(async move {
            match reloading.await {
                Ok(reloaded) => reloaded.map_err(|problem| chain(&problem)),
                Err(cut) => Err(format!("not reloaded, it was cut off: {cut}")),
            }
        })
    }
}
