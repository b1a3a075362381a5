//! What the control socket says and does.

use std::path::PathBuf;
use std::pin::Pin;
use std::sync::Arc;

use mcp_daemon::config::ConfigProblem;
use mcp_daemon::control::Controlled;
use mcp_daemon::exit::chain;
use serde_json::{Value, json};
use tokio::time::Instant;

use crate::config::Config;
use crate::gate::{Gate, Prepared};

/// The daemon, as its control socket sees it.
pub struct Ops {
    /// The gate.
    pub gate: Arc<Gate>,
    /// Where MCP is really served.
    pub listeners: Vec<String>,
    /// The file to read again at reload.
    pub config_file: Option<PathBuf>,
    /// What the flags say over and above the file.
    pub flags: Box<dyn Fn(Config) -> Config + Send + Sync>,
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
            "draining": self.gate.life.is_draining(),
        })
    }

    fn ready(&self) -> Result<(), Vec<String>> {
        Ok(())
    }

    fn metrics(&self) -> String {
        self.gate.metrics.encode()
    }

    fn reload(&self) -> Pin<Box<dyn Future<Output = Result<String, String>> + Send + '_>> {
        Box::pin(async {
            let result = self.try_reload();
            match &result {
                Ok(what) => log::info!(what = what.as_str(); "reloaded"),
                Err(error) => log::error!(error:% = chain(error); "not reloaded, the old settings stay"),
            }
            result.map_err(|error| chain(&error))
        })
    }
}

impl Ops {
    /// Reads all, then replaces all.
    fn try_reload(&self) -> Result<String, ConfigProblem> {
        let config = (self.flags)(Config::load(self.config_file.as_deref())?);
        let Prepared { config, credentials, table } = Prepared::new(config)?;
        self.gate.reconfigure(config);
        self.gate.router.replace(table);
        self.gate.credentials.replace(credentials);
        Ok("all settings in force".into())
    }
}
