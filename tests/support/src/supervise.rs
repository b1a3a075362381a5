//! The real `serena-supervise` as a child of the test, in directories of its own.

use std::{
    ffi::OsStr,
    fs,
    ops::Deref,
    path::{Path, PathBuf},
    process::{ExitStatus, Output, Stdio},
    time::Duration,
};

use nix::sys::signal::Signal;
use serde_json::Value;
use tokio::{
    process::Command,
    time::{sleep, timeout},
};

use crate::{client::Client, daemon::Daemon, failure::RpcFailure, ground::Ground};

/// How long a start, a stop and a fact may take.
const PATIENCE: Duration = Duration::from_secs(40);
/// How often [`Supervise::until`] asks.
const GLANCE: Duration = Duration::from_millis(10);
/// What the test's own surroundings may not decide.
const INHERITED: [&str; 7] = [
    "NOTIFY_SOCKET",
    "WATCHDOG_USEC",
    "LISTEN_FDS",
    "LISTEN_PID",
    "STATE_DIRECTORY",
    "RUNTIME_DIRECTORY",
    "MCP_CONTAINER_ROUTE_GENERATION",
];

/// A running `serena-supervise`; dropped, it and all it started is killed, and its log printed if the test is failing.
#[derive(Debug)]
pub struct Supervise {
    /// What it runs under, such as `unshare`, and its flags.
    under: Vec<String>,
    binary: PathBuf,
    args: Vec<String>,
    env: Vec<(String, String)>,
    daemon: Daemon,
    ground: Ground,
}

impl Supervise {
    /// Runs `run --config` on what `settings` writes, and waits until it says that it is ready.
    pub async fn start(binary: &str, settings: impl FnOnce(&Ground) -> String) -> Supervise {
        Supervise::start_with(binary, settings, &[]).await
    }

    /// The same, with environment variables (`RUST_LOG` is `debug` unless given).
    pub async fn start_with(
        binary: &str,
        settings: impl FnOnce(&Ground) -> String,
        env: &[(&str, &str)],
    ) -> Supervise {
        let supervise = Supervise::prepared(binary, env);
        supervise.set(settings).await
    }

    /// The same, under another program such as `unshare`; [`Supervise::pid`] is that one's then.
    pub async fn start_under(
        under: &[&str],
        binary: &str,
        settings: impl FnOnce(&Ground) -> String,
    ) -> Supervise {
        let mut supervise = Supervise::prepared(binary, &[]);
        supervise.under = under.iter().map(ToString::to_string).collect();
        supervise.set(settings).await
    }

    /// Runs one that is prepared as [`Supervise::start`] does.
    pub async fn set(mut self, settings: impl FnOnce(&Ground) -> String) -> Supervise {
        let settings = settings(&self.ground);
        fs::write(self.settings_file(), settings).expect("a new directory is writable");
        self.args = vec!["--config".into(), self.ground.file("settings.toml")];
        self.start_again().await;
        self
    }

    /// Runs `run` with the arguments that `args` gives: flags, then `--` and a command.
    pub async fn start_command(binary: &str, args: impl FnOnce(&Ground) -> Vec<String>) -> Supervise {
        let mut supervise = Supervise::prepared(binary, &[]);
        supervise.args = args(&supervise.ground);
        supervise.start_again().await;
        supervise
    }

    /// One that does not run yet: for [`Supervise::command`].
    pub fn prepared(binary: &str, env: &[(&str, &str)]) -> Supervise {
        let ground = Ground::new();
        let control = ground.path().join("run/serena-supervise/control.sock");
        Supervise {
            under: Vec::new(),
            binary: binary.into(),
            args: Vec::new(),
            env: env.iter().map(|(name, value)| (name.to_string(), value.to_string())).collect(),
            daemon: Daemon::new("serena-supervise", control, PATIENCE),
            ground,
        }
    }

    /// Starts it again after [`Supervise::kill9`] or [`Supervise::stop`], with the same settings.
    pub async fn start_again(&mut self) {
        let mut command = self.bare();
        let args = &self.args;
        let launched = self.daemon.launch(|ready_fd| {
            command.args(["run", "--ready-fd", ready_fd]).args(args);
            command
        });
        let pipe = launched.await;
        self.daemon.ready(pipe).await;
    }

    /// Runs another of its commands in the same surroundings, such as `status --json`; fails the test after 40 s.
    pub async fn command(&self, args: &[&str]) -> Output {
        let mut command = self.bare();
        command.args(args).stdout(Stdio::piped()).stderr(Stdio::piped());
        let output = timeout(PATIENCE, command.output()).await;
        let output = output.unwrap_or_else(|_| panic!("serena-supervise {args:?} is not done within 40 s"));
        output.unwrap_or_else(|error| panic!("{}: {error}", self.binary.display()))
    }

    /// Replaces the file given as `--config`.
    pub fn rewrite(&self, settings: impl FnOnce(&Ground) -> String) {
        let partial = self.ground.path().join("settings.partial");
        fs::write(&partial, settings(&self.ground)).expect("our own directory is writable");
        fs::rename(partial, self.settings_file()).expect("our own directory is writable");
    }

    /// See [`Daemon::control`].
    pub async fn control(&self, method: &str, path: &str) -> (u16, Value) {
        self.daemon.control(method, path).await
    }

    /// See [`Daemon::control_socket`].
    pub fn control_socket(&self) -> &Path {
        self.daemon.control_socket()
    }

    /// What `GET /instances` says of all.
    pub async fn instances(&self) -> Vec<Value> {
        let (status, instances) = self.control("GET", "/instances").await;
        assert_eq!(status, 200, "{instances}");
        instances.as_array().expect("GET /instances is an array").clone()
    }

    /// What it says of one.
    pub async fn instance(&self, name: &str) -> Value {
        let instances = self.instances().await;
        let found = instances.iter().find(|instance| instance["name"] == name);
        found.unwrap_or_else(|| panic!("no instance {name} in {instances:?}")).clone()
    }

    /// `POST /instances/NAME/ACTION`, which must be accepted.
    pub async fn ask(&self, name: &str, action: &str) -> Value {
        let (status, instance) = self.control("POST", &format!("/instances/{name}/{action}")).await;
        assert_eq!(status, 202, "{action} of {name}: {instance}");
        instance
    }

    /// Waits until `fact` holds of the instance, and returns it; fails the test after 40 s.
    pub async fn until(&self, name: &str, fact: impl Fn(&Value) -> bool) -> Value {
        let mut last = Value::Null;
        let held = timeout(PATIENCE, async {
            loop {
                last = self.instance(name).await;
                if fact(&last) {
                    return;
                }
                sleep(GLANCE).await;
            }
        });
        let held = held.await;
        assert!(held.is_ok(), "the awaited fact never came true: {last:#}");
        last
    }

    /// Waits until the instance is in this state.
    pub async fn until_state(&self, name: &str, state: &str) -> Value {
        self.until(name, |instance| instance["state"] == state).await
    }

    /// Waits until no process of the story is left but the supervisor itself.
    pub async fn until_nothing_lives(&self) {
        let besides = self.daemon.is_running().then(|| self.pid());
        let held = timeout(PATIENCE, async {
            while !self.ground.living(besides).is_empty() {
                sleep(GLANCE).await;
            }
        });
        let held = held.await;
        assert!(held.is_ok(), "still alive: {:?}", self.ground.living(besides));
    }

    /// The processes of the story that are alive, without the supervisor itself.
    pub fn living(&self) -> Vec<i32> {
        self.ground.living(self.daemon.is_running().then(|| self.pid()))
    }

    /// A client of an instance that has shaken hands with it; real servers repeat the session id, so it is lenient.
    pub async fn client(&self, name: &str) -> Result<Client, RpcFailure> {
        Client::builder(&self.url(name)).lenient().patience(PATIENCE).connect().await
    }

    /// Where clients of an instance connect.
    pub fn url(&self, name: &str) -> String {
        format!("unix:{}:/mcp", self.ground.socket(name).display())
    }

    /// The file given as `--config` by [`Supervise::start`].
    pub fn settings_file(&self) -> PathBuf {
        self.ground.path().join("settings.toml")
    }

    /// See [`Daemon::pid`].
    pub fn pid(&self) -> u32 {
        self.daemon.pid()
    }

    /// See [`Daemon::kill9`].
    pub async fn kill9(&mut self) {
        self.daemon.kill9().await;
    }

    /// See [`Daemon::signal`].
    pub fn signal(&self, signal: Signal) {
        self.daemon.signal(signal);
    }

    /// SIGTERM, then [`Supervise::end`].
    pub async fn stop(&mut self) -> ExitStatus {
        self.signal(Signal::SIGTERM);
        self.end().await
    }

    /// SIGTERM; it must end with 0 and leave nothing alive: the end of a story.
    pub async fn stop_clean(&mut self) {
        let ended = self.stop().await;
        // At once: whatever would go by itself soon was left behind all the same.
        let left = self.ground.living(None);
        assert_eq!((ended.code(), left), (Some(0), vec![]), "it ends with 0 and leaves nothing behind");
    }

    /// Waits up to 40 s until it has ended by itself, or because of a [`Supervise::signal`].
    pub async fn end(&mut self) -> ExitStatus {
        self.daemon.ended().await
    }

    /// See [`Daemon::log`].
    pub fn log(&self) -> Vec<String> {
        self.daemon.log()
    }

    /// See [`Daemon::until_logged`].
    pub async fn until_logged(&self, text: &str) -> String {
        self.daemon.until_logged(text).await
    }

    /// The command with nothing but its surroundings.
    pub fn bare(&self) -> Command {
        self.bare_under(&self.under.iter().map(String::as_str).collect::<Vec<_>>())
    }

    /// The same, under another program such as `sh`.
    pub fn bare_under(&self, under: &[&str]) -> Command {
        let mut words = under.iter().map(OsStr::new).chain([self.binary.as_os_str()]);
        let mut command = Command::new(words.next().expect("at least the binary"));
        command.args(words);
        for inherited in INHERITED {
            command.env_remove(inherited);
        }
        command.envs(self.ground.environment()).env("RUST_LOG", "debug").envs(self.env.iter().cloned());
        command.stdin(Stdio::null()).kill_on_drop(true);
        command
    }
}

impl Deref for Supervise {
    type Target = Ground;

    fn deref(&self) -> &Ground {
        &self.ground
    }
}
