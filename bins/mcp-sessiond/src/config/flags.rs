//! What the command line says over and above the file.

use std::path::{Path, PathBuf};

use mcp_daemon::addr::{Listen, Upstream};
use mcp_daemon::config::ConfigProblem;

use super::Config;
use crate::session::engine::OwnHeaders;

/// The settings that have flags of their own; what is empty or `None` was not said.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Flags {
    /// `--listen`, instead of the file's `listen`.
    pub listen: Vec<Listen>,
    /// `--upstream`.
    pub upstream: Option<Upstream>,
    /// What follows `--`.
    pub exec: Option<Vec<String>>,
    /// `--state-dir`.
    pub state_dir: Option<PathBuf>,
    /// `--observe`.
    pub observe: Option<Listen>,
    /// `--token-file`.
    pub token_file: Option<PathBuf>,
    /// `--header`, beside the file's `headers`.
    pub headers: Vec<String>,
}

impl Flags {
    /// The settings of `file` under these flags, the same at the start, at every reload and for `check`; and the headers that
    /// go with every upstream request, for which the file of the token is read.
    ///
    /// Errors name the file, unless there are flags, which may be to blame as well.
    pub fn settings(&self, file: Option<&Path>) -> Result<(Config, OwnHeaders), ConfigProblem> {
        let config = self.settings_alone(file)?;
        let own_headers = crate::own_headers(&config).map_err(|problem| problem.within(self.blamed(file)))?;
        Ok((config, own_headers))
    }

    /// The same without reading what the settings name.
    pub fn settings_alone(&self, file: Option<&Path>) -> Result<Config, ConfigProblem> {
        let config: Config = file.map(mcp_daemon::config::load).transpose()?.unwrap_or_default();
        let config = self.over(config);
        config.check().map_err(|problem| problem.within(self.blamed(file)))?;
        Ok(config)
    }

    fn blamed<'a>(&self, file: Option<&'a Path>) -> Option<&'a Path> {
        file.filter(|_| *self == Self::default())
    }

    fn over(&self, mut config: Config) -> Config {
        if !self.listen.is_empty() {
            config.listen.clone_from(&self.listen);
        }
        if config.listen.is_empty() && config.listener.is_empty() {
            config.listen.push(default_listen());
        }
        config.upstream = self.upstream.clone().or(config.upstream);
        config.exec = self.exec.clone().unwrap_or(config.exec);
        config.state_dir = self.state_dir.clone().or(config.state_dir);
        config.observe = self.observe.clone().or(config.observe);
        config.token_file = self.token_file.clone().or(config.token_file);
        config.headers.extend(self.headers.iter().cloned());
        config
    }
}

/// Where a daemon serves that was not told.
fn default_listen() -> Listen {
    "127.0.0.1:9121".parse().expect("a literal address")
}
