//! The command line.

mod run;
#[cfg(test)]
mod tests;

use std::ffi::OsString;
use std::fmt;
use std::path::PathBuf;
use std::str::FromStr;

use argh::FromArgs;
use mcp_daemon::addr::{Listen, Route};
use mcp_daemon::args::{self, Early};
use mcp_daemon::config::Span;
use supervise::config::{Probe, SleepAfter};

pub use self::run::RunError;

/// What to type, for somebody who typed nothing.
const EXAMPLES: &str = "\
serena-supervise runs Serena and other servers: ready when it says so, asleep when idle, nothing left behind.

  serena-supervise up                                        Serena for the project in this directory, at 127.0.0.1:9121
  serena-supervise run --socket unix:/run/user/1000/s.sock -- serena start-mcp-server --transport streamable-http --port {port}
                                                             started by the first connection, asleep after 15 minutes without
  serena-supervise run --config serena-supervise.toml        several servers

  serena-supervise status                                    what runs, and what is wrong with it?
  serena-supervise logs serena --follow                      what does it print?
  serena-supervise wait serena --for ready --timeout 2m      wake | sleep | stop | restart serena
  serena-supervise check --config serena-supervise.toml      are these settings right?
  serena-supervise doctor                                    what works on this machine, and what was left behind?

All flags: serena-supervise --help, serena-supervise run --help
";

/// Runs servers, each as one owned process tree: started on the first connection, ready when it says so, put to sleep when
/// idle, and nothing of it left behind.
#[derive(FromArgs, Debug)]
#[argh(
    example = "serena-supervise up",
    example = "serena-supervise run --socket unix:/run/serena.sock -- serena start-mcp-server --transport streamable-http --port {{port}}",
    note = "Addresses: 127.0.0.1:9121, unix:/run/x.sock, fd:name (an inherited socket). Durations: 500ms, 30s, 15m. All settings: docs/serena-supervise.toml."
)]
pub struct Args {
    /// print the version
    #[argh(switch)]
    pub version: bool,
    #[argh(subcommand)]
    /// what to do
    pub command: Option<Command>,
}

/// What to do.
#[derive(FromArgs, Debug)]
#[argh(subcommand)]
pub enum Command {
    Check(Check),
    Doctor(Doctor),
    Logs(Logs),
    Restart(Restart),
    Run(Run),
    Sleep(Sleep),
    Status(Status),
    Stop(Stop),
    Up(Up),
    Wait(Wait),
    Wake(Wake),
}

/// Run one server, the command after `--`, or those of a file.
#[derive(FromArgs, Debug, Default)]
#[argh(
    subcommand,
    name = "run",
    note = "In the command {{port}}, {{home}}, {{name}}, {{socket}} and {{fd}} are replaced at each start."
)]
pub struct Run {
    /// settings, a TOML file; instead of a command
    #[argh(option, arg_name = "file")]
    pub config: Option<PathBuf>,
    /// where clients connect; the first connection starts the server
    #[argh(option, arg_name = "address")]
    pub socket: Option<Listen>,
    /// its SERENA_HOME, made if missing
    #[argh(option, arg_name = "dir")]
    pub home: Option<PathBuf>,
    /// its name (default: that of the program)
    #[argh(option, arg_name = "name")]
    pub name: Option<Route>,
    /// without a connection for this long it sleeps, or never (default: 15m)
    #[argh(option, arg_name = "span")]
    pub sleep_after: Option<SleepAfter>,
    /// how readiness is seen: mcp, mcp:/path, http:/path, tcp, fd, notify or none (default: mcp)
    #[argh(option, arg_name = "probe")]
    pub probe: Option<Probe>,
    /// address for GET /ready and GET /metrics alone
    #[argh(option, arg_name = "address")]
    pub observe: Option<Listen>,
    /// file descriptor to write a newline to once ready
    #[argh(option, arg_name = "fd")]
    pub ready_fd: Option<i32>,
}

/// Serve Serena for a project, with sessions that survive. More of Serena's flags go after `--`.
#[derive(FromArgs, Debug, Default)]
#[argh(subcommand, name = "up")]
pub struct Up {
    /// project directory (default: this one)
    #[argh(option, arg_name = "dir")]
    pub project: Option<PathBuf>,
    /// address to serve on (default: 127.0.0.1:9121, or the next free port)
    #[argh(option, arg_name = "address")]
    pub listen: Option<Listen>,
    /// its SERENA_HOME, made if missing; another project at the same time needs its own (default: $SERENA_HOME or ~/.serena)
    #[argh(option, arg_name = "dir")]
    pub home: Option<PathBuf>,
    /// file descriptor to write a newline to once ready
    #[argh(option, arg_name = "fd")]
    pub ready_fd: Option<i32>,
}

/// Say what runs, and what is wrong.
#[derive(FromArgs, Debug)]
#[argh(subcommand, name = "status")]
pub struct Status {
    /// print JSON
    #[argh(switch)]
    pub json: bool,
    /// control socket (default: that of this user's supervisor)
    #[argh(option, arg_name = "socket")]
    pub control: Option<PathBuf>,
}

/// Wait until an instance is ready or stopped.
#[derive(FromArgs, Debug)]
#[argh(subcommand, name = "wait")]
pub struct Wait {
    /// its name
    #[argh(positional)]
    pub name: Route,
    /// ready or stopped (default: ready)
    #[argh(option, long = "for", arg_name = "state", default = "Goal::Ready")]
    pub goal: Goal,
    /// how long (default: 5m)
    #[argh(option, arg_name = "span", default = "Span::seconds(300)")]
    pub timeout: Span,
    /// control socket (default: that of this user's supervisor)
    #[argh(option, arg_name = "socket")]
    pub control: Option<PathBuf>,
}

/// What [`Wait`] waits for.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Goal {
    /// It serves.
    Ready,
    /// No process of it is left.
    Stopped,
}

impl FromStr for Goal {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text {
            "ready" => Ok(Goal::Ready),
            "stopped" => Ok(Goal::Stopped),
            _ => Err(format!("`{text}` is not a state to wait for; write ready or stopped")),
        }
    }
}

impl fmt::Display for Goal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Goal::Ready => "ready",
            Goal::Stopped => "stopped",
        })
    }
}

/// Start an instance.
#[derive(FromArgs, Debug)]
#[argh(subcommand, name = "wake")]
pub struct Wake {
    /// its name
    #[argh(positional)]
    pub name: Route,
    /// control socket (default: that of this user's supervisor)
    #[argh(option, arg_name = "socket")]
    pub control: Option<PathBuf>,
}

/// Put an instance to sleep; the next connection wakes it.
#[derive(FromArgs, Debug)]
#[argh(subcommand, name = "sleep")]
pub struct Sleep {
    /// its name
    #[argh(positional)]
    pub name: Route,
    /// control socket (default: that of this user's supervisor)
    #[argh(option, arg_name = "socket")]
    pub control: Option<PathBuf>,
}

/// Stop an instance until it is woken by `wake`.
#[derive(FromArgs, Debug)]
#[argh(subcommand, name = "stop")]
pub struct Stop {
    /// its name
    #[argh(positional)]
    pub name: Route,
    /// control socket (default: that of this user's supervisor)
    #[argh(option, arg_name = "socket")]
    pub control: Option<PathBuf>,
}

/// Stop an instance and start it again.
#[derive(FromArgs, Debug)]
#[argh(subcommand, name = "restart")]
pub struct Restart {
    /// its name
    #[argh(positional)]
    pub name: Route,
    /// control socket (default: that of this user's supervisor)
    #[argh(option, arg_name = "socket")]
    pub control: Option<PathBuf>,
}

/// Show what an instance, or every one, printed last.
#[derive(FromArgs, Debug)]
#[argh(subcommand, name = "logs")]
pub struct Logs {
    /// its name (default: all)
    #[argh(positional)]
    pub name: Option<Route>,
    /// go on with what it prints from now on
    #[argh(switch, short = 'f')]
    pub follow: bool,
    /// how many lines of each (default: 50)
    #[argh(option, short = 'n', arg_name = "count", default = "50")]
    pub lines: usize,
    /// control socket (default: that of this user's supervisor)
    #[argh(option, arg_name = "socket")]
    pub control: Option<PathBuf>,
}

/// Say whether settings are right, without starting anything.
#[derive(FromArgs, Debug)]
#[argh(subcommand, name = "check")]
pub struct Check {
    /// settings, a TOML file
    #[argh(option, arg_name = "file")]
    pub config: PathBuf,
}

/// Say what works on this machine: how processes are killed here, which homes are locked, what was left behind, whether
/// commands are found, and what the running supervisor says of its servers.
#[derive(FromArgs, Debug)]
#[argh(subcommand, name = "doctor")]
pub struct Doctor {
    /// settings, a TOML file
    #[argh(option, arg_name = "file")]
    pub config: Option<PathBuf>,
    /// control socket (default: that of this user's supervisor)
    #[argh(option, arg_name = "socket")]
    pub control: Option<PathBuf>,
}

/// Reads our own part of the command line; `has_command` if one follows `--`.
pub fn parse(own: &[OsString], has_command: bool) -> Result<Command, Early> {
    if own.len() < 2 && !has_command {
        return Err(Early::Help(EXAMPLES.into()));
    }
    let args: Args = args::parse("serena-supervise", own)?;
    if args.version {
        return Err(Early::Help(format!("serena-supervise {}\n", env!("CARGO_PKG_VERSION"))));
    }
    let usage = |line: &str| Early::Usage(line.to_owned());
    let command = args.command.ok_or_else(|| {
        usage("what to do is missing; write run, up, status or another; see serena-supervise --help")
    })?;
    let takes_command = matches!(command, Command::Run(_) | Command::Up(_));
    if has_command && !takes_command {
        return Err(usage("nothing can follow `--` here; it belongs to run and up"));
    }
    Ok(command)
}
