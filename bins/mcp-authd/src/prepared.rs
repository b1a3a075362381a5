//! One reading of the settings and of all that they name: checked, and then in force as a whole (see [`crate::gate`]).

use std::sync::Arc;

use mcp_daemon::config::ConfigProblem;

use crate::config::{self, Config};
use crate::credentials::Credentials;
use crate::front::tls::Face;
use crate::route::Table;

/// Reads and checks everything that a change of the settings needs, before anything is replaced.
pub struct Prepared {
    /// The settings.
    pub config: Arc<Config>,
    /// The credentials they name.
    pub credentials: Credentials,
    /// The routes they describe.
    pub table: Table,
    /// The certificate they name.
    pub face: Option<Face>,
}

impl Prepared {
    /// All or nothing: the first thing that is wrong is the answer.
    pub fn new(config: Config) -> Result<Self, ConfigProblem> {
        config::check::check(&config)?;
        let config = Arc::new(config);
        let credentials = Credentials::load(&config)?;
        let table = Table::load(&config)?;
        let face = config.tls.as_ref().map(Face::load).transpose()?;
        Ok(Self { config, credentials, table, face })
    }

    /// A token whose route leads nowhere: it is let in and then served nothing. Not a mistake to stop for, since routes and
    /// tokens come and go one after the other.
    pub fn leads_nowhere(&self) -> Option<ConfigProblem> {
        let entry =
            self.credentials.tokens().entries().find(|entry| !self.table.leads(&entry.identity.route))?;
        let (route, name) = (&entry.identity.route, &entry.name);
        let what = format!(
            "route {route} of token {name} has no upstream; set upstream, or [route.{route}] with one"
        );
        Some(ConfigProblem::key("upstream", what))
    }
}
