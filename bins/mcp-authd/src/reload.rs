//! Reads settings and credentials anew, all or nothing: when told to, and credentials by themselves when their files change.

use std::path::PathBuf;
use std::sync::Arc;

use mcp_daemon::config::ConfigProblem;
use mcp_daemon::exit::chain;
use mcp_daemon::heap;
use tokio::sync::Mutex;

use crate::audit::sink::Target;
use crate::config::Config;
use crate::credentials::Credentials;
use crate::front::tls::Face;
use crate::gate::Gate;
use crate::prepared::Prepared;
use crate::route::Table;
use crate::watch::{Look, aside, changed};

/// Everything that is needed to read it all again.
pub struct Reload {
    /// What gets it.
    pub gate: Arc<Gate>,
    /// The file with the settings.
    pub config_file: Option<PathBuf>,
    /// The settings at the start, which in part stay in force until the next.
    pub first: Arc<Config>,
    /// What the flags say over and above the file.
    pub flags: Box<dyn Fn(Config) -> Config + Send + Sync>,
    /// Held from the first byte read until what was read is in force: otherwise a slow reader could put back what a quick
    /// one has replaced, such as a token that was revoked in between.
    pub turn: Mutex<()>,
}

impl Reload {
    /// Reads everything, then replaces everything; which settings wait for a restart. A mistake changes nothing.
    pub async fn all(self: Arc<Self>) -> Result<String, ConfigProblem> {
        let _turn = self.turn.lock().await;
        let this = self.clone();
        let read = aside(move || this.read()).await.map(|(prepared, target)| self.take(prepared, target));
        match &read {
            Ok(what) => log::info!(what = what.as_str(); "reloaded"),
            Err(problem) => log::error!(error:% = chain(problem); "not reloaded, the old settings stay"),
        }
        read
    }

    /// Reads and opens all that the settings name.
    fn read(&self) -> Result<(Prepared, Target), ConfigProblem> {
        let file = self.config_file.as_deref();
        let config = (self.flags)(Config::load(file)?);
        let prepared = Prepared::new(config).map_err(|problem| problem.within(file))?;
        let target = Target::open(&prepared.config.audit).map_err(|problem| problem.within(file))?;
        Ok((prepared, target))
    }

    /// Puts it in force; what of it is in force only after a restart.
    fn take(&self, prepared: Prepared, target: Target) -> String {
        let waiting = needs_a_restart(&self.first, &prepared.config);
        self.gate.audit.redirect(&prepared.config.audit, target);
        self.gate.replace(prepared);
        heap::give_back();
        if waiting.is_empty() {
            "all settings in force".into()
        } else {
            format!("in force after a restart: {}", waiting.join(", "))
        }
    }

    /// Reads credentials anew whenever one of their files has changed, until the drain. A mistake changes nothing: who was
    /// let in before still is.
    pub async fn follow_credentials(self: Arc<Self>, first: Looks) {
        let renewed = |gate: &Gate, read: Result<Credentials, ConfigProblem>| match read {
            Ok(credentials) => {
                gate.credentials.replace(credentials);
                log::info!("credentials have changed and were read anew");
            }
            Err(problem) => {
                log::error!(error:% = chain(&problem); "credentials have changed but cannot be used, the old ones stay");
            }
        };
        follow(&self, first.credentials, Config::credential_files, Credentials::load, renewed).await;
    }

    /// The same for certificate, key, and the authorities of clients: all of them or none.
    pub async fn follow_certificates(self: Arc<Self>, first: Looks) {
        let read = |config: &Config| config.tls.as_ref().map(Face::load).transpose();
        let renewed = |gate: &Gate, read: Result<Option<Face>, ConfigProblem>| match read {
            Ok(face) => {
                gate.face.store(face.map(Arc::new));
                log::info!("the certificate has changed and was read anew");
                gate.report();
            }
            Err(problem) => {
                log::error!(error:% = chain(&problem); "the certificate has changed but cannot be used, the old one stays");
            }
        };
        follow(&self, first.certificates, Config::certificate_files, read, renewed).await;
    }

    /// The same for the tokens that upstreams want: all of them or none.
    pub async fn follow_upstreams(self: Arc<Self>, first: Looks) {
        let read = |config: &Config| Table::load(&Arc::new(config.clone()));
        let renewed = |gate: &Gate, read: Result<Table, ConfigProblem>| match read {
            Ok(table) => {
                gate.router.replace(table);
                log::info!("the token of an upstream has changed and was read anew");
            }
            Err(problem) => {
                log::error!(error:% = chain(&problem); "the token of an upstream has changed but cannot be used, the old one stays");
            }
        };
        follow(&self, first.upstreams, Config::upstream_files, read, renewed).await;
    }
}

/// How files looked before they were first read, so that no later change is missed.
#[derive(Clone)]
pub struct Looks {
    credentials: Look,
    certificates: Look,
    upstreams: Look,
}

impl Looks {
    /// To be called before anything that the settings name is read.
    pub fn at(config: &Config) -> Self {
        Self {
            credentials: Look::at(&config.credential_files()),
            certificates: Look::at(&config.certificate_files()),
            upstreams: Look::at(&config.upstream_files()),
        }
    }
}

/// Reads and renews something whenever one of the files that the settings name has changed, until the drain.
async fn follow<T: Send + 'static>(
    reload: &Reload,
    mut look: Look,
    named: fn(&Config) -> Vec<PathBuf>,
    read: fn(&Config) -> Result<T, ConfigProblem>,
    renew: fn(&Gate, Result<T, ConfigProblem>),
) {
    let gate = &*reload.gate;
    let mut reloads = gate.credentials.changes();
    let mut files: Arc<[PathBuf]> = named(&gate.config()).into();
    let mut told = None;
    loop {
        tokio::select! {
            now = changed(&files, &look) => {
                let _turn = reload.turn.lock().await;
                let config = gate.config();
                let fresh = aside(move || read(&config)).await;
                match fresh.as_ref().err().map(|problem| chain(problem)) {
                    None => (look, told) = (now, None),
                    // Read again until it works, because it may have been for a reason that passes, such as no free
                    // descriptor; but said once.
                    Some(problem) if told.as_ref() == Some(&problem) => continue,
                    Some(problem) => told = Some(problem),
                }
                renew(gate, fresh);
                heap::give_back();
            }
            // A reload may name other files. It has read them, but who knows whether before their last change.
            () = reloads.next() => {
                let others = named(&gate.config());
                if *others != *files {
                    (look, files) = (Look::default(), others.into());
                }
            }
            () = gate.life.draining() => return,
        }
    }
}

/// The keys that differ and that nothing but a restart brings into force.
fn needs_a_restart(old: &Config, new: &Config) -> Vec<&'static str> {
    let text = |config: &Config| {
        [
            ("listen", format!("{:?}", config.listeners())),
            ("limits.connections", config.limits.connections.to_string()),
            ("observe", format!("{:?}", config.observe)),
            ("state_dir", format!("{:?}", config.state_dir)),
            ("grace", config.grace.to_string()),
        ]
    };
    let (old, new) = (text(old), text(new));
    old.iter().zip(&new).filter(|(old, new)| old.1 != new.1).map(|(old, _)| old.0).collect()
}
