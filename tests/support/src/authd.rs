//! The real `mcp-authd` as a child of the test, in directories of its own.

use std::{
    fs::{self, File},
    ops::{Deref, DerefMut},
    os::unix::fs::OpenOptionsExt as _,
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
/// How often [`Authd::until`] asks.
const GLANCE: Duration = Duration::from_millis(20);
/// What the test's own surroundings may not decide.
const INHERITED: [&str; 9] = [
    "API_TOKEN",
    "API_TOKENS_JSON",
    "CREDENTIALS_DIRECTORY",
    "LISTEN_FDS",
    "LISTEN_PID",
    "MCP_CONTAINER_ROUTE_GENERATION",
    "NOTIFY_SOCKET",
    "RUNTIME_DIRECTORY",
    "STATE_DIRECTORY",
];

/// A running `mcp-authd`, whose audit is read from its stdout; what every daemon can is in [`Daemon`].
#[derive(Debug)]
pub struct Authd {
    binary: PathBuf,
    args: Vec<String>,
    env: Vec<(String, String)>,
    /// Whether the settings say where to listen.
    listens: bool,
    directory: TempDir,
    daemon: Daemon,
    listeners: Vec<String>,
}

impl Authd {
    /// Starts `binary serve --config` and waits until it says that it is ready. `settings` writes the TOML, given
    /// [`Authd::directory`], where it may put files of its own such as tokens ([`Authd::secret_file`]).
    ///
    /// It listens on `127.0.0.1:0` unless the settings begin a line with `listen`. A start that fails fails the test with
    /// what it said.
    pub async fn start(binary: &str, settings: impl FnOnce(&Path) -> String) -> Authd {
        Authd::start_with(binary, settings, &[], &[]).await
    }

    /// The same, with more arguments and environment variables (`RUST_LOG` is `debug` unless given).
    pub async fn start_with(
        binary: &str,
        settings: impl FnOnce(&Path) -> String,
        args: &[&str],
        env: &[(&str, &str)],
    ) -> Authd {
        let directory = tempfile::Builder::new().prefix("authd-").tempdir().expect("a temporary directory");
        for name in ["run", "state"] {
            fs::create_dir(directory.path().join(name)).expect("a new directory is writable");
        }
        let settings = settings(directory.path());
        let control = directory.path().join("run/mcp-authd/control.sock");
        let mut authd = Authd {
            binary: binary.into(),
            args: args.iter().map(ToString::to_string).collect(),
            env: env.iter().map(|(name, value)| (name.to_string(), value.to_string())).collect(),
            listens: settings.lines().any(|line| line.starts_with("listen")) || args.contains(&"--listen"),
            directory,
            daemon: Daemon::new("mcp-authd", control, PATIENCE).with_out(),
            listeners: Vec::new(),
        };
        authd.write_settings(&settings);
        authd.start_again().await;
        authd
    }

    /// Starts it again after [`Daemon::kill9`] or [`Daemon::stop`]: same state, same addresses.
    pub async fn start_again(&mut self) {
        let mut command = Command::new(&self.binary);
        command.arg("serve").arg("--config").arg(self.settings_file());
        if !self.listens {
            let before = self.listeners.first().map_or("127.0.0.1:0", String::as_str);
            command.args(["--listen", before]);
        }
        command.args(&self.args);
        for inherited in INHERITED {
            command.env_remove(inherited);
        }
        command.env("XDG_STATE_HOME", self.path("state")).env("XDG_RUNTIME_DIR", self.path("run"));
        command.env("RUST_LOG", "debug").envs(self.env.iter().cloned());
        let launched = self.daemon.launch(|ready_fd| {
            command.args(["--ready-fd", ready_fd]);
            command
        });
        let pipe = launched.await;
        self.daemon.ready(pipe).await;
        let (_, status) = self.control("GET", "/status").await;
        let listeners = status["listeners"].as_array().expect("GET /status names `listeners`");
        self.listeners = listeners.iter().filter_map(|it| it.as_str().map(str::to_owned)).collect();
    }

    /// Replaces the settings file and asks for a reload: status and body of the answer.
    pub async fn reload(&self, settings: &str) -> (u16, Value) {
        self.write_settings(settings);
        self.control("POST", "/reload").await
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

    /// The file given as `--config`.
    pub fn settings_file(&self) -> PathBuf {
        self.path("settings.toml")
    }

    /// A directory for the test's own files, gone with this value.
    pub fn directory(&self) -> &Path {
        self.directory.path()
    }

    /// Writes a file that its owner alone can read, as tokens and keys have to be, and returns its path.
    pub fn secret_file(directory: &Path, name: &str, text: &str) -> PathBuf {
        let path = directory.join(name);
        let mut options = File::options();
        options.write(true).create(true).truncate(true).mode(0o600);
        let mut file = options.open(&path).expect("the test's own directory is writable");
        std::io::Write::write_all(&mut file, text.as_bytes()).expect("there is room");
        path
    }

    /// Waits until `fact` holds of `GET path` on the control socket; fails the test after 60 s.
    pub async fn until(&self, path: &str, fact: impl Fn(&Value) -> bool) {
        let held = timeout(PATIENCE, async {
            while !fact(&self.control("GET", path).await.1) {
                sleep(GLANCE).await;
            }
        });
        if held.await.is_err() {
            panic!("the awaited fact never came true of {}", self.control("GET", path).await.1);
        }
    }

    fn write_settings(&self, settings: &str) {
        fs::write(self.settings_file(), settings).expect("the test's own directory is writable");
    }

    fn path(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }
}

impl Deref for Authd {
    type Target = Daemon;

    fn deref(&self) -> &Daemon {
        &self.daemon
    }
}

impl DerefMut for Authd {
    fn deref_mut(&mut self) -> &mut Daemon {
        &mut self.daemon
    }
}
