//! The command line.

use std::ffi::OsString;
use std::path::PathBuf;

use argh::FromArgs;
use authd::config::DAEMON;
use mcp_daemon::addr::{Listen, Upstream};
use mcp_daemon::args::{self, Early};

/// What to type, for somebody who typed nothing.
const EXAMPLES: &str = "\
mcp-authd lets the right people to the right MCP server: tokens, JWT, TLS, one isolated instance per token.

  mcp-authd token new alice --tokens tokens.toml                               make a token, print it once, keep its hash
  mcp-authd serve --tokens tokens.toml --upstream http://127.0.0.1:9121/mcp    one server for everybody
  mcp-authd serve --tokens tokens.toml --upstream unix:/run/serena/{route}/mcp.sock
                                                                               an instance per token
  mcp-authd explain --tokens tokens.toml --token-file f                        who would this be, and where would it go?
  mcp-authd check --config mcp-authd.toml                                      are these settings right?
  mcp-authd status                                                             what is the running daemon doing?

All commands: mcp-authd --help
";

/// Tokens, JWT, TLS and routing in front of MCP servers: who is this, and where may they go.
#[derive(FromArgs, Debug)]
#[argh(
    example = "mcp-authd serve --tokens tokens.toml --upstream unix:/run/serena/{{route}}/mcp.sock",
    note = "Addresses: 127.0.0.1:9120, unix:/run/x.sock, fd:name (an inherited socket). More settings: --config FILE, see docs/operations.md."
)]
struct Args {
    /// print the version
    #[argh(switch)]
    version: bool,
    #[argh(subcommand)]
    /// what to do
    command: Option<Command>,
}

/// What to do.
#[derive(FromArgs, Debug)]
#[argh(subcommand)]
pub enum Command {
    Serve(Serve),
}

/// Serve: let in who has a good credential, and send them where they belong.
#[derive(FromArgs, Debug)]
#[argh(subcommand, name = "serve")]
pub struct Serve {
    #[argh(option, arg_name = "file")]
    /// settings, a TOML file
    pub config: Option<PathBuf>,
    #[argh(option, arg_name = "address")]
    /// address to serve MCP on (default: 127.0.0.1:9120); may be given several times
    pub listen: Vec<Listen>,
    #[argh(option, arg_name = "url")]
    /// where routes lead: unix:/run/serena/{{route}}/mcp.sock, http://host/mcp or https://host/mcp
    pub upstream: Option<Upstream>,
    #[argh(option, arg_name = "path")]
    /// static tokens: a TOML or JSON file, or a directory with one file per subject
    pub tokens: Option<PathBuf>,
    #[argh(option, arg_name = "address")]
    /// address for GET /ready and GET /metrics alone
    pub observe: Option<Listen>,
    #[argh(option, arg_name = "fd")]
    /// file descriptor to write a newline to once ready
    pub ready_fd: Option<i32>,
}

/// Reads the command line.
pub fn parse(words: &[OsString]) -> Result<Command, Early> {
    if words.len() < 2 {
        return Err(Early::Help(EXAMPLES.into()));
    }
    let args: Args = args::parse(DAEMON, words)?;
    if args.version {
        return Err(Early::Help(format!("{DAEMON} {}\n", env!("CARGO_PKG_VERSION"))));
    }
    args.command.ok_or_else(|| Early::Help(EXAMPLES.into()))
}
