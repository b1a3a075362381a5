//! What needs numbers: resident memory of a fresh process with nothing, with sessions, and with open streams.
//! Sessions and streams are counted apart: every step starts from what the process held before it.

use std::io;
use std::net::SocketAddr;

use tokio::net::TcpStream;

use crate::load::{Session, Shape};
use crate::process::{Program, Running};

/// Sessions that are only idle, and streams of the first step.
const FEW: usize = 1000;
/// Sessions before anything counts: first use of code, buffers and tables is no cost of a session.
const WARM_UP: usize = 100;

/// Memory of a process, in bytes.
pub struct Memory {
    /// Resident before the first request.
    pub idle: f64,
    /// Resident with 1,000 idle sessions.
    pub with_sessions: f64,
    /// For each of 1,000 idle sessions.
    pub per_session: f64,
    /// For each of 1,000 open streams.
    pub per_stream: f64,
    /// For each stream of the larger number, sessions not counted.
    pub per_stream_of_many: f64,
}

/// Starts `program` before a fresh echo server and fills it, in the end with `streams` sessions and streams.
pub async fn measure(echo: &Program, program: &Program, streams: usize) -> io::Result<Memory> {
    eprintln!("memory: {}", program.name);
    let echo = echo.start(SocketAddr::from(([127, 0, 0, 1], 0))).await?;
    let running = program.start(echo.address).await?;
    let memory = fill(&running, streams).await.map_err(|error| running.blame(&error))?;
    running.stop().await?;
    echo.stop().await?;
    Ok(memory)
}

async fn fill(running: &Running, streams: usize) -> io::Result<Memory> {
    let idle = resident(running).await?;

    let warm_up = Session::open(running.target()).await?;
    let mut caller = warm_up.caller(Shape { bytes: 1024, sse: false });
    for _ in 0..WARM_UP {
        caller.call().await?;
    }
    let mut ids = open_sessions(running, WARM_UP).await?;
    let warm = resident(running).await?;
    ids.extend(open_sessions(running, FEW).await?);
    let with_sessions = resident(running).await?;

    let mut open = Vec::new();
    for id in &ids[..FEW] {
        open.push(Session::stream(running.target(), id).await?);
    }
    let with_few = resident(running).await?;

    ids.extend(open_sessions(running, streams.saturating_sub(ids.len())).await?);
    let with_more_sessions = resident(running).await?;
    for id in &ids[FEW..streams] {
        open.push(Session::stream(running.target(), id).await?);
    }
    let with_many = resident(running).await?;
    for stream in &open {
        still_open(stream)?;
    }
    Ok(Memory {
        idle,
        with_sessions,
        per_session: (with_sessions - warm) / FEW as f64,
        per_stream: (with_few - with_sessions) / FEW as f64,
        per_stream_of_many: (with_few - with_sessions + with_many - with_more_sessions) / streams as f64,
    })
}

/// Opens `number` sessions, one after the other on one connection, and returns their ids.
async fn open_sessions(running: &Running, number: usize) -> io::Result<Vec<String>> {
    let mut ids = Vec::with_capacity(number);
    let mut session = Session::open(running.target()).await?;
    for _ in 0..number {
        let (id, next) = session.another().await?;
        ids.push(id);
        session = next;
    }
    Ok(ids)
}

/// Reads what came; a stream that was closed meanwhile would make the memory per stream look small.
fn still_open(stream: &TcpStream) -> io::Result<()> {
    let mut events = [0; 1024];
    loop {
        match stream.try_read(&mut events) {
            Ok(0) => return Err(io::Error::other("an open stream was closed")),
            Ok(_) => {}
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(()),
            Err(error) => return Err(error),
        }
    }
}

async fn resident(running: &Running) -> io::Result<f64> {
    Ok(running.resident().await? as f64)
}
