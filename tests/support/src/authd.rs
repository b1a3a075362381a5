//! The real `mcp-authd` as a child of the test, in directories of its own.

use std::{
    fs::{self, File},
    os::{fd::AsRawFd as _, unix::fs::OpenOptionsExt as _},
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

/// A running `mcp-authd`; dropped, it is killed, and its log printed if the test is failing.
#[derive(Debug)]
pub struct Authd {
    binary: PathBuf,
    args: Vec<String>,
    env: Vec<(String, String)>,
    /// Whether the settings say where to listen.
    listens: bool,
    directory: TempDir,
    log: ChildLog,
    out: ChildLog,
    child: Option<Child>,
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
        let mut authd = Authd {
            binary: binary.into(),
            args: args.iter().map(ToString::to_string).collect(),
            env: env.iter().map(|(name, value)| (name.to_string(), value.to_string())).collect(),
            listens: settings.lines().any(|line| line.starts_with("listen")) || args.contains(&"--listen"),
            directory,
            log: ChildLog::default(),
            out: ChildLog::default(),
            child: None,
            listeners: Vec::new(),
        };
        authd.write_settings(&settings);
        authd.start_again().await;
        authd
    }

    /// Starts it again after [`Authd::kill9`] or [`Authd::stop`]: same state, same addresses.
    pub async fn start_again(&mut self) {
        assert!(self.child.is_none(), "start_again() on a mcp-authd that runs");
        let (ours, theirs) = pipe().expect("a pipe");
        fcntl(&ours, FcntlArg::F_SETFD(FdFlag::FD_CLOEXEC)).expect("a fresh descriptor");
        let mut command = Command::new(&self.binary);
        command.args(["serve", "--ready-fd", &theirs.as_raw_fd().to_string()]);
        command.arg("--config").arg(self.settings_file());
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
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped()).kill_on_drop(true);
        let mut child = command.spawn().unwrap_or_else(|error| panic!("{}: {error}", self.binary.display()));
        drop(theirs);
        self.log.follow(child.stderr.take().expect("stderr is piped"));
        self.out.follow(child.stdout.take().expect("stdout is piped"));
        self.child = Some(child);
        self.ready(File::from(ours)).await;
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
        self.path("run/mcp-authd/control.sock")
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

    /// Waits up to 60 s until it has ended by itself, or because of a [`Authd::signal`].
    pub async fn end(&mut self) -> ExitStatus {
        let mut child = self.child.take().expect("it runs");
        let ended = timeout(PATIENCE, child.wait()).await.expect("mcp-authd ends within 60 s");
        self.log.end().await;
        self.out.end().await;
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

    /// The last 2,000 lines of its stdout (the audit, unless the settings say otherwise), over all its lives.
    pub fn out(&self) -> Vec<String> {
        self.out.lines()
    }

    /// Waits until a line of stdout contains `text`, and returns it; fails the test after 60 s.
    pub async fn until_out(&self, text: &str) -> String {
        self.out.until(text).await
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
            panic!("mcp-authd {:?} did not start: {outcome:?}\n{}", self.args, self.log().join("\n"));
        }
    }
}

impl Drop for Authd {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("--- mcp-authd {:?} said:\n{}\n---", self.args, self.log().join("\n"));
        }
    }
}
