//! The real `mcp-sessiond` as a child of the test, in directories of its own.

use std::{
    fs::{self, File},
    os::fd::AsRawFd as _,
    path::{Path, PathBuf},
    process::{ExitStatus, Stdio},
    time::Duration,
};

use bytes::Bytes;
use http::{Method, Request};
use nix::{
    fcntl::{FcntlArg, FdFlag, fcntl},
    sys::signal::{Signal, kill},
    unistd::{Pid, pipe},
};
use serde_json::Value;
use tempfile::TempDir;
use tokio::{
    io::AsyncReadExt as _,
    net::unix::pipe::Receiver,
    process::{Child, Command},
    time::{sleep, timeout},
};

use crate::{child_log::ChildLog, client::Client};

/// How long a start and a stop may take.
const PATIENCE: Duration = Duration::from_secs(60);
/// How often [`Sessiond::until_status`] asks.
const GLANCE: Duration = Duration::from_millis(20);

/// A running `mcp-sessiond`; dropped, it is killed, and its log printed if the test is failing.
#[derive(Debug)]
pub struct Sessiond {
    binary: PathBuf,
    args: Vec<String>,
    env: Vec<(String, String)>,
    /// What is in the file that `--config` names, if it was started with settings.
    settings: Option<String>,
    directory: TempDir,
    log: ChildLog,
    child: Option<Child>,
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
        let mut sessiond = Sessiond {
            binary: binary.into(),
            args: args.iter().map(ToString::to_string).collect(),
            env: env.iter().map(|(name, value)| (name.to_string(), value.to_string())).collect(),
            settings: settings(directory.path()),
            directory,
            log: ChildLog::default(),
            child: None,
            listeners: Vec::new(),
        };
        if let Some(settings) = &sessiond.settings {
            fs::write(sessiond.settings_file(), settings).expect("a new directory is writable");
        }
        sessiond.start_again().await;
        sessiond
    }

    /// Starts it again after [`Sessiond::kill9`] or [`Sessiond::stop`]: same state, same addresses.
    pub async fn start_again(&mut self) {
        assert!(self.child.is_none(), "start_again() on a mcp-sessiond that runs");
        let (ours, theirs) = pipe().expect("a pipe");
        fcntl(&ours, FcntlArg::F_SETFD(FdFlag::FD_CLOEXEC)).expect("a fresh descriptor");
        let mut command = Command::new(&self.binary);
        command.args(["--state-dir", self.path("state").to_str().expect("temporary paths are UTF-8")]);
        command.args(["--ready-fd", &theirs.as_raw_fd().to_string()]);
        for listener in self.listens() {
            command.args(["--listen", &listener]);
        }
        if self.settings.is_some() {
            command.arg("--config").arg(self.settings_file());
        }
        command.args(&self.args);
        for inherited in ["NOTIFY_SOCKET", "LISTEN_FDS", "LISTEN_PID", "STATE_DIRECTORY", "RUNTIME_DIRECTORY"]
        {
            command.env_remove(inherited);
        }
        command.env("XDG_STATE_HOME", self.path("state")).env("XDG_RUNTIME_DIR", self.path("run"));
        command.env("RUST_LOG", "debug").envs(self.env.iter().cloned());
        command.stdin(Stdio::null()).stdout(Stdio::inherit()).stderr(Stdio::piped()).kill_on_drop(true);
        let mut child = command.spawn().unwrap_or_else(|error| panic!("{}: {error}", self.binary.display()));
        drop(theirs);
        self.log.follow(child.stderr.take().expect("stderr is piped"));
        self.child = Some(child);
        self.ready(File::from(ours)).await;
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

    /// Asks the control socket: status, and the body as JSON (a string if it is none).
    pub async fn control(&self, method: &str, path: &str) -> (u16, Value) {
        let url = format!("unix:{}:/", self.control_socket().display());
        let mut request = Request::new(Bytes::new());
        *request.method_mut() = method.parse::<Method>().expect("a method");
        *request.uri_mut() = format!("http://control{path}").parse().expect("a path");
        let client = Client::builder(&url).unconnected();
        let asked = timeout(PATIENCE, client.raw(request)).await;
        let response =
            asked.expect("the control socket answers").unwrap_or_else(|error| panic!("{url}: {error}"));
        let body = serde_json::from_slice(response.body());
        let text = || String::from_utf8_lossy(response.body()).into_owned().into();
        (response.status().as_u16(), body.unwrap_or_else(|_| text()))
    }

    /// Path of the control socket.
    pub fn control_socket(&self) -> PathBuf {
        self.path("run/mcp-sessiond/control.sock")
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

    /// The process id while it runs.
    pub fn pid(&self) -> u32 {
        self.child.as_ref().and_then(Child::id).expect("it runs")
    }

    /// SIGKILL; returns when it is gone.
    pub async fn kill9(&mut self) {
        let mut child = self.child.take().expect("it runs");
        child.kill().await.expect("our own child can be killed");
        self.log.end().await;
    }

    /// Sends a signal to it.
    pub fn signal(&self, signal: Signal) {
        kill(Pid::from_raw(self.pid() as i32), signal).expect("our own child can be signalled");
    }

    /// SIGTERM, then waits up to 60 s for its end.
    pub async fn stop(&mut self) -> ExitStatus {
        self.signal(Signal::SIGTERM);
        self.end().await
    }

    /// Waits up to 60 s until it has ended by itself, or because of a [`Sessiond::signal`].
    pub async fn end(&mut self) -> ExitStatus {
        let mut child = self.child.take().expect("it runs");
        let ended = timeout(PATIENCE, child.wait()).await.expect("mcp-sessiond ends within 60 s");
        self.log.end().await;
        ended.expect("our own child can be waited for")
    }

    /// The last 2,000 lines of its stderr, over all its lives.
    pub fn log(&self) -> Vec<String> {
        self.log.lines()
    }

    /// Waits until a line of stderr contains `text`, and returns it; fails the test after 60 s.
    pub async fn until_logged(&self, text: &str) -> String {
        self.log.until(text).await
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

    async fn ready(&mut self, pipe: File) {
        let mut pipe = Receiver::from_file(pipe).expect("a pipe of ours");
        let mut byte = [0];
        let child = self.child.as_mut().expect("just started");
        let outcome = timeout(PATIENCE, async {
            tokio::select! {
                read = pipe.read_exact(&mut byte) => read.map(|_| None),
                ended = child.wait() => ended.map(Some),
            }
        });
        let outcome = outcome.await;
        if !matches!(outcome, Ok(Ok(None))) {
            self.log.end().await;
        }
        match outcome {
            Ok(Ok(None)) => {}
            Ok(other) => {
                panic!("mcp-sessiond {:?} did not start: {other:?}\n{}", self.args, self.log().join("\n"))
            }
            Err(_) => {
                panic!("mcp-sessiond {:?} is not ready after 60 s\n{}", self.args, self.log().join("\n"))
            }
        }
    }
}

impl Drop for Sessiond {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("--- mcp-sessiond {:?} said:\n{}\n---", self.args, self.log().join("\n"));
        }
    }
}
