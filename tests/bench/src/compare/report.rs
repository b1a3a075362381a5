//! The tables, and the bars that the medians are held to.

use std::process::ExitCode;

use super::auth::Cost;
use super::memory::Memory;
use super::rounds::{Cell, Latency};
use super::{CANDIDATE, DIRECT, HOP, NGINX};
use crate::stats::{Ratio, median};

/// What the candidate is held to; what is infinite, or 0 where it is the least, is not judged.
pub struct Bars {
    /// Throughput at 8 and 64 sessions, as a share of the hop's: at least this.
    throughput: f64,
    /// CPU per call at 8 and 64 sessions, as a multiple of the hop's: at most this.
    cpu: f64,
    /// Total latency at 200 calls a second, p50 and p99, as a multiple of the hop's: at most this.
    latency: [f64; 2],
    /// Resident memory before the first request, in bytes: below this.
    idle: f64,
    /// Memory per idle session, in KiB: at most this.
    session: f64,
    /// Memory per open stream, in KiB: at most this.
    stream: f64,
    /// From the fork to the first accepted connection, in milliseconds: at most this.
    start: f64,
    /// A yardstick below this share of nginx' throughput was not measured fairly, and nothing compared with it counts.
    void: f64,
}

const UNJUDGED: Bars = Bars {
    throughput: 0.0,
    cpu: f64::INFINITY,
    latency: [f64::INFINITY; 2],
    idle: f64::INFINITY,
    session: f64::INFINITY,
    stream: f64::INFINITY,
    start: f64::INFINITY,
    void: 0.8,
};

/// For mcp-sessiond, which does a great deal more than the hop.
pub const SESSIOND: Bars = Bars {
    throughput: 0.9,
    cpu: 1.25,
    latency: [1.3, 2.0],
    idle: 8e6,
    session: 4.0,
    stream: 32.0,
    start: 20.0,
    ..UNJUDGED
};

/// For mcp-authd, with 10,000 tokens and an audit.
pub const AUTHD: Bars = Bars {
    throughput: 0.85,
    cpu: 1.35,
    latency: [1.3, 2.0],
    idle: 10e6,
    // It knows no sessions; what an allocator keeps of a connection that has ended is less than this.
    session: 1.0,
    stream: 32.0,
    // It reads its tokens first.
    start: 60.0,
    ..UNJUDGED
};

/// For mcp-authd beside nginx, both with TLS.
pub const TLS: Bars = Bars {
    throughput: 0.9,
    // The yardstick is nginx itself, and what TLS costs it is no sign of a bad measurement.
    void: 0.0,
    ..UNJUDGED
};

/// For the whole chain beside a single hop.
pub const CHAIN: Bars = Bars { throughput: 0.4, ..UNJUDGED };

/// What a credential may cost mcp-authd in microseconds of CPU: a static token, and a JWT but for its signature.
const CREDENTIALS: [f64; 2] = [20.0, 40.0];

/// For serena-supervise's copy path, which reads nothing of what it passes on.
pub const COPY: Bars = Bars {
    throughput: 1.0,
    cpu: 1.0,
    latency: [1.0, 2.0],
    idle: 6e6,
    // It knows no sessions; what an allocator keeps of a connection that has ended is less than this.
    session: 1.0,
    stream: 8.0,
    start: 20.0,
    ..UNJUDGED
};

/// Prints each table when it is complete, and remembers how the bars were met.
pub struct Report {
    yardstick: &'static str,
    candidate: &'static str,
    bars: &'static Bars,
    failed: Vec<String>,
    void: Vec<String>,
    passed: usize,
}

impl Report {
    /// An empty report on `candidate` beside `yardstick`.
    pub fn new(yardstick: &'static str, candidate: &'static str, bars: &'static Bars) -> Self {
        Self { yardstick, candidate, bars, failed: Vec::new(), void: Vec::new(), passed: 0 }
    }

    /// Prints requests per second.
    pub fn throughput(&mut self, cells: &[Cell]) {
        let name = self.candidate;
        println!(
            "\nthroughput, calls/s: medians of {} rounds, {} pairs",
            cells[0].rounds[DIRECT].len(),
            cells[0].rounds[HOP].len()
        );
        println!(
            "{:12}{:>5}{:>10}{:>10}{:>10}{:>10}  {:22}{}/nginx",
            "answer",
            "N",
            "direct",
            "nginx",
            self.yardstick,
            name,
            format!("{name}/{}", self.yardstick),
            self.yardstick
        );
        for cell in cells {
            let rates =
                cell.rounds.each_ref().map(|rounds| rounds.iter().map(|at| at.rate).collect::<Vec<_>>());
            let ratio = Ratio::of(&rates[CANDIDATE], &rates[HOP]);
            let yardstick = median(&rates[HOP]) / median(&rates[NGINX]);
            let word = match cell.sessions {
                1 => "",
                _ if yardstick < self.bars.void => {
                    self.void.push(format!("throughput, {}", label(cell)));
                    "void"
                }
                _ => self.judge(
                    &format!("throughput, {}", label(cell)),
                    ratio.median,
                    self.bars.throughput,
                    true,
                ),
            };
            let [direct, nginx, hop, candidate] = rates.each_ref().map(|rates| median(rates));
            println!(
                "{:17}{direct:>10.0}{nginx:>10.0}{hop:>10.0}{candidate:>10.0}  {}  {:.2}  {word}",
                label(cell),
                spread(ratio),
                yardstick
            );
        }
    }

    /// Prints CPU time per call, which in microseconds is a hundredth of CPU seconds per 10,000 calls.
    pub fn cpu(&mut self, cells: &[Cell]) {
        let name = self.candidate;
        println!("\nCPU of the process, s per 10,000 calls (x 100 = microseconds per call)");
        println!(
            "{:12}{:>5}{:>10}{:>10}{:>10}{:>10}  {name}/{}",
            "answer", "N", "echo", "nginx", self.yardstick, name, self.yardstick
        );
        for cell in cells {
            let used = cell
                .rounds
                .each_ref()
                .map(|rounds| rounds.iter().map(|at| at.cpu_micros).collect::<Vec<_>>());
            let ratio = Ratio::of(&used[CANDIDATE], &used[HOP]);
            let word = match cell.sessions {
                1 => "",
                _ => self.judge(&format!("CPU, {}", label(cell)), ratio.median, self.bars.cpu, false),
            };
            let [direct, nginx, hop, candidate] = used.each_ref().map(|used| median(used) / 100.0);
            println!(
                "{:17}{direct:>10.4}{nginx:>10.4}{hop:>10.4}{candidate:>10.4}  {}  {word}",
                label(cell),
                spread(ratio)
            );
        }
    }

    /// Prints latency at the fixed rate.
    pub fn latency(&mut self, columns: &[Latency; 4]) {
        let name = self.candidate;
        let pairs = columns[HOP].p50.len();
        println!("\nlatency at 200 calls/s, 1 KiB JSON, microseconds: medians of {pairs} interleaved pairs");
        println!("{:12}{:>10}{:>10}{:>10}{:>10}  {name}/hop", "", "direct", "nginx", "hop", name);
        let p50 = columns.each_ref().map(|column| column.p50.as_slice());
        let p99 = columns.each_ref().map(|column| column.p99.as_slice());
        for (what, values, limit) in [("p50", p50, self.bars.latency[0]), ("p99", p99, self.bars.latency[1])]
        {
            let ratio = Ratio::of(values[CANDIDATE], values[HOP]);
            let word = self.judge(&format!("latency {what}"), ratio.median, limit, false);
            let [direct, nginx, hop, candidate] = values.map(median);
            println!(
                "{:12}{direct:>10.0}{nginx:>10.0}{hop:>10.0}{candidate:>10.0}  {}  {word}",
                format!("{what} total"),
                spread(ratio)
            );
            let added = values.map(|column| {
                let added: Vec<f64> =
                    column.iter().zip(values[DIRECT]).map(|(total, direct)| total - direct).collect();
                median(&added)
            });
            println!(
                "{:12}{:>10}{:>10.0}{:>10.0}{:>10.0}",
                format!("{what} added"),
                "",
                added[NGINX],
                added[HOP],
                added[CANDIDATE]
            );
        }
    }

    /// Prints how long each program took to listen.
    pub fn start(&mut self, rows: &[(&'static str, Vec<f64>)]) {
        println!("\nfrom fork to listening, ms: medians of {} starts", rows[0].1.len());
        for (name, took) in rows {
            let took = median(took);
            let word =
                if *name == self.candidate { self.judge("start", took, self.bars.start, false) } else { "" };
            println!("{name:12}{took:>10.1}  {word}");
        }
    }

    /// Prints memory; `streams` is the larger number of streams.
    pub fn memory(&mut self, rows: &[(&'static str, Memory)], streams: usize) {
        println!("\nresident memory");
        println!(
            "{:12}{:>10}{:>20}{:>16}{:>22}{:>22}",
            "",
            "idle, MB",
            "1,000 sessions, MB",
            "KiB/session",
            "KiB/stream of 1,000",
            format!("KiB/stream of {streams}")
        );
        for (name, memory) in rows {
            let [session, stream, many] = [memory.per_session, memory.per_stream, memory.per_stream_of_many]
                .map(|bytes| bytes / 1024.0);
            let words = if *name == self.candidate {
                [
                    self.judge("idle memory", memory.idle, self.bars.idle, false),
                    self.judge("memory per session", session, self.bars.session, false),
                    self.judge("memory per stream of 1,000", stream, self.bars.stream, false),
                    self.judge(&format!("memory per stream of {streams}"), many, self.bars.stream, false),
                ]
                .join(" ")
            } else {
                String::new()
            };
            println!(
                "{name:12}{:>10.2}{:>20.2}{session:>16.2}{stream:>22.1}{many:>22.1}  {words}",
                memory.idle / 1e6,
                memory.with_sessions / 1e6
            );
        }
    }

    /// Prints what a credential costs.
    pub fn auth(&mut self, cost: &Cost) {
        println!("\nauthentication, microseconds of CPU a call: medians of {} rounds", cost.nobody.len());
        let nobody = median(&cost.nobody);
        println!("{:24}{nobody:>10.1}", "nobody");
        let [token, jwt] = CREDENTIALS;
        for (what, found, bar) in [
            ("a static token", &cost.token, token),
            ("a JWT seen before", &cost.jwt, jwt),
            ("a new JWT (HS256)", &cost.new_jwt, jwt),
        ] {
            let alone: Vec<f64> = found.iter().zip(&cost.nobody).map(|(one, nobody)| one - nobody).collect();
            let word = self.judge(what, median(&alone), bar, false);
            println!("{what:24}{:>10.1}  alone {:>6.1}  {word}", median(found), median(&alone));
        }
    }

    /// Prints the verdict; the exit code of a run whose bars bind.
    pub fn verdict(&self) -> ExitCode {
        println!("\n{} bars hold, {} do not, {} void", self.passed, self.failed.len(), self.void.len());
        for failed in &self.failed {
            println!("FAIL  {failed}");
        }
        for void in &self.void {
            println!("void  {void}: the {} is below {} of nginx", self.yardstick, self.bars.void);
        }
        match (self.failed.is_empty(), self.void.is_empty()) {
            (true, true) => ExitCode::SUCCESS,
            (false, _) => ExitCode::from(1),
            // Nothing failed, but not everything was judged: try again.
            (true, false) => ExitCode::from(75),
        }
    }

    fn judge(&mut self, what: &str, found: f64, limit: f64, at_least: bool) -> &'static str {
        if limit == if at_least { 0.0 } else { f64::INFINITY } {
            return "";
        }
        // Written so that NaN, which nothing was measured for, fails.
        let holds = if at_least { found >= limit } else { found <= limit };
        if holds {
            self.passed += 1;
            return "PASS";
        }
        let expected = if at_least { "at least" } else { "at most" };
        self.failed.push(format!("{what}: {found:.2}, expected {expected} {limit:.2}"));
        "FAIL"
    }
}

fn label(cell: &Cell) -> String {
    let form = if cell.shape.sse { "SSE" } else { "JSON" };
    format!("{:>2} KiB {form:5}{:>6}", cell.shape.bytes / 1024, cell.sessions)
}

fn spread(ratio: Ratio) -> String {
    format!("{:.2} [{:.2} .. {:.2}]", ratio.median, ratio.least, ratio.most)
}
