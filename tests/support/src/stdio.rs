//! The same server over stdin and stdout, one session, newline-delimited JSON-RPC.

use std::{
    fs, io,
    path::{Path, PathBuf},
    process::{Command, Stdio},
    sync::Arc,
};

use serde_json::Value;
use tokio::{
    io::{AsyncBufReadExt as _, AsyncWriteExt as _, BufReader, stdin, stdout},
    signal::unix::{SignalKind, signal},
    sync::mpsc,
};

use crate::{
    flavour::Flavour,
    methods,
    switches::Switches,
    world::{Outlet, Session, World},
};

/// The one session's name, which no client sees.
const SESSION: &str = "stdio";

/// How a stdio server misbehaves.
#[derive(Clone, Debug, Default)]
pub struct StdioOptions {
    /// Exits with 1 right after it has answered this many `tools/call`.
    pub crash_after: Option<u64>,
    /// Exits with 1 when this tool has begun, before its effect.
    pub crash_on: Option<String>,
    /// Reads and never answers.
    pub hang: bool,
    /// Survives SIGTERM and the end of stdin.
    pub ignore_term: bool,
    /// One line per executed call is appended here.
    pub log: Option<PathBuf>,
    /// Starts a sleeping grandchild in a session of its own and writes its process id here.
    pub leave_behind: Option<PathBuf>,
}

/// Serves until stdin ends (or for ever, with `ignore_term`).
pub async fn serve_stdio(options: StdioOptions) -> io::Result<()> {
    let world = Arc::new(World::new(Flavour::Python2, Switches::of(Flavour::Python2)));
    if let Some(log) = &options.log {
        world.state().log = Some(fs::OpenOptions::new().create(true).append(true).open(log)?);
    }
    if let Some(pid_file) = &options.leave_behind {
        leave_behind(pid_file)?;
    }
    // Held for the process's life: without a handler the signal would end it.
    let _term = if options.ignore_term { Some(signal(SignalKind::terminate())?) } else { None };
    let (outlet, messages) = mpsc::unbounded_channel();
    let writer = tokio::spawn(write(messages, options.crash_after));
    let mut lines = BufReader::new(stdin()).lines();
    while let Some(line) = lines.next_line().await? {
        if !options.hang {
            take(&world, &options, &line, &outlet);
        }
    }
    if options.ignore_term {
        std::future::pending::<()>().await;
    }
    drop(outlet);
    writer.await.map_err(io::Error::other)?
}

/// Becomes the process that is left behind: its own session, its id in `pid_file`, asleep until it is killed.
pub async fn be_left_behind(pid_file: &Path) -> io::Result<()> {
    nix::unistd::setsid()?;
    // Renamed into place, so that who waits for the file never reads half of it.
    let partial = pid_file.with_extension("partial");
    fs::write(&partial, std::process::id().to_string())?;
    fs::rename(partial, pid_file)?;
    std::future::pending().await
}

fn leave_behind(pid_file: &Path) -> io::Result<()> {
    let mut command = Command::new(std::env::current_exe()?);
    command.arg("--be-left-behind").arg("--pid-file").arg(pid_file);
    command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
    command.spawn().map(drop)
}

fn take(world: &Arc<World>, options: &StdioOptions, line: &str, outlet: &Outlet) {
    let Ok(message) = serde_json::from_str::<Value>(line) else {
        let _ = outlet.send(methods::error(None, -32700, "Parse error"));
        return;
    };
    if message.get("id").is_none() || message.get("method").is_none() {
        return methods::told(world, SESSION, &message);
    }
    if message["method"] == "initialize" {
        let version = methods::agree(&world.switches(), &message);
        world.change(|state| {
            state.initializes += 1;
            state.sessions.insert(SESSION.into(), Session { version: version.clone(), ..Session::default() });
        });
        let _ = outlet.send(methods::result(message.get("id"), methods::introduction(&version)));
        return;
    }
    let tool = message["params"]["name"].as_str().filter(|_| message["method"] == "tools/call");
    if tool.is_some() && tool == options.crash_on.as_deref() {
        std::process::exit(1);
    }
    let (world, outlet, called) = (world.clone(), outlet.clone(), tool.is_some());
    tokio::spawn(async move {
        let mut response = methods::answer(&world, Some(SESSION), &message, &outlet).await;
        // The writer counts calls; the mark never leaves the process.
        response[CALLED] = called.into();
        let _ = outlet.send(response);
    });
}

const CALLED: &str = "support/called";

async fn write(mut messages: mpsc::UnboundedReceiver<Value>, crash_after: Option<u64>) -> io::Result<()> {
    let (mut out, mut answered) = (stdout(), 0);
    while let Some(mut message) = messages.recv().await {
        let called = message.as_object_mut().and_then(|message| message.remove(CALLED));
        out.write_all(format!("{message}\n").as_bytes()).await?;
        out.flush().await?;
        answered += u64::from(called == Some(true.into()));
        if crash_after.is_some_and(|limit| answered >= limit) {
            std::process::exit(1);
        }
    }
    Ok(())
}
