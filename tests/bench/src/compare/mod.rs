//! One run: starts echo, nginx, the hop and the candidate, measures them in turns, and holds the result to the bars.
//! `rounds` measures what needs load, `memory` what needs numbers of sessions and streams, `report` prints and judges.

mod memory;
mod report;
mod rounds;

use std::io;
use std::process::ExitCode;
use std::time::Duration;

use argh::FromArgs;

use crate::authd;
use crate::nginx;
use crate::process::{Program, Running};
use crate::serve::raise_open_files;

/// compare mcp-sessiond, or another of the daemons, with a bare hyper hop and nginx in front of one echo server
#[derive(FromArgs)]
#[argh(subcommand, name = "compare")]
pub struct Options {
    /// command that is compared with the hop; {listen}, {upstream}, {dir} and {bin} are filled in
    #[argh(option)]
    candidate: Option<String>,
    /// compare serena-supervise's copy path instead of mcp-sessiond, with bars of its own
    #[argh(switch)]
    copy: bool,
    /// compare mcp-authd with 10,000 tokens and an audit instead of mcp-sessiond, with bars of its own
    #[argh(switch)]
    authd: bool,
    /// compare the hop with itself: how far the ratios are from 1 is the noise of this machine
    #[argh(switch)]
    noise: bool,
    /// a smoke run of less than a minute; its numbers mean little
    #[argh(switch)]
    quick: bool,
    /// rounds of throughput (default 5)
    #[argh(option, default = "5")]
    rounds: usize,
    /// seconds of each measurement of throughput (default 0.6)
    #[argh(option, default = "0.6")]
    seconds: f64,
    /// interleaved pairs of latency, and starts (default 10)
    #[argh(option, default = "10")]
    pairs: usize,
    /// seconds of each measurement of latency (default 4)
    #[argh(option, default = "4")]
    latency_seconds: u64,
    /// measure only throughput, latency, memory or start; may be repeated
    #[argh(option)]
    only: Vec<String>,
}

/// What a run measures, after `--quick` had its say.
struct Plan {
    rounds: usize,
    span: Duration,
    pairs: usize,
    latency_span: Duration,
    /// How many streams are open at the second step.
    streams: usize,
    /// Whether a bar missed is an error: a smoke run only shows that everything works.
    binding: bool,
}

/// Everything under load, in the order of the tables' columns: direct, nginx, hop, candidate.
const DIRECT: usize = 0;
const NGINX: usize = 1;
const HOP: usize = 2;
const CANDIDATE: usize = 3;
type Contest = [Running; 4];

const SESSIOND: &str =
    "{bin}/mcp-sessiond --listen {listen} --upstream http://{upstream}/mcp --state-dir {dir}/state";
const COPY: &str = "{bin}/bench copy --listen {listen} --upstream {upstream}";

/// Measures and prints; 0 when every bar holds, 1 when one does not, 75 when the hop was too slow to say.
pub async fn run(options: &Options) -> io::Result<ExitCode> {
    if let Some(other) = options
        .only
        .iter()
        .find(|only| !["throughput", "latency", "memory", "start"].contains(&only.as_str()))
    {
        return Err(io::Error::other(format!(
            "--only: {other:?} is not one of throughput, latency, memory, start"
        )));
    }
    let wanted = |what: &str| options.only.is_empty() || options.only.iter().any(|only| only == what);
    let plan = plan(options);
    let open_files = raise_open_files()?;
    let programs = programs(options)?;
    let mut echo = Program::own("direct", "echo --listen {listen}");
    if options.authd {
        // All of them get the same requests.
        echo.token = Some(authd::TOKEN);
    }
    let bars = match (options.copy, options.authd) {
        (true, true) => return Err(io::Error::other("--copy and --authd exclude each other")),
        (true, false) => &report::COPY,
        (false, true) => &report::AUTHD,
        (false, false) => &report::SESSIOND,
    };
    let mut report = report::Report::new(programs[2].name, bars);

    if wanted("throughput") || wanted("latency") {
        let contest = start_all(&echo, &programs).await?;
        if wanted("throughput") {
            let cells = rounds::throughput(&contest, &plan).await?;
            report.throughput(&cells);
            report.cpu(&cells);
        }
        if wanted("latency") {
            report.latency(&rounds::latency(&contest, &plan).await?);
        }
        for running in contest {
            running.stop().await?;
        }
    }
    if wanted("start") {
        report.start(&rounds::start(&echo, &programs, plan.pairs).await?);
    }
    if wanted("memory") {
        // A proxy holds two descriptors per stream, and some more.
        if open_files < 2 * plan.streams as u64 + 100 {
            return Err(io::Error::other(format!(
                "{} open streams need a hard limit of {} open files; here it is {open_files} (ulimit -Hn)",
                plan.streams,
                2 * plan.streams + 100
            )));
        }
        let mut rows = Vec::new();
        for program in &programs {
            rows.push((program.name, memory::measure(&echo, program, plan.streams).await?));
        }
        report.memory(&rows, plan.streams);
    }
    let code = report.verdict();
    Ok(if plan.binding { code } else { ExitCode::SUCCESS })
}

fn plan(options: &Options) -> Plan {
    if options.quick {
        return Plan {
            rounds: 1,
            span: Duration::from_millis(200),
            pairs: 1,
            latency_span: Duration::from_secs(1),
            streams: 2000,
            binding: false,
        };
    }
    Plan {
        rounds: options.rounds.max(1),
        span: Duration::from_secs_f64(options.seconds),
        pairs: options.pairs.max(1),
        latency_span: Duration::from_secs(options.latency_seconds.max(1)),
        streams: 8000,
        binding: true,
    }
}

/// nginx, the hop and the candidate.
fn programs(options: &Options) -> io::Result<[Program; 3]> {
    let hop = Program::own("hop", "hop --listen {listen} --upstream http://{upstream}/mcp");
    let candidate = if options.noise {
        Program { name: "hop again", ..hop.clone() }
    } else {
        let (name, command) = if options.copy { ("copy", COPY) } else { ("sessiond", SESSIOND) };
        let (command, files) = (command.to_owned(), Vec::new());
        let mut usual =
            if options.authd { authd::program() } else { Program { name, command, files, token: None } };
        usual.command = options.candidate.clone().unwrap_or(usual.command);
        usual
    };
    let mut programs = [nginx::program()?, hop, candidate];
    if options.authd {
        programs.iter_mut().for_each(|program| program.token = Some(authd::TOKEN));
    }
    Ok(programs)
}

async fn start_all(echo: &Program, [nginx, hop, candidate]: &[Program; 3]) -> io::Result<Contest> {
    let nowhere = std::net::SocketAddr::from(([127, 0, 0, 1], 0));
    let echo = echo.start(nowhere).await?;
    let behind = echo.address;
    Ok([echo, nginx.start(behind).await?, hop.start(behind).await?, candidate.start(behind).await?])
}
