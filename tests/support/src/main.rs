//! `misbehaving-server`: the test support's MCP server as a process, over HTTP or stdio.

use std::{error::Error, path::PathBuf, process::ExitCode};

use argh::FromArgs;
use support::{Answers, Flavour, Server, StdioOptions, be_left_behind, serve_stdio};

/// An MCP server that misbehaves on command.
#[derive(FromArgs)]
struct Arguments {
    /// loopback port to listen on; 0 is any, and the default
    #[argh(option, default = "0")]
    port: u16,
    /// unix socket to listen on instead
    #[argh(option)]
    unix: Option<PathBuf>,
    /// which server to imitate; python-2 by default
    #[argh(option, default = "Flavour::Python2")]
    flavour: Flavour,
    /// answer in JSON bodies instead of the flavour's framing
    #[argh(switch)]
    json: bool,
    /// file that gets one line, the tool's name, per executed call
    #[argh(option)]
    log: Option<PathBuf>,
    /// serve stdin and stdout instead of HTTP
    #[argh(switch)]
    stdio: bool,
    /// stdio: exit with 1 right after so many answered calls
    #[argh(option)]
    crash_after: Option<u64>,
    /// stdio: exit with 1 when this tool is called, before its effect
    #[argh(option)]
    crash_on: Option<String>,
    /// stdio: start a sleeping grandchild in a session of its own; needs --pid-file
    #[argh(switch)]
    spawn_child: bool,
    /// where the grandchild writes its process id
    #[argh(option)]
    pid_file: Option<PathBuf>,
    /// stdio: survive SIGTERM and the end of stdin
    #[argh(switch)]
    ignore_term: bool,
    /// stdio: read and never answer
    #[argh(switch)]
    hang: bool,
    /// be the grandchild
    #[argh(switch)]
    be_left_behind: bool,
}

fn main() -> ExitCode {
    match run(argh::from_env()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("misbehaving-server: {error}");
            ExitCode::FAILURE
        }
    }
}

#[tokio::main(flavor = "current_thread")]
async fn run(arguments: Arguments) -> Result<(), Box<dyn Error>> {
    if arguments.be_left_behind {
        let pid_file = arguments.pid_file.ok_or("--be-left-behind needs --pid-file")?;
        return Ok(be_left_behind(&pid_file).await?);
    }
    if arguments.stdio {
        if arguments.spawn_child && arguments.pid_file.is_none() {
            return Err("--spawn-child needs --pid-file".into());
        }
        let options = StdioOptions {
            crash_after: arguments.crash_after,
            crash_on: arguments.crash_on,
            hang: arguments.hang,
            ignore_term: arguments.ignore_term,
            log: arguments.log,
            leave_behind: arguments.pid_file.filter(|_| arguments.spawn_child),
        };
        return Ok(serve_stdio(options).await?);
    }
    let mut builder = Server::builder(arguments.flavour).port(arguments.port);
    if let Some(path) = arguments.unix {
        builder = builder.unix(path);
    }
    if arguments.json {
        builder = builder.set(|switches| switches.answers = Answers::Json);
    }
    if let Some(log) = arguments.log {
        builder = builder.log(&log)?;
    }
    let server = builder.start().await?;
    match server.port() {
        0 => println!("listening {}", server.url()),
        port => println!("listening {port}"),
    }
    std::future::pending().await
}
