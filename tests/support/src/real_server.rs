//! A real server as a process that can be killed with -9 and started again on the same port.

use std::{
    path::{Path, PathBuf},
    process::Stdio,
};

use tokio::process::{Child, Command};

use crate::{
    child_log::ChildLog,
    real::{quiet_port, real_script},
};

/// A real server of `tests/real`; dropped, it is killed, and what it said printed if the test is failing.
#[derive(Debug)]
pub struct RealServer {
    script: PathBuf,
    args: Vec<String>,
    env: Vec<(String, String)>,
    /// What it says once it listens.
    listening: String,
    port: u16,
    log: ChildLog,
    child: Option<Child>,
}

impl RealServer {
    /// Starts `tests/real/server NAME` and waits until it listens.
    pub async fn start(name: &str) -> RealServer {
        let port = quiet_port();
        RealServer::launch("server", vec![name.into()], vec![], format!("listening {port}"), port).await
    }

    /// Starts real Serena on the scratch folder `folder`, with more of its arguments, and waits until it listens.
    pub async fn serena(folder: &Path, args: &[&str]) -> RealServer {
        let port = quiet_port();
        let folder = folder.to_str().expect("temporary paths are UTF-8");
        let args = [folder].iter().chain(args).map(ToString::to_string).collect();
        let listening = format!("Uvicorn running on http://127.0.0.1:{port}");
        RealServer::launch("serena", args, vec![], listening, port).await
    }

    /// Starts a script of `tests/real` that takes `--port`, and waits until it says `listening`.
    pub(crate) async fn launch(
        script: &str,
        args: Vec<String>,
        env: Vec<(String, String)>,
        listening: String,
        port: u16,
    ) -> RealServer {
        let script = real_script(script);
        let log = ChildLog::default();
        let mut server = RealServer { script, args, env, listening, port, log, child: None };
        server.start_again().await;
        server
    }

    /// Starts it again after [`RealServer::kill9`], on the same port; returns when it listens.
    pub async fn start_again(&mut self) {
        assert!(self.child.is_none(), "start_again() on a server that runs");
        self.log = ChildLog::default();
        let mut command = Command::new(&self.script);
        command.args(&self.args).args(["--port", &self.port.to_string()]).envs(self.env.iter().cloned());
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped()).kill_on_drop(true);
        let mut child = command.spawn().unwrap_or_else(|error| panic!("{}: {error}", self.script.display()));
        self.log.follow(child.stdout.take().expect("stdout is piped"));
        self.log.follow(child.stderr.take().expect("stderr is piped"));
        let child = self.child.insert(child);
        tokio::select! {
            _ = self.log.until(&self.listening) => {}
            ended = child.wait() => panic!("{:?} ended before it listened: {ended:?}", self.args),
        }
    }

    /// Where clients connect.
    pub fn url(&self) -> String {
        format!("http://127.0.0.1:{}/mcp", self.port)
    }

    /// The process id while it runs.
    pub fn pid(&self) -> u32 {
        self.child.as_ref().and_then(Child::id).expect("it runs")
    }

    /// SIGKILL; returns when it is gone.
    pub async fn kill9(&mut self) {
        let mut child = self.child.take().expect("it runs");
        child.kill().await.expect("our own child can be killed");
    }
}

impl Drop for RealServer {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("--- {:?} said:\n{}\n---", self.args, self.log.lines().join("\n"));
        }
    }
}
