//! What the control socket says and does.

use std::path::PathBuf;
use std::pin::Pin;
use std::sync::Arc;

use http::{Method, StatusCode, Uri};
use mcp_daemon::control::{Acting, Controlled, at_once};
use mcp_daemon::exit::chain;
use serde_json::{Value, json};
use tokio::time::Instant;

use crate::config::{Config, Flags};
use crate::metrics::state_name;
use crate::session::engine::Engine;
use crate::session::state::Death;

/// The daemon, as its control socket sees it.
pub struct Ops {
    /// The engine.
    pub engine: Arc<Engine>,
    /// Where MCP is really served.
    pub listeners: Vec<String>,
    /// The file to read again at reload.
    pub config_file: Option<PathBuf>,
    /// What the flags say over and above the file.
    pub flags: Flags,
    /// Since when it runs.
    pub started: Instant,
}

impl Controlled for Ops {
    fn status(&self) -> Value {
        let engine = &self.engine;
        let sessions = engine.sessions();
        let count = |name| sessions.iter().filter(|session| state_name(session.lock().state) == name).count();
        json!({
            "daemon": "mcp-sessiond",
            "version": env!("CARGO_PKG_VERSION"),
            "pid": std::process::id(),
            "uptime_seconds": self.started.elapsed().as_secs(),
            "listeners": self.listeners,
            "path": engine.config().path,
            "back": engine.back.status(),
            "sessions": {"live": count("live"), "healing": count("healing"), "dormant": count("dormant")},
            "parked": engine.parking.requests(),
            "draining": engine.life.is_draining(),
        })
    }

    fn ready(&self) -> Result<(), Vec<String>> {
        if self.engine.life.is_draining() { Err(vec!["draining".into()]) } else { Ok(()) }
    }

    fn metrics(&self) -> String {
        self.engine.metrics.encode(&self.engine)
    }

    fn reload(&self) -> Pin<Box<dyn Future<Output = Result<String, String>> + Send + '_>> {
        Box::pin(async {
            let result = self.try_reload();
            match &result {
                Ok(what) => log::info!(what = what.as_str(); "reloaded"),
                Err(error) => log::error!(error = error.as_str(); "not reloaded, the old settings stay"),
            }
            result
        })
    }

    fn act(&self, method: &Method, uri: &Uri) -> Option<Acting<'_>> {
        let (status, value) = self.answer(method, uri.path())?;
        Some(at_once(status, value))
    }
}

impl Ops {
    fn answer(&self, method: &Method, path: &str) -> Option<(StatusCode, Value)> {
        if path == "/sessions" && method == Method::GET {
            return Some((StatusCode::OK, self.sessions()));
        }
        let name =
            path.strip_prefix("/sessions/").filter(|name| !name.is_empty() && method == Method::DELETE)?;
        let sessions = self.engine.sessions();
        let mut named = sessions.iter().filter(|session| session.key.to_string().starts_with(name));
        Some(match (named.next(), named.next()) {
            (Some(session), None) => {
                let _written_later = self.engine.end(session, Death::Deleted);
                (StatusCode::OK, json!({"deleted": session.key.to_string()}))
            }
            (None, _) => (
                StatusCode::NOT_FOUND,
                json!({"error": format!("no session begins with `{name}`; see mcp-sessiond sessions")}),
            ),
            (Some(_), Some(_)) => (
                StatusCode::CONFLICT,
                json!({"error": format!("several sessions begin with `{name}`; write more of it")}),
            ),
        })
    }

    fn sessions(&self) -> Value {
        let mut rows: Vec<Value> = self
            .engine
            .sessions()
            .iter()
            .map(|session| {
                let inner = session.lock();
                let client = serde_json::from_str::<Value>(inner.memory.params.get()).unwrap_or_default();
                json!({
                    "session": session.key.to_string(),
                    "subject": &*session.subject,
                    "route": session.upstream.route.as_ref().map(ToString::to_string),
                    "state": state_name(inner.state),
                    "version": inner.memory.version,
                    "client": client.pointer("/clientInfo/name"),
                    "heals": inner.memory.generation.saturating_sub(1),
                    "idle_seconds": inner.used.elapsed().as_secs(),
                })
            })
            .collect();
        rows.sort_by_key(|row| row["idle_seconds"].as_u64());
        Value::Array(rows)
    }

    /// Parses all, then swaps all.
    fn try_reload(&self) -> Result<String, String> {
        let settings = self.flags.settings(self.config_file.as_deref());
        let (config, own_headers) = settings.map_err(|problem| chain(&problem))?;
        let old = self.engine.config();
        let text = |config: &Config| {
            let listeners: Vec<_> =
                config.listeners().iter().map(|listener| format!("{listener:?}")).collect();
            [
                ("listen", listeners.join(" ")),
                ("upstream", format!("{:?}", config.upstream)),
                ("exec", format!("{:?}", config.exec)),
                ("process", format!("{:?}", config.process)),
                ("limits.connections", config.limits.connections.to_string()),
                ("limits.head", config.limits.head.to_string()),
                ("limits.head_timeout", config.limits.head_timeout.to_string()),
                ("state_dir", format!("{:?}", config.state_dir)),
                ("observe", format!("{:?}", config.observe)),
                ("grace", config.grace.to_string()),
            ]
        };
        let (before, after) = (text(&old), text(&config));
        let waiting: Vec<_> =
            before.iter().zip(&after).filter(|(old, new)| old != new).map(|(old, _)| old.0).collect();
        self.engine.reload(config, own_headers);
        Ok(if waiting.is_empty() {
            "all settings in force".into()
        } else {
            format!("in force after a restart: {}", waiting.join(", "))
        })
    }
}
