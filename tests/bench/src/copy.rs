//! The path of serena-supervise without its processes: its wake listener before a server that is always ready.

use std::io;
use std::net::SocketAddr;
use std::num::NonZeroUsize;
use std::sync::Arc;
use std::time::Duration;

use argh::FromArgs;
use mcp_daemon::addr::Listen;
use mcp_daemon::config::Span;
use mcp_daemon::life::Life;
use mcp_daemon::listener::{BindOptions, Listener};
use supervise::config::Hold;
use supervise::wake::{self, Gate, Lease, Leasing};

use crate::serve::raise_open_files;

/// serena-supervise's wake listener before a server that is always ready
#[derive(FromArgs)]
#[argh(subcommand, name = "copy")]
pub struct Options {
    /// address to listen on
    #[argh(option)]
    listen: SocketAddr,
    /// address of the server behind
    #[argh(option)]
    upstream: SocketAddr,
}

/// Copies between `listen` and the server behind until the process is stopped.
pub async fn run(options: &Options) -> io::Result<()> {
    raise_open_files()?;
    let listener = Listener::bind(&Listen::Tcp(options.listen), BindOptions::default())
        .map_err(io::Error::other)?
        .remove(0);
    let many = NonZeroUsize::new(100_000).ok_or_else(|| io::Error::other("not many"))?;
    let hold = Hold { connections: many, open: many, timeout: Span::seconds(60) };
    wake::serve(listener, Arc::new(Ready(options.upstream)), &hold, Life::new(Duration::ZERO)).await;
    Ok(())
}

struct Ready(SocketAddr);

impl Gate for Ready {
    fn lease(&self) -> Leasing<'_> {
        Box::pin(async { Ok(Lease { target: self.0, guard: Box::new(()) }) })
    }
}
