//! `fake-backend`: a server process that misbehaves on command, for those who supervise processes.

use std::{error::Error, path::PathBuf, process::ExitCode, time::Duration};

use argh::FromArgs;
use support::{Children, FakeBackend, Faults, be_child, run_fake_backend};

/// A server process that misbehaves on command. Spans are written 500ms or 2s.
#[derive(FromArgs)]
struct Arguments {
    /// loopback port to listen on; 0 is any, and the default
    #[argh(option, default = "0")]
    port: u16,
    /// journal: one JSON line for each start, request, signal and exit; needed
    #[argh(option)]
    log: PathBuf,
    /// only so many starts misbehave; all by default
    #[argh(option)]
    misbehave_first: Option<usize>,
    /// unix socket that is asked before it goes on
    #[argh(option)]
    gate: Option<PathBuf>,
    /// say READY=1 to $NOTIFY_SOCKET
    #[argh(switch)]
    notify: bool,
    /// write a newline to this descriptor when it listens
    #[argh(option)]
    ready_fd: Option<i32>,
    /// what a dashboard like Serena's says at each poll: starting, ready, failed, garbage, hang; comma-separated
    #[argh(option, default = "String::new()")]
    dashboard: String,
    /// the port that the log claims to be the dashboard's
    #[argh(option)]
    dashboard_says: Option<u16>,
    /// serve plain HTTP instead of MCP; what /health says at each poll: starting, ready, hang
    #[argh(option, default = "String::new()")]
    plain: String,
    /// on SIGTERM wait for calls and streams
    #[argh(switch)]
    graceful: bool,
    /// exit at once with this code
    #[argh(option)]
    exit: Option<i32>,
    /// exit with 1 so long after it listens
    #[argh(option, from_str_fn(span))]
    crash_after: Option<Duration>,
    /// accept and never answer
    #[argh(switch)]
    hang: bool,
    /// listen so long after the start
    #[argh(option, from_str_fn(span), default = "Duration::ZERO")]
    slow_start: Duration,
    /// run and never listen
    #[argh(switch)]
    never_listen: bool,
    /// compute for so long once it listens
    #[argh(option, from_str_fn(span))]
    busy: Option<Duration>,
    /// survive SIGTERM
    #[argh(switch)]
    ignore_term: bool,
    /// survive SIGINT
    #[argh(switch)]
    ignore_int: bool,
    /// write so many bytes of short lines to stdout
    #[argh(option, default = "0")]
    flood: u64,
    /// write a line of so many bytes to stderr
    #[argh(option, default = "0")]
    long_line: u64,
    /// keep so many bytes in use
    #[argh(option, default = "0")]
    eat: usize,
    /// start so many children
    #[argh(option, default = "0")]
    children: usize,
    /// children: lose their parent at once
    #[argh(switch)]
    double_fork: bool,
    /// children: each in a session of its own
    #[argh(switch)]
    setsid: bool,
    /// children: survive SIGTERM, SIGINT, SIGHUP
    #[argh(switch)]
    children_ignore_term: bool,
    /// children: have no environment
    #[argh(switch)]
    children_clear_environment: bool,
    /// children: keep stdout and stderr open
    #[argh(switch)]
    leave_on_pipe: bool,
    /// children: each starts its successor and ends, again and again
    #[argh(switch)]
    storm: bool,
}

fn main() -> ExitCode {
    let outcome = match std::env::args_os().nth(1) {
        Some(first) if first == "--sleep-as-child" => {
            be_child(&std::env::args_os().skip(2).collect::<Vec<_>>()).map_err(Into::into)
        }
        _ => run(argh::from_env()),
    };
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("fake-backend: {error}");
            ExitCode::FAILURE
        }
    }
}

#[tokio::main(flavor = "current_thread")]
async fn run(arguments: Arguments) -> Result<(), Box<dyn Error>> {
    let words = |text: &str| text.split(',').filter(|word| !word.is_empty()).map(str::to_owned).collect();
    let children = Children {
        count: arguments.children,
        double_fork: arguments.double_fork,
        setsid: arguments.setsid,
        ignore_term: arguments.children_ignore_term,
        clear_environment: arguments.children_clear_environment,
        on_pipe: arguments.leave_on_pipe,
        storm: arguments.storm.then_some(Children::STORM),
    };
    let faults = Faults {
        exit: arguments.exit,
        crash_after: arguments.crash_after,
        hang: arguments.hang,
        slow_start: arguments.slow_start,
        never_listen: arguments.never_listen,
        busy: arguments.busy,
        ignore_term: arguments.ignore_term,
        ignore_int: arguments.ignore_int,
        flood: arguments.flood,
        long_line: arguments.long_line,
        eat: arguments.eat,
        children,
    };
    let fake = FakeBackend {
        port: arguments.port,
        log: arguments.log,
        misbehave_first: arguments.misbehave_first,
        gate: arguments.gate,
        notify: arguments.notify,
        ready_fd: arguments.ready_fd,
        dashboard: words(&arguments.dashboard),
        dashboard_says: arguments.dashboard_says,
        plain: words(&arguments.plain),
        graceful: arguments.graceful,
        faults,
    };
    run_fake_backend(fake).await
}

fn span(text: &str) -> Result<Duration, String> {
    let wrong = |_| format!("`{text}` is not a span; write 500ms or 2s");
    match text.strip_suffix("ms") {
        Some(milliseconds) => milliseconds.parse().map(Duration::from_millis).map_err(wrong),
        None => text.trim_end_matches('s').parse().map(Duration::from_secs).map_err(wrong),
    }
}
