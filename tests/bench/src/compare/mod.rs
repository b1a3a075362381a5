//! One run: starts echo, nginx, the hop and the candidate, measures them in turns, and holds the result to the bars.
//! `rounds` measures what needs load, `memory` what needs numbers of sessions and streams, `auth` what a credential costs,
//! `report` prints and judges.

mod auth;
mod memory;
mod report;
mod rounds;

use std::io;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::process::ExitCode;
use std::time::Duration;

use argh::FromArgs;

use crate::authd;
use crate::nginx;
use crate::process::{Program, Running};
use crate::serve::raise_open_files;
use crate::tls::Face;

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
    /// compare mcp-authd with nginx, both with TLS: throughput
    #[argh(switch)]
    tls: bool,
    /// compare mcp-authd before mcp-sessiond before serena-supervise's copy path with a single hop: throughput
    #[argh(switch)]
    chain: bool,
    /// measure what a credential costs mcp-authd, beside a request from nobody
    #[argh(switch)]
    auth: bool,
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

/// What is compared, one at a time.
#[derive(Clone, Copy, Eq, PartialEq)]
enum Mode {
    Auth,
    Authd,
    Chain,
    Copy,
    Sessiond,
    Tls,
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

/// What is behind the server itself.
const NOWHERE: SocketAddr = SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), 0);
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
    let mode = options.mode()?;
    let measured: &[&str] = match mode {
        Mode::Auth => &[],
        Mode::Chain | Mode::Tls => &["throughput"],
        Mode::Authd | Mode::Copy | Mode::Sessiond => &["throughput", "latency", "memory", "start"],
    };
    let wanted = |what: &str| {
        measured.contains(&what) && (options.only.is_empty() || options.only.iter().any(|only| only == what))
    };
    let plan = plan(options);
    let open_files = raise_open_files()?;
    let programs = programs(options, mode)?;
    let mut echo = Program::own("direct", "echo --listen {listen}");
    if has_tokens(mode) {
        // All of them get the same requests.
        echo.token = Some(authd::TOKEN);
    }
    let bars = match mode {
        Mode::Auth | Mode::Authd => &report::AUTHD,
        Mode::Chain => &report::CHAIN,
        Mode::Copy => &report::COPY,
        Mode::Sessiond => &report::SESSIOND,
        Mode::Tls => &report::TLS,
    };
    let mut report = report::Report::new(programs[1].name, programs[2].name, bars);

    if mode == Mode::Auth {
        let echo = echo.start(NOWHERE).await?;
        let running = programs[2].start(echo.address).await?;
        let cost = auth::measure(&running, plan.rounds).await.map_err(|error| running.blame(&error))?;
        report.auth(&cost);
        running.stop().await?;
        echo.stop().await?;
    }
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

impl Options {
    fn mode(&self) -> io::Result<Mode> {
        let chosen = [
            (self.auth, Mode::Auth),
            (self.authd, Mode::Authd),
            (self.chain, Mode::Chain),
            (self.copy, Mode::Copy),
            (self.tls, Mode::Tls),
        ];
        let mut chosen = chosen.into_iter().filter(|(is_chosen, _)| *is_chosen).map(|(_, mode)| mode);
        match (chosen.next(), chosen.next()) {
            (mode, None) => Ok(mode.unwrap_or(Mode::Sessiond)),
            _ => Err(io::Error::other("--auth, --authd, --chain, --copy and --tls exclude each other")),
        }
    }
}

fn has_tokens(mode: Mode) -> bool {
    match mode {
        Mode::Auth | Mode::Authd | Mode::Chain | Mode::Tls => true,
        Mode::Copy | Mode::Sessiond => false,
    }
}

/// nginx, the hop and the candidate; with TLS nginx without and with it, and the candidate.
fn programs(options: &Options, mode: Mode) -> io::Result<[Program; 3]> {
    let mut hop = Program::own("hop", "hop --listen {listen} --upstream http://{upstream}/mcp");
    let sessiond = || Program::new("sessiond", SESSIOND.to_owned());
    let copy = || Program::new("copy", COPY.to_owned());
    let mut candidate = match mode {
        _ if options.noise => Program { name: "hop again", ..hop.clone() },
        Mode::Auth => authd::answering(),
        Mode::Authd => authd::program(),
        Mode::Chain => Program { name: "chain", behind: vec![copy(), sessiond()], ..authd::program() },
        Mode::Copy => copy(),
        Mode::Sessiond => sessiond(),
        Mode::Tls => {
            let face = Face::new()?;
            hop = nginx::secure(&face)?;
            authd::secure(&face)
        }
    };
    candidate.command = options.candidate.clone().unwrap_or(candidate.command);
    let mut programs = [nginx::program()?, hop, candidate];
    if has_tokens(mode) {
        programs.iter_mut().for_each(|program| program.token = Some(authd::TOKEN));
    }
    Ok(programs)
}

async fn start_all(echo: &Program, [nginx, hop, candidate]: &[Program; 3]) -> io::Result<Contest> {
    let echo = echo.start(NOWHERE).await?;
    let behind = echo.address;
    Ok([echo, nginx.start(behind).await?, hop.start(behind).await?, candidate.start(behind).await?])
}
