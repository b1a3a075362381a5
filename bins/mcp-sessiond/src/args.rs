//! The command line.

use std::ffi::OsString;
use std::path::PathBuf;

use argh::FromArgs;
use mcp_daemon::addr::{Listen, Upstream};
use mcp_daemon::args::{self, Early};
use mcp_daemon::config::Span;

/// What to type, for somebody who typed nothing.
const EXAMPLES: &str = "\
mcp-sessiond keeps MCP sessions alive across restarts of the server.

  mcp-sessiond --listen 127.0.0.1:9121 --upstream http://127.0.0.1:8080/mcp   in front of an HTTP server
  mcp-sessiond --listen 127.0.0.1:9121 -- serena start-mcp-server             in front of a stdio server, one process per session
  mcp-sessiond stdio --upstream https://host/mcp --token-file f               as the command that a client launches
  mcp-sessiond serena                                                         serve Serena for the project in this directory

  mcp-sessiond doctor --upstream http://127.0.0.1:8080/mcp                    what does this server do to stale sessions, and is it healed?
  mcp-sessiond check --config mcp-sessiond.toml                               are these settings right?
  mcp-sessiond status, mcp-sessiond sessions                                  what is the running daemon doing?

All flags: mcp-sessiond --help
";

/// Keeps a client's MCP session whole, whatever happens to the server: restarts, sleep, redeploys.
#[derive(FromArgs, Debug)]
#[argh(
    example = "mcp-sessiond --listen 127.0.0.1:9121 --upstream http://127.0.0.1:8080/mcp",
    example = "mcp-sessiond --listen 127.0.0.1:9121 -- serena start-mcp-server",
    note = "Addresses: 127.0.0.1:9121, unix:/run/x.sock, fd:name (an inherited socket). Everything after `--` is a stdio server to launch, one process per session. More settings: --config FILE, see docs/operations.md."
)]
pub struct Args {
    /// print the version
    #[argh(switch)]
    pub version: bool,
    #[argh(subcommand)]
    /// what to do instead of serving
    pub command: Option<Command>,
    /// address to serve MCP on; may be given several times
    #[argh(option, arg_name = "address")]
    pub listen: Vec<Listen>,
    /// MCP server: http://host/mcp, https://host/mcp or unix:/run/x.sock
    #[argh(option, arg_name = "url")]
    pub upstream: Option<Upstream>,
    /// settings, a TOML file
    #[argh(option, arg_name = "file")]
    pub config: Option<PathBuf>,
    /// where sessions are kept (default: $STATE_DIRECTORY, else ~/.local/state/mcp-sessiond)
    #[argh(option, arg_name = "dir")]
    pub state_dir: Option<PathBuf>,
    /// address for GET /ready and GET /metrics alone
    #[argh(option, arg_name = "address")]
    pub observe: Option<Listen>,
    /// file with a bearer token for the upstream
    #[argh(option, arg_name = "file")]
    pub token_file: Option<PathBuf>,
    /// header for every upstream request, "Name: value"; may be given several times
    #[argh(option, arg_name = "header")]
    pub header: Vec<String>,
    /// file descriptor to write a newline to once ready
    #[argh(option, arg_name = "fd")]
    pub ready_fd: Option<i32>,
}

/// What to do instead of serving.
#[derive(FromArgs, Debug)]
#[argh(subcommand)]
pub enum Command {
    Check(Check),
    Doctor(Doctor),
    Serena(Serena),
    Sessions(Sessions),
    Status(Status),
    Stdio(Stdio),
}

/// Say whether settings are right, without starting anything: a file, flags and a command after `--` as for serving.
#[derive(FromArgs, Debug)]
#[argh(subcommand, name = "check")]
pub struct Check {
    /// address to serve MCP on; may be given several times
    #[argh(option, arg_name = "address")]
    pub listen: Vec<Listen>,
    /// MCP server: http://host/mcp, https://host/mcp or unix:/run/x.sock
    #[argh(option, arg_name = "url")]
    pub upstream: Option<Upstream>,
    /// settings, a TOML file
    #[argh(option, arg_name = "file")]
    pub config: Option<PathBuf>,
    /// where sessions are kept
    #[argh(option, arg_name = "dir")]
    pub state_dir: Option<PathBuf>,
    /// address for GET /ready and GET /metrics alone
    #[argh(option, arg_name = "address")]
    pub observe: Option<Listen>,
    /// file with a bearer token for the upstream
    #[argh(option, arg_name = "file")]
    pub token_file: Option<PathBuf>,
    /// header for every upstream request, "Name: value"; may be given several times
    #[argh(option, arg_name = "header")]
    pub header: Vec<String>,
    /// read none of the files that the settings name: secrets are not where settings are made
    #[argh(switch)]
    pub without_files: bool,
}

/// Play a stale client against a server, through sessiond, and say what it does and whether that is healed.
#[derive(FromArgs, Debug)]
#[argh(subcommand, name = "doctor")]
pub struct Doctor {
    /// MCP server to examine; or a command after `--`
    #[argh(option, arg_name = "url")]
    pub upstream: Option<Upstream>,
    /// file with a bearer token for it
    #[argh(option, arg_name = "file")]
    pub token_file: Option<PathBuf>,
    /// header for every request, "Name: value"
    #[argh(option, arg_name = "header")]
    pub header: Vec<String>,
}

/// Serve Serena for a project: from PATH, else through uvx; one process per session. More of Serena's flags go after `--`.
#[derive(FromArgs, Debug)]
#[argh(subcommand, name = "serena")]
pub struct Serena {
    /// project directory (default: this one)
    #[argh(option, arg_name = "dir")]
    pub project: Option<PathBuf>,
    /// address to serve on (default: 127.0.0.1:9121)
    #[argh(option, arg_name = "address")]
    pub listen: Option<Listen>,
    /// where sessions are kept
    #[argh(option, arg_name = "dir")]
    pub state_dir: Option<PathBuf>,
    /// file descriptor to write a newline to once ready
    #[argh(option, arg_name = "fd")]
    pub ready_fd: Option<i32>,
}

/// List the sessions of the running daemon, or delete one.
#[derive(FromArgs, Debug)]
#[argh(subcommand, name = "sessions")]
pub struct Sessions {
    /// delete the session that begins with these digits
    #[argh(option, arg_name = "session")]
    pub delete: Option<String>,
    /// print JSON
    #[argh(switch)]
    pub json: bool,
    /// control socket (default: that of this user's daemon)
    #[argh(option, arg_name = "socket")]
    pub control: Option<PathBuf>,
}

/// Say what the running daemon is doing.
#[derive(FromArgs, Debug)]
#[argh(subcommand, name = "status")]
pub struct Status {
    /// print JSON
    #[argh(switch)]
    pub json: bool,
    /// control socket (default: that of this user's daemon)
    #[argh(option, arg_name = "socket")]
    pub control: Option<PathBuf>,
}

/// Be the command that a client launches: stdio on this side, the server behind --upstream or after `--` on the other.
#[derive(FromArgs, Debug)]
#[argh(subcommand, name = "stdio")]
pub struct Stdio {
    /// MCP server: http://host/mcp, https://host/mcp or unix:/run/x.sock
    #[argh(option, arg_name = "url")]
    pub upstream: Option<Upstream>,
    /// settings, a TOML file
    #[argh(option, arg_name = "file")]
    pub config: Option<PathBuf>,
    /// file with a bearer token for the upstream
    #[argh(option, arg_name = "file")]
    pub token_file: Option<PathBuf>,
    /// header for every upstream request, "Name: value"; may be given several times
    #[argh(option, arg_name = "header")]
    pub header: Vec<String>,
    /// how long requests may take to finish once the client has closed its end (default: 10s)
    #[argh(option, arg_name = "span")]
    pub grace: Option<Span>,
}

/// Reads our own part of the command line.
pub fn parse(own: &[OsString], has_command: bool) -> Result<Args, Early> {
    if own.len() < 2 && !has_command {
        return Err(Early::Help(EXAMPLES.into()));
    }
    let args: Args = args::parse("mcp-sessiond", own)?;
    if args.version {
        return Err(Early::Help(format!("mcp-sessiond {}\n", env!("CARGO_PKG_VERSION"))));
    }
    // Flags of serving: no subcommand heeds them.
    let first = own.get(1).and_then(|word| word.to_str()).filter(|word| word.starts_with('-'));
    if let (Some(_), Some(flag)) = (&args.command, first) {
        return Err(Early::Usage(format!(
            "`{flag}` must follow the subcommand, not stand before it; see mcp-sessiond --help"
        )));
    }
    Ok(args)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn words(line: &str) -> Vec<OsString> {
        line.split_whitespace().map(Into::into).collect()
    }

    #[test]
    fn an_unknown_flag_and_a_wrong_address_are_one_line() {
        for line in
            ["mcp-sessiond --lisen 127.0.0.1:0", "mcp-sessiond --listen nonsense", "mcp-sessiond frobnicate"]
        {
            match parse(&words(line), false) {
                Err(Early::Usage(text)) => assert!(!text.contains('\n') && text.len() > 20, "{text}"),
                other => panic!("{line}: {other:?}"),
            }
        }
    }

    #[test]
    fn a_flag_before_a_subcommand_is_refused_and_not_dropped() {
        for line in [
            "mcp-sessiond --config x.toml check --upstream http://h/mcp",
            "mcp-sessiond --header a:b doctor",
            "mcp-sessiond --ready-fd 3 status",
        ] {
            match parse(&words(line), false) {
                Err(Early::Usage(text)) => assert!(text.contains(line.split(' ').nth(1).unwrap()), "{text}"),
                other => panic!("{line}: {other:?}"),
            }
        }
        assert!(parse(&words("mcp-sessiond check --config x.toml"), false).is_ok());
        assert!(parse(&words("mcp-sessiond --config x.toml"), true).is_ok());
    }

    #[test]
    fn no_words_get_examples() {
        assert!(
            matches!(parse(&words("mcp-sessiond"), false), Err(Early::Help(text)) if text.contains("--upstream http://127.0.0.1:8080/mcp"))
        );
    }
}
