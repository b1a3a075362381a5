//! The command line.

mod token;

use std::ffi::OsString;
use std::path::PathBuf;

use argh::FromArgs;
use authd::config::route::Upstreams;
use authd::config::{Config, DAEMON};
use mcp_daemon::addr::{Listen, Upstream};
use mcp_daemon::args::{self, Early};

pub use self::token::{Explain, Jwt, List, New, Revoke, Token, TokenCommand};

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
    Audit(Audit),
    Check(Check),
    Explain(Explain),
    Serve(Serve),
    Status(Status),
    Token(Token),
}

/// Show who did what: the audit's file, or a journal on standard input.
#[derive(FromArgs, Debug)]
#[argh(
    subcommand,
    name = "audit",
    example = "mcp-authd audit --file audit.jsonl --follow --subject alice",
    example = "journalctl -u mcp-authd -o cat | mcp-authd audit --file -"
)]
pub struct Audit {
    #[argh(option, arg_name = "file")]
    /// the audit's file; - is standard input
    pub file: Option<PathBuf>,
    #[argh(option, arg_name = "file")]
    /// settings that name it
    pub config: Option<PathBuf>,
    #[argh(switch)]
    /// go on with what is added
    pub follow: bool,
    #[argh(option, arg_name = "name")]
    /// only what this subject did
    pub subject: Option<String>,
    #[argh(option, arg_name = "name")]
    /// only what went to this route
    pub route: Option<String>,
    #[argh(switch)]
    /// only what was refused or failed
    pub refused: bool,
    #[argh(switch)]
    /// print the lines as they are, JSON
    pub json: bool,
}

/// Say whether settings and everything they name are right, without starting anything.
#[derive(Clone, FromArgs, Debug)]
#[argh(subcommand, name = "check")]
pub struct Check {
    #[argh(option, arg_name = "file")]
    /// settings, a TOML file
    pub config: Option<PathBuf>,
    #[argh(option, arg_name = "address")]
    /// address to serve MCP on; may be given several times
    pub listen: Vec<Listen>,
    #[argh(option, arg_name = "url")]
    /// where routes lead
    pub upstream: Option<Upstream>,
    #[argh(option, arg_name = "path")]
    /// static tokens: a TOML or JSON file, or a directory with one file per subject
    pub tokens: Option<PathBuf>,
    #[argh(switch)]
    /// read none of the files that the settings name: secrets are not where settings are made
    pub without_files: bool,
}

/// Say what the running daemon is doing.
#[derive(FromArgs, Debug)]
#[argh(subcommand, name = "status")]
pub struct Status {
    #[argh(switch)]
    /// print JSON
    pub json: bool,
    #[argh(option, arg_name = "socket")]
    /// control socket (default: that of this user's daemon)
    pub control: Option<PathBuf>,
}

/// Serve: let in who has a good credential, and send them where they belong.
#[derive(Clone, FromArgs, Debug)]
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
    #[argh(option, arg_name = "directory")]
    /// state directory (default: $STATE_DIRECTORY, else ~/.local/state/mcp-authd)
    pub state_dir: Option<PathBuf>,
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

/// Where the Cloudflare wrapper's users have the generation of their instances.
const GENERATION: &str = "MCP_CONTAINER_ROUTE_GENERATION";

/// The flags that stand for settings, over and above the file.
#[derive(Clone, Debug, Default)]
pub struct Flags {
    listen: Vec<Listen>,
    upstream: Option<Upstream>,
    tokens: Option<PathBuf>,
    observe: Option<Listen>,
    state_dir: Option<PathBuf>,
}

impl Flags {
    /// Puts them over settings, at the start and at every reload.
    pub fn over(&self, mut config: Config) -> Config {
        if !self.listen.is_empty() {
            config.listen.clone_from(&self.listen);
        }
        if let Some(upstream) = &self.upstream {
            config.upstream = Upstreams::one(upstream.clone());
        }
        config.tokens = self.tokens.clone().or(config.tokens);
        config.observe = self.observe.clone().or(config.observe);
        config.generation = config.generation.or_else(|| std::env::var(GENERATION).ok());
        config.state_dir = self.state_dir.clone().or(config.state_dir);
        config
    }
}

impl From<&Serve> for Flags {
    fn from(args: &Serve) -> Self {
        let Serve { listen, upstream, tokens, observe, state_dir, .. } = args.clone();
        Self { listen, upstream, tokens, observe, state_dir }
    }
}

impl From<&Check> for Flags {
    fn from(args: &Check) -> Self {
        let Check { listen, upstream, tokens, .. } = args.clone();
        Self { listen, upstream, tokens, ..Self::default() }
    }
}

impl From<&Explain> for Flags {
    fn from(args: &Explain) -> Self {
        Self { upstream: args.upstream.clone(), tokens: args.tokens.clone(), ..Self::default() }
    }
}
