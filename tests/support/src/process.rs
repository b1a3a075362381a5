//! A misbehaving server as a process of its own: to be killed with -9, or stopped with SIGSTOP.

use std::{
    fs,
    path::{Path, PathBuf},
    process::Stdio,
    time::Duration,
};

use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};
use tempfile::TempDir;
use tokio::{
    io::{AsyncBufReadExt as _, BufReader},
    process::{Child, Command},
    time::timeout,
};

use crate::flavour::Flavour;

/// How long a start may take.
const PATIENCE: Duration = Duration::from_secs(60);

/// The `misbehaving-server` binary beside the running test; `cargo build -p support` makes it.
pub fn misbehaving_server() -> PathBuf {
    let test = std::env::current_exe().expect("a process knows its own path");
    let profile = test.ancestors().nth(2).expect("tests run from target/PROFILE/deps");
    let binary = profile.join("misbehaving-server");
    assert!(binary.exists(), "{} is not there; run `cargo build -p support`", binary.display());
    binary
}

/// A server process; dropped, it is killed.
#[derive(Debug)]
pub struct Process {
    binary: PathBuf,
    flavour: Flavour,
    args: Vec<String>,
    directory: TempDir,
    port: u16,
    child: Option<Child>,
}

impl Process {
    /// Starts `binary` (see [`misbehaving_server`]) on an ephemeral port and waits until it listens.
    pub async fn start(binary: &Path, flavour: Flavour) -> Process {
        Process::start_with(binary, flavour, &[]).await
    }

    /// The same, with more arguments, such as `--json`.
    pub async fn start_with(binary: &Path, flavour: Flavour, args: &[&str]) -> Process {
        let directory = tempfile::tempdir().expect("a temporary directory");
        let args = args.iter().map(ToString::to_string).collect();
        let mut process = Process { binary: binary.into(), flavour, args, directory, port: 0, child: None };
        process.start_again().await;
        process
    }

    /// Starts it again on the same port; returns when it listens.
    pub async fn start_again(&mut self) {
        assert!(self.child.is_none(), "start_again() on a server that runs");
        let mut command = Command::new(&self.binary);
        command.args(["--port", &self.port.to_string(), "--flavour", self.flavour.name()]);
        command
            .arg("--log")
            .arg(self.log())
            .args(&self.args)
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .kill_on_drop(true);
        let mut child = command.spawn().unwrap_or_else(|error| panic!("{}: {error}", self.binary.display()));
        let mut lines = BufReader::new(child.stdout.take().expect("stdout is piped")).lines();
        let line = timeout(PATIENCE, lines.next_line()).await.expect("it listens within 60 s");
        let line = line.expect("stdout is text").expect("it said where it listens");
        self.port =
            line.strip_prefix("listening ").and_then(|port| port.parse().ok()).expect("`listening PORT`");
        self.child = Some(child);
    }

    /// Where clients connect.
    pub fn url(&self) -> String {
        format!("http://127.0.0.1:{}/mcp", self.port)
    }

    /// The TCP port.
    pub fn port(&self) -> u16 {
        self.port
    }

    /// The process id while it runs.
    pub fn pid(&self) -> u32 {
        self.child.as_ref().and_then(Child::id).expect("it runs")
    }

    /// The tools whose effect has happened, over all its lives, oldest first.
    pub fn executed(&self) -> Vec<String> {
        fs::read_to_string(self.log()).unwrap_or_default().lines().map(str::to_owned).collect()
    }

    /// SIGKILL; returns when it is gone.
    pub async fn kill9(&mut self) {
        let mut child = self.child.take().expect("it runs");
        child.kill().await.expect("our own child can be killed");
    }

    /// SIGSTOP: it accepts no more and answers nothing, its connections stay.
    pub fn freeze(&self) {
        self.signal(Signal::SIGSTOP);
    }

    /// SIGCONT.
    pub fn thaw(&self) {
        self.signal(Signal::SIGCONT);
    }

    fn signal(&self, signal: Signal) {
        kill(Pid::from_raw(self.pid() as i32), signal).expect("our own child can be signalled");
    }

    fn log(&self) -> PathBuf {
        self.directory.path().join("executed")
    }
}
