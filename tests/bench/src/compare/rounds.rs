//! What needs load: throughput, CPU, latency and starts, in rounds in which the hop and the candidate take turns.
//! Every second pair swaps the two, so that a machine that warms up or slows down favours neither.

use std::io;
use std::net::SocketAddr;

use super::{CANDIDATE, Contest, DIRECT, HOP, NGINX, Plan};
use crate::echo;
use crate::load::{Shape, Throughput, closed_loop, open_loop};
use crate::process::Program;
use crate::stats::percentile;

/// Sessions of the closed loop, each with a connection of its own.
const SESSIONS: [usize; 3] = [1, 8, 64];
/// Calls per second of the open loop.
const RATE: u32 = 200;

/// One row of the throughput table, with two measurements per round of the hop and of the candidate.
pub struct Cell {
    /// What the calls ask for.
    pub shape: Shape,
    /// How many sessions call at once.
    pub sessions: usize,
    /// By column, then in the order of measurement.
    pub rounds: [Vec<Throughput>; 4],
}

/// Percentiles of total latency in microseconds, one of each per pair.
#[derive(Default)]
pub struct Latency {
    /// Medians.
    pub p50: Vec<f64>,
    /// 99th percentiles.
    pub p99: Vec<f64>,
}

/// Measures requests per second and CPU per call for every shape and number of sessions.
pub async fn throughput(contest: &Contest, plan: &Plan) -> io::Result<Vec<Cell>> {
    let shapes = [false, true].into_iter().flat_map(|sse| echo::SIZES.map(|bytes| Shape { bytes, sse }));
    let mut cells: Vec<Cell> = shapes
        .flat_map(|shape| SESSIONS.map(|sessions| Cell { shape, sessions, rounds: Default::default() }))
        .collect();
    for round in 0..plan.rounds {
        eprintln!("throughput: round {} of {}", round + 1, plan.rounds);
        for cell in &mut cells {
            // Two pairs a round: many short ones say more than a few long ones where others use the machine too.
            for column in [DIRECT, NGINX, HOP, CANDIDATE, CANDIDATE, HOP] {
                let running = &contest[column];
                let cpu = || running.cpu();
                let found = closed_loop(running.target(), cell.sessions, cell.shape, plan.span, cpu)
                    .await
                    .map_err(|error| running.blame(&error))?;
                cell.rounds[column].push(found);
            }
        }
    }
    Ok(cells)
}

/// Measures latency at a fixed rate of 1 KiB JSON answers, by column.
pub async fn latency(contest: &Contest, plan: &Plan) -> io::Result<[Latency; 4]> {
    let shape = Shape { bytes: echo::SIZES[0], sse: false };
    let mut columns: [Latency; 4] = Default::default();
    for pair in 0..plan.pairs {
        eprintln!("latency: pair {} of {}", pair + 1, plan.pairs);
        for column in turns(pair) {
            let running = &contest[column];
            let took = open_loop(running.target(), shape, RATE, plan.latency_span)
                .await
                .map_err(|error| running.blame(&error))?;
            columns[column].p50.push(percentile(&took, 0.5));
            columns[column].p99.push(percentile(&took, 0.99));
        }
    }
    Ok(columns)
}

/// Measures the time from the fork to the first accepted connection, in milliseconds, by program.
pub async fn start(
    echo: &Program,
    programs: &[Program; 3],
    starts: usize,
) -> io::Result<Vec<(&'static str, Vec<f64>)>> {
    eprintln!("start: {starts} of each");
    let echo = echo.start(SocketAddr::from(([127, 0, 0, 1], 0))).await?;
    let mut rows = programs.each_ref().map(|program| (program.name, Vec::new()));
    for _ in 0..starts {
        for (program, (_, took)) in programs.iter().zip(&mut rows) {
            let running = program.start(echo.address).await?;
            took.push(running.listening_after.as_secs_f64() * 1e3);
            running.stop().await?;
        }
    }
    echo.stop().await?;
    Ok(rows.into())
}

fn turns(round: usize) -> [usize; 4] {
    if round.is_multiple_of(2) { [DIRECT, NGINX, HOP, CANDIDATE] } else { [DIRECT, NGINX, CANDIDATE, HOP] }
}
