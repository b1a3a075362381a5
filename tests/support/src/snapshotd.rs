//! The real `serena-snapshotd` as a child of the test, in directories of its own: a home, a store, and a place for sockets.

use std::{
    fs::{self, File},
    ops::{Deref, DerefMut},
    path::{Path, PathBuf},
    process::{Output, Stdio},
    time::Duration,
};

use serde_json::Value;
use tempfile::TempDir;
use tokio::{
    process::Command,
    time::{sleep, timeout},
};

use crate::daemon::Daemon;

/// How long a command, a start and a stop may take.
const PATIENCE: Duration = Duration::from_secs(60);
/// How often [`Snapshotd::until`] asks.
const GLANCE: Duration = Duration::from_millis(10);
/// The name of the home in the store.
const PARTITION: &str = "laptop";
/// What the test's own surroundings may not decide.
const INHERITED: [&str; 29] = [
    "AWS_ACCESS_KEY_ID",
    "AWS_DEFAULT_REGION",
    "AWS_ENDPOINT_URL",
    "AWS_ENDPOINT_URL_S3",
    "AWS_REGION",
    "AWS_SECRET_ACCESS_KEY",
    "AWS_SESSION_TOKEN",
    "CLOUDFLARE_DURABLE_OBJECT_ID",
    "CREDENTIALS_DIRECTORY",
    "HTTPS_PROXY",
    "HTTP_PROXY",
    "LISTEN_FDS",
    "LISTEN_PID",
    "NOTIFY_SOCKET",
    "R2_ACCOUNT_ID",
    "R2_BUCKET_NAME",
    "RUNTIME_DIRECTORY",
    "SERENA_HOME",
    "SERENA_R2_SNAPSHOT_INTERVAL_SECONDS",
    "SERENA_R2_SNAPSHOT_RETENTION_COUNT",
    "SERENA_R2_STATE_ENABLED",
    "SERENA_R2_STATE_PARTITION_MODE",
    "SERENA_R2_STATE_PREFIX",
    "SERENA_R2_STATE_STRICT",
    "SERENA_SNAPSHOTD_PARTITION",
    "STATE_DIRECTORY",
    "WATCHDOG_USEC",
    "XDG_RUNTIME_DIR",
    "XDG_STATE_HOME",
];

/// A `serena-snapshotd` and its home; what every daemon can is in [`Daemon`]. Unless flags or variables say otherwise, its
/// store is the directory `store`, and its partition `laptop`.
#[derive(Debug)]
pub struct Snapshotd {
    binary: PathBuf,
    env: Vec<(String, String)>,
    flags: Vec<String>,
    daemon: Daemon,
    directory: TempDir,
}

impl Snapshotd {
    /// One that does not run yet, with a home that does not exist yet.
    pub fn new(binary: &str) -> Snapshotd {
        let directory = tempfile::Builder::new().prefix("sn-").tempdir().expect("a temporary directory");
        fs::create_dir(directory.path().join("run")).expect("a new directory is writable");
        let control = directory.path().join("run/serena-snapshotd/control.sock");
        let mut new = Snapshotd {
            binary: binary.into(),
            env: Vec::new(),
            flags: Vec::new(),
            daemon: Daemon::new("serena-snapshotd", control, PATIENCE),
            directory,
        };
        let store = format!("file://{}", new.store().display());
        new.flags = vec!["--partition".into(), PARTITION.into(), "--store".into(), store];
        new
    }

    /// The same with other flags for every command.
    #[must_use]
    pub fn with_flags(mut self, flags: &[&str]) -> Snapshotd {
        self.flags = flags.iter().map(ToString::to_string).collect();
        self
    }

    /// The same with a variable in the environment.
    #[must_use]
    pub fn with_env(mut self, name: &str, value: &str) -> Snapshotd {
        self.env.push((name.to_owned(), value.to_owned()));
        self
    }

    /// The flags of every command.
    pub fn flags(&self) -> &[String] {
        &self.flags
    }

    /// The directory of the story.
    pub fn path(&self) -> &Path {
        self.directory.path()
    }

    /// The home.
    pub fn home(&self) -> PathBuf {
        self.path().join("home")
    }

    /// The directory that is the store.
    pub fn store(&self) -> PathBuf {
        self.path().join("store")
    }

    /// What of the store belongs to the home.
    pub fn partition(&self) -> PathBuf {
        self.store().join(PARTITION)
    }

    /// Writes a file of the home, and makes the directories above it.
    pub fn write(&self, name: &str, content: impl AsRef<[u8]>) {
        let path = self.home().join(name);
        fs::create_dir_all(path.parent().expect("below the home")).expect("our own directory is writable");
        fs::write(path, content).expect("our own directory is writable");
    }

    /// The text of a file of the home; `None` if it is not there.
    pub fn read(&self, name: &str) -> Option<String> {
        fs::read_to_string(self.home().join(name)).ok()
    }

    /// Removes the home and what is beside it: another machine.
    pub fn lose_home(&self) {
        for entry in fs::read_dir(self.path()).expect("our own directory").flatten() {
            let is_of_home = entry.file_name().to_string_lossy().starts_with("home");
            if is_of_home && entry.path().is_dir() {
                fs::remove_dir_all(entry.path()).expect("our own directory is writable");
            } else if is_of_home {
                fs::remove_file(entry.path()).expect("our own directory is writable");
            }
        }
    }

    /// Runs one of its commands; the flags of all follow. Fails the test after 60 s.
    pub async fn command(&self, args: &[&str]) -> Output {
        let mut command = self.bare();
        command.args(args).args(&self.flags).stdout(Stdio::piped()).stderr(Stdio::piped());
        let output = timeout(PATIENCE, command.output()).await;
        let output = output.unwrap_or_else(|_| panic!("serena-snapshotd {args:?} is not done within 60 s"));
        output.unwrap_or_else(|error| panic!("{}: {error}", self.binary.display()))
    }

    /// The same for a command that must succeed; what it prints.
    pub async fn succeed(&self, args: &[&str]) -> String {
        let output = self.command(args).await;
        assert!(output.status.success(), "serena-snapshotd {args:?}: {output:?}");
        String::from_utf8_lossy(&output.stdout).into_owned()
    }

    /// The same as JSON.
    pub async fn json(&self, args: &[&str]) -> Value {
        let args: Vec<&str> = args.iter().copied().chain(["--json"]).collect();
        serde_json::from_str(&self.succeed(&args).await).expect("--json prints JSON")
    }

    /// The same for one that must fail: the one line with which it gives up, and its exit code.
    pub async fn fail(&self, args: &[&str]) -> (String, i32) {
        let output = self.command(args).await;
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        let lines: Vec<_> = said.lines().filter_map(|line| line.strip_prefix("serena-snapshotd: ")).collect();
        assert!(!said.contains("panicked"), "{said}");
        assert_eq!(lines.len(), 1, "serena-snapshotd {args:?}: {output:?}");
        (lines[0].to_owned(), output.status.code().expect("it is not killed"))
    }

    /// Starts the daemon with these flags besides, and waits until it says that it is ready.
    pub async fn start(&mut self, args: &[&str]) {
        let pipe = self.launch(args).await;
        self.ready(pipe).await;
    }

    /// Waits until one that was launched says that it is ready.
    pub async fn ready(&mut self, pipe: File) {
        self.daemon.ready(pipe).await;
    }

    /// The same without waiting: for one that does not become ready.
    pub async fn launch(&mut self, args: &[&str]) -> File {
        let mut command = self.bare();
        let flags = &self.flags;
        let launched = self.daemon.launch(|ready_fd| {
            command.args(["run", "--ready-fd", ready_fd]).args(args).args(flags);
            command
        });
        launched.await
    }

    /// What `GET /status` says.
    pub async fn status(&self) -> Value {
        let (status, body) = self.control("GET", "/status").await;
        assert_eq!(status, 200, "{body}");
        body
    }

    /// Waits until `fact` holds of the status, and returns it; fails the test after 60 s.
    pub async fn until(&self, fact: impl Fn(&Value) -> bool) -> Value {
        let mut last = Value::Null;
        let held = timeout(PATIENCE, async {
            loop {
                last = self.status().await;
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

    /// The command with nothing but its surroundings: without the flags of all.
    pub fn bare(&self) -> Command {
        let mut command = Command::new(&self.binary);
        for inherited in INHERITED {
            command.env_remove(inherited);
        }
        command
            .env("HOME", self.path())
            .env("SERENA_HOME", self.home())
            .env("XDG_RUNTIME_DIR", self.path().join("run"));
        command.envs(self.env.iter().cloned());
        command.stdin(Stdio::null()).kill_on_drop(true);
        command
    }
}

impl Deref for Snapshotd {
    type Target = Daemon;

    fn deref(&self) -> &Daemon {
        &self.daemon
    }
}

impl DerefMut for Snapshotd {
    fn deref_mut(&mut self) -> &mut Daemon {
        &mut self.daemon
    }
}
