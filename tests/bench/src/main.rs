//! What `mcp-sessiond`, `mcp-authd`, serena-supervise's copy path or all three in a chain cost beside a bare hyper hop and nginx, measured in one
//! run in front of one echo server.
//! One program with several roles, so that `tests/bench/run` builds one thing: `compare` starts the others.
//! `echo`, `hop`, `copy`, `nginx` and `authd` are the servers, `wire`, `tls` and `load` the client, `compare` the measurements
//! and the bars.

mod authd;
mod compare;
mod copy;
mod echo;
mod hop;
mod load;
mod nginx;
mod process;
mod serve;
mod stats;
mod tls;
mod wire;

use std::io;
use std::process::ExitCode;

use argh::FromArgs;

/// What mcp-sessiond costs beside a bare hyper hop and nginx.
#[derive(FromArgs)]
struct Arguments {
    #[argh(subcommand)]
    role: Role,
}

#[derive(FromArgs)]
#[argh(subcommand)]
enum Role {
    Compare(compare::Options),
    Copy(copy::Options),
    Echo(echo::Options),
    Hop(hop::Options),
}

fn main() -> ExitCode {
    match run(argh::from_env()) {
        Ok(code) => code,
        Err(error) => {
            eprintln!("bench: {error}");
            ExitCode::from(70)
        }
    }
}

fn run(arguments: Arguments) -> io::Result<ExitCode> {
    // One thread in every role: what is compared is work per call, not the number of cores.
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    match arguments.role {
        Role::Compare(options) => runtime.block_on(compare::run(&options)),
        Role::Copy(options) => runtime.block_on(copy::run(&options)).map(|()| ExitCode::SUCCESS),
        Role::Echo(options) => runtime.block_on(echo::run(&options)).map(|()| ExitCode::SUCCESS),
        Role::Hop(options) => runtime.block_on(hop::run(&options)).map(|()| ExitCode::SUCCESS),
    }
}
