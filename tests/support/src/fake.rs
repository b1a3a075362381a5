//! A backend process that misbehaves on command: what a supervisor must cope with, as a real process tree.
//!
//! It serves MCP on a port like a well-behaved Serena, and writes down in its [`journal`] what happened to it, which is
//! the tests' oracle. Its children are real processes ([`children`]), so that what is left behind can be counted.

pub(crate) mod children;
mod dashboard;
pub(crate) mod journal;
mod noise;
mod plain;
mod ready;
mod signals;

use std::{
    error::Error,
    future::pending,
    hint::black_box,
    io::{self, ErrorKind},
    path::PathBuf,
    process::exit,
    sync::Arc,
    time::Duration,
};

use serde_json::json;
use tokio::{
    io::{AsyncBufReadExt as _, AsyncWriteExt as _, BufReader},
    net::UnixStream,
    time::{Instant, sleep},
};

use crate::{
    flavour::Flavour,
    server::Server,
    tools,
    world::{Ear, Recorded},
};

use journal::Writer;

/// What Serena exits with when somebody else has its port.
const PORT_TAKEN: i32 = 3;

/// Where a fake backend serves, and how it misbehaves.
#[derive(Clone, Debug, Default)]
pub struct FakeBackend {
    /// The loopback port; 0 is any.
    pub port: u16,
    /// Its journal; the tools it has executed go to the same name with `.executed`.
    pub log: PathBuf,
    /// Only so many starts misbehave, counted in the journal; `None`: all.
    pub misbehave_first: Option<usize>,
    /// Unix socket of a [`crate::Gate`] that is asked before anything else, and decides when it goes on.
    pub gate: Option<PathBuf>,
    /// READY=1 is sent to `$NOTIFY_SOCKET` when it listens.
    pub notify: bool,
    /// A newline is written to this descriptor when it listens.
    pub ready_fd: Option<i32>,
    /// A dashboard like Serena's, and what it says about the language server, poll by poll; the last word stays.
    pub dashboard: Vec<String>,
    /// The port that the log claims to be the dashboard's, instead of the real one.
    pub dashboard_says: Option<u16>,
    /// Instead of MCP, plain HTTP: what `/health` says, poll by poll.
    pub plain: Vec<String>,
    /// On SIGTERM it waits for running calls and open streams, as Serena does; SIGINT ends it all the same.
    pub graceful: bool,
    /// The accidents.
    pub faults: Faults,
}

/// How a fake backend misbehaves; the default is not at all.
#[derive(Clone, Debug, Default)]
pub struct Faults {
    /// Exits at once with this code.
    pub exit: Option<i32>,
    /// Exits with 1 so long after it listens.
    pub crash_after: Option<Duration>,
    /// Accepts connections and answers nothing.
    pub hang: bool,
    /// Listens so long after its start.
    pub slow_start: Duration,
    /// Runs and never listens.
    pub never_listen: bool,
    /// Computes for so long once it listens, answering nothing meanwhile.
    pub busy: Option<Duration>,
    /// Survives SIGTERM.
    pub ignore_term: bool,
    /// Survives SIGINT.
    pub ignore_int: bool,
    /// Writes so many bytes of short lines to stdout.
    pub flood: u64,
    /// Writes one line of so many bytes to stderr.
    pub long_line: u64,
    /// Keeps so many bytes of memory in use.
    pub eat: usize,
    /// Real child processes.
    pub children: children::Children,
}

/// Runs until it is ended; what it cannot do is an error.
pub async fn run_fake_backend(mut fake: FakeBackend) -> Result<(), Box<dyn Error>> {
    let journal = Arc::new(Writer::open(&fake.log)?);
    let start = journal::starts(&fake.log) + 1;
    if fake.misbehave_first.is_some_and(|times| start > times) {
        fake.faults = Faults::default();
    }
    journal.started(start, fake.port);
    journal::alone(&fake.log, &journal)?;
    let told = signals::listen(&fake, &journal)?;
    let forgotten = journal.clone();
    tokio::spawn(async move {
        sleep(children::LIFE).await;
        end(&forgotten, 1);
    });
    noise::make(&fake.faults);
    fake.faults.children.start(&fake.log)?;
    // Written to, so that the pages are really there.
    black_box(vec![1_u8; fake.faults.eat].leak());
    if let Some(code) = fake.faults.exit {
        eprintln!("fake-backend: exits with {code}, as it was told");
        end(&journal, code);
    }
    if let Some(gate) = &fake.gate {
        pass(gate, fake.port).await.unwrap_or_else(|_| end(&journal, 1));
    }
    sleep(fake.faults.slow_start).await;
    if fake.faults.never_listen {
        journal.write("idle", json!({}));
        return pending().await;
    }
    if fake.plain.is_empty() {
        let server = serve(&fake, &journal).await?;
        listens(&fake, &journal, server.port()).await?;
        let _ = told.send(Some(server));
    } else {
        let port = plain::serve(&fake, journal.clone()).await.unwrap_or_else(|error| taken(&journal, error));
        listens(&fake, &journal, port).await?;
    }
    if let Some(span) = fake.faults.busy {
        compute(span);
        journal.write("computed", json!({}));
    }
    if let Some(span) = fake.faults.crash_after {
        sleep(span).await;
        end(&journal, 1);
    }
    pending().await
}

async fn serve(fake: &FakeBackend, journal: &Arc<Writer>) -> io::Result<Server> {
    let (ear, hang) = (journal.clone(), fake.faults.hang);
    let mut builder = Server::builder(Flavour::Python2).port(fake.port).ear(Ear::new(move |request| {
        ear.write("request", described(request));
    }));
    builder = builder.set(|switches| {
        // Serena takes any port of its own host in `Host`, and so do copied bytes arrive.
        switches.strict_host = false;
        switches.hang = hang;
    });
    let server = builder.log(&fake.log.with_extension("executed"))?.start().await;
    Ok(server.unwrap_or_else(|error| taken(journal, error)))
}

fn described(request: &Recorded) -> serde_json::Value {
    let message: serde_json::Value = serde_json::from_slice(&request.body).unwrap_or_default();
    json!({
        "http": request.http_method.as_str(), "method": request.method, "session": request.session,
        "tool": message["params"]["name"],
    })
}

/// Everything that says "I listen", in the order in which real servers say it.
async fn listens(fake: &FakeBackend, journal: &Arc<Writer>, port: u16) -> io::Result<()> {
    if !fake.dashboard.is_empty() {
        dashboard::serve(fake, journal.clone()).await?;
    }
    journal.write("listening", json!({ "port": port }));
    if fake.notify {
        ready::notify()?;
    }
    if let Some(descriptor) = fake.ready_fd {
        ready::newline(descriptor)?;
    }
    Ok(())
}

/// Asks the gate, and waits until it lets us through.
async fn pass(gate: &PathBuf, port: u16) -> io::Result<()> {
    let mut stream = UnixStream::connect(gate).await?;
    stream.write_all(format!("{} {port}\n", std::process::id()).as_bytes()).await?;
    match BufReader::new(stream).read_line(&mut String::new()).await? {
        0 => Err(ErrorKind::UnexpectedEof.into()),
        _ => Ok(()),
    }
}

/// Blocks the one thread, as a Python tool that holds the interpreter lock does.
fn compute(span: Duration) {
    let began = Instant::now();
    let mut sum = 0_u64;
    while began.elapsed() < span {
        sum = black_box(sum.wrapping_add(1));
    }
}

/// The calls that have begun and are not done.
pub(crate) fn running(server: &Server) -> u64 {
    let names = tools::defaults();
    let names = names.iter().filter_map(|tool| tool["name"].as_str());
    names.map(|name| server.started(name) - server.executed(name)).sum()
}

fn taken(journal: &Writer, error: io::Error) -> ! {
    eprintln!("ERROR: {error} while attempting to bind on address 127.0.0.1");
    let code = if error.kind() == ErrorKind::AddrInUse { PORT_TAKEN } else { 1 };
    end(journal, code)
}

pub(crate) fn end(journal: &Writer, code: i32) -> ! {
    journal.write("exit", json!({ "code": code }));
    exit(code)
}
