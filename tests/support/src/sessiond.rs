//! The real `mcp-sessiond` as a child of the test, in directories of its own.

use std::{
    fs,
    ops::{Deref, DerefMut},
    path::{Path, PathBuf},
    time::Duration,
};

use serde_json::Value;
use tempfile::TempDir;
use tokio::{
    process::Command,
    time::{sleep, timeout},
};

use crate::daemon::Daemon;

/// How long a start and a stop may take.
const PATIENCE: Duration = Duration::from_secs(60);
/// How often [`Sessiond::until_status`] asks.
const GLANCE: Duration = Duration::from_millis(20);

/// A running `mcp-sessiond`; what every daemon can is in [`Daemon`].
#[derive(Debug)]
pub struct Sessiond {
    binary: PathBuf,
    args: Vec<String>,
    env: Vec<(String, String)>,
    /// What is in the file that `--config` names, if it was started with settings.
    settings: Option<String>,
    directory: TempDir,
    daemon: Daemon,
    listeners: Vec<String>,
}

impl Sessiond {
    /// Starts `binary` with `args` and waits until it says that it is ready.
    ///
    /// Adds `--state-dir`, `--ready-fd` and, unless `args` name one, `--listen 127.0.0.1:0`; ours come first,
    /// so that `args` may end in `-- command`. A start that fails fails the test with what it said.
    pub async fn start(binary: &str, args: &[&str]) -> Sessiond {
        Sessiond::start_with(binary, args, &[]).await
    }

    /// The same, with environment variables (`RUST_LOG` is `debug` unless given).
    pub async fn start_with(binary: &str, args: &[&str], env: &[(&str, &str)]) -> Sessiond {
        Sessiond::start_in(|_| None, binary, args, env).await
    }

    /// The same as [`Sessiond::start`] with `--config`: `settings` writes TOML, given [`Sessiond::directory`].
    ///
    /// Its addresses are listened on besides the one from [`Sessiond::start`], and come after it in [`Sessiond::url_of`].
    pub async fn start_set(binary: &str, settings: impl FnOnce(&Path) -> String, args: &[&str]) -> Sessiond {
        Sessiond::start_in(|directory| Some(settings(directory)), binary, args, &[]).await
    }

    async fn start_in(
        settings: impl FnOnce(&Path) -> Option<String>,
        binary: &str,
        args: &[&str],
        env: &[(&str, &str)],
    ) -> Sessiond {
        let directory =
            tempfile::Builder::new().prefix("sessiond-").tempdir().expect("a temporary directory");
        for name in ["run", "state"] {
            fs::create_dir(directory.path().join(name)).expect("a new directory is writable");
        }
        let control = directory.path().join("run/mcp-sessiond/control.sock");
        let mut sessiond = Sessiond {
            binary: binary.into(),
            args: args.iter().map(ToString::to_string).collect(),
            env: env.iter().map(|(name, value)| (name.to_string(), value.to_string())).collect(),
            settings: settings(directory.path()),
            directory,
            daemon: Daemon::new("mcp-sessiond", control, PATIENCE),
            listeners: Vec::new(),
        };
        if let Some(settings) = &sessiond.settings {
            fs::write(sessiond.settings_file(), settings).expect("a new directory is writable");
        }
        sessiond.start_again().await;
        sessiond
    }

    /// Starts it again after [`Daemon::kill9`] or [`Daemon::stop`]: same state, same addresses.
    pub async fn start_again(&mut self) {
        let listens = self.listens();
        let mut command = Command::new(&self.binary);
        command.args(["--state-dir", self.path("state").to_str().expect("temporary paths are UTF-8")]);
        for listener in listens {
            command.args(["--listen", &listener]);
        }
        if self.settings.is_some() {
            command.arg("--config").arg(self.settings_file());
        }
        for inherited in ["NOTIFY_SOCKET", "LISTEN_FDS", "LISTEN_PID", "STATE_DIRECTORY", "RUNTIME_DIRECTORY"]
        {
            command.env_remove(inherited);
        }
        command.env("XDG_STATE_HOME", self.path("state")).env("XDG_RUNTIME_DIR", self.path("run"));
        command.env("RUST_LOG", "debug").envs(self.env.iter().cloned());
        let args = &self.args;
        let launched = self.daemon.launch(|ready_fd| {
            command.args(["--ready-fd", ready_fd]).args(args);
            command
        });
        let pipe = launched.await;
        self.daemon.ready(pipe).await;
        let (_, status) = self.control("GET", "/status").await;
        let listeners = status["listeners"].as_array().expect("GET /status names `listeners`");
        self.listeners = listeners.iter().filter_map(|it| it.as_str().map(str::to_owned)).collect();
    }

    /// Where clients connect: the first listener, `http://127.0.0.1:PORT/mcp` or `unix:PATH:/mcp`.
    pub fn url(&self) -> String {
        self.url_of(0)
    }

    /// The URL of the `n`th listener, counted from 0.
    pub fn url_of(&self, n: usize) -> String {
        match &self.listeners[n] {
            unix if unix.starts_with("unix:") => format!("{unix}:/mcp"),
            tcp => format!("http://{tcp}/mcp"),
        }
    }

    /// The directory given as `--state-dir`.
    pub fn state_dir(&self) -> PathBuf {
        self.path("state")
    }

    /// The file given as `--config` by [`Sessiond::start_set`].
    pub fn settings_file(&self) -> PathBuf {
        self.path("settings.toml")
    }

    /// A directory for the test's own files, gone with this value.
    pub fn directory(&self) -> &Path {
        self.directory.path()
    }

    /// Waits until `fact` holds of `GET /status`; fails the test after 60 s.
    pub async fn until_status(&self, fact: impl Fn(&Value) -> bool) {
        let held = timeout(PATIENCE, async {
            while !fact(&self.control("GET", "/status").await.1) {
                sleep(GLANCE).await;
            }
        });
        held.await.expect("the awaited fact came true");
    }

    fn path(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    /// What to listen on: what it listened on before, or any port, or nothing if the arguments say.
    fn listens(&self) -> Vec<String> {
        let ours = self.args.split(|arg| arg == "--").next().unwrap_or_default();
        if ours.iter().any(|arg| arg == "--listen" || arg == "--config") {
            return Vec::new();
        }
        if self.listeners.is_empty() {
            return vec!["127.0.0.1:0".into()];
        }
        let settings = self.settings.as_deref().unwrap_or_default();
        self.listeners.iter().filter(|listener| !settings.contains(*listener)).cloned().collect()
    }
}

impl Deref for Sessiond {
    type Target = Daemon;

    fn deref(&self) -> &Daemon {
        &self.daemon
    }
}

impl DerefMut for Sessiond {
    fn deref_mut(&mut self) -> &mut Daemon {
        &mut self.daemon
    }
}
