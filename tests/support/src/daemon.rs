//! A daemon under test as a child: started with a descriptor for its readiness, asked at its control socket, and ended.

use std::{
    fs::File,
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
use tokio::{
    io::AsyncReadExt as _,
    net::unix::pipe::Receiver,
    process::{Child, Command},
    time::timeout,
};

use crate::{child_log::ChildLog, client::Client};

/// A daemon and all its lives; dropped, it is killed, and its log printed if the test is failing.
#[derive(Debug)]
pub struct Daemon {
    name: &'static str,
    control: PathBuf,
    /// How long a start, a stop and an answer may take.
    patience: Duration,
    log: ChildLog,
    /// What it says on stdout, where that is read.
    out: Option<ChildLog>,
    child: Option<Child>,
}

impl Daemon {
    /// One that does not run yet.
    pub(crate) fn new(name: &'static str, control: PathBuf, patience: Duration) -> Self {
        Self { name, control, patience, log: ChildLog::default(), out: None, child: None }
    }

    /// The same, and what it says on stdout is read too.
    pub(crate) fn with_out(mut self) -> Self {
        self.out = Some(ChildLog::default());
        self
    }

    /// Starts the command that is made of what `--ready-fd` is to be; gives what [`Daemon::ready`] waits for.
    pub(crate) async fn launch(&mut self, command: impl FnOnce(&str) -> Command) -> File {
        assert!(self.child.is_none(), "{} runs already", self.name);
        let (ours, theirs) = pipe().expect("a pipe");
        fcntl(&ours, FcntlArg::F_SETFD(FdFlag::FD_CLOEXEC)).expect("a fresh descriptor");
        let mut command = command(&theirs.as_raw_fd().to_string());
        let out = if self.out.is_some() { Stdio::piped() } else { Stdio::inherit() };
        command.stdin(Stdio::null()).stdout(out).stderr(Stdio::piped()).kill_on_drop(true);
        let mut child = command.spawn().unwrap_or_else(|error| panic!("{}: {error}", self.name));
        drop(theirs);
        self.log.follow(child.stderr.take().expect("stderr is piped"));
        if let Some(out) = &self.out {
            out.follow(child.stdout.take().expect("stdout is piped"));
        }
        self.child = Some(child);
        File::from(ours)
    }

    /// Waits until it says that it is ready; fails the test if it ends before, or takes too long.
    pub(crate) async fn ready(&mut self, pipe: File) {
        let mut pipe = Receiver::from_file(pipe).expect("a pipe of ours");
        let mut byte = [0];
        let child = self.child.as_mut().expect("just started");
        let outcome = timeout(self.patience, async {
            tokio::select! {
                read = pipe.read_exact(&mut byte) => read.map(|_| None),
                ended = child.wait() => ended.map(Some),
            }
        });
        let outcome = outcome.await;
        if !matches!(outcome, Ok(Ok(None))) {
            self.log.end().await;
            panic!("{} did not start: {outcome:?}", self.name);
        }
    }

    /// Where it is asked.
    pub fn control_socket(&self) -> &Path {
        &self.control
    }

    /// Asks the control socket: status, and the body as JSON (a string if it is none).
    pub async fn control(&self, method: &str, path: &str) -> (u16, Value) {
        let url = format!("unix:{}:/", self.control.display());
        let mut request = Request::new(Bytes::new());
        *request.method_mut() = method.parse::<Method>().expect("a method");
        // With an authority the client takes the path as it is.
        *request.uri_mut() = format!("http://control{path}").parse().expect("a path");
        let client = Client::builder(&url).unconnected();
        // One that hangs fails the test while there is time to end it.
        let asked = timeout(self.patience, client.raw(request)).await;
        let asked = asked.unwrap_or_else(|_| panic!("{method} {path}: no answer within {:?}", self.patience));
        let response = asked.unwrap_or_else(|error| panic!("{method} {path}: {error}"));
        let (head, body) = response.into_parts();
        let text = String::from_utf8_lossy(&body);
        (head.status.as_u16(), serde_json::from_str(&text).unwrap_or_else(|_| text.as_ref().into()))
    }

    /// Whether it was started, and neither ended by the test nor waited for.
    pub(crate) fn is_running(&self) -> bool {
        self.child.is_some()
    }

    /// The process id while it runs.
    pub fn pid(&self) -> u32 {
        self.child.as_ref().and_then(Child::id).expect("it runs")
    }

    /// Sends a signal to it.
    pub fn signal(&self, signal: Signal) {
        kill(Pid::from_raw(self.pid() as i32), signal).expect("our own child can be signalled");
    }

    /// SIGKILL; returns when it is gone.
    pub async fn kill9(&mut self) {
        let mut child = self.child.take().expect("it runs");
        child.kill().await.expect("our own child can be killed");
        self.log.end().await;
    }

    /// SIGTERM, then [`Daemon::end`].
    pub async fn stop(&mut self) -> ExitStatus {
        self.signal(Signal::SIGTERM);
        self.end().await
    }

    /// Waits until it has ended by itself, or because of a [`Daemon::signal`], and all is read that it said.
    pub async fn end(&mut self) -> ExitStatus {
        let ended = self.ended().await;
        self.log.end().await;
        if let Some(out) = &self.out {
            out.end().await;
        }
        ended
    }

    /// The same at once, whatever it has said last.
    pub(crate) async fn ended(&mut self) -> ExitStatus {
        let mut child = self.child.take().expect("it runs");
        let ended = timeout(self.patience, child.wait()).await;
        let ended = ended.unwrap_or_else(|_| panic!("{} is not gone after {:?}", self.name, self.patience));
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

    /// The last 2,000 lines of its stdout, over all its lives, where that is read.
    pub fn out(&self) -> Vec<String> {
        self.out.as_ref().map(ChildLog::lines).unwrap_or_default()
    }

    /// Waits until a line of stdout contains `text`, and returns it; fails the test after 60 s.
    pub async fn until_out(&self, text: &str) -> String {
        self.out.as_ref().expect("its stdout is read").until(text).await
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("--- {} said:\n{}\n---", self.name, self.log().join("\n"));
        }
    }
}
