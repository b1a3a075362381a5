//! Reads settings and credentials anew, all or nothing: when told to, and credentials by themselves when their files change.

use std::path::PathBuf;
use std::sync::Arc;

use mcp_daemon::config::ConfigProblem;
use mcp_daemon::exit::chain;
use mcp_daemon::life::Life;

use crate::audit::sink::Target;
use crate::config::Config;
use crate::credentials::Credentials;
use crate::gate::{Gate, Prepared};
use crate::watch::{Look, changed};

/// Everything that is needed to read it all again.
pub struct Reload {
    /// What gets it.
    pub gate: Arc<Gate>,
    /// The file with the settings.
    pub config_file: Option<PathBuf>,
    /// What the flags say over and above the file.
    pub flags: Box<dyn Fn(Config) -> Config + Send + Sync>,
}

impl Reload {
    /// Reads everything, then replaces everything; which settings wait for a restart. A mistake changes nothing.
    pub fn all(&self) -> Result<String, ConfigProblem> {
        let read = self.read();
        match &read {
            Ok(what) => log::info!(what = what.as_str(); "reloaded"),
            Err(problem) => log::error!(error:% = chain(problem); "not reloaded, the old settings stay"),
        }
        read
    }

    fn read(&self) -> Result<String, ConfigProblem> {
        let file = self.config_file.as_deref();
        let config = (self.flags)(Config::load(file)?);
        let prepared = Prepared::new(config).map_err(|problem| problem.within(file))?;
        let target = Target::open(&prepared.config.audit).map_err(|problem| problem.within(file))?;
        let waiting = needs_a_restart(&self.gate.config(), &prepared.config);
        self.gate.audit.redirect(&prepared.config.audit, target);
        self.gate.replace(prepared);
        Ok(if waiting.is_empty() {
            "all settings in force".into()
        } else {
            format!("in force after a restart: {}", waiting.join(", "))
        })
    }

    /// Reads credentials anew whenever one of their files has changed, until the drain. A mistake changes nothing: who was
    /// let in before still is.
    pub async fn follow_files(self: Arc<Self>, life: Life) {
        let mut config = self.gate.config();
        let mut files = config.credential_files();
        let mut look = Look::at(&files);
        loop {
            tokio::select! {
                now = changed(&files, &look) => look = now,
                () = life.draining() => return,
            }
            match Credentials::load(&config) {
                Ok(credentials) => {
                    self.gate.credentials.replace(credentials);
                    log::info!("credentials have changed and were read anew");
                }
                Err(problem) => {
                    log::error!(error:% = chain(&problem); "credentials have changed but cannot be used, the old ones stay");
                }
            }
            // A reload may name other files.
            config = self.gate.config();
            let named = config.credential_files();
            if named != files {
                (files, look) = (named.clone(), Look::at(&named));
            }
        }
    }
}

/// The keys that differ and that nothing but a restart brings into force.
fn needs_a_restart(old: &Config, new: &Config) -> Vec<&'static str> {
    let text = |config: &Config| {
        [
            ("listen", format!("{:?}", config.listeners())),
            ("limits.connections", config.limits.connections.to_string()),
            ("limits.head", config.limits.head.to_string()),
            ("limits.head_timeout", config.limits.head_timeout.to_string()),
            ("observe", format!("{:?}", config.observe)),
            ("state_dir", format!("{:?}", config.state_dir)),
            ("grace", config.grace.to_string()),
        ]
    };
    let (old, new) = (text(old), text(new));
    old.iter().zip(&new).filter(|(old, new)| old.1 != new.1).map(|(old, _)| old.0).collect()
}
