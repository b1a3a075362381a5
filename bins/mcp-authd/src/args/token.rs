//! The command line of `token` and `explain`.

use std::path::PathBuf;

use argh::FromArgs;
use authd::identity::Subject;
use jsonwebtoken::Algorithm;
use mcp_daemon::addr::{Route, Upstream};
use mcp_daemon::config::Span;

/// Make, list and revoke tokens; a running daemon takes notice of its files by itself.
#[derive(FromArgs, Debug)]
#[argh(subcommand, name = "token")]
pub struct Token {
    #[argh(subcommand)]
    pub command: TokenCommand,
}

/// What to do with tokens.
#[derive(FromArgs, Debug)]
#[argh(subcommand)]
pub enum TokenCommand {
    Jwt(Jwt),
    List(List),
    New(New),
    Revoke(Revoke),
}

/// Make a token, print it once, and keep its hash.
#[derive(FromArgs, Debug)]
#[argh(
    subcommand,
    name = "new",
    example = "mcp-authd token new alice --tokens tokens.toml --expires 90d",
    note = "The file is made if need be; in a directory the token gets a file of its own, NAME.toml."
)]
pub struct New {
    #[argh(positional)]
    /// what it is called, and whom it belongs to
    pub name: Subject,
    #[argh(option, arg_name = "path")]
    /// where tokens are kept: a file or a directory
    pub tokens: Option<PathBuf>,
    #[argh(option, arg_name = "file")]
    /// settings that name it
    pub config: Option<PathBuf>,
    #[argh(option, arg_name = "name")]
    /// where it leads (default: the subject, or t- and 12 digits of its hash where that is no route)
    pub route: Option<Route>,
    #[argh(option, arg_name = "name")]
    /// whom it belongs to (default: its name)
    pub subject: Option<Subject>,
    #[argh(option, arg_name = "word")]
    /// what it is good for (default: everything); may be given several times
    pub scope: Vec<String>,
    #[argh(option, arg_name = "when")]
    /// after how long or when it ends: 30d, 2027-01-31 or 2027-01-31T18:00:00Z (default: never)
    pub expires: Option<String>,
    #[argh(option, arg_name = "text")]
    /// a word for people, kept beside it
    pub note: Option<String>,
}

/// Show all tokens: subject, route, whether they are good, and when they were last used.
#[derive(FromArgs, Debug)]
#[argh(subcommand, name = "list")]
pub struct List {
    #[argh(option, arg_name = "path")]
    /// where tokens are kept: a file or a directory
    pub tokens: Option<PathBuf>,
    #[argh(option, arg_name = "file")]
    /// settings that name it
    pub config: Option<PathBuf>,
    #[argh(option, arg_name = "directory")]
    /// state directory of the daemon, which knows the last use, up to 30 s late
    pub state_dir: Option<PathBuf>,
    #[argh(switch)]
    /// print JSON
    pub json: bool,
}

/// Switch a token off for good.
#[derive(FromArgs, Debug)]
#[argh(subcommand, name = "revoke")]
pub struct Revoke {
    #[argh(positional)]
    /// what `token list` calls it
    pub name: String,
    #[argh(option, arg_name = "path")]
    /// where tokens are kept: a file or a directory
    pub tokens: Option<PathBuf>,
    #[argh(option, arg_name = "file")]
    /// settings that name it
    pub config: Option<PathBuf>,
}

/// Sign a JWT with the secret of an HMAC issuer, and print it.
#[derive(FromArgs, Debug)]
#[argh(
    subcommand,
    name = "jwt",
    example = "mcp-authd token jwt --subject ci --expires 1h --secret-file s --issuer https://ci --audience mcp"
)]
pub struct Jwt {
    #[argh(option, arg_name = "name")]
    /// whom it belongs to: the claim `sub`
    pub subject: Subject,
    #[argh(option, arg_name = "time")]
    /// after how long it ends, such as 1h: the claim `exp`
    pub expires: Span,
    #[argh(option, arg_name = "file")]
    /// the secret of the issuer in the settings, at least 32 bytes
    pub secret_file: PathBuf,
    #[argh(option, arg_name = "text")]
    /// the claim `iss`
    pub issuer: Option<String>,
    #[argh(option, arg_name = "text")]
    /// the claim `aud`; may be given several times
    pub audience: Vec<String>,
    #[argh(option, arg_name = "name")]
    /// the claim `route`, for an issuer with route_claim = "route"
    pub route: Option<Route>,
    #[argh(option, arg_name = "word")]
    /// one of the claim `scope`; may be given several times
    pub scope: Vec<String>,
    #[argh(option, arg_name = "name", default = "Algorithm::HS256")]
    /// HS256 (default), HS384 or HS512
    pub alg: Algorithm,
}

/// Say step by step what a request would be and where it would go, or why it is refused.
#[derive(FromArgs, Debug)]
#[argh(
    subcommand,
    name = "explain",
    example = "mcp-authd explain --config mcp-authd.toml --token-file t --method tools/call --name read_file"
)]
pub struct Explain {
    #[argh(option, arg_name = "file")]
    /// file with the token, that others cannot read
    pub token_file: Option<PathBuf>,
    #[argh(option, arg_name = "file")]
    /// settings, a TOML file
    pub config: Option<PathBuf>,
    #[argh(option, arg_name = "path")]
    /// static tokens: a TOML or JSON file, or a directory with one file per subject
    pub tokens: Option<PathBuf>,
    #[argh(option, arg_name = "url")]
    /// where routes lead
    pub upstream: Option<Upstream>,
    #[argh(option, arg_name = "path")]
    /// path of the request (default: where MCP is served)
    pub path: Option<String>,
    #[argh(option, arg_name = "method")]
    /// method of the message, such as tools/call
    pub method: Option<String>,
    #[argh(option, arg_name = "name")]
    /// the tool, prompt or resource of the message
    pub name: Option<String>,
}
