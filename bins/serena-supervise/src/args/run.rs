//! The settings that `run` makes of its flags.

use std::ffi::OsStr;
use std::path::{Path, PathBuf};

use mcp_daemon::addr::Route;
use mcp_daemon::program;
use mcp_daemon::route::MAX_ROUTE;
use supervise::config::{Config, ConfigProblem, Settings};

use super::Run;

impl Run {
    /// The settings that the command line makes, checked: those of the file, or one instance around the command. Made
    /// again at each reload.
    pub fn settings(&self, command: Option<&[String]>) -> Result<Config, RunError> {
        let mut config = Config::load(self.config.as_deref()).map_err(RunError::Config)?;
        config.observe = self.observe.clone().or(config.observe);
        match (&self.config, command) {
            (Some(_), Some(_)) => {
                return Err(RunError::Usage("--config and a command after `--`; give one of the two".into()));
            }
            (Some(file), None) => {
                self.refuse_flags_of_one()?;
                config.check().map_err(|problem| RunError::Config(problem.within(Some(file))))?;
            }
            (None, Some(command)) => {
                let (name, settings) = self.one(command)?;
                config.instance.insert(name.to_string(), settings);
                config.check().map_err(RunError::Config)?;
            }
            (None, None) => {
                return Err(RunError::Usage(
                    "what to run is missing; write -- COMMAND, or --config FILE for several servers".into(),
                ));
            }
        }
        Ok(config)
    }

    fn refuse_flags_of_one(&self) -> Result<(), RunError> {
        let given = [
            ("--socket", self.socket.is_some()),
            ("--home", self.home.is_some()),
            ("--name", self.name.is_some()),
            ("--sleep-after", self.sleep_after.is_some()),
            ("--probe", self.probe.is_some()),
        ];
        match given.into_iter().find(|(_, given)| *given) {
            Some((flag, _)) => Err(RunError::Usage(format!(
                "{flag} is for a command after `--`; with --config it stands in the file, in [instance.NAME]"
            ))),
            None => Ok(()),
        }
    }

    fn one(&self, command: &[String]) -> Result<(Route, Settings), RunError> {
        let program = command.first().ok_or_else(|| {
            RunError::Usage(
                "a command must follow `--`, like: -- serena start-mcp-server --port {port}".into(),
            )
        })?;
        let name = self.name.clone().unwrap_or_else(|| name_of(program));
        // Where it is all there is to run, a missing one would only be tried again and again.
        if !program.contains('{') && program::find(program, std::env::var_os("PATH").as_deref()).is_none() {
            return Err(RunError::Config(ConfigProblem::Key {
                file: None,
                key: format!("instance.{name}.command"),
                what: format!("`{program}` is not found; install it, or write the path of a program"),
            }));
        }
        let defaults = Settings::default();
        let absolute = |home: &PathBuf| {
            std::path::absolute(home)
                .map_err(|error| RunError::Usage(format!("--home: `{}`: {error}", home.display())))
        };
        let settings = Settings {
            command: command.to_vec(),
            home: self.home.as_ref().map(absolute).transpose()?,
            socket: self.socket.clone(),
            sleep_after: self.sleep_after.unwrap_or(defaults.sleep_after),
            probe: self.probe.clone().unwrap_or(defaults.probe.clone()),
            ..defaults
        };
        Ok((name, settings))
    }
}

/// The name of an instance that was given none: that of its program, in the letters that names have.
pub(super) fn name_of(program: &str) -> Route {
    let file = Path::new(program).file_name().and_then(OsStr::to_str).unwrap_or_default();
    let name: String = file
        .chars()
        .map(|char| char.to_ascii_lowercase())
        .map(|char| if char.is_ascii_alphanumeric() || char == '_' { char } else { '-' })
        .skip_while(|char| !char.is_ascii_alphanumeric())
        .take(MAX_ROUTE)
        .collect();
    name.parse().unwrap_or_else(|_| "server".parse().expect("a literal name"))
}

/// Why `run` has no settings.
#[derive(Debug)]
pub enum RunError {
    /// They cannot work.
    Config(ConfigProblem),
    /// The flags contradict each other, or say too little.
    Usage(String),
}
